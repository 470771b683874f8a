"""A model of transformers and the package made of its config, with the same weights, in float32 and float64."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archc.importers import load_config
from archc.schema import Model
from tests.built import built, randomise
from tests.importers.configs import class_of
from tests.parity.configs import Case

FACTOR = 5
"""How far a package may be from the reference, in rounding errors of the reference."""

TINY = 1e-6
"""What counts as equal where the reference happens to round to nothing, relative to the largest value."""


NOISE = 1e-5
"""Relative noise on weights that no choice of experts may turn on: rounding is a hundred times smaller."""


class Wide:
    """`torch` with float64 under the name of float32: what the reference upcasts to float32, it upcasts to float64.

    Its rotary embedding says `torch.float`, and stays in float32.
    """

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Wider(Wide):
    """The same for routers, which say `torch.float` too."""

    float = torch.float64


class _Angles:
    """`torch` as it is, but for `polar`, whose last bits are not those of `cos` and `sin`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def polar(length: Tensor, angle: Tensor) -> Tensor:
        return torch.complex(length * angle.cos(), length * angle.sin())


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a model says of a batch."""

    logits: Tensor
    loss: Tensor
    hidden: tuple[Tensor, ...]
    gradients: dict[str, Tensor]


class Pair:
    """The reference and the package of one config, built in a folder."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.config = class_of(case.family)(**case.keywords)
        self.model_class = class_of(case.family, "ForCausalLM")
        self.modeling: ModuleType = importlib.import_module(self.model_class.__module__)
        self.reference = self._reference(torch.float32)
        randomise(self.reference, seed=case.index)
        self.reference.save_pretrained(folder / "checkpoint")
        config = folder / "checkpoint" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": case.family}))
        self.spec: Model = load_config(config, name=f"{case.family}_{case.index}").model
        self.package = built(self.spec, folder)
        self.folder = folder
        generator = torch.Generator().manual_seed(case.index)
        self.ids = self._clear_ids(generator)
        unsaid = torch.rand(self.ids.shape, generator=generator) < 0.3
        self.labels = self.ids.masked_fill(unsaid, -100)

    def _reference(self, dtype: torch.dtype) -> Any:
        config = type(self.config).from_dict(self.config.to_dict())
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        return self.model_class(config).to(dtype).eval()

    @contextmanager
    def wide(self) -> Iterator[Any]:
        """The reference in float64, all of it but the angles of its rotary embedding."""
        model = self._reference(torch.float64)
        model.load_state_dict(self.reference.state_dict())
        rotary = getattr(self.modeling, self.model_class.__name__.replace("ForCausalLM", "RotaryEmbedding"))
        angles, narrow = rotary.forward, torch.Tensor.float

        def in_float32(*given: Any, **more: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self.modeling, "torch", _Angles())
                patch.setattr(torch.Tensor, "float", narrow)
                return angles(*given, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.modeling, "torch", _Wider())
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            patch.setattr(rotary, "forward", in_float32)
            yield model

    # --- choices of experts ------------------------------------------------------------------------
    def _clear_ids(self, generator: torch.Generator) -> Tensor:
        """Tokens whose experts and entries rounding cannot turn: two models may then be compared number by number."""
        for _ in range(20):
            ids = torch.randint(self.spec.vocab, (2, 41), generator=generator)
            if self.clear(ids):
                return ids
        pytest.fail("no tokens have clear experts and entries")

    @torch.no_grad()
    def clear(self, ids: Tensor) -> bool:
        """Whether every token keeps its experts and entries, in every layer, under noise far above rounding."""
        model = self._reference(torch.float32)
        model.load_state_dict(self.reference.state_dict())
        chosen = _chosen(model, ids)
        if not chosen:
            return True
        if _closest(model, ids) < NOISE:
            return False
        generator = torch.Generator().manual_seed(0)
        for p in model.parameters():
            p.mul_(1 + NOISE * torch.randn(p.shape, generator=generator))
        return all(torch.equal(a, b) for a, b in zip(chosen, _chosen(model, ids), strict=True))

    def ours(self, dtype: torch.dtype) -> Any:
        """The package's model with the weights that the reference saved."""
        model = self.package.Model(dtype=dtype)
        self.package.load_weights(model, self.folder / "checkpoint")
        if hasattr(model, "index_stage"):
            model.index_stage = "off"  # the reference does not train its indexers
        return model

    @property
    def balanced(self) -> bool:
        """Whether the reference adds a loss for the balance of experts."""
        adds = self.case.family not in ("deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa")
        return adds and getattr(self.config, "output_router_logits", False)

    @cached_property
    def reference32(self) -> Run:
        return self._run_reference(self.reference)

    @cached_property
    def reference64(self) -> Run:
        with self.wide() as model:
            return self._run_reference(model)

    @cached_property
    def ours32(self) -> Run:
        return self._run_ours(self.ours(torch.float32))

    @cached_property
    def model64(self) -> Any:
        return self.ours(torch.float64)

    @cached_property
    def ours64(self) -> Run:
        return self._run_ours(self.model64)

    def _run_reference(self, model: Any) -> Run:
        narrow = model.dtype == torch.float32
        out = model(self.ids, labels=self.labels if narrow else None, output_hidden_states=True)
        loss = out.loss if narrow else self.exact_loss(out, self.labels)
        return _run(model, out.logits, loss, out.hidden_states)

    def exact_loss(self, out: Any, labels: Tensor) -> Tensor:
        """The loss of an output in its own dtype: the reference takes its cross entropy in float32."""
        loss = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if getattr(out, "aux_loss", None) is not None:
            loss = loss + self.config.router_aux_loss_coef * out.aux_loss
        return loss

    def _run_ours(self, model: Any) -> Run:
        out = model(self.ids, labels=self.labels, hidden_states=True)
        assert torch.equal(out.loss, out.lm_loss) != self.balanced
        return _run(model, out.logits, out.loss, out.hidden_states)


def _chosen(model: torch.nn.Module, ids: Tensor) -> list[Tensor]:
    """The experts of every token, and the entries that it attends to, in ascending order, by layer."""
    found: list[Tensor] = []
    choices: dict[str, Callable[..., None]] = {
        "topkrouter": lambda _module, _given, out: found.append(out[2].sort().values),
        "v4indexer": lambda _module, _given, out: found.append(out.sort().values),
        "v32indexer": lambda _module, _given, out: found.append(_past(out)),
        "dsaindexer": lambda _module, _given, out: found.append(_past(out)),
    }
    hooks = [
        module.register_forward_hook(hook)
        for module in model.modules()
        for ending, hook in choices.items()
        if type(module).__name__.lower().endswith(ending)
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return found


def _past(picks: Tensor) -> Tensor:
    """Picked tokens in ascending order, -1 for those that a mask hides."""
    here = torch.arange(picks.shape[1])[:, None]
    return picks.where(picks <= here, -1).sort().values


def _closest(model: torch.nn.Module, ids: Tensor) -> float:
    """How near the score of an entry that is left out comes to that of one that is picked, relative to the largest.

    Noise on weights does not part scores that are both zero, and which of them is picked is nobody's business.
    """
    gaps = [math.inf]

    def look(indexer: Any, scores: Tensor) -> None:
        k, seen = indexer.index_topk, (torch.arange(ids.shape[1]) + 1) // indexer.compress_rate
        ahead = torch.arange(scores.shape[-1]) >= seen[:, None]
        best = scores.masked_fill(ahead, -math.inf).sort(descending=True).values[..., k - 1 : k + 1]
        if best.shape[-1] == 2:
            gap = (best[..., 0] - best[..., 1]).nan_to_num(math.inf, math.inf)
            gaps.append((gap.min() / scores.abs().max()).item())

    hooks = [
        module.scorer.register_forward_hook(lambda _module, _given, out, indexer=module: look(indexer, out))
        for module in model.modules()
        if type(module).__name__.endswith("V4Indexer")
    ]

    def topk(scores: Tensor, k: int, dim: int = -1, **more: Any) -> Any:
        """Scores of tokens are seen nowhere else: the only ones as many as tokens."""
        if scores.shape[1:] == (ids.shape[1], ids.shape[1]) and k < ids.shape[1]:
            best = scores.sort(descending=True).values[..., k - 1 : k + 1]
            apart = (best[..., 0] - best[..., 1]).masked_fill(best[..., 1] < -1e30, math.inf)
            gaps.append((apart.min() / scores[scores > -1e30].abs().max()).item())
        return real(scores, k, dim, **more)

    real = Tensor.topk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "topk", topk)
        model(ids)
    for hook in hooks:
        hook.remove()
    return min(gaps)


def _run(model: torch.nn.Module, logits: Tensor, loss: Tensor, hidden: tuple[Tensor, ...]) -> Run:
    model.zero_grad()
    loss.backward()
    # transformers has matrices of width 0 where there are no shared experts.
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.numel()}
    return Run(
        logits=logits.detach(),
        loss=loss.detach(),
        hidden=tuple(h.detach() for h in hidden),
        gradients=gradients,
    )


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, in float64."""
    return (a.double() - b.double()).abs().max().item()


def assert_within_rounding(ours: Tensor, reference: Tensor, exact: Tensor, what: str) -> None:
    """Demands that ours is as near to the reference as the reference is to the exact result, within a factor."""
    assert ours.shape == reference.shape, what
    floor = gap(reference, exact)
    allowed = FACTOR * floor + TINY * exact.abs().max().item()
    assert gap(ours, reference) <= allowed, f"{what}: {gap(ours, reference):.3g} apart, rounding is {floor:.3g}"
