"""The text of an imported spec says what the config says, in canonical form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.diagnostics import Sink
from archc.importers import convert, identifier
from archc.importers.source import parse_config
from archc.importers.spec import Tokens, layers, number, written
from archc.resolve import check_text, load_text
from archc.syntax.format import format_text
from archc.syntax.numbers import parse_number
from tests.importers.configs import LLAMA_3_1, small

EXPECTED = """\
arch 1

## Llama: grouped-query attention, gated feed-forward, pre-norm.
## Imported from config.json (transformers model type `llama`).
model llama_3_1_8b {
  vocab   = 128_256
  dim     = 4096
  layers  = 32
  context = 128Ki
  norm    = rms { eps = 1e-5 }
  head    = untied
  init    = normal { std = 0.02 }

  attention = gqa {
    heads    = 32
    kv_heads = 8
    rope     = llama3 { theta = 500_000, factor = 8, low = 1, high = 4, original = 8Ki }
  }
  ffn = swiglu { hidden = 14_336 }
}
"""


def test_a_person_reads_it() -> None:
    assert convert(LLAMA_3_1["llama_3_1_8b"], "llama_3_1_8b") == (EXPECTED, ())


def test_the_doc_says_where_it_is_from() -> None:
    text, _ = convert(small(_name_or_path="org/Model-7B"), "model_x", origin="seven.json")
    assert "## Imported from seven.json of org/Model-7B (transformers model type `llama`).\n" in text
    assert load_text(text)[0].doc.endswith(
        "Imported from seven.json of org/Model-7B (transformers model type `llama`)."
    )


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0) | st.integers(0, 10**20))
def test_numbers_come_back(value: float) -> None:
    assert parse_number(number(value))[0] == value


@given(st.integers(1, 1 << 40))
def test_tokens_come_back(count: int) -> None:
    assert parse_number(written(Tokens(count)))[0] == count


@given(st.text(max_size=30))
def test_any_text_names_a_model(text: str) -> None:
    name = identifier(text)
    assert name.isidentifier()
    assert check_text(convert(small(), name)[0]) == ()
    assert identifier(name) == name


@pytest.mark.parametrize("word", ["class", "schedule", "none", "3B", "", "Llama-3.1-8B", "mixed_Case", "extends"])
def test_words_of_the_language_name_no_model(word: str) -> None:
    (model,) = load_text(convert(small(), identifier(word))[0])
    assert model.name == identifier(word)


@st.composite
def layer_types(draw: st.DrawFn) -> list[str]:
    """Layers in a pattern, or in none."""
    words = st.sampled_from(["full_attention", "sliding_attention"])
    unit = draw(st.lists(words, min_size=1, max_size=7))
    return unit * draw(st.integers(1, 5)) + draw(st.lists(words, max_size=4))


@given(layer_types(), st.integers(1, 5000))
def test_every_layer_slides_as_the_config_says(types: list[str], window: int) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": window, "head_dim": 8}
    config = small("qwen3", layer_types=types, num_hidden_layers=len(types), **sliding)
    text, diagnostics = convert(config, "model_x")
    assert diagnostics == ()
    assert check_text(text) == ()
    (model,) = load_text(text)
    windows = [slots.attention.window for slots in model.schedule]  # type: ignore[union-attr]
    assert windows == [window if t == "sliding_attention" else None for t in types]


def test_schedules_are_short() -> None:
    assert layers(["a"] * 5) == "a * 5"
    assert layers((["a"] * 5 + ["b"]) * 8 + ["a"] * 2) == "(a * 5, b) * 8, a * 2"
    assert layers(["a", "b"] * 3) == "(a, b) * 3"
    assert layers(["a", "b"]) == "a, b"


VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        7,
        1 << 60,
        0.0,
        -1.5,
        0.5,
        1e-9,
        float("nan"),
        float("inf"),
        "",
        "silu",
        "x",
        [],
        {},
    ]
)
KEYS = st.sampled_from(
    [*small(), "head_dim", "rope_theta", "rms_norm_eps", "hidden_act", "attention_bias", "sliding_window"]
)
ROPE = st.sampled_from(
    ["factor", "rope_type", "type", "rope_theta", "original_max_position_embeddings", "beta_fast", "x"]
)


@given(
    st.sampled_from(["llama", "qwen3", "olmo2"]),
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.none() | st.dictionaries(ROPE, VALUES | st.sampled_from(["yarn", "linear", "llama3"]), max_size=5),
)
def test_any_config_gives_a_spec_or_errors(
    model_type: str, changes: dict[str, Any], rope: dict[str, Any] | None
) -> None:
    changes.pop("model_type", None)
    text, diagnostics = convert(small(model_type, **changes, rope_scaling=rope), "model_x")
    assert bool(text) == all(d.severity != "error" for d in diagnostics)
    if text:
        assert format_text(text) == text
        # Only what a field may not be is left to the language itself.
        assert {d.code[:3] for d in check_text(text)} <= {"E02"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=12,
    ),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_spans_stand_at_their_keys(value: Any, indent: int | None, ascii: bool) -> None:
    text = " \n" + json.dumps({"outer": value, "last": 1}, indent=indent, ensure_ascii=ascii)
    sink = Sink()
    config = parse_config(text, "config.json", sink)
    assert config is not None
    assert sink.items == []
    inner = [f"outer.{key}" for key in value] if isinstance(value, dict) else []
    assert set(config.spans) == {"outer", "last", *inner}
    for key, span in config.spans.items():
        assert json.loads(span.text) == (key if key in ("outer", "last") else key.removeprefix("outer."))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"a": 1,}', "nonsense", "[" * 100_000, "\x00"])
def test_what_is_no_config_is_said_once(text: str) -> None:
    sink = Sink()
    assert parse_config(text, "config.json", sink) is None
    assert [d.code for d in sink.items] == ["E0601"]
