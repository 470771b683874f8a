"""C++ that every translation unit carries, written by hand: formats, functions of a number, products of matrices."""

from __future__ import annotations

HEAD = """\
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

// A number of 16 bits: float32 without its lower half, rounded to the nearest, ties to even
struct bfloat16 {
    uint16_t bits;
    bfloat16() = default;
    bfloat16(float x) {
        uint32_t word;
        std::memcpy(&word, &x, 4);
        const uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
        bits = uint16_t((word & 0x7fffffff) > 0x7f800000 ? word >> 16 | 0x40 : rounded);
    }
    operator float() const {
        const uint32_t word = uint32_t(bits) << 16;
        float x;
        std::memcpy(&x, &word, 4);
        return x;
    }
};

// Activations in memory: float or bfloat16
#ifndef ACT
#define ACT float
#endif
typedef ACT act;

static inline float round_act(float x) { return float(act(x)); }
static inline float round_bf16(float x) { return float(bfloat16(x)); }
static inline float round_fp32(float x) { return x; }

typedef float Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
static inline Lanes lanes(const float* x) { return *(const Lanes*)x; }
static inline Lanes lanes(const bfloat16* x) { return (Lanes)(__builtin_convertvector(*(const Halves*)x, Words) << 16); }
"""

PROJECT = """\
// sums[b][i] += the products of row b of x, `stride` after the row before, and row i of weight, `width` channels each
template <int TB, int M, class X, class W>
static inline void project(const X* __restrict x, int64_t stride, const W* __restrict weight, int64_t apart,
                           int64_t width, float (*__restrict sums)[M]) {
    constexpr int G = M % 6 == 0 ? 6 : M % 4 == 0 ? 4 : M % 3 == 0 ? 3 : M % 2 == 0 ? 2 : 1;
    const int64_t whole = width / 16 * 16;
    for (int i = 0; i < M; i += G) {
        Lanes total[TB][G] = {};
        for (int64_t d = 0; d < whole; d += 16) {
            Lanes a[TB];
            for (int b = 0; b < TB; ++b) a[b] = lanes(x + b * stride + d);
            for (int j = 0; j < G; ++j) {
                const Lanes w = lanes(weight + (i + j) * apart + d);
                for (int b = 0; b < TB; ++b) total[b][j] += a[b] * w;
            }
        }
        for (int b = 0; b < TB; ++b)
            for (int j = 0; j < G; ++j) {
                float sum = 0;
                for (int l = 0; l < 16; ++l) sum += total[b][j][l];
                for (int64_t d = whole; d < width; ++d) sum += x[b * stride + d] * weight[(i + j) * apart + d];
                sums[b][i + j] += sum;
            }
    }
}
"""

OUTER = """\
// total[i] += the sum over rows b of numbers[b][i] times row b of x
template <int TB, int M, class X>
static inline void outer(const float (*__restrict numbers)[M], const X* __restrict x, int64_t stride,
                         float* __restrict total, int64_t apart, int64_t width) {
    for (int i = 0; i < M; ++i) {
        float g[TB];
        for (int b = 0; b < TB; ++b) g[b] = numbers[b][i];
        #pragma omp simd
        for (int64_t d = 0; d < width; ++d) {
            float sum = 0;
            for (int b = 0; b < TB; ++b) sum += g[b] * x[b * stride + d];
            total[i * apart + d] += sum;
        }
    }
}
"""
