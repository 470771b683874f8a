"""The model itself: what stands in `model NAME { ... }`, and its resolved form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from archc.record import dataclass
from archc.schema.drawer import Drawer, field
from archc.schema.pricing import Hardware, Optimizer, Precision
from archc.schema.slots import (
    Attention,
    Cache,
    FeedForward,
    Head,
    Init,
    Memory,
    Mtp,
    Norm,
    Residual,
)


class LayerSlots(BaseModel):
    """The drawers of one layer."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    attention: Attention | None
    ffn: FeedForward | None
    memory: Memory | None = None

    def __hash__(self) -> int:
        return hash((self.attention, self.ffn, self.memory))


def stand(memories: Sequence[Memory | None]) -> list[Memory | None]:
    """The memories of all layers, each told where it stands; None where a layer has none."""
    found: list[Memory | None] = []
    for layer, memory in enumerate(memories):
        found.append(None if memory is None else memory.at(layer, [m for m in found if m is not None]))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A named family of variants: for each param the values it takes, in order. Variants are all combinations.

    Params that are solved for take in each of them the value that comes closest to an equation.
    """

    name: str
    doc: str = ""
    values: tuple[tuple[str, tuple[Any, ...]], ...]
    solves: tuple[Any, ...] = ()
    """The `archc.resolve.solves.Solve`s, in the order in which they are solved."""


class ModelFields(Drawer):
    """The fields of a model, as the language knows them. Slots that may differ by layer stand in `LayerSlots`."""

    vocab: int = field("rows of the embedding table", unit="tokens", gt=0)
    dim: int = field("width of the residual stream", unit="channels", gt=0)
    layers: int = field("number of layers", gt=0)
    context: int = field("longest sequence the model is meant for", unit="tokens", gt=0)
    norm: Norm = field("normalisation before each sub-layer and of the last hidden state", kind="rms")
    norm_placement: Literal["pre", "post", "both"] = field(
        "where a layer normalises: what enters a sub-layer, what it gives back, or both", default="pre"
    )
    residual: Residual = field("how sub-layers are entered and left", kind="add")
    head: Head = field("from the last hidden state to logits", kind="untied")
    mtp: Mtp | None = field("modules that predict further tokens", default=None)
    init: Init = field("how parameters start", kind="normal")
    cache: Cache = field("how the key-value cache is stored", kind="bf16")
    precision: Precision = field("number formats of training and serving, for `archc cost`", kind="bf16")
    optimizer: Optimizer = field("what moves the parameters, for `archc cost`", kind="adamw")
    hardware: Hardware | None = field("what it runs on where `archc cost` is not told otherwise", default=None)


class Model(ModelFields):
    """A resolved model: every value final, every layer's drawers known. Frozen.

    ``schedule[i]`` holds the drawers of layer i. ``name`` and ``doc`` come from the `model` statement, ``params`` from
    `param` statements with the values in force.
    """

    name: str
    doc: str = ""
    schedule: tuple[LayerSlots, ...]
    params: tuple[tuple[str, Any], ...] = ()

    _checks: tuple[Any, ...] = PrivateAttr(default=())
    _sweeps: tuple[Sweep, ...] = PrivateAttr(default=())
    _machines: dict[str, Hardware] = PrivateAttr(default_factory=dict)
    _spec_hash: str | Callable[[Model], str] = PrivateAttr(default="")

    def completed(
        self,
        *,
        checks: tuple[Any, ...],
        sweeps: tuple[Sweep, ...],
        machines: dict[str, Hardware],
        spec_hash: str | Callable[[Model], str],
    ) -> Model:
        """Itself, with what resolve knows beyond its values (called once); the hash may be made when asked for."""
        self._checks, self._sweeps, self._machines, self._spec_hash = checks, sweeps, machines, spec_hash
        return self

    @property
    def machines(self) -> dict[str, Hardware]:
        """The hardware that its spec names (`hardware lab = h100 { ... }`), by name."""
        return self._machines

    @property
    def spec_hash(self) -> str:
        """SHA-256 (first 16 hex digits) of the resolved values: equal models have equal hashes whatever their text."""
        if not isinstance(self._spec_hash, str):
            self._spec_hash = self._spec_hash(self)
        return self._spec_hash

    @property
    def checks(self) -> tuple[Any, ...]:
        """The `check` statements in force, as resolve keeps them."""
        return self._checks

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """The sweeps that the spec declares for it."""
        return self._sweeps
