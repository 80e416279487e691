// A warp's product of 16 columns of the mix matrix with a tile of 64 channels: C[k][x] += sum_i M[i][k] B[i][x].
//
// M comes from the warp's slab (columns.cuh), B from shared memory, staged by the block CHUNK examples at a time in rows of 64
// elements and 16 bytes, so that neither ldmatrix nor the tf32 loads conflict. Examples are added in order in all three kinds of
// arithmetic, whatever the panel or the number of warps: these do not change the bits.
//
// Needs -DMATH=. The accumulators are 32 floats a lane. EXACT: lane (y, x) = (lane / 8, lane % 8) holds columns y + 4 m of
// channels 4 x .. 4 x + 4 and 32 + 4 x .. 32 + 4 x + 4. Tensor cores: eight tiles of 8 channels in the layout of mma.cuh.
#pragma once
#include "mma.cuh"

constexpr u32 TILE = 64;

template <class T> constexpr u32 CHUNK = is_16_bit<T> ? 64 : 32;
template <class T> constexpr u32 STAGE_PITCH = TILE + PER_PACK<T>;
template <class T> constexpr u32 STAGE_BYTES = CHUNK<T> * STAGE_PITCH<T> * sizeof(T);

// Where tiles wait to be written: 16 rows, padded for both widths of element.
constexpr u32 OUT_PITCH = TILE + 8;
constexpr u32 OUT_BYTES = 16 * OUT_PITCH * 4;

// The channels of the tile that lie in a lane, as c[x][q], and which of the lane's rows c[x][q] belongs to.
constexpr u32 LANE_ROWS = MATH == EXACT ? 4 : 2;
__device__ __forceinline__ constexpr u32 lane_row(u32 x, u32 q) { return MATH == EXACT ? x / 2 : q / 2; }
__device__ __forceinline__ u32 class_of(u32 x, u32 q) {
    return MATH == EXACT ? 32 * (x % 2) + 4 * (lane_id() % 8) + q : 8 * x + 2 * (lane_id() % 4) + q % 2;
}

// The lane's first row of 16, and how far apart its rows are.
__device__ __forceinline__ u32 first_row() { return lane_id() / (MATH == EXACT ? 8 : 4); }
constexpr u32 ROW_STEP = MATH == EXACT ? 4 : 8;

// The pairs (i, i + 1), i = 2 t + 8 q, of columns g and g + 8 as A fragments: one step of 16 examples (16 bits) or 8 (tf32).
template <class T, u32 SLAB_PITCH> __device__ __forceinline__ void load_fragment(u32 (&a)[4], const float *slab) {
    const float *upper = slab + lane_id() / 4 * SLAB_PITCH + 2 * (lane_id() % 4), *lower = upper + 8 * SLAB_PITCH;
    const float2 u = *reinterpret_cast<const float2 *>(upper), l = *reinterpret_cast<const float2 *>(lower);
    if constexpr (is_16_bit<T>) {
        const float2 u8 = *reinterpret_cast<const float2 *>(upper + 8), l8 = *reinterpret_cast<const float2 *>(lower + 8);
        a[0] = Convert<T>::pair(u.x, u.y);
        a[1] = Convert<T>::pair(l.x, l.y);
        a[2] = Convert<T>::pair(u8.x, u8.y);
        a[3] = Convert<T>::pair(l8.x, l8.y);
    } else {
        a[0] = to_tf32(u.x);
        a[1] = to_tf32(l.x);
        a[2] = to_tf32(u.y);
        a[3] = to_tf32(l.y);
    }
}

template <class T> constexpr u32 STEP = is_16_bit<T> ? 16 : 8; // examples of one fragment

// One fragment of M times the staged rows that belong to it.
template <class T> __device__ __forceinline__ void multiply_fragment(float (&c)[8][4], const u32 (&a)[4], const T *rows) {
    if constexpr (is_16_bit<T>) {
        const T *row = rows + lane_id() % 16 * STAGE_PITCH<T> + lane_id() / 16 * 8;
#pragma unroll
        for (u32 x = 0; x < 4; ++x) {
            u32 b[4];
            load_matrices_transposed(b, row + 16 * x);
            Mma16<T>::run(c[2 * x], a, b[0], b[1]);
            Mma16<T>::run(c[2 * x + 1], a, b[2], b[3]);
        }
    } else {
        const T *row = rows + lane_id() % 4 * 2 * STAGE_PITCH<T> + lane_id() / 4;
#pragma unroll
        for (u32 x = 0; x < 8; ++x) mma_tf32(c[x], a, to_tf32(row[8 * x]), to_tf32(row[STAGE_PITCH<T> + 8 * x]));
    }
}

// Four rows of one operand, a lane's, times 8 of the 64 channels of one row of the other, in f32.
__device__ __forceinline__ void add_products(float (&c)[8][4], const float (&m)[4], const float *row) {
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        const float4 z = *reinterpret_cast<const float4 *>(row + lane_id() % 8 * 4 + 32 * half);
#pragma unroll
        for (u32 y = 0; y < 4; ++y) {
            float(&sum)[4] = c[2 * y + half];
            sum[0] = __fmaf_rn(m[y], z.x, sum[0]);
            sum[1] = __fmaf_rn(m[y], z.y, sum[1]);
            sum[2] = __fmaf_rn(m[y], z.z, sum[2]);
            sum[3] = __fmaf_rn(m[y], z.w, sum[3]);
        }
    }
}

// Four examples of the slab times four staged rows, in f32.
template <u32 SLAB_PITCH> __device__ __forceinline__ void multiply_exact(float (&c)[8][4], const float *slab, const float *rows) {
    const float *column = slab + lane_id() / 8 * SLAB_PITCH;
    float m[4][4]; // [example][column]
#pragma unroll
    for (u32 y = 0; y < 4; ++y) {
        const float4 four = *reinterpret_cast<const float4 *>(column + 4 * y * SLAB_PITCH);
        m[0][y] = four.x, m[1][y] = four.y, m[2][y] = four.z, m[3][y] = four.w;
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) add_products(c, m[i], rows + i * STAGE_PITCH<float>);
}

// The slab's examples times one staged chunk, whose first is `inside` examples into the slab; `left` examples are not zero. M
// comes from registers, or, where FRAGMENTS is 1, from the slab.
template <u32 SLAB_PITCH, class T, u32 FRAGMENTS>
__device__ __forceinline__ void multiply_chunk(float (&c)[8][4], const u32 (&fragments)[FRAGMENTS][4], const float *slab,
                                               const T *rows, u32 inside, u32 left) {
    if constexpr (MATH == EXACT) {
#pragma unroll 2
        for (u32 i = 0; i < CHUNK<T> && i < left; i += 4)
            multiply_exact<SLAB_PITCH>(c, slab + inside + i, rows + i * STAGE_PITCH<T>);
    } else if constexpr (FRAGMENTS > 1) {
#pragma unroll
        for (u32 i = 0; i < CHUNK<T>; i += STEP<T>) {
            if (i >= left) break;
            multiply_fragment(c, fragments[(inside + i) / STEP<T>], rows + i * STAGE_PITCH<T>);
        }
    } else {
#pragma unroll 2
        for (u32 i = 0; i < CHUNK<T> && i < left; i += STEP<T>) {
            u32 loaded[4];
            load_fragment<T, SLAB_PITCH>(loaded, slab + inside + i);
            multiply_fragment(c, loaded, rows + i * STAGE_PITCH<T>);
        }
    }
}

// The warp's 16 rows of a staged M, A_PITCH apart, times `depth` staged rows of the other operand.
template <u32 A_PITCH, u32 UNROLL, class T>
__device__ __forceinline__ void multiply_rows(float (&c)[8][4], const T *a, const T *rows, u32 depth) {
    const T *own = a + threadIdx.x / 32 * 16 * A_PITCH;
    if constexpr (MATH == EXACT) {
#pragma unroll 2
        for (u32 k = 0; k < depth; k += 4) multiply_exact<A_PITCH>(c, own + k, rows + k * STAGE_PITCH<T>);
    } else {
#pragma unroll(UNROLL)
        for (u32 k = 0; k < depth; k += STEP<T>) {
            u32 fragment[4];
            if constexpr (is_16_bit<T>)
                load_matrices(fragment, own + k + lane_id() % 16 * A_PITCH + lane_id() / 16 * 8);
            else
                load_fragment<T, A_PITCH>(fragment, own + k);
            multiply_fragment(c, fragment, rows + k * STAGE_PITCH<T>);
        }
    }
}

// A fragment into shared memory as T, rows TILE_PITCH apart; the lane's rows start at `first` and are `STEP_OF_ROWS` apart.
template <u32 TILE_PITCH, u32 STEP_OF_ROWS = ROW_STEP, class T>
__device__ __forceinline__ void store_tile(const float (&c)[8][4], T *tile, u32 first) {
    T *at = tile + first * TILE_PITCH + class_of(0, 0);
#pragma unroll
    for (u32 x = 0; x < 8; ++x) {
        if constexpr (MATH == EXACT) {
            *reinterpret_cast<float4 *>(at + x / 2 * STEP_OF_ROWS * TILE_PITCH + x % 2 * 32) =
                make_float4(c[x][0], c[x][1], c[x][2], c[x][3]);
        } else if constexpr (is_16_bit<T>) {
            *reinterpret_cast<u32 *>(at + 8 * x) = Convert<T>::pair(c[x][0], c[x][1]);
            *reinterpret_cast<u32 *>(at + 8 * x + STEP_OF_ROWS * TILE_PITCH) = Convert<T>::pair(c[x][2], c[x][3]);
        } else {
            *reinterpret_cast<float2 *>(at + 8 * x) = make_float2(c[x][0], c[x][1]);
            *reinterpret_cast<float2 *>(at + 8 * x + STEP_OF_ROWS * TILE_PITCH) = make_float2(c[x][2], c[x][3]);
        }
    }
}

// The accumulators into the warp's own tile of 16 rows in shared memory, converted.
template <u32 STEP_OF_ROWS = ROW_STEP, class T>
__device__ __forceinline__ void park_tile(const float (&c)[8][4], T *tile, u32 first) {
    __syncwarp();
    store_tile<OUT_PITCH, STEP_OF_ROWS>(c, tile, first);
    __syncwarp();
}

// Writes `rows` rows (at most 16) and the channels there are (at most 64) of a parked tile to row i, position j, channel x on.
template <class T>
__device__ __forceinline__ void write_tile(const T *tile, const Matrix<T> &out, u32 i, u32 j, u32 x, u32 rows) {
    T *to = out.at(i, j, x);
    const u32 channels = out.channels - x;
    if (out.aligned) {
        constexpr u32 PER = PER_PACK<T>, PACKS = TILE / PER;
        for (u32 at = lane_id(); at < 16 * PACKS; at += 32) {
            const u32 row = at / PACKS, channel = at % PACKS * PER;
            if (row >= rows || channel >= channels) continue;
            T *pack = to + row * out.row + channel;
            const T *from = tile + row * OUT_PITCH + channel;
            if (channel + PER <= channels)
                __stcs(reinterpret_cast<uint4 *>(pack), *reinterpret_cast<const uint4 *>(from));
            else
                for (u32 rest = 0; channel + rest < channels; ++rest) pack[rest] = from[rest];
        }
    } else {
        for (u32 at = lane_id(); at < rows * TILE; at += 32) {
            const u32 row = at / TILE, channel = at % TILE;
            if (channel < channels) to[row * out.row + channel * out.channel] = tile[row * OUT_PITCH + channel];
        }
    }
}
