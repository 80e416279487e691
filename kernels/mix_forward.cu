// Mixed features and targets: equations (5)-(8).
//
//   Z~ (n, r, d):  Z~_k = sum_i M_ik Z_i        Y~ (n, r, c):  Y~_k = sum_i M_ik Y_i        at each of r positions
//
// with Z (b, r, d) of ELEMENT, any strides; Y labels or soft rows (b, c) in f32, the same at all positions; Y~ in f32. M (b x n
// at each position) is drawn and normalised on chip and never stored.
//
// kernel `mix_forward`
// grid     x = r * ceil(n / (16 WARPS)) * splits, position slowest, then column tile, then split. A block makes 16 WARPS mixtures
//          of one position and sweeps its split's share of the tiles of 64 channels; every split draws again.
// block    32 WARPS threads; a warp owns 16 mixtures from the draw to the store
// shared   slabs and two stages, in one place where STATIONARY; then a tile a warp, and with MULTI scratch of its own
// defines  -DELEMENT= float|f16|bf16   -DMATH= 0 f32 exact, 1 tf32, 2 16 bits   -DDRAW= 0..5 (draw.cuh)   -DPANEL= multiple of 64
//          -DMULTI= 0: b <= PANEL, 1: any b   -DWARPS=
//
// A warp draws its slab (columns.cuh), turns it into A fragments that stay in registers (STATIONARY), and lets tiles of Z pass
// by, double-buffered through shared memory. Exact products read the slab where it is. With MULTI the sums take one draw of all
// panels, and each tile of channels draws them again: 1 + ceil(d / 64) + ceil(c / 64) draws of each element a split.
//
// Deterministic: each output is summed over the examples in order by one warp; nothing is shared between blocks.
#include "columns.cuh"
#include "stage.cuh"

struct MixForwardParams {
    Sampler sampler;
    Matrix<const ELEMENT> features; // (b, r, d); channels 0: none
    Matrix<ELEMENT> mixed;          // (n, r, d)
    Labels labels;                  // (b), or none
    Matrix<const float> soft;       // (b, c), where there are no labels; channels = c with either, 0 with neither
    Matrix<float> mixed_targets;    // (n, r, c)
    u32 column_tiles, splits;
};
static_assert(sizeof(MixForwardParams) == 296, "mirrored by the host");

constexpr u32 THREADS = 32 * WARPS;
constexpr u32 CHUNKS = PANEL / CHUNK<ELEMENT>; // of a panel
constexpr bool STATIONARY = MATH != EXACT && !MULTI && PANEL <= (is_16_bit<ELEMENT> ? 256 : 128);
constexpr u32 FRAGMENTS = STATIONARY ? PANEL / STEP<ELEMENT> : 1;
constexpr u32 LEAST_WARPS = FRAGMENTS > 8 ? 8 : 16; // of a multiprocessor; 64 registers of fragments need room

using MixColumns = Columns<DRAW, PANEL, MULTI>;
constexpr u32 SLABS_BYTES = WARPS * MixColumns::SLAB_FLOATS * 4;
constexpr u32 STAGES_BYTES = 2 * STAGE_BYTES<ELEMENT>;
constexpr u32 COMMON_BYTES = STATIONARY ? larger_of(SLABS_BYTES, STAGES_BYTES) : SLABS_BYTES + STAGES_BYTES;
constexpr u32 WARP_BYTES = (MULTI ? sizeof(DrawScratch) : 0) + OUT_BYTES;
static_assert(SHARED_BYTES == COMMON_BYTES + WARPS * WARP_BYTES, "counted by the host");
static_assert(sizeof(DrawScratch) <= OUT_BYTES, "a warp draws where it later parks tiles");

struct Shared {
    ELEMENT *stages;
    float *slab;
    DrawScratch *scratch;
    void *tile;
};

__device__ __forceinline__ Shared partition() {
    extern __shared__ __align__(16) unsigned char bytes[];
    const u32 warp = threadIdx.x / 32;
    constexpr u32 stages = STATIONARY ? 0 : SLABS_BYTES;
    unsigned char *own = bytes + COMMON_BYTES + warp * WARP_BYTES;
    return {reinterpret_cast<ELEMENT *>(bytes + stages), reinterpret_cast<float *>(bytes) + warp * MixColumns::SLAB_FLOATS,
            reinterpret_cast<DrawScratch *>(own), own + WARP_BYTES - OUT_BYTES};
}

// Tiles of channels: those of the features first, then those of the targets.
__device__ __forceinline__ u32 feature_tiles(const MixForwardParams &p) { return ceil_div(p.features.channels, TILE); }

__device__ __forceinline__ u32 all_tiles(const MixForwardParams &p) { return feature_tiles(p) + ceil_div(p.soft.channels, TILE); }

// Starts to copy a chunk of examples of a tile.
__device__ __forceinline__ void stage(const MixForwardParams &p, ELEMENT *to, u32 j, u32 begin, u32 tile) {
    const u32 features = feature_tiles(p);
    if (tile < features)
        stage_block<THREADS, CHUNK<ELEMENT>, TILE, STAGE_PITCH<ELEMENT>>(to, p.features, j, begin, p.sampler.b, tile * TILE);
    else if (p.labels.data)
        stage_labels<THREADS>(to, p.labels, begin, p.sampler.b, (tile - features) * TILE);
    else
        stage_any<THREADS, CHUNK<ELEMENT>, TILE, STAGE_PITCH<ELEMENT>>(to, p.soft, 0, begin, p.sampler.b,
                                                                       (tile - features) * TILE);
    commit_copies();
}

// All chunks of one tile of channels.
__device__ __forceinline__ void sum_tile(const MixForwardParams &p, const Shared &shared, MixColumns &columns,
                                         const u32 (&fragments)[FRAGMENTS][4], float (&c)[8][4], u32 &turn, u32 tile, u32 end) {
    const u32 b = p.sampler.b;
#pragma unroll 1
    for (u32 panel = 0; panel < b; panel += PANEL) {
        if constexpr (MULTI) {
            columns.again(panel);
            columns.normalise(panel, true);
        }
#pragma unroll(STATIONARY ? CHUNKS : 1)
        for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
            const u32 begin = panel + chunk * CHUNK<ELEMENT>;
            if (begin >= b) break;
            copies_arrived<0>();
            __syncthreads();
            // The next chunk goes where the last one was: all warps are past it.
            const bool tile_ends = begin + CHUNK<ELEMENT> >= b;
            ELEMENT *other = shared.stages + (turn + 1) % 2 * (STAGE_BYTES<ELEMENT> / sizeof(ELEMENT));
            if (!tile_ends || tile + 1 < end)
                stage(p, other, columns.drawer.j, tile_ends ? 0 : begin + CHUNK<ELEMENT>, tile + tile_ends);
            const ELEMENT *rows = shared.stages + turn % 2 * (STAGE_BYTES<ELEMENT> / sizeof(ELEMENT));
            multiply_chunk<MixColumns::PITCH>(c, fragments, shared.slab, rows, chunk * CHUNK<ELEMENT>, b - begin);
            ++turn;
        }
    }
}

// Writes the sums of one tile of Z~ or Y~.
template <class Out>
__device__ __forceinline__ void write_sums(const float (&c)[8][4], const Shared &shared, const MixColumns &columns,
                                           const Matrix<Out> &mixed, u32 channel) {
    const u32 k = columns.drawer.first, n = columns.sampler.n;
    if (k >= n) return;
    Out *parked = static_cast<Out *>(shared.tile);
    park_tile(c, parked, first_row());
    write_tile(parked, mixed, k, columns.drawer.j, channel, min(COLUMNS, n - k));
}

// Sweeps this split's tiles of channels past the mix matrix.
__device__ __forceinline__ void sweep(const MixForwardParams &p, const Shared &shared, MixColumns &columns,
                                      const u32 (&fragments)[FRAGMENTS][4]) {
    const u32 tiles = all_tiles(p), features = feature_tiles(p), split = blockIdx.x % p.splits;
    const u32 begin = u32(u64(tiles) * split / p.splits), end = u32(u64(tiles) * (split + 1) / p.splits);
    if (begin == end) return;
    __syncthreads();
    stage(p, shared.stages, columns.drawer.j, 0, begin);
    u32 turn = 0;
#pragma unroll 1
    for (u32 tile = begin; tile < end; ++tile) {
        float c[8][4] = {};
        sum_tile(p, shared, columns, fragments, c, turn, tile, end);
        if (tile < features)
            write_sums(c, shared, columns, p.mixed, tile * TILE);
        else
            write_sums(c, shared, columns, p.mixed_targets, (tile - features) * TILE);
    }
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS, LEAST_WARPS) mix_forward(const __grid_constant__ MixForwardParams p) {
    const Shared shared = partition();
    const u32 tile = blockIdx.x / p.splits;
    const u32 first = (tile % p.column_tiles * WARPS + threadIdx.x / 32) * COLUMNS;
    MixColumns columns(p.sampler, tile / p.column_tiles, first, shared.slab, shared.scratch);
    columns.total();
    if constexpr (!MULTI) columns.normalise(0, true);
    u32 fragments[FRAGMENTS][4];
    if constexpr (STATIONARY) {
#pragma unroll
        for (u32 step = 0; step < FRAGMENTS; ++step)
            load_fragment<ELEMENT, MixColumns::PITCH>(fragments[step], shared.slab + step * STEP<ELEMENT>);
    }
    sweep(p, shared, columns, fragments);
}
