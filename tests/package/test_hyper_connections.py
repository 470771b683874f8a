"""What hyper-connections start as: a plain residual connection, whose sub-layers read the streams in turn
(arXiv:2409.19606, section 2.3).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archc.resolve import load_text
from tests.built import built

SPEC = """arch 1
model start {{
  vocab = 40, dim = 24, layers = 3, context = 64, residual = {residual}
  attention = gqa {{ heads = 3, kv_heads = 1, head_dim = 8, rope = rope }}
  ffn = swiglu {{ hidden = 30 }}
}}
"""
KINDS = pytest.mark.parametrize("fields", ["", "dynamic = false", "streams = 1", "streams = 8"])


@KINDS
def test_they_start_as_a_plain_residual_connection(fields: str, tmp_path: Path) -> None:
    """The streams stay copies, and their sum is normed: the logits are those of x + F(x), and so are the gradients."""
    plain, mixed = (
        built(load_text(SPEC.format(residual=residual))[0], tmp_path / name).Model(dtype=torch.float64)
        for name, residual in (("plain", "add"), ("mixed", f"hc {{ {fields} }}"))
    )
    for model in (plain, mixed):
        model.model.embed_tokens.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    mixed.load_state_dict(plain.state_dict(), strict=False)
    ids = torch.randint(40, (2, 17), generator=torch.Generator().manual_seed(1))
    got, want = mixed(ids, labels=ids), plain(ids, labels=ids)
    torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-6)  # but for eps of the last norm
    for model, out in ((plain, want), (mixed, got)):
        out.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    mine = dict(mixed.named_parameters())
    for name, p in plain.named_parameters():
        torch.testing.assert_close(mine[name].grad, p.grad, rtol=1e-4, atol=1e-7)


@KINDS
def test_sub_layers_read_the_streams_in_turn(fields: str, tmp_path: Path) -> None:
    model = built(load_text(SPEC.format(residual=f"hc {{ {fields} }}"))[0], tmp_path).Model()
    read = [hc.pre.argmax().item() for layer in model.model.layers for hc in (layer.attn_hc, layer.ffn_hc)]
    n = model.streams
    assert read == [k % n for k in range(6)]
    for name, p in model.named_parameters():
        if "_hc." in name:
            want = {
                "pre": torch.nn.functional.one_hot(p.argmax(), n),
                "post": torch.ones(n),
                "comb": torch.eye(n),
                "fn": torch.zeros_like(p),
                "scale": torch.full((2,), 0.01),
            }[name.rpartition(".")[2]]
            assert torch.equal(p.detach(), want.to(p.dtype)), name
