// The running sums of a warp's sixteen columns of mixed logits, class tile after class tile: an online softmax with targets.
//
// For logits s and targets y of one column, over the classes seen so far:
//   sum = sum 2^(s log2 e - scale)     expected = sum s 2^(s log2 e - scale)     scale = log2 e * the largest s
//   fit = sum y s                      total = sum y                           entropy = - sum y log2 y
// A masked class, s = -inf, has probability 0; 0 * -inf is 0 in all of these.
// Lanes that share a row keep sums of their own classes; `finish` adds them.
//
// Only the gradient of attention asks for `expected`, and it is taken in f32: an exact product costs so much more than the sum
// that this is always made there, and nowhere else. Entropies are made where the call wants them.
#pragma once
#include "loss_tile.cuh"
#include "math.cuh"

// Targets of labels add up to 1, but for examples without class, which the caller takes off, and for the rounding of 16-bit
// weights. What these add up to makes the residuals of all classes add up to zero.
constexpr bool ADDS_TARGETS = TARGETS == SOFT_ROWS || is_16_bit<Number>;
constexpr bool EXPECTS = MATH == EXACT;

// Below the scale of any logit, and finite: the sum over masked classes alone is 0, not NaN.
constexpr float LOWEST_SCALE = -3e38f;

// What a column comes to.
struct ColumnResult {
    float log2_sum, log_sum, loss, total, entropy, mean;
};

struct Rows {
    float scale[LANE_ROWS], sum[LANE_ROWS], expected[LANE_ROWS], fit[LANE_ROWS], total[LANE_ROWS], entropy[LANE_ROWS];

    __device__ __forceinline__ Rows() {
#pragma unroll
        for (u32 m = 0; m < LANE_ROWS; ++m) {
            scale[m] = LOWEST_SCALE;
            sum[m] = expected[m] = fit[m] = total[m] = entropy[m] = 0.0f;
        }
    }

    // Adds a tile of logits s and targets y, of which the first `classes` count.
    __device__ __forceinline__ void add(float (&s)[8][4], const float (&y)[8][4], u32 classes, bool entropies) {
        add_targets(s, y);
        if (entropies) add_entropies(y);
        if (classes < TILE) {
#pragma unroll
            for (u32 x = 0; x < 8; ++x)
#pragma unroll
                for (u32 q = 0; q < 4; ++q)
                    if (class_of(x, q) >= classes) s[x][q] = -__int_as_float(0x7f800000);
        }
        raise_scales(s);
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) {
                const u32 m = lane_row(x, q);
                const float e = fast_exp2(__fmaf_rn(s[x][q], LOG2_E, -scale[m]));
                sum[m] += e;
                if constexpr (EXPECTS) expected[m] = __fmaf_rn(e, e > 0.0f ? s[x][q] : 0.0f, expected[m]);
            }
    }

    // Classes past the last have no targets and logits of zero.
    __device__ __forceinline__ void add_targets(const float (&s)[8][4], const float (&y)[8][4]) {
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) {
                const u32 m = lane_row(x, q);
                if (y[x][q] != 0.0f) fit[m] = __fmaf_rn(y[x][q], s[x][q], fit[m]);
                if constexpr (ADDS_TARGETS) total[m] += y[x][q];
            }
    }

    __device__ __forceinline__ void add_entropies(const float (&y)[8][4]) {
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) {
                // Below the smallest normal number y log y is nothing.
                const float log2_y = log2_of(fmaxf(y[x][q], 1.17549435e-38f));
                entropy[lane_row(x, q)] = __fmaf_rn(-y[x][q], log2_y, entropy[lane_row(x, q)]);
            }
    }

    // Brings the sums to the scale of the largest logit yet.
    __device__ __forceinline__ void raise_scales(const float (&s)[8][4]) {
        float largest[LANE_ROWS];
#pragma unroll
        for (u32 m = 0; m < LANE_ROWS; ++m) largest[m] = -__int_as_float(0x7f800000);
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) largest[lane_row(x, q)] = fmaxf(largest[lane_row(x, q)], s[x][q]);
#pragma unroll
        for (u32 m = 0; m < LANE_ROWS; ++m) {
            const float raised = fmaxf(scale[m], __fmul_rn(row_max(largest[m]), LOG2_E));
            const float factor = fast_exp2(scale[m] - raised);
            scale[m] = raised;
            sum[m] *= factor;
            expected[m] *= factor;
        }
    }

    // The result of the lane's row m, the same in all lanes that share it. `known`: its total where targets are not added up.
    __device__ __forceinline__ ColumnResult finish(u32 m, float known) const {
        const float all = row_sum(sum[m]), fits = row_sum(fit[m]);
        ColumnResult result;
        // The largest term is 1 but for rounding; NaN stays NaN, and 0 stays 0: the gradient is not to subtract an infinity.
        result.log2_sum = all > 0.5f ? scale[m] + log2_of(all) : all;
        result.log_sum = __fmul_rn(result.log2_sum, LN_2);
        result.total = ADDS_TARGETS ? row_sum(total[m]) : known;
        result.loss = __fmaf_rn(result.total, result.log_sum, -fits);
        if (all == 0.0f) result.log_sum = -__int_as_float(0x7f800000);
        result.entropy = row_sum(entropy[m]) * LN_2;
        const float mean = EXPECTS ? row_sum(expected[m]) / all : 0.0f;
        result.mean = EXPECTS && all != 0.0f ? __fmaf_rn(result.total, mean, result.loss - fits) : 0.0f;
        return result;
    }
};
