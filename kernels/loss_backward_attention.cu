// The gradient of the loss with respect to attention, equations (5)-(8), at each of r positions:
//
//   dM_ik = S_i . G_k - q_k Y_i . log p_k        m_k = sum_i M_ik dM_ik        da_i = sum_k (Lambda_ik / s_k) (dM_ik - m_k)
//
// and, where the reduction weighs by s, + sum_k Lambda_ik (CE_k - L_j) / (r sum_k s_k). Columns without mass give nothing. Summed
// over the columns first, with v_k = q_k / s_k up to the position's factor, this is
//
//   da_i = S_i . (sum_k Lambda_ik v_k (t_k p_k - Y~_k)) - Y_i . (sum_k Lambda_ik v_k log p_k) + sum_k Lambda_ik x_k
//
// so that no matrix of examples by columns has to exist: m_k, which goes into x_k, comes from loss_forward. All of it in f32,
// whatever the logits are, since leading digits cancel. Factors of columns are 2^-32 of what they should be until the last sum,
// which is in f64: 1 / s of tiny attention is huge. Masked classes, of logit -inf, take no part; nor does a position whose loss
// is infinite.
//
// kernel `loss_backward_attention`   after loss_forward with `statistics` and MATH 0 for the same chunk of columns
// grid     x = r * ceil(b / 64) * ceil(c / 64) * splits (split.cuh)
// block    128
// shared   as loss_residual.cuh divides it, and three factors a column
// partial  f32 (splits, ceil(c / 64) + 2, r, b): a slice for each tile of classes, then sum_k Lambda x, then sum_k Lambda of
//          the columns with mass; added to what is there where `accumulate`
// kernel `loss_backward_attention_sum`   da (b, r), zero for examples whose map was replaced; after loss_finish
// grid     x = ceil(b r / 256)        block 256
// defines  -DELEMENT=  -DMATH=0  -DTARGETS= 1 labels, 2 soft  -DPANEL=64
//
// Deterministic: columns are added in order within a split; slices are added in order.
#include "loss_residual.cuh"

static_assert(MATH == EXACT && PANEL == 64, "the gradient of attention is taken in f32");
static_assert(SHARED_BYTES == RESIDUAL_SHARED + 3 * SPAN * sizeof(float), "counted by the host");

struct LossAttentionParams {
    LossInput input;
    Matrix<const float> weights; // Lambda of the chunk, (r, columns, b), from `weights` with matrix = 0
    float *partial;
    u32 splits, accumulate, weighed, padding;
};
static_assert(sizeof(LossAttentionParams) == 248, "mirrored by the host");

// Of each column of the span, behind the residual's shared memory: v, x, and 1 where the column's mass counts in the reduction.
struct Factors {
    float *v, *x, *counts;
};

__device__ __forceinline__ Factors partition_factors() {
    extern __shared__ __align__(16) unsigned char bytes[];
    float *first = reinterpret_cast<float *>(bytes + RESIDUAL_SHARED);
    return {first, first + SPAN, first + 2 * SPAN};
}

__device__ __forceinline__ void make_factors(const LossAttentionParams &p, const Factors &factors, u32 position, u32 column) {
    const u32 own = threadIdx.x, k = column + own;
    if (own >= SPAN) return;
    const float *from = p.input.statistics + i64(position) * STATISTICS * p.input.statistics_stride + k;
    const auto statistic = [&](u32 which) { return k < p.input.columns ? from[which * p.input.statistics_stride] : 0.0f; };
    const float over_mass = statistic(OVER_MASS), v = statistic(SHARE) * (over_mass * DOWN);
    const bool counts = p.weighed && over_mass > 0.0f;
    factors.v[own] = v;
    factors.x[own] = over_mass > 0.0f ? (counts ? statistic(LOSS) * DOWN : 0.0f) - v * statistic(MEAN) : 0.0f;
    factors.counts[own] = counts ? DOWN : 0.0f;
}

// v (t p - Y~) in place of s, and v log p in place of y.
__device__ __forceinline__ void make_residuals(const ResidualShared &shared, const Factors &factors, float (&s)[8][4],
                                               float (&y)[8][4]) {
#pragma unroll
    for (u32 m = 0; m < LANE_ROWS; ++m) {
        const u32 column = first_column() + m * ROW_STEP;
        const float log2_sum = shared.statistics[LOG2_SUM * SPAN + column], total = shared.statistics[TOTAL * SPAN + column];
        const float v = factors.v[column];
#pragma unroll
        for (u32 x = 0; x < 8; ++x)
#pragma unroll
            for (u32 q = 0; q < 4; ++q)
                if (lane_row(x, q) == m) {
                    const float log2_p = __fmaf_rn(s[x][q], LOG2_E, -log2_sum);
                    const bool masked = s[x][q] == -__int_as_float(0x7f800000);
                    s[x][q] = v > 0.0f ? v * __fmaf_rn(total, fast_exp2(log2_p), -y[x][q]) : 0.0f;
                    y[x][q] = v > 0.0f && !masked ? v * (log2_p * LN_2) : 0.0f;
                }
    }
}

// Adds sum_k Lambda_ik x_k (threads of the first half) or the sum over columns that count (second half), an example a thread.
__device__ __forceinline__ float add_factors(float sum, const Factors &factors, const float *weights) {
    const float *factor = threadIdx.x < 64 ? factors.x : factors.counts, *own = weights + threadIdx.x % 64;
#pragma unroll 4
    for (u32 k = 0; k < SPAN; ++k) sum = __fmaf_rn(own[k * MATRIX_PITCH], factor[k], sum);
    return sum;
}

// Y_ic.
__device__ __forceinline__ float target(const LossInput &in, u32 i, u32 channel) {
    if constexpr (TARGETS == SOFT_ROWS) return *in.soft.at(i, 0, channel);
    return in.labels.at(i) == channel ? 1.0f : 0.0f;
}

// Where a value of example i goes.
__device__ __forceinline__ void write_partial(const LossAttentionParams &p, const Work &work, u32 split, u32 slice, u32 i,
                                              float value) {
    if (i >= p.input.b) return;
    const u32 slices = ceil_div(p.input.logits.channels, TILE) + 2;
    float *at = p.partial + ((u64(split) * slices + slice) * p.input.r + work.position) * p.input.b + i;
    *at = p.accumulate ? *at + value : value;
}

// S_i . g_i - Y_i . h_i over the tile's classes.
__device__ __forceinline__ void write_products(const LossAttentionParams &p, const Work &work, u32 split, const float (&g)[8][4],
                                               const float (&h)[8][4]) {
    const Matrix<const ELEMENT> &logits = p.input.logits;
#pragma unroll
    for (u32 m = 0; m < LANE_ROWS; ++m) {
        const u32 i = work.example + threadIdx.x / 32 * 16 + first_example() + m * EXAMPLE_STEP;
        float sum = 0.0f;
#pragma unroll
        for (u32 half = 0; half < 2; ++half)
#pragma unroll
            for (u32 q = 0; q < 4; ++q) {
                const u32 channel = work.channel + class_of(half, q), x = 2 * m + half;
                if (i >= p.input.b || channel >= logits.channels) continue;
                const float s = to_float(*logits.at(i, work.position, channel));
                sum = __fmaf_rn(s == -__int_as_float(0x7f800000) ? 0.0f : s, g[x][q], sum);
                sum = __fmaf_rn(-target(p.input, i, channel), h[x][q], sum);
            }
        sum = row_sum(sum);
        if (lane_id() % 8 == 0) write_partial(p, work, split, work.channel / TILE, i, sum);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) loss_backward_attention(const __grid_constant__ LossAttentionParams p) {
    const ResidualShared shared = partition();
    const Factors factors = partition_factors();
    const Work work = find_work(p.input, p.splits);
    const u32 own = threadIdx.x / 32 * 16;
    float g[8][4] = {}, h[8][4] = {}, sum = 0.0f;
#pragma unroll 1
    for (u32 column = work.begin; column < work.end; column += SPAN) {
        float s[8][4] = {}, y[8][4] = {};
        sum_columns(p.input, shared, work, column, s, y);
        make_factors(p, factors, work.position, column);
        stage_block<THREADS, SPAN, PANEL, MATRIX_PITCH>(shared.matrix, p.weights, work.position, column, p.input.columns,
                                                        work.example);
        commit_copies();
        copies_arrived<0>();
        __syncthreads();
        make_residuals(shared, factors, s, y);
        store_tile<PITCH>(s, shared.residual, first_column());
        __syncthreads();
        multiply_examples(g, shared.matrix, own, shared.residual);
        if (work.channel == 0) sum = add_factors(sum, factors, shared.matrix);
        __syncthreads();
        store_tile<PITCH>(y, shared.residual, first_column());
        __syncthreads();
        multiply_examples(h, shared.matrix, own, shared.residual);
    }
    write_products(p, work, work.split, g, h);
    if (work.channel == 0)
        write_partial(p, work, work.split, ceil_div(p.input.logits.channels, TILE) + threadIdx.x / 64,
                      work.example + threadIdx.x % 64, sum);
}

struct LossAttentionSumParams {
    const float *partial;  // (splits, tiles + 2, r, b)
    const double *sums;    // (r, 3), from loss_sums
    const double *shares;  // (r), from loss_finish
    const float *scales;   // (r), from prepare_attention
    const u32 *live;       // (b), from prepare_maps
    const float *upstream; // null: `factor` alone
    float *out;            // (b, r)
    i64 example, position; // its strides
    float factor;
    u32 splits, tiles, b, r, padding;
};
static_assert(sizeof(LossAttentionSumParams) == 96, "mirrored by the host");

extern "C" __global__ void __launch_bounds__(256) loss_backward_attention_sum(const __grid_constant__ LossAttentionSumParams p) {
    const u64 at = u64(blockIdx.x) * 256 + threadIdx.x, slice = u64(p.r) * p.b;
    if (at >= slice) return;
    const u32 i = u32(at % p.b), j = u32(at / p.b);
    double products = 0.0, counted = 0.0;
    for (u32 split = 0; split < p.splits; ++split) {
        const float *from = p.partial + u64(split) * (p.tiles + 2) * slice + at;
        for (u32 tile = 0; tile < p.tiles + 1; ++tile) products += from[tile * slice];
        counted += from[(p.tiles + 1) * slice];
    }
    const double mass = p.sums[3 * j + 2], mean = mass > 0.0 ? p.sums[3 * j] / mass : 0.0;
    const double upstream = p.upstream ? double(p.factor) * *p.upstream : p.factor;
    const double gradient = (products - mean * counted) / DOWN * (p.shares[j] * p.scales[j] * upstream);
    const bool varies = p.live[i] && fabs(p.sums[3 * j]) != double(__int_as_float(0x7f800000));
    p.out[i64(i) * p.example + i64(j) * p.position] = varies ? float(gradient) : 0.0f;
}
