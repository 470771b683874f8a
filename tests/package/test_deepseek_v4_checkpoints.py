"""Checkpoints of DeepSeek-V4 as they are published: official names, FP8 and FP4, shards."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import archc
from archc.plan import plan
from tests.importers.configs import class_of
from tests.importers.deepseek import DEEPSEEK_V4_FLASH, DEEPSEEK_V4_PRO
from tests.package.test_checkpoints import package, random, read
from tests.runtime.skeletons import assert_same, reference, state
from tests.runtime.test_formats import E2M1, dequantised, fp4_dequantised, quantised

pytest.importorskip("transformers")
from archc_package.runtime.names import DEEPSEEK_V4, Names, Published

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3], [2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7, 9, 5]])


# --- names ---------------------------------------------------------------------------------------
def block(prefix: str, ratio: int, experts: int, *, hashed: bool) -> tuple[list[str], list[str]]:
    """The tensors of a block as published: those that have scales beside them, and others."""
    scaled = [f"attn.{m}.weight" for m in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b")]
    plain = ["attn_norm.weight", "ffn_norm.weight", "attn.q_norm.weight", "attn.kv_norm.weight", "attn.attn_sink"]
    plain += [f"hc_{where}_{what}" for where in ("attn", "ffn") for what in ("fn", "base", "scale")]
    pool = ("ape", "wkv.weight", "wgate.weight", "norm.weight")
    if ratio:
        plain += [f"attn.compressor.{leaf}" for leaf in pool]
    if ratio == 4:
        scaled += ["attn.indexer.wq_b.weight"]
        plain += ["attn.indexer.weights_proj.weight", *(f"attn.indexer.compressor.{leaf}" for leaf in pool)]
    plain += ["ffn.gate.weight", "ffn.gate.tid2eid" if hashed else "ffn.gate.bias"]
    scaled += [f"ffn.{e}.{w}.weight" for e in ("shared_experts", *_experts(experts)) for w in ("w1", "w2", "w3")]
    return [f"{prefix}.{name}" for name in scaled], [f"{prefix}.{name}" for name in plain]


def _experts(count: int) -> list[str]:
    return [f"experts.{e}" for e in range(count)]


def published(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Every tensor of a published checkpoint without its MTP modules: those that have scales, and others."""
    plain = ["embed.weight", "head.weight", "norm.weight", *(f"hc_head_{what}" for what in ("fn", "base", "scale"))]
    scaled: list[str] = []
    for n in range(config["num_hidden_layers"]):
        ratio = config["compress_ratios"][n]
        more = block(f"layers.{n}", ratio, config["n_routed_experts"], hashed=n < config["num_hash_layers"])
        scaled += more[0]
        plain += more[1]
    return scaled, plain


def module_ahead(config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The same of its module for further tokens."""
    scaled, plain = block("mtp.0", 0, config["n_routed_experts"], hashed=False)
    scaled += [f"mtp.0.{matrix}.weight" for matrix in ("e_proj", "h_proj")]
    plain += [f"mtp.0.{norm}.weight" for norm in ("enorm", "hnorm", "norm")]
    return scaled, plain + [f"mtp.0.hc_head_{what}" for what in ("fn", "base", "scale")]


@pytest.mark.parametrize(
    ("name", "config", "tensors", "ahead"),
    [
        ("deepseek_v4_flash", DEEPSEEK_V4_FLASH, 67_612, 6_610_048_635),
        ("deepseek_v4_pro", DEEPSEEK_V4_PRO, 142_773, 25_840_145_595),
    ],
    ids=["flash", "pro"],
)
def test_all_names_find_their_places(name: str, config: dict[str, Any], tensors: int, ahead: int) -> None:
    """Every parameter of transformers' model is one of ours and filled once by a published checkpoint, and back.

    67,612 tensors are those of the published base model of Flash; Pro's are what is left of the 149,782 of its
    release of August without the 7,009 of three drafting modules. ``ahead`` are the parameters of the module.
    """
    scaled, plain = published(config)
    assert 2 * len(scaled) + len(plain) == tensors
    with torch.device("meta"):
        theirs = class_of("deepseek_v4", "ForCausalLM")(class_of("deepseek_v4")(**config))
    wanted = theirs.state_dict()
    ours = {p.name: p.spec for p in plan(archc.load(name)).parameters()}
    module = {n: torch.empty(spec.shape, device="meta") for n, spec in ours.items() if n.startswith("mtp.")}
    assert sum(t.numel() for n, t in module.items() if not ours[n].buffer) == ahead
    assert {n: s.shape for n, s in ours.items() if n not in module} == {n: tuple(t.shape) for n, t in wanted.items()}
    wanted = {**wanted, **module}
    more = module_ahead(config)
    scaled, plain = scaled + more[0], plain + more[1]
    filled: dict[str, int] = dict.fromkeys(wanted, 0)
    names = Names(wanted, {})
    for key, place, repeats in names.read([*scaled, *plain]):
        assert place is not None, key
        assert not repeats
        filled[place.name] += place.of(wanted[place.name]).numel()
    assert filled == {name: tensor.numel() for name, tensor in wanted.items()}
    assert sorted(names.published(Published(DEEPSEEK_V4, mtp_layers=False))) == sorted([*scaled, *plain])


def test_transformers_writes_the_same_names_but_for_prefixes_and_a_norm(tmp_path: Path) -> None:
    """What `save_weights` writes, value by value."""
    theirs = reference("deepseek_v4")
    theirs.save_pretrained(tmp_path / "theirs")
    module = package(theirs, tmp_path)
    ours = module.Model()
    module.load_weights(ours, tmp_path / "theirs")
    ours.save_weights(tmp_path / "ours.safetensors", names="deepseek_v4")

    def official(name: str) -> str:
        name = name.removeprefix("model.").replace("hc_head.hc_", "hc_head_").replace("embed_tokens.", "embed.")
        return name.replace(".attn.norm.", ".attn.kv_norm.")

    found = load_file(tmp_path / "theirs" / "model.safetensors")
    assert_same(load_file(tmp_path / "ours.safetensors"), {official(name): t for name, t in found.items()})


# --- numbers -------------------------------------------------------------------------------------
BLOCK = (8, 16)


def fp4_quantised(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed FP4 numbers, and scales that are powers of two, of the blocks of 32 in every row."""
    bands = w.split(32, 1)
    scales = torch.stack([torch.exp2(torch.ceil(torch.log2(b.abs().amax(1) / 6))) for b in bands], 1)
    grid = torch.tensor([*E2M1, *(-v for v in E2M1)])
    codes = [((b / scales[:, i, None])[..., None] - grid).abs().argmin(-1) for i, b in enumerate(bands)]
    low, high = torch.cat(codes, 1).unflatten(1, (-1, 2)).unbind(-1)
    return (low + 16 * high).to(torch.uint8).view(torch.int8), scales.to(torch.float8_e8m0fnu)


def quantise(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A plain checkpoint of official names as it would be published, and what that means number by number."""
    packed: dict[str, torch.Tensor] = {}
    meaning: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if ".ffn.experts." in name:
            packed[name], packed[f"{module}.scale"] = fp4_quantised(tensor)
            meaning[name] = fp4_dequantised(packed[name], packed[f"{module}.scale"])
        elif ".shared_experts." in name or module.endswith(
            ("wq_a", "wq_b", "attn.wkv", "wo_a", "wo_b", ".e_proj", ".h_proj")
        ):
            numbers, scales = quantised(tensor, BLOCK, powers=True)
            packed[name], packed[f"{module}.scale"] = numbers, scales.to(torch.float8_e8m0fnu)
            meaning[name] = dequantised(numbers, scales, BLOCK)
        elif tensor.is_floating_point() and not name.endswith(("ape", "attn_sink", "gate.bias")) and "hc_" not in name:
            packed[name] = tensor.bfloat16()
            meaning[name] = packed[name].float()
        else:
            packed[name] = meaning[name] = tensor
    return packed, meaning


def write_shards(tensors: dict[str, torch.Tensor], folder: Path, count: int) -> None:
    """The tensors in files, scales apart from their numbers, with an index, and a config that says the blocks."""
    folder.mkdir()
    files = {name: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name].contiguous() for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    config = {"quant_method": "fp8", "weight_block_size": list(BLOCK), "scale_fmt": "ue8m0"}
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModuleType]:
    """A tiny V4 of transformers whose matrices have uneven blocks everywhere, and its package with an MTP module."""
    theirs = reference("deepseek_v4", hidden_size=38, intermediate_size=42, num_attention_heads=3)
    return theirs, package(theirs, tmp_path_factory.mktemp("v4"), mtp=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("integers", [torch.int64, torch.int32])
def test_a_published_checkpoint_says_what_it_says_dequantised(
    tmp_path: Path, small: tuple[Any, ModuleType], integers: torch.dtype, device: str
) -> None:
    theirs, module = small
    saved = random(module)
    saved.save_weights(tmp_path / "plain.safetensors", names="deepseek_v4")
    packed, meaning = quantise(load_file(tmp_path / "plain.safetensors"))
    assert {n for n in packed if n.startswith("mtp.")} >= {"mtp.0.e_proj.scale", "mtp.0.ffn.experts.5.w2.scale"}
    kinds = {str(t.dtype).removeprefix("torch.") for t in packed.values()}
    assert kinds == {"int8", "float8_e8m0fnu", "float8_e4m3fn", "bfloat16", "float32", "int64"}
    packed = {name: t.to(integers) if t.dtype == torch.int64 else t for name, t in packed.items()}
    write_shards(packed, tmp_path / "published", count=5)

    model = module.Model(device=device, mtp=False).eval()
    loaded = module.load_weights(model, tmp_path / "published")
    assert (loaded.missing, loaded.unexpected) == ((), ())
    whole = module.Model(device=device).eval()
    module.load_weights(whole, tmp_path / "published")
    (tmp_path / "meaning").mkdir()
    save_file(meaning, tmp_path / "meaning" / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        want = read(theirs, tmp_path / "meaning")(IDS).logits
        found = model(IDS).logits
        assert torch.allclose(found, want, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, saved(IDS).logits, rtol=1e-2, atol=1e-2)
    again = module.Model()
    module.load_weights(again, tmp_path / "meaning")
    assert_same(state(whole), state(again))
    assert_same(state(model), {n: t for n, t in state(again).items() if not n.startswith("mtp.")})
    assert torch.isfinite(whole(IDS, labels=IDS).losses["mtp"])
