"""Sampling from a language model, one token at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a call of `generate` did."""

    lengths: tuple[int, ...]  # new tokens of each row, the end token included
    forwards: int  # passes through the model, the prompt's included
    acceptance: float | None = None  # share of drafted tokens that were kept, after speculation


@torch.no_grad()
def generate(
    model: LanguageModel,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    eos: int | list[int] | None = None,
    stream: Callable[[Tensor], Any] | None = None,
    attention_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Generation]:
    """The prompt input_ids [B, S] and what follows it, [B, S + new], and how that went.

    The most likely token is taken at temperature 0; otherwise one is drawn from softmax(logits / temperature), cut to
    the smallest set of tokens that holds `top_p` of the mass. A row ends with a token of `eos` and is filled up with
    it while others go on. Prompts of unequal length are padded on either side and told apart by attention_mask [B,
    S]. `stream` is called with each new column [B] as soon as it is known.
    """
    ends = checked_ends(input_ids, max_new_tokens, temperature, top_p, eos, attention_mask)
    batch, prompt = input_ids.shape
    end = torch.tensor(ends, dtype=input_ids.dtype, device=input_ids.device)
    cache = model.new_cache(batch, max(1, prompt + max_new_tokens), max_rewind=0)
    out = torch.cat([input_ids, input_ids.new_zeros(batch, max_new_tokens)], 1)
    lengths = torch.zeros(batch, dtype=torch.int64, device=input_ids.device)
    running = torch.ones(batch, dtype=torch.bool, device=input_ids.device)
    filler = end[:1].expand(batch) if ends else None
    new = 0
    while new < max_new_tokens and (not ends or bool(running.any())):
        if new == 0:
            logits = model.next_logits(input_ids, attention_mask, cache)
        else:
            logits = model.next_logits(out[:, prompt + new - 1, None], None, cache)
        token = sample(logits, temperature, top_p, generator).to(out.dtype)
        if filler is not None:
            token = torch.where(running, token, filler)
            filler = token  # a row that has ended repeats the token it ended with
        lengths += running
        running &= ~torch.isin(token, end)
        out[:, prompt + new] = token
        new += 1
        if stream is not None:
            stream(token)
    return out[:, : prompt + new], Generation(lengths=tuple(int(n) for n in lengths.tolist()), forwards=new)


def checked_ends(
    input_ids: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos: int | list[int] | None,
    attention_mask: Tensor | None,
) -> list[int]:
    """The tokens that end a row; ValueError for a request that cannot be."""
    if max_new_tokens < 0 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"needs max_new_tokens >= 0, temperature >= 0 and 0 < top_p <= 1, "
            f"got {max_new_tokens}, {temperature} and {top_p}"
        )
    if input_ids.dim() != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids must be [batch, tokens] with at least one row and one column, not {list(input_ids.shape)}"
        )
    if attention_mask is not None and not bool((attention_mask != 0).any(1).all()):
        raise ValueError("every row of a prompt needs at least one token")
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None) -> Tensor:
    """One token id for each row of logits [B, vocab]: [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # The largest logit becomes 0 first, so that no temperature is too small to divide by.
    mass = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p < 1:
        mass, ids = mass.sort(dim=-1, descending=True, stable=True)
        # A token stays if those before it do not hold top_p yet: the first always stays.
        mass = mass.masked_fill(mass.cumsum(-1) - mass >= top_p, 0.0)
        return ids.gather(-1, torch.multinomial(mass, 1, generator=generator))[:, 0]
    return torch.multinomial(mass, 1, generator=generator)[:, 0]
