// Gradients of mixed features and targets with respect to what was mixed.
//
//   dZ (b, r, d):  dZ_i = sum_k M_ik dZ~_k at each position        dY (b, c):  dY_i = sum_j sum_k M^j_ik dY~^j_k
//
// M (r, b, columns) is read from a workspace that kernel `weights` filled with some columns of the mix matrix, in ELEMENT, each
// row on a 16-byte boundary. Reading it costs 2 or 4 bytes from cache for each tile of 64 channels; drawing it again cost some 70
// instructions. The gradient of attention has a kernel of its own (mix_backward_attention.cu).
//
// kernel `mix_backward`   dZ with -DSIDE=0: dZ~ (n, r, d) of ELEMENT; dY with -DSIDE=1: dY~ (n, r, c) in f32. Rows of M: examples
// grid                    x = r * ceil(b / (16 WARPS)) * ceil(channels / 64) * splits (split.cuh). A block sums its split's share
//                         of the columns for 16 WARPS examples, 64 channels.
// block                   32 WARPS
// shared                  two stages of both operands, and a tile a warp in the same place
// output                  without `partial`: `out` itself, ELEMENT (SIDE 0) or f32 (SIDE 1, only where r = 1); with splits = 1
//                         with `partial`: slices (split.cuh), which `split_sum` adds up, for SIDE 1 as splits * r of r = 1
// defines                 -DELEMENT=  -DMATH=  -DSIDE=  -DWARPS=
//
// More columns than the workspace holds: fill and launch again, with `accumulate` from the second time on.
// Deterministic: columns are added in order within a split.
#include "split.cuh"
#include "stage.cuh"

using GRADIENT = Select<SIDE == 0, ELEMENT, float>::Type;

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
static_assert(SHARED_BYTES == larger_of(2 * (A_ELEMENTS + B_ELEMENTS) * u32(sizeof(ELEMENT)), WARPS *OUT_BYTES),
              "counted by the host");

__device__ __forceinline__ void stage(const MixBackwardParams &p, const Work &work, ELEMENT *to, u32 column) {
    stage_block<THREADS, ROWS, DEPTH, A_PITCH>(to, p.weights, work.position, work.example, p.b, column);
    stage_any<THREADS, DEPTH, TILE, STAGE_PITCH<ELEMENT>>(to + A_ELEMENTS, p.mixed, work.position, column, work.end,
                                                          work.channel);
    commit_copies();
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 16) mix_backward(const __grid_constant__ MixBackwardParams p) {
    extern __shared__ __align__(16) unsigned char shared[];
    ELEMENT *stages = reinterpret_cast<ELEMENT *>(shared);
    const Work work = find_work<ROWS, DEPTH>(p.splits, p.b, p.mixed.channels, p.weights.channels);
    float c[8][4] = {};
    u32 turn = 0;
    if (work.begin < work.end) stage(p, work, stages, work.begin);
#pragma unroll 1
    for (u32 column = work.begin; column < work.end; column += DEPTH, ++turn) {
        copies_arrived<0>();
        __syncthreads();
        ELEMENT *current = stages + turn % 2 * (A_ELEMENTS + B_ELEMENTS),
                *other = stages + (turn + 1) % 2 * (A_ELEMENTS + B_ELEMENTS);
        if (column + DEPTH < work.end) stage(p, work, other, column + DEPTH);
        multiply_rows<A_PITCH, DEPTH / STEP<ELEMENT>>(c, current, current + A_ELEMENTS, DEPTH);
    }
    __syncthreads();
    const u32 warp = threadIdx.x / 32, example = work.example + 16 * warp;
    if (example >= p.b) return;
    const u32 rows = min(16u, p.b - example);
    unsigned char *own = shared + warp * OUT_BYTES;
    if (p.partial) {
        float *tile = reinterpret_cast<float *>(own);
        park_tile(c, tile, first_row());
        write_partial(p.partial, work, p.r, p.b, p.mixed.channels, tile, example, rows, p.accumulate);
    } else {
        GRADIENT *tile = reinterpret_cast<GRADIENT *>(own);
        park_tile(c, tile, first_row());
        write_tile(tile, p.out, example, work.position, work.channel, rows);
    }
}
