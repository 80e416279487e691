// The sampler's elementary functions: src/sampler/math.rs, operation by operation, so that the bits agree.
//
// Only correctly rounded operations, each named: no contraction and no fast approximation may enter here.
#pragma once
#include "types.cuh"

constexpr float MINUS_LN_2 = -0.693147180559945309f;
constexpr float LOG2_E = 1.44269504088896340f;

__device__ __forceinline__ float bits_float(u32 bits) { return __uint_as_float(bits); }

// A word's upper 23 bits as a float in [1, 2).
__device__ __forceinline__ float one_to_two(u32 word) { return bits_float(word >> 9 | 0x3f800000u); }

// A uniform number in (0, 1): ((w >> 9) + 1/2) 2^-23.
__device__ __forceinline__ float unit(u32 word) { return __fsub_rn(one_to_two(word), bits_float(0x3f7fffffu)); }

// log2 x of a positive normal number.
__device__ __forceinline__ float log2_of(float x) {
    const u32 bits = __float_as_uint(x) + (0x40000000u - 0x3f3504f3u);
    const float mantissa = bits_float((bits & 0x007fffffu) + 0x3f3504f3u);
    const float exponent = __fsub_rn(bits_float(bits >> 23 | 0x4b000000u), 8388736.0f);
    const float f = __fsub_rn(mantissa, 1.0f);
    float p = bits_float(0x3e00db6bu);
    p = __fmaf_rn(p, f, bits_float(0xbe543e84u));
    p = __fmaf_rn(p, f, bits_float(0x3e5ce48du));
    p = __fmaf_rn(p, f, bits_float(0xbe74adf4u));
    p = __fmaf_rn(p, f, bits_float(0x3e9369c2u));
    p = __fmaf_rn(p, f, bits_float(0xbeb8ae27u));
    p = __fmaf_rn(p, f, bits_float(0x3ef639ebu));
    p = __fmaf_rn(p, f, bits_float(0xbf38aa38u));
    p = __fmaf_rn(p, f, bits_float(0x3fb8aa3bu));
    return __fmaf_rn(f, p, exponent);
}

// 2^y for y < 127; zero for y < -125, so that no result is subnormal.
__device__ __forceinline__ float exp2_of(float y) {
    const float shifted = __fadd_rn(y, 12582912.0f);
    const float f = __fsub_rn(y, __fsub_rn(shifted, 12582912.0f));
    float p = bits_float(0x3aaddd21u);
    p = __fmaf_rn(p, f, bits_float(0x3c1e7534u));
    p = __fmaf_rn(p, f, bits_float(0x3d635ba9u));
    p = __fmaf_rn(p, f, bits_float(0x3e75fcdeu));
    p = __fmaf_rn(p, f, bits_float(0x3f317215u));
    const float mantissa = __fmaf_rn(f, p, 1.0f);
    const float value = bits_float(__float_as_uint(mantissa) + (__float_as_uint(shifted) << 23));
    return y < -125.0f ? 0.0f : value;
}

struct NormalPair {
    float even, odd;
};

// Two independent standard normals by Box-Muller: the radius from one word, the angle from another.
__device__ __forceinline__ NormalPair normal_pair(u32 radius, u32 angle) {
    const float r = __fsqrt_rn(__fmul_rn(log2_of(unit(radius)), 2.0f * MINUS_LN_2));
    const float t = __fsub_rn(one_to_two(angle << 2), 1.5f);
    const float t2 = __fmul_rn(t, t);
    float sine = bits_float(0xbb96c981u);
    sine = __fmaf_rn(sine, t2, bits_float(0x3da32f49u));
    sine = __fmaf_rn(sine, t2, bits_float(0xbf255dddu));
    sine = __fmaf_rn(sine, t2, bits_float(0x3fc90fdbu));
    sine = __fmul_rn(t, sine);
    float cosine = bits_float(0xbca71aedu);
    cosine = __fmaf_rn(cosine, t2, bits_float(0x3e81d732u));
    cosine = __fmaf_rn(cosine, t2, bits_float(0xbf9de9c6u));
    cosine = __fmaf_rn(cosine, t2, bits_float(0x3f7fffffu));
    cosine = bits_float(__float_as_uint(cosine) ^ (angle & 0x80000000u));
    const bool straight = (angle & 0x40000000u) == 0;
    return {__fmul_rn(r, straight ? cosine : sine), __fmul_rn(r, straight ? sine : cosine)};
}

// The power of two that brings a positive number into [1, 2), a subnormal one as near as 2^127 does; 1 for zero.
__device__ __forceinline__ float power_to_one(float x) {
    const u32 exponent = __float_as_uint(x) >> 23;
    if (!(x > 0.0f)) return 1.0f;
    return __uint_as_float(exponent >= 254 ? 1u << 22 : (254 - exponent) << 23);
}
