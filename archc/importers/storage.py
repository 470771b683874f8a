"""How a checkpoint stores its weights: `quantization_config`, and the precision that a spec calls it."""

from __future__ import annotations

from typing import Any

from archc.importers.reader import Reader, is_count
from archc.importers.spec import Drawer

KEY = "quantization_config"


def storage(c: Reader) -> tuple[str, Drawer | None] | None:
    """A sentence about the format of the checkpoint, and its precision; None where it is plain, or where the model
    itself is another.

    Weights in blocks of FP8 and experts in MXFP4 are read by a package's `load_weights`; a key that says anything else
    is left to be refused. Blocks that are not square have no precision.
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


def _fp8(found: dict[str, Any], experts: object) -> tuple[str, Drawer | None] | None:
    block = found.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2 or not all(map(is_count, block)):
        return None
    if found.get("fmt", "e4m3") != "e4m3":
        return None
    rows, columns = block
    kind = "fp8_fp4" if experts == "fp4" else "fp8"
    powers = found.get("scale_fmt") == "ue8m0"
    fields: dict[str, Any] = {} if rows == 128 else {"block": rows}
    if powers != (kind == "fp8_fp4"):
        fields["scales"] = "ue8m0" if powers else "fp32"
    packed = ", experts as FP4 in blocks of 32" if experts == "fp4" else ""
    told = f"Checkpoints store weights as FP8 in blocks of {rows} x {columns}{packed}; loading dequantises them."
    return told, Drawer(kind, fields) if rows == columns else None


def _mxfp4(found: dict[str, Any], model_type: object) -> tuple[str, Drawer | None] | None:
    if found.get("quant_method") != "mxfp4" or model_type != "gpt_oss":
        return None
    return "Checkpoints store experts as MXFP4; loading dequantises them.", Drawer("mxfp4")
