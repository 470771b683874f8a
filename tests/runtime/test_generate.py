"""Generation with a cache gives what the whole sequence would, row by row, and stops where it should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from archc.graph.torch_package import torch_package
from tests.runtime.handwritten import llama, randomized

torch_package()
from archc_package.runtime.generate import sample  # noqa: E402


@pytest.fixture(scope="module", params=["full full", "sinks window"])
def model(request: pytest.FixtureRequest) -> Any:
    return randomized(llama(LAYERS=request.param).Model(dtype=torch.float64)).requires_grad_(False)


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 131, (batch, length), generator=torch.Generator().manual_seed(seed))


def without_cache(model: Any, prompt: Tensor, new: int) -> Tensor:
    """The most likely continuation of one row, by running everything again for every token."""
    row = prompt[None]
    for _ in range(new):
        row = torch.cat([row, model(row).logits[:, -1].argmax(-1)[:, None]], 1)
    return row[0, len(prompt) :]


def test_the_most_likely_tokens_are_those_of_a_run_without_cache(model: Any) -> None:
    ids = tokens(3, 9)
    out = model.generate(ids, 12)
    assert torch.equal(out[:, :9], ids)
    for b in range(3):
        assert torch.equal(out[b, 9:], without_cache(model, ids[b], 12))
    assert model.last_generation.lengths == (12, 12, 12)
    assert model.last_generation.forwards == 12
    assert model.last_generation.acceptance is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_unequal_length_are_padded_on_either_side(model: Any, side: str) -> None:
    prompts = [tokens(1, n, seed=n)[0] for n in (3, 9, 5)]
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for b, prompt in enumerate(prompts):
        at = slice(9 - len(prompt), 9) if side == "left" else slice(0, len(prompt))
        ids[b, at], mask[b, at] = prompt, 1
    out = model.generate(ids, 10, attention_mask=mask)
    for b, prompt in enumerate(prompts):
        assert torch.equal(out[b, 9:], without_cache(model, prompt, 10))


def test_each_row_stops_at_its_own_end_and_repeats_it(model: Any) -> None:
    ids = tokens(3, 6, seed=4)
    free = model.generate(ids, 12)[:, 6:]
    ends = [int(free[0, 2]), int(free[1, 5])]
    streamed: list[Tensor] = []
    out = model.generate(ids, 12, eos=ends, stream=streamed.append)[:, 6:]
    lengths = []
    for b in range(3):
        stop = next((i + 1 for i, token in enumerate(free[b].tolist()) if token in ends), 12)
        lengths.append(stop)
        assert torch.equal(out[b, :stop], free[b, :stop])
        assert bool((out[b, stop:] == out[b, stop - 1]).all())
    assert max(lengths) == out.shape[1]
    assert model.last_generation.lengths == tuple(lengths)
    assert torch.equal(torch.stack(streamed, 1), out)


def test_generation_ends_when_all_rows_have(model: Any) -> None:
    ids = tokens(1, 6)
    first = int(model.generate(ids, 1)[0, -1])
    out = model.generate(ids, 50, eos=first)
    assert out.shape == (1, 7)
    assert model.last_generation.forwards == 1


def test_sampling_follows_the_seed(model: Any) -> None:
    ids = tokens(2, 5)
    runs = [
        model.generate(ids, 10, temperature=1.5, top_p=0.95, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(model.generate(ids, 10, temperature=1e-30), model.generate(ids, 10))


def test_samples_have_the_frequencies_of_the_softmax() -> None:
    logits = torch.tensor([0.5, 2.0, 1.0, -1.0]).expand(40000, 4)
    drawn = sample(logits, 2.0, 1.0, torch.Generator().manual_seed(0)).bincount(minlength=4) / 40000
    want = (logits[0] / 2).softmax(-1)
    assert bool(((drawn - want).abs() < 5 * (want * (1 - want) / 40000).sqrt()).all())


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, {1}), (0.64, {1}), (0.66, {1, 2}), (0.95, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_holds_it(top_p: float, kept: set[int]) -> None:
    """Probabilities 0.08, 0.65, 0.25, 0.02."""
    logits = torch.tensor([0.08, 0.65, 0.25, 0.02]).log().expand(20000, 4)
    drawn = sample(logits, 1.0, top_p, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == kept


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speculate": 2}, "this model has no MTP"),
        ({"max_new_tokens": -1}, "max_new_tokens >= 0"),
        ({"temperature": -0.1}, "temperature >= 0"),
        ({"top_p": 0.0}, "top_p <= 1"),
        ({"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "at least one token"),
    ],
)
def test_impossible_requests_are_refused(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(tokens(2, 3), **arguments)


def test_prompts_without_a_row_or_a_token_are_refused(model: Any) -> None:
    for ids in (tokens(2, 3)[0], tokens(2, 3)[:0], tokens(2, 0)):
        with pytest.raises(ValueError, match="at least one row and one column"):
            model.generate(ids, 2)


def test_nothing_asked_for_is_nothing_generated(model: Any) -> None:
    ids = tokens(2, 3)
    assert torch.equal(model.generate(ids, 0), ids)
    assert model.last_generation.lengths == (0, 0)


def test_a_prompt_never_takes_logits_of_all_its_tokens(model: Any) -> None:
    """Logits of a long prompt would be larger than all else together."""
    rows: list[int] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(args[0].numel() // args[0].shape[-1]))
    model.generate(tokens(2, 30), 3)
    hook.remove()
    assert rows == [2, 2, 2]


def test_what_was_generated_may_be_learned_from(model: Any) -> None:
    """Nothing made in inference mode is left: neither ids, nor what was streamed, nor what is kept between calls."""
    streamed: list[Tensor] = []
    out = model.generate(tokens(2, 5), 4, stream=streamed.append)
    model.requires_grad_(requires_grad=True)
    try:
        for ids in (out, torch.stack(streamed, 1)):
            assert not ids.is_inference()
            model(ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in model.parameters())
    finally:
        model.requires_grad_(requires_grad=False).zero_grad()
