"""Small models with indexers, built and imported as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from archc.resolve import load_text
from tests.built import built, randomise
from tests.oracles.csa import Csa
from tests.oracles.rope import Rope

VOCAB, RATIO, TOPK, WINDOW = 61, 3, 2, 4
SPEC = """arch 1
model indexed {{
  vocab = {vocab}, dim = 16, layers = 3, context = 64
  attention local = windowed {{
    heads = 4, head_dim = 8, rope_dim = 4, q_rank = 6, out_groups = 2, out_rank = 4, window = {window}
    rope = rope {{ pairs = interleaved }}
  }}
  attention far = local {{
    compress = csa {{
      ratio = {ratio}
      indexer = {indexer} {{ heads = 3, head_dim = {wide}, topk = {topk}, loss_weight = {weight}{more} }}
    }}
  }}
  ffn = swiglu {{ hidden = 24 }}
  schedule {{ attention = [local, far, far] }}
}}
"""
FAR = (1, 2)
"""The layers with an indexer."""

ORACLE = Csa(
    heads=4,
    head_dim=8,
    window=WINDOW,
    rope=Rope(dim=4, theta=1e4),
    out_groups=2,
    every=RATIO,
    topk=TOPK,
    index_heads=3,
    index_dim=6,
)


def package(
    folder: Path,
    *,
    topk: int = TOPK,
    weight: float = 1.0,
    ratio: int = RATIO,
    indexer: str = "lightning",
    more: str = "",
    wide: int = 6,
) -> ModuleType:
    """The package of a model with a layer of window attention and two of CSA."""
    sizes = {"vocab": VOCAB, "window": WINDOW, "ratio": ratio, "topk": topk, "weight": weight, "wide": wide}
    text = SPEC.format(**sizes, indexer=indexer, more=more)
    return built(load_text(text)[0], folder)


def model(module: ModuleType, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A model of the package with weights that matter."""
    net = module.Model(dtype=dtype)
    randomise(net, seed)
    return net


def tokens(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Random ids."""
    return torch.randint(VOCAB, (rows, columns), generator=torch.Generator().manual_seed(seed))


def indexed(net: nn.Module) -> set[str]:
    """The names of the parameters of indexers."""
    return {name for name, _ in net.named_parameters() if ".indexer." in name}


@contextmanager
def watched(net: nn.Module) -> Iterator[dict[int, Tensor]]:
    """What the attention of each layer with an indexer reads [B, S, D], in the model's columns."""
    seen: dict[int, Tensor] = {}
    hooks = [
        net.get_submodule(f"model.layers.{layer}.self_attn").register_forward_pre_hook(
            lambda _, given, layer=layer: seen.__setitem__(layer, given[0].detach())
        )
        for layer in FAR
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
