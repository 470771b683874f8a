"""Pairs of channels of a row turned by angles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from archc.rows.value import Axes, Row, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Rotate(Rule):
    """Pairs of channels at one end of a row turned by angles: operands are the row, and for each pair its cos and sin.

    ``turned`` channels are turned, the others stay. Pairs are neighbours (interleaved), or one of the first half of the
    turned channels and one of the second (half). The angles of a token are streams [pairs, 2]: cos and sin of each.
    """

    turned: int
    pairs: Literal["half", "interleaved"]
    end: Literal["first", "last"]
    inverse: bool = False

    def axes(self, x: Row, angles: Row) -> Axes:
        assert x.row, f"no row in {x}"
        return x.axes

    def vjp(self, out: Row, grad: Row) -> Iterable[Row | None]:
        return out.program.make(self.replaced(inverse=not self.inverse), grad, out.args[1]), None

    def channels(self, width: int, pair: int) -> tuple[int, int]:
        """The two channels of a pair."""
        first = 0 if self.end == "first" else width - self.turned
        if self.pairs == "half":
            return first + pair, first + pair + self.turned // 2
        return first + 2 * pair, first + 2 * pair + 1

    def value(self, x: NDArray[Any], angles: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        pairs = np.array([self.channels(x.shape[-1], i) for i in range(self.turned // 2)])
        turns = angles.reshape(angles.shape[0], *(1,) * (x.ndim - 2), self.turned // 2, 2)
        cos, sin = turns[..., 0], turns[..., 1] * (-1 if self.inverse else 1)
        out = x.copy()
        a, b = x[..., pairs[:, 0]], x[..., pairs[:, 1]]
        out[..., pairs[:, 0]], out[..., pairs[:, 1]] = a * cos - b * sin, a * sin + b * cos
        return out
