// Programs whose counters are counted by hand in counters.rs.
// counted.ptx is what NVRTC 12.9 makes of this file: --gpu-architecture=compute_80 --std=c++17 -default-device
#define TILE 32

extern "C" __global__ void copy(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}

extern "C" __global__ void copy_vector(const float4* x, float4* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}

// Reads every eighth float: a sector for each thread.
extern "C" __global__ void copy_strided(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i * 8];
}

extern "C" __global__ void transpose(const float* x, float* y, int n) {
    __shared__ float tile[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    tile[ty][tx] = x[(blockIdx.y * TILE + ty) * n + blockIdx.x * TILE + tx];
    __syncthreads();
    y[(blockIdx.x * TILE + ty) * n + blockIdx.y * TILE + tx] = tile[tx][ty];
}

extern "C" __global__ void transpose_padded(const float* x, float* y, int n) {
    __shared__ float tile[TILE][TILE + 1];
    int tx = threadIdx.x, ty = threadIdx.y;
    tile[ty][tx] = x[(blockIdx.y * TILE + ty) * n + blockIdx.x * TILE + tx];
    __syncthreads();
    y[(blockIdx.x * TILE + ty) * n + blockIdx.y * TILE + tx] = tile[tx][ty];
}

// C (16 x 8 per warp) = A (16 x k) B (k x 8), row-major A and C, column-major B, f16 inputs.
extern "C" __global__ void gemm_mma(const unsigned* a, const unsigned* b, float* c, int k) {
    __shared__ __align__(16) unsigned as[16][8], bs[8][8];
    int lane = threadIdx.x, group = lane / 4, place = lane % 4;
    float d[4] = {};
#pragma unroll 1
    for (int k0 = 0; k0 < k; k0 += 16) {
#pragma unroll
        for (int r = lane; r < 128; r += 32) as[r / 8][r % 8] = a[r / 8 * (k / 2) + k0 / 2 + r % 8];
#pragma unroll
        for (int r = lane; r < 64; r += 32) bs[r / 8][r % 8] = b[r / 8 * (k / 2) + k0 / 2 + r % 8];
        __syncwarp();
        unsigned fa[4], fb[2];
        unsigned pa = (unsigned)__cvta_generic_to_shared(&as[lane % 16][lane / 16 * 4]);
        unsigned pb = (unsigned)__cvta_generic_to_shared(&bs[lane % 8][lane / 8 % 2 * 4]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(pa));
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(fb[0]), "=r"(fb[1]) : "r"(pb));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
        __syncwarp();
    }
    c[group * 8 + place * 2] = d[0];
    c[group * 8 + place * 2 + 1] = d[1];
    c[(group + 8) * 8 + place * 2] = d[2];
    c[(group + 8) * 8 + place * 2 + 1] = d[3];
}

extern "C" __global__ void branches(const int* x, int* y) {
    int i = threadIdx.x;
    if (x[i] > 0) atomicAdd(y, x[i]);
    else atomicMax(y + 1, i);
}
