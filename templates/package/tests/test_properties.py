"""Laws of a language model with state, on the tiny twin of this package; the full model's parameters on meta.

However tokens reach the model (whole, in chunks, one by one, padded, packed, rewound), each must get the logits that
one forward over its own sequence gives it.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .. import Model as FullModel
from .. import load_weights
from .tiny_model import Model
from .twin import COLUMNS, DTYPES, FULL, TINY, assert_same, fresh, logits, randomise, tokens, twin

REWIND = 8

# Nothing is kept on disk, and every run tries the same examples.
law = settings(max_examples=12, deadline=None, database=None, derandomize=True)
few = settings(law, max_examples=6)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
seeds = st.integers(0, 2**31)
speculations = (0, 3) if TINY["cost"]["decode"]["params"]["mtp"] else (0,)


@st.composite
def batches(draw: st.DrawFn, *, rows: int = 3, least: int = 2) -> Tensor:
    """Token ids of up to `rows` rows and `COLUMNS` columns, at least `least`."""
    return tokens(draw(st.integers(1, rows)), draw(st.integers(least, COLUMNS)), draw(seeds))


@st.composite
def masks(draw: st.DrawFn, rows: int, columns: int) -> Tensor:
    """True at tokens [rows, columns]: padding on the left, the right or anywhere, but a token in each row."""
    column = torch.arange(columns)
    out = []
    for _ in range(rows):
        count = draw(st.integers(1, columns))
        side = draw(st.sampled_from(("left", "right", "anywhere")))
        if side == "anywhere":
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(draw(seeds)))
            out.append(order < count)
        else:
            out.append(column >= columns - count if side == "left" else column < count)
    return torch.stack(out)


@st.composite
def pieces(draw: st.DrawFn, total: int, largest: int = COLUMNS) -> list[int]:
    """Sizes of at least one token that add up to `total`."""
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(draw(st.integers(1, min(largest, total - sum(sizes)))))
    return sizes


def in_chunks(model: Model, ids: Tensor, sizes: list[int], layout: str | None = None) -> Tensor:
    """Logits of the same tokens, fed to a cache in chunks: [B, S, vocab]."""
    cache = model.new_cache(len(ids), ids.shape[1], layout=layout)
    out = torch.cat([logits(model, chunk, cache=cache) for chunk in ids.split(sizes, 1)], 1)
    assert cache.lengths.tolist() == [ids.shape[1]] * len(ids)
    return out


# --- time ----------------------------------------------------------------------------------------
@dtypes
@law
@given(data=st.data())
def test_a_token_changes_nothing_before_it(dtype: torch.dtype, data: st.DataObject) -> None:
    model, ids = twin(dtype), data.draw(batches())
    at = data.draw(st.integers(1, ids.shape[1] - 1))
    other = ids.clone()
    other[:, at:] = (ids[:, at:] + 1) % TINY["vocab"]
    before, after = logits(model, ids), logits(model, other)
    assert_same(after[:, :at], before[:, :at])
    assert not torch.allclose(after[:, at], before[:, at]), "the changed token itself has no effect"


@dtypes
@law
@given(data=st.data())
def test_every_chunking_is_one_forward(dtype: torch.dtype, data: st.DataObject) -> None:
    model, ids = twin(dtype), data.draw(batches())
    sizes = data.draw(pieces(ids.shape[1]))
    assert_same(in_chunks(model, ids, sizes), logits(model, ids))


@dtypes
def test_decoding_one_by_one_is_one_forward(dtype: torch.dtype) -> None:
    model, ids = twin(dtype), tokens(2, COLUMNS, seed=3)
    assert_same(in_chunks(model, ids, [1] * COLUMNS), logits(model, ids))
    assert_same(in_chunks(model, ids, [COLUMNS // 2] + [1] * (COLUMNS - COLUMNS // 2)), logits(model, ids))


@law
@given(data=st.data())
def test_narrow_caches_read_the_same_in_chunks(data: st.DataObject) -> None:
    """What is kept in fewer bits is rounded before it is read for the first time."""
    model, ids = twin(), data.draw(batches())
    sizes = data.draw(pieces(ids.shape[1]))
    stores = [store for module in model.modules() for store in getattr(module, "keeps", {}).values()]
    for layout in {"bf16", *(store.packing.layout for store in stores if store.packing is not None)}:
        assert_same(in_chunks(model, ids, sizes, layout), in_chunks(model, ids, [ids.shape[1]], layout))


@dtypes
@law
@given(data=st.data())
def test_rejected_drafts_leave_no_trace(dtype: torch.dtype, data: st.DataObject) -> None:
    """Rows accept different parts of drafts and rewind the rest, as in speculative decoding."""
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(REWIND, 40))
    model, ids = twin(dtype), tokens(rows, columns + REWIND, data.draw(seeds))
    want = logits(model, ids)
    cache = model.new_cache(rows, columns + REWIND, max_rewind=REWIND)
    held = [0] * rows
    while min(held) < columns:
        drafted = data.draw(st.integers(1, REWIND))
        accepted = [data.draw(st.integers(1, drafted)) if at < columns else 0 for at in held]
        accepted = [min(n, columns + REWIND - at) for n, at in zip(accepted, held, strict=True)]
        drafted = min(drafted, columns + REWIND - max(held))
        accepted = [min(n, drafted) for n in accepted]
        draft = tokens(rows, drafted, data.draw(seeds))
        for row, (at, n) in enumerate(zip(held, accepted, strict=True)):
            draft[row, :n] = ids[row, at : at + n]
        got = logits(model, draft, cache=cache)
        for row, (at, n) in enumerate(zip(held, accepted, strict=True)):
            assert_same(got[row, :n], want[row, at : at + n])
        rejected = [drafted - n for n in accepted]
        cache.rewind(rejected[0] if len(set(rejected)) == 1 else torch.tensor(rejected))
        held = [at + n for at, n in zip(held, accepted, strict=True)]
        assert cache.lengths.tolist() == held


def test_a_cache_refuses_what_it_cannot_do_and_stays_whole() -> None:
    model, ids = twin(), tokens(2, 12, seed=4)
    cache = model.new_cache(2, 12, max_rewind=3)
    logits(model, ids[:, :8], cache=cache)
    for impossible in (4, -1, torch.tensor([0, 9])):
        with pytest.raises(ValueError, match="rewind"):
            cache.rewind(impossible)
    with pytest.raises(ValueError, match="12"):
        logits(model, tokens(2, 5, seed=5), cache=cache)
    with pytest.raises(ValueError, match="rows"):
        logits(model, ids[:1, 8:], cache=cache)
    assert cache.lengths.tolist() == [8, 8]
    assert_same(logits(model, ids[:, 8:], cache=cache), logits(model, ids)[:, 8:])


# --- rows ----------------------------------------------------------------------------------------
@dtypes
@law
@given(data=st.data())
def test_rows_do_not_see_each_other(dtype: torch.dtype, data: st.DataObject) -> None:
    model, ids = twin(dtype), data.draw(batches())
    want = logits(model, ids)
    order = data.draw(st.permutations(range(len(ids))))
    assert_same(logits(model, ids[order]), want[order])
    assert_same(logits(model, ids[:1]), want[:1])


@dtypes
@law
@given(data=st.data())
def test_padding_changes_nothing(dtype: torch.dtype, data: st.DataObject) -> None:
    model, ids = twin(dtype), data.draw(batches())
    mask = data.draw(masks(*ids.shape))
    got = logits(model, ids, attention_mask=mask.long())
    for row, valid in enumerate(mask):
        assert_same(got[row, valid], logits(model, ids[row, valid][None])[0])


@dtypes
@law
@given(data=st.data())
def test_packed_sequences_do_not_see_each_other(dtype: torch.dtype, data: st.DataObject) -> None:
    model, ids = twin(dtype), data.draw(batches())
    sequences = data.draw(packings(*ids.shape))
    got = logits(model, ids, sequence_ids=sequences)
    for row, sequence in spans(sequences):
        here = sequences[row] == sequence
        assert_same(got[row, here], logits(model, ids[row, here][None])[0])


@st.composite
def packings(draw: st.DrawFn, rows: int, columns: int) -> Tensor:
    """Sequence ids [rows, columns]: runs of 1, 2, 3, ... with padding (0) between some of them."""
    out = torch.zeros(rows, columns, dtype=torch.int64)
    for row in range(rows):
        start = 0
        for sequence, size in enumerate(draw(pieces(columns, largest=32)), 1):
            padded = draw(st.integers(0, 3)) == 0 and size < columns
            out[row, start : start + size] = 0 if padded else sequence
            start += size
    return out


def spans(sequences: Tensor) -> list[tuple[int, int]]:
    """(row, sequence id) of every packed sequence."""
    return [(row, int(s)) for row in range(len(sequences)) for s in sequences[row].unique() if s]


@dtypes
@law
@given(data=st.data())
def test_rows_continue_at_their_own_pace(dtype: torch.dtype, data: st.DataObject) -> None:
    """Each call feeds each row as many tokens as its mask says, none included."""
    rows = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=4))
    model, ids = twin(dtype), tokens(rows, sum(sizes), data.draw(seeds))
    want = logits(model, ids)
    cache = model.new_cache(rows, sum(sizes))
    held = [0] * rows
    for size in sizes:
        mask = data.draw(masks(rows, size))
        mask &= torch.tensor([data.draw(st.integers(0, 4)) > 0 for _ in range(rows)])[:, None]
        chunk = tokens(rows, size, data.draw(seeds))
        for row, valid in enumerate(mask):
            chunk[row, valid] = ids[row, held[row] : held[row] + int(valid.sum())]
        got = logits(model, chunk, attention_mask=mask.long(), cache=cache)
        for row, valid in enumerate(mask):
            n = int(valid.sum())
            assert_same(got[row, valid], want[row, held[row] : held[row] + n])
            held[row] += n
        assert cache.lengths.tolist() == held


@dtypes
def test_positions_count_from_the_start_of_each_row(dtype: torch.dtype) -> None:
    model, ids = twin(dtype), tokens(2, COLUMNS, seed=6)
    positions = torch.arange(COLUMNS).expand(2, -1)
    assert_same(logits(model, ids, position_ids=positions), logits(model, ids))


# --- generation ----------------------------------------------------------------------------------
def greedy(model: Model, ids: Tensor, new: int) -> Tensor:
    """The most likely continuation by full forwards, without a cache: [B, S + new]."""
    for _ in range(new):
        ids = torch.cat([ids, logits(model, ids)[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("speculate", speculations)
@few
@given(ids=batches(rows=2))
def test_cached_generation_is_greedy_by_full_forwards(speculate: int, ids: Tensor) -> None:
    columns: list[Tensor] = []
    got = twin().generate(ids, max_new_tokens=10, speculate=speculate, stream=columns.append)
    assert torch.equal(got, greedy(twin(), ids, 10))
    assert torch.equal(torch.stack(columns, 1), got[:, ids.shape[1] :])


@pytest.mark.parametrize("speculate", speculations)
@few
@given(data=st.data())
def test_prompts_of_unequal_length_generate_as_alone(speculate: int, data: st.DataObject) -> None:
    model, ids = twin(), data.draw(batches(least=3))
    mask = data.draw(masks(*ids.shape))
    got = model.generate(ids, max_new_tokens=6, attention_mask=mask.long(), speculate=speculate)
    for row, valid in enumerate(mask):
        assert torch.equal(got[row, ids.shape[1] :], greedy(model, ids[row, valid][None], 6)[0, -6:])


@pytest.mark.parametrize("speculate", speculations)
def test_generation_stops_at_end_tokens(speculate: int) -> None:
    model, ids = twin(), tokens(2, 9, seed=7)
    free = greedy(model, ids, 8)[:, 9:]
    ends = [int(free[0, 2]), int(free[1, 4])]
    got = model.generate(ids, max_new_tokens=8, eos=ends, speculate=speculate)[:, 9:]
    stops = [next(i for i, token in enumerate(row) if token in ends) + 1 for row in free.tolist()]
    assert got.shape[1] == max(stops), "goes on after every row has ended"
    for row, want, stop in zip(got.tolist(), free.tolist(), stops, strict=True):
        assert row == want[:stop] + [want[stop - 1]] * (max(stops) - stop)


def test_sampling_repeats_with_its_seed_and_obeys_top_p() -> None:
    model, ids = twin(), tokens(2, 9, seed=8)

    def draw(seed: int, **how: float) -> Tensor:
        return model.generate(ids, max_new_tokens=8, generator=torch.Generator().manual_seed(seed), **how)

    # So hot that every token is about as likely, however sure the model is (a tied head likes what it has just read).
    hot = 1e4
    assert torch.equal(draw(0, temperature=hot), draw(0, temperature=hot))
    assert TINY["vocab"] == 1 or not torch.equal(draw(0, temperature=hot), draw(1, temperature=hot))
    assert torch.equal(draw(0, temperature=hot, top_p=1e-9), greedy(model, ids, 8))


# --- losses --------------------------------------------------------------------------------------
def summed(model: Model, ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Cross entropy of one sequence's next tokens, summed, and how many there are."""
    targets = labels[1:]
    total = F.cross_entropy(logits(model, ids[None])[0, :-1], targets, ignore_index=-100, reduction="sum")
    return total, int((targets != -100).sum())


@law
@given(data=st.data())
def test_loss_is_the_mean_over_real_next_tokens(data: st.DataObject) -> None:
    """Padding, -100 and the boundaries of packed sequences are never targets, whatever their labels say."""
    model, ids = twin(), data.draw(batches())
    sequences = data.draw(packings(*ids.shape))
    mask = data.draw(masks(*ids.shape))
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(9)) < 0.2, -100)
    with torch.no_grad():
        padded = model(ids, labels=labels, attention_mask=mask.long())
        packed = model(ids, labels=labels, sequence_ids=sequences)
    rows = [summed(model, ids[row, valid], labels[row, valid]) for row, valid in enumerate(mask)]
    alone = [(row, sequences[row] == s) for row, s in spans(sequences)]
    parts = [summed(model, ids[row, here], labels[row, here]) for row, here in alone]
    for out, found in ((padded, rows), (packed, parts)):
        want = sum(float(total) for total, _ in found) / max(1, sum(n for _, n in found))
        assert float(out.lm_loss) == pytest.approx(want, abs=1e-9)
        assert out.losses.keys() == {loss["name"] for loss in TINY["losses"]}
        assert out.losses or torch.equal(out.loss, out.lm_loss)


def test_the_total_is_the_language_loss_and_every_other_by_its_weight() -> None:
    model, ids = twin(), tokens(3, COLUMNS, seed=20)
    with torch.no_grad():
        out = model(ids, labels=ids)
        assert model(ids).losses == {}
    weights = {loss["name"]: loss["weight"] for loss in TINY["losses"]}
    if len(weights) == len(TINY["losses"]):  # else layers add to one loss by different weights
        want = float(out.lm_loss) + sum(weight * float(out.losses[name]) for name, weight in weights.items())
        assert float(out.loss) == pytest.approx(want, rel=1e-12)


@pytest.mark.skipif(not TINY["router_biases"], reason="no router has a bias that training moves")
def test_biases_move_towards_even_loads_after_a_step_and_never_in_a_forward() -> None:
    model, ids = fresh(dtype=torch.float64), tokens(3, COLUMNS, seed=21)
    randomise(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(ids, labels=ids, attention_mask=(ids > 0).long()).loss.backward()
    loads = [(load, load.count.clone()) for load in model.loads]
    assert len(loads) == sum(entry["routers"] for entry in TINY["router_biases"])
    logits(model.eval(), ids)
    assert all(torch.equal(load.count, count) and int(count.sum()) > 0 for load, count in loads)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    old = [load.bias.clone() for load, _ in loads]
    model.after_step()
    for (load, count), bias in zip(loads, old, strict=True):
        assert torch.equal((load.bias - bias).sign(), (count.sum() - len(count) * count).sign())
    new = [load.bias.clone() for load, _ in loads]
    model.after_step()
    assert all(torch.equal(load.bias, bias) for (load, _), bias in zip(loads, new, strict=True))


def assert_taught(model: Model, ids: Tensor, but: set[str]) -> None:
    """Fails unless the loss teaches all parameters but some, which it gives nothing beyond rounding."""
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    grads = {n: p.grad.to_dense() for n, p in model.named_parameters() if p.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    sizes = {n: float(grads[n].abs().max()) if n in grads else 0.0 for n, _ in model.named_parameters()}
    assert {n for n, size in sizes.items() if not size} <= but
    assert but <= {n for n, size in sizes.items() if size <= 1e-13 * max(sizes.values())}


def test_the_gradient_reaches_every_parameter_and_is_that_of_the_loss() -> None:
    model = twin()
    ids = tokens(4, COLUMNS, seed=10)
    never = {p["name"] for p in TINY["parameters"] if not (p["trained"] or p["buffer"])}
    late = {p["name"] for p in TINY["parameters"] if p.get("stage") == "dense"}  # of indexers that pick one entry
    assert_taught(model, ids, but=never | late)
    if late:
        model.index_stage = "dense"
        assert_taught(model, ids, but=never)
        model.index_stage = "sparse"
    # Along a random direction, the gradient of the language loss is the slope of the language loss.
    model.zero_grad()
    model(ids, labels=ids).lm_loss.backward()
    reached = {n: p for n, p in model.named_parameters() if p.grad is not None}
    generator = torch.Generator().manual_seed(11)
    way = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in reached.items()}
    slope = sum(float((p.grad.to_dense() * way[n]).sum()) for n, p in reached.items() if p.grad is not None)
    before = {n: p.detach().clone() for n, p in reached.items()}

    @torch.no_grad()
    def loss(distance: float) -> float:
        for n, p in reached.items():
            p.copy_(before[n] + distance * way[n])
        return float(model(ids, labels=ids).lm_loss)

    h = 1e-8  # small for narrow models, whose loss bends within 1e-6, and for roots, whose slope does within 1e-7
    measured = (loss(h) - loss(-h)) / (2 * h)
    loss(0.0)
    model.zero_grad()
    assert slope == pytest.approx(measured, rel=1e-4, abs=1e-7)


def test_a_few_steps_of_training_learn_a_row_by_heart() -> None:
    model = fresh()
    ids = tokens(2, 32, seed=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):  # wide models need 20
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        model.after_step()
        losses.append(float(loss.detach()))
        # Half a nat, or a good part of what a small vocabulary can lose at all.
        if losses[-1] < losses[0] - min(0.5, losses[0] / 5):
            break
    else:
        pytest.fail(f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps")


# --- what a forward returns and leaves -----------------------------------------------------------
def test_hidden_states_are_the_input_of_every_layer_and_the_normed_end() -> None:
    model, ids = twin(), tokens(2, 20, seed=13)
    with torch.no_grad():
        out = model(ids, hidden_states=True)
        assert model(ids).hidden_states is None
        assert out.hidden_states is not None
        assert len(out.hidden_states) == TINY["layers"] + 1
        assert all(h.shape[:2] == ids.shape and h.shape[-1] == TINY["dim"] for h in out.hidden_states)
        assert torch.equal(model.head(out.hidden_states[-1]), out.logits)
    assert_same(out.logits, logits(model, ids))


def test_a_forward_changes_no_weight_and_repeats_exactly() -> None:
    model, ids = twin(torch.float32), tokens(2, COLUMNS, seed=14)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model(ids, labels=ids)
    again = model(ids, labels=ids)
    assert torch.equal(first.logits, again.logits)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_bfloat16_stays_close() -> None:
    model = Model(dtype=torch.bfloat16).eval()
    model.load_state_dict(twin(torch.float32).state_dict())
    ids = tokens(2, 24, seed=15)
    with torch.no_grad():
        low, high = model(ids, labels=ids), twin(torch.float32)(ids, labels=ids)
    assert low.logits.dtype == torch.bfloat16
    assert low.lm_loss.dtype == torch.float32
    assert float(low.lm_loss) == pytest.approx(float(high.lm_loss), rel=0.05)


@pytest.mark.parametrize("names", ["transformers", "hub"])
@pytest.mark.parametrize("parts", [1, 3], ids=["one file", "shards"])
def test_saved_weights_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, parts: int, names: Literal["transformers", "hub"]
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    saved = twin(torch.float32)
    size = sum(p.numel() * p.element_size() for p in saved.parameters())
    saved.save_weights(folder, names=names, shard_bytes=2**40 if parts == 1 else -(-size // parts))
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (parts > 1)
    for loaded in (fresh(seed=1), Model(device="meta")):
        load_weights(loaded, folder)
        for name, tensor in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
    narrow = tokens(1, 3, seed=16)
    assert torch.equal(logits(loaded.eval(), narrow), logits(saved, narrow))


# --- the full model ------------------------------------------------------------------------------
@pytest.mark.parametrize(("make", "plan"), [(Model, TINY), (FullModel, FULL)], ids=["tiny", "full"])
def test_parameters_are_those_of_the_plan(make: type[Model], plan: dict) -> None:
    """By name and shape, on the meta device: the full model needs no memory."""
    model = make(device="meta")
    for buffer, found in ((False, model.named_parameters()), (True, model.named_buffers())):
        want = {p["name"]: p["shape"] for p in plan["parameters"] if p["buffer"] == buffer}
        assert {name: list(tensor.shape) for name, tensor in found} == want
    assert all(p.is_meta for p in model.parameters())
    counted = plan["cost"]["train"]["params"]
    assert sum(p.numel() for p in model.parameters()) == counted["total"] + counted["mtp"]
