"""What is probably not meant of an indexer, wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator

from archc.drawers.indexer.lightning import Lightning
from archc.schema import Doubt, Indexer


def doubts(indexer: Indexer, context: int, *, every: int = 1, instead: str) -> Iterator[Doubt]:
    """Of an ``indexer`` field that picks among one entry for ``every`` tokens of a ``context``; ``instead``: what to do
    where there is nothing to pick.
    """
    entries, what = context // every, "entries" if every > 1 else "tokens"
    if every > 1 and isinstance(indexer, Lightning) and indexer.key_norm is not None:
        yield Doubt(
            code="W0009",
            fields=("indexer.key_norm",),
            message="key_norm has nothing to do: the compressor norms index keys as it norms entries",
            help="leave it out: it is for indexers that make a key of each token",
        )
    if indexer.most() >= entries:
        yield Doubt(
            code="W0005",
            fields=("indexer.topk", "indexer"),
            message=f"the indexer may pick {indexer.most()} {what}, but at context = {context} there are {entries}",
            help=f"it picks all of them: {instead}, or let it pick fewer",
        )
        return
    if indexer.most() == 1 and indexer.loss_weight > 0:
        yield Doubt(
            code="W0007",
            fields=("indexer.topk", "indexer"),
            message="the index loss of a single pick is always 0: the indexer learns nothing from it",
            help='let it pick more, or train it in the dense stage (`m.index_stage = "dense"`)',
        )
    scored = indexer.scored()
    if scored is not None and scored >= entries:
        yield Doubt(
            code="W0005",
            fields=("indexer.blocks", "indexer.block", "indexer"),
            message=f"the indexer may score {scored} {what}, but at context = {context} there are {entries}",
            help="no row is long enough for a search by blocks: take lightning, or let it score fewer",
        )
