"""How a checkpoint stores its weights: `quantization_config`, where it says no more than that."""

from __future__ import annotations

from typing import Any

from archc.importers.reader import Reader, is_count

KEY = "quantization_config"


def storage(c: Reader) -> str | None:
    """A sentence about the format of the checkpoint; None where it is plain, or where the model itself is another.

    Weights in blocks of FP8 and experts in MXFP4 are read by a package's `load_weights`; a key that says anything else
    is left to be refused.
    """
    found = c.values.get(KEY)
    if not isinstance(found, dict):
        return None
    if found.get("quant_method") == "fp8":
        told = _fp8(found, c.values.get("expert_dtype") or found.get("expert_dtype"))
    else:
        told = _mxfp4(found, c.values.get("model_type"))
    if told is not None:
        c.read.add(KEY)
    return told


def _fp8(found: dict[str, Any], experts: object) -> str | None:
    block = found.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(map(is_count, block)):
        return None
    if found.get("fmt", "e4m3") != "e4m3":
        return None
    packed = ", experts as FP4 in blocks of 32" if experts == "fp4" else ""
    return f"Checkpoints store weights as FP8 in blocks of {block[0]} x {block[1]}{packed}; loading dequantises them."


def _mxfp4(found: dict[str, Any], model_type: object) -> str | None:
    if found.get("quant_method") != "mxfp4" or model_type != "gpt_oss":
        return None
    return "Checkpoints store experts as MXFP4; loading dequantises them."
