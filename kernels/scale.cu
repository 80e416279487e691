// A gradient times what is known only after it was made.
//
//   out = gradient * (factor * *upstream)        over three axes
//
// kernel `scale`   gradient of ELEMENT, out of OUT, any strides
// grid     x = ceil(total / 256), total the product of the shape        block 256
// defines  -DELEMENT= float|f16|bf16   -DOUT= float|f16|bf16
//
// Moves sizeof(ELEMENT) + sizeof(OUT) bytes an element, whole lines where the last axis is contiguous; upstream comes from cache.
#include "types.cuh"

struct ScaleParams {
    const ELEMENT *gradient;
    i64 strides[3];
    OUT *out;
    i64 out_strides[3];
    const float *upstream; // null: `factor` alone
    float factor;
    u32 shape[3];
};
static_assert(sizeof(ScaleParams) == 88, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) scale(const __grid_constant__ ScaleParams p) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x, row = at / p.shape[2];
    const i64 x = at % p.shape[2], j = row % p.shape[1], i = row / p.shape[1];
    if (i >= p.shape[0]) return;
    const float in = to_float(p.gradient[i * p.strides[0] + j * p.strides[1] + x * p.strides[2]]);
    OUT *to = p.out + i * p.out_strides[0] + j * p.out_strides[1] + x * p.out_strides[2];
    *to = from_float<OUT>(in * upstream_of(p.factor, p.upstream));
}
