"""Whatever a checkpoint calls a model's parameters, they arrive: by every family's names, whole or expert by expert."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.runtime.skeletons import FAMILIES, Skeleton, assert_same, like, reference, shapes, state

pytest.importorskip("transformers")
from archc_package.runtime.names import Names
from archc_package.runtime.weights import load_weights

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
PUBLISHED = {"mixtral": "mixtral", "deepseek_v4": "deepseek_v4"}
"""The style in which a family publishes its weights, where that is not "hub"."""


# --- transformers --------------------------------------------------------------------------------
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_arrives(tmp_path: Path, family: str, device: str) -> None:
    """`save_pretrained` writes the names of the hub; shards of 4 KB part the experts of a layer."""
    theirs = reference(family)
    theirs.save_pretrained(tmp_path, max_shard_size="4KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    first = {home for name, home in index.items() if name.startswith("model.layers.1.")}
    assert len(first) > 1
    ours = like(theirs, device=device)
    loaded = load_weights(ours, tmp_path)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert_same(state(ours), state(theirs))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["transformers", "published"])
def test_transformers_loads_what_is_saved(tmp_path: Path, family: str, style: str) -> None:
    theirs = reference(family)
    ours = like(theirs)
    load_weights(ours, _saved(theirs, tmp_path / "theirs"))
    names = PUBLISHED.get(family, "hub") if style == "published" else style
    ours.save_weights(tmp_path / "ours", names=names, shard_bytes=4096)
    theirs.config.save_pretrained(tmp_path / "ours")
    again, report = type(theirs).from_pretrained(
        tmp_path / "ours", output_loading_info=True, experts_implementation="eager", attn_implementation="eager"
    )
    assert {kind: names for kind, names in report.items() if names} == {}
    assert_same(state(again), state(theirs))
    with torch.no_grad():
        # Of equal numbers: matrices that lie elsewhere in memory are multiplied in another order on some processors
        torch.testing.assert_close(again.eval()(IDS).logits, theirs(IDS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("gpt_oss", "deepseek_v4")])
def test_published_names_are_those_of_the_hub(tmp_path: Path, family: str) -> None:
    """Name by name and value by value what `save_pretrained` writes."""
    theirs = reference(family)
    ours = like(theirs)
    load_weights(ours, _saved(theirs, tmp_path / "theirs"))
    ours.save_weights(tmp_path / "ours.safetensors", names=PUBLISHED.get(family, "hub"))
    assert_same(load_file(tmp_path / "ours.safetensors"), load_file(tmp_path / "theirs" / "model.safetensors"))


@pytest.mark.parametrize("family", ["llama", "mixtral", "deepseek_v3"])
def test_a_base_model_has_names_without_a_prefix(tmp_path: Path, family: str) -> None:
    theirs = reference(family)
    theirs.model.save_pretrained(tmp_path)
    assert not any(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    ours = like(theirs)
    head = state(ours)["lm_head.weight"]
    assert load_weights(ours, tmp_path, strict=False).missing == ("lm_head.weight",)
    assert_same(state(ours), {**state(theirs), "lm_head.weight": head})


def _saved(model: torch.nn.Module, path: Path) -> Path:
    model.save_pretrained(path)
    return path


# --- DeepSeek's inference code -------------------------------------------------------------------
CONVERT = {
    "embed_tokens": "embed",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "wq",
    "q_a_proj": "wq_a",
    "q_a_layernorm": "q_norm",
    "q_b_proj": "wq_b",
    "kv_a_proj_with_mqa": "wkv_a",
    "kv_a_layernorm": "kv_norm",
    "kv_b_proj": "wkv_b",
    "o_proj": "wo",
    "gate": "gate",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "norm": "norm",
    "lm_head": "head",
    "wq_b": "wq_b",
    "wk": "wk",
    "k_norm": "k_norm",
    "weights_proj": "weights_proj",
}
"""The last module of a name on the hub -> in the inference code (DeepSeek-V3, README_WEIGHTS and convert.py)."""


def converted(name: str) -> str:
    """A name of the hub as DeepSeek's inference code has it."""
    name = name.removeprefix("model.").replace("self_attn", "attn").replace("mlp", "ffn")
    *path, module, leaf = name.split(".")
    leaf = {"e_score_correction_bias": "bias", "weight_scale_inv": "scale"}.get(leaf, leaf)
    return ".".join([*path, CONVERT[module], leaf])


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32"])
def test_names_of_the_inference_code(tmp_path: Path, family: str) -> None:
    theirs = reference(family)
    hub = load_file(_saved(theirs, tmp_path / "hub") / "model.safetensors")
    official = {converted(name): tensor for name, tensor in hub.items()}
    assert not official.keys() & hub.keys()
    save_file(official, tmp_path / "model0-mp1.safetensors")
    ours = like(theirs)
    load_weights(ours, tmp_path / "model0-mp1.safetensors")
    assert_same(state(ours), state(theirs))


def test_inference_names_of_a_published_layer() -> None:
    """Spelled out, as a guard of the conversion above (README_WEIGHTS of DeepSeek-V3)."""
    assert converted("model.layers.3.mlp.gate.e_score_correction_bias") == "layers.3.ffn.gate.bias"
    assert converted("model.layers.3.mlp.experts.255.up_proj.weight") == "layers.3.ffn.experts.255.w3.weight"
    assert converted("model.layers.3.self_attn.kv_a_layernorm.weight") == "layers.3.attn.kv_norm.weight"
    assert converted("model.norm.weight") == "norm.weight"


# --- MTP -----------------------------------------------------------------------------------------
def hub(model: Skeleton, layers: int) -> dict[str, torch.Tensor]:
    """The checkpoint of a model as the hub has DeepSeek-V3: MTP modules behind the layers, shared weights repeated."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state(model).items():
        module = re.fullmatch(r"mtp\.(\d+)\.(.*)", name)
        if module:
            leaf = "shared_head.norm.weight" if module[2] == "norm.weight" else module[2]
            prefix = f"model.layers.{layers + int(module[1])}"
            found[f"{prefix}.{leaf}"] = tensor
            found[f"{prefix}.embed_tokens.weight"] = state(model)["model.embed_tokens.weight"]
            found[f"{prefix}.shared_head.head.weight"] = state(model)["lm_head.weight"]
        else:
            found[name] = tensor
    for name in [name for name in found if ".experts." in name]:
        stack, prefix = found.pop(name), name.rpartition(".")[0]
        for e, matrix in enumerate(stack):
            if name.endswith("gate_up_proj"):
                found[f"{prefix}.{e}.gate_proj.weight"], found[f"{prefix}.{e}.up_proj.weight"] = matrix[:5], matrix[5:]
            else:
                found[f"{prefix}.{e}.down_proj.weight"] = matrix
    return {name: tensor.clone() for name, tensor in found.items()}


@pytest.mark.parametrize("depth", [1, 2])
def test_mtp_modules_are_the_layers_behind_the_last(tmp_path: Path, depth: int) -> None:
    saved = Skeleton(shapes(2, depth))
    save_file(hub(saved, 2), tmp_path / "model.safetensors")
    loaded = Skeleton(shapes(2, depth), seed=1)
    load_weights(loaded, tmp_path)
    assert_same(state(loaded), state(saved))
    saved.save_weights(tmp_path / "again.safetensors", names="hub")
    assert_same(load_file(tmp_path / "again.safetensors"), hub(saved, 2))


@pytest.mark.parametrize("names", ["transformers", "hub"])
def test_a_model_without_mtp_passes_over_that_of_a_checkpoint(tmp_path: Path, names: str) -> None:
    saved = Skeleton(shapes(2, 1))
    saved.save_weights(tmp_path, names=names)
    loaded = Skeleton(shapes(2, 0), seed=1)
    assert load_weights(loaded, tmp_path).unexpected == ()
    assert_same(state(loaded), {n: t for n, t in state(saved).items() if not n.startswith("mtp.")})


@pytest.mark.parametrize("names", ["transformers", "hub"])
def test_a_model_with_mtp_says_that_a_checkpoint_has_none(tmp_path: Path, names: str) -> None:
    Skeleton(shapes(2, 0)).save_weights(tmp_path, names=names)
    model = Skeleton(shapes(2, 1), seed=1)
    before = state(model)
    with pytest.raises(ValueError, match=r"9 missing from the checkpoint: mtp\.0\.enorm\.weight, mtp\.0\.hnorm\."):
        load_weights(model, tmp_path)
    assert_same(state(model), before)
    assert set(load_weights(model, tmp_path, strict=False).missing) == {n for n in before if n.startswith("mtp.")}


def test_a_deeper_checkpoint_is_no_mtp(tmp_path: Path) -> None:
    """Only a layer that joins two inputs is an MTP module: others behind the last are too many."""
    Skeleton(shapes(3, 1)).save_weights(tmp_path, names="hub")
    with pytest.raises(ValueError, match=r"12 not in the model: model\.layers\.2\.input_layernorm\.weight, ") as caught:
        load_weights(Skeleton(shapes(2, 1)), tmp_path)
    assert "model.layers.3" not in str(caught.value)
    Skeleton(shapes(2, 2)).save_weights(tmp_path, names="hub")
    with pytest.raises(ValueError, match=r"16 not in the model: model\.layers\.3\.eh_proj\.weight, ") as caught:
        load_weights(Skeleton(shapes(2, 1)), tmp_path)
    assert "model.layers.2" not in str(caught.value)


def test_an_mtp_layer_is_never_a_layer_of_the_model(tmp_path: Path) -> None:
    """A model of three layers, a checkpoint of two and an MTP module, whose number is that of the third layer."""
    Skeleton(shapes(2, 1)).save_weights(tmp_path, names="hub")
    model = Skeleton(shapes(3, 0), seed=1)
    third = {n: t for n, t in state(model).items() if n.startswith("model.layers.2.")}
    assert set(load_weights(model, tmp_path, strict=False).missing) == third.keys()
    assert_same({n: state(model)[n] for n in third}, third)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_shared_weights_may_stand_in_the_mtp_layer_only(tmp_path: Path, prefix: str) -> None:
    saved = Skeleton(shapes(1, 1))
    tensors = hub(saved, 1)
    del tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    save_file({prefix + n.removeprefix("model."): t for n, t in tensors.items()}, tmp_path / "model.safetensors")
    loaded = Skeleton(shapes(1, 1), seed=1)
    load_weights(loaded, tmp_path)
    assert_same(state(loaded), state(saved))


def test_what_the_mtp_layer_repeats_counts_less(tmp_path: Path) -> None:
    saved = Skeleton(shapes(1, 1))
    tensors = hub(saved, 1)
    for name in ("embed_tokens", "shared_head.head"):
        tensors[f"model.layers.1.{name}.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = Skeleton(shapes(1, 1), seed=1)
    load_weights(loaded, tmp_path)
    assert_same(state(loaded), state(saved))


def test_a_tied_head_is_repeated_by_the_mtp_layer(tmp_path: Path) -> None:
    sizes = shapes(1, 1)
    del sizes["lm_head.weight"]
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    saved = Skeleton(sizes, tied=tied)
    saved.save_weights(tmp_path, names="hub")
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert torch.equal(tensors["model.layers.1.shared_head.head.weight"], tensors["model.embed_tokens.weight"])
    loaded = Skeleton(sizes, tied=tied, seed=1)
    load_weights(loaded, tmp_path)
    assert_same(state(loaded), state(saved))


# --- laws ----------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 3),
    depth=st.integers(0, 2),
    experts=st.integers(1, 12),
    biased=st.booleans(),
    names=st.sampled_from(["transformers", "hub", "mixtral", "deepseek_v4"]),
    shard_bytes=st.sampled_from([1, 700, 10**9]),
    device=st.sampled_from(["cpu", "meta"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_style_comes_back_bit_for_bit(layers, depth, experts, biased, names, shard_bytes, device, dtype) -> None:
    sizes = shapes(layers, depth, experts)
    if biased:
        stacks = [name for name in sizes if ".experts." in name]
        sizes |= {f"{name}_bias": sizes[name][:2] for name in stacks}
    saved = Skeleton(sizes, dtype=dtype)
    loaded = Skeleton(sizes, dtype=dtype, device=device, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        saved.save_weights(folder, names=names, shard_bytes=shard_bytes)
        loaded_report = load_weights(loaded, folder)
    assert (loaded_report.missing, loaded_report.unexpected) == ((), ())
    assert_same(state(loaded), state(saved))


def deepseek_v3() -> tuple[dict[str, torch.Tensor], list[str]]:
    """The parameters and buffers of DeepSeek-V3 with its MTP module, and the names of the published checkpoint."""
    wanted: dict[str, torch.Tensor] = {}
    published: list[str] = []

    def add(name: str, *shape: int) -> None:
        wanted[name] = torch.empty(shape, device="meta")
        published.append(name)

    def block(ours: str, theirs: str, *, dense: bool) -> None:
        start = len(published)
        for norm, size in (("input_layernorm", 7168), ("post_attention_layernorm", 7168)):
            add(f"{ours}.{norm}.weight", size)
        for matrix, rows, columns in (
            ("q_a_proj", 1536, 7168),
            ("q_b_proj", 24576, 1536),
            ("kv_a_proj_with_mqa", 576, 7168),
            ("kv_b_proj", 32768, 512),
            ("o_proj", 7168, 16384),
        ):
            add(f"{ours}.self_attn.{matrix}.weight", rows, columns)
        add(f"{ours}.self_attn.q_a_layernorm.weight", 1536)
        add(f"{ours}.self_attn.kv_a_layernorm.weight", 512)
        ffn = f"{ours}.mlp" if dense else f"{ours}.mlp.shared_experts"
        hidden = 18432 if dense else 2048
        add(f"{ffn}.gate_proj.weight", hidden, 7168)
        add(f"{ffn}.up_proj.weight", hidden, 7168)
        add(f"{ffn}.down_proj.weight", 7168, hidden)
        if not dense:
            add(f"{ours}.mlp.gate.weight", 256, 7168)
            add(f"{ours}.mlp.gate.e_score_correction_bias", 256)
        published[start:] = [theirs + name.removeprefix(ours) for name in published[start:]]
        if not dense:
            wanted[f"{ours}.mlp.experts.gate_up_proj"] = torch.empty(256, 4096, 7168, device="meta")
            wanted[f"{ours}.mlp.experts.down_proj"] = torch.empty(256, 7168, 2048, device="meta")
            parts = ("gate_proj", "up_proj", "down_proj")
            published.extend(f"{theirs}.mlp.experts.{e}.{part}.weight" for e in range(256) for part in parts)

    add("model.embed_tokens.weight", 129280, 7168)
    for n in range(61):
        block(f"model.layers.{n}", f"model.layers.{n}", dense=n < 3)
    add("model.norm.weight", 7168)
    add("lm_head.weight", 129280, 7168)
    block("mtp.0", "model.layers.61", dense=False)
    for norm in ("enorm", "hnorm"):
        wanted[f"mtp.0.{norm}.weight"] = torch.empty(7168, device="meta")
        published.append(f"model.layers.61.{norm}.weight")
    wanted["mtp.0.norm.weight"] = torch.empty(7168, device="meta")
    wanted["mtp.0.eh_proj.weight"] = torch.empty(7168, 14336, device="meta")
    published += [
        f"model.layers.61.{leaf}.weight" for leaf in ("eh_proj", "shared_head.norm", "embed_tokens", "shared_head.head")
    ]
    return wanted, published


def test_all_names_of_deepseek_v3_find_their_places() -> None:
    """91,991 tensors of the published checkpoint less 45,808 scales: 46,183; every parameter is filled, once."""
    wanted, published = deepseek_v3()
    assert len(published) == 46_183
    filled: dict[str, int] = dict.fromkeys(wanted, 0)
    for key, place, repeats in Names(wanted, {}).read(published):
        assert place is not None, key
        if not repeats:
            filled[place.name] += place.of(wanted[place.name]).numel()
    assert filled == {name: tensor.numel() for name, tensor in wanted.items()}
    assert sum(filled.values()) == 671_026_419_200 + 11_610_067_968 + 256
