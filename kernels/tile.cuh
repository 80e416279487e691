// A warp's product of 16 columns of the mix matrix with a tile of 64 channels: C[k][x] += sum_i M[i][k] B[i][x].
//
// M comes from the warp's slab (columns.cuh), B from shared memory, staged by the block CHUNK examples at a time in rows of
// 64 + 16 bytes, so that neither ldmatrix nor the tf32 loads conflict. Examples are added in order in all three kinds of
// arithmetic, whatever the panel or the number of warps: these do not change the bits.
//
// The accumulators are 32 floats a lane. EXACT: lane (y, x) = (lane / 8, lane % 8) holds columns y + 4 m of channels 4 x .. 4 x + 4
// and 32 + 4 x .. 32 + 4 x + 4. Tensor cores: eight tiles of 8 channels in the layout of mma.cuh.
#pragma once
#include "mma.cuh"

constexpr u32 TILE = 64;

template <class T> constexpr u32 CHUNK = is_16_bit<T> ? 64 : 32;
template <class T> constexpr u32 STAGE_PITCH = TILE + PER_PACK<T>;
template <class T> constexpr u32 STAGE_BYTES = CHUNK<T> * STAGE_PITCH<T> * sizeof(T);

// Where tiles wait to be written: 16 rows, padded for both widths of element.
constexpr u32 OUT_PITCH = TILE + 8;
constexpr u32 OUT_BYTES = 16 * OUT_PITCH * 4;

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

// Four examples of the slab times four staged rows, in f32.
template <u32 SLAB_PITCH> __device__ __forceinline__ void multiply_exact(float (&c)[8][4], const float *slab, const float *rows) {
    const float *column = slab + lane_id() / 8 * SLAB_PITCH, *row = rows + lane_id() % 8 * 4;
    float m[4][4];
#pragma unroll
    for (u32 y = 0; y < 4; ++y) {
        const float4 four = *reinterpret_cast<const float4 *>(column + 4 * y * SLAB_PITCH);
        m[y][0] = four.x, m[y][1] = four.y, m[y][2] = four.z, m[y][3] = four.w;
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const float4 z = *reinterpret_cast<const float4 *>(row + i * STAGE_PITCH<float> + 32 * half);
#pragma unroll
            for (u32 y = 0; y < 4; ++y) {
                float(&sum)[4] = c[2 * y + half];
                sum[0] = __fmaf_rn(m[y][i], z.x, sum[0]);
                sum[1] = __fmaf_rn(m[y][i], z.y, sum[1]);
                sum[2] = __fmaf_rn(m[y][i], z.z, sum[2]);
                sum[3] = __fmaf_rn(m[y][i], z.w, sum[3]);
            }
        }
    }
}

// The accumulators into the warp's own 16 x 64 tile in shared memory, converted.
template <class Out, int Math> __device__ __forceinline__ void park_tile(const float (&c)[8][4], Out *tile) {
    __syncwarp();
    if constexpr (Math == EXACT) {
#pragma unroll
        for (u32 y = 0; y < 4; ++y)
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float(&sum)[4] = c[2 * y + half];
                *reinterpret_cast<float4 *>(tile + (lane_id() / 8 + 4 * y) * OUT_PITCH + 32 * half + lane_id() % 8 * 4) =
                    make_float4(sum[0], sum[1], sum[2], sum[3]);
            }
    } else {
        Out *row = tile + lane_id() / 4 * OUT_PITCH + 2 * (lane_id() % 4);
#pragma unroll
        for (u32 x = 0; x < 8; ++x) {
            if constexpr (is_16_bit<Out>) {
                *reinterpret_cast<u32 *>(row + 8 * x) = Convert<Out>::pair(c[x][0], c[x][1]);
                *reinterpret_cast<u32 *>(row + 8 * x + 8 * OUT_PITCH) = Convert<Out>::pair(c[x][2], c[x][3]);
            } else {
                *reinterpret_cast<float2 *>(row + 8 * x) = make_float2(c[x][0], c[x][1]);
                *reinterpret_cast<float2 *>(row + 8 * x + 8 * OUT_PITCH) = make_float2(c[x][2], c[x][3]);
            }
        }
    }
    __syncwarp();
}

// Writes rows x channels (at most 16 x 64) of a parked tile: sixteen bytes a lane where `aligned` says that rows start on
// such a boundary and channels are contiguous, else one element a lane.
template <class Out>
__device__ __forceinline__ void write_tile(const Out *tile, Out *to, i64 row_stride, i64 channel_stride, u32 rows,
                                           u32 channels, bool aligned) {
    if (aligned) {
        constexpr u32 PER = PER_PACK<Out>, PACKS = TILE / PER;
        for (u32 x = lane_id(); x < 16 * PACKS; x += 32) {
            const u32 row = x / PACKS, channel = x % PACKS * PER;
            if (row >= rows || channel >= channels) continue;
            Out *at = to + row * row_stride + channel;
            const Out *from = tile + row * OUT_PITCH + channel;
            if (channel + PER <= channels)
                __stcs(reinterpret_cast<uint4 *>(at), *reinterpret_cast<const uint4 *>(from));
            else
                for (u32 rest = 0; channel + rest < channels; ++rest) at[rest] = from[rest];
        }
    } else {
        for (u32 x = lane_id(); x < rows * TILE; x += 32) {
            const u32 row = x / TILE, channel = x % TILE;
            if (channel < channels) to[row * row_stride + channel * channel_stride] = tile[row * OUT_PITCH + channel];
        }
    }
}
