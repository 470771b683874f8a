"""Every key of a config is accounted for: used, irrelevant, without effect, or an error."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from typing import Any

import pytest

from archc.diagnostics.codes.imports import CODES
from archc.importers import convert, keys, model_types
from archc.importers.translate import families
from archc.resolve import check_text
from tests.importers.configs import small

CLASSES = {"llama": "LlamaConfig", "qwen3": "Qwen3Config", "olmo2": "Olmo2Config"}


def config_class(model_type: str) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{model_type}"), CLASSES[model_type])


def found(config: dict[str, Any]) -> list[str]:
    """The codes of what an import reports, in order."""
    text, diagnostics = convert(config, "model_x")
    assert bool(text) == all(d.severity != "error" for d in diagnostics)
    assert not text or check_text(text) == ()
    return [d.code for d in diagnostics]


def test_every_importer_is_compared_with_its_class() -> None:
    assert set(model_types()) == set(CLASSES)


@pytest.mark.parametrize("model_type", CLASSES)
def test_defaults_are_those_of_the_class(model_type: str) -> None:
    defaults = importlib.import_module(f"{families.__name__}.{model_type}").DEFAULTS
    fields = {f.name: f.default for f in dataclasses.fields(config_class(model_type))}
    # OLMo 2 reads a head_dim that its config does not declare.
    known = {key: value for key, value in defaults.items() if key in fields}
    assert defaults.keys() - known.keys() <= ({"head_dim"} if model_type == "olmo2" else set())
    assert known == {key: fields[key] for key in known}
    accounted = {*defaults, *keys.IRRELEVANT, *keys.IGNORED, *keys.UNSUPPORTED, *keys.DROPOUT, "rope_parameters"}
    assert fields.keys() <= accounted


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize("whole", [True, False])
def test_what_transformers_writes_is_taken_without_a_word(model_type: str, whole: bool) -> None:
    config = config_class(model_type)(attn_implementation="eager")
    written = json.loads(config.to_json_string(use_diff=not whole))
    text, diagnostics = convert(written, "model_x")
    assert diagnostics == ()
    assert check_text(text) == ()


def test_an_empty_config_is_that_of_the_class() -> None:
    for model_type in CLASSES:
        empty, _ = convert({"model_type": model_type}, "model_x")
        whole, _ = convert(json.loads(config_class(model_type)().to_json_string(use_diff=False)), "model_x")
        assert empty.partition("## ")[2] == whole.partition("## ")[2]
        assert "Not in the config, so as the class has it:" in empty


@pytest.mark.parametrize("key", sorted(keys.IRRELEVANT - {"model_type", "architectures"}))
def test_irrelevant_keys_change_nothing(key: str) -> None:
    plain, _ = convert(small(), "model_x")
    text, diagnostics = convert(small(**{key: 7}), "model_x")
    assert diagnostics == ()
    assert text == plain


REPORTED: list[tuple[str, dict[str, Any], list[str]]] = [
    # What the reference ignores
    ("llama", {"pretraining_tp": 4}, ["W0601"]),
    ("llama", {"pretraining_tp": 1}, []),
    ("llama", {"auto_map": {"AutoModel": "m.M"}}, ["W0601"]),
    ("llama", {"rope_interleaved": False}, []),
    ("llama", {"rope_interleaved": True}, ["W0601"]),
    ("llama", {"attention_dropout": 0.1}, ["W0602"]),
    ("llama", {"attention_dropout": 0}, []),
    ("llama", {"attention_dropout": "none"}, ["E0604"]),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, ["W0604"]),
    ("llama", {"architectures": ["LlamaForCausalLM"]}, []),
    ("llama", {"partial_rotary_factor": 0.5}, ["W0601"]),
    ("llama", {"partial_rotary_factor": 1.0}, []),
    ("llama", {"original_max_position_embeddings": 64}, ["W0601"]),
    ("llama", {"rope_theta": 10.0, "rope_parameters": {"rope_theta": 20.0}}, ["W0601"]),
    ("llama", {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, ["W0601"]),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3}}, ["W0601"]),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 3}}, ["W0601"]),
    # What nobody knows
    ("llama", {"sliding_window": 128}, ["E0603"]),
    ("llama", {"sliding_window": None}, []),
    ("qwen3", {"mlp_bias": True}, ["E0603"]),
    ("olmo2", {"layer_types": ["full_attention"] * 3}, ["E0603"]),
    ("olmo2", {"logit_softcapping": 30.0}, ["E0603"]),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "stretch": 3}}, ["E0603"]),
    # Wrong values
    ("llama", {"hidden_size": "32"}, ["E0604"]),
    ("llama", {"hidden_size": 32.0}, ["E0604"]),
    ("llama", {"hidden_size": True}, ["E0604"]),
    ("llama", {"num_hidden_layers": 0}, ["E0604"]),
    ("llama", {"num_key_value_heads": 3}, ["E0604"]),
    ("llama", {"num_key_value_heads": None}, []),
    ("llama", {"num_attention_heads": 64, "num_key_value_heads": 2}, ["E0604"]),
    ("llama", {"rms_norm_eps": None}, ["E0604"]),
    ("llama", {"rms_norm_eps": float("nan")}, ["E0604"]),
    ("llama", {"tie_word_embeddings": 1}, ["E0604"]),
    ("llama", {"hidden_act": None}, ["E0604"]),
    ("llama", {"rope_scaling": {"type": "linear"}}, ["E0604"]),
    ("llama", {"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}}, ["E0604"]),
    ("llama", {"rope_scaling": "linear"}, ["E0604"]),
    ("qwen3", {"layer_types": ["full_attention"]}, ["E0604"]),
    ("qwen3", {"layer_types": ["sliding_attention"] * 3}, ["E0604"]),
    ("qwen3", {"head_dim": None}, ["E0604"]),
    # Features that a spec cannot say
    ("llama", {"hidden_act": "mish"}, ["E0605"]),
    ("llama", {"hidden_act": "swish"}, []),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["E0605"]),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}, ["E0605"]),
    ("llama", {"rope_scaling": {"rope_type": "spiral"}}, ["E0605"]),
    ("qwen3", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["E0605"]),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}, ["E0605"]),
    ("qwen3", {"layer_types": ["linear_attention", "full_attention", "full_attention"]}, ["E0605"]),
    ("qwen3", {"layer_types": ["attention"] * 3}, []),
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, ["E0605"]),
    ("llama", {"per_layer_config": {"0": {"hidden_size": 3}}}, ["E0605"]),
    ("llama", {"is_encoder_decoder": True}, ["E0605"]),
    # All of them at once
    ("llama", {"hidden_act": "mish", "hidden_siz": 1, "pretraining_tp": 2}, ["E0605", "E0603", "W0601"]),
]


@pytest.mark.parametrize(("model_type", "changes", "codes"), REPORTED, ids=str)
def test_what_is_reported(model_type: str, changes: dict[str, Any], codes: list[str]) -> None:
    assert found(small(model_type, **changes)) == codes


def test_other_types_of_models_are_refused_with_those_there_are() -> None:
    for given in ("mamba", None, 3, "../llama", "__init__"):
        text, (diagnostic,) = convert(small(given), "model_x")  # type: ignore[arg-type]
        assert (text, diagnostic.code) == ("", "E0602")
        assert all(f"`{known}`" in str(diagnostic.help) for known in CLASSES)
    _, (near,) = convert(small("qwen2"), "model_x")
    assert "did you mean `qwen3`?" in str(near.help)


def test_a_misspelt_key_is_named_with_the_one_that_was_meant() -> None:
    _, (diagnostic,) = convert(small(num_key_value_head=1), "model_x")
    assert "`num_key_value_head`" in diagnostic.message
    assert diagnostic.help == "did you mean `num_key_value_heads`?"


def test_mtp_is_asked_for_in_vain() -> None:
    plain, _ = convert(small(), "model_x")
    text, (diagnostic,) = convert(small(), "model_x", mtp=True)
    assert (text, diagnostic.code, diagnostic.severity) == (plain, "W0603", "warning")


@pytest.mark.parametrize("code", [c for c in CODES if c.example == "json"], ids=lambda c: c.id)
def test_examples_of_codes(code: Any, tmp_path: Any) -> None:
    from archc.diagnostics import ArchError, Sink
    from archc.importers import load_config

    def codes(text: str) -> set[str]:
        path = tmp_path / "config.json"
        path.write_text(text)
        sink = Sink()
        with contextlib.suppress(ArchError):
            load_config(path, sink=sink)
        return {d.code for d in sink.items}

    assert codes(code.failing) == {code.id}
    assert codes(code.fixed) == set()
