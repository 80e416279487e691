// What the losses of a call's columns add up to: after loss_forward.
//
// kernel `loss_sums`      partial -> sums (added to where `accumulate`), ranges: after each chunk of columns
// grid     x = r        block 32
// kernel `loss_finish`    sums -> loss, kl, shares: after the last
// grid     1        block 32
//
// partial  f64 (r, tiles, 4): weighted CE, weighted entropy, weights, and the largest weight of 16 columns, from loss_forward
// sums     f64 (r, 3) over the columns of all chunks: the first three of these
// ranges   f32 (r): a power of two near 1 / the largest weight of the chunk, for loss_backward
// shares   f64 (r): what a position's sums are multiplied by, 1 / (n r) or 1 / (r sum s)
//
// Deterministic: one warp adds in a fixed order.
#include "reduce.cuh"

struct LossSumsParams {
    const double *partial;
    double *sums;
    float *ranges;
    u32 tiles, accumulate; // tiles: ceil(columns / 16)
};
static_assert(sizeof(LossSumsParams) == 32, "mirrored by the host");

extern "C" __global__ void __launch_bounds__(32) loss_sums(const __grid_constant__ LossSumsParams p) {
    const double *partial = p.partial + u64(blockIdx.x) * p.tiles * 4;
    double total[3] = {};
    float largest = 0.0f;
    for (u32 tile = lane_id(); tile < p.tiles; tile += 32) {
        for (u32 x = 0; x < 3; ++x) total[x] += partial[4 * tile + x];
        largest = fmaxf(largest, float(partial[4 * tile + 3]));
    }
    largest = warp_max(largest);
    for (u32 x = 0; x < 3; ++x) {
        const double sum = warp_sum(total[x]);
        double *to = p.sums + u64(blockIdx.x) * 3 + x;
        if (lane_id() == 0) *to = p.accumulate ? *to + sum : sum;
    }
    // A power of two p with p * largest in [1/2, 1), within what f32 holds.
    const u32 exponent = min(max(__float_as_uint(largest) >> 23, 1u), 251u);
    if (lane_id() == 0) p.ranges[blockIdx.x] = __uint_as_float((252 - exponent + 1) << 23);
}

struct LossFinishParams {
    const double *sums;
    float *loss, *kl; // null: not wanted
    double *shares;   // (r)
    u32 r, n, weighed, padding;
};
static_assert(sizeof(LossFinishParams) == 48, "mirrored by the host");

extern "C" __global__ void __launch_bounds__(32) loss_finish(const __grid_constant__ LossFinishParams p) {
    double loss = 0.0, entropy = 0.0;
    for (u32 j = lane_id(); j < p.r; j += 32) {
        const double *sums = p.sums + u64(j) * 3;
        const double share = !p.weighed ? 1.0 / (double(p.n) * p.r) : sums[2] > 0.0 ? 1.0 / (p.r * sums[2]) : 0.0;
        p.shares[j] = share;
        loss += share * sums[0];
        entropy += share * sums[1];
    }
    loss = warp_sum(loss);
    entropy = warp_sum(entropy);
    if (lane_id() == 0 && p.loss) *p.loss = float(loss);
    if (lane_id() == 0 && p.kl) *p.kl = float(loss - entropy);
}
