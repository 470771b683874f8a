"""Indexers whose queries and keys are rounded: what a spec may say, what learns, what caches keep of a key."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.diagnostics import ArchError
from archc.plan import plan, shrink
from archc.resolve import load_text
from tests.built import built, randomise
from tests.indexers.models import ORACLE, indexed, model, package, tokens, watched
from tests.indexers.test_loss import written_out

torch.set_num_threads(1)
SPEC = """arch 1
model rounds {{
  vocab = 61, dim = 18, layers = 2, context = 64
  attention picked = dsa {{
    heads = 2, q_rank = 9, kv_rank = 8, nope_dim = 4, rope_dim = 4, v_dim = 3, rope = rope {{ pairs = interleaved }}
    indexer = {index} {{ heads = 3, head_dim = {wide}, topk = 4{more}, key_norm = layer {{ eps = 1e-6 }} }}
  }}
  attention far = windowed {{
    heads = 4, head_dim = 8, rope_dim = 4, q_rank = 6, out_groups = 2, out_rank = 4, window = 4
    rope = rope {{ pairs = interleaved }}
    compress = csa {{ ratio = 2, indexer = {index} {{ heads = 3, head_dim = {wide}, topk = 2{more} }} }}
  }}
  ffn = swiglu {{ hidden = 20 }}
  schedule {{ attention = [{first}, {second}] }}
}}
"""
KEPT = {"picked": ("fp8", "mla_fp8", "indexer_keys"), "far": ("fp4", "v4_fp8", "compressor_indexer_entries")}
"""The format of each index in DeepSeek's code, the layout that stores keys so, the store."""


def text(kind: str = "picked", rounding: str | None = None, wide: int = 32, index: str = "lightning") -> str:
    """A spec whose first layer is of a kind."""
    more = f", rounding = {rounding}" if rounding else ""
    first, second = (kind, "far" if kind == "picked" else "picked")
    return SPEC.format(index=index, wide=wide, more=more, first=first, second=second)


def made(folder: Path, *form: Any) -> Any:
    """A float64 model of such a spec."""
    net = built(load_text(text(*form))[0], folder).Model(dtype=torch.float64)
    randomise(net)
    return net.eval()


# --- specs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("index", ["lightning", "two_stage"])
def test_a_width_that_is_no_power_of_two_is_refused(index: str) -> None:
    source = text("picked", "fp8", 12, index)
    with pytest.raises(ArchError) as caught:
        load_text(source)
    (picked, far) = caught.value.diagnostics
    assert picked.message == "head_dim = 12 is no power of two, and there is no Hadamard transform of it"
    assert (far.message, far.code, far.severity) == (picked.message, picked.code, "error")
    load_text(text("picked", None, 12, index))
    load_text(text("picked", "fp8", 16, index))


@pytest.mark.parametrize("rounding", ["fp8", "fp4"])
def test_a_twin_keeps_a_width_that_has_a_transform(rounding: str) -> None:
    for wide in (8, 64, 128):
        twin = shrink(load_text(text("picked", rounding, wide))[0])
        kinds = [node.op.kind for node in plan(twin).root.nodes()]
        assert kinds.count("hadamard") == kinds.count("quantise") == 4


# --- what is picked and kept ---------------------------------------------------------------------
@pytest.mark.parametrize("kind", KEPT)
def test_caches_keep_rounded_keys_to_the_last_bit(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layout stores reads as what was appended; without rounding it loses something."""
    rounding, layout, name = KEPT[kind]
    for form in (None, rounding):
        net = made(tmp_path / str(form), kind, form)
        source = import_module(type(net).__module__)
        cache = net.new_cache(2, 30, layout=layout)
        store, appended = getattr(cache.layers[0], name), []
        inner = source.append

        def append(x: Tensor, to: Any, *args: Any, inner: Any = inner, **more: Any) -> Tensor:
            if to is getattr(cache.layers[0], name):  # noqa: B023
                appended.append(x)  # noqa: B023
            return inner(x, to, *args, **more)

        monkeypatch.setattr(source, "append", append)
        with torch.no_grad():
            net(tokens(2, 20), cache=cache)
        (keys,) = appended
        stored = store.packing.decode(store.data[:, : keys.shape[1]], 32, torch.float64)
        assert keys.any(-1).all()
        assert torch.equal(stored, keys) == (form is not None)


@pytest.mark.parametrize("kind", KEPT)
def test_calls_in_parts_are_one(kind: str, tmp_path: Path) -> None:
    net = made(tmp_path, kind, KEPT[kind][0])
    ids = tokens(3, 29)
    with torch.no_grad():
        want = net(ids).logits
        cache = net.new_cache(3, 29, layout="fp32")
        got = torch.cat([net(part, cache=cache).logits for part in ids.split([7, 1, 12, 1, 8], 1)], 1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)  # the cache is of float32


# --- what learns ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return package(tmp_path_factory.mktemp("rounded"), wide=8, more=", rounding = fp4")


@pytest.mark.parametrize("stage", ["sparse", "dense"])
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 1 << 30))
def test_the_loss_is_that_of_rounded_scores(module: ModuleType, stage: str, seed: int) -> None:
    net, ids = model(module), tokens(2, 14, seed)
    net.index_stage = stage
    with watched(net) as read:
        out = net(ids, labels=ids, position_ids=torch.arange(14).double())
    oracle = replace(ORACLE, index_dim=8, rounding="fp4")
    sequences = [(b, range(14)) for b in range(2)]
    want = written_out(net, read, sequences, dense=stage == "dense", oracle=oracle)
    assert out.losses["index"].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("stage", ["sparse", "dense"])
def test_gradients_reach_what_makes_queries_and_keys(module: ModuleType, stage: str) -> None:
    """Through the rounding, and nothing but indexers."""
    net, ids = model(module), tokens(2, 17)
    net.index_stage = stage
    net(ids, labels=ids).losses["index"].backward()
    taught = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == indexed(net)
    assert all(p.grad.isfinite().all() for n, p in net.named_parameters() if n in taught)


@pytest.mark.slow
def test_one_graph_for_torch_compile(module: ModuleType) -> None:
    torch._dynamo.reset()
    net, ids = model(module), tokens(2, 13)
    want = net(ids, labels=ids)
    want.loss.backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    got = torch.compile(net, fullgraph=True, backend="aot_eager")(ids, labels=ids)
    got.loss.backward()
    torch.testing.assert_close(got.losses["index"], want.losses["index"])
    for p, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad)
