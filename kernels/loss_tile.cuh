// What the loss kernels share: a warp's fragment of 16 columns by 64 classes, sums over its rows, and staging with conversion.
//
// Needs -DELEMENT= (the type of the logits in memory) and -DMATH=. Products take operands of Number: ELEMENT itself where
// tensor cores multiply 16 bits, else f32.
#pragma once
#include "reduce.cuh"
#include "stage.cuh"

template <bool Condition, class A, class B> struct Select {
    using Type = A;
};
template <class A, class B> struct Select<false, A, B> {
    using Type = B;
};
using Number = Select<MATH == HALF, ELEMENT, float>::Type;

constexpr u32 PITCH = STAGE_PITCH<Number>; // of staged rows
constexpr int SOFT_ROWS = 2;                // -DTARGETS=: 1 labels, 2 soft rows
constexpr float LN_2 = 0.693147180559945309f;

// A call keeps these values of each column of a chunk for its gradient: (r, STATISTICS, stride).
enum Statistic : u32 {
    LOG2_SUM,      // log2 sum exp of the mixed logits
    SHARE,         // in the reduction: s on the scale of prepared attention, or 1; 0 for a column without mass if weighed
    TOTAL,         // t, the sum of the mixed targets
    LOSS,          // cross-entropy
    MEAN,          // sum_l M_l dM_l / q
    OVER_MASS,     // 1 / s on the scale of prepared attention, 0 without mass
    STATISTICS
};

// The classes of a tile of 64 that lie in a lane, as c[x][q], and which of the lane's rows c[x][q] belongs to (tile.cuh, mma.cuh).
constexpr u32 LANE_ROWS = MATH == EXACT ? 4 : 2;
__device__ __forceinline__ constexpr u32 lane_row(u32 x, u32 q) { return MATH == EXACT ? x / 2 : q / 2; }
__device__ __forceinline__ u32 class_of(u32 x, u32 q) {
    return MATH == EXACT ? 32 * (x % 2) + 4 * (lane_id() % 8) + q : 8 * x + 2 * (lane_id() % 4) + q % 2;
}

// Over the lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
    x = quad_sum(x);
    return MATH == EXACT ? __fadd_rn(x, __shfl_xor_sync(ALL_LANES, x, 4)) : x;
}
__device__ __forceinline__ float row_max(float x) {
    x = quad_max(x);
    return MATH == EXACT ? fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 4)) : x;
}

// 2^x to 2 ulp; no subnormal results.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <class A, class B> constexpr bool SAME = false;
template <class A> constexpr bool SAME<A, A> = true;

// Copies BYTES (4 or 8) to shared memory, or zeros where `inside` is false; asynchronous from sm_80 on, as copy_16.
template <u32 BYTES> __device__ __forceinline__ void copy_piece(void *to, const void *from, bool inside) {
    using Piece = typename Select<BYTES == 8, uint2, u32>::Type;
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(inside ? BYTES : 0)
                 : "memory");
#else
    *static_cast<Piece *>(to) = inside ? *static_cast<const Piece *>(from) : Piece();
#endif
}

// Stages rows that are contiguous but not aligned to 16 bytes, in pieces of 4 or 8.
template <u32 BYTES, u32 THREADS, u32 ROWS>
__device__ __forceinline__ void stage_pieces(Number *to, const Matrix<const Number> &from, u32 position, u32 begin, u32 rows, u32 channel) {
    constexpr u32 PER = BYTES / sizeof(Number), PIECES = TILE / PER;
    const Number *base = from.data + i64(position) * from.position;
#pragma unroll 2
    for (u32 x = threadIdx.x; x < ROWS * PIECES; x += THREADS) {
        const u32 row = x / PIECES, at = channel + x % PIECES * PER;
        const bool inside = begin + row < rows && at < from.channels;
        copy_piece<BYTES>(to + row * PITCH + x % PIECES * PER, inside ? base + i64(begin + row) * from.row + at : base, inside);
    }
}

// Whether rows, their starts and their length are whole pieces.
template <class T> __device__ __forceinline__ bool comes_in(const Matrix<const T> &from, u32 bytes) {
    const u64 starts = reinterpret_cast<u64>(from.data) | u64(from.row) * sizeof(T) | u64(from.position) * sizeof(T) | u64(from.channels) * sizeof(T);
    return from.channel == 1 && starts % bytes == 0;
}

// Stages ROWS x TILE elements as Number: copied where that is what they are, else converted.
template <u32 THREADS, u32 ROWS, class From>
__device__ __forceinline__ void stage_rows(Number *to, const Matrix<const From> &from, u32 position, u32 begin, u32 rows, u32 channel) {
    if constexpr (!SAME<From, Number>) {
        const From *base = from.data + i64(position) * from.position;
        for (u32 x = threadIdx.x; x < ROWS * TILE; x += THREADS) {
            const u32 row = x / TILE, at = channel + x % TILE;
            const bool inside = begin + row < rows && at < from.channels;
            to[row * PITCH + x % TILE] = from_float<Number>(
                inside ? to_float(base[i64(begin + row) * from.row + i64(at) * from.channel]) : 0.0f);
        }
    } else if (!from.aligned && comes_in(from, 8)) {
        stage_pieces<8, THREADS, ROWS>(to, from, position, begin, rows, channel);
    } else if (!from.aligned && comes_in(from, 4)) {
        stage_pieces<4, THREADS, ROWS>(to, from, position, begin, rows, channel);
    } else {
        stage_block<Number, THREADS, ROWS, TILE, PITCH>(to, from, position, begin, rows, channel);
    }
}

// A lane's first row of a fragment of 16 rows, and how far apart its rows are: as multiply_exact and mma leave them.
__device__ __forceinline__ u32 first_row() { return lane_id() / (MATH == EXACT ? 8 : 4); }
constexpr u32 ROW_STEP = MATH == EXACT ? 4 : 8;

// Zero times the -inf of a masked class is NaN: sums that met it are taken anew, without the examples of weight zero. `weight(row, i)`
// is the fragment's, as it was multiplied; `channel` its first class.
template <class Weight>
__device__ __forceinline__ void mend(float (&s)[8][4], const Matrix<const ELEMENT> &logits, u32 position, u32 channel, u32 b,
                                     Weight weight) {
    float probe = 0.0f;
#pragma unroll
    for (u32 at = 0; at < 32; ++at) probe = __fmaf_rn(s[at / 4][at % 4], 0.0f, probe);
    if (probe == 0.0f) return;
    u32 left = 0;
#pragma unroll
    for (u32 at = 0; at < 32; ++at) left |= u32(s[at / 4][at % 4] != s[at / 4][at % 4]) << at;
#pragma unroll 1
    for (; left != 0; left &= left - 1) {
        const u32 next = __ffs(left) - 1, label = channel + class_of(next / 4, next % 4);
        const u32 row = first_row() + lane_row(next / 4, next % 4) * ROW_STEP;
        const ELEMENT *of_class = logits.data + i64(position) * logits.position + i64(label) * logits.channel;
        float sum = 0.0f;
#pragma unroll 1
        for (u32 i = 0; i < b && label < logits.channels; ++i) {
            const float w = weight(row, i);
            if (w != 0.0f) sum = __fmaf_rn(w, to_float(of_class[i64(i) * logits.row]), sum);
        }
#pragma unroll
        for (u32 at = 0; at < 32; ++at)
            if (at == next) s[at / 4][at % 4] = sum;
    }
}

// A fragment from f32 in shared memory, rows TILE_PITCH apart.
template <u32 TILE_PITCH> __device__ __forceinline__ void load_tile(float (&c)[8][4], const float *tile) {
    const float *first = tile + first_row() * TILE_PITCH + class_of(0, 0);
#pragma unroll
    for (u32 x = 0; x < 8; ++x) {
        if constexpr (MATH == EXACT) {
            const float4 four = *reinterpret_cast<const float4 *>(first + x / 2 * ROW_STEP * TILE_PITCH + x % 2 * 32);
            c[x][0] = four.x, c[x][1] = four.y, c[x][2] = four.z, c[x][3] = four.w;
        } else {
            const float2 upper = *reinterpret_cast<const float2 *>(first + 8 * x);
            const float2 lower = *reinterpret_cast<const float2 *>(first + 8 * x + ROW_STEP * TILE_PITCH);
            c[x][0] = upper.x, c[x][1] = upper.y, c[x][2] = lower.x, c[x][3] = lower.y;
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
