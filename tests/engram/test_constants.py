"""Constants of the hash, as the public recipes give them, from specs and from the printed package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.diagnostics import ArchError
from archc.ops._random import integers
from archc.ops.ngram import NgramHash, hash_primes
from archc.plan import plan, shrink
from archc.resolve import check_text, load_text
from archc.schema import Model
from tests.oracles.engram import multipliers, table_sizes

SPEC = """arch 1
model m {{
  vocab = {vocab}, dim = 64, layers = 16, context = 1Ki
  attention = gqa {{ heads = 4, kv_heads = 2 }}
  ffn = swiglu {{ hidden = 128 }}
  memory engram = engram {{ head_dim = 4, {fields} }}
  {more}
  schedule {{ memory = {where} }}
}}
"""


def loaded(fields: str, where: str = "engram at [1, 14]", vocab: int = 99_092, more: str = "") -> Model:
    """A model of 16 layers with memories."""
    if "heads" not in fields:
        fields = f"heads = 8, {fields}"
    (model,) = load_text(SPEC.format(fields=fields, where=where, vocab=vocab, more=more))
    return model


def hashes(model: Model) -> list[NgramHash]:
    """The hashes of a model's layers, in their order."""
    return [node.op for node, _ in plan(model).walk() if isinstance(node.op, NgramHash)]


@given(
    seed=st.one_of(st.integers(0, 200_000), st.integers(0, 1 << 200)),
    below=st.one_of(st.integers((1 << 32) + 1, (1 << 63) - 1), st.sampled_from([1 << 33, (1 << 62) + 1])),
)
def test_numbers_are_those_of_numpy(seed: int, below: int) -> None:
    assert integers(seed, below, 6) == np.random.default_rng(seed).integers(0, below, size=6, dtype=np.int64).tolist()


@pytest.mark.parametrize("below", [0, 7, 1 << 32, 1 << 63])
def test_numbers_that_numpy_draws_otherwise_are_refused(below: int) -> None:
    with pytest.raises(ValueError, match="another way"):
        integers(1, below, 1)


def test_v41_flash() -> None:
    """DeepSeek-V4.1-Flash, whose 129,280 tokens are 99,092 after merging: multipliers and tables of layers 1 and 14."""
    model = loaded("orders = [2, 3, 4], rows = 16_000_000, ids = 99_092", vocab=129_280)
    first, second = hashes(model)
    assert first.multipliers == (76632096046245, 4839876093313, 35959672319349, 73987337458391)
    assert second.multipliers == (67716810739261, 51510806800915, 30921347202721, 82619226485591)
    assert first.primes[:3] == (16000057, 16000079, 16000081)
    tables = {p.name: p.spec.shape for p in plan(model).parameters() if p.spec.role == "table"}
    name = "model.layers.{}.memory.embed.table.weight"
    assert tables == {name.format(1): (384_006_168, 4), name.format(14): (384_016_682, 4)}


@pytest.mark.parametrize(
    ("rows", "sums"),
    [
        (2_262_400, [36_199_972, 36_204_260]),  # Engram-27B
        (7_239_680, [115_837_464, 115_841_428]),  # Engram-40B
        (646_400, [10_344_164]),  # layer 1 of the public demo
    ],
)
def test_tables_of_the_papers(rows: int, sums: list[int]) -> None:
    assert [sum(op.primes) for op in hashes(loaded(f"rows = {rows}"))][: len(sums)] == sums


@given(
    where=st.lists(st.integers(0, 15), min_size=1, max_size=4, unique=True).map(sorted),
    orders=st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True),
    heads=st.integers(1, 3),
    rows=st.integers(2, 500),
    vocab=st.integers(1, 200_000),
    seed=st.integers(0, 9),
)
def test_every_layer_has_its_own(
    where: list[int], orders: list[int], heads: int, rows: int, vocab: int, seed: int
) -> None:
    model = loaded(f"heads = {heads}, orders = {orders}, rows = {rows}, seed = {seed}", f"engram at {where}", vocab)
    sizes = table_sizes(rows, len(where), len(orders), heads)
    for op, layer, own in zip(hashes(model), where, sizes, strict=True):
        assert op.multipliers == tuple(multipliers(layer, vocab, max(orders), seed))
        assert op.primes == tuple(own)
    twin = [p for op in hashes(shrink(model)) for p in op.primes]
    assert len(set(twin)) == len(twin)


def test_memories_of_two_names_share_no_table() -> None:
    """Of what comes next, only what is free."""
    other = "memory late = engram { heads = 2, head_dim = 4, orders = [2], rows = 20 }"
    model = loaded("heads = 2, orders = [3], rows = 24", "[none, engram, late, engram, none * rest]", more=other)
    assert [op.primes for op in hashes(model)] == [(29, 31), (23, 37), (41, 43)]


def test_a_layer_and_sizes_may_be_given() -> None:
    """Layers are counted from 0; a checkpoint of code that counts from 1 says so."""
    sizes = [100, 200, 300, 400]
    model = loaded(f"heads = 2, rows = 9, layer = 15, sizes = {sizes}", "engram at 14")
    (op,) = hashes(model)
    assert op.multipliers == tuple(multipliers(15, 99_092, 3)) and list(op.primes) == sizes


def test_equal_layers_of_other_memories_stay_one() -> None:
    """A memory that does not ask where it stands is the same drawer everywhere."""
    model = loaded("rows = 9", "none")
    assert len({id(slots) for slots in model.schedule}) == 1


def test_primes() -> None:
    sieve = [n for n in range(2, 2000) if all(n % d for d in range(2, n))]
    found: Any = hash_primes(0)
    assert [next(found) for _ in sieve] == sieve


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("heads = 8, rows = 9, orders = []", "not lengths that differ"),
        ("heads = 8, rows = 9, orders = [2, 2]", "not lengths that differ"),
        ("heads = 8, rows = 9, orders = [0, 2]", "not lengths that differ"),
        ("heads = 8, rows = 9, ids = 10, pad = 10", "pad = 10 is no id: there are 10"),
        ("heads = 8, rows = 9, ids = 100_000", "99092 tokens cannot be merged to more ids, ids = 100000"),
        ("heads = 8, rows = 9, sizes = [3]", "sizes has 1 tables, but 2 lengths with 8 hashes each read 16"),
        (
            "heads = 2, rows = 9, sizes = [11, 13, 13, 13]",
            "two tables of 13 rows for 3 tokens: both hashes would be the same",
        ),
        ("heads = 8, rows = 9, pad = 100_000", "pad = 100000 is no id: there are 99092"),
    ],
)
def test_what_cannot_be_is_said(fields: str, said: str) -> None:
    found = check_text(SPEC.format(fields=fields, where="engram at 1", vocab=99_092, more=""))
    assert [said in d.message for d in found if d.code != "E0215"] == [True], found
    with pytest.raises(ArchError):
        loaded(fields)


def test_a_dilation_of_nothing_is_doubted_once() -> None:
    fields = "heads = 2, rows = 9, taps = 0, dilation = 2"
    (doubt,) = check_text(SPEC.format(fields=fields, where="engram at [1, 14]", vocab=512, more=""))
    assert (doubt.code, doubt.severity) == ("W0009", "warning")
    assert doubt.message == "dilation = 2 has nothing to do: taps = 0 leaves the convolution out"
    assert not check_text(SPEC.format(fields=fields[: fields.rindex(",")], where="engram at 1", vocab=512, more=""))


def test_a_vocabulary_beyond_the_hash_is_refused() -> None:
    found = check_text(SPEC.format(fields="heads = 8, rows = 9", where="engram at 1", vocab=1 << 30, more=""))
    assert ["hashes tell at most 1073741823 ids" in d.message for d in found] == [True]
