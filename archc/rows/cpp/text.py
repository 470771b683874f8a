"""C++ that every translation unit carries, written by hand: formats, functions of a number, products of matrices."""

from __future__ import annotations

FORMATS = """\
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

// A number of 16 bits in memory: float32 without its lower half, rounded to the nearest, ties to even
struct bfloat16 {
    uint16_t bits;
    operator float() const { return __builtin_bit_cast(float, uint32_t(bits) << 16); }
    bfloat16& operator=(float x) {
        const uint32_t word = __builtin_bit_cast(uint32_t, x);
        const uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
        bits = uint16_t((word & 0x7fffffff) > 0x7f800000 ? (word >> 16 | 0x40) : rounded);
        return *this;
    }
};

// Activations in memory: float or bfloat16. What is computed between memory and memory is float
#ifndef ACT
#define ACT float
#endif
typedef ACT act;

template <class Format>
static inline float rounded(float x) {
    Format stored;
    stored = x;
    return stored;
}
static inline float round_act(float x) { return rounded<act>(x); }
static inline float round_bf16(float x) { return rounded<bfloat16>(x); }
static inline float round_fp32(float x) { return x; }
"""

FUNCTIONS = """\
// Functions of a number that compilers turn into functions of vectors, whichever library of mathematics they have. They
// keep NaN and infinities.
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float limited(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// e^x = 2^n e^r, |r| <= log(2) / 2; e^r by the polynomial of Cephes' expf
static inline float exponential(float x) {
    const float within = limited(x, -104.0f, 89.0f);
    const float n = (within * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const float r = within - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t power = int32_t(n), half = power / 2;
    const float first = __builtin_bit_cast(float, uint32_t(half + 127) << 23);
    return p * first * __builtin_bit_cast(float, uint32_t(power - half + 127) << 23);
}

// log(x) = n log(2) + log(m), m in [sqrt(1 / 2), sqrt(2)); log(m) by the polynomial of Cephes' logf
static inline float logarithm(float x) {
    const float normal = x < 1.17549435e-38f ? x * 8388608.0f : x;
    const uint32_t shifted = __builtin_bit_cast(uint32_t, normal) - 0x3f3504f3;
    const float n = float(int32_t(shifted) >> 23) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
    const float r = __builtin_bit_cast(float, (shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    const float made = p * r * r * r - n * 2.12194440e-4f - 0.5f * r * r + r + n * 0.693359375f;
    const float end = x == 0.0f ? -INFINITY : x < 0.0f ? NAN : made;
    return x < INFINITY ? end : x;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// log(1 + e^x): what rounding takes from 1 + e^-|x| is given back as a factor (Kahan)
static inline float softplus(float x) {
    const float small = exponential(-std::abs(x)), above = 1.0f + small, kept = above - 1.0f;
    const float rest = kept == 0.0f ? small : logarithm(above) * (small / kept);
    return (x < 0.0f ? 0.0f : x) + rest;
}

// tanh(x): near 0 the polynomial of Cephes' tanhf, elsewhere by e^2x
static inline float tangent(float x) {
    const float size = std::abs(x), square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
    return size < 0.625f ? p * square * x + x : x < 0.0f ? -far : far;
}

// erf(x), a quotient of polynomials of x^2 as XLA has it: 3e-7 off at most
static inline float error(float x) {
    const float near = limited(x, -3.7439211627767994f, 3.7439211627767994f), square = near * near;
    float p = 2.2905065861350646e-4f;
    p = p * square + 3.4082910107109506e-3f;
    p = p * square + 5.0955695062380861e-2f;
    p = p * square + 1.8520832239976145e-1f;
    p = p * square + 1.128379143519084f;
    float q = -1.1791602954361697e-7f;
    q = q * square + 2.3547966471313185e-5f;
    q = q * square + 1.0179625278914885e-3f;
    q = q * square + 1.4070470171167667e-2f;
    q = q * square + 1.1098505178285362e-1f;
    q = q * square + 4.9746925110067538e-1f;
    q = q * square + 1.0f;
    return near * p / q;
}
"""

PRODUCTS = """\
typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
static inline Lanes lanes(const float* x) { return *(const Lanes*)x; }
static inline Lanes lanes(const bfloat16* x) {
    return (Lanes)(__builtin_convertvector(*(const Halves*)x, Words) << 16);
}

// The first `count` of 16 numbers, and zeros
template <class X>
static inline Lanes lanes(const X* x, int64_t count) {
    Lanes made = {};
    for (int64_t l = 0; l < count; ++l) made[l] = x[l];
    return made;
}

// R rows of x by G rows of weight: sums[b][i] += the products of row b of x and row i of weight, lane by lane. The sums
// of 4 and 6 rows fit in registers
template <int R, int G, int M, class X, class W>
static void project_block(const X* x, int64_t stride, const W* weight, int64_t apart, int64_t width,
                          Lanes (*sums)[M]) {
    const int64_t whole = width / 16 * 16;
    Lanes total[R][G];
    for (int b = 0; b < R; ++b)
        for (int i = 0; i < G; ++i) total[b][i] = sums[b][i];
    for (int64_t d = 0; d < whole; d += 16) {
        Lanes a[R];
        for (int b = 0; b < R; ++b) a[b] = lanes(x + b * stride + d);
        for (int i = 0; i < G; ++i) {
            const Lanes w = lanes(weight + i * apart + d);
            for (int b = 0; b < R; ++b) total[b][i] += a[b] * w;
        }
    }
    if (whole < width)
        for (int b = 0; b < R; ++b)
            for (int i = 0; i < G; ++i)
                total[b][i] += lanes(x + b * stride + whole, width - whole) *
                               lanes(weight + i * apart + whole, width - whole);
    for (int b = 0; b < R; ++b)
        for (int i = 0; i < G; ++i) sums[b][i] = total[b][i];
}

template <int R, int M, class X, class W>
static void project_rows(const X* x, int64_t stride, const W* weight, int64_t apart, int64_t width,
                         Lanes (*sums)[M]) {
    constexpr int whole = M / 6 * 6;
    for (int i = 0; i < whole; i += 6)
        project_block<R, 6>(x, stride, weight + i * apart, apart, width, (Lanes(*)[M])(sums[0] + i));
    if constexpr (whole < M)
        project_block<R, M - whole>(x, stride, weight + whole * apart, apart, width, (Lanes(*)[M])(sums[0] + whole));
}

// Of R rows: row b of out = the sum of numbers[b][i] times row i of weight
template <int R, int M, class W>
static void unproject_rows(const float (*numbers)[M], const W* weight, int64_t apart, int64_t width, float* out,
                           int64_t stride) {
    const int64_t whole = width / 64 * 64;
    for (int64_t d = 0; d < whole; d += 64) {
        Lanes total[R][4] = {};
        for (int i = 0; i < M; ++i) {
            Lanes w[4];
            for (int c = 0; c < 4; ++c) w[c] = lanes(weight + i * apart + d + 16 * c);
            for (int b = 0; b < R; ++b)
                for (int c = 0; c < 4; ++c) total[b][c] += numbers[b][i] * w[c];
        }
        for (int b = 0; b < R; ++b)
            for (int c = 0; c < 4; ++c) *(Lanes*)(out + b * stride + d + 16 * c) = total[b][c];
    }
    for (int64_t d = whole; d < width; ++d)
        for (int b = 0; b < R; ++b) {
            float sum = 0;
            for (int i = 0; i < M; ++i) sum += numbers[b][i] * weight[i * apart + d];
            out[b * stride + d] = sum;
        }
}

// The same of n rows. Rows of x and out are `stride` apart, those of weight `apart`, and `width` channels count
template <int M, class X, class W>
static void project(int n, const X* x, int64_t stride, const W* weight, int64_t apart, int64_t width,
                    Lanes (*sums)[M]) {
    for (; n >= 4; n -= 4, x += 4 * stride, sums += 4) project_rows<4>(x, stride, weight, apart, width, sums);
    if (n == 3) project_rows<3>(x, stride, weight, apart, width, sums);
    if (n == 2) project_rows<2>(x, stride, weight, apart, width, sums);
    if (n == 1) project_rows<1>(x, stride, weight, apart, width, sums);
}

// What the lanes of `project` add up to
template <int M>
static void add_lanes(int n, const Lanes (*sums)[M], float (*out)[M]) {
    for (int b = 0; b < n; ++b)
        for (int i = 0; i < M; ++i) {
            float part[16];
            *(Lanes*)part = sums[b][i];
            for (int half = 8; half; half /= 2)
                for (int l = 0; l < half; ++l) part[l] += part[l + half];
            out[b][i] = part[0];
        }
}

template <int M, class W>
static void unproject(int n, const float (*numbers)[M], const W* weight, int64_t apart, int64_t width, float* out,
                      int64_t stride) {
    for (; n >= 4; n -= 4, numbers += 4, out += 4 * stride)
        unproject_rows<4>(numbers, weight, apart, width, out, stride);
    if (n == 3) unproject_rows<3>(numbers, weight, apart, width, out, stride);
    if (n == 2) unproject_rows<2>(numbers, weight, apart, width, out, stride);
    if (n == 1) unproject_rows<1>(numbers, weight, apart, width, out, stride);
}

// The largest number of columns up to 6 that divides all of them
constexpr int columns(int all) {
    return all % 6 == 0 ? 6 : all % 5 == 0 ? 5 : all % 4 == 0 ? 4 : all % 3 == 0 ? 3 : all % 2 == 0 ? 2 : 1;
}

// Row i of total += the sum over tokens of numbers[t][i] times row t of x; rows are `width` wide, one after another
template <int M, class X>
static void outer(const float* numbers, const X* x, int64_t width, float* total, int64_t T) {
    constexpr int G = columns(M);
    const int64_t whole = width / 64 * 64;
    for (int64_t begin = 0; begin < T; begin += 128) {
        const int64_t end = std::min<int64_t>(begin + 128, T);
        #pragma omp parallel for schedule(static) if (width * (end - begin) > 1 << 18)
        for (int64_t d = 0; d < whole; d += 64)
            for (int i = 0; i < M; i += G) {
                Lanes sums[G][4] = {};
                for (int64_t t = begin; t < end; ++t) {
                    Lanes a[4];
                    for (int c = 0; c < 4; ++c) a[c] = lanes(x + t * width + d + 16 * c);
                    for (int j = 0; j < G; ++j)
                        for (int c = 0; c < 4; ++c) sums[j][c] += numbers[t * M + i + j] * a[c];
                }
                for (int j = 0; j < G; ++j)
                    for (int c = 0; c < 4; ++c) *(Lanes*)(total + (i + j) * width + d + 16 * c) += sums[j][c];
            }
        for (int64_t d = whole; d < width; ++d)
            for (int i = 0; i < M; ++i) {
                float sum = 0;
                for (int64_t t = begin; t < end; ++t) sum += numbers[t * M + i] * x[t * width + d];
                total[i * width + d] += sum;
            }
    }
}
"""

TOKENS = """\
// A number of each of the 16 tokens of a tile
typedef float Tokens __attribute__((vector_size(64)));
template <int M>
static void by_number(const float (*tokens)[M], Tokens* numbers) {
    for (int i = 0; i < M; ++i)
        for (int b = 0; b < 16; ++b) numbers[i][b] = tokens[b][i];
}
template <int M>
static void by_token(const Tokens* numbers, float (*tokens)[M]) {
    for (int i = 0; i < M; ++i)
        for (int b = 0; b < 16; ++b) tokens[b][i] = numbers[i][b];
}
"""

SLICES = """\
// How many threads share T tokens: each has at least 256 KiB to move
static inline int64_t slices_of(int64_t T, int64_t bytes) {
#ifdef _OPENMP
    if (!omp_in_parallel()) return std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), T * bytes >> 18));
#endif
    return 1;
}

// Calls run(slice, first token, one after the last) for slices of T tokens, each a multiple of `tile` but the last
template <class Run>
static inline void in_slices(int64_t slices, int64_t T, int64_t tile, Run run) {
    const int64_t each = (T + slices * tile - 1) / (slices * tile) * tile;
    if (slices == 1) return run(0, 0, T);
    #pragma omp parallel for schedule(static, 1) num_threads(slices)
    for (int64_t s = 0; s < slices; ++s) run(s, std::min(T, s * each), std::min(T, (s + 1) * each));
}

// A sum over tokens in parts, one for each slice: the first is added to in place, the others to it in their order
struct Parts {
    float* sum;
    const int64_t size;
    std::vector<float> rest;
    Parts(void* sum, int64_t size, int64_t slices) : sum((float*)sum), size(size), rest((slices - 1) * size) {}
    ~Parts() {
        for (int64_t at = 0; at < int64_t(rest.size()); at += size)
            for (int64_t i = 0; i < size; ++i) sum[i] += rest[at + i];
    }
    float* of(int64_t slice) { return slice ? rest.data() + (slice - 1) * size : sum; }
};
"""

HEAD = f"{FORMATS}\n{FUNCTIONS}\n{PRODUCTS}\n{TOKENS}\n{SLICES}"
