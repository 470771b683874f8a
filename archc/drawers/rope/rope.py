"""Rotary positions without scaling, and the base of every scaled kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from archc.schema import Rope as RopeSlot
from archc.schema import field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class Rope(RopeSlot):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864)."""

    theta: float = field("base of the frequencies", default=10_000.0, gt=1)
    dim: int | None = field(
        "channels that are rotated; the whole head when left out", unit="channels", default=None, gt=0, multiple_of=2
    )
    pairs: Literal["half", "interleaved"] = field(
        "which channels form a pair: (i, i + dim / 2), or (2i, 2i + 1)", default="half"
    )
    end: Literal["first", "last"] = field(
        "which end of the head is rotated when dim is smaller than it", default="first"
    )

    def scaling(self) -> dict[str, Any]:
        """Fields of the `rope_angles` op beyond theta."""
        return {}

    def angles(self, g: Builder, width: int, every: int = 1, back: int = 0) -> Value:
        """cos and sin for a head of ``width`` channels, at every token or at the first token of every closing group, or
        ``back`` tokens before it.
        """
        of = f"_of_{every + back}" if back else ""
        end = f"_per_{every}{of}_tokens" if every > 1 or back else ""
        names = (f"rope{end}", f"rope_{'plain' if self.kind == 'rope' else self.kind}{end}")
        return g.step(
            names,
            "rope_angles",
            g.time,
            dim=self.dim or width,
            theta=self.theta,
            every=every,
            back=back,
            **self.scaling(),
        )

    def tiny(self) -> dict[str, Any]:
        return {"dim": self.dim and min(self.dim, 16)}

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
        angles = self.angles(g, x.type.last if last is None else last, every, back)
        return g.rotate(x, angles, pairs=pairs or self.pairs, end=self.end if last is None else end, inverse=inverse)
