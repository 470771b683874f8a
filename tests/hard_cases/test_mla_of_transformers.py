"""Multi-head latent attention is that of transformers' DeepSeek-V2 and V3, gradients included, in float64.

The reference takes angles as an argument: it gets exact ones, as ours are; what it says of frequencies and of the scale
is compared first.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.drawers.attention.mla import Mla
from archc.drawers.norm.rms import Rms
from archc.drawers.rope.rope import Rope
from archc.drawers.rope.yarn import Yarn
from tests.hard_cases.harness import Case, build
from tests.oracles import rope as oracle

VOCAB, TOKENS, THETA = 40, 21, 900.0
YARN = {"factor": 4.0, "original": 8}

SIZES: dict[str, dict[str, Any]] = {
    "odd": {"heads": 3, "q_rank": 5, "kv_rank": 7, "nope": 3, "rope": 2, "v": 5},
    "bias": {"heads": 2, "q_rank": 9, "kv_rank": 4, "nope": 5, "rope": 4, "v": 3, "bias": True},
    "no_q_rank": {"heads": 2, "q_rank": None, "kv_rank": 6, "nope": 4, "rope": 6, "v": 11},
}
ROPES: dict[str, dict[str, float] | None] = {
    "plain": None,
    "yarn": {},
    "v3": {"mscale": 1.0, "mscale_all_dim": 1.0},
    "unequal": {"mscale": 0.5, "mscale_all_dim": 0.9},
    "all_dim_alone": {"mscale_all_dim": 0.7},
    "mscale_alone": {"mscale": 0.7},
}


class _Wide:
    """`torch` with float64 under the name of float32: what the reference upcasts stays in float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class Pair:
    """One attention of transformers and ours, with the same weights and inputs."""

    def __init__(self, family: str, sizes: dict[str, Any], scales: dict[str, float] | None) -> None:
        self.modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        self.prefix = {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}[family]
        self.sizes, self.dim = sizes, 2 * sizes["heads"]
        self.config = self._config(family, scales)
        self.reference = getattr(self.modeling, f"{self.prefix}Attention")(self.config, 0).double().eval()
        pairs = {"theta": THETA, "pairs": "interleaved"}
        rope: Any = Rope(**pairs) if scales is None else Yarn(**pairs, **YARN, **scales)  # type: ignore[arg-type]
        self.drawer = Mla(
            dim=self.dim,
            heads=sizes["heads"],
            q_rank=sizes["q_rank"],
            kv_rank=sizes["kv_rank"],
            nope_dim=sizes["nope"],
            rope_dim=sizes["rope"],
            v_dim=sizes["v"],
            rope=rope,
            latent_norm=Rms(),
            bias=sizes.get("bias", False),
        )
        graph = build(
            lambda g, x: g.call("self_attn", "Mla", self.drawer.build, x, slot=True), dim=self.dim, vocab=VOCAB
        )
        self.case = Case.random(graph, seed=1)

    def _config(self, family: str, scales: dict[str, float] | None) -> Any:
        stretched = {"factor": YARN["factor"], "original_max_position_embeddings": YARN["original"], **(scales or {})}
        kind = {"rope_type": "default"} if scales is None else {"rope_type": "yarn", **stretched}
        package = importlib.import_module(f"transformers.models.{family}")
        return getattr(package, f"{self.prefix}Config")(
            hidden_size=self.dim,
            num_attention_heads=self.sizes["heads"],
            num_key_value_heads=self.sizes["heads"],
            q_lora_rank=self.sizes["q_rank"],
            kv_lora_rank=self.sizes["kv_rank"],
            qk_nope_head_dim=self.sizes["nope"],
            qk_rope_head_dim=self.sizes["rope"],
            v_head_dim=self.sizes["v"],
            attention_bias=self.sizes.get("bias", False),
            rope_parameters={**kind, "rope_theta": THETA},
            attn_implementation="eager",
        )

    def angles(self) -> tuple[Tensor, float]:
        """Angles [S, rope / 2] in float64, and the reference's factor on cosines and sines."""
        theirs = getattr(self.modeling, f"{self.prefix}RotaryEmbedding")(self.config)
        settings: dict[str, Any] = YARN if isinstance(self.drawer.rope, Yarn) else {}
        exact = oracle.Rope(dim=self.sizes["rope"], theta=THETA, **settings)
        frequencies = torch.tensor([exact.frequency(i) for i in range(self.sizes["rope"] // 2)], dtype=torch.float64)
        torch.testing.assert_close(theirs.inv_freq.double(), frequencies, rtol=1e-6, atol=0)
        return torch.arange(TOKENS, dtype=torch.float64)[:, None] * frequencies, theirs.attention_scaling

    def run_reference(self, x: Tensor) -> Tensor:
        angles, factor = self.angles()
        if self.prefix == "DeepseekV2":
            where: Any = torch.polar(torch.full_like(angles, factor), angles)[None]
        else:
            both = torch.cat([angles, angles], -1)[None]
            where = both.cos() * factor, both.sin() * factor
        mask = torch.full((TOKENS, TOKENS), float("-inf"), dtype=torch.float64).triu(1)[None, None]
        return self.reference(hidden_states=x, position_embeddings=where, attention_mask=mask)[0]


@pytest.mark.parametrize("scales", ROPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_outputs_and_gradients(family: str, sizes: str, scales: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(family, SIZES[sizes], ROPES[scales])
    assert pair.drawer.scale == pytest.approx(pair.reference.scaling, rel=1e-14)
    monkeypatch.setattr(pair.modeling, "torch", _Wide())
    # V2 rotates in what `float` gives: a copy, as from float64 to float32
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x.clone(memory_format=torch.contiguous_format))
    prefix = "model.layers.0.self_attn."
    ours = {n: p.clone().requires_grad_() for n, p in pair.case.parameters.items()}
    theirs = dict(pair.reference.named_parameters())
    assert {prefix + n: p.shape for n, p in theirs.items()} == {
        n: p.shape for n, p in ours.items() if n.startswith(prefix)
    }
    with torch.no_grad():
        for name, p in theirs.items():
            p.copy_(ours[prefix + name])
    tokens = torch.randint(VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(2))
    x = ours["model.embed.weight"].detach()[tokens].requires_grad_()

    want = pair.run_reference(x)
    got = Case(pair.case.graph, ours).run(tokens)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)

    pull = torch.randn(want.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for out in (want, got):
        (out * pull).sum().backward()
    for name, p in theirs.items():
        torch.testing.assert_close(ours[prefix + name].grad, p.grad, rtol=1e-9, atol=1e-10)
    assert x.grad is not None
    into = torch.zeros_like(ours["model.embed.weight"]).index_put_((tokens,), x.grad, accumulate=True)
    torch.testing.assert_close(ours["model.embed.weight"].grad, into, rtol=1e-9, atol=1e-10)
