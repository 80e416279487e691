// The residual G of a block's 64 columns by 64 classes, the common part of both gradients of the loss:
//
//   G_k = v_k (t_k softmax(S~_k) - Y~_k)
//
// with S~ and Y~ made anew from the mix matrix, panel after panel of PANEL examples, by four warps of 16 columns each. The
// block's own panel comes last and stays staged. Y~ is a second product, with soft rows or in 16 bits with the one-hot rows of
// the labels; in f32, where that would cost as much as S~ does, labels are added up in shared memory.
//
// Needs -DELEMENT=, -DMATH=, -DTARGETS=, -DPANEL= 64, or 128 with MATH 2.
#pragma once
#include "loss_tile.cuh"
#include "math.cuh"
#include "split.cuh"

constexpr u32 WARPS = 4, THREADS = 32 * WARPS;
constexpr u32 SPAN = 16 * WARPS; // columns at a time
static_assert(PANEL == 64 || (PANEL == 128 && MATH == HALF), "a warp's share of a panel is whole tiles of 16 examples");

// What both gradients read.
struct LossInput {
    Matrix<const Number> matrix;  // M of a chunk, (r, columns, b): `row` between columns; channels = b, aligned
    Matrix<const ELEMENT> logits; // (b, r, c)
    Matrix<const float> soft;     // (b, c), with TARGETS 2
    Labels labels;                // (b), with TARGETS 1
    const float *statistics;      // (r, 6, statistics_stride) of the same chunk, from loss_forward
    i64 statistics_stride;
    const float *ranges; // (r), from loss_sums
    u32 b, r, columns, padding;
};
static_assert(sizeof(LossInput) == 184, "mirrored by the host");

constexpr bool SECOND_PRODUCT = TARGETS == SOFT_ROWS || is_16_bit<Number>;
constexpr u32 MATRIX_PITCH = PANEL + PER_PACK<Number>;
constexpr u32 MATRIX_BYTES = SPAN * MATRIX_PITCH * sizeof(Number);
constexpr u32 PANEL_BYTES = PANEL * PITCH * sizeof(Number);
constexpr u32 RESIDUAL_BYTES = SPAN * PITCH * sizeof(Number);
// Targets have a place of their own, and stay there, only in 16 bits; else they lie where the residual comes after them.
constexpr u32 TARGET_BYTES = is_16_bit<Number> ? PANEL_BYTES : 0;
static_assert(is_16_bit<Number> || PANEL_BYTES <= RESIDUAL_BYTES, "targets are staged where residuals go");
constexpr u32 SMALL_BYTES = 3 * SPAN * 4 + (SECOND_PRODUCT ? 0 : PANEL * 4 + 16);
constexpr u32 RESIDUAL_SHARED = MATRIX_BYTES + PANEL_BYTES + RESIDUAL_BYTES + TARGET_BYTES + SMALL_BYTES;

// Shared memory of a block.
struct ResidualShared {
    Number *matrix;     // [column][example], rows MATRIX_PITCH apart
    Number *logits;     // [example][class], rows PITCH apart
    Number *residual;   // [column][class], rows PITCH apart
    Number *targets;    // [example][class] where there is a second product, else sums [column][class]; rows PITCH apart
    float *statistics;  // [LOG2_SUM, SHARE, TOTAL][column]
    u32 *length, *list; // of the panel's examples with a label in the tile: class << 16 | example
};

__device__ __forceinline__ ResidualShared partition() {
    extern __shared__ __align__(16) unsigned char bytes[];
    unsigned char *logits = bytes + MATRIX_BYTES, *residual = logits + PANEL_BYTES;
    unsigned char *targets = is_16_bit<Number> ? residual + RESIDUAL_BYTES : residual;
    unsigned char *small = residual + RESIDUAL_BYTES + TARGET_BYTES, *length = small + 3 * SPAN * 4;
    return {reinterpret_cast<Number *>(bytes),   reinterpret_cast<Number *>(logits), reinterpret_cast<Number *>(residual),
            reinterpret_cast<Number *>(targets), reinterpret_cast<float *>(small),   reinterpret_cast<u32 *>(length),
            reinterpret_cast<u32 *>(length + 16)};
}

__device__ __forceinline__ Work find_work(const LossInput &in, u32 splits) {
    return find_work<PANEL, SPAN>(splits, in.b, in.logits.channels, in.columns);
}

// Four columns at a time of sixteen examples, columns of M, times rows of the residual, in f32. Lane (y, x) holds examples
// 4 y + m in place of y + 4 m.
__device__ __forceinline__ void multiply_exact_turned(float (&c)[8][4], const float *matrix, const float *rows) {
#pragma unroll
    for (u32 k = 0; k < 4; ++k) {
        const float4 m = *reinterpret_cast<const float4 *>(matrix + k * MATRIX_PITCH + lane_id() / 8 * 4);
        add_products(c, {m.x, m.y, m.z, m.w}, rows + k * PITCH);
    }
}

// Sixteen examples from `example` of the panel on, columns of M, times the residual.
template <class T>
__device__ __forceinline__ void multiply_examples(float (&c)[8][4], const T *matrix, u32 example, const T *residual) {
    const T *own = matrix + example;
    if constexpr (MATH == EXACT) {
#pragma unroll 2
        for (u32 k = 0; k < SPAN; k += 4) multiply_exact_turned(c, own + k * MATRIX_PITCH, residual + k * PITCH);
    } else {
#pragma unroll
        for (u32 k = 0; k < SPAN; k += STEP<T>) {
            u32 a[4];
            if constexpr (is_16_bit<T>) {
                // Tiles in the order of A: columns 0-7 of examples 0-7, of examples 8-15, then columns 8-15.
                load_matrices_transposed(a,
                                         own + (k + lane_id() % 8 + lane_id() / 16 * 8) * MATRIX_PITCH + lane_id() / 8 % 2 * 8);
            } else {
                const T *pair = own + (k + 2 * (lane_id() % 4)) * MATRIX_PITCH + lane_id() / 4;
                a[0] = to_tf32(pair[0]), a[1] = to_tf32(pair[8]);
                a[2] = to_tf32(pair[MATRIX_PITCH]), a[3] = to_tf32(pair[MATRIX_PITCH + 8]);
            }
            multiply_fragment(c, a, residual + k * PITCH);
        }
    }
}

// The lane's first row of what `multiply_examples` makes, and how far apart its rows are.
__device__ __forceinline__ u32 first_example() { return MATH == EXACT ? lane_id() / 8 * 4 : lane_id() / 4; }
constexpr u32 EXAMPLE_STEP = MATH == EXACT ? 1 : 8;

// The lane's first column of what `multiply_rows` makes.
__device__ __forceinline__ u32 first_column() { return threadIdx.x / 32 * 16 + first_row(); }

// Lists the panel's examples whose label lies in the tile, in order.
__device__ __forceinline__ void list_labels(const LossInput &in, const ResidualShared &shared, u32 begin, u32 channel) {
    if (threadIdx.x >= 32) return;
    u32 length = 0;
#pragma unroll 1
    for (u32 i = lane_id(); i < PANEL; i += 32) {
        const u32 label = (begin + i < in.b ? in.labels.at(begin + i) : NO_CLASS) - channel;
        const u32 ballot = __ballot_sync(ALL_LANES, label < TILE);
        if (label < TILE) shared.list[length + __popc(ballot & ((1u << lane_id()) - 1))] = label << 16 | i;
        length += __popc(ballot);
    }
    if (lane_id() == 0) *shared.length = length;
}

// Adds the listed examples to the sums of targets. A thread owns one column and every other class.
__device__ __forceinline__ void add_labels(const ResidualShared &shared) {
    const u32 column = threadIdx.x % SPAN, parity = threadIdx.x / SPAN, length = *shared.length;
    const Number *weights = shared.matrix + column * MATRIX_PITCH;
    float *sums = reinterpret_cast<float *>(shared.targets) + column * PITCH;
#pragma unroll 1
    for (u32 at = 0; at < length; ++at) {
        const u32 label = shared.list[at] >> 16, i = shared.list[at] & 0xffff;
        if (label % 2 == parity) sums[label] += to_float(weights[i]);
    }
}

__device__ __forceinline__ void stage_statistics(const LossInput &in, const ResidualShared &shared, u32 position, u32 column) {
    const float *from = in.statistics + i64(position) * STATISTICS * in.statistics_stride;
    for (u32 x = threadIdx.x; x < 3 * SPAN; x += THREADS) {
        const u32 k = column + x % SPAN;
        shared.statistics[x] = k < in.columns ? from[x / SPAN * in.statistics_stride + k] : 0.0f;
    }
}

// Stages the targets of a panel; `resident` where they are there already.
__device__ __forceinline__ void stage_targets(const LossInput &in, const ResidualShared &shared, u32 begin, u32 channel,
                                              bool resident) {
    if constexpr (!SECOND_PRODUCT) {
        if (!resident) list_labels(in, shared, begin, channel);
    } else if (!resident || !is_16_bit<Number>) {
        if constexpr (TARGETS == SOFT_ROWS)
            stage_any<THREADS, PANEL, TILE, PITCH>(shared.targets, in.soft, 0, begin, in.b, channel);
        else
            for (u32 row = 0; row < PANEL; row += CHUNK<Number>)
                stage_labels<THREADS>(shared.targets + row * PITCH, in.labels, begin + row, in.b, channel);
    }
}

// S~ and Y~ of the span of columns from `column` on. Logits and targets of an only panel stay from the first span on.
__device__ __forceinline__ void sum_columns(const LossInput &in, const ResidualShared &shared, const Work &work, u32 column,
                                            float (&s)[8][4], float (&y)[8][4]) {
    const u32 panels = ceil_div(in.b, u32(PANEL));
    const bool resident = panels == 1 && column > work.begin;
    __syncthreads();
    if constexpr (!SECOND_PRODUCT)
        for (u32 x = threadIdx.x; x < RESIDUAL_BYTES / 16; x += THREADS)
            store_pack(reinterpret_cast<unsigned char *>(shared.targets) + 16 * x, {{0, 0, 0, 0}});
    stage_statistics(in, shared, work.position, column);
#pragma unroll 1
    for (u32 turn = 0; turn < panels; ++turn) {
        const u32 begin = (work.example / PANEL + 1 + turn) % panels * PANEL;
        if (turn > 0) __syncthreads();
        stage_block<THREADS, SPAN, PANEL, MATRIX_PITCH>(shared.matrix, in.matrix, work.position, column, in.columns, begin);
        if (!resident) stage_any<THREADS, PANEL, TILE, PITCH>(shared.logits, in.logits, work.position, begin, in.b, work.channel);
        stage_targets(in, shared, begin, work.channel, resident);
        commit_copies();
        copies_arrived<0>();
        __syncthreads();
        const u32 examples = ceil_div(min(in.b - begin, u32(PANEL)), STEP<Number>) * STEP<Number>;
        multiply_rows<MATRIX_PITCH, 2>(s, shared.matrix, shared.logits, examples);
        if constexpr (SECOND_PRODUCT)
            multiply_rows<MATRIX_PITCH, 2>(y, shared.matrix, shared.targets, examples);
        else
            add_labels(shared);
    }
    const u32 first = column + threadIdx.x / 32 * 16;
    mend(s, in.logits, work.position, work.channel, in.b, [&](u32 row, u32 i) {
        return first + row < in.columns ? to_float(*in.matrix.at(first + row, work.position, i)) : 0.0f;
    });
    __syncthreads();
    if constexpr (!SECOND_PRODUCT) load_tile<PITCH>(y, reinterpret_cast<float *>(shared.targets) + threadIdx.x / 32 * 16 * PITCH);
}
