// The gradient of mixed features and targets with respect to attention.
//
//   dM_ik = Z_i . dZ~_k + Y_i . dY~_k        m_k = sum_i M_ik dM_ik        da_i = sum_k (Lambda_ik / s_k) (dM_ik - m_k)
//
// at each position, with the mix matrix M and Lambda / s drawn again on chip; a column without mass gives nothing.
// Z (b, r, d), dZ~ (n, r, d) of ELEMENT; Y labels or soft rows (b, c) in f32, dY~ (n, r, c) in f32.
//
// kernel `mix_backward_attention`   partial sums of da (splits * WARPS, r, b), for attention as `prepare_attention` scaled it
// grid                    x = r * splits, position slowest. A block takes tiles of 16 WARPS columns split, split + splits, ...;
//                         splits <= ceil(n / (16 WARPS))
// block                   32 WARPS; a warp owns 16 columns
// shared                  slabs, then in one place stages, dM of SPAN examples and (with MULTI before them) scratch
// kernel `mix_backward_attention_sum`   da (b, r): the slices of `partial` in order, on the scale of the caller's attention, zero
//                         for examples whose map was replaced        grid x = ceil(b r / 256)        block 256
// defines                 -DELEMENT=  -DMATH=  -DDRAW=  -DPANEL= 64 or a multiple of 128  -DMULTI=  -DWARPS=
//
// dM of SPAN examples is summed over channels in registers and parked in shared memory, where lanes find it as they do the slab's
// pairs. With more than SPAN examples m_k needs all of them first: dM is computed twice.
// Deterministic: a lane adds its columns in order, lanes add by a butterfly, slices add in order.
#include "columns.cuh"
#include "stage.cuh"

struct MixAttentionParams {
    Sampler sampler;
    Matrix<const ELEMENT> features;      // (b, r, d); channels 0: no features
    Matrix<const ELEMENT> d_mixed;       // (n, r, d)
    Labels labels;                       // (b), or none
    Matrix<const float> soft;            // (b, c), where there are no labels
    Matrix<const float> d_mixed_targets; // (n, r, c); channels 0: no targets
    float *partial;                      // (splits * WARPS, r, b)
    u32 splits, padding;
};
static_assert(sizeof(MixAttentionParams) == 304, "mirrored by the host");

constexpr u32 THREADS = 32 * WARPS;
constexpr u32 SPAN = PANEL >= 128 ? 128 : 64;       // examples at a time
constexpr u32 TILES = SPAN / 8;                     // of 8 examples
constexpr u32 DEPTH = is_16_bit<ELEMENT> ? 32 : 16; // channels staged at a time
constexpr u32 PITCH = DEPTH + (is_16_bit<ELEMENT> ? 8 : MATH == EXACT ? 4 : 8);
constexpr u32 A_ELEMENTS = 16 * WARPS * PITCH, STAGE_ELEMENTS = A_ELEMENTS + SPAN * PITCH;
constexpr u32 SUM_PITCH = SPAN + 8;

using MixColumns = Columns<DRAW, PANEL, MULTI>;
constexpr u32 SLABS_BYTES = WARPS * MixColumns::SLAB_FLOATS * 4;
constexpr u32 SCRATCH_BYTES = WARPS * sizeof(DrawScratch);
constexpr u32 WORK_BYTES = larger_of(2 * STAGE_ELEMENTS * u32(sizeof(ELEMENT)), WARPS * 16 * SUM_PITCH * 4);
static_assert(SHARED_BYTES == SLABS_BYTES + (MULTI ? SCRATCH_BYTES + WORK_BYTES : larger_of(WORK_BYTES, SCRATCH_BYTES)),
              "counted by the host");
static_assert(PANEL % SPAN == 0, "a panel is whole spans");

struct Block {
    const MixAttentionParams &p;
    ELEMENT *stages;
    float *slab;
    DrawScratch *scratch;
    float *products; // dM of the warp's columns, 16 x SPAN
};

__device__ __forceinline__ Block make_block(const MixAttentionParams &p) {
    extern __shared__ __align__(16) unsigned char shared[];
    const u32 warp = threadIdx.x / 32;
    unsigned char *rest = shared + SLABS_BYTES;
    auto *scratch = reinterpret_cast<DrawScratch *>(rest) + warp;
    if (MULTI) rest += SCRATCH_BYTES;
    return {p, reinterpret_cast<ELEMENT *>(rest), reinterpret_cast<float *>(shared) + warp * MixColumns::SLAB_FLOATS, scratch,
            reinterpret_cast<float *>(rest) + warp * 16 * SUM_PITCH};
}

// Exact: lane (y, x) = (lane / 8, lane % 8) sums columns y + 4 m and examples x + 8 e: c[e][m].
__device__ __forceinline__ void multiply_exact_rows(float (&c)[TILES][4], const float *a, const float *z) {
#pragma unroll 1
    for (u32 at = 0; at < DEPTH; at += 4) {
        float4 d[4];
#pragma unroll
        for (u32 m = 0; m < 4; ++m) d[m] = *reinterpret_cast<const float4 *>(a + (lane_id() / 8 + 4 * m) * PITCH + at);
#pragma unroll
        for (u32 e = 0; e < TILES; ++e) {
            const float4 x = *reinterpret_cast<const float4 *>(z + (lane_id() % 8 + 8 * e) * PITCH + at);
#pragma unroll
            for (u32 m = 0; m < 4; ++m) {
                c[e][m] = __fmaf_rn(d[m].x, x.x, c[e][m]);
                c[e][m] = __fmaf_rn(d[m].y, x.y, c[e][m]);
                c[e][m] = __fmaf_rn(d[m].z, x.z, c[e][m]);
                c[e][m] = __fmaf_rn(d[m].w, x.w, c[e][m]);
            }
        }
    }
}

// Sixteen columns by SPAN examples, DEPTH channels deep: rows of dZ~ times rows of Z.
template <class T> __device__ __forceinline__ void multiply(float (&c)[TILES][4], const T *a, const T *z) {
    const T *own = a + threadIdx.x / 32 * 16 * PITCH;
    if constexpr (MATH == EXACT) {
        multiply_exact_rows(c, own, z);
    } else if constexpr (is_16_bit<T>) {
#pragma unroll
        for (u32 at = 0; at < DEPTH; at += 16) {
            u32 fragment[4];
            load_matrices(fragment, own + lane_id() % 16 * PITCH + lane_id() / 16 * 8 + at);
#pragma unroll
            for (u32 pair = 0; pair < TILES / 2; ++pair) {
                // Examples 0-7 and 8-15 of the pair, channels 0-7 and 8-15 each.
                u32 b[4];
                load_matrices(b, z + (16 * pair + lane_id() % 8 + lane_id() / 16 * 8) * PITCH + lane_id() / 8 % 2 * 8 + at);
                Mma16<T>::run(c[2 * pair], fragment, b[0], b[1]);
                Mma16<T>::run(c[2 * pair + 1], fragment, b[2], b[3]);
            }
        }
    } else {
#pragma unroll
        for (u32 at = 0; at < DEPTH; at += 8) {
            u32 fragment[4];
            load_fragment<T, PITCH>(fragment, own + at);
#pragma unroll
            for (u32 tile = 0; tile < TILES; ++tile) {
                const float2 b =
                    *reinterpret_cast<const float2 *>(z + (8 * tile + lane_id() / 4) * PITCH + lane_id() % 4 * 2 + at);
                mma_tf32(c[tile], fragment, to_tf32(b.x), to_tf32(b.y));
            }
        }
    }
}

// Stages columns from `first` on of one matrix and examples from `begin` on of the other, DEPTH channels of each.
template <class D, class Z>
__device__ __forceinline__ void stage_both(const Block &block, u32 turn, const Matrix<const D> &d, const Matrix<const Z> &z,
                                           u32 j, u32 first, u32 begin, u32 channel) {
    ELEMENT *to = block.stages + turn % 2 * STAGE_ELEMENTS;
    stage_any<THREADS, 16 * WARPS, DEPTH, PITCH>(to, d, j, first, block.p.sampler.n, channel);
    stage_any<THREADS, SPAN, DEPTH, PITCH>(to + A_ELEMENTS, z, j, begin, block.p.sampler.b, channel);
}

// Adds columns from `first` on times examples from `begin` on: rows of dZ~ and Z over all channels, then of dY~ and soft rows
// over all classes.
__device__ __forceinline__ void add_tiles(float (&c)[TILES][4], const Block &block, u32 j, u32 first, u32 begin) {
    const MixAttentionParams &p = block.p;
    const u32 features = ceil_div(p.d_mixed.channels, DEPTH);
    const u32 turns = features + (p.labels.data ? 0 : ceil_div(p.d_mixed_targets.channels, DEPTH));
    // The copies of a turn fly while the one before is multiplied.
#pragma unroll 1
    for (u32 turn = 0; turn <= turns; ++turn) {
        copies_arrived<0>();
        __syncthreads();
        if (turn < features)
            stage_both(block, turn, p.d_mixed, p.features, j, first, begin, turn * DEPTH);
        else if (turn < turns)
            stage_both(block, turn, p.d_mixed_targets, p.soft, j, first, begin, (turn - features) * DEPTH);
        commit_copies();
        if (turn == 0) continue;
        const ELEMENT *current = block.stages + (turn - 1) % 2 * STAGE_ELEMENTS;
        multiply(c, current, current + A_ELEMENTS);
    }
    __syncthreads();
}

// Sums to where dM is parked, [column][example].
__device__ __forceinline__ void park_products(const float (&c)[TILES][4], float *products) {
    if constexpr (MATH == EXACT) {
        float *own = products + lane_id() / 8 * SUM_PITCH + lane_id() % 8;
#pragma unroll
        for (u32 e = 0; e < TILES; ++e)
#pragma unroll
            for (u32 m = 0; m < 4; ++m) own[4 * m * SUM_PITCH + 8 * e] = c[e][m];
    } else {
        float *own = products + lane_id() / 4 * SUM_PITCH + 2 * (lane_id() % 4);
#pragma unroll
        for (u32 e = 0; e < TILES; ++e) {
            *reinterpret_cast<float2 *>(own + 8 * e) = make_float2(c[e][0], c[e][1]);
            *reinterpret_cast<float2 *>(own + 8 * SUM_PITCH + 8 * e) = make_float2(c[e][2], c[e][3]);
        }
    }
    __syncwarp();
}

// What a lane works on: examples i and i + 1 of the batch, dM of them and the draws, for columns g and g + 8.
struct Pairs {
    u32 i;
    float2 g[2], d[2];
};

__device__ __forceinline__ Pairs load_pairs(const Block &block, const MixColumns &columns, u32 begin, u32 inside, u32 e) {
    const u32 at = 8 * e + 2 * (lane_id() % 4);
    Pairs pairs = {begin + at};
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        pairs.g[half] = *columns.drawer.pair_at(half, inside + at);
        pairs.d[half] = *reinterpret_cast<const float2 *>(block.products + columns.drawer.row(half) * SUM_PITCH + at);
    }
    return pairs;
}

// dY~ of the label of example i, for column k.
__device__ __forceinline__ float label_gradient(const MixAttentionParams &p, u32 j, u32 k, u32 i) {
    const Matrix<const float> &d = p.d_mixed_targets;
    if (i >= p.sampler.b || k >= p.sampler.n) return 0.0f;
    const u32 label = p.labels.at(i);
    return label < d.channels ? __ldg(d.at(k, j, label)) : 0.0f;
}

// Makes dM of SPAN examples from `begin` on.
__device__ __forceinline__ void make_products(const Block &block, const MixColumns &columns, u32 begin) {
    const MixAttentionParams &p = block.p;
    const u32 first = columns.drawer.first - threadIdx.x / 32 * COLUMNS, j = columns.drawer.j;
    float c[TILES][4] = {};
    add_tiles(c, block, j, first, begin);
    park_products(c, block.products);
    if (p.labels.data) {
        for (u32 column = 0; column < COLUMNS; ++column)
            for (u32 at = lane_id(); at < SPAN; at += 32)
                block.products[column * SUM_PITCH + at] += label_gradient(p, j, columns.drawer.first + column, begin + at);
        __syncwarp();
    }
}

// Adds the span's part of m_k for this lane's two columns.
__device__ __forceinline__ void add_means(float (&mean)[2], const Block &block, const MixColumns &columns,
                                          const float (&ratio)[2], u32 begin, u32 inside) {
    float sum[2] = {0.0f, 0.0f};
#pragma unroll 1
    for (u32 e = 0; e < TILES; ++e) {
        const Pairs pairs = load_pairs(block, columns, begin, inside, e);
        const float a0 = columns.attention(pairs.i), a1 = columns.attention(pairs.i + 1);
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            sum[half] = __fmaf_rn(a0 * pairs.g[half].x * ratio[half], pairs.d[half].x, sum[half]);
            sum[half] = __fmaf_rn(a1 * pairs.g[half].y * ratio[half], pairs.d[half].y, sum[half]);
        }
    }
    mean[0] += quad_sum(sum[0]);
    mean[1] += quad_sum(sum[1]);
}

// Adds the span's part of da of these columns. Lane t < 4 keeps the sums of the pairs that lanes t of all quads hold.
__device__ __forceinline__ void add_gradient(const Block &block, const MixColumns &columns, const float (&ratio)[2],
                                             const float (&mean)[2], u32 begin, u32 inside, bool begins) {
    const u32 b = block.p.sampler.b, slice = blockIdx.x % block.p.splits * WARPS + threadIdx.x / 32;
    float *partial = block.p.partial + (u64(slice) * block.p.sampler.r + columns.drawer.j) * b;
#pragma unroll 1
    for (u32 e = 0; e < TILES; ++e) {
        const Pairs pairs = load_pairs(block, columns, begin, inside, e);
        float sums[2] = {0.0f, 0.0f};
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float down = ratio[half] * DOWN;
            sums[0] = __fmaf_rn(pairs.g[half].x * down, pairs.d[half].x - mean[half], sums[0]);
            sums[1] = __fmaf_rn(pairs.g[half].y * down, pairs.d[half].y - mean[half], sums[1]);
        }
#pragma unroll
        for (u32 x = 0; x < 2; ++x) {
#pragma unroll
            for (u32 distance = 4; distance < 32; distance <<= 1) sums[x] += __shfl_xor_sync(ALL_LANES, sums[x], distance);
            float *at = partial + pairs.i + x;
            if (lane_id() < 4 && pairs.i + x < b) *at = begins ? sums[x] : *at + sums[x];
        }
    }
}

// One tile of columns: draws it and adds its part of da.
__device__ __forceinline__ void add_tile(const Block &block, u32 j, u32 first, bool begins) {
    const u32 b = block.p.sampler.b, passes = b > SPAN ? 2 : 1;
    MixColumns columns(block.p.sampler, j, first + threadIdx.x / 32 * COLUMNS, block.slab, block.scratch);
    columns.total();
    // Lambda / s = g / mass where there is mass.
    float ratio[2], mean[2] = {0.0f, 0.0f};
#pragma unroll
    for (u32 half = 0; half < 2; ++half) ratio[half] = columns.has_mass(half) ? __fdiv_rn(1.0f, columns.mass[half]) : 0.0f;
#pragma unroll 1
    for (u32 pass = 0; pass < passes; ++pass) {
#pragma unroll 1
        for (u32 begin = 0; begin < b; begin += SPAN) {
            const u32 inside = begin % PANEL;
            if (MULTI && inside == 0) columns.again(begin);
            make_products(block, columns, begin);
            if (pass == 0) add_means(mean, block, columns, ratio, begin, inside);
            if (pass + 1 == passes) add_gradient(block, columns, ratio, mean, begin, inside, begins);
        }
    }
    __syncthreads();
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 8) mix_backward_attention(const __grid_constant__ MixAttentionParams p) {
    const Block block = make_block(p);
    const u32 j = blockIdx.x / p.splits, split = blockIdx.x % p.splits;
#pragma unroll 1
    for (u64 first = u64(split) * 16 * WARPS; first < p.sampler.n; first += u64(p.splits) * 16 * WARPS)
        add_tile(block, j, u32(first), first == u64(split) * 16 * WARPS);
}

struct MixAttentionSumParams {
    const float *partial;  // (slices, r, b)
    const u32 *live;       // (b), from prepare_maps
    const float *scales;   // (r)
    float *out;            // (b, r)
    i64 example, position; // its strides
    u32 slices, b, r, padding;
};
static_assert(sizeof(MixAttentionSumParams) == 64, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) mix_backward_attention_sum(const __grid_constant__ MixAttentionSumParams p) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x, slice = u64(p.r) * p.b;
    if (at >= slice) return;
    float sum = p.partial[at];
    for (u32 s = 1; s < p.slices; ++s) sum += p.partial[s * slice + at];
    const u32 i = u32(at % p.b), j = u32(at / p.b);
    p.out[i64(i) * p.example + i64(j) * p.position] = p.live[i] ? float(double(sum) / DOWN * p.scales[j]) : 0.0f;
}
