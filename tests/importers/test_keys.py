"""Every key of a config is accounted for: used, irrelevant, without effect, or an error."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import re
from typing import Any

import pytest

from archc.diagnostics.codes.imports import CODES
from archc.importers import convert, keys, model_types
from archc.importers.translate import families
from archc.resolve import check_text, load_text
from tests.importers.configs import CLASSES, class_of, converted, small
from tests.importers.deepseek import FP8


def found(config: dict[str, Any]) -> list[str]:
    """The codes of what an import reports, in order."""
    text, diagnostics = converted(config)
    assert bool(text) == all(d.severity != "error" for d in diagnostics)
    assert not text or check_text(text) == ()
    return [d.code for d in diagnostics]


def test_every_importer_is_compared_with_its_class() -> None:
    assert set(model_types()) == set(CLASSES)


REQUIRED: dict[str, dict[str, Any]] = {"deepseek_v2": {"num_experts_per_tok": 6}}
"""What transformers cannot do without, though its class has no default for it."""

ATTRIBUTES = {"olmo2": {"head_dim"}, "mixtral": {"rope_theta"}, "gpt_oss": {"rope_theta", "rope_parameters"}}
"""Defaults that are no fields of the class: attributes that its modules read, and those of rotary positions."""


@pytest.mark.parametrize("model_type", CLASSES)
def test_defaults_are_those_of_the_class(model_type: str) -> None:
    family = importlib.import_module(f"{families.__name__}.{model_type}")
    cls = class_of(model_type)
    fields = {f.name: f.default for f in dataclasses.fields(cls)}
    apart = ATTRIBUTES.get(model_type, set())
    known = {key: value for key, value in family.DEFAULTS.items() if key in fields and key not in apart}
    assert family.DEFAULTS.keys() - known.keys() == apart
    assert known == {key: fields[key] for key in known}
    if "rope_theta" in apart:
        assert family.DEFAULTS["rope_theta"] == cls.default_theta
    if "rope_parameters" in apart:
        assert family.DEFAULTS["rope_parameters"] | {"rope_theta": cls.default_theta} == cls().rope_parameters
    known_to_all = {*keys.IRRELEVANT, *keys.IGNORED, *keys.UNSUPPORTED, *keys.TRAINING, "rope_parameters"}
    own = {*family.DEFAULTS, *getattr(family, "IRRELEVANT", ()), *getattr(family, "IGNORED", ())}
    assert fields.keys() <= known_to_all | own
    assert not own & known_to_all - {"rope_parameters"}


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize("whole", [True, False])
def test_what_transformers_writes_is_taken_without_a_word(model_type: str, whole: bool) -> None:
    config = class_of(model_type)(attn_implementation="eager", **REQUIRED.get(model_type, {}))
    written = json.loads(config.to_json_string(use_diff=not whole)) | {"model_type": model_type}
    text, diagnostics = convert(written, "model_x")
    assert diagnostics == ()
    assert check_text(text) == ()


@pytest.mark.parametrize("model_type", CLASSES)
def test_an_empty_config_is_that_of_the_class(model_type: str) -> None:
    required = REQUIRED.get(model_type, {})
    empty, _ = convert({"model_type": model_type, **required}, "model_x")
    written = json.loads(class_of(model_type)(**required).to_json_string(use_diff=False))
    whole, _ = convert(written | {"model_type": model_type}, "model_x")
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
    ("llama", {"quantization_config": FP8}, []),
    ("llama", {"quantization_config": FP8 | {"weight_block_size": None}}, ["E0605"]),
    ("llama", {"quantization_config": FP8 | {"weight_block_size": [128]}}, ["E0605"]),
    ("llama", {"quantization_config": FP8 | {"fmt": "e5m2"}}, ["E0605"]),
    ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, ["E0605"]),
    ("gpt_oss", {"quantization_config": {"quant_method": "mxfp4"}}, []),
    # Mixtures of experts
    ("mixtral", {"router_jitter_noise": 0.1}, ["W0602"]),
    ("mixtral", {"router_jitter_noise": 0.0}, []),
    ("mixtral", {"attention_bias": True}, ["E0603"]),
    ("mixtral", {"num_experts": 6}, ["W0601"]),
    ("mixtral", {"num_experts": 4}, []),
    ("mixtral", {"num_experts_per_tok": 5}, ["E0604"]),
    ("mixtral", {"num_local_experts": 0}, ["E0604"]),
    ("mixtral", {"sliding_window": 0}, ["E0604"]),
    ("mixtral", {"output_router_logits": True}, []),
    ("mixtral", {"output_router_logits": None}, ["E0604"]),
    ("qwen2_moe", {"decoder_sparse_step": 0}, ["E0604"]),
    ("qwen2_moe", {"num_experts": 0}, []),
    ("qwen2_moe", {"mlp_only_layers": [0, 7]}, []),
    ("qwen2_moe", {"mlp_only_layers": ["0"]}, ["E0604"]),
    ("qwen2_moe", {"mlp_only_layers": [True]}, ["E0604"]),
    ("qwen2_moe", {"head_dim": None}, ["E0604"]),
    ("qwen2_moe", {"sliding_window": 0}, []),
    ("qwen2_moe", {"sliding_window": 0, "use_sliding_window": True}, ["E0604"]),
    ("qwen2_moe", {"sliding_window": None, "use_sliding_window": True}, ["E0604"]),
    ("qwen2_moe", {"layer_types": ["sliding_attention"] * 3}, ["E0604"]),
    ("qwen2_moe", {"max_window_layers": "all"}, ["E0604"]),
    ("qwen2_moe", {"attention_bias": True}, ["E0603"]),
    ("qwen3_moe", {"max_window_layers": 2}, []),
    ("qwen3_moe", {"max_window_layers": 2, "use_sliding_window": True}, ["W0601"]),
    ("qwen3_moe", {"num_local_experts": 8}, ["W0601"]),
    ("qwen3_moe", {"layer_types": ["full_attention"] * 3}, ["E0603"]),
    ("olmoe", {"head_dim": 8}, []),
    ("olmoe", {"head_dim": 4}, ["E0604"]),
    ("olmoe", {"head_dim": None}, ["E0604"]),
    ("olmoe", {"hidden_size": 30}, ["E0604"]),
    ("olmoe", {"clip_qkv": "8"}, ["E0604"]),
    ("olmoe", {"num_local_experts": 2, "num_experts": None}, ["W0601"]),
    # Latent attention and what goes with it
    ("deepseek_v2", {"num_experts_per_tok": None}, ["E0604"]),
    ("deepseek_v2", {"hidden_size": 30}, ["E0604"]),
    ("deepseek_v2", {"num_key_value_heads": 2}, ["E0604"]),
    ("deepseek_v2", {"num_key_value_heads": None}, []),
    ("deepseek_v2", {"head_dim": 4, "qk_head_dim": 10}, []),
    ("deepseek_v2", {"head_dim": 9}, ["W0601"]),
    ("deepseek_v2", {"qk_head_dim": 9}, ["W0601"]),
    ("deepseek_v2", {"norm_topk_prob": True}, ["W0601"]),
    ("deepseek_v2", {"norm_topk_prob": None}, []),
    ("deepseek_v2", {"n_group": 2, "topk_group": 2}, ["W0601", "W0601"]),
    ("deepseek_v2", {"n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"}, []),
    ("deepseek_v2", {"n_group": 3, "topk_group": 1, "topk_method": "group_limited_greedy"}, ["E0604"]),
    ("deepseek_v2", {"n_group": 2, "topk_group": 3, "topk_method": "group_limited_greedy"}, ["E0604"]),
    ("deepseek_v2", {"n_group": None, "topk_group": None, "topk_method": "group_limited_greedy"}, ["E0604", "E0604"]),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, ["E0605"]),
    ("deepseek_v2", {"topk_method": None}, ["E0604"]),
    ("deepseek_v2", {"scoring_func": "softmax"}, []),
    ("deepseek_v2", {"scoring_func": "sigmoid"}, ["W0601"]),
    ("deepseek_v2", {"aux_loss_alpha": 0.001}, ["W0601"]),
    ("deepseek_v2", {"mlp_bias": True}, ["E0605"]),
    ("deepseek_v2", {"mlp_bias": True, "first_k_dense_replace": 3}, []),
    ("deepseek_v2", {"output_router_logits": True, "seq_aux": False, "ep_size": 8}, []),
    ("deepseek_v2", {"num_nextn_predict_layers": 1}, ["E0603"]),
    ("deepseek_v32", {"q_lora_rank": None}, ["E0604"]),
    ("deepseek_v32", {"index_head_dim": 3}, ["E0604"]),
    ("deepseek_v32", {"index_topk": 0}, ["E0604"]),
    ("deepseek_v32", {"num_key_value_heads": 2}, ["E0604"]),
    ("deepseek_v32", {"layer_types": ["indexed_attention"] * 3}, []),
    ("deepseek_v32", {"layer_types": ["indexed_attention", "full_attention", "indexed_attention"]}, ["E0604"]),
    ("deepseek_v32", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, []),
    ("deepseek_v32", {"mlp_layer_types": ["sparse", "dense"]}, ["E0604"]),
    ("deepseek_v32", {"mlp_layer_types": ["sparse", "moe", "dense"]}, ["E0604"]),
    ("deepseek_v32", {"num_experts": 16}, ["W0601"]),
    ("deepseek_v32", {"num_nextn_predict_layers": 1, "quantization_config": FP8}, []),
    ("deepseek_v32", {"indexer_types": ["full"] * 3}, ["E0603"]),
    ("glm_moe_dsa", {"indexer_types": ["full"] * 3}, []),
    ("glm_moe_dsa", {"indexer_types": ["full", "shared", "full"]}, ["E0605"]),
    ("glm_moe_dsa", {"indexer_types": ["full"] * 2}, ["E0604"]),
    ("glm_moe_dsa", {"indexer_types": 3}, ["E0604"]),
    ("glm_moe_dsa", {"index_topk_pattern": "FFF"}, []),
    ("glm_moe_dsa", {"index_topk_pattern": "FSF"}, ["E0605"]),
    ("glm_moe_dsa", {"index_topk_freq": 1, "index_skip_topk_offset": 3}, []),
    ("glm_moe_dsa", {"index_topk_freq": 2}, ["E0605"]),
    ("glm_moe_dsa", {"index_topk_freq": 4, "index_skip_topk_offset": 5}, []),
    ("glm_moe_dsa", {"index_topk_freq": "often"}, ["E0604"]),
    ("glm_moe_dsa", {"indexer_rope_interleave": True}, []),
    ("deepseek_v3", {"n_group": None}, ["E0604"]),
    ("deepseek_v3", {"n_group": 8, "topk_group": 8}, ["E0604"]),
    ("deepseek_v3", {"head_dim": 4}, []),
    ("deepseek_v3", {"head_dim": 8}, ["E0604"]),
    ("deepseek_v3", {"head_dim": None}, ["E0604"]),
    ("deepseek_v3", {"v_head_dim": None}, ["E0604"]),
    ("deepseek_v3", {"q_lora_rank": None}, []),
    ("deepseek_v3", {"first_k_dense_replace": 0}, []),
    ("deepseek_v3", {"first_k_dense_replace": None}, ["E0604"]),
    ("deepseek_v3", {"n_shared_experts": 0}, []),
    ("deepseek_v3", {"n_shared_experts": None}, ["E0604"]),
    ("deepseek_v3", {"norm_topk_prob": None}, []),
    ("deepseek_v3", {"rope_interleave": None}, []),
    ("deepseek_v3", {"moe_layer_freq": 2}, ["W0601"]),
    ("deepseek_v3", {"moe_layer_freq": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}, []),
    ("deepseek_v3", {"topk_method": "greedy", "scoring_func": "softmax"}, ["W0601", "W0601"]),
    ("deepseek_v3", {"num_local_experts": 16}, ["W0601"]),
    ("deepseek_v3", {"num_experts": 16}, ["E0603"]),
    ("deepseek_v3", {"num_nextn_predict_layers": 2}, []),
    ("deepseek_v3", {"num_nextn_predict_layers": 2, "num_mtp_layers": 1}, ["W0601"]),
    ("deepseek_v3", {"num_mtp_layers": -1}, ["E0604"]),
    ("deepseek_v3", {"quantization_config": FP8}, []),
    ("deepseek_v3", {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}}, ["E0605"]),
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": None, "mscale_all_dim": 1.0}}, ["E0604"]),
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale_all_dim": 1.0}}, []),
    ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}}, ["W0601"]),
    (
        "deepseek_v3",
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "attention_factor": 2.0,
            }
        },
        ["W0601"],
    ),
    ("kimi_k2", {"aux_loss_alpha": 0.001, "moe_layer_freq": 1, "seq_aux": True}, ["W0601"]),
    # gpt-oss
    ("gpt_oss", {"hidden_act": "gelu"}, ["W0601"]),
    ("gpt_oss", {"hidden_act": "silu", "experts_per_token": 4, "initial_context_length": 4096}, []),
    ("gpt_oss", {"sliding_window": None}, ["E0604"]),
    ("gpt_oss", {"sliding_window": None, "layer_types": ["full_attention"] * 3}, []),
    ("gpt_oss", {"sliding_window": None, "layer_types": ["sliding_attention"] * 3}, ["E0604"]),
    ("gpt_oss", {"layer_types": ["chunked_attention"] * 3}, ["E0605"]),
    ("gpt_oss", {"swiglu_limit": None}, ["E0604"]),
    ("gpt_oss", {"rope_theta": None}, ["E0604"]),
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


@pytest.mark.parametrize("config", [small(), small("deepseek_v3", num_nextn_predict_layers=0)], ids=["llama", "none"])
def test_mtp_is_asked_for_in_vain(config: dict[str, Any]) -> None:
    plain, _ = convert(config, "model_x")
    text, (diagnostic,) = convert(config, "model_x", mtp=True)
    assert (text, diagnostic.code, diagnostic.severity) == (plain, "W0603", "warning")


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers"])
def test_mtp_is_imported_where_it_is_asked_for(key: str) -> None:
    assert "mtp" not in convert(small("deepseek_v3", **{key: 2}), "model_x")[0]
    text, diagnostics = convert(small("deepseek_v3", **{key: 2}), "model_x", mtp=True)
    assert diagnostics == ()
    assert load_text(text)[0].mtp.depth == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("model_type", ["deepseek_v3", "deepseek_v32", "glm_moe_dsa"])
@pytest.mark.parametrize(("dense", "kind"), [("one less", "Moe"), ("all", "Moe"), ("one more", "Swiglu")])
def test_modules_of_prediction_count_as_further_layers(model_type: str, dense: str, kind: str) -> None:
    config = small(model_type, num_nextn_predict_layers=1, mlp_layer_types=None)
    if model_type == "deepseek_v3":
        del config["mlp_layer_types"]
    config["first_k_dense_replace"] = config["num_hidden_layers"] + {"one less": -1, "all": 0, "one more": 1}[dense]
    text, diagnostics = convert(config, "model_x", mtp=True)
    assert diagnostics == ()
    model = load_text(text)[0]
    ffn = model.mtp.ffn or model.schedule[-1].ffn  # type: ignore[union-attr]
    assert type(ffn).__name__ == kind


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"])
def test_a_balance_loss_is_imported_where_transformers_adds_one(model_type: str) -> None:
    for weight, asked in ((0.3, True), (0.3, False), (0.0, True)):
        text, _ = convert(small(model_type, router_aux_loss_coef=weight, output_router_logits=asked), "model_x")
        router = load_text(text)[0].schedule[-1].ffn.router  # type: ignore[union-attr]
        loss = (router.balance_weight, router.balance)
        assert loss == ((0.3, "batch") if weight and asked else (0.0, "sequence"))


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


@pytest.mark.parametrize(
    ("model_type", "stored", "written"),
    [
        ("llama", None, None),
        ("llama", FP8, "precision = fp8"),
        ("llama", FP8 | {"weight_block_size": [64, 64]}, "precision = fp8 { block = 64 }"),
        ("llama", FP8 | {"weight_block_size": [64, 128]}, None),
        ("deepseek_v3", FP8 | {"scale_fmt": "ue8m0"}, "precision = fp8 { scales = ue8m0 }"),
        ("deepseek_v4", FP8 | {"scale_fmt": "ue8m0", "expert_dtype": "fp4"}, "precision = fp8_fp4"),
        ("deepseek_v4", FP8 | {"expert_dtype": "fp4"}, "precision = fp8_fp4 { scales = fp32 }"),
        ("gpt_oss", {"quant_method": "mxfp4"}, "precision = mxfp4"),
    ],
)
def test_the_format_of_a_checkpoint_is_its_precision(model_type: str, stored: Any, written: str | None) -> None:
    text, diagnostics = converted(small(model_type) | ({} if stored is None else {"quantization_config": stored}))
    assert diagnostics == ()
    found = re.findall(r"^  (precision) +(= .*)$", text, re.MULTILINE)
    assert found == ([] if written is None else [tuple(written.split(" ", 1))])
