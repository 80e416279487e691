// Staging: the threads of a block copy a tile into shared memory. Rows or channels past the end become zeros.
#pragma once
#include "tile.cuh"

// A matrix in global memory, (rows, channels) at each position.
template <class T> struct Matrix {
    T *data;
    i64 row, position, channel; // strides in elements
    u32 channels;
    u32 aligned; // rows contiguous and every row of every position on a 16-byte boundary
};

// A block of ROWS x WIDTH elements, from row `begin` of `rows` and from `channel` on, into rows PITCH apart.
template <class T, u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH>
__device__ __forceinline__ void stage_block(T *stage, const Matrix<const T> &from, u32 position, u32 begin, u32 rows,
                                            u32 channel) {
    constexpr u32 PER = PER_PACK<T>, PACKS = WIDTH / PER;
    const T *base = from.data + i64(position) * from.position;
    if (from.aligned) {
        for (u32 x = threadIdx.x; x < ROWS * PACKS; x += THREADS) {
            const u32 row = x / PACKS, at = channel + x % PACKS * PER;
            const bool inside = begin + row < rows && at < from.channels;
            const T *source = inside ? base + i64(begin + row) * from.row + at : base;
            copy_16(stage + row * PITCH + x % PACKS * PER, source,
                    inside ? min(16u, u32(sizeof(T)) * (from.channels - at)) : 0);
        }
    } else {
        for (u32 x = threadIdx.x; x < ROWS * WIDTH; x += THREADS) {
            const u32 row = x / WIDTH, at = channel + x % WIDTH;
            const bool inside = begin + row < rows && at < from.channels;
            stage[row * PITCH + x % WIDTH] =
                inside ? base[i64(begin + row) * from.row + i64(at) * from.channel] : from_float<T>(0.0f);
        }
    }
}

// The same from f32, converted to T.
template <class T, u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH>
__device__ __forceinline__ void stage_converted(T *stage, const Matrix<const float> &from, u32 position, u32 begin, u32 rows,
                                                u32 channel) {
    const float *base = from.data + i64(position) * from.position;
    for (u32 x = threadIdx.x; x < ROWS * WIDTH; x += THREADS) {
        const u32 row = x / WIDTH, at = channel + x % WIDTH;
        const bool inside = begin + row < rows && at < from.channels;
        stage[row * PITCH + x % WIDTH] =
            from_float<T>(inside ? base[i64(begin + row) * from.row + i64(at) * from.channel] : 0.0f);
    }
}

// From elements or from f32, whichever the matrix holds.
template <class T, u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH, class From>
__device__ __forceinline__ void stage_any(T *stage, const Matrix<const From> &from, u32 position, u32 begin, u32 rows,
                                          u32 channel) {
    if constexpr (sizeof(From) == sizeof(T))
        stage_block<T, THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
    else
        stage_converted<T, THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
}

// One-hot rows of the labels, made by comparing.
template <class T, u32 THREADS>
__device__ __forceinline__ void stage_labels(T *stage, const u32 *labels, u32 begin, u32 rows, u32 channel) {
    constexpr u32 PER = PER_PACK<T>, PACKS = TILE / PER;
    for (u32 x = threadIdx.x; x < CHUNK<T> * PACKS; x += THREADS) {
        const u32 row = x / PACKS, first = channel + x % PACKS * PER;
        const u32 label = begin + row < rows ? __ldg(labels + begin + row) : ~0u;
        Pack pack;
#pragma unroll
        for (u32 word = 0; word < 4; ++word) {
            if constexpr (is_16_bit<T>)
                pack.words[word] = Convert<T>::pair(label == first + 2 * word, label == first + 2 * word + 1);
            else
                pack.words[word] = __float_as_uint(label == first + word ? 1.0f : 0.0f);
        }
        store_pack(stage + row * STAGE_PITCH<T> + x % PACKS * PER, pack);
    }
}
