"""Checkpoints that do not fit a model: what is said, and that nothing is changed; files that are not what they seem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from archc.graph.torch_package import torch_package
from tests.runtime.skeletons import DIM, Skeleton, assert_same, shapes, state

torch_package()
from archc_package.runtime.weights import load_weights  # noqa: E402

SMALL = shapes(1, 0)
EXPERTS = "model.layers.0.mlp.experts"


def edited(tmp_path: Path, **edits: Any) -> Skeleton:
    """A model, and in the folder its checkpoint by expert, with tensors replaced or (None) removed."""
    saved = Skeleton(SMALL)
    saved.save_weights(tmp_path, names="hub")
    tensors = load_file(tmp_path / "model.safetensors")
    for name, tensor in edits.items():
        tensors[name] = tensor
    save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "model.safetensors")
    return Skeleton(SMALL, seed=1)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {f"{EXPERTS}.1.up_proj.weight": None, f"{EXPERTS}.2.down_proj.weight": None},
            rf"2 missing from the checkpoint: {EXPERTS}\.1\.up_proj\.weight, {EXPERTS}\.2\.down_proj\.weight",
        ),
        ({f"{EXPERTS}.3.up_proj.weight": torch.ones(5, DIM)}, rf"1 not in the model: {EXPERTS}\.3\.up_proj\.weight"),
        (
            {f"{EXPERTS}.1.up_proj.weight": torch.ones(5, DIM + 1)},
            rf"{EXPERTS}\.1\.up_proj\.weight is \[5, 7\] in the checkpoint and \[5, 6\] in the model",
        ),
        (
            {f"{EXPERTS}.down_proj": torch.ones(3, DIM, 5)},
            rf"{EXPERTS}\.down_proj is in the checkpoint both whole and by expert",
        ),
        (
            {"model.layers.0.block_sparse_moe.experts.1.w3.weight": torch.ones(5, DIM)},
            rf"experts\.1\.w3\.weight and {EXPERTS}\.1\.up_proj\.weight are both {EXPERTS}\.1\.up_proj\.weight",
        ),
        ({"norm.weight": torch.ones(DIM)}, r"model\.norm\.weight and norm\.weight are both model\.norm\.weight"),
        ({f"{EXPERTS}.1.up_proj.bias": torch.ones(5)}, rf"1 not in the model: {EXPERTS}\.1\.up_proj\.bias"),
    ],
)
def test_experts_that_do_not_fit_are_named(tmp_path: Path, edits: dict, message: str) -> None:
    model = edited(tmp_path, **edits)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path)
    assert_same(state(model), before)


def test_experts_that_are_there_load_without_the_others(tmp_path: Path) -> None:
    missing = (f"{EXPERTS}.1.up_proj.weight", f"{EXPERTS}.2.down_proj.weight")
    model = edited(tmp_path, **dict.fromkeys(missing))
    before = state(model)
    assert load_weights(model, tmp_path, strict=False).missing == missing
    want = state(Skeleton(SMALL))
    want[f"{EXPERTS}.gate_up_proj"][1, 5:] = before[f"{EXPERTS}.gate_up_proj"][1, 5:]
    want[f"{EXPERTS}.down_proj"][2] = before[f"{EXPERTS}.down_proj"][2]
    assert_same(state(model), want)
    with pytest.raises(ValueError, match="2 on the meta device and missing from the checkpoint"):
        load_weights(Skeleton(SMALL, device="meta"), tmp_path, strict=False)


def test_a_mixture_with_a_router_has_no_experts_apart(tmp_path: Path) -> None:
    """gpt-oss holds [in, out] with gate and up in turns: a matrix of one expert would fit here, and be nonsense."""
    sizes = {"model.layers.0.mlp.router.weight": (3, 10), f"{EXPERTS}.gate_up_proj": (3, 10, 10)}
    tensors = {"model.layers.0.mlp.router.weight": torch.ones(3, 10)}
    tensors |= {f"{EXPERTS}.{e}.{part}_proj.weight": torch.ones(5, 10) for e in range(3) for part in ("gate", "up")}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"1 missing from the checkpoint: {EXPERTS}\.gate_up_proj\n") as caught:
        load_weights(Skeleton(sizes), tmp_path)
    assert f"6 not in the model: {EXPERTS}.0.gate_proj.weight" in str(caught.value)
    Skeleton(sizes).save_weights(tmp_path, names="hub")
    assert load_file(tmp_path / "model.safetensors").keys() == sizes.keys()


def test_a_tensor_without_numbers_is_no_surprise(tmp_path: Path) -> None:
    """transformers stores the matrices of no shared experts: [0, dim]."""
    model = edited(tmp_path, **{"model.layers.0.mlp.shared_experts.gate_proj.weight": torch.ones(0, DIM)})
    load_weights(model, tmp_path)
    assert_same(state(model), state(Skeleton(SMALL)))


def test_many_names_are_grouped(tmp_path: Path) -> None:
    Skeleton(shapes(5, 0)).save_weights(tmp_path, names="hub")
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_weights(Skeleton(shapes(1, 0)), tmp_path)
    message = str(caught.value)
    assert "48 not in the model: " in message
    assert "model.layers.*.mlp.experts.*.up_proj.weight (12)" in message
    assert "model.layers.*.mlp.gate.weight (4)" in message
    assert len(message) < 800


def test_an_index_that_lies_is_caught(tmp_path: Path) -> None:
    model = Skeleton(SMALL)
    model.save_weights(tmp_path, shard_bytes=1)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    home = index["weight_map"]["lm_head.weight"]
    index["weight_map"]["extra.weight"] = home
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"the index says that {home} holds extra.weight, and it does not"):
        load_weights(model, tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load_weights(model, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is not JSON: "):
        load_weights(model, tmp_path)


def test_a_tensor_in_two_files_is_read_where_the_index_has_it(tmp_path: Path) -> None:
    saved = Skeleton(SMALL)
    saved.save_weights(tmp_path, shard_bytes=1)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    for file in set(index.values()):
        tensors = load_file(tmp_path / file)
        stale = {} if "model.norm.weight" in tensors else {"model.norm.weight": torch.full((DIM,), 9.0)}
        save_file({**tensors, **stale}, tmp_path / file)
    loaded = Skeleton(SMALL, seed=1)
    load_weights(loaded, tmp_path)
    assert_same(state(loaded), state(saved))
