"""Weights go to disk and come back: files, shards, other dtypes, the meta device; and what does not fit is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from archc.graph.torch_package import torch_package
from tests.runtime.handwritten import llama, randomized

torch_package()
from archc_package.runtime.weights import load_weights, save_weights  # noqa: E402

IDS = torch.arange(12)[None]


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 5_000_000_000])
def test_a_folder_comes_back_whole(tmp_path: Path, shard_bytes: int) -> None:
    module = llama()
    model = randomized(module.Model())
    model.save_weights(tmp_path, shard_bytes=shard_bytes)
    files = sorted(path.name for path in tmp_path.iterdir())
    if shard_bytes == 5_000_000_000:
        assert files == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == model.state_dict().keys()
        assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in model.state_dict().values())
        assert files == sorted({*index["weight_map"].values(), "model.safetensors.index.json"})
        for file in set(index["weight_map"].values()):
            shard = load_file(tmp_path / file)
            assert shard.keys() == {name for name, home in index["weight_map"].items() if home == file}
            assert len(shard) == 1 or sum(t.numel() * 4 for t in shard.values()) <= shard_bytes
    other = module.Model()
    loaded = load_weights(other, tmp_path)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert same(state(other), state(model))


def test_saving_again_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    """A stale index would bring the old weights back."""
    module = llama()
    old, new = randomized(module.Model(), 0), randomized(module.Model(), 1)
    old.save_weights(tmp_path, shard_bytes=20_000)
    (tmp_path / "tokenizer.json").write_text("{}")
    new.save_weights(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "tokenizer.json"]
    old.save_weights(tmp_path, shard_bytes=20_000)
    assert not (tmp_path / "model.safetensors").exists()
    other = module.Model()
    load_weights(other, tmp_path)
    assert same(state(other), state(old))


def test_transformers_and_the_package_read_each_other(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=131,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        rms_norm_eps=1e-5,
    )
    theirs, ours = transformers.LlamaForCausalLM(config), llama().Model()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    load_weights(ours, tmp_path / "theirs")
    assert same(state(ours), state(theirs))
    ours = randomized(ours, 3)
    ours.save_weights(tmp_path / "ours", shard_bytes=20_000)
    config.save_pretrained(tmp_path / "ours")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    assert same(state(again), state(ours))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_one_file_of_any_name_and_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    module = llama()
    model = randomized(module.Model(dtype=dtype))
    path = tmp_path / "deep" / "any.safetensors"
    model.save_weights(path)
    for source in (path, path.parent):
        wide = module.Model()
        load_weights(wide, source)
        assert {p.dtype for p in wide.parameters()} == {torch.float32}
        assert same(state(wide), {name: tensor.float() for name, tensor in state(model).items()})


def test_a_model_without_memory_is_given_it_by_loading(tmp_path: Path) -> None:
    module = llama()
    model = randomized(module.Model())
    model.save_weights(tmp_path)
    empty = module.Model(device="meta", dtype=torch.bfloat16)
    load_weights(empty, tmp_path)
    assert same(state(empty), {name: tensor.bfloat16() for name, tensor in state(model).items()})
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in empty.parameters())
    empty(IDS, labels=IDS).loss.backward()
    # The weights are the model's own: the files may go.
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert torch.isfinite(empty(IDS).logits).all()


def test_everything_that_does_not_fit_is_said_at_once_and_nothing_changes(tmp_path: Path) -> None:
    module = llama()
    model = randomized(module.Model())
    before = state(model)
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["model.norm.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(1)
    tensors["lm_head.weight"] = torch.zeros(130, 36)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not fit this model") as caught:
        load_weights(model, tmp_path)
    message = str(caught.value)
    assert "1 missing from the checkpoint: model.norm.weight" in message
    assert "1 not in the model: model.layers.7.mlp.up_proj.weight" in message
    assert "lm_head.weight is [130, 36] in the checkpoint and [131, 36] in the model" in message
    assert same(state(model), before)


def test_what_is_not_strict_takes_what_fits(tmp_path: Path) -> None:
    module = llama()
    model = randomized(module.Model())
    norm = model.model.norm.weight.detach().clone()
    tensors = {name: tensor + 1 for name, tensor in state(model).items() if name != "model.norm.weight"}
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = load_weights(model, tmp_path, strict=False)
    assert (loaded.missing, loaded.unexpected) == (("model.norm.weight",), ("extra",))
    assert torch.equal(model.model.norm.weight, norm)
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"])
    with pytest.raises(ValueError, match="on the meta device and missing from the checkpoint"):
        load_weights(module.Model(device="meta"), tmp_path, strict=False)


def test_frequencies_in_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    model = llama().Model()
    tensors = {**state(model), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_weights(model, tmp_path).unexpected == ()


def tied(module: Any, *, alias: bool) -> type:
    """A model whose head is its embedding: by name only, or by sharing the parameter."""

    class Tied(module.Model):
        tied_weights: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            if alias:
                self.lm_head.weight = self.model.embed_tokens.weight
            else:
                del self.lm_head

        def head(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.model.embed_tokens.weight)

    return Tied


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("names", ["embedding", "head", "both"])
def test_tied_heads_load_from_either_name(tmp_path: Path, alias: bool, device: str, names: str) -> None:
    model_class = tied(llama(), alias=alias)
    model = randomized(model_class())
    model.save_weights(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in saved
    embedding = saved["model.embed_tokens.weight"]
    if names != "embedding":
        saved["lm_head.weight"] = embedding.clone()
    if names == "head":
        del saved["model.embed_tokens.weight"]
    save_file(saved, tmp_path / "model.safetensors")
    other = model_class(device=device)
    load_weights(other, tmp_path)
    assert torch.equal(other.model.embed_tokens.weight, embedding)
    if alias:
        assert other.lm_head.weight is other.model.embed_tokens.weight
    assert torch.equal(other(IDS).logits, model(IDS).logits)


def test_a_path_without_weights_is_said_to_be_one(tmp_path: Path) -> None:
    model = llama().Model()
    with pytest.raises(FileNotFoundError, match="neither a safetensors file nor a folder"):
        load_weights(model, tmp_path)
    model.save_weights(tmp_path, shard_bytes=20_000)
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match="names files that are not there: model-00002-of-"):
        load_weights(model, tmp_path)
    with pytest.raises(ValueError, match="names is 'official'"):
        model.save_weights(tmp_path, names="official")
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_cut_short_is_named(tmp_path: Path, content: bytes) -> None:
    """A download that stopped, or a pointer in place of the file."""
    path = tmp_path / "model.safetensors"
    model = llama().Model()
    model.save_weights(path)
    for damaged in (content, path.read_bytes()[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
            load_weights(model, tmp_path)


@pytest.mark.parametrize("names", ["transformers", "hub"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_shared_matrix_is_saved_once(tmp_path: Path, names: str, declared: bool) -> None:
    """Under the name of its owner, also where the head is registered first; under the first name where none is said."""

    class HeadFirst(torch.nn.Module):
        tied_weights: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"} if declared else {}

        def __init__(self) -> None:
            super().__init__()
            self.lm_head = torch.nn.Linear(3, 5, bias=False)
            self.model = torch.nn.Module()
            self.model.embed_tokens = torch.nn.Embedding(5, 3)
            self.model.embed_tokens.weight = self.lm_head.weight

    model = HeadFirst()
    save_weights(model, tmp_path, names=names)
    saved = load_file(tmp_path / "model.safetensors")
    name = "model.embed_tokens.weight" if declared else "lm_head.weight"
    assert saved.keys() == {name}
    assert torch.equal(saved[name], model.lm_head.weight)
    other = HeadFirst()
    load_weights(other, tmp_path)
    assert torch.equal(other.model.embed_tokens.weight, model.lm_head.weight)
    assert other.lm_head.weight is other.model.embed_tokens.weight
