// A kernel for each family of intrinsics and language features: what NVRTC makes of them is what must be known.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#define ALL extern "C" __global__ void
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

ALL atomics_integer(int *a, u32 *b, u64 *c, s64 *d, int n) {
    int i = threadIdx.x;
    a[1] = atomicAdd(a, n) + atomicSub(a, n) + atomicExch(a, n) + atomicMin(a, n) + atomicMax(a, n);
    a[2] = atomicAnd(a, n) + atomicOr(a, n) + atomicXor(a, n) + atomicCAS(a, n, i);
    b[1] = atomicAdd(b, n) + atomicSub(b, n) + atomicExch(b, n) + atomicMin(b, n) + atomicMax(b, n) + atomicInc(b, n) + atomicDec(b, n);
    b[2] = atomicAnd(b, n) + atomicOr(b, n) + atomicXor(b, n) + atomicCAS(b, n, i);
    c[1] = atomicAdd(c, n) + atomicExch(c, n) + atomicMin(c, n) + atomicMax(c, n) + atomicCAS(c, n, i);
    c[2] = atomicAnd(c, n) + atomicOr(c, n) + atomicXor(c, n);
    d[1] = atomicMin(d, n) + atomicMax(d, n);
    atomicAdd(a + 3, n); atomicMax(b + 3, n); atomicAdd(c + 3, n); atomicMin(d + 3, n);
    atomicAdd_block(a, n); atomicAdd_system(a, n); atomicCAS_block(b, n, i); atomicExch_system(c, n); atomicMax_block(d, n);
    unsigned short *s = (unsigned short *)b;
    s[9] = atomicCAS(s + 8, (unsigned short)n, (unsigned short)i);
}

ALL atomics_float(float *a, double *b, __half *c, __half2 *d, __nv_bfloat16 *e, __nv_bfloat162 *f) {
    a[1] = atomicAdd(a, 1.f) + atomicExch(a, 2.f);
    b[1] = atomicAdd(b, 1.0);
    c[1] = atomicAdd(c, __float2half(1.f));
    d[1] = atomicAdd(d, __float2half2_rn(1.f));
    e[1] = atomicAdd(e, __float2bfloat16(1.f));
    f[1] = atomicAdd(f, __float2bfloat162_rn(1.f));
    atomicAdd(a + 2, 1.f); atomicAdd(b + 2, 1.0); atomicAdd(c + 2, __float2half(1.f)); atomicAdd(d + 2, d[3]);
    atomicAdd(e + 2, __float2bfloat16(1.f)); atomicAdd(f + 2, f[3]);
    atomicAdd_block(a, 1.f); atomicAdd_system(b, 1.0);
    __shared__ float s; __shared__ double t; __shared__ __half2 h; __shared__ __nv_bfloat162 g;
    atomicAdd(&s, 1.f); atomicAdd(&t, 1.0); atomicAdd(&h, d[0]); atomicAdd(&g, f[0]);
#if __CUDA_ARCH__ >= 900
    float2 *v = (float2 *)a; float4 *w = (float4 *)a;
    v[8] = atomicAdd(v + 4, make_float2(1, 2));
    w[8] = atomicAdd(w + 4, make_float4(1, 2, 3, 4));
    atomicAdd(v + 5, make_float2(1, 2));
    asm volatile("{ .reg .b128 x, y; mov.b128 x, {%0, %0}; atom.global.relaxed.gpu.cas.b128 y, [%0], x, x; atom.exch.b128 y, [%0], x; }" :: "l"(a));
#endif
}

ALL warps(u32 *out, float *x, u64 *y, double *z) {
    u32 i = threadIdx.x, m = __activemask();
    u32 r = __shfl_sync(m, i, 3) + __shfl_up_sync(m, i, 1, 16) + __shfl_down_sync(m, i, 2, 8) + __shfl_xor_sync(m, i, 5);
    x[i] = __shfl_sync(m, x[i], 3) + __shfl_xor_sync(m, x[i + 1], 4);
    y[i] = __shfl_sync(m, y[i], 3); z[i] = __shfl_down_sync(m, z[i], 3);
    r += __all_sync(m, i > 3) + __any_sync(m, i > 4) + __uni_sync(m, i) + __ballot_sync(m, i & 1);
    __syncwarp(m); __syncwarp();
    int p;
    r += __match_any_sync(m, i) + __match_all_sync(m, i, &p) + __match_any_sync(m, y[i]) + __match_all_sync(m, y[i], &p) + p;
#if __CUDA_ARCH__ >= 800
    r += __reduce_add_sync(m, i) + __reduce_min_sync(m, i) + __reduce_max_sync(m, i) + __reduce_and_sync(m, i) + __reduce_or_sync(m, i) + __reduce_xor_sync(m, i);
    r += __reduce_add_sync(m, (int)i) + __reduce_min_sync(m, (int)i) + __reduce_max_sync(m, (int)i);
#endif
    __half h = __shfl_sync(m, __float2half(x[i]), 1); __nv_bfloat162 b = __shfl_xor_sync(m, __float2bfloat162_rn(x[i]), 1);
    out[i] = r + (u32)__half2float(h) + (u32)__low2float(b) + __popc(__ballot_sync(m, 1)) + __fns(m, 0, 3);
}

ALL barriers(int *out) {
    int i = threadIdx.x;
    __syncthreads();
    int r = __syncthreads_count(i & 1) + __syncthreads_and(i) + __syncthreads_or(i);
    __threadfence(); __threadfence_block(); __threadfence_system();
    __nanosleep(100);
    asm volatile("bar.sync 1, 64;"); asm volatile("barrier.sync 2, 64;"); asm volatile("bar.arrive 3, 64;");
    asm volatile("barrier.cta.sync.aligned 4;"); asm volatile("bar.warp.sync 0xffffffff;");
    asm volatile("fence.acq_rel.gpu;"); asm volatile("fence.sc.sys;");
    out[i] = r;
}

ALL integers(int *a, u32 *b, s64 *c, u64 *d, short *e, unsigned char *f, int n) {
    int i = threadIdx.x, x = a[i]; u32 y = b[i]; s64 z = c[i]; u64 w = d[i];
    a[i] = x / n + x % n + abs(x) + min(x, n) + max(x, n) + __clz(x) + __ffs(x) + __popc(x) + __brev(x) + (x >> n) + (x << n) + __mulhi(x, n) + __mul24(x, n) + __sad(x, n, y) + __hadd(x, n) + __rhadd(x, n);
    b[i] = y / n + y % n + __umulhi(y, n) + __umul24(y, n) + __usad(y, n, 4) + __byte_perm(y, n, 0x3210) + __funnelshift_l(y, n, 3) + __funnelshift_r(y, n, x) + __funnelshift_lc(y, n, x) + __funnelshift_rc(y, n, 4) + __uhadd(y, n) + (y >> n);
    c[i] = z / n + z % n + llabs(z) + min(z, (s64)n) + __mul64hi(z, n) + __clzll(z) + __ffsll(z) + __popcll(z) + (z >> n) + (z << n);
    d[i] = w / n + w % n + __umul64hi(w, n) + __brevll(w) + max(w, (u64)n) + (w >> n);
    e[i] = e[i + 1] * e[i + 2] + e[i + 3] / (short)n; f[i] = f[i + 1] * 3 + f[i + 2] / 7 + (f[i + 3] >> 2);
    a[i + 1] = __dp4a(x, n, 3) + __dp4a(y, (u32)n, 3u) + __dp2a_lo(x, n, 3) + __dp2a_hi(x, n, 3) + __dp2a_lo(y, (u32)n, 3u);
#ifdef __SIZEOF_INT128__
    unsigned __int128 q = (unsigned __int128)w * w; q /= (u64)n + 1; q += w; d[i + 1] = (u64)(q >> 64) + (u64)q;
#endif
}

ALL simd_in_a_word(u32 *a, u32 n) {
    u32 x = a[threadIdx.x], r = 0;
    r += __vabs2(x) + __vabsss2(x) + __vadd2(x, n) + __vaddss2(x, n) + __vaddus2(x, n) + __vavgs2(x, n) + __vavgu2(x, n) + __vcmpeq2(x, n) + __vcmpges2(x, n) + __vcmpgtu2(x, n) + __vabsdiffs2(x, n) + __vabsdiffu2(x, n);
    r += __vmaxs2(x, n) + __vmaxu2(x, n) + __vmins2(x, n) + __vminu2(x, n) + __vneg2(x) + __vsads2(x, n) + __vsadu2(x, n) + __vseteq2(x, n) + __vsub2(x, n) + __vsubss2(x, n) + __vsubus2(x, n);
    r += __vabs4(x) + __vabsss4(x) + __vadd4(x, n) + __vaddss4(x, n) + __vaddus4(x, n) + __vavgs4(x, n) + __vavgu4(x, n) + __vcmpeq4(x, n) + __vcmpges4(x, n) + __vcmpgtu4(x, n) + __vabsdiffs4(x, n) + __vabsdiffu4(x, n);
    r += __vmaxs4(x, n) + __vmaxu4(x, n) + __vmins4(x, n) + __vminu4(x, n) + __vneg4(x) + __vsads4(x, n) + __vsadu4(x, n) + __vsetles4(x, n) + __vsub4(x, n) + __vsubss4(x, n) + __vsubus4(x, n);
    r += __viaddmax_s32(x, n, 3) + __viaddmin_u32(x, n, 3) + __vimax3_s32(x, n, 3) + __vimin3_u32(x, n, 3) + __viaddmax_s16x2(x, n, 3) + __vimax3_u16x2(x, n, 3) + __vimax_s32_relu(x, n) + __vimax_s16x2_relu(x, n);
    bool p, q; r += __vibmax_s32(x, n, &p) + __vibmax_u16x2(x, n, &p, &q) + p + q;
    a[threadIdx.x] = r;
}

ALL floats(float *a, int *b) {
    int i = threadIdx.x; float x = a[i], y = a[i + 1], r = 0;
    r += sinf(x) + cosf(x) + tanf(x) + asinf(x) + acosf(x) + atanf(x) + atan2f(x, y) + sinhf(x) + coshf(x) + tanhf(x) + asinhf(x) + acoshf(x) + atanhf(x);
    r += expf(x) + exp2f(x) + exp10f(x) + expm1f(x) + logf(x) + log2f(x) + log10f(x) + log1pf(x) + powf(x, y) + sqrtf(x) + rsqrtf(x) + cbrtf(x) + hypotf(x, y) + erff(x) + erfcf(x) + tgammaf(x) + lgammaf(x) + erfinvf(x) + normcdff(x) + j0f(x);
    r += floorf(x) + ceilf(x) + truncf(x) + roundf(x) + rintf(x) + nearbyintf(x) + fmodf(x, y) + remainderf(x, y) + fabsf(x) + fminf(x, y) + fmaxf(x, y) + fmaf(x, y, 1) + copysignf(x, y) + fdimf(x, y) + nextafterf(x, y) + ldexpf(x, 3) + logbf(x) + scalbnf(x, 2) + sinpif(x);
    r += __sinf(x) + __cosf(x) + __tanf(x) + __expf(x) + __exp10f(x) + __logf(x) + __log2f(x) + __log10f(x) + __powf(x, y) + __fdividef(x, y) + __saturatef(x) + __frsqrt_rn(x) + __frcp_rn(x) + __frcp_rz(x) + __fsqrt_rd(x) + __fsqrt_ru(x);
    r += __fadd_rn(x, y) + __fadd_rz(x, y) + __fadd_ru(x, y) + __fadd_rd(x, y) + __fmul_rz(x, y) + __fmul_ru(x, y) + __fmaf_rz(x, y, 1) + __fmaf_ru(x, y, 1) + __fmaf_rd(x, y, 1) + __fdiv_rn(x, y) + __fdiv_rz(x, y) + __fdiv_ru(x, y) + __fdiv_rd(x, y) + __fsub_rz(x, y);
    float s, c; sincosf(x, &s, &c); r += s + c; __sincosf(x, &s, &c); r += s + c; int e; r += frexpf(x, &e) + e; float f; r += modff(x, &f) + f;
    b[i] = __float2int_rn(x) + __float2int_rz(x) + __float2int_ru(x) + __float2int_rd(x) + (int)x + (int)(unsigned)x + __float_as_int(x) + ilogbf(x) + isnan(x) + isinf(x) + signbit(x) + (int)lroundf(x) + (int)llrintf(x) + (int)__float2ull_rz(x);
    a[i] = r + __int2float_rn(i) + __int2float_rz(i) + __uint2float_ru(i) + __ll2float_rd(i) + __int_as_float(b[0]) + __ull2float_rn(i);
}

ALL doubles(double *a, s64 *b, float *f) {
    int i = threadIdx.x; double x = a[i], y = a[i + 1], r = 0;
    r += sin(x) + cos(x) + tan(x) + asin(x) + atan2(x, y) + sinh(x) + tanh(x) + exp(x) + exp2(x) + expm1(x) + log(x) + log2(x) + log1p(x) + pow(x, y) + sqrt(x) + rsqrt(x) + cbrt(x) + hypot(x, y) + erf(x) + erfc(x) + tgamma(x) + lgamma(x) + normcdfinv(x);
    r += floor(x) + ceil(x) + trunc(x) + round(x) + rint(x) + fmod(x, y) + remainder(x, y) + fabs(x) + fmin(x, y) + fmax(x, y) + fma(x, y, 1) + copysign(x, y) + ldexp(x, 3) + nextafter(x, y) + x / y;
    r += __dadd_rz(x, y) + __dmul_ru(x, y) + __fma_rd(x, y, 1) + __ddiv_rz(x, y) + __drcp_rn(x) + __dsqrt_ru(x) + __dsub_rd(x, y);
    b[i] = __double2ll_rn(x) + __double2int_rz(x) + __double2uint_ru(x) + __double2loint(x) + __double2hiint(x) + __double_as_longlong(x) + (s64)x;
    f[i] = __double2float_rn(x) + __double2float_rz(x) + (float)x;
    a[i] = r + __hiloint2double(3, 4) + __longlong_as_double(b[0]) + __int2double_rn(i) + __ull2double_rz(i) + f[1];
}

ALL halves(__half *a, __half2 *b, int *c, float *d) {
    int i = threadIdx.x; __half x = a[i], y = a[i + 1], r = x; __half2 p = b[i], q = b[i + 1], s = p;
    r = __hadd(r, y); r = __hsub(r, y); r = __hmul(r, y); r = __hfma(r, y, x); r = __hdiv(r, y); r = __hadd_sat(r, y); r = __hmul_sat(r, y); r = __hfma_sat(r, y, x); r = __hneg(r); r = __habs(r); r = __hmin(r, y); r = __hmax(r, y); r = __hadd_rn(r, y); r = __hmul_rn(r, y);
    r = __hadd(r, hsqrt(x)); r = __hadd(r, hexp(x)); r = __hadd(r, hexp2(x)); r = __hadd(r, hlog(x)); r = __hadd(r, hlog2(x)); r = __hadd(r, hsin(x)); r = __hadd(r, hcos(x)); r = __hadd(r, hrcp(x)); r = __hadd(r, hrsqrt(x)); r = __hadd(r, hfloor(x)); r = __hadd(r, hceil(x)); r = __hadd(r, hrint(x)); r = __hadd(r, htrunc(x)); r = __hadd(r, htanh(x)); r = __hadd(r, htanh_approx(x));
    s = __hadd2(s, q); s = __hsub2(s, q); s = __hmul2(s, q); s = __hfma2(s, q, p); s = __h2div(s, q); s = __hadd2_sat(s, q); s = __hneg2(s); s = __habs2(s); s = __hmin2(s, q); s = __hmax2(s, q); s = __hadd2(s, h2exp2(p)); s = __hadd2(s, h2sqrt(p)); s = __hadd2(s, h2tanh(p)); s = __hadd2(s, h2rcp(p)); s = __hadd2(s, __heq2(p, q)); s = __hadd2(s, __hlt2(p, q)); s = __hadd2(s, __hgtu2(p, q)); s = __hadd2(s, __lows2half2(p, q)); s = __hadd2(s, __lowhigh2highlow(p)); s = __hcmadd(s, p, q);
    r = __hadd(r, __hmin_nan(x, y)); s = __hadd2(s, __hmax2_nan(p, q)); s = __hadd2(s, __hfma2_relu(p, q, p)); r = __hadd(r, __hfma_relu(x, y, x));
    c[i] = __heq(x, y) + __hlt(x, y) + __hgeu(x, y) + __hisnan(x) + __hisinf(x) + __hbeq2(p, q) + __hbltu2(p, q) + __half2int_rn(x) + __half2int_rz(x) + __half2uint_ru(x) + (int)__half2ll_rd(x) + __half2short_rz(x) + __half_as_short(x) + (int)__half2ull_rn(x) + __half2char_rz(x) + __half2uchar_rz(x) + __heq2_mask(p, q);
    a[i] = __hadd(__hadd(__hadd(r, __int2half_rn(i)), __uint2half_rz(i)), __hadd(__ll2half_ru(i), __hadd(__short2half_rd(i), __hadd(__float2half_rz(d[i]), __hadd(__float2half_rd(d[i]), __hadd(__double2half(d[i]), __ushort_as_half(i)))))));
    b[i] = s; d[i] = __half2float(x) + __low2float(p) + __high2float(p) + __half22float2(p).x; b[i + 2] = __float22half2_rn(make_float2(d[1], d[2])); b[i + 3] = __ldg(b + 4); a[i + 3] = __ldcs(a + 5); __stcg(a + 6, x); __stwt(b + 7, p);
}

ALL bfloats(__nv_bfloat16 *a, __nv_bfloat162 *b, int *c, float *d) {
    int i = threadIdx.x; __nv_bfloat16 x = a[i], y = a[i + 1], r = x; __nv_bfloat162 p = b[i], q = b[i + 1], s = p;
#if __CUDA_ARCH__ >= 800
    r = __hadd(r, y); r = __hsub(r, y); r = __hmul(r, y); r = __hfma(r, y, x); r = __hdiv(r, y); r = __hadd_sat(r, y); r = __hmul_sat(r, y); r = __hfma_sat(r, y, x); r = __hneg(r); r = __habs(r); r = __hmin(r, y); r = __hmax(r, y); r = __hmax_nan(r, y); r = __hfma_relu(r, y, x); r = __hadd_rn(r, y);
    r = __hadd(r, hsqrt(x)); r = __hadd(r, hexp(x)); r = __hadd(r, hexp2(x)); r = __hadd(r, hlog(x)); r = __hadd(r, hsin(x)); r = __hadd(r, hrcp(x)); r = __hadd(r, hrsqrt(x)); r = __hadd(r, hfloor(x)); r = __hadd(r, hceil(x)); r = __hadd(r, hrint(x)); r = __hadd(r, htrunc(x)); r = __hadd(r, htanh(x)); r = __hadd(r, htanh_approx(x));
    s = __hadd2(s, q); s = __hsub2(s, q); s = __hmul2(s, q); s = __hfma2(s, q, p); s = __h2div(s, q); s = __hadd2_sat(s, q); s = __hneg2(s); s = __habs2(s); s = __hmin2(s, q); s = __hmax2(s, q); s = __hadd2(s, h2exp2(p)); s = __hadd2(s, h2tanh(p)); s = __hadd2(s, __heq2(p, q)); s = __hadd2(s, __hlt2(p, q)); s = __hadd2(s, __hgtu2(p, q)); s = __hcmadd(s, p, q); s = __hadd2(s, __hmax2_nan(p, q));
#endif
    c[i] = __heq(x, y) + __hlt(x, y) + __hgeu(x, y) + __hisnan(x) + __hisinf(x) + __hbeq2(p, q) + __hbltu2(p, q) + __bfloat162int_rn(x) + __bfloat162int_rz(x) + __bfloat162uint_ru(x) + (int)__bfloat162ll_rd(x) + __bfloat162short_rz(x) + __bfloat16_as_short(x) + __bfloat162char_rz(x) + __heq2_mask(p, q);
    a[i] = __hadd(__hadd(__hadd(r, __int2bfloat16_rn(i)), __uint2bfloat16_rz(i)), __hadd(__ll2bfloat16_ru(i), __hadd(__short2bfloat16_rd(i), __hadd(__float2bfloat16_rz(d[i]), __hadd(__float2bfloat16_ru(d[i]), __double2bfloat16(d[i]))))));
    b[i] = s; d[i] = __bfloat162float(x) + __low2float(p) + __high2float(p) + __bfloat1622float2(p).x; b[i + 2] = __float22bfloat162_rn(make_float2(d[1], d[2])); b[i + 3] = __ldg(b + 4); a[i + 3] = __ldcs(a + 5); __stcg(a + 6, x);
}

ALL fp8(__nv_fp8_e4m3 *a, __nv_fp8_e5m2 *b, __nv_fp8x2_e4m3 *c, __nv_fp8x4_e5m2 *d, float *x, __half *h) {
    int i = threadIdx.x;
    a[i] = __nv_fp8_e4m3(x[i]); b[i] = __nv_fp8_e5m2(x[i]); c[i] = __nv_fp8x2_e4m3(make_float2(x[i], x[i + 1])); d[i] = __nv_fp8x4_e5m2(make_float4(x[0], x[1], x[2], x[3]));
    h[i] = __half(a[i + 1]); x[i] = float(b[i + 1]) + float2(c[i + 1]).x + float4(d[i + 1]).y + float(a[i + 2]);
    a[i + 3] = __nv_fp8_e4m3(h[i]); b[i + 3] = __nv_fp8_e5m2(__float2bfloat16(x[i])); h[i + 1] = __nv_cvt_fp8_to_halfraw(3, __NV_E5M2); a[i + 4].__x = __nv_cvt_float_to_fp8(x[1], __NV_NOSAT, __NV_E4M3); a[i + 5] = __nv_fp8_e4m3(1.5); b[i + 5] = __nv_fp8_e5m2(i);
}

struct Big { int v[12]; double w; };
__device__ __noinline__ Big make(int n, Big b) { b.v[n & 7] += n; b.w *= 2; return b; }
__device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ int (*const table[])(int) = {twice, square, fibonacci};
struct Shape { __device__ virtual float area(float x) const = 0; };
struct Square : Shape { __device__ float area(float x) const override { return x * x; } };
struct Disc : Shape { __device__ float area(float x) const override { return 3.14f * x * x; } };
__constant__ float weights[16]; __device__ int counter; __device__ u64 wide_counter = 7; __constant__ Big constants;

ALL calls(int *a, float *x, Big *b, int n) {
    int i = threadIdx.x;
    a[i] = fibonacci(n) + table[n % 3](i) + counter + (int)wide_counter;
    b[i] = make(n, b[i + 1]);
    Square s; Disc d; const Shape *shape = n & 1 ? (const Shape *)&s : &d;
    x[i] = shape->area(x[i]) + weights[n] + constants.w;
    int local[64]; for (int k = 0; k < 64; k++) local[k] = a[k]; for (int k = 0; k < n; k++) local[(k * 7 + i) & 63] += k; a[i + 1] = local[n & 63];
    u64 height, taken; asm volatile("stacksave.u64 %0; alloca.u64 %1, %2, 16;" : "=l"(height), "=l"(taken) : "l"((u64)n * 4));
    asm volatile("st.local.u32 [%0], %1; ld.local.u32 %1, [%0]; stackrestore.u64 %2;" : "+l"(taken), "+r"(a[i + 2]) : "l"(height));
    int *heap = (int *)malloc(64); if (heap) { heap[0] = i; a[i + 3] = heap[0]; free(heap); }
    int *fresh = new int[4]; fresh[1] = 3; a[i + 4] = fresh[1]; delete[] fresh;
    memcpy(b + 2, b + 3, sizeof(Big)); memset(b + 4, 0, sizeof(Big));
}

ALL control(int *a, int n) {
    int i = threadIdx.x, r = 0;
    switch (n + i % 9) { case 0: r = a[1]; break; case 1: r = a[3] * 5; break; case 2: r = a[2] - a[4]; break; case 3: r = a[9] ^ 5; break; case 4: r = ~a[5]; break; case 5: r = a[7] / 3; break; case 6: r = a[8] % 5; break; case 7: r = __popc(a[6]); break; case 8: r = a[0]; break; default: r = -1; }
    for (int k = 0; k < n; k++) { if (a[k] < 0) continue; if (a[k] > 100) break; do r += a[k] & k; while (r % 7 && r++); }
    if (n == 12345) { printf("%d %f %s %lld %c %p\n", r, 1.5f, "text", (s64)r, 'x', a); }
    if (n == 777) __trap();
    if (n == 778) __brkpt();
    if (n == 779) asm volatile("exit;");
    if (n == 780) __builtin_unreachable();
    __builtin_assume(n > 0);
    a[i] = r + __builtin_expect(n > 3, 1) + (n > 5 ? a[n] : a[i]);
}

#undef NDEBUG
extern "C" __device__ void __assertfail(const char *, const char *, unsigned, const char *, size_t);
ALL asserting(int *a) { if (a[threadIdx.x] < 0) __assertfail("a >= 0", "families.cu", 1, "asserting", 1); }

ALL memory(float4 *a, float *b, u64 *c, unsigned char *d, const float *__restrict__ ro) {
    extern __shared__ float4 dynamic[]; __shared__ float tile[32][33]; __shared__ volatile int flag;
    int i = threadIdx.x;
    dynamic[i] = a[i]; tile[i & 31][i >> 5] = b[i]; flag = i; __syncthreads();
    a[i + 1] = dynamic[i ^ 1]; b[i + 1] = tile[i >> 5][i & 31] + flag + ro[i] + __ldg(ro + 1) + __ldca(b + 2) + __ldcg(b + 3) + __ldcs(b + 4) + __ldlu(b + 5) + __ldcv(b + 6);
    __stwb(b + 7, 1.f); __stcg(b + 8, 1.f); __stcs(b + 9, 1.f); __stwt(b + 10, 1.f);
    c[0] = (u64)__cvta_generic_to_shared(dynamic) + (u64)__cvta_generic_to_global(a) + __isShared(dynamic) + __isGlobal(a) + __isLocal(a) + __isConstant(weights);
    *(uchar4 *)(d + 4) = make_uchar4(1, 2, 3, d[0]); *(short2 *)(d + 8) = make_short2(d[1], -1); *(uint2 *)(d + 16) = *(uint2 *)(d + 24); *(double2 *)(d + 32) = *(double2 *)(d + 48); *(ulonglong2 *)(d + 64) = make_ulonglong2(c[1], c[2]);
    c[3] = clock() + clock64() + (u64)b[0]; u64 t; asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)); c[4] = t;
    u32 s; asm volatile("mov.u32 %0, %%smid;" : "=r"(s)); c[5] = s + warpSize + gridDim.x + blockIdx.z + blockDim.y;
    
}
