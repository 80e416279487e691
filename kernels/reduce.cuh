// Sums and maxima over lanes, warps and blocks in a fixed order, so that every run gives the same bits.
#pragma once
#include "types.cuh"

// Sums of the gradient of attention are this times what they should be until the last, in f64: 1 / s of tiny attention is huge.
constexpr float DOWN = 2.3283064365386963e-10f; // 2^-32

// Over the four lanes of a quad: (p0 + p1) + (p2 + p3), in all four lanes.
__device__ __forceinline__ float quad_sum(float x) {
    x = __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Over a warp, by a butterfly: all lanes get the same bits.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// A NaN anywhere gives NaN.
__device__ __forceinline__ float nan_max(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x = nan_max(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

__device__ __forceinline__ u32 warp_sum(u32 x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// Over the block, in all threads; `scratch` holds one float a warp. Barriers on both sides: safe to call in a row.
template <int Warps> __device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    if (lane_id() == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float total = scratch[0];
#pragma unroll
    for (int warp = 1; warp < Warps; ++warp) total = __fadd_rn(total, scratch[warp]);
    __syncthreads();
    return total;
}

template <int Warps> __device__ __forceinline__ float block_max(float x, float *scratch) {
    x = warp_max(x);
    if (lane_id() == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = scratch[0];
#pragma unroll
    for (int warp = 1; warp < Warps; ++warp) largest = nan_max(largest, scratch[warp]);
    __syncthreads();
    return largest;
}
