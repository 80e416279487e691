// Tensor-core products of one warp, with the fragment layouts that the kernels build on, and asynchronous copies.
//
// With g = lane / 4 and t = lane % 4, a 16 x 16 tile A of 16-bit elements, a 16 x 8 tile B and a 16 x 8 tile C in f32 lie as
//   a[0] = A[g][2t, 2t+1]   a[1] = A[g+8][2t, 2t+1]   a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]   b[1] = B[2t+8, 2t+9][g]
//   c[0], c[1] = C[g][2t, 2t+1]   c[2], c[3] = C[g+8][2t, 2t+1]
// In tf32 the inner dimension is 8 and its order is free: slot t stands for index 2t, slot t+4 for 2t+1, so that
//   a[0] = A[g][2t]   a[1] = A[g+8][2t]   a[2] = A[g][2t+1]   a[3] = A[g+8][2t+1]   b[0] = B[2t][g]   b[1] = B[2t+1][g]
// and a lane's elements of A are the same pairs in both.
#pragma once
#include "types.cuh"

template <class T> struct Mma16;

// C += A B, 16 x 8 x 16 in 16-bit elements.
template <> struct Mma16<f16> {
    static __device__ __forceinline__ void run(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
        half(c, a[0], a[1], b0);
        half(c, a[2], a[3], b1);
#endif
    }
    static __device__ __forceinline__ void half(float (&c)[4], u32 a0, u32 a1, u32 b) {
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(b));
    }
};

template <> struct Mma16<bf16> {
    static __device__ __forceinline__ void run(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};

// C += A B, 16 x 8 x 8 in tf32.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }

// Four 8 x 8 tiles of 16-bit elements; lane l gives the address of row l % 8 of tile l / 8. Lane (g, t) gets [g][2t, 2t+1] of
// each.
__device__ __forceinline__ void load_matrices(u32 (&x)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same transposed: lane (g, t) gets [2t, 2t+1][g] of each.
__device__ __forceinline__ void load_matrices_transposed(u32 (&x)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies `bytes` (0 to 16) of 16 to shared memory and fills the rest with zeros; both addresses aligned to 16 bytes.
// Asynchronous from sm_80 on, done by the next `copies_arrived`; at once on sm_75.
__device__ __forceinline__ void copy_16(void *to, const void *from, u32 bytes) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
#else
    Pack pack = {{0, 0, 0, 0}};
    if (bytes == 16) {
        pack = load_pack(from);
    } else {
        const u16 *halves = static_cast<const u16 *>(from);
#pragma unroll
        for (u32 half = 0; half < 8; ++half)
            if (2 * half < bytes) pack.words[half / 2] |= u32(halves[half]) << 16 * (half % 2);
    }
    store_pack(to, pack);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `PENDING` of this thread's committed groups are under way. A barrier makes the data visible to others.
template <int PENDING> __device__ __forceinline__ void copies_arrived() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
