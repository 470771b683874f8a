// A mixture of experts in one call: experts.py makes it.
//
// Rows of one expert are laid in panels [channels, tokens], so that a number of a weight meets a vector of tokens: weights
// are read where they lie, in order, and ahead of their use. Where an expert has few rows, a row of its weights meets each.

#include "numbers.h"

#if defined __AVX512F__
constexpr int LANES = 16, REGISTERS = 32;
#elif defined __AVX__
constexpr int LANES = 8, REGISTERS = 16;
#elif defined __aarch64__
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Rows of a weight, and vectors of tokens that they meet: their sums stay in registers.
constexpr int ROWS = REGISTERS / 4, WIDE = REGISTERS == 32 ? 3 : 2;

// Channels that are laid from rows into panels, or back, at once.
constexpr int BLOCK = LANES > ROWS ? LANES : ROWS;

// Tokens of a panel, panels that caches hold at once, and rows up to which panels are not worth the laying.
constexpr int64_t PANEL = WIDE * LANES, PANELS = 4, FEW = 4;

// sums[r] = rows[r] . panel, of a panel [width, V vectors]. What begins at `ahead` is read next.
template <int V>
static inline void multiply(const float* const* rows, const ACT* const* ahead, const float* panel, int64_t width,
                            float (*sums)[PANEL]) {
    Vector total[ROWS][V] = {};
    constexpr int64_t LINE = 64 / sizeof(ACT);
    for (int64_t line = 0; line < width; line += LINE) {
        for (int r = 0; r < ROWS; r++) __builtin_prefetch(ahead[r] + line, 0, 2);
        const int64_t end = std::min(width, line + LINE);
#pragma GCC unroll 2
        for (int64_t i = line; i < end; i++) {
            Vector x[V];
            for (int v = 0; v < V; v++) x[v] = *(const Vector*)(panel + (i * V + v) * LANES);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < V; v++) total[r][v] += rows[r][i] * x[v];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < V; v++) *(Vector*)(sums[r] + v * LANES) = total[r][v];
}

static void multiply(int vectors, const float* const* rows, const ACT* const* ahead, const float* panel, int64_t width,
                     float (*sums)[PANEL]) {
    if (vectors == 1) multiply<1>(rows, ahead, panel, width, sums);
    if (vectors == 2) multiply<2>(rows, ahead, panel, width, sums);
    if (vectors == 3) multiply<WIDE>(rows, ahead, panel, width, sums);
}

// ROWS rows of a weight in float: where they lie, or widened into room.
static void wide_weight(const float* const* from, int64_t, std::vector<float>&, const float** to) {
    std::copy(from, from + ROWS, to);
}

static void wide_weight(const bfloat16* const* from, int64_t width, std::vector<float>& room, const float** to) {
    room.resize(ROWS * width);
    for (int r = 0; r < ROWS; r++) {
        for (int64_t i = 0; i < width; i++) room[r * width + i] = widened(from[r][i]);
        to[r] = room.data() + r * width;
    }
}

namespace {

// Experts whose weights are `first` [experts, 2 * hidden, dim], the rows of gate and up one after the other or `by_turns`,
// and `second` [experts, dim, hidden], with biases if any; rows x [tokens, dim], `k` choices and weights of each token.
struct Mixture {
    const ACT *x, *first, *first_bias, *second, *second_bias;
    const float* weights;
    float* out;
    int64_t k, dim, hidden, by_turns, threads;
    float limit, alpha, shift;

    // Which row of `first` has hidden channel j of the gate, or of up
    int64_t gate(int64_t j) const { return by_turns ? 2 * j : j; }
    int64_t up(int64_t j) const { return by_turns ? 2 * j + 1 : hidden + j; }

    float opened(float a, float b) const {
        a = a > limit ? limit : a;
        b = b > limit ? limit : b < -limit ? -limit : b;
        return (b + shift) * (a / (1 + exponential(-alpha * a)));
    }

    bool alone(int64_t rows, int64_t width) const { return threads == 1 || rows * dim * width < (1 << 18); }

    // An expert's `count` choices, no more than FEW.
    template <int N> void few(int64_t expert, const int64_t* choices, float* room) const {
        const ACT *head = first + expert * 2 * hidden * dim, *tail = second + expert * dim * hidden;
        const ACT *head_bias = first_bias ? first_bias + expert * 2 * hidden : nullptr;
        const ACT *tail_bias = second_bias ? second_bias + expert * dim : nullptr;
        const float *rows[N], *made[N];
        std::vector<float> wide[N];
        for (int n = 0; n < N; n++) rows[n] = wide_rows(x + choices[n] / k * dim, dim, wide[n]), made[n] = room + n * hidden;
#pragma omp parallel for num_threads(threads) if (!alone(N, hidden))
        for (int64_t j = 0; j < hidden; j += 2) {
            const int64_t next = std::min(j + 1, hidden - 1);
            const int64_t at[4] = {gate(j), up(j), gate(next), up(next)};
            const ACT* four[4];
            float sums[4 * N];
            for (int i = 0; i < 4; i++) four[i] = head + at[i] * dim;
            dots<N, true>(four, rows, dim, sums);
            for (int n = 0; n < N; n++) {
                if (head_bias)
                    for (int i = 0; i < 4; i++) sums[4 * n + i] += widened(head_bias[at[i]]);
                for (int i = 0; i < 2 && j + i < hidden; i++)
                    room[n * hidden + j + i] = opened(sums[4 * n + 2 * i], sums[4 * n + 2 * i + 1]);
            }
        }
#pragma omp parallel for num_threads(threads) if (!alone(N, hidden))
        for (int64_t d = 0; d < dim; d += 4) {
            const ACT* four[4];
            float sums[4 * N];
            for (int64_t i = 0; i < 4; i++) four[i] = tail + std::min(d + i, dim - 1) * hidden;
            dots<N, true>(four, made, hidden, sums);
            for (int n = 0; n < N; n++)
                for (int64_t i = 0; i < 4 && d + i < dim; i++)
                    out[choices[n] / k * dim + d + i] +=
                        weights[choices[n]] * (sums[4 * n + i] + (tail_bias ? widened(tail_bias[d + i]) : 0));
        }
    }

    // An expert's `count` choices, no more than PANELS * PANEL: `rows` and `made` have room for their panels.
    void many(int64_t expert, const int64_t* choices, int64_t count, float* rows, float* made) const {
        const ACT *head = first + expert * 2 * hidden * dim, *tail = second + expert * dim * hidden;
        const ACT *head_bias = first_bias ? first_bias + expert * 2 * hidden : nullptr;
        const ACT *tail_bias = second_bias ? second_bias + expert * dim : nullptr;
        const int64_t panels = (count + PANEL - 1) / PANEL;
        const auto vectors = [&](int64_t p) { return int(std::min<int64_t>(WIDE, (count - p * PANEL + LANES - 1) / LANES)); };
#pragma omp parallel for collapse(2) num_threads(threads) if (!alone(count, hidden))
        for (int64_t p = 0; p < panels; p++)
            for (int64_t d = 0; d < dim; d += BLOCK) {
                const int64_t begin = p * PANEL, pitch = vectors(p) * LANES, channels = std::min<int64_t>(BLOCK, dim - d);
                float* to = rows + (begin * dim + d * pitch);
                for (int64_t t = 0; t < pitch; t++) {
                    const ACT* from = x + choices[std::min(begin + t, count - 1)] / k * dim + d;
                    for (int64_t i = 0; i < channels; i++) to[i * pitch + t] = widened(from[i]);
                }
            }
#pragma omp parallel num_threads(threads) if (!alone(count, hidden))
        {
            std::vector<float> room;
            const float* wide[ROWS];
            const ACT *some[ROWS], *ahead[ROWS];
            float sums[ROWS][PANEL];
#pragma omp for
            for (int64_t j = 0; j < hidden; j += ROWS / 2) {
                for (int r = 0; r < ROWS; r++) {
                    const int64_t own = std::min(j + r / 2, hidden - 1), next = std::min(own + ROWS / 2, hidden - 1);
                    some[r] = head + (r % 2 ? up(own) : gate(own)) * dim;
                    ahead[r] = head + (r % 2 ? up(next) : gate(next)) * dim;
                }
                wide_weight(some, dim, room, wide);
                for (int64_t p = 0; p < panels; p++) {
                    const int64_t begin = p * PANEL, pitch = vectors(p) * LANES;
                    multiply(vectors(p), wide, ahead, rows + begin * dim, dim, sums);
                    for (int64_t r = 0; r < ROWS / 2 && j + r < hidden; r++) {
                        float *a = sums[2 * r], *b = sums[2 * r + 1], *to = made + begin * hidden + (j + r) * pitch;
                        const float more = head_bias ? widened(head_bias[gate(j + r)]) : 0;
                        const float also = head_bias ? widened(head_bias[up(j + r)]) : 0;
                        for (int64_t t = 0; t < pitch; t++) to[t] = opened(a[t] + more, b[t] + also);
                    }
                }
            }
#pragma omp for
            for (int64_t d = 0; d < dim; d += BLOCK) {
                const int64_t channels = std::min<int64_t>(BLOCK, dim - d);
                for (int64_t p = 0; p < panels; p++) {
                    const int64_t begin = p * PANEL, end = std::min(count, begin + PANEL);
                    float block[BLOCK][PANEL];
                    for (int64_t c = 0; c < channels; c += ROWS) {
                        for (int64_t r = 0; r < ROWS; r++) {
                            const int64_t own = std::min(d + c + r, dim - 1), next = std::min(own + ROWS, dim - 1);
                            some[r] = tail + own * hidden, ahead[r] = tail + next * hidden;
                        }
                        wide_weight(some, hidden, room, wide);
                        multiply(vectors(p), wide, ahead, made + begin * hidden, hidden, block + c);
                    }
                    for (int64_t t = begin; t < end; t++) {
                        const float weight = weights[choices[t]];
                        float* to = out + choices[t] / k * dim + d;
                        for (int64_t i = 0; i < channels; i++)
                            to[i] += weight * (block[i][t - begin] + (tail_bias ? widened(tail_bias[d + i]) : 0));
                    }
                }
            }
        }
    }
};

// Where sums are made: in the output, or apart where this is of fewer bits.
float* sums_of(float* out, int64_t, std::vector<float>&) { return out; }

float* sums_of(bfloat16*, int64_t size, std::vector<float>& room) {
    room.resize(size);
    return room.data();
}

void settle(const float*, float*, int64_t) {}

void settle(const float* sums, bfloat16* out, int64_t size) {
    for (int64_t i = 0; i < size; i++) store(out + i, sums[i]);
}

}  // namespace

extern "C" {

// out [tokens, dim]: what the chosen experts, ids [tokens, k], give of x, times their weights, in the order of experts.
void experts(const ACT* x, const int64_t* ids, const float* weights, const ACT* first, const ACT* first_bias,
             const ACT* second, const ACT* second_bias, ACT* out, int64_t tokens, int64_t k, int64_t count, int64_t dim,
             int64_t hidden, int64_t by_turns, float limit, float alpha, float shift, int64_t threads) {
    std::vector<int64_t> ends(count + 1), order(tokens * k);
    for (int64_t i = 0; i < tokens * k; i++) ends[ids[i] + 1]++;
    int64_t most = 0;
    for (int64_t e = 0; e < count; e++) most = std::max(most, ends[e + 1]), ends[e + 1] += ends[e];
    std::vector<int64_t> at(ends.begin(), ends.end() - 1);
    for (int64_t i = 0; i < tokens * k; i++) order[at[ids[i]]++] = i;

    std::vector<float> room, rows, made;
    float* sums = sums_of(out, tokens * dim, room);
    std::fill(sums, sums + tokens * dim, 0.0f);
    const int64_t laid = std::min(PANELS * PANEL, (most + LANES - 1) / LANES * LANES);
    if (most > FEW) rows.resize(laid * dim);
    made.resize(std::max(laid, FEW) * hidden);
    const Mixture mixture{x, first, first_bias, second, second_bias, weights, sums, k, dim, hidden, by_turns, threads,
                          limit, alpha, shift};
    for (int64_t e = 0; e < count; e++) {
        const int64_t* own = order.data() + ends[e];
        const int64_t n = ends[e + 1] - ends[e];
        if (n == 1) mixture.few<1>(e, own, made.data());
        if (n == 2) mixture.few<2>(e, own, made.data());
        if (n == 3) mixture.few<3>(e, own, made.data());
        if (n == 4) mixture.few<4>(e, own, made.data());
        if (n > FEW)
            for (int64_t i = 0; i < n; i += PANELS * PANEL)
                mixture.many(e, own + i, std::min(PANELS * PANEL, n - i), rows.data(), made.data());
    }
    settle(sums, out, tokens * dim);
}

}  // extern "C"
