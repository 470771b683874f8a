"""C++ that every kernel carries, written by hand: includes and the products of matrices."""

from __future__ import annotations

HEAD = """\
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

static inline float square_root_inverse(float x) { return 1.0f / std::sqrt(x); }
"""

PROJECT = """\
typedef float Lanes __attribute__((vector_size(64), aligned(4)));

// sums[b][i] += the products of row b of x, `stride` after the row before, and row i of weight, `width` channels each
template <int TB, int M>
static inline void project(const float* __restrict x, int64_t stride, const float* __restrict weight, int64_t apart,
                           int64_t width, float (*__restrict sums)[M]) {
    constexpr int G = M % 6 == 0 ? 6 : M % 4 == 0 ? 4 : M % 3 == 0 ? 3 : M % 2 == 0 ? 2 : 1;
    const int64_t whole = width / 16 * 16;
    for (int i = 0; i < M; i += G) {
        Lanes total[TB][G] = {};
        for (int64_t d = 0; d < whole; d += 16) {
            Lanes a[TB];
            for (int b = 0; b < TB; ++b) a[b] = *(const Lanes*)(x + b * stride + d);
            for (int j = 0; j < G; ++j) {
                const Lanes w = *(const Lanes*)(weight + (i + j) * apart + d);
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
template <int TB, int M>
static inline void outer(const float (*__restrict numbers)[M], const float* __restrict x, int64_t stride,
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
