"""deepseek_v4_flash: 284,332,230,231 parameters, and 6,610,048,635 more for multi-token prediction. Generated
by archc from its spec; edit the spec and build again.

Read from the bottom: `Model` holds the `Backbone`, whose layers are made of the classes above it. Shapes are
in comments: B rows, S new tokens, T all tokens so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fused.ahead_add_sinkhorn_collapse_norm import ahead_add_sinkhorn_collapse_norm
from .fused.ahead_mix_collapse_norm import ahead_mix_collapse_norm
from .fused.entry_norm_rotate import entry_norm_rotate
from .fused.experts import experts
from .fused.final_collapse_norm import final_collapse_norm
from .fused.kv_norm_rotate import kv_norm_rotate
from .fused.mix_sinkhorn_collapse_norm import mix_sinkhorn_collapse_norm
from .fused.q_norm_rotate import q_norm_rotate
from .fused.scores_softplus_add import scores_softplus_add
from .fused.sinkhorn_collapse_norm import sinkhorn_collapse_norm
from .fused.weights_normalize_scale import weights_normalize_scale
from .kernels.balance import sequence_balance
from .kernels.einsum import einsum
from .kernels.group_pool import group_pool
from .kernels.groups import group_positions, groups
from .kernels.index_divergence import index_divergence
from .kernels.index_topk import index_topk
from .kernels.packed_rows import Fp4Keys, Fp8Keys
from .kernels.rope_angles import rope_angles
from .kernels.rotate import rotate
from .kernels.sparse_attention import sparse_attention, sparse_attention_lse
from .kernels.sqrt_softplus import sqrt_softplus
from .kernels.state import Ring, Table, append, recall
from .kernels.streams import mix
from .kernels.swiglu import swiglu
from .kernels.topk_lowest import topk_lowest
from .kernels.upcast import upcast
from .runtime.cache import Cache
from .runtime.modules import Embedding, Linear, RMSNorm, at_least_float32, building, choices, normal
from .runtime.mtp import MtpLanguageModel
from .runtime.step import StepBase
from .runtime.time import Time


@dataclass(kw_only=True)
class Step(StepBase):
    """What every layer may read, computed once per forward."""

    rope: Tensor  # [B, S, 32, 2]
    rope_yarn: Tensor  # [B, S, 32, 2]
    rope_per_4_tokens: Tensor  # [B, S//4, 32, 2]
    rope_per_128_tokens: Tensor  # [B, S//128, 32, 2]


class HyperConnection(nn.Module):
    """What a sub-layer reads, how its output is spread over the streams (post), and how these are mixed:
    comb[from, to] (mHC, arXiv:2512.24880, in the form of DeepSeek-V4).

    It holds parameters, which the module around it hands to a function that computes this and more at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fn = normal(24, 16384, dtype=at_least_float32())
        self.base = nn.Parameter(torch.zeros(24, dtype=at_least_float32()))
        self.scale = nn.Parameter(torch.ones(3, dtype=at_least_float32()))


class SwaAttention(nn.Module):
    """A query attends to the last 128 tokens and a sink in one softmax; the one key-value head's keys are
    their own values (DeepSeek-V4, arXiv:2606.19348, section 2.3).

    Queries are made of 1024 channels and normed head by head. Outputs are turned back by the query's
    position, for values carry theirs; 8 groups of heads are projected out through 1024 channels each.
    """

    keeps = {"window": Ring(keep=127, shape=(512,), packing=Fp8Keys(plain=64))}

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.q_a_proj = Linear(4096, 1024)
        self.q_a_norm = RMSNorm(1024, eps=1e-06)
        self.q_b_proj = Linear(1024, 32768)
        self.kv_proj = Linear(4096, 512)
        self.kv_norm = RMSNorm(512, eps=1e-06)
        self.o_a_proj = Linear(4096, 8192)
        self.o_b_proj = Linear(8192, 4096)
        self.sinks = nn.Parameter(torch.zeros(64, dtype=at_least_float32()))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        q_latent = self.q_a_norm(self.q_a_proj(x))                                 # [B, S, 1024]
        q = self.q_b_proj(q_latent).unflatten(-1, (64, 512))                       # [B, S, 64, 512]
        q = q_norm_rotate(q, step.rope)                                            # [B, S, 64, 512]
        kv = kv_norm_rotate(self.kv_proj(x), step.rope, self.kv_norm.weight)       # [B, S, 512]
        recent = recall(kv, state.window, step.time)                               # [B, 127+S, 512]
        y = sparse_attention(                                                      # [B, S, 64, 512]
            q, recent, self.sinks, step.time, scale=0.04419417382415922, window=128
        )
        out = rotate(y, step.rope, pairs="interleaved", end="last", inverse=True)  # [B, S, 64, 512]
        out = out.flatten(-2).unflatten(-1, (8, 4096))                             # [B, S, 8, 4096]
        weight = self.o_a_proj.weight.unflatten(0, (8, -1))                        # [8, 1024, 4096]
        out = einsum("bsgi,goi->bsgo", out, weight)                                # [B, S, 8, 1024]
        return self.o_b_proj(out.flatten(-2))                                      # [B, S, 4096]


class HashRouter(nn.Module):
    """A table names the experts of every token id, sqrt(softplus(logit)) weighs them (DeepSeek-V4,
    arXiv:2606.19348).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = normal(256, 4096)
        self.tid2eid = nn.Buffer(choices(129280, 6, below=256))

    def forward(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        scores = sqrt_softplus(F.linear(upcast(x), upcast(self.weight)))  # [B, S, 256]
        ids = self.tid2eid[step.tokens]                                   # [B, S, 6]
        weights = scores.gather(-1, ids)                                  # [B, S, 6]
        weights = weights_normalize_scale(weights)                        # [B, S, 6]
        return ids, weights


class Experts(nn.Module):
    """Each token through its experts: rows sorted by expert, then summed (DeepSeekMoE, arXiv:2401.06066)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = normal(256, 4096, 4096)
        self.down_proj = normal(256, 4096, 2048)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return experts(x, ids, weights, self.gate_up_proj, self.down_proj)  # [B, S, 4096]


class SharedExperts(nn.Module):
    """Gated feed-forward, down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = Linear(4096, 2048)
        self.up_proj = Linear(4096, 2048)
        self.down_proj = Linear(2048, 4096)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)               # [B, S, 2048]
        up = self.up_proj(x)                   # [B, S, 2048]
        hidden = swiglu(gate, up, limit=10.0)  # [B, S, 2048]
        return self.down_proj(hidden)          # [B, S, 4096]


class HashMoe(nn.Module):
    """A router gives each token a few of many gated feed-forwards (DeepSeekMoE, arXiv:2401.06066)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = HashRouter()
        self.experts = Experts()
        self.shared_experts = SharedExperts()

    def forward(self, x: Tensor, step: Step) -> Tensor:
        ids, weights = self.gate(x, step)       # [B, S, 6]
        routed = self.experts(x, ids, weights)  # [B, S, 4096]
        shared = self.shared_experts(x)         # [B, S, 4096]
        return routed + shared                  # [B, S, 4096]


class Indexer(nn.Module):
    """64 small heads score entries of a compressor of their own; the 512 best are attended to (DeepSeek-V4,
    arXiv:2606.19348, section 2.3.1).
    """

    keeps = {
        "compressor_indexer_tokens": Ring(keep=7, shape=(512,)),
        "compressor_indexer_entries": Table(every=4, shape=(128,), packing=Fp4Keys()),
    }

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.kv_proj = Linear(4096, 256)
        self.gate_proj = Linear(4096, 256)
        self.kv_norm = RMSNorm(128, eps=1e-06)
        self.q_b_proj = Linear(1024, 8192)
        self.scorer = nn.ModuleDict({"weights_proj": Linear(4096, 64)})
        self.position_bias = nn.Parameter(torch.zeros(4, 256, dtype=at_least_float32()))

    def forward(self, x: Tensor, q_latent: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state = step.state(self.layer)
        both = torch.cat([self.kv_proj(x), self.gate_proj(x)], -1)                     # [B, S, 512]
        recent = recall(both, state.compressor_indexer_tokens, step.time)              # [B, 7+S, 512]
        tokens, exists = groups(recent, step.time, every=4, overlap=True)    # [B, S//4, 8, 512], [B, S//4, 8]
        kv, score = tokens.chunk(2, -1)                                                # [B, S//4, 8, 256]
        entry = group_pool(kv, score, exists, self.position_bias, overlap=True)        # [B, S//4, 128]
        entry = entry_norm_rotate(entry, step.rope_per_4_tokens, self.kv_norm.weight)  # [B, S//4, 128]
        keys = append(entry, state.compressor_indexer_entries, step.time, every=4)     # [B, T//4, 128]
        q = self.q_b_proj(q_latent)                                                    # [B, S, 8192]
        q = rotate(                                                                    # [B, S, 64, 128]
            q.unflatten(-1, (64, 128)), step.rope_yarn, pairs="interleaved", end="last"
        )
        weights = self.scorer["weights_proj"](x) * 0.011048543456039806                # [B, S, 64]
        picks = step.pick(index_topk, q, keys, weights, step.time, k=512, every=4)    # [B, S, min(512, T//4)]
        return picks, q, keys, weights


class CsaCompressor(nn.Module):
    """Every 4 tokens make one entry, pooled channel by channel with a learned softmax over them and those
    before; an indexer picks those that a token attends to (DeepSeek-V4, arXiv:2606.19348, section 2.3.1).
    """

    keeps = {
        "compressor_tokens": Ring(keep=7, shape=(2048,)),
        "compressor_entries": Table(every=4, shape=(512,), packing=Fp8Keys(plain=64)),
    }

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.kv_proj = Linear(4096, 1024)
        self.gate_proj = Linear(4096, 1024)
        self.kv_norm = RMSNorm(512, eps=1e-06)
        self.indexer = Indexer(layer)
        self.position_bias = nn.Parameter(torch.zeros(4, 1024, dtype=at_least_float32()))

    def forward(
        self, x: Tensor, q_latent: Tensor, step: Step
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        state = step.state(self.layer)
        both = torch.cat([self.kv_proj(x), self.gate_proj(x)], -1)                  # [B, S, 2048]
        recent = recall(both, state.compressor_tokens, step.time)                   # [B, 7+S, 2048]
        tokens, exists = groups(recent, step.time, every=4, overlap=True)   # [B, S//4, 8, 2048], [B, S//4, 8]
        kv, score = tokens.chunk(2, -1)                                             # [B, S//4, 8, 1024]
        entry = group_pool(kv, score, exists, self.position_bias, overlap=True)     # [B, S//4, 512]
        entry = kv_norm_rotate(entry, step.rope_per_4_tokens, self.kv_norm.weight)  # [B, S//4, 512]
        entries = append(entry, state.compressor_entries, step.time, every=4)       # [B, T//4, 512]
        # [B, S, min(512, T//4)], [B, S, 64, 128], [B, T//4, 128], [B, S, 64]
        picks, index_q, index_keys, index_weights = self.indexer(x.detach(), q_latent.detach(), step)
        return entries, picks, index_q, index_keys, index_weights


class CsaAttention(nn.Module):
    """A query attends to the last 128 tokens, compressed entries and a sink in one softmax; the one key-value
    head's keys are their own values (DeepSeek-V4, arXiv:2606.19348, section 2.3).

    Queries are made of 1024 channels and normed head by head. Outputs are turned back by the query's
    position, for values carry theirs; 8 groups of heads are projected out through 1024 channels each.
    """

    keeps = {"window": Ring(keep=127, shape=(512,), packing=Fp8Keys(plain=64))}

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.q_a_proj = Linear(4096, 1024)
        self.q_a_norm = RMSNorm(1024, eps=1e-06)
        self.q_b_proj = Linear(1024, 32768)
        self.kv_proj = Linear(4096, 512)
        self.kv_norm = RMSNorm(512, eps=1e-06)
        self.compressor = CsaCompressor(layer)
        self.o_a_proj = Linear(4096, 8192)
        self.o_b_proj = Linear(8192, 4096)
        self.sinks = nn.Parameter(torch.zeros(64, dtype=at_least_float32()))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        q_latent = self.q_a_norm(self.q_a_proj(x))                                      # [B, S, 1024]
        q = self.q_b_proj(q_latent).unflatten(-1, (64, 512))                            # [B, S, 64, 512]
        q = q_norm_rotate(q, step.rope_yarn)                                            # [B, S, 64, 512]
        kv = kv_norm_rotate(self.kv_proj(x), step.rope_yarn, self.kv_norm.weight)       # [B, S, 512]
        recent = recall(kv, state.window, step.time)                                    # [B, 127+S, 512]
        # [B, T//4, 512], [B, S, min(512, T//4)], [B, S, 64, 128], [B, T//4, 128], [B, S, 64]
        entries, picks, index_q, index_keys, index_weights = self.compressor(x, q_latent, step)
        y, lse = sparse_attention_lse(                                           # [B, S, 64, 512], [B, S, 64]
            q, recent, self.sinks, step.time, scale=0.04419417382415922, window=128, entries=entries,
            picks=picks, every=4, wanted=step.wants("index")
        )
        step.add_loss(
            "index", index_divergence, index_q, index_keys, index_weights, q, entries, lse, step.time,
            weight=1.0, scale=0.04419417382415922, picks=picks, every=4
        )
        out = rotate(y, step.rope_yarn, pairs="interleaved", end="last", inverse=True)  # [B, S, 64, 512]
        out = out.flatten(-2).unflatten(-1, (8, 4096))                                  # [B, S, 8, 4096]
        weight = self.o_a_proj.weight.unflatten(0, (8, -1))                             # [8, 1024, 4096]
        out = einsum("bsgi,goi->bsgo", out, weight)                                     # [B, S, 8, 1024]
        return self.o_b_proj(out.flatten(-2))                                           # [B, S, 4096]


class HcaCompressor(nn.Module):
    """Every 128 tokens make one entry, pooled channel by channel with a learned softmax; a token attends to
    all it sees (DeepSeek-V4, arXiv:2606.19348, section 2.3.2).
    """

    keeps = {
        "compressor_tokens": Ring(keep=127, shape=(1024,)),
        "compressor_entries": Table(every=128, shape=(512,), packing=Fp8Keys(plain=64)),
    }

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.kv_proj = Linear(4096, 512)
        self.gate_proj = Linear(4096, 512)
        self.kv_norm = RMSNorm(512, eps=1e-06)
        self.position_bias = nn.Parameter(torch.zeros(128, 512, dtype=at_least_float32()))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        both = torch.cat([self.kv_proj(x), self.gate_proj(x)], -1)                    # [B, S, 1024]
        recent = recall(both, state.compressor_tokens, step.time)                     # [B, 127+S, 1024]
        tokens, exists = groups(recent, step.time, every=128)       # [B, S//128, 128, 1024], [B, S//128, 128]
        kv, score = tokens.chunk(2, -1)                                               # [B, S//128, 128, 512]
        entry = group_pool(kv, score, exists, self.position_bias)                     # [B, S//128, 512]
        entry = kv_norm_rotate(entry, step.rope_per_128_tokens, self.kv_norm.weight)  # [B, S//128, 512]
        return append(entry, state.compressor_entries, step.time, every=128)          # [B, T//128, 512]


class HcaAttention(nn.Module):
    """A query attends to the last 128 tokens, compressed entries and a sink in one softmax; the one key-value
    head's keys are their own values (DeepSeek-V4, arXiv:2606.19348, section 2.3).

    Queries are made of 1024 channels and normed head by head. Outputs are turned back by the query's
    position, for values carry theirs; 8 groups of heads are projected out through 1024 channels each.
    """

    keeps = {"window": Ring(keep=127, shape=(512,), packing=Fp8Keys(plain=64))}

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.q_a_proj = Linear(4096, 1024)
        self.q_a_norm = RMSNorm(1024, eps=1e-06)
        self.q_b_proj = Linear(1024, 32768)
        self.kv_proj = Linear(4096, 512)
        self.kv_norm = RMSNorm(512, eps=1e-06)
        self.compressor = HcaCompressor(layer)
        self.o_a_proj = Linear(4096, 8192)
        self.o_b_proj = Linear(8192, 4096)
        self.sinks = nn.Parameter(torch.zeros(64, dtype=at_least_float32()))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        q_latent = self.q_a_norm(self.q_a_proj(x))                                      # [B, S, 1024]
        q = self.q_b_proj(q_latent).unflatten(-1, (64, 512))                            # [B, S, 64, 512]
        q = q_norm_rotate(q, step.rope_yarn)                                            # [B, S, 64, 512]
        kv = kv_norm_rotate(self.kv_proj(x), step.rope_yarn, self.kv_norm.weight)       # [B, S, 512]
        recent = recall(kv, state.window, step.time)                                    # [B, 127+S, 512]
        entries = self.compressor(x, step)                                              # [B, T//128, 512]
        y = sparse_attention(                                                           # [B, S, 64, 512]
            q, recent, self.sinks, step.time, scale=0.04419417382415922, window=128, entries=entries,
            every=128
        )
        out = rotate(y, step.rope_yarn, pairs="interleaved", end="last", inverse=True)  # [B, S, 64, 512]
        out = out.flatten(-2).unflatten(-1, (8, 4096))                                  # [B, S, 8, 4096]
        weight = self.o_a_proj.weight.unflatten(0, (8, -1))                             # [8, 1024, 4096]
        out = einsum("bsgi,goi->bsgo", out, weight)                                     # [B, S, 8, 1024]
        return self.o_b_proj(out.flatten(-2))                                           # [B, S, 4096]


class SqrtSoftplusRouter(nn.Module):
    """Experts chosen by sqrt(softplus(logit)) plus a bias, weighed without the bias (DeepSeek-V4,
    arXiv:2606.19348).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = normal(256, 4096)
        self.e_score_correction_bias = nn.Buffer(torch.zeros(256, dtype=at_least_float32()))

    def forward(self, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        logits = F.linear(upcast(x), upcast(self.weight))                           # [B, S, 256]
        scores, biased = scores_softplus_add(logits, self.e_score_correction_bias)  # [B, S, 256]
        ids = topk_lowest(biased, 6)                                                # [B, S, 6]
        weights = scores.gather(-1, ids)                                            # [B, S, 6]
        weights = weights_normalize_scale(weights)                                  # [B, S, 6]
        step.count_loads(self.e_score_correction_bias, ids, rate=0.001)
        step.add_loss("balance", sequence_balance, scores, ids, step.time, weight=0.0001)
        return ids, weights


class Moe(nn.Module):
    """A router gives each token a few of many gated feed-forwards (DeepSeekMoE, arXiv:2401.06066)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = SqrtSoftplusRouter()
        self.experts = Experts()
        self.shared_experts = SharedExperts()

    def forward(self, x: Tensor, step: Step) -> Tensor:
        ids, weights = self.gate(x, step)       # [B, S, 6]
        routed = self.experts(x, ids, weights)  # [B, S, 4096]
        shared = self.shared_experts(x)         # [B, S, 4096]
        return routed + shared                  # [B, S, 4096]


class Layer(nn.Module):
    """Attention and feed-forward around the residual stream: what enters a sub-layer is normed (Xiong et al.
    2020, arXiv:2002.04745).
    """

    sub_layers = ("self_attn", "mlp")

    def __init__(self, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attn_hc = HyperConnection()
        self.input_layernorm = RMSNorm(4096, eps=1e-06)
        self.self_attn = self_attn
        self.ffn_hc = HyperConnection()
        self.post_attention_layernorm = RMSNorm(4096, eps=1e-06)
        self.mlp = mlp

    def forward(self, streams: Tensor, step: Step) -> Tensor:
        post, comb, h = sinkhorn_collapse_norm(                        # [B, S, 4], [B, S, 4, 4], [B, S, 4096]
            streams, self.attn_hc.fn, self.attn_hc.base, self.attn_hc.scale, self.input_layernorm.weight
        )
        y = self.self_attn(h, step)                                           # [B, S, 4096]
        # [B, S, 4, 4096], [B, S, 4], [B, S, 4, 4], [B, S, 4096]
        streams, post, comb, h = mix_sinkhorn_collapse_norm(
            streams, y, comb, post, self.ffn_hc.fn, self.ffn_hc.base, self.ffn_hc.scale,
            self.post_attention_layernorm.weight
        )
        y = self.mlp(h, step)                                                 # [B, S, 4096]
        return mix(upcast(streams), comb, upcast(y), post).to(streams.dtype)  # [B, S, 4, 4096]


class HyperHead(nn.Module):
    """The streams collapsed at the end of the model (mHC, arXiv:2512.24880, in the form of DeepSeek-V4).

    It holds parameters, which the module around it hands to a function that computes this and more at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hc_fn = normal(4, 16384, dtype=at_least_float32())
        self.hc_scale = nn.Parameter(torch.ones(1, dtype=at_least_float32()))
        self.hc_base = nn.Parameter(torch.zeros(4, dtype=at_least_float32()))


class Backbone(nn.Module):
    """The embedding, 43 layers and the final norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = Embedding(129280, 4096)
        self.layers = nn.ModuleList(
            [
                Layer(SwaAttention(0), HashMoe()),
                Layer(SwaAttention(1), HashMoe()),
                Layer(CsaAttention(2), HashMoe()),
                *(
                    layer
                    for i in range(3, 43, 2)
                    for layer in (Layer(HcaAttention(i), Moe()), Layer(CsaAttention(i + 1), Moe()))
                ),
            ]
        )
        self.hc_head = HyperHead()
        self.norm = RMSNorm(4096, eps=1e-06)

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        x = self.embed_tokens(step.tokens)               # [B, S, 4096]
        streams = x.unsqueeze(-2).expand(-1, -1, 4, -1)  # [B, S, 4, 4096]
        for layer in step.regions(self.layers):
            step.record(streams)
            streams = layer(streams, step)
        x = final_collapse_norm(                         # [B, S, 4096]
            streams, self.hc_head.hc_fn, self.hc_head.hc_scale, self.hc_head.hc_base, self.norm.weight
        )
        step.record(x)
        return x, streams


class MtpStreams(nn.Module):
    """A layer on the residual streams so far, each joined by the token ahead (DeepSeek-V4, arXiv:2606.19348).
    """

    sub_layers = ("self_attn", "mlp")

    def __init__(self, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.enorm = RMSNorm(4096, eps=1e-06)
        self.e_proj = Linear(4096, 4096)
        self.hnorm = RMSNorm(4096, eps=1e-06)
        self.h_proj = Linear(4096, 4096)
        self.attn_hc = HyperConnection()
        self.input_layernorm = RMSNorm(4096, eps=1e-06)
        self.self_attn = self_attn
        self.ffn_hc = HyperConnection()
        self.post_attention_layernorm = RMSNorm(4096, eps=1e-06)
        self.mlp = mlp
        self.hc_head = HyperHead()
        self.norm = RMSNorm(4096, eps=1e-06)

    def forward(self, embedding: Tensor, streams: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        x = self.e_proj(self.enorm(embedding))                      # [B, S, 4096]
        before = self.h_proj(self.hnorm(streams))                   # [B, S, 4, 4096]
        # [B, S, 4, 4096], [B, S, 4], [B, S, 4, 4], [B, S, 4096]
        streams, post, comb, h = ahead_add_sinkhorn_collapse_norm(
            x, before, self.attn_hc.fn, self.attn_hc.base, self.attn_hc.scale, self.input_layernorm.weight
        )
        y = self.self_attn(h, step)                                 # [B, S, 4096]
        # [B, S, 4, 4096], [B, S, 4], [B, S, 4, 4], [B, S, 4096]
        streams, post, comb, h = mix_sinkhorn_collapse_norm(
            streams, y, comb, post, self.ffn_hc.fn, self.ffn_hc.base, self.ffn_hc.scale,
            self.post_attention_layernorm.weight
        )
        y = self.mlp(h, step)                                       # [B, S, 4096]
        streams, x = ahead_mix_collapse_norm(                       # [B, S, 4, 4096], [B, S, 4096]
            streams, y, comb, post, self.hc_head.hc_fn, self.hc_head.hc_scale, self.hc_head.hc_base,
            self.norm.weight
        )
        return x, streams


class Model(MtpLanguageModel):
    """DeepSeek-V4-Flash: window attention, then CSA and HCA in turn; residual streams mixed by mHC; three
    layers of experts chosen by hash, then by affinity.

    Hyper-parameters: deepseek-ai/DeepSeek-V4-Flash config.json; DeepSeek-AI 2026, arXiv:2606.19348.
    """

    vocab = 129280
    dim = 4096
    context = 1048576
    streams = 4
    cache_layout = "bf16"
    has_indexers = True
    mtp_weight = 0.3

    def __init__(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32,
        mtp: bool = True, recompute: str = "none"
    ) -> None:
        super().__init__(recompute)
        with building(device, dtype):
            self.model = Backbone()
            self.lm_head = Linear(4096, 129280)
            self.mtp = nn.ModuleList([MtpStreams(SwaAttention(0), Moe())] if mtp else [])

    def step(self, tokens: Tensor, time: Time, cache: Cache | None) -> Step:
        return Step(
            tokens=tokens,
            time=time,
            cache=cache,
            rope=rope_angles(time.positions, dim=64, theta=10000.0),
            rope_yarn=rope_angles(
                time.positions, dim=64, theta=160000.0, scaling="yarn", factor=16.0, original=65536,
                beta_fast=32.0, beta_slow=1.0
            ),
            rope_per_4_tokens=rope_angles(
                group_positions(time, every=4), dim=64, theta=160000.0, scaling="yarn", factor=16.0,
                original=65536, beta_fast=32.0, beta_slow=1.0
            ),
            rope_per_128_tokens=rope_angles(
                group_positions(time, every=128), dim=64, theta=160000.0, scaling="yarn", factor=16.0,
                original=65536, beta_fast=32.0, beta_slow=1.0
            ),
        )

    def hidden(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.model(step)  # [B, S, 4096], [B, S, 4, 4096]

    def head(self, x: Tensor) -> Tensor:
        return self.lm_head(x)  # [B, S, 129280]

    def ahead(self, depth: int, streams: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        embedding = self.model.embed_tokens(step.tokens)               # [B, S, 4096]
        return step.region(self.mtp[depth])(embedding, streams, step)  # [B, S, 4096], [B, S, 4, 4096]
