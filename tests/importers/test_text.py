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
from tests.importers.configs import CLASSES, LLAMA_3_1, small
from tests.importers.deepseek import DEEPSEEK_V3

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


DEEPSEEK = """\
arch 1

# Not in the config, so as the class has it: rope_interleave.
# Checkpoints store weights as FP8 in blocks of 128 x 128; loading dequantises them.

## DeepSeek-V3: latent attention, mixture of experts balanced by biases, pre-norm.
## Imported from config.json (transformers model type `deepseek_v3`).
model deepseek_v3 {
  vocab     = 129_280
  dim       = 7168
  layers    = 61
  context   = 160Ki
  norm      = rms { eps = 1e-6 }
  head      = untied
  init      = normal { std = 0.02 }
  precision = fp8
  mtp       = concat { depth = 1 }

  attention = mla {
    heads    = 128
    q_rank   = 1536
    kv_rank  = 512
    nope_dim = 128
    rope_dim = 64
    v_dim    = 128
    rope = yarn {
      theta          = 10_000
      pairs          = interleaved
      factor         = 40
      original       = 4Ki
      beta_fast      = 32
      beta_slow      = 1
      mscale         = 1
      mscale_all_dim = 1
    }
  }
  ffn dense = swiglu { hidden = 18_432 }
  ffn moe = moe {
    experts = 256
    hidden  = 2048
    shared  = 1
    router  = sigmoid { active = 8, groups = 8, keep_groups = 4, scale = 2.5 }
  }

  schedule { ffn = [dense * 3, moe * 58] }
}
"""


def test_a_person_reads_it() -> None:
    assert convert(LLAMA_3_1["llama_3_1_8b"], "llama_3_1_8b") == (EXPECTED, ())
    assert convert(DEEPSEEK_V3, "deepseek_v3", mtp=True)[0] == DEEPSEEK


@st.composite
def sparse_layers(draw: st.DrawFn) -> dict[str, Any]:
    """Which layers of a Qwen are mixtures of experts."""
    layers = draw(st.integers(1, 9))
    dense = draw(st.none() | st.lists(st.integers(0, 10), max_size=4))
    step = draw(st.integers(1, 4))
    return {"num_hidden_layers": layers, "mlp_only_layers": dense, "decoder_sparse_step": step}


@given(sparse_layers(), st.sampled_from(["qwen2_moe", "qwen3_moe"]), st.sampled_from([0, 4]))
def test_every_layer_is_as_sparse_as_the_config_says(keys: dict[str, Any], model_type: str, experts: int) -> None:
    text, diagnostics = convert(small(model_type, num_experts=experts, **keys), "model_x")
    assert diagnostics == ()
    dense, step = keys["mlp_only_layers"] or [], keys["decoder_sparse_step"]
    want = [experts > 0 and i not in dense and (i + 1) % step == 0 for i in range(keys["num_hidden_layers"])]
    assert [slots.ffn.kind == "moe" for slots in load_text(text)[0].schedule] == want  # type: ignore[union-attr]


@given(st.integers(1, 9), st.integers(0, 11), st.sampled_from(["deepseek_v2", "deepseek_v3"]))
def test_the_first_layers_are_dense(layers: int, dense: int, model_type: str) -> None:
    config = small(model_type, num_hidden_layers=layers, first_k_dense_replace=dense)
    kinds = [slots.ffn.kind for slots in load_text(convert(config, "model_x")[0])[0].schedule]  # type: ignore[union-attr]
    assert kinds == ["swiglu" if i < dense else "moe" for i in range(layers)]


@given(st.integers(1, 9), st.integers(-1, 11), st.booleans())
def test_even_layers_slide_where_no_list_says_otherwise(layers: int, last: int, slides: bool) -> None:
    """In Qwen 2 MoE those of the first, if any do; in gpt-oss all."""
    keys = {"max_window_layers": last, "use_sliding_window": slides, "sliding_window": 5}
    for config, end in ((small("qwen2_moe", **keys), last if slides else 0), (small("gpt_oss"), layers)):
        (model,) = load_text(convert(config | {"num_hidden_layers": layers, "sliding_window": 5}, "model_x")[0])
        windows = [slots.attention.window for slots in model.schedule]  # type: ignore[union-attr]
        assert windows == [5 if i % 2 == 0 and i < end else None for i in range(layers)]


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
    [
        *{key: None for model_type in CLASSES for key in small(model_type)},
        "head_dim",
        "rope_theta",
        "rms_norm_eps",
        "hidden_act",
        "attention_bias",
        "sliding_window",
        "use_sliding_window",
        "norm_topk_prob",
        "topk_method",
        "routed_scaling_factor",
        "router_aux_loss_coef",
        "output_router_logits",
        "decoder_sparse_step",
        "mlp_only_layers",
        "clip_qkv",
        "swiglu_limit",
        "num_nextn_predict_layers",
        "quantization_config",
        "compress_rates",
        "compress_rope_theta",
        "hc_eps",
        "layer_types",
        "mlp_layer_types",
        "partial_rotary_factor",
        "scoring_func",
    ]
)
ROPE = st.sampled_from(
    ["factor", "rope_type", "type", "rope_theta", "original_max_position_embeddings", "beta_fast", "x"]
)


@given(
    st.sampled_from(sorted(CLASSES)),
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
        # Only what a field may not be is left to the language itself, and what it doubts.
        assert {d.code[:3] for d in check_text(text)} <= {"E02", "W00"}


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
