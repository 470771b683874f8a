"""The hand-written model equals transformers, and its laws hold: chunks, padding, packing, rewinding, causality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.graph.torch_package import torch_package
from tests.runtime.handwritten import llama, randomized

torch_package()
from archc_package.runtime.modules import building, normal  # noqa: E402

KINDS = ["full full", "window full", "sinks window"]
SIZES = st.fixed_dictionaries(
    {
        "VOCAB": st.integers(11, 90),
        "DIM": st.integers(1, 7),  # times the heads: transformers wants a multiple
        "HIDDEN": st.integers(5, 60),
        "KV_HEADS": st.sampled_from([1, 2, 3]),
        "HEAD_DIM": st.sampled_from([2, 6, 10]),
        "EPS": st.sampled_from([1e-5, 1e-3]),
        "THETA": st.sampled_from([1e4, 5e5]),
    }
)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Any:
    """A model in float64, of two layers that attend to everything or to a window of 7."""
    return randomized(llama(LAYERS=request.param).Model(dtype=torch.float64)).requires_grad_(False)


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 131, (batch, length), generator=torch.Generator().manual_seed(seed))


def close(got: Tensor, want: Tensor) -> None:
    # Rotary angles are float32 on both sides, so all else is float64 rounding.
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@given(SIZES, st.sampled_from([1, 2, 4]), st.sampled_from([None, 1, 5]), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_equals_transformers(sizes: dict[str, Any], group: int, window: int | None, length: int, seed: int) -> None:
    """Logits, loss, hidden states and gradients of Llama, or of Mistral where there is a window."""
    transformers = pytest.importorskip("transformers")
    heads = sizes["KV_HEADS"] * group
    sizes = {**sizes, "DIM": sizes["DIM"] * heads}
    layers = "full full" if window is None else "window window"
    ours = randomized(llama(**sizes, HEADS=heads, LAYERS=layers, WINDOW=window or 1).Model(), seed)
    kind = "Llama" if window is None else "Mistral"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=sizes["VOCAB"],
        hidden_size=sizes["DIM"],
        intermediate_size=sizes["HIDDEN"],
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=sizes["KV_HEADS"],
        head_dim=sizes["HEAD_DIM"],
        rms_norm_eps=sizes["EPS"],
        rope_parameters={"rope_type": "default", "rope_theta": sizes["THETA"]},
        tie_word_embeddings=False,
        attn_implementation="eager",
        **({} if window is None else {"sliding_window": window}),
    )
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = torch.randint(0, sizes["VOCAB"], (2, length + 1), generator=torch.Generator().manual_seed(seed))
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.2, -100)
    labels[0, -1] = ids[0, -1]  # at least one target
    got = ours(ids, labels=labels, hidden_states=True)
    want = theirs(ids, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(got.logits, want.logits, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(got.lm_loss, want.loss, rtol=1e-5, atol=1e-5)
    assert len(got.hidden_states) == len(want.hidden_states) == 3
    for mine, reference in zip(got.hidden_states, want.hidden_states, strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-4, atol=2e-4)
    got.loss.backward()
    want.loss.backward()
    grads = dict(theirs.named_parameters())
    assert grads.keys() == dict(ours.named_parameters()).keys()
    # A gradient that is 0 in theory (one token attends to itself whatever its query) is rounding noise of the others.
    largest = max(p.grad.norm() for p in grads.values())
    for name, p in ours.named_parameters():
        reference = grads[name].grad
        assert (p.grad - reference).norm() <= 1e-3 * reference.norm() + 1e-5 * largest, name


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_chunking_gives_the_logits_of_one_pass(model: Any, chunks: list[int]) -> None:
    ids = tokens(2, sum(chunks))
    cache = model.new_cache(2, sum(chunks))
    outs = [model(part, cache=cache).logits for part in ids.split(chunks, 1)]
    close(torch.cat(outs, 1), model(ids).logits)
    assert cache.lengths.tolist() == [sum(chunks)] * 2


masks = st.lists(st.lists(st.booleans(), min_size=14, max_size=14), min_size=1, max_size=3)


@given(masks)
@settings(max_examples=25, deadline=None)
def test_padding_anywhere_changes_no_row(model: Any, rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    ids = tokens(len(rows), 14)
    ids[~mask] = -100  # ids at padding need not even be tokens
    out = model(ids, attention_mask=mask.long(), labels=ids, hidden_states=True)
    assert out.logits.shape == (len(rows), 14, 131)
    losses = []
    for b, keep in enumerate(mask):
        if keep.any():
            alone = model(ids[b : b + 1, keep], labels=ids[b : b + 1, keep], hidden_states=True)
            close(out.logits[b, keep], alone.logits[0])
            for got, want in zip(out.hidden_states, alone.hidden_states, strict=True):
                close(got[b, keep], want[0])
            losses.append((alone.lm_loss, int(keep.sum()) - 1))
    targets = max(1, sum(n for _, n in losses))
    close(out.lm_loss, torch.as_tensor(sum(loss * n for loss, n in losses) / targets, dtype=torch.float64))


@given(st.lists(masks.filter(lambda m: len(m) >= 2).map(lambda m: m[:2]), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_ragged_rows_continue_as_if_each_were_alone(model: Any, steps: list[list[list[bool]]]) -> None:
    """Every call has a mask of its own; the cache is just large enough for the longest row."""
    held: list[list[int]] = [[], []]
    room = max(1, *(sum(sum(m[b]) for m in steps) for b in range(2)))
    cache = model.new_cache(2, room)
    for i, rows in enumerate(steps):
        mask, ids = torch.tensor(rows), tokens(2, 14, seed=i)
        logits = model(ids, attention_mask=mask, cache=cache).logits
        for b in range(2):
            held[b] += ids[b, mask[b]].tolist()
            n = int(mask[b].sum())
            if n:
                close(logits[b, mask[b]], model(torch.tensor([held[b]])).logits[0, -n:])
    assert cache.lengths.tolist() == [len(row) for row in held]


@given(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=4), min_size=1, max_size=2), st.booleans())
@settings(max_examples=25, deadline=None)
def test_packed_sequences_do_not_meet(model: Any, rows: list[list[int]], left: bool) -> None:
    width = max(sum(row) for row in rows) + 2
    sequence_ids = torch.zeros(len(rows), width, dtype=torch.long)
    ids = tokens(len(rows), width)
    parts = []
    for b, row in enumerate(rows):
        at = width - sum(row) if left else 0
        for i, n in enumerate(row):
            sequence_ids[b, at : at + n] = 3 * i + 1
            parts.append((b, slice(at, at + n)))
            at += n
    out = model(ids, sequence_ids=sequence_ids, labels=ids)
    total, targets = 0.0, 0
    for b, columns in parts:
        alone = model(ids[b : b + 1, columns], labels=ids[b : b + 1, columns])
        close(out.logits[b, columns], alone.logits[0])
        total += float(alone.lm_loss) * (columns.stop - columns.start - 1)
        targets += columns.stop - columns.start - 1
    assert float(out.lm_loss) == pytest.approx(total / max(1, targets), rel=1e-9)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_rewinding_forgets(model: Any, steps: list[tuple[int, int]]) -> None:
    """Each step writes what is wanted and some junk, then takes the junk back."""
    cache = model.new_cache(2, 40, max_rewind=5)
    ids = tokens(2, sum(n for n, _ in steps))
    outs, at = [], 0
    for i, (n, junk) in enumerate(steps):
        outs.append(model(ids[:, at : at + n], cache=cache).logits)
        at += n
        if junk:
            model(tokens(2, junk, seed=i + 1), cache=cache)
            cache.rewind(junk)
    close(torch.cat(outs, 1), model(ids).logits)


def test_rows_rewind_by_themselves(model: Any) -> None:
    cache = model.new_cache(2, 40, max_rewind=5)
    ids = tokens(2, 20)
    model(ids[:, :12], cache=cache)
    cache.rewind(torch.tensor([4, 1]))
    logits = model(ids[:, 12:16], cache=cache).logits
    for b, length in enumerate((8, 11)):
        row = torch.cat([ids[b, :length], ids[b, 12:16]])[None]
        close(logits[b], model(row).logits[0, -4:])


def test_a_permuted_batch_gives_permuted_rows(model: Any) -> None:
    ids, order = tokens(4, 15), torch.tensor([2, 0, 3, 1])
    close(model(ids[order]).logits, model(ids).logits[order])


def test_no_token_sees_the_future(model: Any) -> None:
    ids = tokens(1, 20)
    other = ids.clone()
    other[:, 13:] = (other[:, 13:] + 1) % 131
    a, b = model(ids).logits, model(other).logits
    close(a[:, :13], b[:, :13])
    assert (a[:, 13:] - b[:, 13:]).abs().amax(-1).min() > 1e-3


def test_a_window_layer_sees_no_further_than_its_window() -> None:
    """Two layers of window 7 reach 12 tokens back, and no further."""
    model = randomized(llama(LAYERS="window window").Model(dtype=torch.float64))
    ids = tokens(1, 20)
    other = ids.clone()
    other[:, 0] = (other[:, 0] + 1) % 131
    changed = (model(ids).logits - model(other).logits).abs().amax(-1)[0]
    assert bool((changed[:13] > 0).all()) and bool((changed[13:] == 0).all())


def test_position_ids_turn_the_rotary_embedding_only(model: Any) -> None:
    ids = tokens(2, 9)
    positions = torch.arange(9)
    # Only distances count, up to the rounding of float32 angles.
    torch.testing.assert_close(model(ids, position_ids=positions + 5).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    stretched = model(ids, position_ids=3 * positions[None]).logits
    assert (stretched - model(ids).logits).abs().max() > 1e-3
    cache = model.new_cache(2, 9)
    chunks = [model(ids[:, i : i + 3], position_ids=3 * positions[i : i + 3], cache=cache).logits for i in (0, 3, 6)]
    close(torch.cat(chunks, 1), stretched)


def test_labels_are_shifted_inside_and_ignored_at_minus_100(model: Any) -> None:
    ids = tokens(2, 8)
    labels = ids.clone()
    labels[:, [0, 3]] = -100
    want = -model(ids).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    keep = labels[:, 1:] != -100
    out = model(ids, labels=labels)
    close(out.lm_loss, want[keep].mean())
    assert out.loss is out.lm_loss and out.losses == {}
    assert float(model(ids, labels=torch.full_like(ids, -100)).loss) == 0


def test_the_loss_is_float32_when_the_model_is_not() -> None:
    model = randomized(llama().Model(dtype=torch.bfloat16))
    out = model(tokens(2, 30), labels=tokens(2, 30))
    assert out.logits.dtype == torch.bfloat16
    assert out.lm_loss.dtype == torch.float32
    want = torch.nn.functional.cross_entropy(out.logits[:, :-1].double().flatten(0, 1), tokens(2, 30)[:, 1:].flatten())
    assert out.lm_loss.item() == pytest.approx(want.item(), rel=1e-6)


def test_other_losses_are_reported_apart_and_weighted_in_the_total() -> None:
    module = llama()

    class WithBalance(module.SwigluMlp):
        def forward(self, x: Tensor, step: Any) -> Tensor:
            step.add_loss("balance", lambda: x.new_tensor(3.0), weight=0.5)
            return super().forward(x, step)

    module.SwigluMlp = WithBalance
    model = module.Model()
    out = model(tokens(1, 5), labels=tokens(1, 5))
    assert float(out.losses["balance"]) == 6  # one of each layer
    assert out.loss.item() == pytest.approx(out.lm_loss.item() + 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": tokens(2, 0)}, "at least one row and one column"),
        ({"input_ids": tokens(2, 4)[:0]}, "at least one row and one column"),
        ({"input_ids": tokens(1, 4)[0]}, "must be \\[batch, tokens\\]"),
        ({"attention_mask": torch.ones(2, 5)}, "attention_mask is \\[2, 5\\]"),
        ({"labels": tokens(2, 3)}, "labels is \\[2, 3\\]"),
        ({"position_ids": torch.arange(3)}, "position_ids is \\[3\\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = llama().Model()
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": tokens(2, 4), **arguments})


def test_caches_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    model = llama(LAYERS="window full").Model()
    cache = model.new_cache(2, 6)
    model(tokens(2, 4), cache=cache)
    before = [store.data.clone() for layer in cache.layers for store in vars(layer).values()]
    with pytest.raises(ValueError, match="made for 6 tokens a row, and this call needs 7"):
        model(tokens(2, 3), cache=cache)
    with pytest.raises(ValueError, match="packed rows cannot be cached"):
        model(tokens(2, 2), sequence_ids=torch.ones(2, 2, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="1 rows, but the cache was made for 2"):
        model(tokens(1, 2), cache=cache)
    with pytest.raises(ValueError, match="layout is 'fp7'"):
        model.new_cache(2, 6, layout="fp7")
    with pytest.raises(ValueError, match="whole numbers"):
        cache.rewind(1.5)
    after = [store.data for layer in cache.layers for store in vars(layer).values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert cache.lengths.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("package", "dtype", "layout", "stored"),
    [
        ("fp32", torch.bfloat16, None, torch.float32),
        ("bf16", torch.bfloat16, None, torch.bfloat16),
        ("bf16", torch.float32, None, torch.float32),
        ("bf16", torch.float64, None, torch.float64),
        ("fp32", torch.float32, "bf16", torch.bfloat16),
        ("bf16", torch.bfloat16, "fp32", torch.float32),
    ],
)
def test_a_cache_stores_its_layout_or_what_is_wider(
    package: str, dtype: torch.dtype, layout: Any, stored: torch.dtype
) -> None:
    module = llama(LAYERS="window full")
    module.Model.cache_layout = package
    model = module.Model(dtype=dtype)
    cache = model.new_cache(3, 20, max_rewind=2, layout=layout)
    assert {store.data.dtype for layer in cache.layers for store in vars(layer).values()} == {stored}
    size = torch.empty(0, dtype=stored).element_size()
    assert cache.bytes() == 3 * (2 * 2 * 10 * size * (6 + 2) + 2 * 2 * 10 * size * 20 + 8)
    model(tokens(3, 5), cache=cache)


def test_two_parts_of_a_layer_may_not_keep_the_same_name() -> None:
    module = llama()
    model = module.Model()
    model.model.layers[0].second = module.GqaAttention(0)
    with pytest.raises(ValueError, match="two parts of layer 0 keep \\['keys', 'values'\\]"):
        model.new_cache(1, 4)


def test_parameters_are_made_where_and_how_they_are_asked_for() -> None:
    module = llama()
    model = module.Model(dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert all(p.is_meta for p in module.Model(device="meta").parameters())
    torch.manual_seed(0)
    wide = llama(VOCAB=2000, DIM=64).Model()
    for name, p in wide.named_parameters():
        if "norm" in name:
            assert bool((p == 1).all())
        else:  # the spread of n normal numbers is within 5 / sqrt(2 n) of its mean
            assert abs(p.std().item() / 0.02 - 1) < 5 / (2 * p.numel()) ** 0.5, name
            assert abs(p.mean().item()) < 5 * 0.02 / p.numel() ** 0.5, name
    assert model.after_step() is None


def test_building_covers_parameters_that_no_module_makes() -> None:
    with building("meta", torch.bfloat16):
        assert (normal(3, 4).dtype, normal(3, 4).device.type) == (torch.bfloat16, "meta")
        assert normal(3, dtype=torch.float32).dtype == torch.float32
    torch.manual_seed(0)
    weight = normal(200, 300, std=0.5)
    assert isinstance(weight, torch.nn.Parameter)
    assert weight.shape == (200, 300)
    assert abs(weight.std().item() / 0.5 - 1) < 5 / (2 * weight.numel()) ** 0.5
    with pytest.raises(RuntimeError), building("meta", torch.float64):
        raise RuntimeError
    assert torch.get_default_dtype() == torch.float32  # put back even after an error
