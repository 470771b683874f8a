"""An indexer that looks for blocks first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archc.drawers.indexer.lightning import Lightning
from archc.ops import Fp4Keys, Fp8Tiles, Table
from archc.schema import Problem, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


class TwoStage(Lightning):
    """A lightning indexer that looks for blocks of entries first, then inside the best (HISA, arXiv:2603.28458)."""

    block: int = field("entries of a block", default=128, gt=0)
    blocks: int = field("blocks whose entries are scored, the first and the newest among them", default=64, gt=1)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.topk > self.blocks * self.block:
            yield Problem(
                fields=("topk", "blocks", "block"),
                message=f"topk = {self.topk}, but {self.blocks} blocks of {self.block} entries are all that is scored",
                help="let it pick fewer, or keep more or longer blocks",
            )

    def scored(self) -> int:
        return self.blocks * self.block

    def _says(self, *, of_tokens: bool) -> str:
        what = "tokens" if of_tokens else "entries"
        return (
            f"{super()._says(of_tokens=of_tokens)}\n\nOf long rows only the {what} of {self.blocks} blocks of"
            f" {self.block} are scored: of the first, of the newest, and of those whose mean key has the best score"
            " (HISA, arXiv:2603.28458, section 3)."
        )

    def pick(self, g: Builder, q: Value, keys: Value, weights: Value, every: int) -> Value:
        """The best entries of the best blocks, a key of each block being kept beside those of entries."""
        span = every * self.block
        means = g.block_means(keys, g.time, block=self.block, every=every)
        # Keys of blocks are packed as those of entries are
        packing = Fp8Tiles() if every == 1 else Fp4Keys()
        store = g.state("blocks", Table(every=span, shape=(self.head_dim,), packing=packing))
        means = g.append(means, store, g.time, every=span)
        sizes = {"k": self.topk, "block": self.block, "keep": self.blocks, "every": every}
        return g.two_stage_topk(q, keys, means, weights, g.time, **sizes)

    def tiny(self) -> dict[str, Any]:
        small = super().tiny()
        block, blocks = min(self.block, 2), min(self.blocks, 4)
        return small | {"block": block, "blocks": blocks, "topk": min(small["topk"], block * blocks)}
