// Gamma(alpha, 1) draws: src/sampler/gamma.rs, step by step. Marsaglia and Tsang (ACM TOMS 26, 2000).
//
// A draw of example i is made from the block of its pair i / 2: words 0 and 1 give both normals, word 2 the uniform of the
// even example, word 3 that of the odd one. The squeeze settles nine draws in ten; `full_test` is the rest of an attempt.
#pragma once
#include "math.cuh"
#include "philox.cuh"

constexpr u32 ATTEMPTS = 64;

enum Method : u32 { EXPONENTIAL, PLAIN, BOOSTED };

// alpha with the constants that its rejection test needs.
struct Gamma {
    float d;             // alpha - 1/3, with alpha + 1 in place of alpha when boosted
    float c;             // 1 / sqrt(9 d)
    float inverse_alpha; // for the boost
    float log2_d;        // for the boost
    Method method;
};

// `fixed_to_one`: only alpha fixed to 1, not drawn as 1, makes exponentials.
__device__ __forceinline__ Gamma make_gamma(float alpha, bool fixed_to_one) {
    Gamma gamma;
    gamma.method = fixed_to_one ? EXPONENTIAL : alpha < 1.0f ? BOOSTED : PLAIN;
    const float shape = gamma.method == BOOSTED ? __fadd_rn(alpha, 1.0f) : alpha;
    gamma.d = __fsub_rn(shape, 1.0f / 3.0f);
    gamma.c = __fdiv_rn(1.0f, __fsqrt_rn(__fmul_rn(9.0f, gamma.d)));
    gamma.inverse_alpha = __fdiv_rn(1.0f, alpha);
    gamma.log2_d = log2_of(gamma.d);
    return gamma;
}

// alpha of column k at position j: lo + (hi - lo) u, which is lo where both ends are equal.
__device__ __forceinline__ float column_alpha(Stream stream, float lo, float hi, u32 j, u32 k) {
    const float u = unit(random_block(stream, ALPHA, k, 0, j, 0).w[0]);
    return fminf(__fmaf_rn(u, __fsub_rn(hi, lo), lo), hi);
}

// The squeeze: true settles an attempt with t > 0 of a draw that needs no boost.
__device__ __forceinline__ bool squeezed(float x2, float u) { return u < __fmaf_rn(-0.0331f, __fmul_rn(x2, x2), 1.0f); }

__device__ __forceinline__ float cube(float t) { return __fmul_rn(__fmul_rn(t, t), t); }

// What the second test finds: whether the attempt stands, log2 v, and log2 of the uniform recycled for the boost.
struct Tested {
    bool accepted;
    float log2_v, log2_u;
};

// The second test alone. Needs t = 1 + c x > 0 to mean anything; t <= 0 gives `accepted` false.
__device__ __forceinline__ Tested full_test(const Gamma &gamma, float x, float u) {
    const float t = __fmaf_rn(gamma.c, x, 1.0f);
    const float log2_u = log2_of(u), log2_v = __fmul_rn(3.0f, log2_of(t));
    const float w = __fmaf_rn(gamma.d, __fsub_rn(1.0f, cube(t)), __fmul_rn(0.5f, __fmul_rn(x, x)));
    const float h = __fmaf_rn(w, LOG2_E, __fmul_rn(gamma.d, log2_v));
    return {t > 0.0f && log2_u < h, log2_v, __fsub_rn(log2_u, fminf(h, 0.0f))};
}

// log2 of a boosted draw.
__device__ __forceinline__ float boosted_log2(const Gamma &gamma, float log2_v, float log2_u) {
    return __fmaf_rn(log2_u, gamma.inverse_alpha, __fadd_rn(log2_v, gamma.log2_d));
}

__device__ __forceinline__ float exponential(u32 word) { return __fmul_rn(log2_of(unit(word)), MINUS_LN_2); }

// The value taken after the last attempt: v = 1 and u = 1/2.
__device__ __forceinline__ float last_resort(const Gamma &gamma) {
    return gamma.method == BOOSTED ? exp2_of(boosted_log2(gamma, 0.0f, -1.0f)) : gamma.d;
}

// x and u of one example in one attempt.
struct Trial {
    float x, u;
};

__device__ __forceinline__ Trial make_trial(Stream stream, Domain domain, u32 j, u32 i, u32 k, u32 attempt) {
    const Words words = random_block(stream, domain, k, i / 2, j, attempt);
    const NormalPair normals = normal_pair(words.w[0], words.w[1]);
    const bool odd = i & 1;
    return {odd ? normals.odd : normals.even, unit(odd ? words.w[3] : words.w[2])};
}

// A whole attempt: the draw, or a negative number when it is rejected.
__device__ __forceinline__ float attempt_draw(const Gamma &gamma, Trial trial) {
    const float t = __fmaf_rn(gamma.c, trial.x, 1.0f);
    const float plain = __fmul_rn(gamma.d, cube(t));
    const Tested tested = full_test(gamma, trial.x, trial.u);
    if (gamma.method == BOOSTED) return tested.accepted ? exp2_of(boosted_log2(gamma, tested.log2_v, tested.log2_u)) : -1.0f;
    const bool quick = t > 0.0f && squeezed(__fmul_rn(trial.x, trial.x), trial.u);
    return quick || tested.accepted ? plain : -1.0f;
}

// One draw searched for by one lane, and its log2, which is finite also where the draw underflows: for the rare columns
// that are settled in log space, and for the factors of pairs.
struct Draw {
    float value, log2;
};

__device__ __forceinline__ Draw search_draw(const Gamma &gamma, Stream stream, Domain domain, u32 j, u32 i, u32 k) {
    if (gamma.method == EXPONENTIAL) {
        const Words words = random_block(stream, domain, k, i / 2, j, 0);
        const float value = exponential(i & 1 ? words.w[3] : words.w[2]);
        return {value, log2_of(value)};
    }
    float log2_v = 0.0f, log2_u = -1.0f, plain = gamma.d;
    for (u32 attempt = 0; attempt < ATTEMPTS - 1; ++attempt) {
        const Trial trial = make_trial(stream, domain, j, i, k, attempt);
        const float t = __fmaf_rn(gamma.c, trial.x, 1.0f);
        const Tested tested = full_test(gamma, trial.x, trial.u);
        const bool quick = gamma.method == PLAIN && t > 0.0f && squeezed(__fmul_rn(trial.x, trial.x), trial.u);
        if (quick || tested.accepted) {
            log2_v = tested.log2_v;
            log2_u = tested.log2_u;
            plain = __fmul_rn(gamma.d, cube(t));
            break;
        }
    }
    if (gamma.method == PLAIN) return {plain, log2_of(plain)};
    const float log2_g = boosted_log2(gamma, log2_v, log2_u);
    return {exp2_of(log2_g), log2_g};
}
