// Gradients of mixed features and targets with respect to what was mixed.
//
//   dZ (b, r, d):  dZ_i = sum_k M_ik dZ~_k at each position        dY (b, c):  dY_i = sum_j sum_k M^j_ik dY~^j_k
//
// M (r, b, columns) is read from a workspace that kernel `weights` filled with some columns of the mix matrix, in ELEMENT, each row
// on a 16-byte boundary. Reading it costs 2 or 4 bytes from cache for each tile of 64 channels; drawing it again cost some
// 70 instructions. The gradient of attention has a kernel of its own (mix_backward_attention.cu).
//
// kernel `mix_backward`   dZ with -DSIDE=0: dZ~ (n, r, d) of ELEMENT; dY with -DSIDE=1: dY~ (n, r, c) in f32. Rows of M: examples
// grid                    x = r * ceil(b / (16 WARPS)) * ceil(channels / 64) * splits; position slowest, then examples, then
//                         channels, then split. A block sums its split's share of the columns for 16 WARPS examples, 64 channels.
// block                   32 WARPS
// dynamic shared bytes    max(2 * (WARPS * 16 * A + B), WARPS * 4608), A = 144 or 160, B = 9216 or 8704 for 16-bit or f32 elements
// output                  without `partial`: `out` itself, ELEMENT (SIDE 0) or f32 (SIDE 1, only where r = 1); only with splits = 1
//                         with `partial`: f32 (splits, r, b, channels), contiguous; added to what is there where `accumulate`
// kernel `mix_backward_sum`   out = the sum of `slices` slices of `partial` in order
// grid                    x = ceil(r b channels / 256), with r = 1 and slices = splits * r for SIDE 1        block 256
// defines                 -DELEMENT=  -DMATH=  -DSIDE=  -DWARPS=
//
// More columns than the workspace holds: fill and launch again, with `accumulate` from the second time on.
// Deterministic: columns are added in order within a split, splits in order by `mix_backward_sum`.
#include "stage.cuh"

#if SIDE == 0
using GRADIENT = ELEMENT;
#else
using GRADIENT = float;
#endif

struct MixBackwardParams {
    Matrix<const ELEMENT> weights; // M as (b, r, columns): `row` between examples, `position` between positions; aligned
    Matrix<const GRADIENT> mixed;  // dZ~ or dY~ from the workspace's first column on
    Matrix<GRADIENT> out;          // dZ (b, r, d) or dY (b, 1, c)
    float *partial;
    u32 b, r, splits, accumulate;
};
static_assert(sizeof(MixBackwardParams) == 144, "mirrored by the host");

constexpr u32 THREADS = 32 * WARPS;
constexpr u32 ROWS = 16 * WARPS;
constexpr u32 DEPTH = CHUNK<ELEMENT>; // columns of M staged at a time
constexpr u32 A_PITCH = DEPTH + 8;
constexpr u32 A_ELEMENTS = ROWS * A_PITCH, B_ELEMENTS = DEPTH * STAGE_PITCH<ELEMENT>;

struct Work {
    u32 position, example, channel; // first of the block
    u32 begin, end;                 // columns
    u32 split;
};

__device__ __forceinline__ Work find_work(const MixBackwardParams &p) {
    u32 at = blockIdx.x;
    const u32 channel_tiles = ceil_div(p.mixed.channels, TILE), example_tiles = ceil_div(p.b, ROWS);
    Work work;
    work.split = at % p.splits, at /= p.splits;
    work.channel = at % channel_tiles * TILE, at /= channel_tiles;
    work.example = at % example_tiles * ROWS;
    work.position = at / example_tiles;
    // Shares are whole steps of DEPTH columns, so that aligned rows stay aligned.
    const u32 steps = ceil_div(p.weights.channels, DEPTH);
    work.begin = u32(u64(steps) * work.split / p.splits) * DEPTH;
    work.end = min(u32(u64(steps) * (work.split + 1) / p.splits) * DEPTH, p.weights.channels);
    return work;
}

__device__ __forceinline__ void stage(const MixBackwardParams &p, const Work &work, ELEMENT *to, u32 column) {
    stage_block<ELEMENT, THREADS, ROWS, DEPTH, A_PITCH>(to, p.weights, work.position, work.example, p.b, column);
    stage_any<ELEMENT, THREADS, DEPTH, TILE, STAGE_PITCH<ELEMENT>>(to + A_ELEMENTS, p.mixed, work.position, column, work.end,
                                                                   work.channel);
    commit_copies();
}

template <class T> __device__ __forceinline__ void multiply(float (&c)[8][4], const T *a, const T *b) {
    const T *own = a + threadIdx.x / 32 * 16 * A_PITCH;
    if constexpr (MATH == EXACT) {
#pragma unroll 2
        for (u32 k = 0; k < DEPTH; k += 4) multiply_exact<A_PITCH>(c, own + k, b + k * STAGE_PITCH<T>);
    } else {
#pragma unroll
        for (u32 k = 0; k < DEPTH; k += STEP<T>) {
            u32 fragment[4];
            if constexpr (is_16_bit<T>)
                load_matrices(fragment, own + k + lane_id() % 16 * A_PITCH + lane_id() / 16 * 8);
            else
                load_fragment<T, A_PITCH>(fragment, own + k);
            multiply_fragment(c, fragment, b + k * STAGE_PITCH<T>);
        }
    }
}

// A parked tile of sums into f32 (splits, r, b, channels).
__device__ __forceinline__ void write_partial(const MixBackwardParams &p, const Work &work, const float *tile, u32 example,
                                              u32 rows) {
    const u32 channels = p.mixed.channels;
    float *to = p.partial + ((u64(work.split) * p.r + work.position) * p.b + example) * channels + work.channel;
    for (u32 x = lane_id(); x < rows * TILE; x += 32) {
        const u32 row = x / TILE, channel = x % TILE;
        if (work.channel + channel >= channels) continue;
        float *at = to + u64(row) * channels + channel;
        const float sum = tile[row * OUT_PITCH + channel];
        *at = p.accumulate ? *at + sum : sum;
    }
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 16) mix_backward(const __grid_constant__ MixBackwardParams p) {
    extern __shared__ __align__(16) unsigned char shared[];
    ELEMENT *stages = reinterpret_cast<ELEMENT *>(shared);
    const Work work = find_work(p);
    float c[8][4] = {};
    u32 turn = 0;
    if (work.begin < work.end) stage(p, work, stages, work.begin);
#pragma unroll 1
    for (u32 column = work.begin; column < work.end; column += DEPTH, ++turn) {
        copies_arrived<0>();
        __syncthreads();
        ELEMENT *current = stages + turn % 2 * (A_ELEMENTS + B_ELEMENTS), *other = stages + (turn + 1) % 2 * (A_ELEMENTS + B_ELEMENTS);
        if (column + DEPTH < work.end) stage(p, work, other, column + DEPTH);
        multiply(c, current, current + A_ELEMENTS);
    }
    __syncthreads();
    const u32 warp = threadIdx.x / 32, example = work.example + 16 * warp;
    if (example >= p.b) return;
    const u32 rows = min(16u, p.b - example);
    unsigned char *own = shared + warp * OUT_BYTES;
    if (p.partial) {
        float *tile = reinterpret_cast<float *>(own);
        park_tile<float, MATH>(c, tile);
        write_partial(p, work, tile, example, rows);
    } else {
        GRADIENT *tile = reinterpret_cast<GRADIENT *>(own);
        park_tile<GRADIENT, MATH>(c, tile);
        GRADIENT *to = p.out.data + i64(example) * p.out.row + i64(work.position) * p.out.position + i64(work.channel) * p.out.channel;
        write_tile(tile, to, p.out.row, p.out.channel, rows, p.out.channels - work.channel, p.out.aligned);
    }
}

struct MixBackwardSumParams {
    const float *partial; // (slices, r, b, channels)
    Matrix<GRADIENT> out; // (b, r, channels)
    u32 slices, r, b, padding;
};
static_assert(sizeof(MixBackwardSumParams) == 64, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(256, 32) mix_backward_sum(const __grid_constant__ MixBackwardSumParams p) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x, slice = u64(p.r) * p.b * p.out.channels;
    if (at >= slice) return;
    float sum = p.partial[at];
    for (u32 s = 1; s < p.slices; ++s) sum += p.partial[s * slice + at];
    const u32 channel = u32(at % p.out.channels), row = u32(at / p.out.channels % p.b), position = u32(at / p.out.channels / p.b);
    p.out.data[i64(row) * p.out.row + i64(position) * p.out.position + i64(channel) * p.out.channel] = from_float<GRADIENT>(sum);
}
