// What the loss kernels share: a warp's fragment of 16 columns by 64 classes, and sums over its rows.
//
// Needs -DELEMENT= (the type of the logits in memory) and -DMATH=. Products take operands of Number: ELEMENT itself where
// tensor cores multiply 16 bits, else f32.
#pragma once
#include "reduce.cuh"
#include "stage.cuh"

using Number = Select<MATH == HALF, ELEMENT, float>::Type;

constexpr u32 PITCH = STAGE_PITCH<Number>; // of staged rows
constexpr int SOFT_ROWS = 2;               // -DTARGETS=: 1 labels, 2 soft rows
constexpr float LN_2 = 0.693147180559945309f;

// A call keeps these values of each column of a chunk for its gradient: (r, STATISTICS, stride).
enum Statistic : u32 {
    LOG2_SUM,  // log2 sum exp of the mixed logits
    SHARE,     // in the reduction: s on the scale of prepared attention, or 1; 0 for a column without mass if weighed
    TOTAL,     // t, the sum of the mixed targets
    LOSS,      // cross-entropy
    MEAN,      // sum_l M_l dM_l / q
    OVER_MASS, // 1 / s on the scale of prepared attention, 0 without mass
    STATISTICS
};

// Over the lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
    x = quad_sum(x);
    return MATH == EXACT ? __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 4)) : x;
}
__device__ __forceinline__ float row_max(float x) {
    x = quad_max(x);
    return MATH == EXACT ? fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 4)) : x;
}

// 2^x to 2 ulp; no subnormal results.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Zero times the -inf of a masked class is NaN: sums that met it are taken anew, without the examples of weight zero.
// `weight(row, i)` is the fragment's, as it was multiplied; `channel` its first class.
template <class Weight>
__device__ __forceinline__ void mend(float (&s)[8][4], const Matrix<const ELEMENT> &logits, u32 position, u32 channel, u32 b,
                                     Weight weight) {
    float probe = 0.0f;
#pragma unroll
    for (u32 at = 0; at < 32; ++at) probe = __fmaf_rn(s[at / 4][at % 4], 0.0f, probe);
    if (probe == 0.0f) return;
    u32 left = 0;
#pragma unroll
    for (u32 at = 0; at < 32; ++at) left |= u32(s[at / 4][at % 4] != s[at / 4][at % 4]) << at;
#pragma unroll 1
    for (; left != 0; left &= left - 1) {
        const u32 next = __ffs(left) - 1, label = channel + class_of(next / 4, next % 4);
        const u32 row = first_row() + lane_row(next / 4, next % 4) * ROW_STEP;
        const ELEMENT *of_class = logits.at(0, position, label);
        float sum = 0.0f;
#pragma unroll 1
        for (u32 i = 0; i < b && label < logits.channels; ++i) {
            const float w = weight(row, i);
            if (w != 0.0f) sum = __fmaf_rn(w, to_float(of_class[i64(i) * logits.row]), sum);
        }
#pragma unroll
        for (u32 at = 0; at < 32; ++at)
            if (at == next) s[at / 4][at % 4] = sum;
    }
}

// A fragment from f32 in shared memory, rows TILE_PITCH apart.
template <u32 TILE_PITCH> __device__ __forceinline__ void load_tile(float (&c)[8][4], const float *tile) {
    const float *first = tile + first_row() * TILE_PITCH + class_of(0, 0);
#pragma unroll
    for (u32 x = 0; x < 8; ++x) {
        if constexpr (MATH == EXACT) {
            const float4 four = *reinterpret_cast<const float4 *>(first + x / 2 * ROW_STEP * TILE_PITCH + x % 2 * 32);
            c[x][0] = four.x, c[x][1] = four.y, c[x][2] = four.z, c[x][3] = four.w;
        } else {
            const float2 upper = *reinterpret_cast<const float2 *>(first + 8 * x);
            const float2 lower = *reinterpret_cast<const float2 *>(first + 8 * x + ROW_STEP * TILE_PITCH);
            c[x][0] = upper.x, c[x][1] = upper.y, c[x][2] = lower.x, c[x][3] = lower.y;
        }
    }
}
