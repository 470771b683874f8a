"""Tokens that look equal are one to a memory: which they are, from a tokenizer's text or from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checkpoint import File

if TYPE_CHECKING:
    from .table_model import TableModel

SENTINEL = "\ue000"
"""Stands for a text that is one blank, so that stripping leaves it: a character for private use."""
UNKNOWN = "\ufffd"
"""What bytes that are no whole character decode to."""


def merged_ids(tokenizer: str | Path | Any, *, vocab: int | None = None) -> Tensor:
    """The id of each token of a tokenizer after merging, [vocab] int64, as Engram numbers them (arXiv:2601.07372).

    `tokenizer` is the path of a tokenizer.json, or a `tokenizers.Tokenizer`. Tokens are one if their text is, after
    NFKC, NFD, without accents, in lower case, runs of blanks as one, and blanks at the ends stripped where anything
    else is left. Where nothing is left the text itself counts, and where it has bytes that are no whole character, the
    token. Ids are in the order in which tokens first have them.

    `vocab` is how many ids the model has (default: as many as the tokenizer); those that no token has are given 0, and
    never come up. Needs the package `tokenizers`. ValueError for more tokens than that.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    whole: Any = Tokenizer.from_file(str(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer
    known: dict[int, str] = {i: token for token, i in whole.get_vocab(with_added_tokens=True).items()}
    size = max(known, default=-1) + 1
    if vocab is not None and size > vocab:
        raise ValueError(f"the tokenizer has {size:,} ids, and there is room for {vocab:,}")
    normal = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
            normalizers.Replace(Regex(r"^ $"), SENTINEL),
            normalizers.Strip(),
            normalizers.Replace(SENTINEL, " "),
        ]
    )
    found: dict[str, int] = {}
    ids = [0] * (size if vocab is None else vocab)
    for i, token in sorted(known.items()):
        text: str = whole.decode([i], skip_special_tokens=False)
        key = token if UNKNOWN in text else normal.normalize_str(text) or text
        ids[i] = found.setdefault(key, len(found))
    return torch.tensor(ids, dtype=torch.int64)


@torch.no_grad()
def set_merged_ids(model: TableModel, ids: Tensor | Sequence[int] | str | Path, *, pad: int | None) -> None:
    """Puts the id of each token after merging into every memory of a model; its checkpoints have them from then on.

    `ids` [vocab] are whole numbers, as `merged_ids` gives them, or the path of a file with them: .npy, .safetensors
    (its only tensor), or .json (a list). `pad` is the token that stands before a sequence, by its own id, not the
    merged one; None leaves unchecked where it goes. ValueError where they are not as many as the model has tokens, not
    as many different ones as its spec says (`ids`, which bounds the multipliers of hashes), or where `pad` goes
    elsewhere than its spec says; nothing is changed then.
    """
    table = _read(ids)
    if table.dim() != 1 or table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        kind = str(table.dtype).removeprefix("torch.")
        raise ValueError(f"ids of tokens are a row of whole numbers, not {kind} {list(table.shape)}")
    table = table.to(torch.int64)
    buffers = {name: model.get_buffer(name) for name in model.merges}
    for name, (count, before) in model.merges.items():
        size = len(buffers[name])
        if len(table) != size:
            raise ValueError(f"there are ids of {len(table):,} tokens, and {name} has {size:,}")
        if pad is not None and not 0 <= pad < size:
            raise ValueError(f"pad = {pad} is no token: there are {size:,}")
        if int(table.min()) < 0:
            raise ValueError(f"token {int(table.argmin())} has the id {int(table.min())}: ids count from 0")
        found, goes = int(table.max()) + 1, before if pad is None else int(table[pad])
        if (found, goes) != (count, before):
            raise ValueError(
                f"there are {found:,} ids, and pad is {goes}, where {name} has {count:,} and {before}: build the model "
                f"from a spec with ids = {found} and pad = {goes}"
            )
        if buffers[name].is_meta:
            raise ValueError(f"{name} is on the meta device: load weights, or make the model elsewhere, first")
    for buffer in buffers.values():
        buffer.copy_(table)


def _read(ids: Tensor | Sequence[int] | str | Path) -> Tensor:
    """Numbers of whatever holds them, on the CPU."""
    if isinstance(ids, Tensor):
        return ids.detach().cpu()
    if not isinstance(ids, str | Path):
        return torch.as_tensor(ids)
    path = Path(ids)
    if path.suffix == ".npy":
        import numpy as np

        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        file = File(path)
        if len(file.headers) != 1:
            raise ValueError(f"{path} has {len(file.headers)} tensors, not one: {', '.join(sorted(file.headers)[:5])}")
        return file.tensor(next(iter(file.headers)))
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list) or not all(type(i) is int for i in content):
            raise ValueError(f"{path} is not a list of whole numbers")
        return torch.tensor(content, dtype=torch.int64)
    raise ValueError(f"{path} is no .npy, .safetensors or .json file")
