"""FP8 blocks, FP4 and MXFP4 become the numbers they stand for, one matrix at a time; what cannot be read is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.runtime.skeletons import Skeleton, assert_same, like, reference, state
from tests.runtime.test_names import converted

transformers = pytest.importorskip("transformers")
from archc_package.runtime.formats import fp4_blocks, fp8_blocks, mxfp4  # noqa: E402
from archc_package.runtime.weights import load_weights  # noqa: E402

BLOCK = (8, 16)
"""Small enough that tiny matrices have several blocks, and none of their sizes is a multiple."""


def quantised(w: torch.Tensor, block: tuple[int, int], *, powers: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 numbers and scales of a matrix, each block's largest number at 448 (or below it, for powers of two)."""
    blocks = [
        [tile.abs().max().clamp(min=1e-4) / 448 for tile in band.split(block[1], 1)] for band in w.split(block[0])
    ]
    scales = torch.stack([torch.stack(band) for band in blocks])
    if powers:
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    i, j = (torch.arange(n) // b for n, b in zip(w.shape, block, strict=True))
    return (w / scales[i[:, None], j[None, :]]).to(torch.float8_e4m3fn), scales


def dequantised(numbers: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Number by number: times the scale of the block it lies in."""
    i, j = (torch.arange(n) // b for n, b in zip(numbers.shape, block, strict=True))
    return numbers.float() * scales.float()[i[:, None], j[None, :]]


# --- FP8 -----------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    kind=st.sampled_from(["F32", "E8M0", "U8"]),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_size_and_edge(rows, columns, block, kind, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn)
    size = (-(-rows // block[0]), -(-columns // block[1]))
    exponents = torch.randint(-20, 20, size, generator=generator)
    scales = torch.randn(size, generator=generator) if kind == "F32" else torch.exp2(exponents.float())
    stored = {"F32": scales, "E8M0": scales.to(torch.float8_e8m0fnu), "U8": (exponents + 127).to(torch.uint8)}[kind]
    assert torch.equal(fp8_blocks(numbers, stored, block), dequantised(numbers, scales, block))


def test_576_rows_have_five_scales(tmp_path: Path) -> None:
    """V3's kv_a_proj_with_mqa: 576 is not a multiple of 128. The block is 128 x 128 where no config says otherwise."""
    name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
    numbers = torch.randn(576, 300).to(torch.float8_e4m3fn)
    scales = torch.rand(5, 3) + 0.5
    save_file({name: numbers, f"{name}_scale_inv": scales}, tmp_path / "model.safetensors")
    model = Skeleton({name: (576, 300)})
    load_weights(model, tmp_path)
    assert torch.equal(state(model)[name], dequantised(numbers, scales, (128, 128)))


SCALED = ("_proj.weight", "kv_a_proj_with_mqa.weight", ".down_proj.weight")


def checkpoint(folder: Path, *, kind: str, names: str, block: tuple[int, int] | None) -> tuple[Any, dict]:
    """An FP8 checkpoint of a tiny V3 with one MTP layer in the folder, and the tensors that it stands for."""
    theirs = reference("deepseek_v3")
    theirs.save_pretrained(folder)
    plain = load_file(folder / "model.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    meaning: dict[str, torch.Tensor] = {}
    for name, tensor in plain.items():
        meaning[name] = tensors[name] = tensor
        if name.endswith(SCALED):
            numbers, scales = quantised(tensor, block or (128, 128), powers=kind != "F32")
            meaning[name] = dequantised(numbers, scales, block or (128, 128))
            tensors[name] = numbers
            tensors[f"{name}_scale_inv"] = scales if kind == "F32" else scales.to(torch.float8_e8m0fnu)
    if names == "official":
        tensors = {converted(name): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if block:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": list(block)}
    (folder / "config.json").write_text(json.dumps(config))
    return theirs, meaning


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [None, BLOCK])
@pytest.mark.parametrize("names", ["hub", "official"])
@pytest.mark.parametrize("kind", ["F32", "E8M0"])
def test_a_whole_fp8_checkpoint(tmp_path: Path, kind: str, names: str, block, dtype: torch.dtype) -> None:
    theirs, meaning = checkpoint(tmp_path, kind=kind, names=names, block=block)
    model = like(theirs, dtype=dtype, device="meta")
    load_weights(model, tmp_path)
    found = state(model)
    experts = "model.layers.1.mlp.experts"
    gate_up = [torch.cat([meaning[f"{experts}.{e}.{p}_proj.weight"] for p in ("gate", "up")]) for e in range(6)]
    down = [meaning[f"{experts}.{e}.down_proj.weight"] for e in range(6)]
    want = {name: tensor for name, tensor in meaning.items() if ".experts." not in name}
    want |= {f"{experts}.gate_up_proj": torch.stack(gate_up), f"{experts}.down_proj": torch.stack(down)}
    assert_same(found, {name: tensor.to(dtype) for name, tensor in want.items()})


@pytest.mark.parametrize("rows", [(16, 8), (24, 8)])
def test_stacked_fp8_experts_as_transformers_holds_them(tmp_path: Path, rows: tuple[int, int]) -> None:
    """`gate_up_proj` with `gate_up_proj_scale_inv`, where no block has rows of both."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    numbers = torch.randn(3, 2 * rows[0], 20).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2 * rows[0] // 8, 2) + 0.5
    save_file({name: numbers, f"{name}_scale_inv": scales}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"weight_block_size": [8, 16]}}')
    model = Skeleton({name: (3, 2 * rows[0], 20)})
    load_weights(model, tmp_path)
    assert torch.equal(
        state(model)[name], torch.stack([dequantised(n, s, BLOCK) for n, s in zip(numbers, scales, strict=True)])
    )


# --- FP4 -----------------------------------------------------------------------------------------
E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
"""What the codes 0 to 7 stand for; those from 8 on have the other sign."""


def fp4_dequantised(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Number by number: the low half of a byte comes first, and 32 numbers of a row share a scale."""
    rows = []
    for band, factors in zip(numbers.view(torch.uint8).tolist(), scales.float().tolist(), strict=True):
        codes = [half for byte in band for half in (byte % 16, byte // 16)]
        values = [-E2M1[code - 8] if code > 7 else E2M1[code] for code in codes]
        rows.append([value * factors[i // 32] for i, value in enumerate(values)])
    return torch.tensor(rows, dtype=torch.float64).float()


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 5),
    half=st.integers(1, 70),
    kind=st.sampled_from(["F32", "E8M0", "U8"]),
    numbers=st.sampled_from([torch.int8, torch.uint8]),
    seed=st.integers(0, 1000),
)
def test_fp4_of_any_size_and_edge(rows, half, kind, numbers, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(256, (rows, half), generator=generator, dtype=torch.uint8).view(numbers)
    exponents = torch.randint(-20, 20, (rows, -(-2 * half // 32)), generator=generator)
    scales = torch.exp2(exponents.float())
    stored = {"F32": scales, "E8M0": scales.to(torch.float8_e8m0fnu), "U8": (exponents + 127).to(torch.uint8)}[kind]
    assert torch.equal(fp4_blocks(packed, stored), fp4_dequantised(packed, scales))


def test_fp4_matrices_and_stacks_of_them(tmp_path: Path) -> None:
    """[3, 48] has blocks of 32 and of 16; a file may have the experts of a layer in one tensor."""
    matrix, stack = "model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.experts.down_proj"
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, lead in ((matrix, (3,)), (stack, (2, 3))):
        tensors[name] = torch.randint(-128, 128, (*lead, 24), generator=generator, dtype=torch.int8)
        exponents = torch.randint(-4, 4, (*lead, 2), generator=generator).float()
        tensors[f"{name.removesuffix('.weight')}.scale"] = torch.exp2(exponents).to(torch.float8_e8m0fnu)
    save_file(tensors, tmp_path / "model.safetensors")
    model = Skeleton({matrix: (3, 48), stack: (2, 3, 48)})
    load_weights(model, tmp_path)
    found = state(model)
    scales = tensors["model.layers.0.self_attn.o_proj.scale"]
    assert torch.equal(found[matrix], fp4_dequantised(tensors[matrix], scales))
    stacked = zip(tensors[stack], tensors[f"{stack}.scale"], strict=True)
    assert torch.equal(found[stack], torch.stack([fp4_dequantised(n, s) for n, s in stacked]))


# --- MXFP4 ---------------------------------------------------------------------------------------
def packed(experts: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes and scales of a stack of matrices."""
    generator = torch.Generator().manual_seed(rows)
    blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(110, 140, blocks.shape[:-1], generator=generator, dtype=torch.uint8)


def test_mxfp4_is_what_transformers_makes_of_it() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks, scales = packed(3, 10, 96)
    want = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.float32)
    found = torch.stack([mxfp4(b, s) for b, s in zip(blocks, scales, strict=True)])
    assert found.shape == (3, 96, 10)
    assert torch.equal(found, want)


def test_mxfp4_by_the_standard() -> None:
    """E2M1 codes 0-7 stand for 0, 0.5, 1, 1.5, 2, 3, 4, 6, bit 3 is the sign; scale bits s for 2 to the s - 127."""
    blocks = torch.tensor([[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2], dtype=torch.uint8)[None]
    found = mxfp4(blocks, torch.tensor([[128]], dtype=torch.uint8))[:, 0]
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert found.tolist() == [2 * sign * m for sign in (1, -1) for m in magnitudes] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpt_oss_checkpoint(tmp_path: Path, dtype: torch.dtype) -> None:
    """32 columns a group: the published sizes (2880) are multiples."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    theirs = reference("gpt_oss", hidden_size=32, intermediate_size=64, num_attention_heads=4)
    tensors = state(theirs)
    want = dict(tensors)
    for n in range(2):
        experts = f"model.layers.{n}.mlp.experts"
        for name, rows, columns in (("gate_up_proj", 128, 32), ("down_proj", 32, 64)):
            blocks, scales = packed(3, rows, columns)
            tensors[f"{experts}.{name}_blocks"], tensors[f"{experts}.{name}_scales"] = blocks, scales
            want[f"{experts}.{name}"] = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.float32)
            assert want[f"{experts}.{name}"].shape == tensors.pop(f"{experts}.{name}").shape
    save_file(tensors, tmp_path / "model.safetensors")
    model = like(theirs, dtype=dtype)
    load_weights(model, tmp_path)
    assert_same(state(model), {name: tensor.to(dtype) for name, tensor in want.items()})


# --- memory --------------------------------------------------------------------------------------
class Largest(TorchDispatchMode):
    """Records the bytes of the largest storage that an operation makes."""

    def __init__(self, but: set[int]) -> None:
        super().__init__()
        self.but = but  # addresses of storages that do not count
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.but:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("bits", [8, 4])
def test_no_more_than_one_matrix_beside_the_model(tmp_path: Path, bits: int) -> None:
    """Eight experts of [64, 48]: a stack has 8 times (down) or 16 times (gate and up) the bytes of what is decoded."""
    stacks = {
        "model.layers.0.mlp.experts.gate_up_proj": (8, 128, 48),
        "model.layers.0.mlp.experts.down_proj": (8, 48, 64),
    }
    tensors: dict[str, torch.Tensor] = {}
    for e in range(8):
        for part, size in (("gate_proj", (64, 48)), ("up_proj", (64, 48)), ("down_proj", (48, 64))):
            name = f"model.layers.0.mlp.experts.{e}.{part}.weight"
            if bits == 8:
                tensors[name] = torch.randn(size).to(torch.float8_e4m3fn)
                tensors[f"{name}_scale_inv"] = torch.ones(1, 1)
            else:
                tensors[name] = torch.ones(size[0], size[1] // 2, dtype=torch.int8)
                tensors[f"{name.removesuffix('.weight')}.scale"] = torch.ones(size[0], 2)
    save_file(tensors, tmp_path / "model.safetensors")
    model = Skeleton(stacks)
    with Largest({p.untyped_storage().data_ptr() for p in model.parameters()}) as largest:
        load_weights(model, tmp_path)
    assert largest.bytes == 64 * 48 * 4
    with Largest(set()) as control:
        torch.stack([torch.zeros(64, 48) for _ in range(8)])
    assert control.bytes == 8 * 64 * 48 * 4


# --- what cannot be read -------------------------------------------------------------------------
MODULE = "model.layers.0.self_attn.o_proj"
NAME = f"{MODULE}.weight"
FP8 = torch.ones(20, 40).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({NAME: FP8}, None, rf"{NAME} is F8_E4M3, and there is no {NAME}_scale_inv"),
        (
            {NAME: FP8, f"{NAME}_scale_inv": torch.ones(2, 1)},
            None,
            r"F8_E4M3 \[20, 40\] in blocks of 128 x 128, and its scales are F32 \[2, 1\], not F32 or F8_E8M0 \[1, 1\]",
        ),
        (
            {NAME: FP8, f"{NAME}_scale_inv": torch.ones(1, 1)},
            {"quantization_config": {"weight_block_size": [8, 16]}},
            r"in blocks of 8 x 16, and its scales are F32 \[1, 1\], not F32 or F8_E8M0 \[3, 3\]",
        ),
        (
            {NAME: FP8, f"{NAME}_scale_inv": torch.ones(1, 1, dtype=torch.int32)},
            None,
            r"its scales are I32 \[1, 1\], not F32 or F8_E8M0 \[1, 1\]",
        ),
        (
            {NAME: FP8, f"{NAME}_scale_inv": torch.ones(())},
            None,
            r"its scales are F32 \[\], not F32 or F8_E8M0 \[1, 1\]",
        ),
        (
            {NAME: FP8.view(2, 2, 5, 40), f"{NAME}_scale_inv": torch.ones(2, 2, 1, 1)},
            None,
            r"is F8_E4M3 \[2, 2, 5, 40\], neither a matrix nor a stack of them",
        ),
        (
            {NAME: FP8.flatten(), f"{NAME}_scale_inv": torch.ones(7)},
            None,
            r"is F8_E4M3 \[800\], neither a matrix nor a stack of them",
        ),
        ({NAME: FP8.to(torch.float8_e5m2)}, None, "is F8_E5M2, which this package does not read"),
        ({NAME: torch.ones(20, 40, dtype=torch.int8)}, None, "has integers in the checkpoint and floating point"),
        (
            {NAME: torch.ones(20, 20, dtype=torch.int8), f"{MODULE}.scale": torch.ones(20, 1)},
            None,
            r"I8 \[20, 20\], two FP4 numbers to a byte, and its scales are F32 \[20, 1\], not F32 or F8_E8M0 \[20, 2\]",
        ),
        (
            {NAME: torch.ones(20, dtype=torch.int8), f"{MODULE}.scale": torch.ones(1)},
            None,
            r"is I8 \[20\], neither a matrix nor a stack of them",
        ),
        (
            {NAME: torch.ones(20, 40, dtype=torch.int8), f"{MODULE}.scale": torch.ones(20, 3)},
            None,
            rf"{NAME} is \[20, 80\] in the checkpoint and \[20, 40\] in the model",
        ),
        (
            {NAME: FP8, f"{NAME}_scale_inv": torch.ones(1, 1)},
            {"quantization_config": {"weight_block_size": [128]}},
            r"config\.json: weight_block_size is \[128\], not two positive numbers",
        ),
        ({NAME: torch.ones(20, 40)}, [], r"config\.json is not a JSON object"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, tensors: dict, config: Any, message: str) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    model = Skeleton({NAME: (20, 40)})
    before = state(model)
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path)
    assert_same(state(model), before)


def test_a_block_of_gate_and_up_has_no_meaning(tmp_path: Path) -> None:
    """18 rows of gate in blocks of 8: five scales of 36 rows, or two times three? Both are written by someone."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    numbers = torch.ones(2, 36, 20).to(torch.float8_e4m3fn)
    save_file({name: numbers, f"{name}_scale_inv": torch.ones(2, 5, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"weight_block_size": [8, 16]}}')
    with pytest.raises(ValueError, match="one block would hold rows of both gate and up"):
        load_weights(Skeleton({name: (2, 36, 20)}), tmp_path)


def test_mxfp4_of_the_wrong_shape(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    blocks, scales = packed(2, 6, 64)
    save_file({f"{name}_blocks": blocks, f"{name}_scales": scales[:, :5].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"_blocks is U8 \[2, 6, 2, 16\] with scales U8 \[2, 5, 2\]: MXFP4 is"):
        load_weights(Skeleton({name: (2, 64, 6)}), tmp_path)
    save_file({f"{name}_blocks": blocks, f"{name}_scales": scales}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"down_proj is \[2, 64, 6\] in the checkpoint and \[2, 6, 64\] in the model"):
        load_weights(Skeleton({name: (2, 6, 64)}), tmp_path)


def test_packed_numbers_beside_the_tensor_itself_are_too_many(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    blocks, scales = packed(2, 6, 64)
    tensors = {name: torch.ones(2, 64, 6), f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"2 not in the model: {name}_blocks, {name}_scales"):
        load_weights(Skeleton({name: (2, 64, 6)}), tmp_path)


def test_a_scale_without_numbers_belongs_nowhere(tmp_path: Path) -> None:
    save_file({NAME: torch.ones(20, 40), f"{NAME}_scale_inv": torch.ones(1, 1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 not in the model: {NAME}_scale_inv"):
        load_weights(Skeleton({NAME: (20, 40)}), tmp_path)


def test_numbers_nobody_wants_are_not_read(tmp_path: Path) -> None:
    """Formats that this package does not read do no harm in modules that it passes over."""
    tensors = {NAME: torch.ones(20, 40), "mtp.0.e_proj.weight": FP8.to(torch.float8_e5m2)}
    save_file(tensors, tmp_path / "model.safetensors")
    model = Skeleton({NAME: (20, 40)})
    load_weights(model, tmp_path)
    assert torch.equal(state(model)[NAME], tensors[NAME])
