// The gradient of the loss with respect to the logits, equations (5)-(8):
//
//   dS_i = sum_k M_ik G_k        G_k = q_k (t_k softmax(S~_k) - Y~_k)        at each of r positions
//
// S~ and Y~ are made again tile by tile from the mix matrix M, which loss_forward or `weights` left in a workspace: reading an
// element costs 2 or 4 bytes from cache for each tile of 64 classes, drawing it again cost some 70 instructions.
//
// kernel `loss_backward`  after loss_forward with `statistics` and loss_sums for the same chunk of columns
// grid     x = r * ceil(b / PANEL) * ceil(c / 64) * splits (split.cuh). A block sums its split's share of the columns for PANEL
//          examples and 64 classes.
// block    128
// shared   as loss_residual.cuh divides it
// output   without `partial`: `out` itself; only with splits = 1 and one chunk, after loss_finish
//          with `partial`: slices (split.cuh), which `split_sum` adds up with shares and upstream, after loss_finish
// defines  -DELEMENT=  -DOUT= float|f16|bf16, of dS  -DMATH= 0 f32 exact, 1 tf32, 2 16 bits (0 and 1 take any ELEMENT)
//          -DTARGETS= 1 labels, 2 soft  -DPANEL= 64, or 128 with MATH 2
//
// More than PANEL examples: S~ and Y~ are summed panel by panel, and anew in each of the ceil(b / PANEL) blocks of a class tile.
// In 16 bits G is scaled by a power of two so that what matters of it is a normal number.
// Deterministic: columns are added in order within a split.
#include "loss_residual.cuh"

struct LossBackwardParams {
    LossInput input;
    Matrix<OUT> out; // dS (b, r, c)
    float *partial;
    const double *shares;  // (r), from loss_finish
    const float *upstream; // null: `factor` alone
    float factor;
    u32 splits, accumulate, padding;
};
static_assert(sizeof(LossBackwardParams) == 264, "mirrored by the host");

constexpr u32 ROW_TILES = PANEL / (16 * WARPS); // of 16 examples, of one warp
constexpr float RESIDUAL_SCALE = SAME<Number, f16> ? 1024.0f : 1.0f;
static_assert(SHARED_BYTES == RESIDUAL_SHARED, "counted by the host");
static_assert(MATRIX_BYTES + PANEL_BYTES >= WARPS * OUT_BYTES, "tiles are parked where panels were");

// G of the block's span of columns, up to its scale.
__device__ __forceinline__ void make_residual(const ResidualShared &shared, float (&s)[8][4], const float (&y)[8][4],
                                              float scale) {
    const float *statistics = shared.statistics + first_column();
#pragma unroll
    for (u32 m = 0; m < LANE_ROWS; ++m) {
        const float log2_sum = statistics[LOG2_SUM * SPAN + m * ROW_STEP];
        const float share = statistics[SHARE * SPAN + m * ROW_STEP] * scale;
        const float total = statistics[TOTAL * SPAN + m * ROW_STEP];
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q)
                if (lane_row(x, q) == m) {
                    const float p = fast_exp2(__fmaf_rn(s[x][q], LOG2_E, -log2_sum));
                    s[x][q] = share > 0.0f ? share * __fmaf_rn(total, p, -y[x][q]) : 0.0f;
                }
    }
    store_tile<PITCH>(s, shared.residual, first_column());
}

// Sixteen rows of the block's examples to where they belong, times `scale`.
__device__ __forceinline__ void write_rows(const LossBackwardParams &p, const Work &work, float (&c)[8][4], u32 example,
                                           float scale) {
    extern __shared__ __align__(16) unsigned char shared[];
    if (example >= p.input.b) return;
    const u32 rows = min(16u, p.input.b - example);
    unsigned char *own = shared + threadIdx.x / 32 * OUT_BYTES;
#pragma unroll
    for (u32 x = 0; x < 8; ++x)
#pragma unroll
        for (u32 q = 0; q < 4; ++q) c[x][q] *= scale;
    // Tensor cores' fragments are parked as what they become; exact ones as float.
    if constexpr (MATH == HALF || SAME<OUT, float>) {
        if (!p.partial) {
            OUT *tile = reinterpret_cast<OUT *>(own);
            park_tile<EXAMPLE_STEP>(c, tile, first_example());
            write_tile(tile, p.out, example, work.position, work.channel, rows);
            return;
        }
    }
    float *tile = reinterpret_cast<float *>(own);
    park_tile<EXAMPLE_STEP>(c, tile, first_example());
    if (p.partial) {
        write_partial(p.partial, work, p.input.r, p.input.b, p.input.logits.channels, tile, example, rows, p.accumulate);
    } else {
        for (u32 x = lane_id(); x < rows * TILE; x += 32)
            if (work.channel + x % TILE < p.out.channels)
                *p.out.at(example + x / TILE, work.position, work.channel + x % TILE) =
                    from_float<OUT>(tile[x / TILE * OUT_PITCH + x % TILE]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) loss_backward(const __grid_constant__ LossBackwardParams p) {
    const ResidualShared shared = partition();
    const Work work = find_work(p.input, p.splits);
    const float range = p.input.ranges[work.position], scale = range * RESIDUAL_SCALE;
    float c[ROW_TILES][8][4] = {};
#pragma unroll 1
    for (u32 column = work.begin; column < work.end; column += SPAN) {
        float s[8][4] = {}, y[8][4] = {};
        sum_columns(p.input, shared, work, column, s, y);
        make_residual(shared, s, y, scale);
        __syncthreads();
#pragma unroll
        for (u32 tile = 0; tile < ROW_TILES; ++tile)
            multiply_examples(c[tile], shared.matrix, (threadIdx.x / 32 * ROW_TILES + tile) * 16, shared.residual);
    }
    __syncthreads();
    const double share = p.partial ? 1.0 : p.shares[work.position] * upstream_of(p.factor, p.upstream);
    const float undo = float(share / (double(range) * RESIDUAL_SCALE));
#pragma unroll
    for (u32 tile = 0; tile < ROW_TILES; ++tile)
        write_rows(p, work, c[tile], work.example + (threadIdx.x / 32 * ROW_TILES + tile) * 16, undo);
}
