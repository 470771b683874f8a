// Softmax attention over keys and values in memory: attend_on_cpu.py calls it.
//
// Rows are queries of one key head: all query heads that read it, of neighbouring tokens. Of a few hundred rows at a time
// the sums stay in cache while keys and values pass, a chunk of which is laid out for the products: keys across channels,
// so that the scores of a vector of keys are sums of vectors. Scores never leave the first cache. ACT is the type of
// activations, float or bfloat16; all sums are in float. Sizes and steps are in elements.

#include "numbers.h"

#include <type_traits>
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

constexpr int64_t TILE = LANES * WIDE, CHUNK = 256, ROWS = 512, FEWEST = 24;
// Keys and channels of a tile; keys of a chunk at most; rows of a task, unless threads have none; rows that share a tile.

constexpr float LOG2E = 1.44269504088896341f;

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

// `count` rows of keys, `step` apart, of which `channels` become those of tiles of `dim` channels: to [count / TILE, dim,
// TILE], zeros after the last.
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
        for (int r = 0; r < R; r++) std::memcpy(out + r * CHUNK + k, (const float*)&found + r * KEYS, KEYS * sizeof(float));
    }
}

// Sums of R rows, `wide` apart, of N vectors of channels: times `shrink`, plus the values [count], `step` apart, by
// weights [R, CHUNK].
template <int R, int N, bool FETCH, class Value>
static inline void gather(const float* weights, const Value* values, int64_t step, int64_t count, const float* shrink,
                          float* out, int64_t wide) {
    Vector sums[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sums[r][n] = load(out + r * wide + n * LANES) * shrink[r];
    const int64_t ahead = ahead_of(step, N * LANES);
    for (int64_t k = 0; k < count; k++, values += step, weights++) {
        Vector v[N];
        for (int n = 0; n < N; n++) v[n] = load(values + n * LANES);
        if (FETCH)
            for (int n = 0; n < N; n++) __builtin_prefetch(values + ahead + n * LANES);
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) sums[r][n] += weights[r * CHUNK] * v[n];
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

template <int R, bool FETCH, class Value>
static void sums(int64_t vectors, const float* weights, const Value* values, int64_t step, int64_t count,
                 const float* shrink, float* out, int64_t wide) {
    if (vectors == 1) return gather<R, 1, FETCH>(weights, values, step, count, shrink, out, wide);
    if (vectors == 2 || WIDE == 2) return gather<R, 2, FETCH>(weights, values, step, count, shrink, out, wide);
    if (vectors == 3) return gather<R, WIDE - 1, FETCH>(weights, values, step, count, shrink, out, wide);
    return gather<R, WIDE, FETCH>(weights, values, step, count, shrink, out, wide);
}

struct Call {
    const ACT *q, *keys, *shared, *values;
    const float* sinks;
    const int64_t *first, *starts;
    ACT* out;
    int64_t batch, tokens, heads, groups, count, dim, own, width;  // `own` of the `dim` channels are in keys, not in shared
    int64_t q_batch, q_token, q_head, key_batch, key_token, key_head, shared_batch, shared_token;
    int64_t value_batch, value_token, value_head;
    int64_t kept, recalled, window;
    float scale;
};

// The keys that a query sees: from `begin`, before `end`.
struct Range {
    int64_t begin, end;
};

static Range seen(const Call& c, int64_t b, int64_t token) {
    const int64_t own = (c.recalled || !c.first ? c.kept : c.first[b]) + token;
    int64_t begin = 0;
    if (c.window) begin = std::max(begin, own - c.window + 1);
    if (c.recalled) begin = std::max(begin, c.kept - (c.first ? c.first[b] : c.recalled - 1));
    if (c.starts) begin = std::max(begin, c.starts[b * c.tokens + token]);
    return {begin, std::max(begin, std::min(own + 1, c.count))};
}

// Where floats of a task live; kept between calls, since fresh memory costs more than what is done with it.
static float* room(int64_t size) {
    static thread_local std::vector<float> held;
    if (int64_t(held.size()) < size + 16) held.resize(size + 16);
    return held.data() + (-reinterpret_cast<uintptr_t>(held.data()) / sizeof(float) & 15);
}

// The tokens from `begin`, before `end`, of one batch row and key head, R rows at a time.
template <int R>
static void attend_rows(const Call& c, int64_t b, int64_t g, int64_t begin, int64_t end) {
    const int64_t shared = c.heads / c.groups, rows = (end - begin) * shared, parts = (rows + R - 1) / R;
    const int64_t padded = (c.width + LANES - 1) / LANES * LANES, chunk = c.dim + c.width > 384 ? CHUNK / 2 : CHUNK;
    const int64_t few = std::max<int64_t>(1, FEWEST / R);  // parts that share a tile
    float* keys = room(chunk * (c.dim + padded) + few * R * CHUNK + parts * R * (padded + c.dim + 2));
    float *laid = keys + chunk * c.dim, *weights = laid + chunk * padded, *out = weights + few * R * CHUNK;
    float *q = out + parts * R * padded, *tops = q + parts * R * c.dim, *masses = tops + parts * R;
    // Keys that few rows read are not worth laying out
    const bool lying = R <= 4 && parts <= 2 && c.own == c.dim && c.dim % LANES == 0;
    const int64_t next = lying ? 1 : R;
    std::vector<Range> of(parts * R), unions(parts);
    Range whole = {c.count, 0};
    for (int64_t part = 0; part < parts; part++) {
        unions[part] = {c.count, 0};
        for (int64_t r = 0; r < R; r++) {  // the last row again where there is none
            const int64_t row = part * R + r, real = std::min(row, rows - 1), token = begin + real / shared;
            const int64_t head = g * shared + real % shared;
            const ACT* from = c.q + b * c.q_batch + token * c.q_token + head * c.q_head;
            float* to = q + part * R * c.dim + r * (lying ? c.dim : 1);
            for (int64_t d = 0; d < c.dim; d++) to[d * next] = widened(from[d]) * c.scale * LOG2E;
            const Range range = of[row] = seen(c, b, token);
            if (range.begin < range.end) {
                unions[part] = {std::min(unions[part].begin, range.begin), std::max(unions[part].end, range.end)};
                whole = {std::min(whole.begin, range.begin), std::max(whole.end, range.end)};
            }
            // A sink is a key of no value
            tops[row] = c.sinks ? c.sinks[head] * LOG2E : -INFINITY;
            masses[row] = tops[row] == -INFINITY ? 0.0f : 1.0f;
        }
    }
    std::fill(out, out + parts * R * padded, 0.0f);
    const bool direct = R <= 4 && parts <= 2 && c.width == padded;
    Integers order;
    for (int i = 0; i < LANES; i++) order[i] = i;

    for (int64_t start = whole.begin; start < whole.end; start += chunk) {
        const int64_t size = std::min(chunk, whole.end - start), tiles = (size + TILE - 1) / TILE;
        const ACT* from = c.keys + b * c.key_batch + start * c.key_token + g * c.key_head;
        if (!lying) lay_keys(from, c.key_token, size, c.own, c.dim, keys);
        if (c.own < c.dim) {
            const ACT* also = c.shared + b * c.shared_batch + start * c.shared_token;
            lay_keys(also, c.shared_token, size, c.dim - c.own, c.dim, keys + c.own * TILE);
        }
        const ACT* values = c.values + b * c.value_batch + start * c.value_token + g * c.value_head;
        if (!direct) lay_values(values, c.value_token, size, c.width, laid);
        for (int64_t block = 0; block < parts; block += few) {
            const int64_t stop = std::min(parts, block + few);
            if constexpr (R <= 4)
                for (int64_t part = block; part < stop && lying; part++)
                    score_lying<R>(q + part * R * c.dim, from, c.key_token, size, c.dim, weights + (part - block) * R * CHUNK);
            for (int64_t tile = 0; tile < tiles && !lying; tile++)
                for (int64_t part = block; part < stop; part++) {
                    const int64_t low = unions[part].begin - start, high = std::min(size, unions[part].end - start);
                    if (low >= (tile + 1) * TILE || high <= tile * TILE || low >= high) continue;
                    const int64_t vectors = std::min<int64_t>(WIDE, (high - tile * TILE + LANES - 1) / LANES);
                    scores<R>(vectors, q + part * R * c.dim, keys + tile * TILE * c.dim, c.dim,
                              weights + (part - block) * R * CHUNK + tile * TILE);
                }
            for (int64_t part = block; part < stop; part++) {
                const int64_t low = std::max<int64_t>(0, unions[part].begin - start);
                const int64_t high = std::min(size, unions[part].end - start);
                if (low >= high) continue;
                float shrink[R], *own = weights + (part - block) * R * CHUNK;
                for (int64_t r = 0; r < R; r++) {
                    float *row = own + r * CHUNK, &top = tops[part * R + r];
                    const Range range = of[part * R + r];
                    const int32_t first = int32_t(std::max<int64_t>(-1, range.begin - start));
                    const int32_t last = int32_t(std::min(size, range.end - start));
                    Vector tallest = all(top);
                    for (int64_t k = low / LANES * LANES; k < high; k += LANES) {
                        Vector x = load(row + k);
                        if (k < first || k + LANES > last) {
                            const Integers at = order + int32_t(k);
                            x = (at >= first) & (at < last) ? x : all(-INFINITY);
                            put(row + k, x);
                        }
                        tallest = larger(x, tallest);
                    }
                    const float most = joined(tallest, larger), base = most == -INFINITY ? 0.0f : most;
                    shrink[r] = std::exp2(top - base), top = most;
                    Vector mass = {};
                    for (int64_t k = low / LANES * LANES; k < high; k += LANES) {
                        const Vector x = power(load(row + k) - base);
                        put(row + k, x);
                        mass += x;
                    }
                    masses[part * R + r] = masses[part * R + r] * shrink[r] + joined(mass, sum);
                }
                for (int64_t v = 0; v < padded; v += TILE) {
                    const int64_t width = std::min(TILE, padded - v);
                    float* to = out + part * R * padded + v;
                    if (direct) {
                        if constexpr (R <= 4) {
                            const ACT* lie = values + low * c.value_token + v;
                            sums<R, true>(width / LANES, own + low, lie, c.value_token, high - low, shrink, to, padded);
                        }
                    } else {
                        const float* lie = laid + v * size + low * width;
                        sums<R, false>(width / LANES, own + low, lie, width, high - low, shrink, to, padded);
                    }
                }
            }
        }
    }
    for (int64_t row = 0; row < rows; row++) {
        const int64_t token = begin + row / shared, head = g * shared + row % shared;
        const float *from = out + row * padded, part = masses[row] == 0 ? 0.0f : 1.0f / masses[row];
        ACT* to = c.out + ((b * c.tokens + token) * c.heads + head) * c.width;
        for (int64_t v = 0; v < c.width; v++) store(to + v, from[v] * part);
    }
}

extern "C" {

// The values that each query sees, weighted by softmax(scale * q . k): out [batch, tokens, heads, width].
//
// q [batch, tokens, heads, dim], keys [batch, count, groups, own], of whose other channels all heads share `shared`
// [batch, count, dim - own], values [batch, count, groups, width], sinks [heads] or none, each with its steps. Token i of
// row b is key kept + i, where keys are recalled or no `first` is given, else first[b] + i; of recalled keys those before
// kept - first[b] are none (`recalled` is 1 + first of all rows where no `first` is given). It sees itself, the keys before
// it, of those the last `window`, if that is not 0, and none before starts[b, i].
void attend(const void* const* pointers, const int64_t* sizes, float scale, int64_t threads) {
    Call c;
    c.q = (const ACT*)pointers[0], c.keys = (const ACT*)pointers[1], c.shared = (const ACT*)pointers[2];
    c.values = (const ACT*)pointers[3], c.sinks = (const float*)pointers[4], c.first = (const int64_t*)pointers[5];
    c.starts = (const int64_t*)pointers[6], c.out = (ACT*)pointers[7], c.scale = scale;
    int64_t* const into[] = {&c.batch, &c.tokens, &c.heads, &c.groups, &c.count, &c.dim, &c.own, &c.width,
                             &c.q_batch, &c.q_token, &c.q_head, &c.key_batch, &c.key_token, &c.key_head,
                             &c.shared_batch, &c.shared_token, &c.value_batch, &c.value_token, &c.value_head,
                             &c.kept, &c.recalled, &c.window};
    for (int64_t* to : into) *to = *sizes++;
    const int64_t shared = c.heads / c.groups, of_rows = c.batch * c.groups;
    int64_t tokens = std::max<int64_t>(1, ROWS / shared);
    while (tokens > 1 && tokens * shared > 2 * FEWEST && of_rows * ((c.tokens + tokens - 1) / tokens) < 2 * threads)
        tokens = (tokens + 1) / 2;
    const int64_t pieces = (c.tokens + tokens - 1) / tokens, work = c.batch * c.heads * c.tokens * c.count * c.dim;
    const int64_t rows = std::min(tokens, c.tokens) * shared;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1 && work > (1 << 18))
    for (int64_t task = 0; task < of_rows * pieces; task++) {
        // The last tokens first: they see most
        const int64_t piece = pieces - 1 - task / of_rows, b = task % of_rows / c.groups, g = task % c.groups;
        const int64_t begin = piece * tokens, end = std::min(c.tokens, begin + tokens);
        if (rows == 1) attend_rows<1>(c, b, g, begin, end);
        else if (rows == 2) attend_rows<2>(c, b, g, begin, end);
        else if (rows <= 4 || rows == 7 || rows == 8) attend_rows<4>(c, b, g, begin, end);
        else attend_rows<6>(c, b, g, begin, end);
    }
}

}  // extern "C"
