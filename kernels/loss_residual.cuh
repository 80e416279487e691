// The residual G of a block's 64 columns by 64 classes, the common part of both gradients of the loss:
//
//   G_k = v_k (t_k softmax(S~_k) - Y~_k)
//
// with S~ and Y~ made anew from the mix matrix, panel after panel of PANEL examples, by four warps of 16 columns each. The
// block's own panel comes last and stays staged. Labels are summed in shared memory in f32, soft rows by a second product.
//
// Needs -DELEMENT=, -DMATH=, -DTARGETS=, -DPANEL= 64 or 128.
#pragma once
#include "loss_tile.cuh"
#include "math.cuh"

constexpr u32 WARPS = 4, THREADS = 32 * WARPS;
constexpr u32 SPAN = 16 * WARPS; // columns at a time
static_assert(PANEL % 64 == 0, "a warp's share of a panel is whole tiles of 16 examples");

// What both gradients read.
struct LossInput {
    Matrix<const Number> matrix;  // M of a chunk as (b, r, columns): `row` between examples; channels = columns
    Matrix<const ELEMENT> logits; // (b, r, c)
    Matrix<const float> soft;     // (b, c), with TARGETS 2
    const u32 *labels;            // (b), with TARGETS 1
    const float *statistics;      // (r, 6, statistics_stride) of the same chunk, from loss_forward
    i64 statistics_stride;
    const float *ranges; // (r), from loss_sums
    u32 b, r;
};
static_assert(sizeof(LossInput) == 160, "mirrored by the host");

// f32 targets have a place of their own only where residuals are 16 bits wide.
constexpr u32 PANEL_BYTES = PANEL * PITCH * sizeof(Number);
constexpr u32 RESIDUAL_BYTES = SPAN * PITCH * sizeof(Number);
constexpr u32 TARGET_PITCH = is_16_bit<Number> ? OUT_PITCH : PITCH;
constexpr u32 TARGET_BYTES = !is_16_bit<Number> ? 0 : TARGETS == SOFT_ROWS ? PANEL_BYTES : SPAN * TARGET_PITCH * 4;
static_assert(is_16_bit<Number> || TARGETS != SOFT_ROWS || PANEL_BYTES <= RESIDUAL_BYTES, "soft rows are staged where residuals go");

// Shared memory of a block.
struct ResidualShared {
    Number *matrix, *logits; // panels, rows PITCH apart
    Number *residual;        // [column][class], rows PITCH apart
    Number *soft;            // a panel
    float *targets;          // [column][class], rows TARGET_PITCH apart
    float *statistics;       // [LOG2_SUM, SHARE, TOTAL][column]
    u32 *list, *length;      // of the panel's examples with a label in the tile: class << 16 | example
};
constexpr u32 SMALL_BYTES = 3 * SPAN * 4 + (TARGETS == SOFT_ROWS ? 0 : PANEL * 4 + 16);
constexpr u32 RESIDUAL_SHARED = 2 * PANEL_BYTES + RESIDUAL_BYTES + TARGET_BYTES + SMALL_BYTES;

__device__ __forceinline__ ResidualShared partition() {
    extern __shared__ __align__(16) unsigned char bytes[];
    unsigned char *residual = bytes + 2 * PANEL_BYTES, *targets = residual + (TARGET_BYTES ? RESIDUAL_BYTES : 0);
    float *statistics = reinterpret_cast<float *>(residual + RESIDUAL_BYTES + TARGET_BYTES);
    u32 *list = reinterpret_cast<u32 *>(statistics + 3 * SPAN);
    return {reinterpret_cast<Number *>(bytes),   reinterpret_cast<Number *>(bytes + PANEL_BYTES),
            reinterpret_cast<Number *>(residual), reinterpret_cast<Number *>(targets),
            reinterpret_cast<float *>(targets),  statistics,
            list + 4,                            list};
}

// What a block works on.
struct ResidualWork {
    u32 position, example, channel; // the first of its examples and classes
    u32 panels, split;
    u32 begin, end; // columns
};

// The grid: position slowest, then panels of examples, tiles of classes, splits of the columns.
__device__ __forceinline__ ResidualWork find_work(const LossInput &in, u32 splits) {
    u32 at = blockIdx.x;
    const u32 class_tiles = ceil_div(in.logits.channels, TILE), spans = ceil_div(in.matrix.channels, SPAN);
    ResidualWork work;
    work.panels = ceil_div(in.b, u32(PANEL));
    work.split = at % splits, at /= splits;
    work.channel = at % class_tiles * TILE, at /= class_tiles;
    work.example = at % work.panels * PANEL;
    work.position = at / work.panels;
    work.begin = u32(u64(spans) * work.split / splits) * SPAN;
    work.end = min(u32(u64(spans) * (work.split + 1) / splits) * SPAN, in.matrix.channels);
    return work;
}

// S~ of 16 columns by 64 classes: columns of M in rows of `matrix`, examples apart by PITCH.
template <class T>
__device__ __forceinline__ void multiply_columns(float (&c)[8][4], const T *matrix, const T *rows, u32 examples) {
    const T *own = matrix + threadIdx.x / 32 * 16;
    if constexpr (MATH == EXACT) {
#pragma unroll 4
        for (u32 i = 0; i < examples; ++i) {
            const float4 m = *reinterpret_cast<const float4 *>(own + i * PITCH + lane_id() / 8 * 4);
            const float weights[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float4 z = *reinterpret_cast<const float4 *>(rows + i * PITCH + 32 * half + lane_id() % 8 * 4);
#pragma unroll
                for (u32 y = 0; y < 4; ++y) {
                    float(&sum)[4] = c[2 * y + half];
                    sum[0] = __fmaf_rn(weights[y], z.x, sum[0]);
                    sum[1] = __fmaf_rn(weights[y], z.y, sum[1]);
                    sum[2] = __fmaf_rn(weights[y], z.z, sum[2]);
                    sum[3] = __fmaf_rn(weights[y], z.w, sum[3]);
                }
            }
        }
    } else {
#pragma unroll 2
        for (u32 i = 0; i < examples; i += STEP<T>) {
            u32 a[4];
            if constexpr (is_16_bit<T>) {
                // Tiles in the order of A: examples 0-7 of columns 0-7, of columns 8-15, then examples 8-15.
                load_matrices_transposed(a, own + (i + lane_id() % 8 + lane_id() / 16 * 8) * PITCH + lane_id() / 8 % 2 * 8);
            } else {
                const T *pair = own + (i + 2 * (lane_id() % 4)) * PITCH + lane_id() / 4;
                a[0] = to_tf32(pair[0]), a[1] = to_tf32(pair[8]);
                a[2] = to_tf32(pair[PITCH]), a[3] = to_tf32(pair[PITCH + 8]);
            }
            multiply_fragment(c, a, rows + i * PITCH);
        }
    }
}

// The lane's first row of a fragment made by `multiply_columns`, and how far apart its rows are.
__device__ __forceinline__ u32 first_column() {
    return threadIdx.x / 32 * 16 + (MATH == EXACT ? lane_id() / 8 * 4 : lane_id() / 4);
}
constexpr u32 COLUMN_STEP = MATH == EXACT ? 1 : 8;

// Lists the panel's examples whose label lies in the tile, in order.
__device__ __forceinline__ void list_labels(const LossInput &in, const ResidualShared &shared, u32 begin, u32 channel) {
    if (threadIdx.x >= 32) return;
    u32 length = 0;
#pragma unroll 1
    for (u32 i = lane_id(); i < PANEL; i += 32) {
        const u32 label = begin + i < in.b ? __ldg(in.labels + begin + i) - channel : TILE;
        const u32 ballot = __ballot_sync(ALL_LANES, label < TILE);
        if (label < TILE) shared.list[length + __popc(ballot & ((1u << lane_id()) - 1))] = label << 16 | i;
        length += __popc(ballot);
    }
    if (lane_id() == 0) *shared.length = length;
}

// Adds the listed examples to the mixed targets. A thread owns one column and every other class.
__device__ __forceinline__ void add_labels(const ResidualShared &shared) {
    const u32 column = threadIdx.x % SPAN, parity = threadIdx.x / SPAN, length = *shared.length;
#pragma unroll 1
    for (u32 at = 0; at < length; ++at) {
        const u32 label = shared.list[at] >> 16, i = shared.list[at] & 0xffff;
        if (label % 2 == parity) shared.targets[column * TARGET_PITCH + label] += to_float(shared.matrix[i * PITCH + column]);
    }
}

__device__ __forceinline__ void stage_statistics(const LossInput &in, const ResidualShared &shared, u32 position, u32 column) {
    const float *from = in.statistics + i64(position) * STATISTICS * in.statistics_stride;
    for (u32 x = threadIdx.x; x < 3 * SPAN; x += THREADS) {
        const u32 k = column + x % SPAN;
        shared.statistics[x] = k < in.matrix.channels ? from[x / SPAN * in.statistics_stride + k] : 0.0f;
    }
}

// S~ and Y~ of the span of columns from `column` on. Logits and targets of an only panel stay from the first span on.
__device__ __forceinline__ void sum_columns(const LossInput &in, const ResidualShared &shared, const ResidualWork &work, u32 column,
                                            float (&s)[8][4], float (&y)[8][4]) {
    constexpr bool KEEPS_SOFT = is_16_bit<Number>;
    const bool resident = work.panels == 1 && column > work.begin;
    __syncthreads();
    if constexpr (TARGETS != SOFT_ROWS)
        for (u32 x = threadIdx.x; x < SPAN * TARGET_PITCH / 4; x += THREADS) store_pack(shared.targets + 4 * x, {{0, 0, 0, 0}});
    stage_statistics(in, shared, work.position, column);
#pragma unroll 1
    for (u32 turn = 0; turn < work.panels; ++turn) {
        const u32 begin = (work.example / PANEL + 1 + turn) % work.panels * PANEL;
        if (turn > 0) __syncthreads();
        stage_block<Number, THREADS, PANEL, TILE, PITCH>(shared.matrix, in.matrix, work.position, begin, in.b, column);
        if (!resident) stage_rows<THREADS, PANEL>(shared.logits, in.logits, work.position, begin, in.b, work.channel);
        if constexpr (TARGETS == SOFT_ROWS) {
            if (!resident || !KEEPS_SOFT) stage_rows<THREADS, PANEL>(shared.soft, in.soft, 0, begin, in.b, work.channel);
        } else {
            if (!resident) list_labels(in, shared, begin, work.channel);
        }
        commit_copies();
        copies_arrived<0>();
        __syncthreads();
        const u32 examples = ceil_div(min(in.b - begin, u32(PANEL)), STEP<Number>) * STEP<Number>;
        if constexpr (TARGETS != SOFT_ROWS) add_labels(shared);
        multiply_columns(s, shared.matrix, shared.logits, examples);
        if constexpr (TARGETS == SOFT_ROWS) multiply_columns(y, shared.matrix, shared.soft, examples);
    }
    __syncthreads();
    if constexpr (TARGETS != SOFT_ROWS) load_tile<TARGET_PITCH>(y, shared.targets, first_column(), COLUMN_STEP);
}

// A fragment of 16 columns by 64 classes into the block's residual.
template <class T> __device__ __forceinline__ void park_residual(const float (&c)[8][4], T *residual) {
    T *row = residual + first_column() * PITCH;
#pragma unroll
    for (u32 x = 0; x < 8; ++x) {
        if constexpr (MATH == EXACT) {
            *reinterpret_cast<float4 *>(row + x / 2 * PITCH + class_of(x, 0)) = make_float4(c[x][0], c[x][1], c[x][2], c[x][3]);
        } else if constexpr (is_16_bit<T>) {
            *reinterpret_cast<u32 *>(row + class_of(x, 0)) = Convert<T>::pair(c[x][0], c[x][1]);
            *reinterpret_cast<u32 *>(row + 8 * PITCH + class_of(x, 0)) = Convert<T>::pair(c[x][2], c[x][3]);
        } else {
            *reinterpret_cast<float2 *>(row + class_of(x, 0)) = make_float2(c[x][0], c[x][1]);
            *reinterpret_cast<float2 *>(row + 8 * PITCH + class_of(x, 0)) = make_float2(c[x][2], c[x][3]);
        }
    }
}
