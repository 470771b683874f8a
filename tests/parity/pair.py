"""A model of transformers and the package made of its config, with the same weights, in float32 and float64."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
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
from tests.parity.configs import Case

CLASSES = {"llama": "Llama", "qwen3": "Qwen3", "olmo2": "Olmo2"}

FACTOR = 5
"""How far a package may be from the reference, in rounding errors of the reference."""

TINY = 1e-6
"""What counts as equal where the reference happens to round to nothing, relative to the largest value."""


class Wide:
    """`torch` with float64 under the name of float32: what the reference upcasts to float32, it upcasts to float64.

    Its rotary embedding says `torch.float`, and stays in float32.
    """

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


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
        self.modeling: ModuleType = importlib.import_module(f"transformers.models.{case.family}.modeling_{case.family}")
        package = importlib.import_module(f"transformers.models.{case.family}")
        self.config = getattr(package, f"{CLASSES[case.family]}Config")(**case.keywords)
        self.reference = self._reference(torch.float32)
        randomise(self.reference, seed=case.index)
        self.reference.save_pretrained(folder / "checkpoint")
        self.spec: Model = load_config(folder / "checkpoint" / "config.json", name=f"{case.family}_{case.index}").model
        self.package = built(self.spec, folder)
        self.folder = folder
        generator = torch.Generator().manual_seed(case.index)
        self.ids = torch.randint(self.spec.vocab, (2, 41), generator=generator)
        unsaid = torch.rand(self.ids.shape, generator=generator) < 0.3
        self.labels = self.ids.masked_fill(unsaid, -100)

    def _reference(self, dtype: torch.dtype) -> Any:
        name = type(self.config).__name__.replace("Config", "ForCausalLM")
        config = type(self.config).from_dict(self.config.to_dict())
        config._attn_implementation = "eager"
        return getattr(self.modeling, name)(config).to(dtype).eval()

    @contextmanager
    def wide(self) -> Iterator[Any]:
        """The reference in float64, all of it but the angles of its rotary embedding."""
        model = self._reference(torch.float64)
        model.load_state_dict(self.reference.state_dict())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.modeling, "torch", Wide())
            yield model

    def ours(self, dtype: torch.dtype) -> Any:
        """The package's model with the weights that the reference saved."""
        model = self.package.Model(dtype=dtype)
        self.package.load_weights(model, self.folder / "checkpoint")
        return model

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
        # The reference takes its loss in float32 whatever its dtype.
        loss = out.loss if narrow else F.cross_entropy(out.logits[:, :-1].flatten(0, 1), self.labels[:, 1:].flatten())
        return _run(model, out.logits, loss, out.hidden_states)

    def _run_ours(self, model: Any) -> Run:
        out = model(self.ids, labels=self.labels, hidden_states=True)
        assert torch.equal(out.loss, out.lm_loss)
        return _run(model, out.logits, out.loss, out.hidden_states)


def _run(model: torch.nn.Module, logits: Tensor, loss: Tensor, hidden: tuple[Tensor, ...]) -> Run:
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
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
