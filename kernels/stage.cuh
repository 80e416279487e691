// Staging: the threads of a block copy a tile into shared memory. Rows or channels past the end become zeros.
#pragma once
#include "labels.cuh"
#include "tile.cuh"

// A block of ROWS x WIDTH elements, from row `begin` of `rows` and from `channel` on, into rows PITCH apart: any
// strides, converted to T.
template <u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH, class T, class From>
__device__ __forceinline__ void stage_elements(T *stage, const Matrix<const From> &from, u32 position, u32 begin, u32 rows,
                                               u32 channel) {
    const From *base = from.data + i64(position) * from.position;
    for (u32 x = threadIdx.x; x < ROWS * WIDTH; x += THREADS) {
        const u32 row = x / WIDTH, at = channel + x % WIDTH;
        const bool inside = begin + row < rows && at < from.channels;
        const i64 element = i64(begin + row) * from.row + i64(at) * from.channel;
        if constexpr (SAME<T, From>)
            stage[row * PITCH + x % WIDTH] = inside ? base[element] : from_float<T>(0.0f);
        else
            stage[row * PITCH + x % WIDTH] = from_float<T>(inside ? to_float(base[element]) : 0.0f);
    }
}

// The same of elements that are T, in packs of 16 bytes where that is how they lie.
template <u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH, class T>
__device__ __forceinline__ void stage_block(T *stage, const Matrix<const T> &from, u32 position, u32 begin, u32 rows,
                                            u32 channel) {
    constexpr u32 PER = PER_PACK<T>, PACKS = WIDTH / PER;
    const T *base = from.data + i64(position) * from.position;
    if (from.aligned) {
        for (u32 x = threadIdx.x; x < ROWS * PACKS; x += THREADS) {
            const u32 row = x / PACKS, at = channel + x % PACKS * PER;
            const bool inside = begin + row < rows && at < from.channels;
            const T *source = inside ? base + i64(begin + row) * from.row + at : base;
            copy_16(stage + row * PITCH + x % PACKS * PER, source, inside ? min(16u, u32(sizeof(T)) * (from.channels - at)) : 0);
        }
    } else {
        stage_elements<THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
    }
}

// Copies BYTES (4 or 8) to shared memory, or zeros where `inside` is false; asynchronous from sm_80 on, as copy_16.
template <u32 BYTES> __device__ __forceinline__ void copy_piece(void *to, const void *from, bool inside) {
    using Piece = typename Select<BYTES == 8, uint2, u32>::Type;
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES),
                 "r"(inside ? BYTES : 0)
                 : "memory");
#else
    *static_cast<Piece *>(to) = inside ? *static_cast<const Piece *>(from) : Piece();
#endif
}

// Stages rows that are contiguous but not aligned to 16 bytes, in pieces of 4 or 8.
template <u32 BYTES, u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH, class T>
__device__ __forceinline__ void stage_pieces(T *to, const Matrix<const T> &from, u32 position, u32 begin, u32 rows, u32 channel) {
    constexpr u32 PER = BYTES / sizeof(T), PIECES = WIDTH / PER;
    const T *base = from.data + i64(position) * from.position;
#pragma unroll 2
    for (u32 x = threadIdx.x; x < ROWS * PIECES; x += THREADS) {
        const u32 row = x / PIECES, at = channel + x % PIECES * PER;
        const bool inside = begin + row < rows && at < from.channels;
        copy_piece<BYTES>(to + row * PITCH + x % PIECES * PER, inside ? base + i64(begin + row) * from.row + at : base, inside);
    }
}

// Whether rows, their starts and their length are whole pieces.
template <class T> __device__ __forceinline__ bool comes_in(const Matrix<const T> &from, u32 bytes) {
    const u64 starts = u64(from.row) | u64(from.position) | from.channels;
    return from.channel == 1 && (reinterpret_cast<u64>(from.data) | starts * sizeof(T)) % bytes == 0;
}

// From elements of any type: copied where they are T, as they lie, else converted.
template <u32 THREADS, u32 ROWS, u32 WIDTH, u32 PITCH, class T, class From>
__device__ __forceinline__ void stage_any(T *stage, const Matrix<const From> &from, u32 position, u32 begin, u32 rows,
                                          u32 channel) {
    if constexpr (!SAME<From, T>)
        stage_elements<THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
    else if (!from.aligned && comes_in(from, 8))
        stage_pieces<8, THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
    else if (!from.aligned && comes_in(from, 4))
        stage_pieces<4, THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
    else
        stage_block<THREADS, ROWS, WIDTH, PITCH>(stage, from, position, begin, rows, channel);
}

// One-hot rows of the labels, made by comparing; zeros where there is no class.
template <u32 THREADS, class T>
__device__ __forceinline__ void stage_labels(T *stage, const Labels &labels, u32 begin, u32 rows, u32 channel) {
    constexpr u32 PER = PER_PACK<T>, PACKS = TILE / PER;
    for (u32 x = threadIdx.x; x < CHUNK<T> * PACKS; x += THREADS) {
        const u32 row = x / PACKS, first = channel + x % PACKS * PER;
        const u32 label = begin + row < rows ? labels.at(begin + row) : NO_CLASS;
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
