"""The cost report: every figure of `archc cost`, in the shape of its JSON."""

from __future__ import annotations

from dataclasses import asdict, field, fields, is_dataclass
from typing import Any, Literal

from archc.record import dataclass

FORMAT_VERSION = 1

Mode = Literal["train", "prefill", "decode"]

COMPONENTS: tuple[str, ...] = (
    "embedding",
    "attention",
    "indexer",
    "compressor",
    "dense_ffn",
    "router",
    "experts",
    "shared_experts",
    "norm",
    "residual",
    "memory",
    "head",
    "mtp",
)
"""Keys of every `by_component`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadReport:
    """What was costed: ``seq`` new tokens of each of ``batch`` rows, the last of ``context`` tokens."""

    mode: Mode
    batch: int
    seq: int
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Numbers of parameters. ``total`` leaves MTP out; buffers are counted apart."""

    total: int
    active: int
    active_without_embedding: int
    active_core: int
    mtp: int
    buffers: int
    by_component: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """FLOPs of matrix products, 2 per multiply-add; those of a token leave MTP out, as parameters do."""

    forward_per_token: float
    train_per_token: float
    workload_total: int
    by_component: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """``ideal``: what the equations need. ``executed``: what the package's reference path runs."""

    ideal: FlopCount
    executed: FlopCount
    weighted_fp8_equivalent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """Bytes of state that outlives a call."""

    bytes_per_token: float
    bytes_per_sequence_fixed: int
    bytes_total: int
    layout: str
    by_component: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of all devices together, and of the fullest device. ``fits`` is None where no hardware is given.

    ``optimizer`` holds master copies, of which ``master`` are those alone. ``activations`` live from forward to
    backward, without ``logits``; ``workspace`` lives beside them at the worst moment; ``buffers`` hold what was
    gathered from other devices, or came from them. ``stage`` is the pipeline stage of the fullest device.

    ``step_peak``: what a training step of the package itself allocates at most, on a single device, of one
    micro-batch and with `torch.optim.AdamW` (see `archc.cost.activations.Peak`); None where there are several devices,
    or nothing is trained. The parts above need not live at once, and hold what the spec's optimizer and precision keep:
    they add up to more, or to something else.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    kv_cache: int
    host: int
    per_device: dict[str, int]
    fits: bool | None
    logits: int = 0
    workspace: int = 0
    buffers: int = 0
    master: int = 0
    devices: int = 1
    stage: int = 0
    weights_by_format: dict[str, int] = field(default_factory=dict)
    activations_by_component: dict[str, int] = field(default_factory=dict)
    kv_cache_by_tier: dict[str, int] = field(default_factory=dict)
    step_peak: int | None = None
    disk: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Large tables of rows that ids name: their parameters, bytes by where they lie, and what a token reads of all."""

    parameters: int
    bytes_by_tier: dict[str, int]
    rows_per_token: int
    bytes_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A step of a batch of ``batch`` rows in all."""

    batch: int
    total_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    bytes_per_device: int | None
    bound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLoad:
    """Seconds to load the cache of a workload's context from ``source``, and to compute it instead."""

    source: str
    bytes_per_device: int
    load_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Decoding with drafts: the tokens that a step gives on average, and its seconds to draft and to check."""

    drafts: int
    accept: float
    tokens_per_step: float
    draft_s: float
    check_s: float
    tokens_per_s: float
    speedup: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Seconds of one step on the devices of the plan. ``bound`` names what takes most of it.

    ``compute_s``, ``memory_s`` and ``communication_s`` are all arithmetic, all bytes and all that the busiest device
    sends, as if nothing overlapped; ``parts`` is what ``total_s`` is made of. ``mfu`` is ideal FLOPs over what the
    devices could compute in bfloat16 in that time; ``flops_per_device`` ideal FLOP/s. ``gpu_hours``, ``days`` and
    ``money`` are those of a token budget. ``tables_s`` is how long the rows of tables take that come from a host or a
    disk, most of it while layers run; None where all tables lie on the device, or no rate is known.
    """

    compute_s: float
    memory_s: float
    communication_s: float
    total_s: float
    bound: str
    tokens_per_s: float
    gpu_hours: float | None
    mfu: float
    parts: dict[str, float] = field(default_factory=dict)
    flops_per_device: float = 0.0
    days: float | None = None
    money: float | None = None
    serving: tuple[Serving, ...] | None = None
    cache_load: CacheLoad | None = None
    speculation: Speculation | None = None
    tables_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The cost of one model under one workload; `as_dict` is the JSON of the command line."""

    model: str
    archc: str
    workload: WorkloadReport
    params: Params
    flops: Flops
    kv_cache: KvCache
    memory: Memory | None = None
    time: Time | None = None
    tables: Tables | None = None
    assumptions: tuple[str, ...] = ()
    format_version: int = field(default=FORMAT_VERSION)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        data = asdict(self)
        data["assumptions"] = list(self.assumptions)
        return data

    def value(self, key: str) -> Any:
        """The figure at a dotted key (``params.total``). Raises KeyError with the keys there are."""
        node: Any = self
        known = ""
        for part in key.split("."):
            inner = {f.name: getattr(node, f.name) for f in fields(node)} if is_dataclass(node) else node
            if not isinstance(inner, dict) or part not in inner:
                choices = sorted(inner) if isinstance(inner, dict) else []
                raise KeyError(key, tuple(f"{known}{c}" for c in choices))
            node, known = inner[part], f"{known}{part}."
        # a section is plain data too
        return asdict(node) if is_dataclass(node) and not isinstance(node, type) else node
