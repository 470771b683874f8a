"""Modules that predict further tokens from residual streams against their transcription: with streams mixed by every
kind of hyper-connections and with the one stream of a plain residual connection, under every attention of DeepSeek-V4;
and their drafts leave no trace in the library's models.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch

import archc
from archc.graph.torch_package import torch_package
from archc.graph.verify import verify
from archc.plan import plan, shrink
from archc.resolve import load_text
from tests.built import built, randomise
from tests.oracles.csa import Csa
from tests.oracles.hc import Hc
from tests.oracles.mhc import Mhc, SinglePassMhc
from tests.oracles.mtp import MtpStreams
from tests.oracles.rope import Rope
from tests.oracles.rows import Weights, swiglu_mlp

torch_package()
from archc_package.runtime.model import time_of  # noqa: E402
from archc_package.runtime.rows import Rows  # noqa: E402

DEPTH, VOCAB, SPAN = 2, 31, 21
RESIDUALS = {
    "mhc { streams = 3, sinkhorn_iters = 7 }": Mhc(streams=3, iters=7),
    "add": None,
    "mhc { streams = 3, sinkhorn_iters = 7, form = single_pass }": SinglePassMhc(streams=3, iters=7),
    "hc { streams = 3 }": Hc(rate=3),
    "hc { streams = 3, dynamic = false }": Hc(rate=3, dynamic=False),
}
"""How a spec says it, and its transcription."""

SIZES: dict[str, Any] = {"heads": 4, "head_dim": 10, "window": 5, "out_groups": 2, "rope": Rope(dim=4, single=True)}
ATTENTIONS = {
    "swa": Csa(**SIZES),
    "csa": Csa(**SIZES, every=3, topk=2, index_heads=3, index_dim=8),
    "hca": Csa(**SIZES, every=6, overlap=False),
}
"""By their names in the spec."""

ANGLES = 1e-6
"""How far rounding of angles to float32, which is part of the packages' rope, may take a result of about one."""

SPEC = """arch 1
model further {
  vocab = %d, dim = 14, layers = 1, context = 64
  residual = %s
  attention swa = windowed {
    heads = 4, head_dim = 10, rope_dim = 4, q_rank = 9, out_groups = 2, out_rank = 6, window = 5
    rope = rope { pairs = interleaved }
  }
  attention csa = swa { compress = csa { ratio = 3, indexer = lightning { heads = 3, head_dim = 8, topk = 2 } } }
  attention hca = swa { compress = hca { ratio = 6 } }
  ffn = swiglu { hidden = 20 }
  mtp = mtp_streams { depth = %d, attention = %s }
  schedule { attention = [swa] }
}
"""


@cache
def model(residual: str, attention: str) -> Any:
    resolved, *_ = load_text(SPEC % (VOCAB, residual, DEPTH, attention))
    verify(plan(resolved))
    made = built(resolved, Path(mkdtemp())).Model(dtype=torch.float64)
    randomise(made, seed=5)
    return made.requires_grad_(False)


@pytest.mark.parametrize(
    ("residual", "attention"),
    [
        (residual, attention)
        for i, residual in enumerate(RESIDUALS)
        for attention in ATTENTIONS
        if i < 2 or attention == "swa"
    ],
)
def test_a_module_is_its_transcription(residual: str, attention: str) -> None:
    """Each depth for any streams before it: what the head gets, and what it hands on."""
    made = model(residual, attention)
    generator = torch.Generator().manual_seed(1)
    count = 1 if residual == "add" else 3
    for depth in range(DEPTH):
        ids = torch.randint(VOCAB, (1, SPAN), generator=generator)
        streams = torch.randn(1, SPAN, count, made.dim, dtype=torch.float64, generator=generator)
        got = made.ahead(depth, streams, made.step(ids, time_of(Rows.whole(ids), None, None), None))
        prefix = f"mtp.{depth}."
        weights = {n.removeprefix(prefix): p.numpy() for n, p in made.state_dict().items() if n.startswith(prefix)}
        mixer = partial(ATTENTIONS[attention].forward, below(weights, "self_attn."))
        mlp = partial(swiglu_rows, below(weights, "mlp."))
        want = MtpStreams(residual=RESIDUALS[residual]).forward(
            weights,
            made.model.embed_tokens.weight.numpy()[ids[0].numpy()],
            streams[0].numpy(),
            [("attn", "input_layernorm", mixer), ("ffn", "post_attention_layernorm", mlp)],
        )
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours[0].numpy(), theirs, rtol=0, atol=ANGLES)


def below(weights: Weights, prefix: str) -> Weights:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def swiglu_rows(weights: Weights, x: np.ndarray) -> np.ndarray:
    return np.stack([swiglu_mlp(weights, "", token) for token in x])


def test_streams_of_the_main_model_are_those_before_their_head() -> None:
    """The last hidden state is what its head and its norm make of them; recorded states are as without modules."""
    (residual, mhc) = next(iter(RESIDUALS.items()))
    made = model(residual, "csa")
    ids = torch.randint(VOCAB, (1, SPAN), generator=torch.Generator().manual_seed(2))
    _, x, streams = made.run(Rows.whole(ids), ids)
    states = made(ids, hidden_states=True).hidden_states
    assert [s.shape for s in states] == [(1, SPAN, 3, made.dim), (1, SPAN, made.dim)]
    assert torch.equal(states[-1], x)
    weights = {n.removeprefix("model."): p.numpy() for n, p in made.state_dict().items()}
    collapsed = np.stack([mhc.head(weights, token) for token in streams[0].numpy()])
    normed = collapsed / np.sqrt((collapsed**2).mean(-1, keepdims=True) + 1e-6) * weights["norm.weight"]
    np.testing.assert_allclose(x[0].numpy(), normed, rtol=0, atol=1e-12)


# --- the library's models ------------------------------------------------------------------------
@cache
def twin(name: str) -> Any:
    """The tiny twin of a model of the library, in float64, token tables filled."""
    small = shrink(archc.load(name))
    made = built(small, Path(mkdtemp())).Model(dtype=torch.float64)
    randomise(made)
    generator = torch.Generator().manual_seed(6)
    for key, table in made.named_buffers():
        if key.endswith("tid2eid"):
            experts = made.get_parameter(key.replace("tid2eid", "weight")).shape[0]
            ranks = torch.rand(len(table), experts, generator=generator).argsort(1)
            table.copy_(ranks[:, : table.shape[1]])
    return made.requires_grad_(False)


@pytest.mark.parametrize("name", ["deepseek_v4_flash", "deepseek_v4_pro"])
def test_drafts_leave_no_trace_in_the_twins(name: str) -> None:
    """Over rows of different lengths, padded, far enough that groups close and windows pass under the drafts."""
    made = twin(name)
    ids = torch.randint(made.vocab, (3, 40), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    mask[0, :9], mask[2, 29:] = 0, 0
    want = made.generate(ids, 12, attention_mask=mask)
    for drafts in (1, 4):
        assert torch.equal(made.generate(ids, 12, attention_mask=mask, speculate=drafts), want)
        assert made.last_generation.acceptance is not None


def test_a_model_that_was_taught_drafts_rightly() -> None:
    """A text with a period, learnt through streams: nearly every draft is right, and few passes are needed."""
    torch.manual_seed(0)
    text = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]).repeat(6)[None, :40]
    (residual, _) = next(iter(RESIDUALS.items()))
    made = type(model(residual, "csa"))()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        out = made(text, labels=text)
        out.loss.backward()
        optimizer.step()
    prompt = text[:, :16]
    assert torch.equal(made.generate(prompt, 24, speculate=3), text)
    assert made.last_generation.acceptance > 0.8
    assert made.last_generation.forwards <= 9
