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

__device__ __forceinline__ Words philox4x32_10(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 first = u64(0xD2511F53u) * c0, second = u64(0xCD9E8D57u) * c2;
        c0 = u32(second >> 32) ^ c1 ^ k0;
        c1 = u32(second);
        c2 = u32(first >> 32) ^ c3 ^ k1;
        c3 = u32(first);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
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
