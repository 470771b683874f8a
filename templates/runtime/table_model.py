"""A language model with large tables: where they lie, what is read ahead of the layers, how they are exchanged."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .ahead import start, still
from .cache import Cache
from .checkpoint import DTYPES, Checkpoint, write
from .formats import stored
from .model import LanguageModel, rows_of, time_of
from .sharded import by_first
from .step import StepBase
from .tables import LargeTable


class TableModel(LanguageModel):
    """The base of a generated model with large tables.

    `Model(memory="device")`, `"host"` or `"disk"` says where they lie instead of the specification.
    """

    reads_ahead: bool = True
    """Whether a thread reads rows of tables in host memory or on disk while the layers before them run. Results are
    the same without. It does not for tables that were made in inference mode."""
    merges: ClassVar[dict[str, tuple[int, int]]] = {}
    """Buffers with the ids of tokens after merging, by name: how many different ones, and that before a sequence. See
    `merging.set_merged_ids`.
    """
    _lookups: list[tuple[str, str]] | None = None

    @property
    def tables(self) -> dict[str, LargeTable]:
        """Every large table by the name of its module."""
        return {name: module for name, module in self.named_modules() if isinstance(module, LargeTable)}

    @property
    def sparse_gradients(self) -> bool:
        """Whether gradients of tables are sparse: of the rows that were read. Those of tables that are not on the
        device always are.
        """
        return all(table.sparse for table in self.tables.values())

    @sparse_gradients.setter
    def sparse_gradients(self, sparse: bool) -> None:
        if self.mesh is not None and sparse:
            raise ValueError("the model is sharded: gradients of its tables are parts, which are not sparse")
        away = [name for name, table in self.tables.items() if table.placement != "device"]
        if away and not sparse:
            raise ValueError(f"{away[0]} is not on the device, and its gradient is sparse")
        for table in self.tables.values():
            table.sparse = sparse

    # --- reading ahead ---------------------------------------------------------------------------
    def read_ahead(self, step: StepBase) -> None:
        """Starts to read what the layers will look up."""
        if self.reads_ahead and not torch.compiler.is_compiling():
            self._expect(step, step.time.new)

    def prefetch(
        self,
        input_ids: Tensor,
        *,
        after: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        sequence_ids: Tensor | None = None,
    ) -> None:
        """Starts to read what a forward of input_ids [B, S] with the same arguments will look up.

        `after` [B, C] are tokens that the cache does not hold yet and that come before: with those of the next call
        known, `prefetch(following, after=chunk, cache=cache)` before `model(chunk, cache=cache)` reads the rows of the
        next chunk while this one runs. A forward reads what it finds missing, so nothing depends on it; but like
        autograd it does not notice what is written to the `data` of a table in between.
        """
        new, ids = input_ids.shape[1], input_ids
        if after is not None:
            if attention_mask is not None or sequence_ids is not None:
                raise ValueError("tokens `after` others are rows without padding, of one sequence each")
            ids = torch.cat([after, input_ids], 1)
        rows = rows_of(ids, cache=cache, attention_mask=attention_mask, sequence_ids=sequence_ids)
        columns = new if after is not None else rows.new
        self._expect(self.step(rows.pack(ids), time_of(rows, None, cache), cache), columns)

    @torch.no_grad()
    def _expect(self, step: StepBase, columns: int) -> None:
        """Starts to read what the last `columns` tokens of a step look up, in the order of layers."""
        readings = []
        for lookup, name in self._asked():
            table = self.get_submodule(name)
            assert isinstance(table, LargeTable)
            # Changes of what was made in inference mode are not counted: what was read before one would not be told.
            if table.placement == "device" or table.weight.is_meta or table.weight.is_inference():
                continue
            ids = table.ask(lambda lookup=lookup: self.get_submodule(lookup)(still(step)))
            reading = None if ids is None else table.expect(ids[:, -columns:])
            readings += [] if reading is None else [reading]
        start(readings)

    def _asked(self) -> list[tuple[str, str]]:
        """Modules that look up what they know from the step alone, and the tables they look it up in, by name."""
        if self._lookups is None:
            found = [(name.rpartition(".")[0], name) for name in self.tables if not name.startswith("mtp.")]
            self._lookups = [
                (lookup, name)
                for lookup, name in found
                if list(inspect.signature(self.get_submodule(lookup).forward).parameters) == ["step"]
            ]
        return self._lookups

    # --- exchanging tables -----------------------------------------------------------------------
    def save_memory(self, path: str | Path) -> None:
        """Writes the tables alone to a safetensors file, for `swap_memory`.

        Of a sharded model all processes call this, and the first writes.
        """
        path = Path(path)

        def put(tensors: dict[str, Tensor]) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path.parent, {path.name: list(tensors)}, tensors)

        by_first(self, {f"{name}.weight": table.weight for name, table in self.tables.items()}, put)

    @torch.no_grad()
    def swap_memory(self, path: str | Path) -> None:
        """Exchanges all tables by those of a safetensors file, or of a folder with weights, under their own names.

        Tables on disk are mapped from the file, which must stay as it is; others are read, while the old ones are
        still there. ValueError lists what is missing or has other rows, dimensions or another dtype; nothing is changed
        then, nor if a file cannot be read. Moments of an optimizer are those of the old tables: make a new one.
        """
        if self.mesh is not None:
            raise ValueError("the model is sharded: swap the tables of a whole model, and shard that")
        with Checkpoint(Path(path)) as checkpoint:
            names = {f"{name}.weight": table for name, table in self.tables.items()}
            problems = [problem for name, table in names.items() for problem in _misfits(name, table, checkpoint)]
            if problems:
                raise ValueError(f"{path} does not fit the tables of this model:\n  " + "\n  ".join(problems))
            sources = stored(checkpoint.headers, checkpoint.block)
            prepared = [(table, *table.prepared(sources[name], checkpoint)) for name, table in names.items()]
        for table, memory, folder, viewed in prepared:
            table.hold(memory, folder, viewed=viewed)


def _misfits(name: str, table: LargeTable, checkpoint: Checkpoint) -> list[str]:
    """One line where a file has no such table."""
    header: Any = checkpoint.headers.get(name)
    if header is None:
        return [f"{name} is not there"]
    want = table.weight
    if header.shape != tuple(want.shape):
        return [f"{name} is {list(header.shape)} there and {list(want.shape)} in the model"]
    if DTYPES.get(header.dtype) != want.dtype:
        return [f"{name} is {header.dtype} there and {str(want.dtype).removeprefix('torch.')} in the model"]
    return []
