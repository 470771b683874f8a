"""Small models with routers, built and imported as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import archc
from tests.built import built, randomise

VOCAB, EXPERTS, ACTIVE = 61, 8, 2
SPEC = """arch 1

model routed {{
  vocab   = {vocab}
  dim     = 16
  layers  = 2
  context = 64

  attention full = gqa {{ heads = 2, kv_heads = 1, rope = rope {{ theta = 10e3 }}{attention} }}
  {ffn}
  {more}
}}
"""


def package(folder: Path, *routers: str, more: str = "", attention: str = "") -> ModuleType:
    """The package of a model with a mixture of experts in both layers, under one router or one each."""
    ffns = [
        f"ffn {name} = moe {{ experts = {EXPERTS}, hidden = 8, router = {router} }}"
        for name, router in zip("ab", routers, strict=False)
    ]
    if len(routers) > 1:
        ffns.append("schedule { ffn = [a, b] }")
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "routed.arch"
    spec.write_text(SPEC.format(vocab=VOCAB, ffn="\n  ".join(ffns), more=more, attention=attention))
    return built(archc.load(spec), folder)


def model(module: ModuleType, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A model of the package with weights that matter, biases of the routers included."""
    net = module.Model(dtype=dtype)
    randomise(net, seed)
    generator = torch.Generator().manual_seed(seed)
    for buffer in filter(Tensor.is_floating_point, net.buffers()):
        buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return net


def tokens(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Random ids."""
    return torch.randint(VOCAB, (rows, columns), generator=torch.Generator().manual_seed(seed))


@contextmanager
def watched(net: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(logits, ids) of every run of a router inside, [B, S, E] and [B, S, K], in the model's columns."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(router: Any, given: tuple[Tensor, ...], result: tuple[Tensor, Tensor]) -> None:
        seen.append((nn.functional.linear(given[0], router.weight).detach(), result[0]))

    hooks = [m.register_forward_hook(note) for name, m in net.named_modules() if name.endswith(".gate")]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
