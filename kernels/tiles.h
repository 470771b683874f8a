// Vectors of numbers, rows laid out as tiles of them, and products of rows with tiles, for attention in C++.
//
// Needs numbers.h. A product keeps its sums in registers: R rows by up to WIDE vectors.

#include <utility>

#if defined(__AVX512F__)
constexpr int LANES = 16, WIDE = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, WIDE = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, WIDE = 4;
#else
constexpr int LANES = 4, WIDE = 2;
#endif
// Numbers of a vector, and vectors beside each other of which a product makes sums: as many as there are registers for.

constexpr int64_t TILE = LANES * WIDE, CHUNK = 256;
// Keys and channels of a tile; keys of a chunk at most.

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

static inline Vector all(float x) { return Vector{} + x; }

static inline Vector load(const float* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

static inline Vector load(const bfloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    const Bits bits = __builtin_convertvector(halves, Bits) << 16;
    return (Vector)bits;
}

static inline void put(float* to, Vector x) { std::memcpy(to, &x, sizeof x); }

// As many of LANES numbers as there are, then zeros.
static inline Vector load_some(const ACT* from, int64_t count) {
    ACT some[LANES] = {};
    for (int64_t i = 0; i < count; i++) some[i] = from[i];
    return load(some);
}

// 2^x of x <= 0, by the polynomial of Cephes' exp2f; 0 below 2^-126. NaN stays NaN.
static inline Vector power(Vector x) {
    x = x < -127.0f ? all(-127.0f) : x;
    const Integers n = __builtin_convertvector(x - 0.5f, Integers);
    const Vector r = x - __builtin_convertvector(n, Vector);
    Vector p = all(1.535336188319500e-4f);
    p = p * r + 1.339887440266574e-3f;
    p = p * r + 9.618437357674640e-3f;
    p = p * r + 5.550332471162809e-2f;
    p = p * r + 2.402264791363012e-1f;
    p = p * r + 6.931472028550421e-1f;
    p = p * r + 1.0f;
    const Integers scale = (n + 127) << 23;
    return p * (Vector)scale;
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES 1
#endif
#endif

#ifdef SHUFFLES
// Of blocks of S numbers, the odd ones of `a` change places with the even ones of `b`.
template <int S, int... I>
static inline void exchange(Vector& a, Vector& b, std::integer_sequence<int, I...>) {
    const Vector low = __builtin_shufflevector(a, b, (I & S ? LANES + I - S : I)...);
    b = __builtin_shufflevector(a, b, (I & S ? LANES + I : I + S)...), a = low;
}

template <int S>
static inline void exchange_all(Vector* x) {
    for (int i = 0; i < LANES; i++)
        if (!(i & S)) exchange<S>(x[i], x[i + S], std::make_integer_sequence<int, LANES>());
    if constexpr (2 * S < LANES) exchange_all<2 * S>(x);
}

static inline void transpose(Vector* x) { exchange_all<1>(x); }

// The sums of LANES vectors, each of all its numbers, as one.
template <int S = 1>
static inline Vector totals(Vector* x) {
    for (int i = 0; i < LANES / S; i += 2)
        exchange<S>(x[i], x[i + 1], std::make_integer_sequence<int, LANES>()), x[i / 2] = x[i] + x[i + 1];
    if constexpr (2 * S < LANES) return totals<2 * S>(x);
    else return x[0];
}

template <int S, int... I>
static inline Vector swapped(Vector x, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(x, x, (I ^ S)...);
}

// One number of all numbers of a vector, two by two.
template <int S = LANES / 2, class Join>
static inline float joined(Vector x, Join join) {
    if constexpr (S == 0) return x[0];
    else return joined<S / 2>(join(x, swapped<S>(x, std::make_integer_sequence<int, LANES>())), join);
}
#else
static inline void transpose(Vector* x) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            const float held = x[i][j];
            x[i][j] = x[j][i], x[j][i] = held;
        }
}

static inline Vector totals(Vector* x) {
    transpose(x);
    Vector sum = x[0];
    for (int i = 1; i < LANES; i++) sum += x[i];
    return sum;
}

template <class Join>
static inline float joined(Vector x, Join join) {
    for (int i = 1; i < LANES; i++) x = join(x, all(x[i]));
    return x[0];
}
#endif

static inline Vector larger(Vector x, Vector y) { return x > y ? x : y; }

static inline Vector sum(Vector x, Vector y) { return x + y; }

// How far ahead of a row to fetch another, of rows of so many channels: by 8 KiB of them.
static inline int64_t ahead_of(int64_t step, int64_t channels) {
    return std::max<int64_t>(1, 8192 / int64_t(sizeof(ACT)) / channels) * step;
}

static inline void fetch(const ACT* row, int64_t channels) {
    for (int64_t c = 0; c < channels; c += 64 / int64_t(sizeof(ACT))) __builtin_prefetch(row + c);
}

// `count` rows of keys, `step` apart, of which `channels` become those of tiles of `dim` channels: to [count / TILE,
// dim, TILE], zeros after the last.
static void lay_keys(const ACT* rows, int64_t step, int64_t count, int64_t channels, int64_t dim, float* to) {
    const int64_t ahead = ahead_of(step, channels);
    for (int64_t k = 0; k < count; k += LANES) {
        float* tile = to + k / TILE * TILE * dim + k % TILE;
        const int64_t here = std::min<int64_t>(LANES, count - k);
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t some = std::min<int64_t>(LANES, channels - c);
            Vector x[LANES];
            if (here == LANES && some == LANES)
                for (int i = 0; i < LANES; i++) x[i] = load(rows + (k + i) * step + c);
            else
                for (int i = 0; i < LANES; i++) x[i] = i < here ? load_some(rows + (k + i) * step + c, some) : all(0);
            if (sizeof(ACT) == 4 || c % (2 * LANES) == 0)
                for (int i = 0; i < LANES; i++) __builtin_prefetch(rows + (k + i) * step + ahead + c);
            transpose(x);
            if (some == LANES)
                for (int i = 0; i < LANES; i++) put(tile + (c + i) * TILE, x[i]);
            else
                for (int i = 0; i < some; i++) put(tile + (c + i) * TILE, x[i]);
        }
    }
}

// `count` rows of values, `step` apart, as blocks of TILE channels or what is left of them: to [channels / TILE, count,
// TILE], the last block as wide as its vectors.
static void lay_values(const ACT* rows, int64_t step, int64_t count, int64_t channels, float* to) {
    const int64_t padded = (channels + LANES - 1) / LANES * LANES;
    const int64_t ahead = ahead_of(step, channels);
    for (int64_t k = 0; k < count; k++) {
        const ACT* row = rows + k * step;
        fetch(row + ahead, channels);
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t block = c / TILE * TILE, width = std::min(TILE, padded - block);
            put(to + block * count + k * width + c - block,
                c + LANES <= channels ? load(row + c) : load_some(row + c, channels - c));
        }
    }
}

// `count` rows, `step` apart, each to `padded` numbers.
static void lay_rows(const ACT* rows, int64_t step, int64_t count, int64_t channels, int64_t padded, float* to) {
    for (int64_t i = 0; i < count; i++, rows += step, to += padded)
        for (int64_t c = 0; c < channels; c += LANES)
            put(to + c, c + LANES <= channels ? load(rows + c) : load_some(rows + c, channels - c));
}

// Scores of R queries q [dim, R] with N vectors of the keys [dim, TILE]: out [R, CHUNK].
template <int R, int N>
static inline void score(const float* q, const float* keys, int64_t dim, float* out) {
    Vector sums[R][N] = {};
    for (int64_t d = 0; d < dim; d++, q += R, keys += TILE) {
        Vector k[N];
        for (int n = 0; n < N; n++) k[n] = load(keys + n * LANES);
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) sums[r][n] += q[r] * k[n];
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) put(out + r * CHUNK + n * LANES, sums[r][n]);
}

// Scores of R queries q [R, dim] with `count` keys where they lie, `step` apart, LANES sums at a time: out [R, CHUNK].
template <int R>
static void score_lying(const float* q, const ACT* keys, int64_t step, int64_t count, int64_t dim, float* out) {
    constexpr int KEYS = LANES / R;
    const int64_t ahead = ahead_of(step, dim);
    for (int64_t k = 0; k < count; k += KEYS) {
        const ACT* row[KEYS];
        for (int j = 0; j < KEYS; j++) row[j] = keys + std::min(k + j, count - 1) * step;
        Vector sums[LANES] = {};
        for (int64_t d = 0; d < dim; d += LANES) {
            Vector one[KEYS];
            for (int j = 0; j < KEYS; j++) one[j] = load(row[j] + d), __builtin_prefetch(row[j] + ahead + d);
            for (int r = 0; r < R; r++)
                for (int j = 0; j < KEYS; j++) sums[r * KEYS + j] += load(q + r * dim + d) * one[j];
        }
        const Vector found = totals(sums);
        const float* sum = (const float*)&found;
        for (int r = 0; r < R; r++) std::memcpy(out + r * CHUNK + k, sum + r * KEYS, KEYS * sizeof(float));
    }
}

// Sums of R rows, `wide` apart, of N vectors of channels: times `shrink`, plus the values [count], `step` apart, by
// weights [R, CHUNK], or those of [count, CHUNK] that lie ACROSS.
template <int R, int N, bool FETCH, bool ACROSS, class Value>
static inline void gather(const float* weights, const Value* values, int64_t step, int64_t count, const float* shrink,
                          float* out, int64_t wide) {
    Vector sums[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sums[r][n] = load(out + r * wide + n * LANES) * shrink[r];
    const int64_t ahead = ahead_of(step, N * LANES);
    constexpr int64_t APART = ACROSS ? 1 : CHUNK, NEXT = ACROSS ? CHUNK : 1;
    for (int64_t k = 0; k < count; k++, values += step, weights += NEXT) {
        Vector v[N];
        for (int n = 0; n < N; n++) v[n] = load(values + n * LANES);
        if (FETCH)
            for (int n = 0; n < N; n++) __builtin_prefetch(values + ahead + n * LANES);
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) sums[r][n] += weights[r * APART] * v[n];
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) put(out + r * wide + n * LANES, sums[r][n]);
}

template <int R>
static void scores(int64_t vectors, const float* q, const float* keys, int64_t dim, float* out) {
    if (vectors == 1) return score<R, 1>(q, keys, dim, out);
    if (vectors == 2 || WIDE == 2) return score<R, 2>(q, keys, dim, out);
    if (vectors == 3) return score<R, WIDE - 1>(q, keys, dim, out);
    return score<R, WIDE>(q, keys, dim, out);
}

template <int R, bool FETCH, bool ACROSS = false, class Value>
static void sums(int64_t vectors, const float* weights, const Value* values, int64_t step, int64_t count,
                 const float* shrink, float* out, int64_t wide) {
    if (vectors == 1) return gather<R, 1, FETCH, ACROSS>(weights, values, step, count, shrink, out, wide);
    if (vectors == 2 || WIDE == 2) return gather<R, 2, FETCH, ACROSS>(weights, values, step, count, shrink, out, wide);
    if (vectors == 3) return gather<R, WIDE - 1, FETCH, ACROSS>(weights, values, step, count, shrink, out, wide);
    return gather<R, WIDE, FETCH, ACROSS>(weights, values, step, count, shrink, out, wide);
}
