"""The slots that a model is priced with, and that are no part of its code: number formats, optimizer, hardware."""

from __future__ import annotations

from copy import copy
from typing import ClassVar, Literal, NamedTuple

from archc.schema.drawer import Drawer, field

Number = Literal["fp32", "tf32", "bf16", "fp8", "fp4"]
"""Number formats of matrix products, the widest first."""


class Format(NamedTuple):
    """How the numbers of a weight are stored."""

    name: str
    """``bf16``, ``fp8``: weights of equal names are added up in a report."""
    bits: int
    block: tuple[int, int] = (0, 0)
    """Rows and columns that share a scale; (0, 0): there are none."""
    scale_bytes: int = 0


class Precision(Drawer):
    """The number formats in which a model is trained and served: what `archc cost` prices, and no part of its code.

    A package runs in the dtype that it is asked for. Parameters that declare float32 (routers' biases, sinks, weights
    of mixed streams) are float32 whatever this says.
    """

    slot = "precision"
    activation: ClassVar[int] = 2
    """Bytes of an activation's element."""

    def stored(self, role: str) -> Format:
        """How weights of a role (see `ParamSpec`) are stored where the model is served, and read by products."""
        raise NotImplementedError

    def product(self, role: str) -> Number:
        """The format that products run in: those with weights of a role, or of "attention" (queries, keys, values)
        or "index" (index queries and keys).
        """
        raise NotImplementedError

    def trained(self, role: str) -> Format:
        """How the weights that training's products read are held; a master copy comes on top."""
        return self.stored(role)

    def master_bytes(self, role: str) -> int:
        """Bytes of each element of the copy that the optimizer moves; 0 where that is the weights themselves."""
        return 0 if self.trained(role).bits >= 32 else 4

    def gradient_bytes(self, role: str) -> int:
        """Bytes of each element of a gradient, as it is kept and sent."""
        return 4

    def sent(self, way: Literal["dispatch", "combine"]) -> Format:
        """How rows go to experts on other devices (dispatch) and come back (combine); gradients of what came back go
        as the former, gradients of what was sent as the latter.
        """
        return Format("activations", 8 * self.activation)


class Optimizer(Drawer):
    """What moves the parameters in training, and keeps a state for each: for `archc cost`, and no part of the code."""

    slot = "optimizer"

    def state(self, role: str, *, island: bool = False) -> int:
        """Bytes of state of each element of a parameter of a role (see `ParamSpec`), a master copy left out; of one
        that is float32 in any case (``island``), as its state is.
        """
        raise NotImplementedError

    def row_state(self, role: str) -> int:
        """Bytes of state of each row (of the first dim) of a parameter of a role, beside that of its elements."""
        return 0


class Hardware(Drawer):
    """A kind of accelerator, and how many of them are joined: peaks as their makers state them, dense.

    Rates are per device; where it sends, in one direction. A peak of 0 means: it cannot; products then run in the next
    wider format. What is measured is what others published of the same machine; 0 means: nothing that could be cited,
    and the maker's figure counts. A kind gives its figures as arguments of its class.
    """

    slot = "hardware"

    memory: float = field("memory of a device", unit="bytes", gt=0)
    bandwidth: float = field("what its memory reads or writes", unit="bytes/s", gt=0)
    fp32: float = field("matrix products in float32 without tensor cores", unit="FLOP/s", default=0.0, ge=0)
    tf32: float = field("matrix products in TF32", unit="FLOP/s", default=0.0, ge=0)
    bf16: float = field("matrix products in bfloat16", unit="FLOP/s", gt=0)
    fp8: float = field("matrix products in FP8", unit="FLOP/s", default=0.0, ge=0)
    fp4: float = field("matrix products in FP4", unit="FLOP/s", default=0.0, ge=0)
    launch: float = field("time from one kernel to the next that waits for it", unit="s", default=0.0, ge=0)
    domain: int = field("devices joined by fast links", default=1, gt=0)
    link: float = field("what a device sends over these links", unit="bytes/s", default=0.0, ge=0)
    network: float = field("what a device sends beyond them", unit="bytes/s", default=0.0, ge=0)
    host: float = field("from host memory to a device", unit="bytes/s", default=0.0, ge=0)
    disk: float = field("from disk to host memory", unit="bytes/s", default=0.0, ge=0)
    price: float | None = field("money for an hour of a device", unit="$/h", default=None, gt=0)

    stream: float = field("memory as measured", unit="bytes/s", default=0.0, ge=0)
    gemm_bf16: float = field("long bfloat16 products as measured", unit="FLOP/s", default=0.0, ge=0)
    gemm_fp8: float = field("long FP8 products as measured", unit="FLOP/s", default=0.0, ge=0)
    drain: float = field(
        "rate at which products write results after they computed them; 0: while they do",
        unit="bytes/s",
        default=0.0,
        ge=0,
    )
    attention: float = field("fused causal attention as measured, in bfloat16", unit="FLOP/s", default=0.0, ge=0)
    attention_backward: float = field(
        "its gradient (five products) as measured; 0: like it", unit="FLOP/s", default=0.0, ge=0
    )
    link_latency: float = field(
        "a small exchange over fast links, half of an all-reduce, as measured", unit="s", default=0.0, ge=0
    )
    network_latency: float = field("a small exchange beyond them, as measured", unit="s", default=0.0, ge=0)
    link_measured: float = field("fast links as measured", unit="bytes/s", default=0.0, ge=0)
    network_measured: float = field("the network as measured", unit="bytes/s", default=0.0, ge=0)
    senders: float = field("share of its cores that products leave to exchanges among experts", default=0.0, ge=0, lt=1)

    def __init_subclass__(cls, **figures: float) -> None:
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(cls, **figures: float) -> None:
        """Takes the figures of a kind as the defaults of its fields."""
        fields = cls.__pydantic_fields__
        for name, figure in figures.items():
            if name not in fields:
                raise TypeError(f"hardware has no figure `{name}`")
            fields[name] = copy(fields[name])
            fields[name].default = figure

    def _format(self, number: Number) -> Number:
        """A format, or the next wider one that it has; the widest of all where none is."""
        order: tuple[Number, ...] = ("fp4", "fp8", "bf16", "tf32", "fp32")
        found: Number = "bf16"
        for found in order[order.index(number) :]:
            if getattr(self, found):
                return found
        return "bf16"

    def peak(self, number: Number) -> float:
        """FLOP/s of products in a format, or in the next wider one that it has, as the maker states it."""
        return getattr(self, self._format(number))

    def rate(self, number: Number) -> float:
        """FLOP/s of long products in a format: as measured, never above the peak."""
        name = self._format(number)
        peak = getattr(self, name)
        return min(peak, getattr(self, f"gemm_{name}", 0.0) or peak)

    def attends(self, number: Number, *, backward: bool = False) -> float:
        """FLOP/s of fused attention, or of its gradient, in a format: as measured in bfloat16, and as many times that
        as its peak is that of bfloat16.
        """
        measured = (backward and self.attention_backward) or self.attention
        return min(self.peak(number), measured * self.peak(number) / self.bf16) if measured else self.rate(number)

    @property
    def streams(self) -> float:
        """Bytes a second from memory: as measured, never above the maker's figure."""
        return min(self.bandwidth, self.stream or self.bandwidth)

    def sends(self, *, network: bool) -> float:
        """Bytes a second that a device sends over fast links, or beyond them: as measured, never above the maker's
        figure; 0 where nothing is known.
        """
        stated, measured = (self.network, self.network_measured) if network else (self.link, self.link_measured)
        return min(stated, measured or stated)

    def brings(self, where: Literal["device", "host", "disk"]) -> float:
        """Bytes a second from the device's host, or through it from a disk, to the device; 0 where nothing is known."""
        return {"device": 0.0, "host": self.host, "disk": min(self.host, self.disk)}[where]

    def latency(self, *, network: bool) -> float:
        """Seconds of an exchange of next to nothing, of which an all-reduce is two; 0 where nothing is known."""
        return self.network_latency if network else self.link_latency
