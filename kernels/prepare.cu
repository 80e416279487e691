// Attention and features made ready for the kernels that mix.
//
//   a'_ij = 2^(e_j) a_ij        with e_j such that the largest a' of position j lies in [1, 2)
//
// An example whose whole map is zero gets `empty` at every position first: 1/r, or 0 to be left out. Neither the mix matrix nor
// the weighted loss sees the scale, and no product of a' with a draw is subnormal that matters.
//
// kernel `prepare_maps`        which examples have a map: live (b), 1 or 0
// grid                         x = ceil(b / 8): a warp an example        block 256
//
// kernel `prepare_attention`   a (b, r), any strides -> a' (r, b) contiguous, scales 2^(e_j) (r); after prepare_maps
// grid                         x = r        block 256
//
// kernel `prepare_features`    Z (b, r, d), any strides -> (r, b, d) contiguous, rows `row` >= d elements apart: for features
//                              whose positions are contiguous (NCHW), so that the kernels after it read whole lines.
//                              The elements from d to `row` are not written.
// grid                         x = b * ceil(r / 32) * ceil(d / 32), example slowest, then position tile, then channel tile
// block                        256
// defines                      -DELEMENT= float|f16|bf16
//
// No dynamic shared memory. Deterministic: a maximum does not depend on its order; all else is one thread's own.
#include "math.cuh"
#include "reduce.cuh"

struct PrepareAttentionParams {
    const float *attention; // (b, r)
    i64 example, position;  // its strides
    u32 *live;              // (b)
    float *scaled;          // (r, b)
    float *scales;          // (r)
    u32 b, r;
    float empty;
    u32 padding;
};
static_assert(sizeof(PrepareAttentionParams) == 64, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) prepare_maps(const __grid_constant__ PrepareAttentionParams p) {
    const u32 i = blockIdx.x * 8 + threadIdx.x / 32;
    if (i >= p.b) return;
    bool found = false;
    for (u32 j = lane_id(); j < p.r; j += 32) found |= p.attention[i * p.example + j * p.position] != 0.0f;
    const bool live = __any_sync(ALL_LANES, found);
    if (lane_id() == 0) p.live[i] = live;
}

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) prepare_attention(const __grid_constant__ PrepareAttentionParams p) {
    __shared__ float scratch[8];
    const u32 j = blockIdx.x;
    const auto settled = [&](u32 i) { return p.live[i] ? p.attention[i * p.example + j * p.position] : p.empty; };
    float largest = 0.0f;
    for (u32 i = threadIdx.x; i < p.b; i += 256) largest = fmaxf(largest, settled(i));
    largest = block_max<8>(largest, scratch);
    const float scale = power_to_one(largest);
    for (u32 i = threadIdx.x; i < p.b; i += 256) p.scaled[u64(j) * p.b + i] = __fmul_rn(settled(i), scale);
    if (threadIdx.x == 0) p.scales[j] = scale;
}

struct PrepareFeaturesParams {
    const ELEMENT *features;        // (b, r, d)
    i64 example, position, channel; // its strides
    ELEMENT *packed;                // (r, b, row)
    u32 b, r, d, row;
};
static_assert(sizeof(PrepareFeaturesParams) == 56, "mirrored by the host");

// A tile of 32 positions by 32 channels turned through shared memory.
extern "C" __global__ void LAUNCH_BOUNDS(256, 32) prepare_features(const __grid_constant__ PrepareFeaturesParams p) {
    __shared__ ELEMENT tile[32][32 + 4 / sizeof(ELEMENT)]; // odd in banks
    const u32 channel_tiles = ceil_div(p.d, 32u), position_tiles = ceil_div(p.r, 32u);
    const u32 channel = blockIdx.x % channel_tiles * 32, rest = blockIdx.x / channel_tiles;
    const u32 position = rest % position_tiles * 32, i = rest / position_tiles;
    const u32 fast = threadIdx.x % 32;
    for (u32 slow = threadIdx.x / 32; slow < 32; slow += 8) {
        const u32 j = position + fast, x = channel + slow;
        if (j < p.r && x < p.d) tile[slow][fast] = p.features[i * p.example + j * p.position + x * p.channel];
    }
    __syncthreads();
    for (u32 slow = threadIdx.x / 32; slow < 32; slow += 8) {
        const u32 j = position + slow, x = channel + fast;
        if (j < p.r && x < p.d) p.packed[(u64(j) * p.b + i) * p.row + x] = tile[fast][slow];
    }
}
