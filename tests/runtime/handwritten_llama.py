"""A small Llama, written by hand the way a build prints one: every layer attends to everything, or to a window.

Sizes stand here by name, so that tests can load the file with others; a build prints them as literals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .kernels.attend import attend
from .kernels.rope_angles import rope_angles
from .kernels.rotate import rotate
from .kernels.state import Ring, Table, append, recall
from .kernels.swiglu import swiglu
from .runtime.cache import Cache
from .runtime.model import LanguageModel
from .runtime.modules import Embedding, Linear, RMSNorm, building
from .runtime.step import StepBase
from .runtime.time import Time

VOCAB, DIM, HIDDEN = 131, 36, 50
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 10
WINDOW = 7
LAYERS = "full full"
THETA, EPS = 10000.0, 1e-05


@dataclass(kw_only=True)
class Step(StepBase):
    """What every layer may read, computed once per forward."""

    rope: Tensor  # [B, S, 5, 2]


class GqaAttention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245)."""

    keeps = {
        "keys": Table(every=1, shape=(KV_HEADS, HEAD_DIM)),
        "values": Table(every=1, shape=(KV_HEADS, HEAD_DIM)),
    }

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.q_proj = Linear(DIM, HEADS * HEAD_DIM)
        self.k_proj = Linear(DIM, KV_HEADS * HEAD_DIM)
        self.v_proj = Linear(DIM, KV_HEADS * HEAD_DIM)
        self.o_proj = Linear(HEADS * HEAD_DIM, DIM)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        q = self.q_proj(x).unflatten(-1, (HEADS, HEAD_DIM))  # [B, S, 6, 10]
        k = self.k_proj(x).unflatten(-1, (KV_HEADS, HEAD_DIM))  # [B, S, 2, 10]
        v = self.v_proj(x).unflatten(-1, (KV_HEADS, HEAD_DIM))  # [B, S, 2, 10]
        q = rotate(q, step.rope)  # [B, S, 6, 10]
        k = rotate(k, step.rope)  # [B, S, 2, 10]
        keys = append(k, state.keys, step.time)  # [B, T, 2, 10]
        values = append(v, state.values, step.time)  # [B, T, 2, 10]
        out = attend(q, keys, values, step.time, scale=HEAD_DIM**-0.5)  # [B, S, 6, 10]
        return self.o_proj(out.flatten(-2))  # [B, S, 36]


class SwaAttention(nn.Module):
    """Grouped-query attention over a sliding window, with one sink per head (arXiv:2309.17453) if `sinks`."""

    keeps = {
        "keys": Ring(keep=WINDOW - 1, shape=(KV_HEADS, HEAD_DIM)),
        "values": Ring(keep=WINDOW - 1, shape=(KV_HEADS, HEAD_DIM)),
    }

    def __init__(self, layer: int, sinks: bool) -> None:
        super().__init__()
        self.layer = layer
        self.q_proj = Linear(DIM, HEADS * HEAD_DIM)
        self.k_proj = Linear(DIM, KV_HEADS * HEAD_DIM)
        self.v_proj = Linear(DIM, KV_HEADS * HEAD_DIM)
        self.o_proj = Linear(HEADS * HEAD_DIM, DIM)
        self.sinks = nn.Parameter(torch.zeros(HEADS)) if sinks else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        state = step.state(self.layer)
        q = self.q_proj(x).unflatten(-1, (HEADS, HEAD_DIM))  # [B, S, 6, 10]
        k = self.k_proj(x).unflatten(-1, (KV_HEADS, HEAD_DIM))  # [B, S, 2, 10]
        v = self.v_proj(x).unflatten(-1, (KV_HEADS, HEAD_DIM))  # [B, S, 2, 10]
        q = rotate(q, step.rope)  # [B, S, 6, 10]
        k = rotate(k, step.rope)  # [B, S, 2, 10]
        keys = recall(k, state.keys, step.time)  # [B, 6+S, 2, 10]
        values = recall(v, state.values, step.time)  # [B, 6+S, 2, 10]
        out = attend(q, keys, values, step.time, scale=HEAD_DIM**-0.5, window=WINDOW, sinks=self.sinks)
        return self.o_proj(out.flatten(-2))  # [B, S, 36]


class SwigluMlp(nn.Module):
    """Gated feed-forward (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = Linear(DIM, HIDDEN)
        self.up_proj = Linear(DIM, HIDDEN)
        self.down_proj = Linear(HIDDEN, DIM)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))  # [B, S, 36]


class Layer(nn.Module):
    """Attention and feed-forward, each added to the stream."""

    def __init__(self, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(DIM, eps=EPS)
        self.self_attn = self_attn
        self.post_attention_layernorm = RMSNorm(DIM, eps=EPS)
        self.mlp = mlp

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), step)  # [B, S, 36]
        return x + self.mlp(self.post_attention_layernorm(x), step)  # [B, S, 36]


def _attention(layer: int, kind: str) -> nn.Module:
    return GqaAttention(layer) if kind == "full" else SwaAttention(layer, sinks=kind == "sinks")


class Backbone(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList(Layer(_attention(i, kind), SwigluMlp()) for i, kind in enumerate(LAYERS.split()))
        self.norm = RMSNorm(DIM, eps=EPS)

    def forward(self, step: Step) -> Tensor:
        x = self.embed_tokens(step.tokens)  # [B, S, 36]
        for layer in self.layers:
            step.record(x)
            x = layer(x, step)
        x = self.norm(x)  # [B, S, 36]
        step.record(x)
        return x


class Model(LanguageModel):
    """A Llama for language modelling."""

    cache_layout = "fp32"

    def __init__(self, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with building(device, dtype):
            self.model = Backbone()
            self.lm_head = Linear(DIM, VOCAB)

    def step(self, tokens: Tensor, time: Time, cache: Cache | None) -> Step:
        rope = rope_angles(time.positions, dim=HEAD_DIM, theta=THETA)  # [B, S, 5, 2]
        return Step(tokens=tokens, time=time, cache=cache, rope=rope)

    def hidden(self, step: Step) -> Tensor:
        return self.model(step)  # [B, S, 36]

    def head(self, x: Tensor) -> Tensor:
        return self.lm_head(x)  # [B, S, 131]
