// Pair mixing, equations (1) and (2): Lambda = lambda I + (1 - lambda) Pi, as raw columns in a warp's slab; src/sampler/pair.rs.
#pragma once
#include "draw.cuh"

// Ranks the word of example i among those of all b examples, ties to the lower index: the example that i is mixed with.
__device__ __forceinline__ u32 partner_of(Stream stream, u32 b, u32 round, u32 i) {
    const Words own = random_block(stream, PERMUTATION, round, i / 4, 0, 0);
    const u32 low = i & 1 ? own.w[1] : own.w[0], high = i & 1 ? own.w[3] : own.w[2];
    const u32 word = i & 2 ? high : low;
    u32 before = 0;
    for (u32 group = lane_id(); group < ceil_div(b, 4u); group += 32) {
        const Words words = random_block(stream, PERMUTATION, round, group, 0, 0);
#pragma unroll
        for (u32 q = 0; q < 4; ++q) {
            const u32 l = 4 * group + q;
            before += l < b && (words.w[q] < word || (words.w[q] == word && l < i));
        }
    }
    return warp_sum(before);
}

// Both weights of each column, which sum to one, and its partner.
template <u32 PITCH>
__device__ __forceinline__ void prepare_pairs(Drawer<DRAW_PAIR, PITCH> &drawer, float alpha_low, float alpha_high, u32 b,
                                              bool per_column, bool alpha_is_one) {
    const u32 column = lane_id() % COLUMNS, which = lane_id() / COLUMNS;
    const u32 k = per_column ? drawer.column_of_0 + column : 0;
    const Gamma gamma = make_gamma(column_alpha(drawer.stream, alpha_low, alpha_high, 0, k), alpha_is_one);
    const Draw mine = search_draw(gamma, drawer.stream, FACTOR, 0, which, k);
    float g = mine.value;
    const float log2_other = __shfl_xor_sync(ALL_LANES, mine.log2, COLUMNS);
    if (__fadd_rn(g, __shfl_xor_sync(ALL_LANES, g, COLUMNS)) < SETTLE_BELOW)
        g = exp2_of(__fsub_rn(mine.log2, fmaxf(mine.log2, log2_other)));
    g = __fmul_rn(g, __fdiv_rn(1.0f, __fadd_rn(g, __shfl_xor_sync(ALL_LANES, g, COLUMNS))));
    const float other = __shfl_xor_sync(ALL_LANES, g, COLUMNS);
    if (which == 0) drawer.scratch->gammas[column] = make_float4(g, other, 0.0f, 0.0f);
#pragma unroll 1
    for (u32 c = 0; c < COLUMNS && drawer.first + c < drawer.n; ++c) {
        const u32 partner = partner_of(drawer.stream, b, (drawer.column_of_0 + c) / b, (drawer.column_of_0 + c) % b);
        if (lane_id() == 0) drawer.scratch->partners[c] = partner;
    }
    __syncwarp();
}

template <u32 PITCH>
__device__ __forceinline__ void fill_pairs(const Drawer<DRAW_PAIR, PITCH> &drawer, u32 b, u32 begin, u32 examples) {
    for (u32 column = 0; column < COLUMNS; ++column)
        for (u32 i = lane_id(); i < ceil_div(examples, 8u) * 8; i += 32) drawer.slab[column * PITCH + i] = 0.0f;
    __syncwarp();
    const u32 column = lane_id();
    if (column >= COLUMNS || drawer.first + column >= drawer.n) return;
    const float4 factors = drawer.scratch->gammas[column];
    // Unsigned differences: an example before the panel is past its end, too.
    const u32 own = (drawer.column_of_0 + column) % b - begin, partner = drawer.scratch->partners[column] - begin;
    float *row = drawer.slab + column * PITCH;
    if (own < examples) row[own] = factors.x;
    if (partner < examples) row[partner] = partner == own ? __fadd_rn(factors.x, factors.y) : factors.y;
}
