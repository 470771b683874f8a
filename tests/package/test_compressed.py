"""Laws of packages whose attention compresses what it remembers: windows, CSA, HCA and all together, under mHC and with
experts chosen by hash; and ties between index scores, which one index head makes by the dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archc.resolve import load_text
from tests.built import built, randomise
from tests.laws import LAWS

VOCAB = 37
SWA = """
attention swa = windowed {
  heads = 3, head_dim = 7, rope_dim = 4, q_rank = 5, out_groups = 3, out_rank = 2, window = 5
  rope = rope { theta = 100, pairs = interleaved }
}
"""
FAR = """
attention csa = swa {
  rope = yarn { theta = 1e3, pairs = interleaved, factor = 4, original = 16, attention_factor = 1 }
  window = 6, compress = csa { ratio = 3, indexer = lightning { heads = 1, head_dim = 4, topk = 2 } }
}
attention wide = csa {
  window = 1, compress { ratio = 4, overlap = false, indexer { heads = 2, head_dim = 5, topk = 3 } }
}
attention hca = csa { window = 9, compress = hca { ratio = 8 } }
attention all = csa { sinks = false, q_norm = false, compress = csa { ratio = 4 } }
"""
FFN = """
ffn dense  = swiglu { hidden = 11, activation = glu { clamp = 1 } }
ffn hashed = moe { experts = 5, hidden = 6, shared = 1, router = hash { active = 2, scale = 1.5 } }
ffn routed = hashed { router = sqrtsoftplus { active = 2, scale = 1.5 } }
"""
STACKS = {
    "window": ("swa * 3", SWA, "dense, hashed, routed"),
    "csa": ("csa, wide, csa", SWA + FAR, "hashed * 2, dense"),
    "hca": ("hca * 2", SWA + FAR, "dense * 2"),
    "all entries": ("all, hca", SWA + FAR, "dense * 2"),
    "mixed": ("swa, csa, hca, wide", SWA + FAR, "hashed * 2, routed * 2"),
}
"""The layers' attention, its drawers, and the layers' feed-forwards."""


@cache
def model(stack: str, folder: Path) -> Any:
    """A stack in float64, with weights that matter."""
    attention, drawers, ffn = STACKS[stack]
    layers = sum(int(part.partition("*")[2] or 1) for part in attention.split(","))
    text = (
        f"arch 1\nmodel {stack.replace(' ', '_')} {{\nvocab = {VOCAB}, dim = 10, layers = {layers}, context = 48\n"
        f"residual = mhc {{ streams = 3, sinkhorn_iters = 5 }}\n{drawers}{FFN}"
        f"schedule {{ attention = [{attention}], ffn = [{ffn}] }}\n}}\n"
    )
    net = built(load_text(text)[0], folder).Model(dtype=torch.float64)
    randomise(net)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stacks")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("stack", STACKS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_laws(stack: str, law: Callable[..., None], folder: Path, data: st.DataObject) -> None:
    law(model(stack, folder), VOCAB, data)


# --- ties ----------------------------------------------------------------------------------------
Choice = tuple[Tensor, Tensor]
"""Picks [B, S, K] of an indexer, and the score of every entry so far for every token [B, S, E]."""


@contextmanager
def watched(net: nn.Module) -> Iterator[dict[str, list[Choice]]]:
    """What each indexer chooses by what scores, call by call."""
    seen: dict[str, list[Choice]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, result: tuple[Tensor, ...]) -> None:
            picks, q, keys, weights = result
            scores = torch.einsum("bsh,bshe->bse", weights, torch.einsum("bshd,bed->bshe", q, keys).relu())
            seen.setdefault(name, []).append((picks, scores))

        return hook

    indexers = {name: module for name, module in net.named_modules() if name.endswith(".indexer")}
    hooks = [module.register_forward_hook(note(name)) for name, module in indexers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


RATIOS = {"csa": (3, 4, 3), "mixed": (3, 4)}
"""Tokens for each entry, by layer with an indexer."""


@pytest.mark.parametrize("stack", RATIOS)
@torch.no_grad()
def test_of_equal_entries_the_first_is_picked_whole_or_cached(stack: str, folder: Path) -> None:
    """Rectified scores of one or two index heads are zero for half of all entries: the cut often falls among equals."""
    net, columns, cut, ties = model(stack, folder), 40, 0, 0
    ids = torch.randint(VOCAB, (3, columns), generator=torch.Generator().manual_seed(1))
    with watched(net) as whole:
        net(ids)
    cache_ = net.new_cache(*ids.shape)
    with watched(net) as parts:
        for chunk in ids.split((1, 6, 1, 1, 11, 2, 1, 1, 9, 7), 1):
            net(chunk, cache=cache_)
    assert len(whole) == len(RATIOS[stack])
    for (name, calls), ratio in zip(whole.items(), RATIOS[stack], strict=True):
        ((picks, scores),) = calls
        at = 0
        for chosen, _ in parts[name]:
            for column in range(chosen.shape[1]):
                for row in range(len(ids)):
                    mine = [e for e in picks[row, at].tolist() if e >= 0]
                    assert mine == [e for e in chosen[row, column].tolist() if e >= 0]
                    visible = scores[row, at, : (at + 1) // ratio].tolist()
                    order = sorted(range(len(visible)), key=lambda e: (-visible[e], e))
                    assert mine == order[: picks.shape[-1]]
                    if len(visible) > len(mine):
                        cut += 1
                        ties += visible[mine[-1]] == visible[order[len(mine)]]
                at += 1
        assert at == columns
    assert ties > 0.1 * cut > 0
