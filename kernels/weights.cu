// The sampler on its own: Lambda, equations (1)-(4), or the mix matrix and its masses, equations (5) and (6).
//
//   Lambda_ik = g_ik / sum_l g_lk        M_ik = a_i g_ik / sum_l a_l g_lk        s_k = sum_i a_i Lambda_ik
//
// For inspection, and for the kernels that read columns from a workspace: mix_backward, loss_backward_attention, and the loss of
// more examples than a block draws.
//
// kernel `weights`        out (r, b, columns) of ELEMENT, any strides; mass (r, columns) in f32
// grid                    x = r * ceil(columns / (16 WARPS)), position slowest; a warp makes 16 columns of one position
// block                   32 WARPS
// shared                  a slab and scratch a warp
// -DELEMENT= float|f16|bf16   -DDRAW= 0..5 (draw.cuh)   -DPANEL= multiple of 64   -DMULTI= 0: b <= PANEL, 1: any b   -DWARPS=
//
// Deterministic: every element is made by one lane from its own counters, sums run in the contract's order.
#include "columns.cuh"

struct WeightsParams {
    Sampler sampler;
    ELEMENT *out;            // null: masses only
    float *mass;             // null: not wanted
    i64 out_r, out_b, out_n; // strides in elements
    i64 mass_r;              // distance between positions; columns are contiguous
    u32 first, columns;      // column k of out's column 0, how many columns
    u32 matrix;              // 0: Lambda, 1: the mix matrix
    u32 aligned;             // columns contiguous, every row of every position on a 16-byte boundary
};
static_assert(sizeof(WeightsParams) == 168, "mirrored by the host");

using WeightsColumns = Columns<DRAW, PANEL, MULTI>;
static_assert(SHARED_BYTES == WARPS * (WeightsColumns::SLAB_FLOATS * 4 + sizeof(DrawScratch)), "counted by the host");

// Element m of a lane's four, for m known only at run time.
__device__ __forceinline__ float pick(const float (&x)[4], u32 m) {
    const float low = m & 1 ? x[1] : x[0], high = m & 1 ? x[3] : x[2];
    return m & 2 ? high : low;
}

// Four neighbouring columns of one example a lane. Lane (i, q) = (lane / 4, lane % 4) reads its columns 4 q .. 4 q + 4 in an
// order of its own, so that lanes with the same i do not meet in a bank.
__device__ __forceinline__ void write_quads(const WeightsParams &p, const WeightsColumns &columns, u32 column, u32 begin) {
    const u32 q = lane_id() % 4, left = p.columns - column, examples = columns.examples_from(begin);
    const float *quad = columns.drawer.slab + 4 * q * WeightsColumns::PITCH;
    ELEMENT *out = p.out + i64(columns.drawer.j) * p.out_r + column + 4 * q;
    for (u32 i = lane_id() / 4; i < examples; i += 8) {
        float read[4];
#pragma unroll
        for (u32 m = 0; m < 4; ++m) read[m] = quad[(m + q) % 4 * WeightsColumns::PITCH + i];
        float x[4];
#pragma unroll
        for (u32 m = 0; m < 4; ++m) x[m] = pick(read, (m - q) % 4);
        ELEMENT *at = out + i64(begin + i) * p.out_b;
        if (4 * q + 4 <= left) {
            store_four(at, make_float4(x[0], x[1], x[2], x[3]));
        } else {
#pragma unroll
            for (u32 m = 0; m < 4; ++m)
                if (4 * q + m < left) at[m] = from_float<ELEMENT>(x[m]);
        }
    }
}

// Sixteen columns of two examples at a time: any strides, whole sectors where columns are contiguous.
__device__ __forceinline__ void write_elements(const WeightsParams &p, const WeightsColumns &columns, u32 column, u32 begin) {
    const u32 own = lane_id() % COLUMNS, examples = columns.examples_from(begin);
    if (column + own >= p.columns) return;
    ELEMENT *out = p.out + i64(columns.drawer.j) * p.out_r + i64(column + own) * p.out_n;
    for (u32 i = lane_id() / COLUMNS; i < examples; i += 2)
        out[i64(begin + i) * p.out_b] = from_float<ELEMENT>(columns.drawer.slab[own * WeightsColumns::PITCH + i]);
}

__device__ __forceinline__ void write_masses(const WeightsParams &p, const WeightsColumns &columns, u32 column) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const u32 own = column + columns.drawer.row(half);
        if (lane_id() % 4 == 0 && own < p.columns) p.mass[i64(columns.drawer.j) * p.mass_r + own] = columns.column_mass(half);
    }
}

extern "C" __global__ void LAUNCH_BOUNDS(32 * WARPS, 16) weights(const __grid_constant__ WeightsParams p) {
    extern __shared__ __align__(16) unsigned char shared[];
    const u32 warp = threadIdx.x / 32;
    float *slab = reinterpret_cast<float *>(shared) + warp * WeightsColumns::SLAB_FLOATS;
    auto *scratch = reinterpret_cast<DrawScratch *>(shared + WARPS * WeightsColumns::SLAB_FLOATS * sizeof(float)) + warp;
    const u32 tiles = ceil_div(p.columns, COLUMNS * WARPS);
    const u32 column = (blockIdx.x % tiles * WARPS + warp) * COLUMNS;
    if (column >= p.columns) return;
    WeightsColumns columns(p.sampler, blockIdx.x / tiles, p.first + column, slab, scratch);
    columns.total();
    if (p.mass) write_masses(p, columns, column);
    if (!p.out) return;
    for (u32 panel = 0; panel < columns.panels(); ++panel) {
        if (MULTI) columns.again(panel * PANEL);
        columns.normalise(panel * PANEL, p.matrix);
        if (p.aligned)
            write_quads(p, columns, column, panel * PANEL);
        else
            write_elements(p, columns, column, panel * PANEL);
    }
}
