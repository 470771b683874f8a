"""Rotary positions: every form that transformers reads means the angles that transformers computes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from archc.graph.torch_package import torch_package
from archc.importers import convert
from archc.resolve import load_text
from tests.importers.configs import small

torch_package()
from archc_package.kernels.rope_angles import rope_angles  # noqa: E402

numbers = st.floats(1.0, 50.0, allow_nan=False).map(lambda x: round(x, 3))
maybe = st.none() | numbers


@st.composite
def forms(draw: st.DrawFn) -> dict[str, Any]:
    """The keys of a config about its positions, in one of the forms of the last years."""
    kind = draw(st.sampled_from(["default", "linear", "llama3", "yarn"]))
    inside: dict[str, Any] = {draw(st.sampled_from(["rope_type", "type"])): kind}
    beside: dict[str, Any] = {}
    if kind == "default" and draw(st.booleans()):
        inside = {}
    if kind != "default":
        inside["factor"] = draw(numbers)
    if kind == "llama3":
        inside |= {"low_freq_factor": draw(st.floats(0.5, 2.0)), "high_freq_factor": draw(st.floats(3.0, 5.0))}
    if kind == "yarn":
        for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"):
            if draw(st.booleans()):
                inside[key] = draw(maybe if key != "beta_fast" else st.just(0) | maybe)
        if draw(st.booleans()):
            inside["truncate"] = draw(st.booleans())
    if kind in ("llama3", "yarn"):
        for where in (inside, beside):
            if draw(st.booleans()):
                where["original_max_position_embeddings"] = draw(st.integers(8, 128))
        if kind == "yarn" and draw(st.booleans()):
            inside["factor"] = None
            # The context is never shorter than what it was stretched from.
            (inside if "original_max_position_embeddings" in inside else beside)["original_max_position_embeddings"] = (
                32
            )
            beside.pop("original_max_position_embeddings", None)
            inside["original_max_position_embeddings"] = 32
    for where in (inside, beside):
        if draw(st.booleans()):
            where["rope_theta"] = draw(st.floats(10.0, 1e6))
    return beside | {draw(st.sampled_from(["rope_parameters", "rope_scaling"])): inside}


@given(forms())
def test_angles_are_those_of_transformers(form: dict[str, Any]) -> None:
    config = small(**form, head_dim=12)
    text, diagnostics = convert(config, "model_x")
    assert {d.code for d in diagnostics} <= {"W0601"}
    rope = load_text(text)[0].schedule[0].attention.rope  # type: ignore[union-attr]
    reference = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    positions = torch.arange(0, 400, 7)[None]
    cos, sin = reference(torch.zeros(1), positions)
    ours = rope_angles(positions, dim=12, theta=rope.theta, **rope.scaling())  # type: ignore[union-attr]
    # A cosine may be off by what a rounding of its angle makes of it.
    angle = 400 * reference.inv_freq.max().item() * 1e-6 + 1e-6
    torch.testing.assert_close(ours[..., 0], cos[..., :6], rtol=0, atol=angle * reference.attention_scaling)
    torch.testing.assert_close(ours[..., 1], sin[..., :6], rtol=0, atol=angle * reference.attention_scaling)


def test_scaling_goes_before_parameters() -> None:
    """As in transformers: the old key wins, because old checkpoints carry it."""
    both = {
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0},
    }
    assert LlamaConfig(**both).rope_parameters["factor"] == 2.0
    text, (diagnostic,) = convert(small(**both), "model_x")
    assert "factor = 2 }" in text
    assert diagnostic.code == "W0601"


def test_partial_rotation_is_what_transformers_makes_of_it() -> None:
    """Ignored without scaling, which is a warning; a failure with it, which is an error."""
    whole = LlamaRotaryEmbedding(LlamaConfig(head_dim=12, partial_rotary_factor=0.5))
    assert len(whole.inv_freq) == 6
    cut = LlamaRotaryEmbedding(
        LlamaConfig(head_dim=12, rope_scaling={"rope_type": "linear", "factor": 2.0}, partial_rotary_factor=0.5)
    )
    assert len(cut.inv_freq) == 3


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_no_scaling_is_plain(key: str) -> None:
    for nothing in (None, {}):
        text, diagnostics = convert(small(**{key: nothing}, rope_theta=1e6), "model_x")
        assert diagnostics == ()
        assert "rope = rope { theta = 1_000_000 }" in text
