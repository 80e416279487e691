// Programs that synchronise correctly: the virtual GPU must find nothing in them.
// correct.ptx is what NVRTC 12.9 makes of this file: --gpu-architecture=compute_80 --std=c++17 -default-device

// C = A B for N a multiple of 32, row-major, with two cp.async stages.
extern "C" __global__ void gemm_cp_async(const float* a, const float* b, float* c, int n) {
    __shared__ __align__(16) float as[2][32][32];
    __shared__ __align__(16) float bs[2][32][32];
    int tx = threadIdx.x % 8, ty = threadIdx.x / 8;
    int row = blockIdx.y * 32 + ty, col = blockIdx.x * 32 + tx * 4;
    auto load = [&](int stage, int k) {
        unsigned da = (unsigned)__cvta_generic_to_shared(&as[stage][ty][tx * 4]);
        unsigned db = (unsigned)__cvta_generic_to_shared(&bs[stage][ty][tx * 4]);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(da), "l"(a + row * n + k + tx * 4));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(db), "l"(b + (k + ty) * n + col));
        asm volatile("cp.async.commit_group;");
    };
    float acc[4] = {};
    load(0, 0);
    for (int k = 0; k < n; k += 32) {
        int stage = k / 32 % 2;
        if (k + 32 < n) {
            load(stage ^ 1, k + 32);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 4; j++) acc[j] += as[stage][ty][i] * bs[stage][i][tx * 4 + j];
        __syncthreads();
    }
    for (int j = 0; j < 4; j++) c[row * n + col + j] = acc[j];
}

// Sums n values with half of the warps loading and half adding, through named barriers.
extern "C" __global__ void reduce_specialised(const float* x, float* out, int rounds) {
    __shared__ float buffer[2][32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Barriers 1 and 2: buffer full; 3 and 4: buffer empty.
    if (warp == 0) {
        for (int i = 0; i < rounds; i++) {
            if (i >= 2) asm volatile("bar.sync %0, 64;" ::"r"(3 + i % 2) : "memory");
            buffer[i % 2][lane] = x[i * 32 + lane];
            asm volatile("bar.arrive %0, 64;" ::"r"(1 + i % 2) : "memory");
        }
    } else {
        float sum = 0;
        for (int i = 0; i < rounds; i++) {
            asm volatile("bar.sync %0, 64;" ::"r"(1 + i % 2) : "memory");
            sum += buffer[i % 2][31 - lane];
            if (i + 2 < rounds) asm volatile("bar.arrive %0, 64;" ::"r"(3 + i % 2) : "memory");
        }
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (lane == 0) *out = sum;
    }
}

// The last block to finish adds the partial sums of all.
extern "C" __global__ void reduce_last_block(const float* x, float* partial, float* out, unsigned* count) {
    __shared__ bool last;
    float sum = x[blockIdx.x * 32 + threadIdx.x];
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(count, gridDim.x) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        sum = 0;
        for (int i = threadIdx.x; i < gridDim.x; i += 32) sum += partial[i];
        for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
        if (threadIdx.x == 0) *out = sum;
    }
}

// Every block waits for every other, then reads what its neighbour wrote.
extern "C" __global__ void grid_barrier(int* x, int* y, unsigned* count) {
    int n = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
    x[i] = i * 3;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1);
        while (*(volatile unsigned*)count < gridDim.x) {
        }
        __threadfence();
    }
    __syncthreads();
    y[i] = x[(i + blockDim.x) % n];
}

// Lanes of one warp take a lock in turn.
extern "C" __global__ void spin_lock(int* lock, int* value) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            int v = *(volatile int*)value;
            *(volatile int*)value = v + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void recursion(int* out) { out[threadIdx.x] = fibonacci(threadIdx.x % 12); }

__device__ __noinline__ int plus_one(int x) { return x + 1; }
__device__ __noinline__ int twice(int x) { return x * 2; }
__device__ __noinline__ int minus_seven(int x) { return x - 7; }
typedef int (*function)(int);
__device__ function table[3] = {plus_one, twice, minus_seven};

extern "C" __global__ void indirect(int* out) {
    int i = threadIdx.x;
    out[i] = table[i % 3](i);
}

extern "C" __global__ void switches(const int* x, int* out) {
    int i = threadIdx.x, v = x[i];
    switch (v) {
        case 0: v = 10 + i; break;
        case 1: v = i * i; break;
        case 2: v = -i; break;
        case 3: v = i ^ 5; break;
        case 4: v = 77; break;
        case 5: v = i / 3; break;
        case 6: v = i % 7; break;
        default: v = 1000;
    }
    out[i] = v;
}

// Nested divergence with a collective after it: all lanes must have come back together.
extern "C" __global__ void nested(const int* x, int* out) {
    int i = threadIdx.x, v = x[i], s = 0;
    for (int k = 0; k < v % 5; k++) {
        if (k % 2) {
            if (v & 1) s += k; else continue;
        } else if (v == 13) {
            break;
        }
        s += v;
    }
    out[i] = __reduce_add_sync(~0u, s);
}

extern "C" __global__ void asserts(const int* x) { 
    if (x[threadIdx.x] == 5) __assertfail("x != 5", "file.cu", 12, "asserts", 1);
}

// Local memory with run-time indices, and a stack of structures by value.
struct Big { int v[9]; };
__device__ __noinline__ int pick(Big b, int i) { return b.v[i]; }
extern "C" __global__ void by_value(const int* x, int* out) {
    Big b;
    for (int k = 0; k < 9; k++) b.v[k] = x[k] * (threadIdx.x + 1);
    out[threadIdx.x] = pick(b, x[threadIdx.x % 9] % 9);
}
