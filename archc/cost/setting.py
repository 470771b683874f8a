"""Under which circumstances a workload is priced: hardware, parallel plan, recomputation, and what the run is for."""

from __future__ import annotations

import math
from dataclasses import field, fields
from pathlib import Path
from typing import Literal

from archc import machine
from archc.cost.report import Mode
from archc.ops import ParamSpec
from archc.record import dataclass
from archc.schema import Hardware, Model

Recompute = Literal["none", "selective", "full", "mhc"]
Schedule = Literal["1f1b", "zero_bubble", "dualpipe"]
Tier = Literal["device", "host", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How many ways a model is spread; every degree is 1 where it is not.

    ``dp`` whole replicas; ``fsdp`` ways to shard parameters, gradients and optimizer state; ``tp`` ways to split
    matrices; ``pp`` pipeline stages; ``cp`` ways to split sequences; ``ep`` ways to spread experts over the devices of
    dp, fsdp, cp and tp, which it must divide. Raises ValueError where it does not, and for less than one way.
    """

    dp: int = 1
    fsdp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    cp: int = 1

    def __post_init__(self) -> None:
        for name in ("dp", "fsdp", "tp", "pp", "ep", "cp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not a number of ways")
        over = self.devices // self.pp
        if over % self.ep:
            raise ValueError(f"ep={self.ep} does not divide the {over} devices of a pipeline stage")

    @property
    def devices(self) -> int:
        """Devices of the plan: ep takes none of its own."""
        return self.dp * self.fsdp * self.tp * self.pp * self.cp

    @classmethod
    def parse(cls, text: str) -> Parallel:
        """``dp=2,tp=8``. Raises ValueError that says what is wrong."""
        names = [f.name for f in fields(cls)]
        given: dict[str, int] = {}
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, value = part.partition("=")
            if name not in names:
                raise ValueError(f"`{name}` is no way to spread a model; there are {', '.join(names)}")
            if name in given:
                raise ValueError(f"`{name}` is given twice")
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(f"{name}={value} is not a number of ways")
            given[name] = int(value)
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a workload runs on. ``batch`` of the workload are rows of all devices together.

    ``micro`` rows of a replica run at a time (None: all of them; with pipeline stages 1). ``zero`` is what ``fsdp``
    shards (ZeRO, arXiv:1910.02054): 1 optimizer state, 2 gradients too, 3 parameters too. ``schedule`` is that of
    pipeline stages, of which a device holds ``chunks`` pieces in turn (1f1b alone). ``imbalance`` is the work of the
    busiest device of ``ep`` over the mean. ``tables`` is where large tables lie (None: where the
    spec says), ``cache`` where caches do. ``tokens`` is the budget of a training run; ``price`` what a device costs an
    hour.

    ``serving`` asks for steps by batch, ``cache_from`` for the time to load a cache from there; ``speculate`` tokens
    are drafted, each of which is accepted with probability ``accept`` (DeepSeek-V3's second token: 0.85 to 0.9,
    arXiv:2412.19437, section 5.4.3).
    """

    hardware: Hardware | None = None
    parallel: Parallel = field(default_factory=Parallel)
    recompute: Recompute = "none"
    micro: int | None = None
    zero: Literal[1, 2, 3] = 3
    schedule: Schedule = "1f1b"
    chunks: int = 1
    imbalance: float = 1.0
    tables: Tier | None = None
    cache: Tier = "device"
    tokens: int | None = None
    price: float | None = None
    serving: bool = False
    cache_from: Literal["host", "disk"] | None = None
    speculate: int = 0
    accept: float = 0.85

    def rows(self, batch: int) -> int:
        """Rows of a batch that one replica gets, rounded up: those of its data-parallel rank."""
        return math.ceil(batch / (self.parallel.dp * self.parallel.fsdp))

    def at_once(self, batch: int) -> int:
        """Rows of a replica that run at a time: a micro-batch."""
        rows = self.rows(batch)
        return min(rows, self.micro or (1 if self.parallel.pp > 1 else rows))

    def tier(self, spec: ParamSpec) -> Tier:
        """Where a parameter lies: tables where this says, or else the spec."""
        return (self.tables or spec.placement) if spec.role == "table" else "device"

    def micros(self, batch: int) -> int:
        """Micro-batches of a step."""
        return math.ceil(self.rows(batch) / self.at_once(batch))


def setting_of(
    model: Model,
    *,
    hardware: str | None = None,
    gpus: int | None = None,
    parallel: Parallel | None = None,
    recompute: Recompute = "none",
    tokens: int | None = None,
    price: float | None = None,
    drawers: tuple[Path, ...] = (),
) -> Setting:
    """The setting that options mean: ``hardware`` is a kind of the registry, by default the spec's.

    Without a plan, ``gpus`` devices share one: fsdp in training is the caller's to ask for. Raises ValueError for what
    does not exist or does not fit together.
    """
    plan = parallel or Parallel(dp=gpus or 1)
    if gpus is not None and plan.devices != gpus:
        raise ValueError(f"the plan has {plan.devices} devices, and there are {gpus}")
    return Setting(
        hardware=named(model, hardware, drawers), parallel=plan, recompute=recompute, tokens=tokens, price=price
    )


def check(mode: Mode, setting: Setting) -> None:
    """Raises ValueError for what is asked of a run that gives none: money and hours of what is no training, ways to
    serve of what is no serving.
    """
    train, timed = mode == "train", setting.hardware is not None
    if (setting.tokens or setting.price) and not (train and timed):
        missing = " and ".join([*([] if timed else ["--hardware"]), *([] if train else ["--mode train"])])
        raise ValueError(f"--tokens and --price are those of a training run: they need {missing}")
    if setting.price and not setting.tokens:
        raise ValueError("--price is what a run costs: it needs --tokens, how long that is")
    if (setting.cache_from or setting.speculate) and (train or not timed):
        raise ValueError("--cache-from and --speculate time serving: they need --hardware and decode or prefill")


def named(model: Model, name: str | None, drawers: tuple[Path, ...] = ()) -> Hardware | None:
    """The hardware of a name: one that the spec declares, or a kind of the registry; without a name the model's own.
    Raises ValueError with those there are.
    """
    from archc.diagnostics.suggest import closest
    from archc.drawers import drawer_class, kinds

    if name is None:
        return model.hardware
    if name in model.machines:
        return model.machines[name]
    known = kinds("hardware", drawers)
    if name not in known:
        there = sorted({*known, *model.machines})
        near = closest(name, there)
        hint = f"did you mean `{near}`? There are" if near else "there are"
        raise ValueError(f"no hardware `{name}`; {hint} {', '.join(there)}")
    if name == "local" and not machine.figures():
        raise ValueError(machine.MISSING)
    found = drawer_class("hardware", name, drawers)()
    assert isinstance(found, Hardware)
    return found
