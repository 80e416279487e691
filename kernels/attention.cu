// Attention maps from features and the gradient through them.
//
//   GAP: u_i = sum_j z_ij / r        CAM: u_i = W[y_i], zero without class        t_ij = u_i . z_ij
//   ReLU + l1: a_ij = max(t_ij, 0) / sum_l max(t_il, 0), uniform where no score is positive        softmax: a_i = softmax(t_i)
// backward, from da (b, r):
//   ReLU + l1: dt_ij = (da_ij - sum_l a_il da_il) / sum_l max(t_il, 0) where t_ij > 0, else 0
//   softmax: dt_ij = a_ij (da_ij - sum_l a_il da_il)
//   du_i = sum_j dt_ij z_ij        dz_ij = dt_ij u_i + (GAP) du_i / r
//   (CAM) dW[y] = sum of du_i over the examples with label y
//
// Z (b, r, d) and W (c, d) of ELEMENT, any strides; a, t, da (b, r) in f32, contiguous. Sums in f32.
//
// kernels  `attention_forward`: a from Z        `attention_backward`: dZ, and du (b, d) with CAM; recomputes u and t
// grid     x = b: a block an example. Its features come from memory once and from cache after that.
// kernel   `attention_rows`: dW from du, zero for classes without example        grid x = c * ceil(d / 256), class slowest
// block    256, no dynamic shared memory
// defines  -DELEMENT= float|f16|bf16   -DQUERY= 0 GAP, 1 CAM   -DNORMALISE= 0 ReLU + l1, 1 softmax
//          -DLAYOUT= 0: channels contiguous, every row of Z, dZ and W on a 16-byte boundary, d a multiple of 16 bytes;
//                    1: any strides, lanes along channels;   2: any strides, lanes along positions (NCHW)
//
// Scores that f32 does not hold, of very large or very small features, are taken anew from features and query times powers of
// two. Deterministic: a score, a query and a gradient are each summed by one warp or thread in a fixed order.
#include "labels.cuh"
#include "math.cuh"
#include "reduce.cuh"

struct AttentionParams {
    const ELEMENT *features;
    i64 example, position, channel; // strides of Z
    const ELEMENT *rows;            // W, with CAM
    i64 row, row_channel;           // its strides
    Labels labels;                  // (b), with CAM; scores of an example without class are zero
    float *maps;                    // (b, r): a; written by forward, not used by backward
    float *scores;                  // (b, r): t, or dt after backward
    const float *d_maps;            // (b, r): da
    ELEMENT *d_features;
    i64 d_example, d_position, d_channel; // strides of dZ
    float *d_queries;                     // (b, d): du, with CAM
    u32 b, r, d, c;                       // c is read with CAM only
};
static_assert(sizeof(AttentionParams) == 160, "mirrored by the host");

constexpr u32 THREADS = 256, WARPS = 8;
constexpr u32 SPAN = 1024; // channels whose queries are held at a time
constexpr u32 PER = LAYOUT == 0 ? PER_PACK<ELEMENT> : 1;

// PER neighbouring channels.
__device__ __forceinline__ void load_channels(float (&x)[PER], const ELEMENT *from) {
    if constexpr (LAYOUT == 0) {
        const Pack pack = load_pack(from);
        const ELEMENT *elements = reinterpret_cast<const ELEMENT *>(&pack);
#pragma unroll
        for (u32 e = 0; e < PER; ++e) x[e] = to_float(elements[e]);
    } else {
        x[0] = to_float(*from);
    }
}

struct Example {
    const AttentionParams &p;
    u32 i;
    float feature_scale, query_scale; // powers of two, mostly 1; the same without a classifier

    __device__ __forceinline__ const ELEMENT *feature(u32 j, u32 x) const {
        return p.features + i * p.example + j * p.position + x * (LAYOUT == 0 ? 1 : p.channel);
    }
    __device__ __forceinline__ float scaled_feature(u32 j, u32 x) const { return to_float(*feature(j, x)) * feature_scale; }
    // PER neighbouring channels at once.
    __device__ __forceinline__ void scaled_features(float (&z)[PER], u32 j, u32 x) const {
        load_channels(z, feature(j, x));
#pragma unroll
        for (u32 e = 0; e < PER; ++e) z[e] *= feature_scale;
    }
    // The classifier's row for the example's label, with CAM; null where that is no class.
    __device__ __forceinline__ const ELEMENT *row() const {
        const u32 label = p.labels.at(i);
        return label < p.c ? p.rows + label * p.row : nullptr;
    }
    __device__ __forceinline__ ELEMENT *d_feature(u32 j, u32 x) const {
        return p.d_features + i * p.d_example + j * p.d_position + x * (LAYOUT == 0 ? 1 : p.d_channel);
    }
    __device__ __forceinline__ float *score(u32 j) const { return p.scores + u64(i) * p.r + j; }
};

__device__ __forceinline__ void store_channels(ELEMENT *to, const float (&x)[PER]) {
    if constexpr (LAYOUT == 0) {
        Pack pack;
        ELEMENT *elements = reinterpret_cast<ELEMENT *>(&pack);
#pragma unroll
        for (u32 e = 0; e < PER; ++e) elements[e] = from_float<ELEMENT>(x[e]);
        store_pack(to, pack);
    } else {
        *to = from_float<ELEMENT>(x[0]);
    }
}

// sum_j w_j z_jx for the channels from `begin`, into `out`; w = 1 where `weights` is null.
__device__ __forceinline__ void sum_positions(const Example &example, const float *weights, u32 begin, u32 end, float factor,
                                              float *out) {
    const u32 r = example.p.r;
    if constexpr (LAYOUT == 2) {
        for (u32 x = begin + threadIdx.x / 32; x < end; x += WARPS) {
            float sum = 0.0f;
            for (u32 j = lane_id(); j < r; j += 32)
                sum = __fmaf_rn(weights ? weights[j] : 1.0f, example.scaled_feature(j, x), sum);
            sum = warp_sum(sum);
            if (lane_id() == 0) out[x - begin] = sum * factor;
        }
    } else {
        for (u32 x = begin + threadIdx.x * PER; x < end; x += THREADS * PER) {
            float sum[PER] = {};
            for (u32 j = 0; j < r; ++j) {
                float z[PER];
                example.scaled_features(z, j, x);
                const float w = weights ? weights[j] : 1.0f;
#pragma unroll
                for (u32 e = 0; e < PER; ++e) sum[e] = __fmaf_rn(w, z[e], sum[e]);
            }
#pragma unroll
            for (u32 e = 0; e < PER; ++e) out[x - begin + e] = sum[e] * factor;
        }
    }
}

// u of the channels begin .. end into `query`. Barriers before and after.
__device__ __forceinline__ void make_query(const Example &example, u32 begin, u32 end, float *query) {
    __syncthreads();
    if constexpr (QUERY == 0) {
        sum_positions(example, nullptr, begin, end, 1.0f / float(example.p.r), query);
    } else {
        const ELEMENT *row = example.row();
        for (u32 x = begin + threadIdx.x; x < end; x += THREADS)
            query[x - begin] = row ? to_float(row[x * example.p.row_channel]) * example.query_scale : 0.0f;
    }
    __syncthreads();
}

// Adds the channels begin .. end to all scores; the first time, begins them.
__device__ __forceinline__ void add_scores(const Example &example, const float *query, u32 begin, u32 end, float (*parts)[32]) {
    const u32 r = example.p.r, warp = threadIdx.x / 32;
    const auto add = [&](u32 j, float sum) { *example.score(j) = begin == 0 ? sum : *example.score(j) + sum; };
    if constexpr (LAYOUT == 2) {
        for (u32 first = 0; first < r; first += 32) {
            const u32 j = first + lane_id();
            float sum = 0.0f;
            if (j < r)
                for (u32 x = begin + warp; x < end; x += WARPS)
                    sum = __fmaf_rn(query[x - begin], example.scaled_feature(j, x), sum);
            parts[warp][lane_id()] = sum;
            __syncthreads();
            if (warp == 0 && j < r) {
                for (u32 other = 1; other < WARPS; ++other) sum += parts[other][lane_id()];
                add(j, sum);
            }
            __syncthreads();
        }
    } else {
        for (u32 j = warp; j < r; j += WARPS) {
            float sum = 0.0f;
            for (u32 x = begin + lane_id() * PER; x < end; x += 32 * PER) {
                float z[PER];
                example.scaled_features(z, j, x);
#pragma unroll
                for (u32 e = 0; e < PER; ++e) sum = __fmaf_rn(query[x - begin + e], z[e], sum);
            }
            sum = warp_sum(sum);
            if (lane_id() == 0) add(j, sum);
        }
    }
}

// All scores of the example.
__device__ __forceinline__ void make_scores(const Example &example, float *query, float (*parts)[32]) {
    for (u32 begin = 0; begin < example.p.d; begin += SPAN) {
        const u32 end = min(begin + SPAN, example.p.d);
        make_query(example, begin, end, query);
        add_scores(example, query, begin, end, parts);
    }
    __syncthreads();
}

// How scores become a map: a = weight(t) / total.
struct Normaliser {
    float largest, total;
    u32 r;
    double unscale; // scores are 1 / unscale of what they should be; ReLU + l1 does not see it

    // A NaN stays one.
    __device__ __forceinline__ float weight(float t) const {
        if (NORMALISE == 0) return t < 0.0f ? 0.0f : t;
        return expf(unscale == 1.0 ? t - largest : float(double(t - largest) * unscale));
    }
    // Whether f32 held all that mattered of the scores.
    __device__ __forceinline__ bool holds() const { return total > 1e-30f && total < 1e30f; }
    __device__ __forceinline__ float map(float t) const { return total == 0.0f ? 1.0f / float(r) : weight(t) / total; }
};

__device__ __forceinline__ Normaliser make_normaliser(const Example &example, float *scratch) {
    const u32 r = example.p.r;
    Normaliser normaliser = {0.0f, 0.0f, r, 1.0 / (double(example.feature_scale) * example.query_scale)};
    if constexpr (NORMALISE == 1) {
        float largest = -__int_as_float(0x7f800000);
        for (u32 j = threadIdx.x; j < r; j += THREADS) largest = nan_max(largest, *example.score(j));
        normaliser.largest = block_max<WARPS>(largest, scratch);
    }
    float total = 0.0f;
    for (u32 j = threadIdx.x; j < r; j += THREADS) total += normaliser.weight(*example.score(j));
    normaliser.total = block_sum<WARPS>(total, scratch);
    return normaliser;
}

// Scales that bring the largest feature and the largest of the query into [1, 2).
__device__ __forceinline__ void rescale(Example &example, float *scratch) {
    const AttentionParams &p = example.p;
    float largest = 0.0f;
    for (u64 at = threadIdx.x; at < u64(p.r) * p.d; at += THREADS)
        largest = fmaxf(largest, fabsf(to_float(*example.feature(u32(at / p.d), u32(at % p.d)))));
    example.feature_scale = example.query_scale = power_to_one(block_max<WARPS>(largest, scratch));
    if constexpr (QUERY == 1) {
        largest = 0.0f;
        const ELEMENT *row = example.row();
        for (u32 x = threadIdx.x; x < p.d && row; x += THREADS) largest = fmaxf(largest, fabsf(to_float(row[x * p.row_channel])));
        example.query_scale = power_to_one(block_max<WARPS>(largest, scratch));
    }
}

// All scores of the example and what makes a map of them; on scales where f32 does not hold them without.
__device__ __forceinline__ Normaliser make_map(Example &example, float *query, float (*parts)[32]) {
    make_scores(example, query, parts);
    Normaliser normaliser = make_normaliser(example, parts[0]);
    if (normaliser.holds()) return normaliser;
    rescale(example, parts[0]);
    make_scores(example, query, parts);
    return make_normaliser(example, parts[0]);
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 24) attention_forward(const __grid_constant__ AttentionParams p) {
    __shared__ __align__(16) float query[SPAN];
    __shared__ float parts[WARPS][32];
    Example example = {p, blockIdx.x, 1.0f, 1.0f};
    const Normaliser normaliser = make_map(example, query, parts);
    for (u32 j = threadIdx.x; j < p.r; j += THREADS) p.maps[u64(example.i) * p.r + j] = normaliser.map(*example.score(j));
}

// Turns scores into their gradients, in place.
__device__ __forceinline__ void make_score_gradients(const Example &example, const Normaliser &normaliser, float *scratch) {
    const AttentionParams &p = example.p;
    const float *d_map = p.d_maps + u64(example.i) * p.r;
    float mean = 0.0f;
    for (u32 j = threadIdx.x; j < p.r; j += THREADS) mean = __fmaf_rn(normaliser.map(*example.score(j)), d_map[j], mean);
    mean = block_sum<WARPS>(mean, scratch);
    for (u32 j = threadIdx.x; j < p.r; j += THREADS) {
        const float t = *example.score(j), d = d_map[j] - mean;
        *example.score(j) = NORMALISE == 1 ? normaliser.map(t) * d : t > 0.0f ? d / normaliser.total : t <= 0.0f ? 0.0f : t;
    }
    __syncthreads();
}

// What brings dZ and du back from the scales: scores of ReLU + l1 are divided by their sum, which is on both.
__device__ __forceinline__ float unscale_features(const Example &example) {
    return NORMALISE == 0 ? example.feature_scale : 1.0f / example.query_scale;
}
__device__ __forceinline__ float unscale_query(const Example &example) {
    return NORMALISE == 0 ? example.query_scale : 1.0f / example.feature_scale;
}

// dz_jx = dt_j u_x + share_x for the channels begin .. end.
__device__ __forceinline__ void write_gradients(const Example &example, const float *query, const float *share, u32 begin,
                                                u32 end) {
    const u32 width = (end - begin) / PER;
    for (u64 at = threadIdx.x; at < u64(width) * example.p.r; at += THREADS) {
        const u32 j = u32(LAYOUT == 2 ? at % example.p.r : at / width);
        const u32 x = u32(LAYOUT == 2 ? at / example.p.r : at % width) * PER;
        float d[PER];
#pragma unroll
        for (u32 e = 0; e < PER; ++e)
            d[e] = __fmaf_rn(*example.score(j), query[x + e], QUERY == 0 ? share[x + e] : 0.0f) * unscale_features(example);
        store_channels(example.d_feature(j, begin + x), d);
    }
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 24) attention_backward(const __grid_constant__ AttentionParams p) {
    __shared__ __align__(16) float query[SPAN], share[SPAN];
    __shared__ float parts[WARPS][32];
    Example example = {p, blockIdx.x, 1.0f, 1.0f};
    const Normaliser normaliser = make_map(example, query, parts);
    make_score_gradients(example, normaliser, parts[0]);
    for (u32 begin = 0; begin < p.d; begin += SPAN) {
        const u32 end = min(begin + SPAN, p.d);
        make_query(example, begin, end, query);
        sum_positions(example, example.score(0), begin, end, QUERY == 0 ? 1.0f / float(p.r) : 1.0f, share);
        __syncthreads();
        if constexpr (QUERY == 1)
            for (u32 x = begin + threadIdx.x; x < end; x += THREADS)
                p.d_queries[u64(example.i) * p.d + x] = share[x - begin] * unscale_query(example);
        write_gradients(example, query, share, begin, end);
    }
}

struct AttentionRowsParams {
    const float *d_queries; // (b, d)
    Labels labels;          // (b)
    ELEMENT *d_rows;        // dW (c, d)
    i64 row, channel;       // its strides
    u32 b, c, d, padding;
};
static_assert(sizeof(AttentionRowsParams) == 72, "mirrored by the host");

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, 24) attention_rows(const __grid_constant__ AttentionRowsParams p) {
    const u32 tiles = ceil_div(p.d, THREADS), label = blockIdx.x / tiles, x = blockIdx.x % tiles * THREADS + threadIdx.x;
    if (x >= p.d) return;
    float sum = 0.0f;
    for (u32 i = 0; i < p.b; ++i)
        if (p.labels.at(i) == label) sum += p.d_queries[u64(i) * p.d + x];
    p.d_rows[label * p.row + x * p.channel] = from_float<ELEMENT>(sum);
}
