// Ops on tensors in memory, each in one pass: on_cpu.py calls them.

#include <functional>

#include "numbers.h"

// The places of the `most` largest of `count` numbers, largest first, equal ones in order; `order` has room for them.
static void best_of(const float* x, int64_t count, std::vector<int64_t>& order, int64_t* best, int64_t most) {
    // No two keys are equal: the place of a number in the order of floats (both zeros are one), and below it its own.
    for (int64_t i = 0; i < count; i++) {
        int32_t bits = 0;
        if (x[i] != 0) std::memcpy(&bits, &x[i], sizeof bits);
        order[i] = int64_t(bits ^ (bits >> 31 & 0x7FFFFFFF)) * (int64_t(1) << 32) - i;
    }
    std::partial_sort(order.begin(), order.begin() + most, order.begin() + count, std::greater<int64_t>());
    for (int64_t i = 0; i < most; i++) best[i] = uint32_t(-order[i]);
}

extern "C" {

// One softmax of each head of one new token over rows of keys that are their own values, and a sink of no value.
//
// q and out [batch, heads, dim]; of recent [batch, rows, dim] the rows from `begin` on, and all entries [batch, entries,
// dim], batch rows `stride` apart, or those of picks [batch, count] that are not -1; sinks [heads].
void attend(const ACT* q, const ACT* recent, const ACT* entries, const int64_t* picks, const float* sinks, ACT* out,
            int64_t batch, int64_t heads, int64_t dim, int64_t rows, int64_t begin, int64_t count, int64_t stride,
            float scale, int64_t threads) {
    for (int64_t b = 0; b < batch; b++) {
        std::vector<const ACT*> keys;
        keys.reserve(rows - begin + count);
        for (int64_t i = begin; i < rows; i++) keys.push_back(recent + (b * rows + i) * dim);
        for (int64_t i = 0; i < count; i++) {
            const int64_t entry = picks ? picks[b * count + i] : i;
            if (entry >= 0) keys.push_back(entries + b * stride + entry * dim);
        }
        const int64_t n = int64_t(keys.size());
#pragma omp parallel for num_threads(threads) if (threads > 1 && heads * n * dim > (1 << 18))
        for (int64_t h = 0; h < heads; h++) {
            std::vector<float> room, weights(n), sum(dim);
            const ACT* own = q + (b * heads + h) * dim;
            scores_of(keys.data(), n, wide_rows(own, dim, room), dim, weights.data());
            for (int64_t i = 0; i < n; i++) weights[i] *= scale;
            float top = sinks ? sinks[h] : weights[0];
            for (int64_t i = 0; i < n; i++) top = weights[i] > top ? weights[i] : top;
            float mass = sinks ? std::exp(sinks[h] - top) : 0;
            for (int64_t i = 0; i < n; i++) {
                weights[i] = exponential(weights[i] - top);
                mass += weights[i];
            }
            for (int64_t i = 0; i < n; i++) {
                const float weight = weights[i];
                const ACT* key = keys[i];
                for (int64_t d = 0; d < dim; d++) sum[d] += weight * widened(key[d]);
            }
            for (int64_t d = 0; d < dim; d++) store(out + (b * heads + h) * dim + d, sum[d] / mass);
        }
    }
}

// The `most` best of entries for one new token of each row, best first, equal scores in the order of entries: picks
// [batch, most]. The score of an entry is the sum over heads of weights [batch, heads] times relu(q . key), of q [batch,
// heads, dim] and keys [batch, entries, dim] whose batch rows are `stride` apart.
void pick(const ACT* q, const ACT* keys, const ACT* weights, int64_t* picks, int64_t batch, int64_t heads, int64_t dim,
          int64_t entries, int64_t stride, int64_t most) {
    std::vector<const ACT*> rows(entries);
    std::vector<float> room, products(entries), scores(entries);
    std::vector<int64_t> order(entries);
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t e = 0; e < entries; e++) rows[e] = keys + b * stride + e * dim;
        const float* wide = wide_rows(q + b * heads * dim, heads * dim, room);
        std::fill(scores.begin(), scores.end(), 0.0f);
        for (int64_t h = 0; h < heads; h++) {
            scores_of(rows.data(), entries, wide + h * dim, dim, products.data());
            const float weight = widened(weights[b * heads + h]);
            for (int64_t e = 0; e < entries; e++) scores[e] += weight * (products[e] < 0 ? 0 : products[e]);
        }
        best_of(scores.data(), entries, order, picks + b * most, most);
    }
}

// The `most` largest of each row x [rows, count], largest first, equal ones in the order of their places: best [rows,
// most].
void topk(const float* x, int64_t* best, int64_t rows, int64_t count, int64_t most) {
    std::vector<int64_t> order(count);
    for (int64_t r = 0; r < rows; r++) best_of(x + r * count, count, order, best + r * most, most);
}

// Choices ids [choices] of experts in the order of experts, of one expert as they come: order [choices], and where the
// choices of each expert end: ends [experts].
void sort_choices(const int64_t* ids, int64_t* order, int32_t* ends, int64_t choices, int64_t experts) {
    std::fill(ends, ends + experts, 0);
    for (int64_t i = 0; i < choices; i++) ends[ids[i]]++;
    for (int64_t e = 0, begin = 0; e < experts; e++) begin += ends[e], ends[e] = int32_t(begin) - ends[e];
    for (int64_t i = 0; i < choices; i++) order[ends[ids[i]]++] = i;
}

}  // extern "C"

// Rows [N, in] times one matrix [out, in]: y [N, out].
template <int N>
static void times(const ACT* matrix, const float* const* x, const ACT* bias, ACT* y, int64_t out, int64_t in, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && out * in > (1 << 18))
    for (int64_t o = 0; o < out; o += 4) {
        const ACT* four[4];
        for (int64_t j = 0; j < 4; j++) four[j] = matrix + std::min(o + j, out - 1) * in;
        float sums[4 * N];
        dots<N, true>(four, x, in, sums);
        for (int64_t j = 0; j < 4 && o + j < out; j++)
            for (int n = 0; n < N; n++) store(y + n * out + o + j, sums[4 * n + j] + (bias ? widened(bias[o + j]) : 0));
    }
}

// The same of any rows, four at a time.
static void times_rows(const ACT* matrix, const float* x, int64_t step, const ACT* bias, ACT* y, int64_t rows, int64_t out,
                       int64_t in, int64_t threads) {
    for (int64_t row = 0; row < rows; row += 4, y += 4 * out) {
        const float* few[4];
        for (int64_t i = 0; i < 4; i++) few[i] = x + std::min(row + i, rows - 1) * step;
        if (row + 1 == rows) times<1>(matrix, few, bias, y, out, in, threads);
        if (row + 2 == rows) times<2>(matrix, few, bias, y, out, in, threads);
        if (row + 3 == rows) times<3>(matrix, few, bias, y, out, in, threads);
        if (row + 4 <= rows) times<4>(matrix, few, bias, y, out, in, threads);
    }
}

extern "C" {

// x [rows, in] by a matrix [out, in], plus a bias [out] if any: y [rows, out].
void linear(const ACT* x, const ACT* matrix, const ACT* bias, ACT* y, int64_t rows, int64_t out, int64_t in,
            int64_t threads) {
    std::vector<float> room;
    times_rows(matrix, wide_rows(x, rows * in, room), in, bias, y, rows, out, in, threads);
}

// x [rows, in], rows `step` apart (in, or 0: all are one), by the matrices [experts, out, in] of their experts, plus
// biases [experts, out] if any: y [rows, out]. The rows of an expert end before ends[e].
void grouped(const ACT* x, const ACT* matrices, const int32_t* ends, const ACT* biases, ACT* y, int64_t rows,
             int64_t step, int64_t experts, int64_t out, int64_t in, int64_t threads) {
    std::vector<float> room;
    const float* wide = wide_rows(x, step ? rows * in : in, room);
    for (int64_t e = 0, row = 0; e < experts; row = ends[e++])
        times_rows(matrices + e * out * in, wide + row * step, step, biases ? biases + e * out : nullptr, y + row * out,
                   ends[e] - row, out, in, threads);
}

// The rows of each token's experts, weighted and summed: out [tokens, dim], of y [tokens * k, dim] where row r is that of
// choice order[r], and weights [tokens, k].
void combine(const ACT* y, const float* weights, const int64_t* order, ACT* out, int64_t tokens, int64_t k, int64_t dim) {
    std::vector<int64_t> places(tokens * k);
    for (int64_t r = 0; r < tokens * k; r++) places[order[r]] = r;
    std::vector<float> sum(dim);
    for (int64_t t = 0; t < tokens; t++) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t i = t * k; i < (t + 1) * k; i++) {
            const ACT* row = y + places[i] * dim;
            for (int64_t d = 0; d < dim; d++) sum[d] += weights[i] * widened(row[d]);
        }
        for (int64_t d = 0; d < dim; d++) store(out + t * dim + d, sum[d]);
    }
}

// Rows x [rows, dim] over the root of their mean square, times weight [dim] if there is one: out [rows, dim].
void rms_norm(const ACT* x, const ACT* weight, ACT* out, int64_t rows, int64_t dim, float eps, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * dim > (1 << 18))
    for (int64_t r = 0; r < rows; r++) {
        const ACT* own = x + r * dim;
        ACT* to = out + r * dim;
        float squares = 0;
        for (int64_t d = 0; d < dim; d++) squares += widened(own[d]) * widened(own[d]);
        const float scale = 1 / std::sqrt(squares / dim + eps);
        if (weight)
            for (int64_t d = 0; d < dim; d++) store(to + d, widened(own[d]) * scale * widened(weight[d]));
        else
            for (int64_t d = 0; d < dim; d++) store(to + d, widened(own[d]) * scale);
    }
}

// Heads x [tokens, heads, dim] of which the channels from `begin` on are turned in pairs by the cosines and sines of
// their token, angles [tokens, pairs, 2]: channels i and i + pairs, or 2 i and 2 i + 1 of them where pairs are
// `neighbours`. `direction` is -1 to turn back.
void rotate(const ACT* x, const float* angles, ACT* out, int64_t tokens, int64_t heads, int64_t dim, int64_t begin,
            int64_t pairs, int64_t neighbours, float direction, int64_t threads) {
    const int64_t step = neighbours ? 2 : 1, apart = neighbours ? 1 : pairs;
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens * heads * dim > (1 << 18))
    for (int64_t t = 0; t < tokens; t++) {
        const float* turn = angles + t * pairs * 2;
        for (int64_t h = 0; h < heads; h++) {
            const ACT* from = x + (t * heads + h) * dim;
            ACT* to = out + (t * heads + h) * dim;
            std::memcpy(to, from, begin * sizeof(ACT));
            std::memcpy(to + begin + 2 * pairs, from + begin + 2 * pairs, (dim - begin - 2 * pairs) * sizeof(ACT));
            for (int64_t i = 0; i < pairs; i++) {
                const float a = widened(from[begin + step * i]), b = widened(from[begin + step * i + apart]);
                const float cos = turn[2 * i], sin = direction * turn[2 * i + 1];
                store(to + begin + step * i, a * cos - b * sin);
                store(to + begin + step * i + apart, b * cos + a * sin);
            }
        }
    }
}

// (up + shift) * gate * sigmoid(alpha * gate), gate cut to at most `limit` and up to [-limit, limit]: out [rows, dim], of
// rows that lie `gate_step` and `up_step` apart.
void swiglu(const ACT* gate, const ACT* up, ACT* out, int64_t rows, int64_t dim, int64_t gate_step, int64_t up_step,
            float limit, float alpha, float shift, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * dim > (1 << 16))
    for (int64_t r = 0; r < rows; r++) {
        const ACT *left = gate + r * gate_step, *right = up + r * up_step;
        ACT* to = out + r * dim;
        for (int64_t d = 0; d < dim; d++) {
            float a = widened(left[d]), b = widened(right[d]);
            a = a > limit ? limit : a;
            b = b > limit ? limit : b < -limit ? -limit : b;
            store(to + d, (b + shift) * (a / (1 + exponential(-alpha * a))));
        }
    }
}

// x [tokens, groups, in] by a matrix of each group [groups, out, in]: y [tokens, groups, out].
void by_group(const ACT* x, const ACT* matrices, ACT* y, int64_t tokens, int64_t groups, int64_t out, int64_t in,
              int64_t threads) {
    std::vector<float> room;
    const float* wide = wide_rows(x, tokens * groups * in, room);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t g = 0; g < groups; g++) {
            const float* one = wide + (t * groups + g) * in;
            times<1>(matrices + g * out * in, &one, nullptr, y + (t * groups + g) * out, out, in, threads);
        }
}

// The `keep` tokens before the new ones and these: out [batch, keep + new, dim], of x [batch, new, dim] and a ring data
// [batch, ring, dim] in which slot p lives in row p % ring; the new ones, the first of them of slot `past`, are then put
// there.
void recall(const ACT* x, ACT* data, ACT* out, int64_t batch, int64_t new_tokens, int64_t keep, int64_t ring,
            int64_t past, int64_t dim) {
    const int64_t row = dim * int64_t(sizeof(ACT));
    for (int64_t b = 0; b < batch; b++, x += new_tokens * dim, data += ring * dim) {
        for (int64_t i = 0; i < keep; i++, out += dim)
            std::memcpy(out, data + ((past - keep + i) % ring + ring) % ring * dim, row);
        std::memcpy(out, x, new_tokens * row);
        out += new_tokens * dim;
        for (int64_t i = std::max<int64_t>(0, new_tokens - ring); i < new_tokens; i++)
            std::memcpy(data + (past + i) % ring * dim, x + i * dim, row);
    }
}

}  // extern "C"
