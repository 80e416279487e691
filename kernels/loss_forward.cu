// The loss of mixed logits against mixed targets, equations (5)-(8), without forming either in memory.
//
//   S~_k = sum_i M_ik S_i        Y~_k = sum_i M_ik Y_i        CE_k = t_k lse_k - Y~_k . S~_k        t_k = sum_c Y~_ck
//   L = sum_k q_k CE_k           KL = sum_k q_k (CE_k - H(Y~_k))
//
// at each of r positions: a linear classifier commutes with mixing. Logits S (b, r, c) of ELEMENT, any strides; targets are b
// labels or soft rows Y (b, c) in f32. q_k = 1 / (n r), or s_k / (r sum_l s_l) with the sum over the columns of the position.
//
// A call runs over chunks of columns, each by `loss_forward` and `loss_sums`, and ends with `loss_finish` (loss_reduce.cu).
//
// kernel `loss_forward`   columns first .. first + columns of all positions
// grid     x = r * column_tiles, column_tiles = ceil(columns / (16 WARPS)); position slowest
// block    32 WARPS threads; a warp owns 16 columns from the draw to the loss
// shared   slabs, two stages and a tile a warp
// defines  -DELEMENT= float|f16|bf16   -DMATH= 0 f32 exact, 1 tf32, 2 16 bits (0 and 1 take any ELEMENT)
//          -DDRAW= 0..5 (draw.cuh): b <= PANEL; M is drawn on chip, and written to `matrix` where that is not null
//                  6: any b; M is read from `matrix` and s from `masses`, as kernel `weights` (matrix = 1) wrote them
//          -DPANEL= multiple of 64; 64 with DRAW 6   -DWARPS=   -DTARGETS= 1 labels, 2 soft
//
// workspace, none of it grows with n
//   matrix      (r, columns, b) of Number (ELEMENT with MATH 2, else f32), columns 16-byte aligned, for a gradient or DRAW 6
//   statistics  f32 (r, 6, statistics_stride >= columns); only for a gradient. For that of attention MATH is 0: loss_rows.cuh
//   partial     f64 (r, ceil(columns / 16), 4): sums over the 16 columns of a warp
//
// A tile of 64 classes at a time: S~ in registers; Y~ of labels summed in shared memory, of soft rows by a second product;
// running softmax. M stays in registers as A fragments where it fits (labels: 16 bits up to b = 256, tf32 up to 128; soft rows:
// half). Deterministic: a column belongs to one warp and adds in order; f64 sums over columns have a fixed order that does not
// depend on WARPS or the grid.
#include "columns.cuh"
#include "loss_rows.cuh"

constexpr int DRAW_STORED = 6;
constexpr bool STORED = DRAW == DRAW_STORED;

// A value for each mixture, (r, n), any strides; null: not wanted.
struct PerMixture {
    float *data;
    i64 position, column;
};

struct LossForwardParams {
    Sampler sampler;
    Matrix<const ELEMENT> logits; // (b, r, c)
    Matrix<const float> soft;     // (b, c), with TARGETS 2
    Labels labels;                // (b), with TARGETS 1
    Number *matrix;
    i64 matrix_column, matrix_position; // distance of columns, of positions; examples are contiguous
    const float *masses;                // (r, columns), with DRAW 6 and attention: s on the scale of the caller's attention
    float *statistics;                  // null: none wanted
    i64 statistics_stride;
    PerMixture losses, log_sums; // outputs: CE, lse
    double *partial;
    u32 first, columns, column_tiles;
    u32 weighed;   // q_k goes by s_k
    u32 entropies; // for KL
    u32 padding;
};
static_assert(sizeof(LossForwardParams) == 336, "mirrored by the host");

constexpr u32 THREADS = 32 * WARPS;
constexpr u32 CHUNKS = PANEL / CHUNK<Number>;
// Fragments of M take up to 64 registers, or 32 where the product with soft rows needs room.
constexpr u32 FRAGMENT_REGISTERS = TARGETS == SOFT_ROWS ? 32 : 64;
constexpr bool STATIONARY = MATH != EXACT && !STORED && PANEL / STEP<Number> * 4 <= FRAGMENT_REGISTERS;
constexpr u32 FRAGMENTS = STATIONARY ? PANEL / STEP<Number> : 1;
static_assert(!STORED || PANEL == 64, "stored columns are read 64 examples at a time");

using LossColumns = Columns<STORED ? DRAW_EXPLICIT : DRAW, PANEL, false>;
constexpr u32 SLAB_PITCH = LossColumns::PITCH;
constexpr u32 STAGE_ELEMENTS = STAGE_BYTES<Number> / sizeof(Number);
constexpr u32 STAGE_STEP = STAGE_ELEMENTS * (TARGETS == SOFT_ROWS ? 2 : 1);
constexpr u32 SLABS_BYTES = WARPS * LossColumns::SLAB_FLOATS * 4, STAGES_BYTES = 2 * STAGE_STEP * sizeof(Number);
static_assert(SHARED_BYTES == SLABS_BYTES + STAGES_BYTES + WARPS * OUT_BYTES, "counted by the host");
static_assert(sizeof(DrawScratch) <= OUT_BYTES, "a warp draws where it later sums targets");

// A warp at work on its columns.
struct Warp {
    const LossForwardParams &p;
    u32 j, column;  // of the chunk
    Number *stages; // of the block
    float *slab;    // [16][SLAB_PITCH]
    float *tile;    // [16][OUT_PITCH]
};

__device__ __forceinline__ Warp make_warp(const LossForwardParams &p) {
    extern __shared__ __align__(16) unsigned char shared[];
    const u32 warp = threadIdx.x / 32;
    unsigned char *stages = shared + SLABS_BYTES, *tiles = stages + STAGES_BYTES;
    return {p,
            blockIdx.x / p.column_tiles,
            (blockIdx.x % p.column_tiles * WARPS + warp) * COLUMNS,
            reinterpret_cast<Number *>(stages),
            reinterpret_cast<float *>(shared) + warp * LossColumns::SLAB_FLOATS,
            reinterpret_cast<float *>(tiles + warp * OUT_BYTES)};
}

__device__ __forceinline__ u32 columns_of(const Warp &warp) {
    return warp.column < warp.p.columns ? min(COLUMNS, warp.p.columns - warp.column) : 0;
}

// The warp's columns of the stored matrix, examples from `begin` on, into the slab.
__device__ __forceinline__ void load_stored(const Warp &warp, u32 begin) {
    const LossForwardParams &p = warp.p;
    const Number *from = p.matrix + i64(warp.j) * p.matrix_position + i64(warp.column) * p.matrix_column + begin;
    __syncwarp();
    for (u32 column = 0; column < COLUMNS; ++column)
        for (u32 i = lane_id(); i < PANEL; i += 32) {
            const bool inside = column < columns_of(warp) && begin + i < p.sampler.b;
            warp.slab[column * SLAB_PITCH + i] = inside ? to_float(from[i64(column) * p.matrix_column + i]) : 0.0f;
        }
    __syncwarp();
}

// Keeps the slab for the gradient. Rows are padded with zeros to whole fours.
__device__ __forceinline__ void store_matrix(const Warp &warp) {
    const LossForwardParams &p = warp.p;
    Number *to = p.matrix + i64(warp.j) * p.matrix_position + i64(warp.column) * p.matrix_column;
    for (u32 column = 0; column < columns_of(warp); ++column, to += p.matrix_column)
        for (u32 i = 4 * lane_id(); i < p.sampler.b; i += 128)
            store_four(to + i, *reinterpret_cast<const float4 *>(warp.slab + column * SLAB_PITCH + i));
}

__device__ __forceinline__ void stage(const Warp &warp, u32 turn, u32 begin, u32 channel) {
    const LossForwardParams &p = warp.p;
    Number *to = warp.stages + turn % 2 * STAGE_STEP;
    stage_any<THREADS, CHUNK<Number>, TILE, PITCH>(to, p.logits, warp.j, begin, p.sampler.b, channel);
    if constexpr (TARGETS == SOFT_ROWS)
        stage_any<THREADS, CHUNK<Number>, TILE, PITCH>(to + STAGE_ELEMENTS, p.soft, 0, begin, p.sampler.b, channel);
    commit_copies();
}

// Adds M_ik, rounded as logits are mixed with it, to the mixed target of label y_i, for the slab's examples whose label lies in
// the tile: even classes by the lower half of the warp, odd ones by the upper. With the first tile also that of examples without
// class to `missing` of the lane's column, where targets are not added up.
__device__ __forceinline__ void add_labels(const Warp &warp, u32 begin, u32 channel, float &missing) {
    const u32 column = lane_id() % COLUMNS, parity = lane_id() / COLUMNS;
    float *row = warp.tile + column * OUT_PITCH;
    const float *weights = warp.slab + column * SLAB_PITCH;
    const u32 examples = min(warp.p.sampler.b - begin, u32(PANEL));
#pragma unroll 1
    for (u32 group = 0; group < examples; group += 32) {
        const u32 i = group + lane_id();
        const u32 given = i < examples ? warp.p.labels.at(begin + i) : NO_CLASS, label = given - channel;
        const u32 even = __ballot_sync(ALL_LANES, label < TILE && label % 2 == 0);
        const u32 odd = __ballot_sync(ALL_LANES, label < TILE && label % 2 == 1);
        u32 left = parity ? odd : even;
#pragma unroll 1
        while (__any_sync(ALL_LANES, left != 0)) {
            const u32 next = (__ffs(left) - 1) & 31;
            const u32 y = __shfl_sync(ALL_LANES, label, next);
            if (left) row[y] += to_float(from_float<Number>(weights[group + next]));
            left &= left - 1;
        }
        if (ADDS_TARGETS || channel > 0) continue;
        for (u32 none = __ballot_sync(ALL_LANES, i < examples && given == NO_CLASS); none != 0; none &= none - 1)
            missing += weights[group + __ffs(none) - 1];
    }
}

__device__ __forceinline__ void clear_tile(const Warp &warp) {
    __syncwarp();
#pragma unroll
    for (u32 x = lane_id(); x < OUT_BYTES / 16; x += 32) store_pack(warp.tile + 4 * x, {{0, 0, 0, 0}});
    __syncwarp();
}

// Mixed logits s and targets y of one tile of classes.
__device__ __forceinline__ void sum_tile(const Warp &warp, const u32 (&fragments)[FRAGMENTS][4], float (&s)[8][4],
                                         float (&y)[8][4], float &missing, u32 &turn, u32 tile, u32 tiles) {
    const u32 b = warp.p.sampler.b;
    if constexpr (TARGETS != SOFT_ROWS) clear_tile(warp);
#pragma unroll 1
    for (u32 panel = 0; panel < b; panel += PANEL) {
        if constexpr (STORED) load_stored(warp, panel);
        if constexpr (TARGETS != SOFT_ROWS) add_labels(warp, panel, tile * TILE, missing);
#pragma unroll(STATIONARY ? CHUNKS : 1)
        for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
            const u32 inside = chunk * CHUNK<Number>, begin = panel + inside;
            if (begin >= b) break;
            copies_arrived<0>();
            __syncthreads();
            // The next chunk goes where the last one was: all warps are past it.
            const bool tile_ends = begin + CHUNK<Number> >= b;
            if (!tile_ends || tile + 1 < tiles)
                stage(warp, turn + 1, tile_ends ? 0 : begin + CHUNK<Number>, (tile + tile_ends) * TILE);
            const Number *rows = warp.stages + turn % 2 * STAGE_STEP;
            multiply_chunk<SLAB_PITCH>(s, fragments, warp.slab, rows, inside, b - begin);
            if constexpr (TARGETS == SOFT_ROWS)
                multiply_chunk<SLAB_PITCH>(y, fragments, warp.slab, rows + STAGE_ELEMENTS, inside, b - begin);
            ++turn;
        }
    }
    if constexpr (TARGETS != SOFT_ROWS) {
        __syncwarp();
        load_tile<OUT_PITCH>(y, warp.tile);
    }
}

// Where a warp's results lie in its tile, [value][column].
enum Result : u32 { R_LOG2_SUM, R_LOG_SUM, R_LOSS, R_TOTAL, R_ENTROPY, R_MEAN, R_MASS };

__device__ __forceinline__ void park_results(const Warp &warp, const Rows &rows, float missing, const float (&mass)[2]) {
    constexpr u32 SHARING = MATH == EXACT ? 8 : 4; // lanes of a row
    __syncwarp();
#pragma unroll
    for (u32 m = 0; m < LANE_ROWS; ++m) {
        // Rounding may take more than there is.
        const float total = fmaxf(1.0f - __shfl_sync(ALL_LANES, missing, lane_id() / SHARING + 32 / SHARING * m), 0.0f);
        const ColumnResult result = rows.finish(m, total);
        float *to = warp.tile + lane_id() / SHARING + 32 / SHARING * m;
        if (lane_id() % SHARING != 0) continue;
        to[R_LOG2_SUM * COLUMNS] = result.log2_sum;
        to[R_LOG_SUM * COLUMNS] = result.log_sum;
        to[R_LOSS * COLUMNS] = result.loss;
        to[R_TOTAL * COLUMNS] = result.total;
        to[R_ENTROPY * COLUMNS] = result.entropy;
        to[R_MEAN * COLUMNS] = result.mean;
    }
    if (!STORED && lane_id() % 4 == 0) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) warp.tile[R_MASS * COLUMNS + lane_id() / 4 + 8 * half] = mass[half];
    }
    __syncwarp();
}

// s of a stored column, on the scale of prepared attention.
__device__ __forceinline__ float load_mass(const Warp &warp, u32 k) {
    if (!warp.p.sampler.attention) return 1.0f;
    return warp.p.masses[u64(warp.j) * warp.p.columns + k] * __ldg(warp.p.sampler.scales + warp.j);
}

// Draws the warp's columns into the slab; s of columns g and g + 8 of lane (g, t), on the scale of prepared attention.
__device__ __forceinline__ void draw(const Warp &warp, float (&mass)[2]) {
    const LossForwardParams &p = warp.p;
    LossColumns columns(p.sampler, warp.j, p.first + warp.column, warp.slab, reinterpret_cast<DrawScratch *>(warp.tile));
    columns.total();
    columns.normalise(0, true);
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const float prepared = columns.has_mass(half) ? __fdiv_rn(columns.mass[half], columns.sum[half]) : 0.0f;
        mass[half] = p.sampler.attention ? prepared : 1.0f;
    }
    if (p.matrix) store_matrix(warp);
}

// M_ik of one of the warp's columns, as logits are mixed with it; zero past the last column.
__device__ __forceinline__ float weight_of(const Warp &warp, u32 column, u32 i) {
    const LossForwardParams &p = warp.p;
    if constexpr (!STORED) return to_float(from_float<Number>(warp.slab[column * SLAB_PITCH + i]));
    if (column >= columns_of(warp)) return 0.0f;
    return to_float(p.matrix[i64(warp.j) * p.matrix_position + i64(warp.column + column) * p.matrix_column + i]);
}

__device__ __forceinline__ void write(const PerMixture &out, u32 j, u32 k, float value) {
    if (out.data) out.data[i64(j) * out.position + i64(k) * out.column] = value;
}

__device__ __forceinline__ double sum_of_columns(double x) {
#pragma unroll
    for (int distance = COLUMNS / 2; distance > 0; distance >>= 1) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// One lane a column: outputs, statistics, and the sums over the warp's columns.
__device__ __forceinline__ void write_results(const Warp &warp) {
    const LossForwardParams &p = warp.p;
    const u32 own = lane_id() % COLUMNS, k = warp.column + own;
    const bool live = lane_id() < columns_of(warp);
    const float *result = warp.tile + own;
    const float mass = !live ? 0.0f : STORED ? load_mass(warp, k) : result[R_MASS * COLUMNS];
    const float loss = result[R_LOSS * COLUMNS], weight = p.weighed ? mass : 1.0f;
    if (live) {
        write(p.losses, warp.j, p.first + k, loss);
        write(p.log_sums, warp.j, p.first + k, result[R_LOG_SUM * COLUMNS]);
    }
    if (p.statistics && live) {
        float *to = p.statistics + i64(warp.j) * STATISTICS * p.statistics_stride + k;
        const float over_mass = mass > 0.0f ? __fdiv_rn(1.0f, mass) : 0.0f;
        const float values[STATISTICS] = {result[R_LOG2_SUM * COLUMNS], weight,   result[R_TOTAL * COLUMNS], loss,
                                          result[R_MEAN * COLUMNS],     over_mass};
#pragma unroll
        for (u32 value = 0; value < STATISTICS; ++value) to[value * p.statistics_stride] = values[value];
    }
    // A column of weight zero counts for nothing, whatever its loss.
    const double share = live ? weight : 0.0;
    const bool counts = share > 0.0;
    const double losses = sum_of_columns(counts ? share * loss : 0.0);
    const double entropies = sum_of_columns(counts ? share * result[R_ENTROPY * COLUMNS] : 0.0);
    const double weights = sum_of_columns(share);
    const float largest = warp_max(float(share));
    if (lane_id() == 0 && columns_of(warp) > 0) {
        double *to = p.partial + (u64(warp.j) * ceil_div(p.columns, COLUMNS) + warp.column / COLUMNS) * 4;
        to[0] = losses, to[1] = entropies, to[2] = weights, to[3] = largest;
    }
}

// The second bound leaves 255 registers to a thread: left to itself, ptxas aims at more blocks and spills for them.
extern "C" __global__ void __launch_bounds__(THREADS, 256 / THREADS) loss_forward(const __grid_constant__ LossForwardParams p) {
    const Warp warp = make_warp(p);
    float mass[2] = {};
    if constexpr (!STORED) draw(warp, mass);
    u32 fragments[FRAGMENTS][4];
    if constexpr (STATIONARY) {
#pragma unroll
        for (u32 step = 0; step < FRAGMENTS; ++step)
            load_fragment<Number, SLAB_PITCH>(fragments[step], warp.slab + step * STEP<Number>);
    }
    const u32 tiles = ceil_div(p.logits.channels, TILE);
    Rows rows;
    float missing = 0.0f;
    u32 turn = 0;
    stage(warp, 0, 0, 0);
#pragma unroll 1
    for (u32 tile = 0; tile < tiles; ++tile) {
        float s[8][4] = {}, y[8][4] = {};
        sum_tile(warp, fragments, s, y, missing, turn, tile, tiles);
        mend(s, p.logits, warp.j, tile * TILE, p.sampler.b, [&](u32 row, u32 i) { return weight_of(warp, row, i); });
        rows.add(s, y, p.logits.channels - tile * TILE, p.entropies);
    }
    park_results(warp, rows, missing, mass);
    write_results(warp);
}
