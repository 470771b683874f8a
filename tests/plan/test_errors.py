"""A forward that does not fit is a diagnostic at the drawer that wrote it."""

from __future__ import annotations

import pytest

import archc
from archc.drawers.attention.gqa import Gqa
from archc.drawers.rope.rope import Rope
from archc.plan import plan
from archc.schema.making import make


def test_a_shape_error_names_drawer_op_and_numbers() -> None:
    model = archc.load("llama_3_1_8b")
    attention = model.schedule[0].attention
    assert isinstance(attention, Gqa)
    # A rule of the drawer would say so first, but for a model that Python changed
    wider = attention.model_copy(update={"rope": make(Rope, {"dim": 256})})
    layer = model.schedule[0].model_copy(update={"attention": wider})
    model = model.model_copy(update={"schedule": (layer,) * model.layers})
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


def test_a_module_of_further_tokens_that_does_not_fit_is_named() -> None:
    model = archc.load("llama_3_1_8b", set={"mtp": "concat { ffn = swiglu { hidden = 8, dim = 96 } }"})
    with pytest.raises(archc.ArchError) as error:
        plan(model)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.message == "ffn swiglu: gives [B, S, 96] where the residual stream is [B, S, 4096]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "x, g.unsqueeze(x, dim=-2)",
            "gives [B, S, 4096], [B, S, 1, 4096] where the head takes [B, S, 4096], a module",
        ),
        ("x", "gives [B, S, 4096] where the head takes [B, S, 4096], a module [B, S, 4096]"),
        ("g.cat(x, x), x", "gives [B, S, 8192], [B, S, 4096] where the head takes [B, S, 4096]"),
    ],
)
def test_a_module_that_gives_something_else_is_named(tmp_path, given: str, message: str) -> None:
    (tmp_path / "faulty.py").write_text(
        "from archc.schema import Mtp\n\n\nclass Faulty(Mtp):\n    '''x.'''\n\n"
        f"    def build(self, g, x, hidden, residual, layer):\n        return {given}\n"
    )
    model = archc.load("llama_3_1_8b", set={"mtp": "faulty"}, drawers=[tmp_path])
    with pytest.raises(archc.ArchError) as error:
        plan(model)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.message.startswith(f"mtp faulty: {message}")


def test_what_a_child_changes_reaches_the_modules() -> None:
    """No layer of DeepSeek-V4-Pro has the attention of its module, whose name is bound late all the same."""
    graph = plan(archc.load("deepseek_v4_pro", set={"swa.window": "64", "moe.experts": "96"}))
    (scope,) = graph.predictions()
    stores = [store for inner in scope.scopes() for store in inner.states.values()]
    assert [store.keep for store in stores] == [63]
    shapes = {p.name: p.spec.shape for p in graph.parameters() if p.component == "mtp"}
    assert shapes["mtp.0.mlp.gate.weight"] == (96, 7168)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return g.linear('w', x, out=1 // 0)", "its forward raises ZeroDivisionError"),
        ("return 5", "gives back int, not values of the graph"),
        ("return g.linnear('w', x, out=3)", "no op 'linnear'"),
    ],
)
def test_a_faulty_drawer_is_blamed_by_name(tmp_path, body: str, message: str) -> None:
    (tmp_path / "faulty.py").write_text(
        "from archc.schema import FeedForward\n\n\nclass Faulty(FeedForward):\n    '''x.'''\n\n"
        f"    def build(self, g, x):\n        {body}\n"
    )
    model = archc.load("llama_3_1_8b", set={"ffn": "faulty"}, drawers=[tmp_path])
    with pytest.raises(archc.ArchError) as error:
        plan(model)
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "E0401"
    assert diagnostic.message.startswith("ffn faulty: ")
    assert message in diagnostic.message
