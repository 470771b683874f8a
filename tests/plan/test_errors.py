"""A forward that does not fit is a diagnostic at the drawer that wrote it."""

from __future__ import annotations

import pytest

import archc
from archc.plan import plan


def test_a_shape_error_names_drawer_op_and_numbers() -> None:
    model = archc.load("llama_3_1_8b", set={"attention.rope.dim": "256"})
    with pytest.raises(archc.ArchError) as error:
        plan(model)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "E0401"
    assert "attention gqa: rotate: rotates 256 channels of a head that has 128" in diagnostic.message
    assert diagnostic.span is not None
    assert diagnostic.span.source.name.endswith("llama_3_1_8b.arch")


def test_a_sub_layer_of_another_width_is_named() -> None:
    model = archc.load("llama_3_1_8b", set={"ffn.dim": "96"})
    with pytest.raises(archc.ArchError) as error:
        plan(model)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.message == "ffn swiglu: gives [B, S, 96] where the residual stream is [B, S, 4096]"
    assert diagnostic.span is not None
