// Sixteen columns of Lambda or of the mix matrix at one position, made by one warp in shared memory: equations (1)-(6).
//
// A warp's slab holds values[column][example] for a panel of PANEL examples (a multiple of 64), in rows of PANEL + 8 floats:
// rows 8 banks apart, so that neither pairs nor fragments conflict. Lane (g, t) = (lane / 4, lane % 4) owns columns g and g + 8
// and of them the pairs of examples p with p % 4 = t: the elements it holds of a tensor-core fragment (mma.cuh), and one
// partial sum of the column in the contract's order.
//
//     Columns<DRAW, PANEL, MULTI> columns(sampler, j, first, slab, scratch);
//     columns.total();                    // draws; sums and masses of all columns are known
//     columns.normalise(0, true);         // the slab holds the mix matrix
//
// More than PANEL examples (MULTI): `total` draws every panel once for the sums, then `again(begin)` draws a panel anew for
// each use; two draws per element in all where each panel is used once. Sums run over 64 examples at a time as the contract
// says, so PANEL does not change a bit.
//
// Shared memory: 64 (PANEL + 8) bytes a slab, sizeof(DrawScratch) = 3072 bytes a warp.
#pragma once
#include "pairs.cuh"

constexpr u32 RUN = 64; // examples in one run of a column sum

constexpr float LARGE = 1152921504606846976.0f; // 2^60
constexpr float SMALLEST_NORMAL = 1.17549435e-38f;

constexpr u32 FACTOR_PER_COLUMN = 1, ALPHA_IS_ONE = 2; // bits of Sampler::flags

// Part of the parameters of every kernel that draws. A call may be a part of a larger one: it draws what the larger one draws at
// positions from `first_position` and columns from `first_column` on. All else counts from the call's own first.
struct Sampler {
    u64 seed, step;
    const u64 *seed_and_step;            // where not null: seed and step in device memory, in place of the above
    const float *attention;              // (r, b) as `prepare_attention` leaves it; null: none
    const float *scales;                 // (r): `attention` is the caller's times this power of two
    const float *weights;                // explicit weights (r or 1, b, n)
    i64 weights_r, weights_b, weights_n; // their strides
    float alpha_low, alpha_high;         // equal: fixed
    u32 b, r, n;
    u32 first_position, first_column;
    u32 flags;
};
static_assert(sizeof(Sampler) == 104, "mirrored by the host");
static_assert(sizeof(DrawScratch) == 3072, "mirrored by the host");

__device__ __forceinline__ Stream sampler_stream(const Sampler &sampler) {
    const u64 *from = sampler.seed_and_step;
    return from ? make_stream(from[0], from[1]) : make_stream(sampler.seed, sampler.step);
}

// What a column's draws are multiplied by: 1 / sum, or 1 / mass after each was weighed by attention.
struct ColumnScale {
    float inverse;
    bool weighed;
};

template <int DrawKind, int Panel, bool Multi> struct Columns {
    static_assert(Panel % 64 == 0, "a panel is whole runs");
    static constexpr u32 PITCH = Panel + 8;
    static constexpr u32 SLAB_FLOATS = COLUMNS * PITCH;
    static constexpr bool DIRICHLET = DrawKind <= DRAW_MIXED;

    const Sampler &sampler;
    Drawer<DrawKind, PITCH> drawer;
    u32 settled;           // bit for each column settled in log space
    float sum[2], mass[2]; // of columns g and g + 8: of the draws, and of the draws weighed by attention

    __device__ __forceinline__ Columns(const Sampler &sampler, u32 j, u32 first, float *slab, DrawScratch *scratch)
        : sampler(sampler), drawer{sampler_stream(sampler),
                                   j,
                                   first,
                                   sampler.n,
                                   j + sampler.first_position,
                                   first + sampler.first_column,
                                   slab,
                                   scratch,
                                   0,
                                   0,
                                   0},
          settled(0) {
        if constexpr (DIRICHLET) drawer.prepare(sampler.alpha_low, sampler.alpha_high);
        if constexpr (DrawKind == DRAW_EXPLICIT) prepare_explicit();
        if constexpr (DrawKind == DRAW_PAIR)
            prepare_pairs(drawer, sampler.alpha_low, sampler.alpha_high, sampler.b, sampler.flags & FACTOR_PER_COLUMN,
                          sampler.flags & ALPHA_IS_ONE);
    }

    __device__ __forceinline__ u32 panels() const { return Multi ? ceil_div(sampler.b, u32(Panel)) : 1; }

    __device__ __forceinline__ u32 examples_from(u32 begin) const { return min(sampler.b - begin, u32(Panel)); }

    // Draws all examples of the columns: afterwards sum, mass and the settled columns are known, and the slab holds the draws
    // of the last panel. A column that underflows makes a second round necessary.
    __device__ __forceinline__ void total() {
#pragma unroll 1
        for (u32 round = 0; round < 2; ++round) {
            sum[0] = sum[1] = mass[0] = mass[1] = 0.0f;
#pragma unroll 1
            for (u32 panel = 0; panel < panels(); ++panel) {
                fill(panel * Panel, Multi || round == 0);
                add_sums(panel * Panel);
            }
            if (!DIRICHLET || round == 1 || !settle()) break;
        }
    }

    // Draws a panel once more, where one pass could not keep it.
    __device__ __forceinline__ void again(u32 begin) { fill(begin, true); }

    // s_k on the scale of the caller's attention, zero without mass; 1 where no attention is given.
    __device__ __forceinline__ float column_mass(u32 half) const {
        if (!sampler.attention) return 1.0f;
        if (!has_mass(half)) return 0.0f;
        const float prepared = fmaxf(__fdiv_rn(mass[half], sum[half]), SMALLEST_NORMAL);
        return __fdiv_rn(prepared, __ldg(sampler.scales + drawer.j));
    }

    __device__ __forceinline__ bool has_mass(u32 half) const { return mass[half] >= MASSLESS_BELOW && sum[half] > 0.0f; }

    // The scale that makes Lambda, or the mix matrix, of this lane's columns. Columns of zeros stay zero.
    __device__ __forceinline__ ColumnScale scale(u32 half, bool matrix) const {
        const bool weighed = matrix && sampler.attention && has_mass(half);
        const float total = weighed ? mass[half] : sum[half];
        return {total > 0.0f ? __fdiv_rn(1.0f, total) : 0.0f, weighed};
    }

    // Attention of an example at this position, or 0 past the last.
    __device__ __forceinline__ float attention(u32 i) const {
        return i < sampler.b ? __ldg(sampler.attention + u64(drawer.j) * sampler.b + i) : 0.0f;
    }

    // Turns the panel's draws into Lambda or the mix matrix, in place. Only after `total`.
    __device__ __forceinline__ void normalise(u32 begin, bool matrix) {
        if (matrix && sampler.attention)
            multiply<true>(begin, matrix);
        else
            multiply<false>(begin, matrix);
        __syncwarp();
    }

    template <bool Weighs> __device__ __forceinline__ void multiply(u32 begin, bool matrix) {
        const ColumnScale scales[2] = {scale(0, matrix), scale(1, matrix)};
        const u32 end = examples_from(begin);
#pragma unroll 2
        for (u32 i = 2 * (lane_id() % 4); i < end; i += 8) {
            const float2 a = Weighs ? attention_pair(begin + i) : make_float2(1.0f, 1.0f);
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                float2 g = *drawer.pair_at(half, i);
                if (Weighs && scales[half].weighed) g = make_float2(__fmul_rn(a.x, g.x), __fmul_rn(a.y, g.y));
                *drawer.pair_at(half, i) =
                    make_float2(__fmul_rn(g.x, scales[half].inverse), __fmul_rn(g.y, scales[half].inverse));
            }
        }
    }

    // Attention of examples i < b and i + 1; 0 past the last.
    __device__ __forceinline__ float2 attention_pair(u32 i) const {
        const float *row = sampler.attention + u64(drawer.j) * sampler.b + i;
        return make_float2(__ldg(row), i + 1 < sampler.b ? __ldg(row + 1) : 0.0f);
    }

    // Puts the panel's raw columns into the slab; zeros past the last example. `drawn`: not only the settled ones.
    __device__ __forceinline__ void fill(u32 begin, bool drawn) {
        __syncwarp();
        const u32 examples = examples_from(begin);
        if (drawer.first >= sampler.n) {
            clear_from(0);
        } else if (drawn) {
            clear_from(ceil_div(examples, 8u) * 8);
            if constexpr (DrawKind == DRAW_PAIR)
                fill_pairs(drawer, sampler.b, begin, examples);
            else if constexpr (DrawKind == DRAW_EXPLICIT)
                fill_explicit(begin, examples);
            else
                drawer.draw(begin, examples);
        }
        if constexpr (DIRICHLET)
            for (u32 column = 0; column < COLUMNS; ++column)
                if (settled >> column & 1) drawer.draw_settled(column, begin, examples);
        __syncwarp();
    }

    __device__ __forceinline__ void clear_from(u32 begin) const {
        for (u32 column = 0; column < COLUMNS; ++column)
            for (u32 i = begin + lane_id(); i < Panel; i += 32) drawer.slab[column * PITCH + i] = 0.0f;
    }

    // An explicit weight of a column of the slab, zero past the last example or column.
    __device__ __forceinline__ float explicit_weight(u32 column, u32 i) const {
        const u32 k = drawer.first + column;
        if (i >= sampler.b || k >= sampler.n) return 0.0f;
        return __ldg(sampler.weights + i64(drawer.j) * sampler.weights_r + i64(i) * sampler.weights_b +
                     i64(k) * sampler.weights_n);
    }

    // Columns whose largest weight is so large or so small that their sums or the reciprocals might not be finite are read
    // times a power of two, which the columns of Lambda do not see.
    __device__ __forceinline__ void prepare_explicit() {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 column = lane_id() % 8 + 8 * half;
            float largest = 0.0f;
            for (u32 i = lane_id() / 8; i < sampler.b; i += 4) largest = fmaxf(largest, explicit_weight(column, i));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 8));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 16));
            const bool moderate = largest == 0.0f || (largest >= 1.0f / LARGE && largest <= LARGE);
            if (lane_id() < 8) drawer.scratch->largest[column] = moderate ? 1.0f : power_to_one(largest);
        }
        __syncwarp();
    }

    // Eight columns by four examples at a time: whole sectors where the columns are contiguous.
    __device__ __forceinline__ void fill_explicit(u32 begin, u32 examples) const {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 column = lane_id() % 8 + 8 * half;
            const float factor = drawer.scratch->largest[column];
            for (u32 i = lane_id() / 8; i < ceil_div(examples, 8u) * 8; i += 4)
                drawer.slab[column * PITCH + i] = __fmul_rn(explicit_weight(column, begin + i), factor);
        }
    }

    // Adds the panel to the sums: runs of 64 examples, four partial sums each, one a lane.
    __device__ __forceinline__ void add_sums(u32 begin) {
        const u32 examples = examples_from(begin);
#pragma unroll 1
        for (u32 run = 0; run < examples; run += RUN) {
            const u32 end = min(run + RUN, examples);
            if (sampler.attention)
                add_run<true>(begin, run, end);
            else
                add_run<false>(begin, run, end);
        }
    }

    template <bool Weighs> __device__ __forceinline__ void add_run(u32 begin, u32 run, u32 end) {
        float parts[2] = {0.0f, 0.0f}, weighed[2] = {0.0f, 0.0f};
#pragma unroll 2
        for (u32 i = run + 2 * (lane_id() % 4); i < end; i += 8) {
            const float2 a = Weighs ? attention_pair(begin + i) : make_float2(0.0f, 0.0f);
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float2 g = *drawer.pair_at(half, i);
                parts[half] = __fadd_rn(__fadd_rn(parts[half], g.x), g.y);
                if (Weighs) weighed[half] = __fadd_rn(__fadd_rn(weighed[half], __fmul_rn(a.x, g.x)), __fmul_rn(a.y, g.y));
            }
        }
        __syncwarp();
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            sum[half] = __fadd_rn(sum[half], quad_sum(parts[half]));
            if (Weighs) mass[half] = __fadd_rn(mass[half], quad_sum(weighed[half]));
        }
    }

    // Finds the columns whose draws underflow and the largest draw of each. Whether there are any.
    __device__ __forceinline__ bool settle() {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const bool low = drawer.first + drawer.row(half) < sampler.n && sum[half] < SETTLE_BELOW;
            const u32 ballot = __ballot_sync(ALL_LANES, low);
            for (u32 g = 0; g < 8; ++g) settled |= (ballot >> 4 * g & 1) << (g + 8 * half);
        }
        for (u32 column = 0; column < COLUMNS; ++column) {
            if (!(settled >> column & 1)) continue;
            const float largest = drawer.largest_log2(column, sampler.b);
            if (lane_id() == 0) drawer.scratch->largest[column] = largest;
        }
        __syncwarp();
        return settled != 0;
    }
};
