"""The slots a model is made of, and what each asks of the drawers that fill it.

A field whose annotation is one of these classes is a slot: the spec may put any kind of that slot there. `build`
methods run inside a scope of the graph (see `archc.graph.builder`); shapes are those of the values, B rows and S new
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from archc.schema import pricing
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


class Bypass(Drawer):
    """Says which tokens are done: these skip the layers behind the one it stands in, which only note them."""

    slot = "bypass"

    def build(self, g: Builder, streams: Value) -> Value:
        """The confidence in each token [B, S], of its residual streams [B, S, M, D]: 1 skips, 0 does not."""
        raise NotImplementedError


class Memory(Drawer):
    """Writes to the residual streams themselves, before attention: streams [B, S, M, D] -> streams."""

    slot = "memory"

    bypass: Bypass | None = field(
        "lets tokens skip the layers behind this one, by their streams after it", default=None
    )

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
    mixes_in: ClassVar[bool] = False
    """Whether a sub-layer reads something else than the state: then entering one is work."""

    def start(self, g: Builder, x: Value) -> tuple[Value, ...]:
        """The state before the first sub-layer, from the embedding x [B, S, D]."""
        return (x,)

    def enter(self, g: Builder, state: tuple[Value, ...], name: str) -> tuple[Value, tuple[Value, ...]]:
        """The input of sub-layer ``name`` [B, S, D], and the state that `leave` will get."""
        raise NotImplementedError

    def leave(self, g: Builder, state: tuple[Value, ...], y: Value) -> tuple[Value, ...]:
        """The state after a sub-layer that gave y [B, S, D]."""
        raise NotImplementedError

    def before(self, g: Builder, x: Value) -> tuple[Value, ...]:
        """The state that `leave` takes, and the output that it takes beside it, so that it gives what `start` gives of
        the embedding x [B, S, D]: where layers begin by leaving the sub-layer before.
        """
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

    def scored(self) -> int | None:
        """Entries that it scores for a token at most; None: all that the token sees."""
        return None

    def rounded(self, g: Builder, x: Value) -> Value:
        """Queries or keys [..., D], with positions, as they are scored and kept."""
        return x

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
        if cls.__module__ in (__name__, pricing.__name__) and cls.slot:
            found[cls.slot] = cls
    return found
