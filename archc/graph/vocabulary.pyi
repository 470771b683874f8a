"""Every op as a method of the builder. Generated from `archc/ops/` by `make golden`; do not edit."""

from typing import Literal

from archc.graph.value import Value
from archc.ops import Role

class Vocabulary:
    def attend(self, q: Value, keys: Value, values: Value, time: Value, sinks: Value | None = ..., *, scale: float, window: int | None = ...) -> Value:
        """softmax(q k^T * scale) v over the keys a token may see: q [B, S, H, D], keys [B, T, G, D], values [B, T, G, V] -> [B, S, H, V]."""

    def block_attention(self, q: Value, keys: Value, values: Value, picks: Value, time: Value, *, scale: float, size: int) -> Value:
        """softmax(q k^T * scale) v over the tokens of chosen blocks, the query's own and those before it: [B, S, H, V]."""

    def compressed_attention(self, q: Value, keys: Value, values: Value, time: Value, *, scale: float, every: int, size: int, select: int, count: int, initial: int, local: int, mapping: Literal['overlap', 'minus', 'plus'] = ...) -> tuple[Value, ...]:
        """softmax(q k^T * scale) v over the entries a token sees [B, S, H, V], and ids of the blocks of ``select`` tokens that each group of heads gives most weight [B, S, G, min(count, blocks)], -1 where there are fewer."""

    def token_blocks(self, recent: Value, time: Value, *, every: int, size: int) -> Value:
        """The last ``size`` tokens up to the end of each group of ``every`` that this call completes, side by side: [B, G, H, size * D]."""

    def decide(self, confidence: Value, *, threshold: float) -> Value:
        """1 where the confidence is above the threshold, else 0, which has no gradient; in training the confidence itself."""

    def depth(self, confidence: Value, time: Value, *, weight: float) -> None:
        """The part of the layers behind a bypass that tokens go through: the mean of 1 - confidence, padding left out."""

    def either(self, a: Value, b: Value) -> Value:
        """a + b - a b: of two confidences [B, S], that either is right."""

    def hold(self, before: Value, after: Value, confidence: Value) -> Value:
        """What a layer hands on [B, S, ...]: c ``before`` + (1 - c) ``after``, for the confidence c [B, S] of each token."""

    def unsure(self, x: Value) -> Value:
        """The confidence in tokens that nothing has vouched for, beside x [B, S, ...]: 0 [B, S]."""

    def group_pool(self, kv: Value, score: Value, exists: Value, bias: Value, *, overlap: bool = ...) -> Value:
        """The mean of each group's values, weighted by softmax(score + bias) over its tokens, channel by channel [B, G, C]."""

    def groups(self, recent: Value, time: Value, *, every: int, overlap: bool = ...) -> tuple[Value, ...]:
        """The tokens of each group of ``every`` that this call completes [B, G, n, ...], and which of them exist [B, G, n]."""

    def combine(self, y: Value, weights: Value, order: Value) -> Value:
        """What the experts of a token give [B*S*K, D], times the token's weights [B, S, K], summed [B, S, D]."""

    def dispatch(self, x: Value, ids: Value, *, experts: int) -> tuple[Value, ...]:
        """The row of each token once for each of its experts [B*S*K, D], sorted by expert; which choice each row is, and where the rows of each expert end [experts]."""

    def gather(self, x: Value, ids: Value) -> Value:
        """The elements of the last dim that ids [..., k] name."""

    def group_mask(self, scores: Value, *, groups: int, keep: int, best: int = ...) -> Value:
        """Scores [..., E] with all but the ``keep`` best of ``groups`` groups at -inf; a group is worth the sum of its ``best`` largest."""

    def grouped_linear(self, name: str | None, x: Value, ends: Value, *, out: int, active: int, bias: bool = ..., inputs_first: bool = ...) -> Value:
        """Rows [R, in] -> rows @ weight[e].T (+ bias[e]) [R, out], e the expert of a row. Each token has ``active`` rows."""

    def lookup(self, table: Value, ids: Value) -> Value:
        """Rows of a table [V, ...] that is not learned: table[ids] [*ids, ...]."""

    def sqrt_softplus(self, x: Value) -> Value:
        """sqrt(log(1 + exp(x))): the affinities of DeepSeek-V4."""

    def topk(self, x: Value, *, k: int) -> Value:
        """Indices of the k largest of the last dim, largest first, ties to the lower index [..., k]."""

    def latent_attend(self, q: Value, entries: Value, weight: Value, time: Value, *, nope: int, scale: float, absorb: int | None = ...) -> Value:
        """softmax(q k^T * scale) v over the tokens so far, where k and v are linear maps of one latent per token: q [B, S, H, nope + R], entries [B, T, C + R], weight [H * (nope + V), C] -> [B, S, H, V]."""

    def batch_balance(self, scores: Value, ids: Value, time: Value, *, weight: float) -> None:
        """What experts of unequal load cost the tokens of a call, all layers together: the product of an expert's choices per token and its mean probability, summed over experts, times their number (Switch Transformer, arXiv:2101.03961)."""

    def count_loads(self, bias: Value, ids: Value, *, rate: float) -> None:
        """Counts the tokens that chose each expert, by which `after_step` moves a router's bias (DeepSeek-V3, arXiv:2412.19437): up by ``rate`` for experts with less than the mean load, down for those with more."""

    def record(self, *ins: Value | None) -> None:
        """Keeps x for the caller who asks for hidden states."""

    def sequence_balance(self, scores: Value, ids: Value, time: Value, *, weight: float) -> None:
        """What experts of unequal load cost a sequence, summed over the layers: sum over experts of f P, where f is an expert's share of the choices (1 is even) and P its mean score, the scores of a token adding up to 1 (DeepSeek-V2, arXiv:2405.04434)."""

    def einsum(self, *ins: Value | None, spec: str) -> Value:
        """A sum of products, in einsum notation."""

    def embed(self, ids: Value, table: Value) -> Value:
        """ids [B, S] -> rows [B, S, dim] of a table [rows, dim] that something else owns."""

    def embedding(self, name: str | None, ids: Value, *, rows: int, dim: int) -> Value:
        """ids [B, S] -> rows of a table [B, S, dim]."""

    def linear(self, name: str | None, x: Value, *, out: int, bias: bool = ..., role: Role = ...) -> Value:
        """x [..., in] -> x @ weight.T (+ bias) [..., out], with a weight of its own."""

    def project(self, x: Value, weight: Value) -> Value:
        """x [..., in] -> x @ weight.T [..., out], with a weight [out, in] that something else owns."""

    def ngram_hash(self, recent: Value, time: Value, *, orders: tuple[int, ...], multipliers: tuple[int, ...], primes: tuple[int, ...], pad: int) -> Value:
        """Rows of a table that each token reads, by the n-grams that end with it [B, S, orders * heads]."""

    def short_conv(self, name: str | None, recent: Value, time: Value, *, taps: int, dilation: int = ...) -> Value:
        """A causal convolution of ``taps`` over each channel alone, ``dilation`` tokens apart: a `Recall` [B, R, *C] -> [B, S, *C]."""

    def table_lookup(self, name: str | None, ids: Value, *, rows: int, dim: int, placement: Literal['device', 'host', 'disk'] = ...) -> Value:
        """Rows of a large learned table [rows, dim] named by ids: [*ids, dim]."""

    def hadamard(self, x: Value) -> Value:
        """x times the Hadamard matrix over the last dim, times its width^-1/2: the width is a power of two."""

    def quantise(self, x: Value, *, to: Literal['fp8', 'fp4']) -> Value:
        """x rounded to FP8 in groups of 128 channels or to FP4 in groups of 32, with a power of two as the scale of each; gradients pass straight through."""

    def binary(self, a: Value, b: Value | None = ..., *, sign: Literal['+', '-', '*', '/'], number: float | None = ...) -> Value:
        """Elementwise ``a sign b`` over values, or a value and a number; shapes broadcast from the right."""

    def cast(self, x: Value, like: Value | None = ..., *, to: Literal['fp32', 'act']) -> Value:
        """x as at least float32 (an island begins), or as the dtype of a model value (it ends)."""

    def clamp(self, x: Value, *, low: float, high: float) -> Value:
        """x limited to [low, high]."""

    def gelu(self, x: Value, *, tanh: bool = ...) -> Value:
        """x times the normal distribution function of x, or its tanh approximation."""

    def inverse_rms(self, x: Value, *, eps: float) -> Value:
        """1 / sqrt(mean(x^2) + eps) over the last dim, which becomes 1: what a norm without weight multiplies by."""

    def layer_norm(self, name: str | None, x: Value, *, eps: float, bias: bool = ...) -> Value:
        """(x - mean) / sqrt(var + eps) over the last dim, times a weight, plus a bias if asked."""

    def relu(self, x: Value) -> Value:
        """max(x, 0)"""

    def rms_norm(self, name: str | None, x: Value, *, eps: float) -> Value:
        """x / sqrt(mean(x^2) + eps) over the last dim, times a weight when it is named."""

    def rotate(self, x: Value, angles: Value, *, pairs: Literal['half', 'interleaved'] = ..., end: Literal['first', 'last'] = ..., inverse: bool = ...) -> Value:
        """x with its channels at one end rotated by the angles of the tokens' positions."""

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + exp(-x))"""

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)"""

    def softmax(self, x: Value) -> Value:
        """exp(x) / sum of exp(x) over the last dim"""

    def swiglu(self, gate: Value, up: Value, *, limit: float | None = ..., alpha: float = ..., shift: float = ...) -> Value:
        """(up + shift) * gate * sigmoid(alpha * gate); with a limit, gate is first clamped above and up on both sides."""

    def tanh(self, x: Value) -> Value:
        """(exp(x) - exp(-x)) / (exp(x) + exp(-x))"""

    def index_divergence(self, index_q: Value, index_keys: Value, index_weights: Value, q: Value, entries: Value, lse: Value, time: Value, *rest: Value | None, weight: float, scale: float, every: int = ..., nope: int | None = ...) -> None:
        """What trains an indexer: KL(p || softmax(I)) over the entries that a query attends to, p being the weight that attention gives each, summed over heads and normalised over those entries; the mean over the queries that attend to one, summed over layers (DeepSeek-V3.2; DeepSeek-V4, arXiv:2606.19348, section 2.3)."""

    def index_topk(self, q: Value, keys: Value, weights: Value, time: Value, *, k: int, every: int = ...) -> Value:
        """Ids of the k entries with the best index scores that a token sees, -1 where there are fewer [B, S, min(k, E)]."""

    def sparse_attention(self, q: Value, recent: Value, time: Value, sinks: Value | None = ..., entries: Value | None = ..., picks: Value | None = ..., *, scale: float, window: int, every: int = ..., sink: bool = ..., lse: bool = ...) -> Value:
        """One softmax over a window, compressed entries and a sink, keys being their own values, one for all heads [B, S, H, D]."""

    def sparse_latent_attend(self, q: Value, entries: Value, weight: Value, time: Value, picks: Value, *, nope: int, scale: float, lse: bool = ...) -> Value:
        """softmax(q k^T * scale) v over the tokens that a query picked, where k and v are linear maps of one latent per token: q [B, S, H, nope + R], entries [B, T, C + R], weight [H * (nope + V), C], picks [B, S, K] -> [B, S, H, V]."""

    def collapse(self, streams: Value, weights: Value) -> Value:
        """The sum of streams [..., M, D] times their weights [..., M]: [..., D]."""

    def filled(self, x: Value, *, number: float = ..., dims: tuple[int, ...], narrow: bool = ...) -> Value:
        """A ``number`` for each token of x [B, S, ...], ``dims`` times: [B, S, *dims], in float32 or (``narrow``) in the dtype of x."""

    def mix(self, streams: Value, comb: Value, y: Value, post: Value) -> Value:
        """Stream k as the sum of comb[j, k] times stream j, plus post[k] times y: [..., M, D]."""

    def normalize(self, x: Value, *, eps: float = ...) -> Value:
        """x / (sum of x over the last dim + eps)"""

    def only(self, streams: Value, *, stream: int = ...) -> Value:
        """Weights [..., M] that read one ``stream`` of [..., M, D] and no other."""

    def signed_sqrt(self, x: Value, *, floor: float) -> Value:
        """sign(x) * sqrt(max(|x|, floor))"""

    def sinkhorn(self, x: Value, *, iters: int, eps: float) -> Value:
        """[..., M, M] -> doubly stochastic: ``iters`` passes over rows (a softmax first) and columns, ending on columns; ``eps`` is added to every divisor, and to what the softmax gives."""

    def sum(self, x: Value, *, dim: int) -> Value:
        """Summed over ``dim`` (counted from the end, before the last)."""

    def append(self, x: Value, state: Value, time: Value, *, every: int = ...) -> Value:
        """Every entry so far, the new ones included [B, T // every, ...]."""

    def recall(self, x: Value, state: Value, time: Value, *, keep: int) -> Value:
        """The kept past tokens in time order, then the new ones [B, keep + S, ...]; the ring then keeps the newest."""

    def rope_angles(self, time: Value, *, dim: int, theta: float, scaling: Literal['linear', 'llama3', 'yarn'] | None = ..., factor: float = ..., original: int = ..., low: float | None = ..., high: float | None = ..., beta_fast: float | None = ..., beta_slow: float | None = ..., truncate: bool = ..., magnitude: float = ..., every: int = ..., back: int = ...) -> Value:
        """cos and sin at token positions, or (every > 1) at the first token of each closing group, or ``back`` tokens before it: [B, S, dim / 2, 2]."""

    def time_of(self) -> Value:
        """Where the tokens of this call stand (the runtime's `Time`)."""

    def token_ids(self) -> Value:
        """The ids of the new tokens [B, S]."""

    def block_means(self, keys: Value, time: Value, *, block: int, every: int = ...) -> Value:
        """The mean of the keys of each block of ``block`` entries that this call completes [B, G, D], of the keys of all entries so far [B, E, D], one for ``every`` tokens. A constant."""

    def two_stage_topk(self, q: Value, keys: Value, means: Value, weights: Value, time: Value, *, k: int, every: int = ..., block: int, keep: int) -> Value:
        """`IndexTopk` among the entries of ``keep`` blocks of ``block`` entries: the first one, the newest, and those whose keys [B, E // block, D] (`BlockMeans`), given after those of entries, have the best scores."""

    def cat(self, *xs: Value | None) -> Value:
        """Values side by side in the last dim."""

    def detach(self, *ins: Value | None) -> Value:
        """The same values as constants: no gradient goes further back."""

    def expand(self, x: Value, *, n: int) -> Value:
        """[..., d] -> [..., n, d], the same row n times"""

    def flatten(self, x: Value) -> Value:
        """[..., a, b] -> [..., a * b]"""

    def split(self, x: Value, *, sizes: tuple[int, ...]) -> tuple[Value, ...]:
        """[..., a + b] -> [..., a], [..., b]"""

    def tokenwise(self, weights: Value, x: Value, *, dims: int) -> Value:
        """Weights of ``dims`` dims [...] that are the same for every token of x [B, S, ...]: [B, S, ...]"""

    def unbind(self, x: Value) -> tuple[Value, ...]:
        """[..., n] -> n values [...]"""

    def unflatten(self, x: Value, *, sizes: tuple[int, ...]) -> Value:
        """[..., a * b] -> [..., a, b]"""

    def unflatten_rows(self, x: Value, *, n: int) -> Value:
        """[n * r, ...] -> [n, r, ...], of a parameter"""

    def unsqueeze(self, x: Value, *, dim: int) -> Value:
        """A new dim of size 1 at ``dim`` (counted from the end, -1 is after the last)."""
