// Softmax attention over keys and values in memory: attend_on_cpu.py calls it.
//
// Rows are queries of one key head: all query heads that read it, of neighbouring tokens. Of a few hundred rows at a
// time the sums stay in cache while keys and values pass, a chunk of which is laid out for the products: keys across
// channels, so that the scores of a vector of keys are sums of vectors. Scores never leave the first cache. ACT is the
// type of activations, float or bfloat16; all sums are in float. Sizes and steps are in elements.

#include "numbers.h"
#include "tiles.h"

constexpr int64_t ROWS = 512, FEWEST = 24;
// Rows of a task, unless threads have none; rows that share a tile.

constexpr float LOG2E = 1.44269504088896341f;

struct Call {
    const ACT *q, *keys, *shared, *values;
    const float* sinks;
    float* lse;
    const int64_t *first, *starts;
    ACT* out;
    // `own` of the `dim` channels are in keys, not in shared
    int64_t batch, tokens, heads, groups, count, dim, own, width;
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
                    score_lying<R>(q + part * R * c.dim, from, c.key_token, size, c.dim,
                        weights + (part - block) * R * CHUNK);
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
        if (c.lse) c.lse[(b * c.tokens + token) * c.heads + head] = (tops[row] + std::log2(masses[row])) / LOG2E;
        for (int64_t v = 0; v < c.width; v++) store(to + v, from[v] * part);
    }
}

// What a gradient reads and makes, beside what a call has: gradients [batch, tokens, heads, width] of what it gave,
// `lse` [batch, tokens, heads] of it; gradients of queries, keys and values, each without gaps.
struct Gradient {
    const ACT* of;
    int64_t of_batch, of_token, of_head;
    ACT *q, *keys, *values;
};

static void put_rows(const float* rows, int64_t padded, int64_t count, int64_t channels, ACT* to, int64_t step) {
    for (int64_t i = 0; i < count; i++, rows += padded, to += step)
        for (int64_t c = 0; c < channels; c++) store(to + c, rows[c]);
}

// The gradient of one batch row and key head, of tokens that see all before them. Weights are made again of `lse`: P =
// exp(S - lse), dS = P (dP - mean of dP), S and dP being products of rows with keys, and of their gradients with
// values.
static void learn_rows(const Call& c, const Gradient& gradient, int64_t b, int64_t g) {
    constexpr int R = 6;
    constexpr int64_t chunk = CHUNK / 2, few = 8;
    const int64_t shared = c.heads / c.groups, most = std::max<int64_t>(1, ROWS / shared);
    const int64_t deep = (c.dim + LANES - 1) / LANES * LANES, wide = (c.width + LANES - 1) / LANES * LANES;
    std::vector<float> dkeys((c.count + R) * deep), dvalues((c.count + R) * wide);
    const float whole[R] = {1, 1, 1, 1, 1, 1};
    Integers order;
    for (int i = 0; i < LANES; i++) order[i] = i;
    for (int64_t begin = 0; begin < c.tokens; begin += most) {
        const int64_t rows = (std::min(c.tokens, begin + most) - begin) * shared, parts = (rows + R - 1) / R,
            all_rows = parts * R;
        float* across = room(chunk * (c.dim + c.width + deep) + 2 * few * R * CHUNK +
                             all_rows * (2 * deep + wide + c.dim + c.width + 2));
        float *across_values = across + chunk * c.dim, *keys = across_values + chunk * c.width;
        float *weights = keys + chunk * deep, *slopes = weights + few * R * CHUNK, *dq = slopes + few * R * CHUNK;
        float *queries = dq + all_rows * deep, *grads = queries + all_rows * deep, *q = grads + all_rows * wide;
        float *d = q + all_rows * c.dim, *lse = d + all_rows * c.width, *means = lse + all_rows;
        std::fill(dq, dq + all_rows * deep, 0.0f);
        for (int64_t row = 0; row < all_rows; row++) {
            const int64_t real = std::min(row, rows - 1), token = begin + real / shared,
                head = g * shared + real % shared;
            const ACT* from = c.q + b * c.q_batch + token * c.q_token + head * c.q_head;
            const ACT* of = gradient.of + b * gradient.of_batch + token * gradient.of_token + head * gradient.of_head;
            const int64_t place = (b * c.tokens + token) * c.heads + head;
            lay_rows(from, 0, 1, c.dim, deep, queries + row * deep);
            lay_rows(of, 0, 1, c.width, wide, grads + row * wide);
            float *into = q + row / R * R * c.dim + row % R, *also = d + row / R * R * c.width + row % R, mean = 0;
            for (int64_t i = 0; i < c.dim; i++) into[i * R] = widened(from[i]) * c.scale * LOG2E;
            for (int64_t i = 0; i < c.width; i++) also[i * R] = widened(of[i]);
            for (int64_t i = 0; i < c.width; i++) mean += widened(of[i]) * widened(c.out[place * c.width + i]);
            // Rows that there are none of weigh nothing
            lse[row] = row < rows ? c.lse[place] * LOG2E : INFINITY, means[row] = mean;
        }
        const int64_t end = begin + (rows - 1) / shared + 1;
        for (int64_t start = 0; start < end; start += chunk) {
            const int64_t size = std::min(chunk, end - start), tiles = (size + TILE - 1) / TILE;
            const ACT* key = c.keys + b * c.key_batch + start * c.key_token + g * c.key_head;
            lay_keys(key, c.key_token, size, c.dim, c.dim, across);
            lay_rows(key, c.key_token, size, c.dim, deep, keys);
            const ACT* value = c.values + b * c.value_batch + start * c.value_token + g * c.value_head;
            lay_keys(value, c.value_token, size, c.width, c.width, across_values);
            for (int64_t block = 0; block < parts; block += few) {
                const int64_t stop = std::min(parts, block + few);
                int64_t highs[few];
                for (int64_t part = block; part < stop; part++) {
                    const int64_t last = begin + std::min(part * R + R - 1, rows - 1) / shared;
                    highs[part - block] = std::min(size, last + 1 - start);
                }
                if (highs[stop - 1 - block] <= 0) continue;
                for (int64_t tile = 0; tile < tiles; tile++)
                    for (int64_t part = block; part < stop; part++) {
                        const int64_t left = highs[part - block] - tile * TILE,
                            at = (part - block) * R * CHUNK + tile * TILE;
                        if (left <= 0) continue;
                        const int64_t vectors = std::min<int64_t>(WIDE, (left + LANES - 1) / LANES);
                        scores<R>(vectors, q + part * R * c.dim, across + tile * TILE * c.dim, c.dim, weights + at);
                        scores<R>(vectors, d + part * R * c.width, across_values + tile * TILE * c.width, c.width,
                            slopes + at);
                    }
                for (int64_t part = block; part < stop; part++) {
                    const int64_t high = highs[part - block];
                    if (high <= 0) continue;
                    for (int64_t r = 0; r < R; r++) {
                        const int64_t row = part * R + r, at = ((part - block) * R + r) * CHUNK;
                        const int32_t last = int32_t(begin + std::min(row, rows - 1) / shared + 1 - start);
                        int64_t k = 0;
                        for (; k < high; k += LANES) {
                            Vector x = load(weights + at + k) - lse[row];
                            if (k + LANES > last) x = order + int32_t(k) < last ? x : all(-INFINITY);
                            const Vector weight = power(x);
                            put(weights + at + k, weight);
                            put(slopes + at + k, weight * (load(slopes + at + k) - means[row]) * c.scale);
                        }
                        put(weights + at + k, Vector{}), put(slopes + at + k, Vector{});
                    }
                    for (int64_t v = 0; v < deep; v += TILE)
                        sums<R, false>(std::min(TILE, deep - v) / LANES, slopes + (part - block) * R * CHUNK,
                            keys + v, deep, high,
                                       whole, dq + part * R * deep + v, deep);
                }
                int64_t first = 0;  // part that sees a key
                for (int64_t k = 0; k < size; k += R) {
                    while (first < stop - block && highs[first] <= k) first++;
                    if (first == stop - block) break;
                    const int64_t row = (block + first) * R, count = (stop - block - first) * R,
                        at = first * R * CHUNK + k;
                    for (int64_t v = 0; v < wide; v += TILE)
                        sums<R, false, true>(std::min(TILE, wide - v) / LANES, weights + at, grads + row * wide + v,
                            wide, count,
                                             whole, dvalues.data() + (start + k) * wide + v, wide);
                    for (int64_t v = 0; v < deep; v += TILE)
                        sums<R, false, true>(std::min(TILE, deep - v) / LANES, slopes + at, queries + row * deep + v,
                            deep, count,
                                             whole, dkeys.data() + (start + k) * deep + v, deep);
                }
            }
        }
        for (int64_t row = 0; row < rows; row++) {
            const int64_t place = (b * c.tokens + begin + row / shared) * c.heads + g * shared + row % shared;
            put_rows(dq + row * deep, deep, 1, c.dim, gradient.q + place * c.dim, 0);
        }
    }
    const int64_t place = b * c.count * c.groups + g;
    put_rows(dkeys.data(), deep, c.count, c.dim, gradient.keys + place * c.dim, c.groups * c.dim);
    put_rows(dvalues.data(), wide, c.count, c.width, gradient.values + place * c.width, c.groups * c.width);
}

extern "C" {

// The values that each query sees, weighted by softmax(scale * q . k): out [batch, tokens, heads, width].
//
// q [batch, tokens, heads, dim], keys [batch, count, groups, own], of whose other channels all heads share `shared`
// [batch, count, dim - own], values [batch, count, groups, width], sinks [heads] or none, each with its steps. Token i
// of row b is key kept + i, where keys are recalled or no `first` is given, else first[b] + i; of recalled keys those
// before kept - first[b] are none (`recalled` is 1 + first of all rows where no `first` is given). It sees itself, the
// keys before it, of those the last `window`, if that is not 0, and none before starts[b, i]. Logarithms of sums of
// exponentials, if they are wanted: lse [batch, tokens, heads].
void attend(const void* const* pointers, const int64_t* sizes, float scale, int64_t threads) {
    Call c;
    c.q = (const ACT*)pointers[0], c.keys = (const ACT*)pointers[1], c.shared = (const ACT*)pointers[2];
    c.values = (const ACT*)pointers[3], c.sinks = (const float*)pointers[4], c.first = (const int64_t*)pointers[5];
    c.starts = (const int64_t*)pointers[6], c.out = (ACT*)pointers[7], c.lse = (float*)pointers[8], c.scale = scale;
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

// Gradients of q, keys and values of tokens that see all before them, of the gradient of what `attend` gave, that
// itself and its lse. Of sizes, those of q, keys and values are followed by the steps of the gradient.
void learn(const void* const* pointers, const int64_t* sizes, float scale, int64_t threads) {
    Call c = {};
    Gradient x;
    c.q = (const ACT*)pointers[0], c.keys = (const ACT*)pointers[1], c.values = (const ACT*)pointers[2];
    c.out = (ACT*)pointers[3], c.lse = (float*)pointers[4], x.of = (const ACT*)pointers[5], c.scale = scale;
    x.q = (ACT*)pointers[6], x.keys = (ACT*)pointers[7], x.values = (ACT*)pointers[8];
    int64_t* const into[] = {&c.batch, &c.tokens, &c.heads, &c.groups, &c.dim, &c.width,
                             &c.q_batch, &c.q_token, &c.q_head, &c.key_batch, &c.key_token, &c.key_head,
                             &c.value_batch, &c.value_token, &c.value_head, &x.of_batch, &x.of_token, &x.of_head};
    for (int64_t* to : into) *to = *sizes++;
    c.count = c.tokens;
    const int64_t tasks = c.batch * c.groups, work = c.batch * c.heads * c.tokens * c.tokens * c.dim;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1 && work > (1 << 18))
    for (int64_t task = 0; task < tasks; task++) learn_rows(c, x, task / c.groups, task % c.groups);
}

}  // extern "C"
