// The sum of a gradient's slices (split.cuh) in order, written to where it belongs.
//
// kernel `split_sum`   out (b, r, channels), any strides: sum_s partial_s, and where there are shares times these and upstream
// grid     x = ceil(r b channels / 256)        block 256
// defines  -DOUT= float|f16|bf16
//
// Reads 4 bytes a slice and element, each line once, and writes sizeof(OUT).
#include "types.cuh"

struct SplitSumParams {
    const float *partial; // (slices, r, b, channels)
    Matrix<OUT> out;
    const double *shares;  // (r), from loss_finish; null: the sum as it is
    const float *upstream; // null: `factor` alone; both for `shares` only
    float factor;
    u32 slices, r, b;
};
static_assert(sizeof(SplitSumParams) == 80, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) split_sum(const __grid_constant__ SplitSumParams p) {
    const u32 channels = p.out.channels;
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x, slice = u64(p.r) * p.b * channels;
    if (at >= slice) return;
    float sum = p.partial[at];
    for (u32 s = 1; s < p.slices; ++s) sum += p.partial[s * slice + at];
    const u32 channel = u32(at % channels), i = u32(at / channels % p.b), position = u32(at / channels / p.b);
    if (p.shares) sum = float(sum * (p.shares[position] * upstream_of(p.factor, p.upstream)));
    *p.out.at(i, position, channel) = from_float<OUT>(sum);
}
