"""Speculative decoding: the modules that predict further tokens draft some, the model verifies them in one pass.

A draft is kept where it is the very token that the model takes in its place. So what comes out is what the model alone
would give: the same tokens at temperature 0, else tokens of the same distribution (Leviathan et al. 2023,
arXiv:2211.17192, with drafts that are certain).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .cache import Cache
from .generate import Generation, checked_ends, sample
from .model import pair, rows_of, time_of
from .rows import Rows

if TYPE_CHECKING:
    from .mtp import MtpLanguageModel


@torch.no_grad()
def speculate(
    model: MtpLanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    drafts: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    eos: int | list[int] | None = None,
    stream: Callable[[Tensor], Any] | None = None,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Generation]:
    """What `generate` gives, with up to `drafts` tokens drafted for each pass through the model.

    Rows keep different numbers of them and go on at their own pace; `stream` gets a column as soon as all have it.
    """
    ends = checked_ends(input_ids, max_new_tokens, temperature, top_p, eos, attention_mask)
    batch, prompt = input_ids.shape
    cache = model.new_cache(batch, prompt + max_new_tokens + drafts, max_rewind=drafts)
    text = _Text(input_ids, max_new_tokens, frozenset(ends), stream)
    # Tokens by column: those of the prompt, those taken, and behind them the drafts.
    ids = input_ids.new_zeros(batch, cache.max_tokens + 2)
    drafter = _Drafter(model, cache, ids, drafts)
    forwards = proposed = 0
    while text.running:
        if forwards == 0:
            rows = rows_of(input_ids, cache=cache, attention_mask=attention_mask)
            ids[:, : rows.new] = rows.pack(input_ids)
            _, x, carried = model.run(rows, input_ids, cache=cache)
            logits = model.head(x[torch.arange(batch, device=x.device), rows.count - 1, None])
            fed = [int(n) for n in cache.known]
            start = cache.lengths - 1
        else:
            proposed = min(drafts, text.room - 1)
            drafter.draft(carried, fed, proposed)
            start = cache.lengths
            rows = _rows([0 if ended else proposed + 1 for ended in text.ended], proposed + 1, ids)
            _, x, carried = model.run(rows, _columns(ids, start, proposed + 1), cache=cache)
            logits = model.head(x)
        taken = sample(logits.flatten(0, 1), temperature, top_p, generator).view(batch, -1).to(ids.dtype)
        forwards += 1
        kept = text.take(taken, _columns(ids, start + 1, proposed))
        ids.scatter_(1, _index(start + 1, proposed + 1), taken)
        if forwards > 1:
            cache.rewind([n - k for n, k in zip(rows.known or (), kept, strict=True)])
            fed = kept
    return text.ids(), Generation(lengths=text.lengths, forwards=forwards, acceptance=text.acceptance)


class _Text:
    """What has been taken for each row, on the host: where rows end, what is streamed, how many drafts were right."""

    def __init__(self, prompt: Tensor, most: int, ends: frozenset[int], stream: Callable[[Tensor], Any] | None) -> None:
        self.prompt, self.most, self.ends, self.stream = prompt, most, ends, stream
        self.new: list[list[int]] = [[] for _ in prompt]
        self.ended = [most == 0] * len(prompt)
        self.streamed = 0
        self.drafted = self.right = 0

    @property
    def running(self) -> bool:
        """Whether a row goes on."""
        return not all(self.ended)

    @property
    def room(self) -> int:
        """How many tokens the shortest row that goes on may still take."""
        return self.most - min(len(new) for new, ended in zip(self.new, self.ended, strict=True) if not ended)

    @property
    def lengths(self) -> tuple[int, ...]:
        """New tokens of each row, the end token included."""
        return tuple(len(new) for new in self.new)

    @property
    def acceptance(self) -> float | None:
        """The share of drafts that were kept, of those that had room."""
        return self.right / self.drafted if self.drafted else None

    def take(self, taken: Tensor, drafts: Tensor) -> list[int]:
        """Adds taken [B, k + 1] to the rows that go on, as far as drafts [B, k] were right; returns how many tokens."""
        before = self.lengths
        for row, (tokens, drafted) in enumerate(zip(taken.tolist(), drafts.tolist(), strict=True)):
            if self.ended[row]:
                continue
            new = self.new[row]
            self.drafted += min(len(drafted), self.most - len(new))
            for token, draft in zip(tokens, [*drafted, None], strict=True):
                new.append(token)
                self.right += token == draft
                self.ended[row] = token in self.ends or len(new) == self.most
                if self.ended[row] or token != draft:
                    break
        self._stream()
        return [now - then for now, then in zip(self.lengths, before, strict=True)]

    def ids(self) -> Tensor:
        """The prompt and what follows it; rows that ended early repeat the token they ended with."""
        columns = [self._column(i) for i in range(max(self.lengths))]
        return torch.cat([self.prompt, *(column[:, None] for column in columns)], 1)

    def _column(self, i: int) -> Tensor:
        tokens = [new[min(i, len(new) - 1)] for new in self.new]
        return torch.tensor(tokens, dtype=self.prompt.dtype, device=self.prompt.device)

    def _stream(self) -> None:
        """Hands on the columns that every row now has, or has ended before."""
        ready = max(self.lengths) if not self.running else self.most - self.room
        for i in range(self.streamed, ready):
            if self.stream is not None:
                self.stream(self._column(i))
        self.streamed = ready


class _Drafter:
    """The modules with a cache of each, in which a column stands that a draft was based on only while it is drafted.

    Module k pairs column c with the token in column c + 1 + k and so predicts that in column c + 2 + k. The first draft
    is that of module 0 at the last column, the next that of module 1 with the first draft as its token, and so on. The
    last module goes on by reading what it hands on itself as that of the next columns, as SGLang and vLLM do.
    """

    def __init__(self, model: MtpLanguageModel, cache: Cache, ids: Tensor, drafts: int) -> None:
        self.model, self.main, self.ids = model, cache, ids
        used = min(drafts, len(model.mtp))
        self.caches = [model.draft_cache(k, cache.batch, cache.max_tokens, drafts) for k in range(used)]
        # What module k reads in the first column that it runs again, k columns before those that the model adds.
        self.earlier: dict[int, Tensor] = {}

    def draft(self, carried: Tensor, fed: Sequence[int], number: int) -> None:
        """Puts `number` drafts behind the newest token of each row, which stands in the main model's next column.

        carried [B, C, ...] is what the first module reads of the `fed` columns that the main model has added; a row
        with none has ended.
        """
        ended = [n == 0 for n in fed]
        after = list(self.main.known)
        before = [n - new for n, new in zip(after, fed, strict=True)]
        row = torch.arange(len(carried), device=carried.device)
        last = len(self.caches) - 1
        for i in range(number):
            depth = min(i, last)
            if 0 < i <= last:
                carried = self._with_earlier(depth, carried, before, after)
            first = [max(0, n - depth) for n in before] if i <= last else [n - 1 for n in after]
            count = [0 if end else n - f for end, n, f in zip(ended, after, first, strict=True)]
            x, carried = self._run(depth, carried, count)
            at = torch.tensor(count, device=row.device).sub(1).clamp(min=0)
            target = _index(self.main.lengths + 1 + i, 1)
            self.ids.scatter_(1, target, self.model.head(x[row, at, None]).argmax(-1).to(self.ids.dtype))
            if i >= last:
                carried = carried[row, at, None]
        for depth, cache in enumerate(self.caches):
            cache.rewind([max(0, held - max(0, n - depth)) for held, n in zip(cache.known, after, strict=True)])

    def _run(self, depth: int, carried: Tensor, count: list[int]) -> tuple[Tensor, Tensor]:
        """What the head and the next module get of module `depth` in the next `count` columns of each row."""
        cache = self.caches[depth]
        rows = _rows(count, carried.shape[1], self.ids)
        tokens = _columns(self.ids, cache.lengths + 1 + depth, rows.new)
        out = pair(self.model.ahead(depth, carried, self.model.step(tokens, time_of(rows, None, cache), cache)))
        cache.advance(rows.count, count)
        return out

    def _with_earlier(self, depth: int, carried: Tensor, before: list[int], after: list[int]) -> Tensor:
        """Input of module `depth`: from its first column not based on a draft, which the last call may have left."""
        joined = torch.cat([self.earlier.get(depth, torch.zeros_like(carried[:, :1])), carried], 1)
        # A row too short for an earlier column starts where the module before it does.
        short = torch.tensor([int(n < depth) for n in before], device=carried.device)
        row = torch.arange(len(carried), device=carried.device)[:, None]
        joined = joined[row, _index(short, joined.shape[1]).clamp(max=joined.shape[1] - 1)]
        again = [max(0, n - depth - max(0, m - depth)) for n, m in zip(after, before, strict=True)]
        self.earlier[depth] = joined[row, torch.tensor(again, device=carried.device)[:, None]]
        return joined


def _rows(count: list[int], new: int, like: Tensor) -> Rows:
    """Rows of `count` tokens in the first of `new` columns."""
    return Rows(count=torch.tensor(count, device=like.device), known=count, new=new)


def _index(start: Tensor, count: int) -> Tensor:
    """The columns from start [B] on: [B, count]."""
    return start[:, None] + torch.arange(count, device=start.device)


def _columns(ids: Tensor, start: Tensor, count: int) -> Tensor:
    """ids [B, L] from column start [B] on, the last column again where there are no more: [B, count]."""
    return ids.gather(1, _index(start, count).clamp(max=ids.shape[1] - 1))
