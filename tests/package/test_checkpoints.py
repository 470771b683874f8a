"""Checkpoints of whole families through packages: what a package saves runs in transformers, and FP8 runs here."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import archc
from archc.importers import load_config
from tests.built import built, randomise
from tests.runtime.skeletons import FAMILIES, assert_same, reference, state
from tests.runtime.test_formats import SCALED, dequantised, quantised
from tests.runtime.test_names import PUBLISHED, converted, deepseek_v3

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


def package(theirs: Any, folder: Path, *, mtp: bool = False, **more: Any) -> ModuleType:
    """The package of a transformers model's config, which stays in `folder / "config"`."""
    theirs.config.save_pretrained(folder / "config")
    path = folder / "config" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
    return built(load_config(path, name="checkpoint", mtp=mtp).model, folder)


def random(module: ModuleType, **settings: Any) -> Any:
    """A model of the package, every parameter and buffer of it random."""
    model = module.Model(**settings)
    randomise(model)
    return model.eval()


def read(theirs: Any, folder: Path) -> Any:
    """What transformers makes of a folder with weights; nothing of it may be missing."""
    theirs.config.save_pretrained(folder)
    model, report = type(theirs).from_pretrained(
        folder, output_loading_info=True, experts_implementation="eager", attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_package_saves_runs_in_transformers(tmp_path: Path, family: str) -> None:
    theirs = reference(family)
    ours = random(package(theirs, tmp_path))
    with torch.no_grad():
        want = ours(IDS).logits
        for names in ("transformers", PUBLISHED.get(family, "hub")):
            ours.save_weights(tmp_path / names, names=names, shard_bytes=20_000)
            found = read(theirs, tmp_path / names)(IDS).logits
            assert torch.allclose(found, want, rtol=1e-4, atol=1e-4), names


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ModuleType]:
    """A tiny V3 of transformers, and its package with an MTP module."""
    theirs = reference("deepseek_v3")
    return theirs, package(theirs, tmp_path_factory.mktemp("v3"), mtp=True, num_nextn_predict_layers=1)


@pytest.mark.parametrize("names", ["hub", "official"])
@pytest.mark.parametrize("kind", ["F32", "E8M0"])
def test_an_fp8_checkpoint_with_mtp(tmp_path: Path, v3: tuple[Any, ModuleType], kind: str, names: str) -> None:
    """The same checkpoint dequantised number by number, and read by transformers, says the same."""
    theirs, module = v3
    block = (8, 16)
    saved = random(module)
    saved.save_weights(tmp_path / "plain", names="hub")
    tensors, meaning = {}, {}
    for name, tensor in load_file(tmp_path / "plain" / "model.safetensors").items():
        tensors[name] = meaning[name] = tensor
        if name.endswith(SCALED) and "eh_proj" not in name:
            numbers, scales = quantised(tensor, block, powers=kind == "E8M0")
            tensors[name], meaning[name] = numbers, dequantised(numbers, scales, block)
            tensors[f"{name}_scale_inv"] = scales.to(torch.float8_e8m0fnu) if kind == "E8M0" else scales
    assert sum(name.startswith("model.layers.2.") for name in meaning) > 20
    if names == "official":
        tensors = {converted(n): t for n, t in tensors.items() if not n.startswith("model.layers.2.")}
    (tmp_path / "fp8").mkdir()
    save_file(tensors, tmp_path / "fp8" / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(config))
    save_file(meaning, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})

    small = module.Model(mtp=False, device="meta").eval()
    module.load_weights(small, tmp_path / "fp8")
    with torch.no_grad():
        want = read(theirs, tmp_path / "plain")(IDS).logits
        assert torch.allclose(small(IDS).logits, want, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(small(IDS).logits, saved(IDS).logits, rtol=1e-4, atol=1e-4)
    whole = module.Model().eval()
    if names == "official":
        with pytest.raises(ValueError, match=r"missing from the checkpoint: mtp\.0\."):
            module.load_weights(whole, tmp_path / "fp8")
        return
    module.load_weights(whole, tmp_path / "fp8")
    again = module.Model()
    module.load_weights(again, tmp_path / "plain")
    assert_same(state(whole), state(again))
    assert {n: t for n, t in state(whole).items() if not n.startswith("mtp.")}.keys() == state(small).keys()
    assert torch.isfinite(whole(IDS, labels=IDS).losses["mtp"])


def test_deepseek_v3_has_the_parameters_of_the_published_checkpoint(tmp_path: Path) -> None:
    """Name by name and shape by shape, so that every one of its tensors finds its place (`test_names`)."""
    wanted, _ = deepseek_v3()
    model = built(archc.load(ROOT / "specs" / "deepseek_v3.arch"), tmp_path).Model(device="meta")
    assert {name: t.shape for name, t in model.state_dict().items()} == {n: t.shape for n, t in wanted.items()}
