"""The slots a model is made of, and what each asks of the drawers that fill it.

A field whose annotation is one of these classes is a slot: the spec may put any kind of that slot there. `build`
methods run inside a scope of the graph (see `archc.graph.builder`); shapes are those of the values, B rows and S new
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from archc.schema.drawer import Drawer, Problem, field

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from archc.graph.builder import Builder
    from archc.graph.value import Value
    from archc.ops import Packing

LAYER_SLOTS = ("memory", "attention", "ffn")
"""Slots that may differ by layer, in the order in which a layer runs them."""


class Mixer(Drawer):
    """A sub-layer: x [B, S, D] -> y [B, S, D]."""

    def build(self, g: Builder, x: Value) -> Value:
        """Writes the forward pass; the residual drawer adds y to the stream."""
        raise NotImplementedError


class Attention(Mixer):
    """Mixes tokens."""

    slot = "attention"


class FeedForward(Mixer):
    """Works on each token alone."""

    slot = "ffn"


class Memory(Drawer):
    """Writes to the residual streams themselves, before attention: streams [B, S, M, D] -> streams."""

    slot = "memory"

    def at(self, layer: int, earlier: Sequence[Memory]) -> Memory:
        """The memory as it stands on a ``layer`` (the first is 0) after the memories of ``earlier`` layers, which stand
        already. A memory that asks neither is the same on all layers.
        """
        return self

    def build(self, g: Builder, streams: Value) -> Value:
        """The streams after the memory."""
        raise NotImplementedError


class Residual(Drawer):
    """How sub-layers are entered and left. ``state`` is a tuple of values that only this drawer understands."""

    slot = "residual"

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        """The state before the first sub-layer, from the embedding x [B, S, D]."""
        return (x,)

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        """The input of sub-layer ``name`` [B, S, D], and the state that `leave` will get."""
        raise NotImplementedError

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        """The state after a sub-layer that gave y [B, S, D]."""
        raise NotImplementedError

    def finish(self, g: Builder, state: tuple[Value, ...]) -> Value:
        """What the final norm gets [B, S, D]."""
        return state[0]

    def as_streams(self, g: Builder, state: tuple[Value, ...]) -> Value:
        """The residual streams [B, S, M, D]; M = 1 where there is one."""
        raise NotImplementedError

    def with_streams(self, g: Builder, state: tuple[Value, ...], streams: Value) -> tuple[Value, ...]:
        """The state with its streams replaced."""
        raise NotImplementedError


class Norm(Drawer):
    """Normalises the last dimension."""

    slot = "norm"

    def build(self, g: Builder, x: Value, name: str) -> Value:
        """The normed x; its weights live in the current scope under ``name``."""
        raise NotImplementedError


class Rope(Drawer):
    """Rotary positions."""

    slot = "rope"

    def build(
        self,
        g: Builder,
        x: Value,
        *,
        every: int = 1,
        back: int = 0,
        inverse: bool = False,
        last: int | None = None,
        end: Literal["first", "last"] = "last",
        pairs: Literal["half", "interleaved"] | None = None,
    ) -> Value:
        """x [B, S, H, D] or [B, S, D] with its channels rotated to the tokens' positions, or back from them.

        With ``every`` > 1, x [B, G, D] are entries of groups of so many tokens, rotated to the first token of each, or
        to that ``back`` tokens before it. With ``last``, only so many channels at the end are rotated, as if they were
        all there are; ``end`` says when they are the first instead. ``pairs``: which channels turn together, where not
        as everywhere else.
        """
        raise NotImplementedError

    def softmax_correction(self) -> float:
        """The factor on the scale of attention logits that a longer context asks for."""
        return 1.0


class Head(Drawer):
    """From the last hidden state to logits."""

    slot = "head"

    def build(self, g: Builder, x: Value, embedding: Value, vocab: int) -> Value:
        """Logits [B, S, vocab]; ``embedding`` is the weight of the input embedding [vocab, D]."""
        raise NotImplementedError


class Activation(Drawer):
    """The non-linearity of a feed-forward."""

    slot = "activation"

    def build(self, g: Builder, gate: Value, up: Value) -> Value:
        """The activated product of gate and up, all [..., hidden]."""
        raise NotImplementedError


class Init(Drawer):
    """How parameters start."""

    slot = "init"

    def scale_of(self, role: str, fan_in: int, depth: int) -> float:
        """Standard deviation of a weight by role ("embedding", "matrix", "output", "head"), its input width and the
        number of layers.
        """
        raise NotImplementedError


class Cache(Drawer):
    """How the key-value cache is stored.

    Its kind is the layout that stores may know a packing for.
    """

    slot = "cache"
    element: ClassVar[int]
    """Bytes of a number that no packing takes."""
    packs: ClassVar[str] = ""
    """What the stores that know a packing for it hold, and what the others do: an assumption of the cost report."""


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

    def latency(self, *, network: bool) -> float:
        """Seconds of an exchange of next to nothing, of which an all-reduce is two; 0 where nothing is known."""
        return self.network_latency if network else self.link_latency


class Router(Drawer):
    """Chooses the experts of a token."""

    slot = "router"

    def build(self, g: Builder, x: Value, experts: int) -> tuple[Value, Value]:
        """Ids and weights of each token's experts, best first: [B, S, K] each."""
        raise NotImplementedError

    def misfits(self, experts: int) -> Iterator[Problem]:
        """Why it cannot route among so many experts: problems of its fields, none where it can."""
        yield from ()


class Scores(NamedTuple):
    """What an indexer scores entries by: the score is the sum over heads of weight * relu(query . key)."""

    queries: Value
    """[B, S, I, C]"""
    keys: Value
    """[B, T // every, C]"""
    weights: Value
    """[B, S, I]"""


class Far(NamedTuple):
    """What a compressor gives an attention."""

    entries: Value
    """Every entry so far [B, T // every, width]."""
    picks: Value | None = None
    """Ids of the entries that each token attends to [B, S, K], -1 for none; None: all it sees."""
    scores: Scores | None = None
    """What they were picked by."""
    loss_weight: float = 0.0
    """Factor on the loss that the scores learn by; 0: none."""


class Compress(Drawer):
    """Makes one entry of every few tokens, which an attention reads in their place.

    ``rotate`` (g, x, every=1) turns channels as that does; ``packing``: how caches of its layout hold entries.
    """

    slot = "compress"

    def misfits(self, rope_dim: int) -> Iterator[Problem]:
        """Why it cannot work where so many channels have positions: problems of its fields, none where it can."""
        yield from ()

    def every(self) -> int:
        """Tokens for each entry."""
        raise NotImplementedError

    def build(
        self,
        g: Builder,
        x: Value,
        q_latent: Value,
        width: int,
        rotate: Callable[..., Value],
        packing: Packing | None = None,
    ) -> Far:
        """Every entry so far, each ``width`` wide, and which of them each token attends to."""
        raise NotImplementedError

    def entries(
        self, g: Builder, x: Value, width: int, rotate: Callable[..., Value], packing: Packing | None = None
    ) -> Value:
        """Every entry so far [B, T // every, width], with weights and state of the current scope."""
        raise NotImplementedError


class Indexer(Drawer):
    """Picks the entries a token attends to."""

    slot = "indexer"

    loss_weight: float = field("weight of the loss by which scores learn where attention looks", default=1.0, ge=0)

    def misfits(self, rope_dim: int) -> Iterator[Problem]:
        """Why it cannot work where so many channels have positions: problems of its fields, none where it can."""
        yield from ()

    def most(self) -> int:
        """Entries that a token attends to at most."""
        raise NotImplementedError

    def build(
        self,
        g: Builder,
        x: Value,
        q_latent: Value,
        rotate: Callable[..., Value],
        *,
        keys: Callable[[Builder, Value, int], Value] | None = None,
        every: int = 1,
    ) -> tuple[Value, Scores]:
        """Ids of the entries that each token attends to, -1 for none [B, S, K], and what they were picked by.

        ``keys`` (g, x, width) makes the index keys of entries [B, T // every, width]; without it the indexer makes a
        key of every token. ``rotate`` (g, x, every=1, end=..., pairs=...) turns channels as the attention around it
        does, or as it is told. What an indexer reads are constants: it learns by a loss of its own, and alone.
        """
        raise NotImplementedError


class Mtp(Drawer):
    """Predicts further tokens in training, and drafts them in generation."""

    slot = "mtp"
    reads: ClassVar[Literal["hidden", "streams"]] = "hidden"
    """What the first module reads of the main model: what the head gets [B, S, D], or the residual streams after the
    last layer [B, S, M, D], before they are finished and normed.
    """

    depth: int = field("modules, each of which predicts one token more", default=1, gt=0)
    weight: float = field("factor on the mean loss of the modules", default=0.3, ge=0)
    attention: Attention | None = field("attention of a module; that of the last layer when left out", default=None)
    ffn: FeedForward | None = field("feed-forward of a module; that of the last layer when left out", default=None)

    def build(
        self,
        g: Builder,
        embedding: Value,
        carried: Value,
        /,
        residual: Residual,
        layer: Callable[..., tuple[Value, ...]],
    ) -> tuple[Value, Value]:
        """What the head gets [B, S, D], and what the next module reads (of the shape of ``carried``).

        Made of the ``embedding`` [B, S, D] of the tokens ahead and of ``carried``, what `reads` names of the main
        model or what the module before gave. ``layer`` (g, *state) runs a layer between a start and a finish of the
        model's ``residual``.
        """
        raise NotImplementedError


def slot_names() -> dict[str, Any]:
    """Every slot base class by its name."""
    found: dict[str, Any] = {}
    queue: list[type[Drawer]] = list(Drawer.__subclasses__())
    while queue:
        cls = queue.pop()
        queue.extend(cls.__subclasses__())
        if cls.__module__ == __name__ and cls.slot:
            found[cls.slot] = cls
    return found
