// Philox4x32-10 (Salmon et al., SC 2011) and the streams that name every random word; src/sampler/ defines both.
#pragma once
#include "types.cuh"

struct Words {
    u32 w[4];
};

struct Stream {
    u32 key_0, key_1;
};

// What a block of random words is for.
enum Domain : u32 { WEIGHT = 0, ALPHA = 1, FACTOR = 2, PERMUTATION = 3 };

// The 64-bit product in halves: one wide multiplication, where the compiler's own shifts and conversions are four instructions.
struct Product {
    u32 low, high;
};

template <u32 FACTOR> __device__ __forceinline__ Product widening_mul(u32 x) {
    Product product;
    asm("{.reg .u64 wide; mul.wide.u32 wide, %2, %3; mov.b64 {%0, %1}, wide;}"
        : "=r"(product.low), "=r"(product.high)
        : "r"(x), "n"(FACTOR));
    return product;
}

__device__ __forceinline__ u32 xor_of_three(u32 a, u32 b, u32 c) {
    u32 x;
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(x) : "r"(a), "r"(b), "r"(c));
    return x;
}

__device__ __forceinline__ Words philox4x32_10(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        const Product first = widening_mul<0xD2511F53u>(c0), second = widening_mul<0xCD9E8D57u>(c2);
        c0 = xor_of_three(second.high, c1, k0 + round * 0x9E3779B9u);
        c1 = second.low;
        c2 = xor_of_three(first.high, c3, k1 + round * 0xBB67AE85u);
        c3 = first.low;
    }
    return {{c0, c1, c2, c3}};
}

// The stream of (seed, step): the key of all its blocks.
__device__ __forceinline__ Stream make_stream(u64 seed, u64 step) {
    const Words block = philox4x32_10(u32(seed), u32(seed >> 32), u32(step), u32(step >> 32), 0x6d756c74u, 0x696d6978u);
    return {block.w[0], block.w[1]};
}

// Four random words: of column k, pair (or example group) p, position j.
__device__ __forceinline__ Words random_block(Stream stream, Domain domain, u32 k, u32 p, u32 j, u32 attempt) {
    return philox4x32_10(k, p, j, domain << 16 | attempt, stream.key_0, stream.key_1);
}
