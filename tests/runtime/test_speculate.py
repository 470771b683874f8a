"""Drafting changes no token: speculation gives what decoding one by one gives, and counts its drafts rightly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.graph.torch_package import torch_package
from archc.resolve import load_text
from tests.built import built, randomise

torch_package()
from archc_package.runtime.model import pair, time_of  # noqa: E402
from archc_package.runtime.rows import Rows  # noqa: E402

VOCAB = 3
"""So few tokens that a draft is often right, whatever the weights: what drafts are made of decides how often."""

SPEC = """arch 1
model {name} {{
  vocab = {vocab}, dim = 16, layers = 2, context = 64
  attention far = gqa {{ heads = 2, rope = rope }}
  attention local = far {{ window = 4, sinks = true }}
  ffn = swiglu {{ hidden = 24 }}
  schedule {{ attention = [local, far] }}
  mtp = concat {{ depth = {depth}, attention = {attention} }}
}}
"""

KINDS = [(1, "far"), (1, "local"), (2, "local"), (3, "far")]

STREAMS = """arch 1
model {name} {{
  vocab = {vocab}, dim = 12, layers = 3, context = 64
  residual = mhc {{ streams = 2, sinkhorn_iters = 4 }}
  attention swa = windowed {{
    heads = 2, head_dim = 6, rope_dim = 2, q_rank = 8, out_groups = 2, out_rank = 4, window = 4
    rope = rope {{ pairs = interleaved }}
  }}
  attention csa = swa {{ compress = csa {{ ratio = 2, indexer = lightning {{ heads = 2, head_dim = 4, topk = 3 }} }} }}
  attention hca = swa {{ compress = hca {{ ratio = 3 }} }}
  ffn dense  = swiglu {{ hidden = 14 }}
  ffn hashed = moe {{ experts = 3, hidden = 6, shared = 1, router = hash {{ active = 1 }} }}
  schedule {{ attention = [swa, csa, hca], ffn = [hashed, dense * 2] }}
  mtp = mtp_streams {{ depth = {depth}, attention = {attention}, ffn = hashed }}
}}
"""
"""Groups, overlaps and windows that drafts come to lie across, in the main model and in modules of every attention."""

OF_STREAMS = [(1, "swa"), (2, "csa"), (1, "hca")]


@cache
def model(depth: int, attention: str, vocab: int = VOCAB) -> Any:
    """A model with random weights, whose predictions are neither all alike nor all sure."""
    name = f"ahead_{depth}_{attention}_{vocab}"
    spec = STREAMS if (depth, attention) in OF_STREAMS else SPEC
    text = spec.format(name=name, vocab=vocab, depth=depth, attention=attention)
    made = built(load_text(text)[0], Path(mkdtemp())).Model(dtype=torch.float64)
    randomise(made, seed=depth)
    for name, table in made.named_buffers():
        if name.endswith("tid2eid"):
            table.copy_(torch.arange(vocab)[:, None] % 3)
    return made.requires_grad_(False)


def tokens(rows: int, columns: int, seed: int, vocab: int = VOCAB) -> Tensor:
    return torch.randint(vocab, (rows, columns), generator=torch.Generator().manual_seed(seed))


def proposed(made: Any, known: list[int], count: int) -> tuple[list[int], list[Tensor]]:
    """Drafts for what follows the tokens of one row and the vectors they are of, without any cache."""
    ids, vectors = list(known), []
    columns = len(known) - 1
    text = torch.tensor([known[:-1]])
    _, _, inputs = made.run(Rows.whole(text), text)
    last = len(made.mtp) - 1
    for i in range(count):
        depth = min(i, last)
        ahead = torch.tensor([ids[1 + depth :]])
        assert ahead.shape[1] == inputs.shape[1] == columns + max(0, i - last)
        step = made.step(ahead, time_of(Rows.whole(ahead), None, None), None)
        x, given = pair(made.ahead(depth, inputs, step))
        vectors.append(x[0, -1])
        ids.append(int(made.head(x[:, -1]).argmax()))
        # The next module reads all that this one gives; the last module reads its own newest as one more column.
        inputs = given if i < last else torch.cat([inputs, given[:, -1:]], 1)
    return ids[len(known) :], vectors


@contextmanager
def recorded(made: Any) -> Iterator[list[Tensor]]:
    """What the head gets [B, dim] to draft from, for each draft."""
    vectors: list[Tensor] = []
    ahead = type(made).ahead

    def spy(self: Any, depth: int, carried: Tensor, step: Any) -> Tensor | tuple[Tensor, Tensor]:
        out = ahead(self, depth, carried, step)
        x, _ = pair(out)
        vectors.append(x[torch.arange(len(x)), (step.time.count - 1).clamp(min=0)])
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made), "ahead", spy)
        yield vectors


def simulated(
    made: Any, prompts: list[list[int]], texts: list[list[int]], count: int, most: int, vectors: list[Tensor]
) -> tuple[int, int, int]:
    """Passes through the model, drafts with room, and drafts kept, where the rows are known to become `texts`.

    Checks the vectors of the drafts on the way.
    """
    new, left = [1] * len(prompts), list(vectors)
    forwards, drafted, kept = 1, 0, 0
    while going := [row for row, text in enumerate(texts) if new[row] < len(text)]:
        number = min(count, max(most - new[row] for row in going) - 1)
        forwards += 1
        given, left = left[:number], left[number:]
        for row in going:
            text, at = texts[row], new[row]
            drafts, wanted = proposed(made, prompts[row] + text[:at], number)
            for got, want in zip(given, wanted, strict=True):
                torch.testing.assert_close(got[row], want, rtol=0, atol=1e-11)
            drafted += min(number, most - at)
            right = 0
            while right < number and at + right < len(text) and drafts[right] == text[at + right]:
                right += 1
            kept += right
            new[row] = min(len(text), at + right + 1)
    assert not left
    return forwards, drafted, kept


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize(("depth", "attention"), KINDS)
def test_tokens_are_those_of_decoding_one_by_one(depth: int, attention: str, data: st.DataObject) -> None:
    """For rows of any lengths, any number of drafts, with and without an end; and acceptance is what it claims."""
    tokens_stay(model(depth, attention), data)


@settings(max_examples=10, deadline=None, database=None, derandomize=True)
@given(data=st.data())
@pytest.mark.parametrize(("depth", "attention"), OF_STREAMS)
def test_tokens_are_those_of_decoding_one_by_one_with_streams(depth: int, attention: str, data: st.DataObject) -> None:
    """The same with residual streams, compressed entries, overlapping groups and experts chosen by token."""
    tokens_stay(model(depth, attention), data)


def tokens_stay(made: Any, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), label="lengths")
    count = data.draw(st.integers(1, 6), label="drafts")
    most = data.draw(st.integers(1, 14), label="new tokens")
    eos = data.draw(st.sampled_from([None, 1, [0, 2]]), label="end")
    left = data.draw(st.booleans(), label="padding on the left")
    prompts = [tokens(1, n, data.draw(st.integers(0, 1 << 20)))[0].tolist() for n in lengths]
    wide = max(lengths)
    ids, mask = torch.zeros(len(prompts), wide, dtype=torch.long), torch.zeros(len(prompts), wide, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        at = slice(wide - len(prompt), wide) if left else slice(0, len(prompt))
        ids[row, at], mask[row, at] = torch.tensor(prompt), 1

    want = made.generate(ids, most, eos=eos, attention_mask=mask)
    alone = made.last_generation
    columns: list[Tensor] = []
    with recorded(made) as vectors:
        got = made.generate(ids, most, eos=eos, attention_mask=mask, speculate=count, stream=columns.append)
    assert torch.equal(got, want)
    assert torch.equal(torch.stack(columns, 1), want[:, wide:])
    done = made.last_generation
    assert done.lengths == alone.lengths
    assert done.forwards <= alone.forwards
    texts = [row[:n] for row, n in zip(want[:, wide:].tolist(), done.lengths, strict=True)]
    forwards, drafted, kept = simulated(made, prompts, texts, count, most, vectors)
    assert done.forwards == forwards
    assert done.acceptance == (kept / drafted if drafted else None)


def test_a_model_that_knows_what_comes_needs_few_passes() -> None:
    """Taught a text with a period, its drafts are right nearly always, all of the last module's included."""
    torch.manual_seed(0)
    text = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]).repeat(8)[None, :48]
    made = built(load_text(SPEC.format(name="taught", vocab=10, depth=1, attention="far"))[0], Path(mkdtemp())).Model()
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        made(text, labels=text).loss.backward()
        optimizer.step()
    prompt = text[:, :16]
    assert torch.equal(made.generate(prompt, 24, speculate=3), text[:, :40])
    assert made.last_generation.acceptance > 0.8
    assert made.last_generation.forwards <= 9


def test_a_model_that_knows_nothing_accepts_by_chance() -> None:
    """Untrained, over many tokens: drafts are as good as guesses."""
    made = model(1, "far", vocab=500)
    ids = tokens(4, 6, seed=1, vocab=500)
    assert torch.equal(made.generate(ids, 20, speculate=4), made.generate(ids, 20))
    made.generate(ids, 20, speculate=4)
    assert made.last_generation.acceptance < 0.1
    assert made.last_generation.forwards >= 18


@pytest.mark.parametrize(("depth", "attention"), [*KINDS, (1, "swa")])
def test_sampled_tokens_have_the_distribution_of_the_model(depth: int, attention: str) -> None:
    """Three tokens of each of many equal rows against what full forwards say of every such text."""
    made = model(depth, attention)
    prompt, rows = tokens(1, 5, seed=2), 20_000 if (depth, attention) in KINDS else 5_000
    texts = torch.tensor(list(product(range(VOCAB), repeat=3)))
    logits = made(torch.cat([prompt.expand(len(texts), -1), texts], 1)).logits[:, 4:7]
    want = (logits / 1.3).log_softmax(-1).gather(2, texts[:, :, None]).sum((1, 2)).exp()
    generator = torch.Generator().manual_seed(7)
    out = made.generate(prompt.expand(rows, -1), 3, temperature=1.3, speculate=2, generator=generator)[:, 5:]
    assert 0 < made.last_generation.acceptance < 1
    index = out @ torch.tensor([VOCAB * VOCAB, VOCAB, 1])
    found = index.bincount(minlength=len(texts)) / rows
    assert bool(((found - want).abs() <= 5 * (want * (1 - want) / rows).sqrt()).all())


def test_impossible_requests_are_refused() -> None:
    made, ids = model(1, "far"), tokens(2, 3, seed=3)
    with pytest.raises(ValueError, match="speculate >= 0"):
        made.generate(ids, speculate=-1)
    with pytest.raises(ValueError, match="top_p <= 1"):
        made.generate(ids, speculate=1, top_p=0)
    without = type(made)(mtp=False)
    assert not any(name.startswith("mtp") for name in without.state_dict())
    with pytest.raises(ValueError, match="mtp=False"):
        without.generate(ids, speculate=1)
    assert torch.equal(made.generate(ids, 0, speculate=2), ids)
    assert made.last_generation.forwards == 0


def test_without_its_modules_a_model_is_the_same_model() -> None:
    made = model(2, "local")
    without = type(made)(dtype=torch.float64, mtp=False)
    left = without.load_state_dict(made.state_dict(), strict=False)
    assert left.missing_keys == []
    assert all(name.startswith("mtp.") for name in left.unexpected_keys)
    ids = tokens(2, 9, seed=4)
    out = without(ids, labels=ids)
    assert torch.equal(out.logits, made(ids).logits)
    assert out.losses == {}
    assert torch.equal(out.loss, out.lm_loss)


def test_with_a_cache_the_loss_is_of_the_next_token_alone() -> None:
    """A cache holds nothing of the modules: a chunk has no past to predict further tokens from."""
    made, ids = model(1, "far"), tokens(2, 9, seed=5)
    out = made(ids, labels=ids, cache=made.new_cache(2, 9))
    assert out.losses == {}
    assert torch.allclose(out.loss, made(ids, labels=ids).lm_loss)
