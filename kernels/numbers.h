// What ops in C++ share: numbers in memory, functions of them, products of rows.
//
// ACT is the type of activations and weights, float or bfloat16; all sums are in float. Sizes and steps are in elements.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

struct bfloat16 {
    uint16_t bits;
};

static inline float widened(float x) { return x; }

static inline float widened(bfloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static inline void store(float* to, float x) { *to = x; }

// Rounds to the nearest, ties to even; NaN stays NaN.
static inline void store(bfloat16* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to->bits = x != x ? 0x7FC0 : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// e^x = 2^n e^r, |r| <= log(2) / 2; e^r by the polynomial of Cephes' expf. Compilers make vectors of it, of which libraries
// of mathematics have none unless infinities are ruled out.
static inline float exponential(float x) {
    const float low = x < -104.0f ? -104.0f : x, within = low > 89.0f ? 89.0f : low;
    const int32_t power = int32_t(within * 1.44269504088896341f + (within < 0 ? -0.5f : 0.5f)), half = power / 2;
    const float n = float(power), r = within - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const uint32_t first = uint32_t(half + 127) << 23, second = uint32_t(power - half + 127) << 23;
    float a, b;
    std::memcpy(&a, &first, sizeof a);
    std::memcpy(&b, &second, sizeof b);
    return p * a * b;
}

// Rows in float: where they lie, or widened into room.
static const float* wide_rows(const float* rows, int64_t, std::vector<float>&) { return rows; }

static const float* wide_rows(const bfloat16* rows, int64_t size, std::vector<float>& room) {
    room.resize(size);
    for (int64_t i = 0; i < size; i++) room[i] = widened(rows[i]);
    return room.data();
}

typedef float lanes __attribute__((vector_size(64), aligned(4)));

static inline lanes sixteen(const float* x) {
    lanes wide;
    std::memcpy(&wide, x, sizeof wide);
    return wide;
}

static inline lanes sixteen(const bfloat16* x) {
    lanes wide;
    for (int i = 0; i < 16; i++) wide[i] = widened(x[i]);
    return wide;
}

// Products of four rows with N vectors, all `width` long: sums[4 * n + o].
//
// Of rows that are read on, one after the other as those of a matrix, what comes 8 KiB later is fetched: processors fetch
// ahead only to the end of a page.
template <int N, bool read_on = false>
static inline void dots(const ACT* const* rows, const float* const* vectors, int64_t width, float* sums) {
    constexpr int64_t ahead = 8192 / sizeof(ACT);
    lanes partial[4 * N] = {};
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) {
        for (int n = 0; n < N; n++) {
            const lanes x = sixteen(vectors[n] + i);
            for (int o = 0; o < 4; o++) partial[4 * n + o] += sixteen(rows[o] + i) * x;
        }
        if (read_on)
            for (int o = 0; o < 4; o++) __builtin_prefetch(rows[o] + i + ahead);
    }
    for (int k = 0; k < 4 * N; k++) {
        float sum = 0;
        for (int l = 0; l < 16; l++) sum += partial[k][l];
        for (int64_t r = i; r < width; r++) sum += widened(rows[k % 4][r]) * vectors[k / 4][r];
        sums[k] = sum;
    }
}

// The product of every one of `count` rows with one vector: out[i].
static void scores_of(const ACT* const* rows, int64_t count, const float* vector, int64_t width, float* out) {
    for (int64_t i = 0; i < count; i += 4) {
        const ACT* four[4];
        for (int64_t j = 0; j < 4; j++) four[j] = rows[std::min(i + j, count - 1)];
        float sums[4];
        dots<1>(four, &vector, width, sums);
        for (int64_t j = 0; j < 4 && i + j < count; j++) out[i + j] = sums[j];
    }
}
