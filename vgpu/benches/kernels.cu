// Kernels of the throughput bench.
// kernels.ptx is what NVRTC 12.9 makes of this file: --gpu-architecture=compute_80 --std=c++17 -default-device

// C = A B for n a multiple of 64: 64 x 64 tiles in shared memory, 4 x 4 per thread.
extern "C" __global__ void gemm(const float* a, const float* b, float* c, int n) {
    __shared__ float as[16][64], bs[16][64];
    int t = threadIdx.x, tx = t % 16, ty = t / 16, row = blockIdx.y * 64, col = blockIdx.x * 64;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < n; k0 += 16) {
        for (int i = 0; i < 4; i++) {
            int e = t + i * 256;
            as[e % 16][e / 16] = a[(row + e / 16) * n + k0 + e % 16];
            bs[e / 64][e % 64] = b[(k0 + e / 64) * n + col + e % 64];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) acc[i][j] += as[k][ty * 4 + i] * bs[k][tx * 4 + j];
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) c[(row + ty * 4 + i) * n + col + tx * 4 + j] = acc[i][j];
}

// The same with a 32 x 32 tile and one element per thread: two shared loads for every FMA.
extern "C" __global__ void gemm_naive(const float* a, const float* b, float* c, int n) {
    __shared__ float as[32][32], bs[32][32];
    int tx = threadIdx.x % 32, ty = threadIdx.x / 32, row = blockIdx.y * 32 + ty, col = blockIdx.x * 32 + tx;
    float acc = 0;
    for (int k0 = 0; k0 < n; k0 += 32) {
        as[ty][tx] = a[row * n + k0 + tx];
        bs[ty][tx] = b[(k0 + ty) * n + col];
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 32; k++) acc += as[ty][k] * bs[k][tx];
        __syncthreads();
    }
    c[row * n + col] = acc;
}

// Philox 4x32-10, the exclusive or of all its words.
extern "C" __global__ void philox(unsigned* out, int rounds) {
    unsigned id = blockIdx.x * blockDim.x + threadIdx.x, sum = 0;
    for (int i = 0; i < rounds; i++) {
        unsigned a = id, b = i, c = 0, d = 0, k = 0x1234, l = 0x5678;
#pragma unroll
        for (int r = 0; r < 10; r++) {
            unsigned h0 = __umulhi(0xD2511F53u, a), h1 = __umulhi(0xCD9E8D57u, c);
            unsigned e = h1 ^ b ^ k, g = h0 ^ d ^ l;
            b = 0xCD9E8D57u * c;
            d = 0xD2511F53u * a;
            a = e;
            c = g;
            k += 0x9E3779B9u;
            l += 0xBB67AE85u;
        }
        sum ^= a ^ b ^ c ^ d;
    }
    out[id] = sum;
}

extern "C" __global__ void copy(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}

// Neighbouring threads share a word.
extern "C" __global__ void copy_halves(const unsigned short* x, unsigned short* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}
