"""The printed hyper-connections against transformers' DeepSeek-V4, for any number of streams, sub-layers replaced by
known functions.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import archc
from tests.built import built

DIM = 12

SPEC = """arch 1
model streams {{
  vocab    = 16
  dim      = {dim}
  layers   = 1
  context  = 64
  residual = mhc {{ streams = {streams}, sinkhorn_iters = {iters}, hc_eps = {hc_eps}, norm_eps = {norm_eps} }}
  norm     = rms {{ eps = {norm_eps} }}
  attention = gqa {{ heads = 2, kv_heads = 1, head_dim = 6, rope = rope }}
  ffn = swiglu {{ hidden = 16 }}
}}
"""


class Twice(nn.Module):
    """A sub-layer that mixes channels and nothing else; attention of transformers gives a pair."""

    def __init__(self, *, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: Tensor, *step: Any, **named: Any) -> Any:
        y = 2 * x.roll(1, -1) + x.square()
        return (y, None) if self.pair else y


class Pair:
    """Our layer and head and theirs, with one set of weights that makes the mixing lopsided."""

    def __init__(
        self, streams: int, folder: Any, iters: int = 20, hc_eps: float = 1e-6, norm_eps: float = 1e-6
    ) -> None:
        from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
        from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4DecoderLayer, DeepseekV4HyperHead

        config = DeepseekV4Config(
            hidden_size=DIM,
            num_hidden_layers=1,
            layer_types=["sliding_attention"],
            hc_mult=streams,
            hc_sinkhorn_iters=iters,
            hc_eps=hc_eps,
            rms_norm_eps=norm_eps,
            n_routed_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=4,
        )
        spec = folder / "streams.arch"
        spec.write_text(SPEC.format(dim=DIM, streams=streams, iters=iters, hc_eps=hc_eps, norm_eps=norm_eps))
        printed: ModuleType = built(archc.load(spec), folder)
        net = printed.Model(dtype=torch.float64)
        self.layer, self.head = net.model.layers[0], net.model.hc_head
        self.theirs, self.their_head = DeepseekV4DecoderLayer(config, 0), DeepseekV4HyperHead(config)
        self.layer.self_attn, self.layer.mlp = Twice(pair=False), Twice(pair=False)
        self.theirs.self_attn, self.theirs.mlp = Twice(pair=True), Twice(pair=False)
        draw = torch.Generator().manual_seed(streams)
        for ours, theirs in ((self.layer, self.theirs), (self.head, self.their_head)):
            state = {
                name: torch.randn(p.shape, generator=draw, dtype=torch.float64) * (0.5 if p.dim() > 1 else 1.0)
                for name, p in ours.named_parameters()
            }
            ours.load_state_dict(state)
            theirs.float().load_state_dict(state)
        self.x = torch.randn(2, 7, streams, DIM, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 5, 8])
def test_a_layer_and_the_collapse(streams: int, tmp_path: Any) -> None:
    pair = Pair(streams, tmp_path)
    x = pair.x.requires_grad_()
    their_x = pair.x.detach().float().requires_grad_()
    out, theirs = pair.layer(x, None), pair.theirs(their_x)
    assert out.shape == (2, 7, streams, DIM)
    close(theirs, out)
    close(pair.their_head(theirs), pair.head(out))
    comb = pair.layer.attn_hc(x)[2]
    if streams > 2:  # a transposed mixing would be seen; a doubly stochastic matrix of two streams is symmetric
        assert (torch.einsum("bsjk,bsjd->bskd", comb - comb.mT, x)).abs().max() > 0.3
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (out * pull).sum().backward()
    (theirs * pull.float()).sum().backward()
    assert x.grad is not None and their_x.grad is not None
    close(their_x.grad, x.grad)
    theirs_named = dict(pair.theirs.named_parameters())
    for name, p in pair.layer.named_parameters():
        grad = theirs_named[name].grad
        assert p.grad is not None and grad is not None, name
        close(grad, p.grad, largest=max(1.0, float(p.grad.abs().max())))


@pytest.mark.parametrize(("iters", "hc_eps", "norm_eps"), [(1, 1e-6, 1e-6), (2, 1e-2, 1e-6), (20, 1e-2, 1e-2)])
def test_every_eps_stands_where_theirs_does(iters: int, hc_eps: float, norm_eps: float, tmp_path: Any) -> None:
    """Large ones, one at a time: what reads and mixes has them, what writes has none."""
    pair = Pair(3, tmp_path, iters=iters, hc_eps=hc_eps, norm_eps=norm_eps)
    with torch.no_grad():
        x, post, comb = pair.layer.attn_hc(pair.x)
        their_post, their_comb, their_x = pair.theirs.attn_hc(pair.x.float())
        for ours, theirs in ((x, their_x), (post, their_post), (comb, their_comb)):
            close(theirs, ours)
        close(pair.their_head(pair.x.float()), pair.head(pair.x))


def test_a_bfloat16_layer_computes_its_weights_in_float32(tmp_path: Any) -> None:
    pair = Pair(4, tmp_path)
    x = pair.x.bfloat16()
    pair.layer.attn_hc.float()
    with torch.no_grad():
        got, post, comb = pair.layer.attn_hc(x)
        their_post, their_comb, their_x = pair.theirs.attn_hc(x.float())
        assert (got.dtype, post.dtype, comb.dtype) == (torch.bfloat16, torch.float32, torch.float32)
        close(their_post, post.double())
        close(their_comb, comb.double())
        assert ((got - their_x).abs() <= 2**-8 * their_x.abs() + 1e-6).all()  # rounded once, at the end


def close(theirs: Tensor, ours: Tensor, largest: float | None = None) -> None:
    """Theirs in float32 equals ours in float64 to 2e-5 of the largest."""
    limit = 2e-5 * (largest or max(1.0, float(ours.detach().abs().max())))
    assert theirs.shape == ours.shape
    assert (theirs.double() - ours).abs().max() < limit
