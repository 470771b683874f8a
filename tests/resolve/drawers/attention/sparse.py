"""A toy attention with nested slots, for tests of resolve."""

from __future__ import annotations

from collections.abc import Iterator

from archc.schema import Attention, Compress, Norm, Problem, Rope, field


class Sparse(Attention):
    """Attention over a window and compressed entries."""

    dim: int = field("width of the residual stream", unit="channels", inherit="dim", gt=0)
    heads: int = field("query heads", gt=0)
    head_dim: int = field("width of a head", unit="channels", default_factory=lambda f: f["dim"] // f["heads"], gt=0)
    window: int = field("raw tokens seen", unit="tokens", gt=0)
    rope: Rope = field("rotary positions", kind="rope")
    norm: Norm = field("norm of the latents", inherit="norm")
    compress: Compress | None = field("entries of several tokens", default=None)
    stages: list[Compress] = field("further compressors", default=[])

    def problems(self) -> Iterator[Problem]:
        if self.head_dim % 2:
            yield Problem(
                fields=("head_dim", "heads"), message=f"head_dim = {self.head_dim} is odd", help="use an even width"
            )
