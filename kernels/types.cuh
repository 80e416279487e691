// Fixed-width names, element types with their conversions, packs of 16 bytes and matrices in memory. NVRTC has no headers: none
// is used.
//
// Elements are stored as float, f16 or bf16 and computed with as float. Conversions to 16 bits round to nearest even.
//
// -DSHARED_BYTES= is the dynamic shared memory of a block, as the host counts it; a source that has some asserts that this is
// what it uses. Those without get no such macro.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

// How a kernel multiplies: -DMATH=...
constexpr int EXACT = 0; // f32 elements, fused multiply-adds in f32
constexpr int TF32 = 1;  // f32 elements, tensor cores with operands rounded to tf32
constexpr int HALF = 2;  // f16 or bf16 elements, tensor cores

constexpr u32 ALL_LANES = 0xffffffffu;

__device__ __forceinline__ u32 lane_id() { return threadIdx.x & 31; }

// Threads of a block, and the warps that one multiprocessor should hold at least. Given no such number, the compiler aims at one
// of its own, and spills to reach it.
#define LAUNCH_BOUNDS(threads, warps) __launch_bounds__(threads, 32 * (warps) / (threads) > 0 ? 32 * (warps) / (threads) : 1)

template <class T> constexpr bool is_16_bit = sizeof(T) == 2;

template <class A, class B> constexpr bool SAME = false;
template <class A> constexpr bool SAME<A, A> = true;

template <bool Condition, class A, class B> struct Select {
    using Type = A;
};
template <class A, class B> struct Select<false, A, B> {
    using Type = B;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <class T> struct Convert;

template <> struct Convert<float> {
    static __device__ __forceinline__ float one(float x) { return x; }
};

template <> struct Convert<f16> {
    static __device__ __forceinline__ f16 one(float x) {
        f16 y;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
        return y;
    }
    // `low` goes to the lower 16 bits, which come first in memory.
    static __device__ __forceinline__ u32 pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
        u32 y;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
        return y;
#else
        return u32(one(low).bits) | u32(one(high).bits) << 16;
#endif
    }
};

// Before sm_80 the conversions are made of integer operations; tensor cores take bf16 from sm_80 on.
template <> struct Convert<bf16> {
    static __device__ __forceinline__ bf16 one(float x) {
        bf16 y;
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
        const u32 bits = __float_as_uint(x);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        y.bits = nan ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
        return y;
    }
    static __device__ __forceinline__ u32 pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
        u32 y;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
        return y;
#else
        return u32(one(low).bits) | u32(one(high).bits) << 16;
#endif
    }
};

template <class T> __device__ __forceinline__ T from_float(float x) { return Convert<T>::one(x); }

// The bits of x as tf32, rounded to nearest.
__device__ __forceinline__ u32 to_tf32(float x) {
    u32 y = __float_as_uint(x);
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
#endif
    return y;
}

// Sixteen bytes: what one lane moves at a time on aligned paths.
struct alignas(16) Pack {
    u32 words[4];
};

template <class T> constexpr int PER_PACK = 16 / sizeof(T);

__device__ __forceinline__ Pack load_pack(const void *from) {
    const uint4 x = *reinterpret_cast<const uint4 *>(from);
    return {x.x, x.y, x.z, x.w};
}

__device__ __forceinline__ void store_pack(void *to, Pack x) {
    *reinterpret_cast<uint4 *>(to) = make_uint4(x.words[0], x.words[1], x.words[2], x.words[3]);
}

// Four neighbouring elements at once; `to` on the boundary of as many. (A plain store the compiler may take apart.)
template <class T> __device__ __forceinline__ void store_four(T *to, float4 x) {
    if constexpr (is_16_bit<T>)
        __stcg(reinterpret_cast<uint2 *>(to), make_uint2(Convert<T>::pair(x.x, x.y), Convert<T>::pair(x.z, x.w)));
    else
        __stcg(reinterpret_cast<float4 *>(to), x);
}

// A matrix in global memory, (rows, channels) at each position.
template <class T> struct Matrix {
    T *data;
    i64 row, position, channel; // strides in elements
    u32 channels;
    u32 aligned; // rows contiguous and every row of every position on a 16-byte boundary

    __device__ __forceinline__ T *at(u32 i, u32 j, u32 x) const {
        return data + i64(i) * row + i64(j) * position + i64(x) * channel;
    }
};

// What gradients are multiplied by: the host's factor, and what is in device memory where that is not null.
__device__ __forceinline__ float upstream_of(float factor, const float *upstream) {
    return upstream ? factor * __ldg(upstream) : factor;
}

template <class Integer> __host__ __device__ constexpr Integer larger_of(Integer a, Integer b) { return a > b ? a : b; }
template <class Integer> __host__ __device__ constexpr Integer ceil_div(Integer a, Integer b) { return (a + b - 1) / b; }
