// Raw Dirichlet draws of sixteen columns by one warp, into shared memory, without divergence.
//
// Lane (g, t) = (lane / 4, lane % 4) draws for columns g and g + 8 the pairs of examples p with p % 4 = t. First attempts run
// for all lanes alike and are settled by the squeeze alone. What it leaves (9%), and in a mixed warp every draw with alpha < 1,
// goes to a list of tests, with x parked in the draw's place, and is taken up 32 at a time by whichever lanes; what these
// reject (2-5%) goes to a list of redraws, likewise. Counters name the draws, so the order of work cannot change a bit.
#pragma once
#include "gamma.cuh"
#include "reduce.cuh"

// How columns are drawn: -DDRAW=..., chosen by the host from the generator.
constexpr int DRAW_EXPONENTIAL = 0; // Dirichlet, alpha fixed to 1
constexpr int DRAW_PLAIN = 1;       // Dirichlet, every alpha >= 1
constexpr int DRAW_BOOSTED = 2;     // Dirichlet, every alpha < 1
constexpr int DRAW_MIXED = 3;       // Dirichlet, alpha on both sides of 1
constexpr int DRAW_PAIR = 4;
constexpr int DRAW_EXPLICIT = 5;

constexpr u32 COLUMNS = 16;
constexpr u32 MOST_TESTS = 256, MOST_REDRAWS = 160;

constexpr float SETTLE_BELOW = 1.0f / 1099511627776.0f; // 2^-40: columns that sum to less are drawn anew in log space
constexpr float MASSLESS_BELOW = 7.52316384526264e-37f; // 2^-120: columns with less mass have none

// A warp's scratch while it draws; free afterwards but for the first three arrays, which a second draw needs.
struct alignas(16) DrawScratch {
    float4 gammas[COLUMNS];    // d, c, 1 / alpha, log2 d of each column; for pairs both weights
    float largest[COLUMNS];    // log2 of the largest draw of a settled column; for explicit columns the factor they are read with
    u32 partners[COLUMNS];     // for pairs
    uint2 tests[MOST_TESTS];   // column | example << 4, bits of u
    u32 redraws[MOST_REDRAWS]; // column | attempt << 4 | example << 10
};

template <int DrawKind, u32 PITCH> struct Drawer {
    Stream stream;
    u32 j, first, n;           // position, column k of row 0, columns there are
    u32 position, column_of_0; // j and first as the random numbers count them
    float *slab;               // [COLUMNS][PITCH]
    DrawScratch *scratch;
    u32 boosted;        // bit for each column with alpha < 1
    u32 tests, redraws; // lengths of the lists, the same in all lanes

    // This lane's column in the upper (0) or lower (1) half of the slab.
    static __device__ __forceinline__ u32 row(u32 half) { return lane_id() / 4 + 8 * half; }

    __device__ __forceinline__ float2 *pair_at(u32 half, u32 i) const {
        return reinterpret_cast<float2 *>(slab + row(half) * PITCH + i);
    }

    __device__ __forceinline__ void prepare(float alpha_low, float alpha_high) {
        const u32 column = lane_id() % COLUMNS;
        const Gamma gamma =
            make_gamma(column_alpha(stream, alpha_low, alpha_high, position, column_of_0 + column), DrawKind == DRAW_EXPONENTIAL);
        if (lane_id() < COLUMNS) scratch->gammas[column] = make_float4(gamma.d, gamma.c, gamma.inverse_alpha, gamma.log2_d);
        boosted = __ballot_sync(ALL_LANES, gamma.method == BOOSTED) & 0xffff;
        __syncwarp();
    }

    __device__ __forceinline__ Gamma load_gamma(u32 column) const {
        const float4 x = scratch->gammas[column];
        const Method method = DrawKind == DRAW_EXPONENTIAL ? EXPONENTIAL
                              : DrawKind == DRAW_PLAIN     ? PLAIN
                              : DrawKind == DRAW_BOOSTED   ? BOOSTED
                              : boosted >> column & 1      ? BOOSTED
                                                           : PLAIN;
        return {x.x, x.y, x.z, x.w, method};
    }

    // Draws examples begin .. begin + examples of all columns; `begin` is even. Columns past the last become zeros.
    __device__ __forceinline__ void draw(u32 begin, u32 examples) {
        const Gamma gammas[2] = {load_gamma(row(0)), load_gamma(row(1))};
        const u32 steps = ceil_div(examples, 8u);
        tests = redraws = 0;
#pragma unroll 1
        for (u32 step = 0; step < steps; ++step) {
            const u32 i = 8 * step + 2 * (lane_id() % 4);
            first_attempts(0, gammas[0], begin, i, examples);
            first_attempts(1, gammas[1], begin, i, examples);
            [[maybe_unused]] const bool last = step + 1 == steps;
            if constexpr (DrawKind == DRAW_BOOSTED) {
                while (redraws >= (last ? 1u : 32u)) run_redraws(begin);
            } else if constexpr (DrawKind != DRAW_EXPONENTIAL) {
                if (tests > MOST_TESTS - 128 || last) drain(begin, last);
            }
        }
        __syncwarp();
    }

    // Works the lists off: down to less than a warp's worth, or wholly.
    __device__ __forceinline__ void drain(u32 begin, bool wholly) {
        do {
            run_tests();
            while (redraws >= 32 || (wholly && tests == 0 && redraws > 0)) run_redraws(begin);
        } while (tests >= (wholly ? 1u : 32u));
    }

    // The first attempt at examples i and i + 1 of the panel: the draws, or x of those that are left to the lists.
    __device__ __forceinline__ void first_attempts(u32 half, const Gamma &gamma, u32 begin, u32 i, u32 examples) {
        const u32 k = first + row(half);
        const Words words = random_block(stream, WEIGHT, column_of_0 + row(half), (begin + i) / 2, position, 0);
        const bool even = k < n && i < examples, odd = k < n && i + 1 < examples;
        float2 draws;
        if constexpr (DrawKind == DRAW_EXPONENTIAL) {
            draws = make_float2(exponential(words.w[2]), exponential(words.w[3]));
        } else {
            const NormalPair x = normal_pair(words.w[0], words.w[1]);
            const float u0 = unit(words.w[2]), u1 = unit(words.w[3]);
            if constexpr (DrawKind == DRAW_BOOSTED) {
                draws = make_float2(attempt_draw(gamma, {x.even, u0}), attempt_draw(gamma, {x.odd, u1}));
                push_redraw(even && draws.x < 0.0f, row(half), i, 1);
                push_redraw(odd && draws.y < 0.0f, row(half), i + 1, 1);
            } else {
                const bool quick_even = quick_draw(gamma, x.even, u0, draws.x);
                const bool quick_odd = quick_draw(gamma, x.odd, u1, draws.y);
                push_test(even && !quick_even, row(half) | i << 4, u0);
                push_test(odd && !quick_odd, row(half) | (i + 1) << 4, u1);
            }
        }
        *pair_at(half, i) = make_float2(even ? draws.x : 0.0f, odd ? draws.y : 0.0f);
    }

    // Whether the squeeze settles the draw; x in its place if not.
    static __device__ __forceinline__ bool quick_draw(const Gamma &gamma, float x, float u, float &draw) {
        const float t = __fmaf_rn(gamma.c, x, 1.0f);
        const bool quick = t > 0.0f && squeezed(__fmul_rn(x, x), u) && gamma.method == PLAIN;
        draw = quick ? __fmul_rn(gamma.d, cube(t)) : x;
        return quick;
    }

    // This lane's place among those that want one.
    static __device__ __forceinline__ u32 rank_below(u32 ballot) {
        u32 below;
        asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
        return __popc(ballot & below);
    }

    __device__ __forceinline__ void push_test(bool wanted, u32 id, float u) {
        const u32 ballot = __ballot_sync(ALL_LANES, wanted);
        const u32 at = tests + rank_below(ballot);
        if (wanted) scratch->tests[at] = make_uint2(id, __float_as_uint(u));
        tests += __popc(ballot);
    }

    __device__ __forceinline__ void push_redraw(bool wanted, u32 column, u32 i, u32 attempt) {
        const u32 ballot = __ballot_sync(ALL_LANES, wanted);
        if (wanted) scratch->redraws[redraws + rank_below(ballot)] = column | attempt << 4 | i << 10;
        redraws += __popc(ballot);
    }

    // Takes up to 32 draws off the list of tests.
    __device__ __forceinline__ void run_tests() {
        __syncwarp();
        const u32 count = min(tests, 32u);
        tests -= count;
        u32 column = 0, i = 0;
        bool rejected = false;
        if (lane_id() < count) {
            const uint2 test = scratch->tests[tests + lane_id()];
            column = test.x % COLUMNS;
            i = test.x / COLUMNS;
            const Gamma gamma = load_gamma(column);
            float *at = slab + column * PITCH + i;
            const float x = *at;
            const Tested tested = full_test(gamma, x, __uint_as_float(test.y));
            rejected = !tested.accepted;
            *at = gamma.method == BOOSTED ? exp2_of(boosted_log2(gamma, tested.log2_v, tested.log2_u))
                                          : __fmul_rn(gamma.d, cube(__fmaf_rn(gamma.c, x, 1.0f)));
        }
        push_redraw(rejected, column, i, 1);
        __syncwarp();
    }

    // Takes up to 32 draws off the list of redraws and puts back those that are rejected again.
    __device__ __forceinline__ void run_redraws(u32 begin) {
        __syncwarp();
        const u32 count = min(redraws, 32u);
        redraws -= count;
        u32 column = 0, i = 0, attempt = 0;
        bool rejected = false;
        if (lane_id() < count) {
            const u32 id = scratch->redraws[redraws + lane_id()];
            column = id % COLUMNS;
            attempt = id / COLUMNS % ATTEMPTS;
            i = id / (COLUMNS * ATTEMPTS);
            const Gamma gamma = load_gamma(column);
            float draw = last_resort(gamma);
            if (attempt < ATTEMPTS - 1)
                draw = attempt_draw(gamma, make_trial(stream, WEIGHT, position, begin + i, column_of_0 + column, attempt));
            rejected = draw < 0.0f;
            slab[column * PITCH + i] = draw;
        }
        __syncwarp();
        push_redraw(rejected, column, i, attempt + 1);
        __syncwarp();
    }

    // log2 of the largest draw of a column, all examples 0 .. b looked at; the same in all lanes.
    __device__ __forceinline__ float largest_log2(u32 column, u32 b) const {
        float largest = -__int_as_float(0x7f800000);
        for (u32 i = lane_id(); i < b; i += 32)
            largest = fmaxf(largest, search_draw(load_gamma(column), stream, WEIGHT, position, i, column_of_0 + column).log2);
        return warp_max(largest);
    }

    // The draws of a column that underflows, over the largest of them.
    __device__ __forceinline__ void draw_settled(u32 column, u32 begin, u32 examples) {
        const float largest = scratch->largest[column];
        for (u32 i = lane_id(); i < examples; i += 32) {
            const Draw draw = search_draw(load_gamma(column), stream, WEIGHT, position, begin + i, column_of_0 + column);
            slab[column * PITCH + i] = exp2_of(__fsub_rn(draw.log2, largest));
        }
    }
};
