"""Sums over tokens in the kernel of a gradient that walks them: what a program has of each, in registers or memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.triton.backward_arrays import ADD_OUTER, OUTER, Share, is_act
from archc.rows.triton.backward_state import Stateful
from archc.rows.triton.elements import count
from archc.rows.triton.parts import parts
from archc.rows.value import Row


class Summing(Stateful):
    """A tile of a program that has a share of sums over tokens: tiles are added in order."""

    shares: Sequence[Share]
    shared: Mapping[str, Row]
    """By name what is summed over tokens, but products."""
    whole: bool
    """Whether rows are held in registers, and so shares."""

    def add(self, share: Share, v: Row) -> None:
        """Adds a tile's part of a sum over tokens to what the program has of it."""
        if not v.row and self.get(v) is None and self.dense(v):
            for start, part in parts(v):
                self._add_tensor(share, part, start)
            return
        inside = "inside[:, None]" if v.row else "inside"
        for i, e in enumerate(self.made(v)):
            text = f"tl.where({inside}, {self.show(e)}, 0.0)"
            if self.whole:
                self.line(f"{self._register(share, i, count(v))} += {text}")
                continue
            step = self.kernel.width if v.row else 1
            at = share.array + (f" + {i * step}" if i else "") + (" + one_by_one" if v.row else "")
            mask = f"mask=d < {self.kernel.width}" if v.row and self.masked else ""
            before = f"tl.where(again, tl.load({', '.join((at, *([mask] if mask else [])))}), 0.0)"
            self.line(f"tl.store({', '.join((at, f'{before} + tl.sum({text}, 0)', *([mask] if mask else [])))})")

    def _add_tensor(self, share: Share, part: Row, start: int) -> None:
        """The same of a tensor, which is a part of the sum from one of its numbers on."""
        rank = len(part.streams)
        inside = f"inside[:, {', '.join(['None'] * rank)}]" if rank else "inside"
        text = f"tl.where({inside}, {self.tensor(part)}, 0.0)"
        if self.whole:
            self.line(f"{share.name}_share_from_{start} += {text}")
            return
        at, mask = self._of_share(share, part, start)
        if not mask:
            self.line(f"add_to_share({at}, {self.tensor(part)}, again, inside)")
            return
        before = f"tl.where(again, tl.load({at}{mask}, other=0.0), 0.0)"
        self.line(f"tl.store({at}, {before} + tl.sum({text}, 0){mask})")

    def add_product(self, share: Share, numbers: Row, x: Row) -> None:
        """Adds a tile's products of numbers and the channels of rows to what the program has of their sum."""
        _, field = self.wholes[numbers.id]
        matrix = self.body.assign(f"tl.trans({self.whole_of(numbers)})", f"{self.hint(numbers)}_by_field", passing=True)
        self.functions += [text for text in (OUTER, ADD_OUTER) if text not in self.functions]
        m, n, width = count(numbers), count(x), self.kernel.width
        exact = f"{self.dtype('act')} == tl.bfloat16" if is_act(x) else "False"
        mask = f"({field} < {m})[:, None]" + (f" & (d < {width})[None, :]" if self.masked else "")
        for i, e in enumerate(self.made(x)):
            at = f"{share.array} + {field}[:, None] * {n * width} + {f'({i * width} + d)' if i else 'd'}[None, :]"
            self.line(f"add_outer({at}, {matrix}, {self.show(e)}, again, {mask}, EXACT={exact})")

    def _of_share(self, share: Share, part: Row, start: int) -> tuple[str, str]:
        """Where a part of a sum is among the shares of a program, and the mask of an access to it."""
        at = f"{share.array} + {start}" if start else share.array
        if not part.streams:
            return at, ""
        mask = self.inside_streams(part.streams, token=False, fill="").replace("[None, ", "[")
        return f"{at} + {self.place_of(part.streams)}", mask

    def _register(self, share: Share, i: int, n: int) -> str:
        return f"{share.name}_share" + (f"_{i}" if n > 1 else "")

    def registers(self) -> None:
        """Shares of a program that are held in registers, nothing added up yet."""
        for share in self.shares:
            v = self.shared[share.name]
            if not v.row and self.dense(v):
                for start, part in parts(v):
                    self.line(f"{share.name}_share_from_{start} = tl.zeros({self.shape(part.streams)}, tl.float32)")
                continue
            for i in range(count(v)):
                shape = "(TILE, CHUNK)" if v.row else "(TILE,)"
                self.line(f"{self._register(share, i, count(v))} = tl.zeros({shape}, tl.float32)")

    def shares_of_registers(self) -> None:
        """Writes those to memory."""
        for share in self.shares:
            v = self.shared[share.name]
            if not v.row and self.dense(v):
                for start, part in parts(v):
                    at, mask = self._of_share(share, part, start)
                    self.line(f"tl.store({at}, tl.sum({share.name}_share_from_{start}, 0){mask})")
                continue
            for i in range(count(v)):
                step = self.kernel.width if v.row else 1
                at = share.array + (f" + {i * step}" if i else "") + (" + d" if v.row else "")
                mask = f", mask=d < {self.kernel.width}" if v.row and self.masked else ""
                self.line(f"tl.store({at}, tl.sum({self._register(share, i, count(v))}, 0){mask})")
