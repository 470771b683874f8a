"""A config of DeepSeek-V4 means to us what it means to transformers, by old keys and by new ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

from archc.graph.torch_package import torch_package
from archc.importers import convert
from archc.resolve import load_text
from archc.schema import Model
from tests.importers.configs import converted, small
from tests.importers.deepseek import DEEPSEEK_V4_FLASH, DEEPSEEK_V4_PRO

torch_package()
from archc_package.kernels.rope_angles import rope_angles  # noqa: E402

SLIDING, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
KINDS = {"swa": SLIDING, "csa": SPARSE, "hca": HEAVY}
HEAD_DIM = 32


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    """Keys that say what kind each layer is, in any of their forms; lists may go on behind the last layer."""
    count = draw(st.integers(1, 7))
    keys: dict[str, Any] = {"num_hidden_layers": count}
    longer = count + draw(st.integers(0, 2))
    if draw(st.booleans()):
        ratios = st.lists(st.sampled_from([0, 4, 128]), min_size=longer, max_size=longer)
        keys["compress_ratios"] = draw(st.none() | ratios)
    if draw(st.booleans()):
        types = st.lists(st.sampled_from([SLIDING, SPARSE, HEAVY]), min_size=longer, max_size=longer)
        keys["layer_types"] = draw(st.none() | types)
    for key in ("compress_rate_csa", "compress_rate_hca"):
        if draw(st.booleans()):
            keys[key] = draw(st.none() | st.integers(2, 9))
    if draw(st.booleans()):
        keys["compress_rates"] = draw(st.none() | st.just({SPARSE: draw(st.integers(2, 9)), HEAVY: 7}))
    if draw(st.booleans()):
        keys["num_hash_layers"] = draw(st.none() | st.integers(0, 9))
    if draw(st.booleans()):
        types = st.lists(st.sampled_from(["hash_moe", "moe"]), min_size=longer, max_size=longer)
        keys["mlp_layer_types"] = draw(st.none() | types)
    return keys


@st.composite
def scaling(draw: st.DrawFn, thetas: st.SearchStrategy[float]) -> dict[str, Any]:
    """One set of rotary positions."""
    kind = draw(st.sampled_from(["default", "linear", "yarn"]))
    inside: dict[str, Any] = {draw(st.sampled_from(["rope_type", "type"])): kind}
    if kind != "default":
        inside["factor"] = draw(st.sampled_from([2.0, 7.5]))
    if kind == "yarn":
        for key, values in (("beta_fast", [4.0, 32]), ("attention_factor", [None, 1.3]), ("mscale", [0.7])):
            if draw(st.booleans()):
                inside[key] = draw(st.sampled_from(values))
        if draw(st.booleans()):
            inside["original_max_position_embeddings"] = 64
    if draw(st.booleans()):
        inside["rope_theta"] = draw(thetas)
    if draw(st.booleans()):
        inside["partial_rotary_factor"] = draw(st.sampled_from([0.25, 0.5]))
    return inside


@st.composite
def positions(draw: st.DrawFn) -> dict[str, Any]:
    """Keys about positions: one object for layers that compress, one for each kind of layer, or none."""
    thetas = st.floats(10.0, 1e6)
    keys: dict[str, Any] = {}
    for key in ("rope_theta", "compress_rope_theta"):
        if draw(st.booleans()):
            keys[key] = draw(thetas)
    if draw(st.booleans()):
        keys["qk_rope_head_dim"] = draw(st.sampled_from([None, 4, 12]))
    if draw(st.booleans()):
        keys["partial_rotary_factor"] = draw(st.sampled_from([None, 0.25, 0.75]))
    where = draw(st.sampled_from(["rope_scaling", "rope_parameters", None]))
    if where:
        nested = st.fixed_dictionaries({"main": scaling(thetas), "compress": scaling(thetas)})
        keys[where] = draw(st.none() | nested | scaling(thetas))
    return keys


def imported(config: dict[str, Any]) -> Model:
    text, diagnostics = convert(config, "model_x")
    assert {d.code for d in diagnostics} <= {"W0601"}, diagnostics
    return load_text(text)[0]


@given(layers())
def test_every_layer_is_what_transformers_makes_of_it(keys: dict[str, Any]) -> None:
    config = {k: v for k, v in small("deepseek_v4").items() if not k.startswith(("compress_", "num_hash"))} | keys
    theirs = DeepseekV4Config(**json.loads(json.dumps(config)))
    schedule: Any = imported(config).schedule
    found = [slots.attention.compress for slots in schedule]
    assert [SLIDING if c is None else KINDS[c.kind] for c in found] == theirs.layer_types
    assert [c and c.ratio for c in found] == [theirs.compress_rates.get(kind) for kind in theirs.layer_types]
    routers = {"hash": "hash_moe", "sqrtsoftplus": "moe"}
    assert [routers[slots.ffn.router.kind] for slots in schedule] == theirs.mlp_layer_types


@given(positions())
def test_positions_are_those_of_transformers(keys: dict[str, Any]) -> None:
    """Channels, frequencies and factor of layers with a window alone, and of those that compress."""
    sizes = {"head_dim": HEAD_DIM, "index_head_dim": HEAD_DIM, "num_hidden_layers": 2, "compress_ratios": [0, 128]}
    config = {k: v for k, v in small("deepseek_v4", **sizes).items() if k != "qk_rope_head_dim"} | keys
    reference = DeepseekV4Config(**json.loads(json.dumps(config)))
    first, theirs = DeepseekV4RotaryEmbedding(reference), DeepseekV4RotaryEmbedding(reference)
    if len(first.main_inv_freq) != len(theirs.main_inv_freq):
        # Modules of one model disagree: transformers cannot make it.
        assert [d.code for d in convert(config, "model_x")[1] if d.severity == "error"] == ["E0604"]
        return
    schedule: Any = imported(config).schedule
    at = torch.arange(0, 200, 7)[None]
    for slots, label in zip(schedule, ("main", "compress"), strict=True):
        cos, sin = theirs(torch.zeros(1), at, layer_type=label)
        layer = slots.attention
        assert layer.rope_dim == 2 * cos.shape[-1]
        assert layer.rope.pairs == "interleaved"
        ours = rope_angles(at, dim=layer.rope_dim, theta=layer.rope.theta, **layer.rope.scaling())
        torch.testing.assert_close(ours[..., 0], cos, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours[..., 1], sin, rtol=0, atol=1e-3)


FLASH = """\
arch 1

# Not in the config, so as the class has it: compress_rates, router_aux_loss_coef,
# output_router_logits, mlp_bias.
# Checkpoints store weights as FP8 in blocks of 128 x 128, experts as FP4 in blocks of 32; loading
# dequantises them.

## DeepSeek-V4: attention over a window and compressed entries, residual streams, mixture of experts.
## Imported from config.json (transformers model type `deepseek_v4`).
model deepseek_v4_flash {
  vocab     = 129_280
  dim       = 4096
  layers    = 43
  context   = 1Mi
  norm      = rms { eps = 1e-6 }
  head      = untied
  residual  = mhc { streams = 4, sinkhorn_iters = 20, hc_eps = 1e-6 }
  init      = normal { std = 0.02 }
  precision = fp8_fp4
  mtp       = mtp_streams { depth = 1, attention = swa, ffn = moe }

  attention swa = windowed {
    heads      = 64
    head_dim   = 512
    rope_dim   = 64
    q_rank     = 1024
    out_groups = 8
    out_rank   = 1024
    window     = 128
    rope       = rope { theta = 10_000, pairs = interleaved }
  }
  attention csa = swa {
    rope = yarn {
      theta            = 160_000
      pairs            = interleaved
      factor           = 16
      original         = 64Ki
      beta_fast        = 32
      beta_slow        = 1
      attention_factor = 1
    }
    compress = csa { ratio = 4, indexer = lightning { heads = 64, head_dim = 128, topk = 512 } }
  }
  attention hca = csa { compress = hca { ratio = 128 } }
  ffn moe = moe {
    experts    = 256
    hidden     = 2048
    shared     = 1
    activation = glu { clamp = 10 }
    router     = sqrtsoftplus { active = 6, scale = 1.5 }
  }
  ffn hash_moe = moe { router = hash { active = 6, scale = 1.5 } }

  schedule {
    attention = [swa * 2, (csa, hca) * 20, csa]
    ffn       = [hash_moe * 3, moe * 40]
  }
}
"""


def test_a_person_reads_it() -> None:
    assert convert(DEEPSEEK_V4_FLASH, "deepseek_v4_flash", mtp=True) == (FLASH, ())


def test_drawers_of_modules_for_further_tokens_alone_stand_behind_the_others() -> None:
    text, _ = convert(DEEPSEEK_V4_PRO, "model_x", mtp=True)
    assert "mtp       = mtp_streams { depth = 1, attention = swa, ffn = moe }\n" in text
    assert "attention swa = hca { rope = rope { theta = 10_000, pairs = interleaved }, compress = none }\n" in text
    assert "attention = [hca * 2, (csa, hca) * 29, csa]" in text
    assert "swa" not in convert(DEEPSEEK_V4_PRO, "model_x")[0]


@pytest.mark.parametrize("ratios", [[0, 0, 0], [4, 4, 0], [128, 128, 4], [0, 4, 0], [0, 4, 128]])
@pytest.mark.parametrize("hashed", [0, 1, 2])
def test_modules_for_further_tokens_have_the_layer_behind_the_last(ratios: list[int], hashed: int) -> None:
    config = small("deepseek_v4", num_hidden_layers=2, compress_ratios=ratios, num_hash_layers=hashed)
    text, diagnostics = convert(config, "model_x", mtp=True)
    assert diagnostics == ()
    model: Any = load_text(text)[0]
    last = model.schedule[-1]
    attention, ffn = model.mtp.attention or last.attention, model.mtp.ffn or last.ffn
    compress = attention.compress
    assert (compress and compress.kind) == {0: None, 4: "csa", 128: "hca"}[ratios[-1]]
    assert attention.rope.theta == (160_000 if ratios[-1] else 10_000)
    assert ffn.router.kind == "sqrtsoftplus"
    plain: Any = load_text(convert(config, "model_x")[0])[0]
    assert repr(plain.schedule) == repr(model.schedule)  # but for names


def test_a_config_that_leaves_its_layers_open_says_so_in_the_spec() -> None:
    """The class lays them out in another phase than the published models, without YaRN."""
    bare = {k: v for k, v in DEEPSEEK_V4_FLASH.items() if k not in ("compress_ratios", "rope_scaling")}
    text, diagnostics = convert(bare, "model_x")
    assert diagnostics == ()
    assert "attention = [hca * 3, (csa, hca) * 20]" in text
    assert "rope       = rope { theta = 160_000, pairs = interleaved }" in text
    note = text.partition("## ")[0].replace("\n#", "")
    assert "layer_types" in note
    assert "rope_parameters" in note
    assert "layer_types" not in FLASH.partition("## ")[0]


YARN = {"type": "yarn", "factor": 4.0}
PLAIN = {"main": {"rope_type": "default"}, "compress": {"rope_theta": 160_000.0}}
NESTED = {"main": {"rope_type": "default"}, "compress": dict(YARN)}

REPORTED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"compress_ratios": [0, 4]}, ["E0604"]),
    ({"compress_ratios": [0, 2, 1]}, ["E0604"]),
    ({"compress_ratios": "0, 4, 128"}, ["E0604"]),
    ({"layer_types": [SLIDING, SPARSE, HEAVY]}, []),
    ({"layer_types": [HEAVY, HEAVY, HEAVY, HEAVY]}, ["W0601"]),
    ({"layer_types": [HEAVY]}, ["E0604"]),
    ({"layer_types": ["full_attention"] * 3}, ["E0604"]),
    ({"mlp_layer_types": ["hash_moe", "moe", "moe"]}, []),
    ({"mlp_layer_types": ["moe"] * 3}, ["W0601"]),
    ({"mlp_layer_types": ["dense"] * 3}, ["E0604"]),
    ({"num_hash_layers": -1}, ["E0604"]),
    ({"num_hash_layers": 9}, []),
    ({"compress_rates": {SPARSE: 4}}, []),
    ({"compress_rates": {HEAVY: 4}}, ["E0604"]),
    ({"compress_rates": {HEAVY: 4}, "compress_rate_csa": 3}, []),
    ({"compress_rates": {SPARSE: 4, HEAVY: 8, SLIDING: 1}}, ["W0601"]),
    ({"compress_rates": {SPARSE: 0}}, ["E0604"]),
    ({"compress_rate_csa": "4"}, ["E0604"]),
    ({"o_groups": 5}, ["E0604"]),
    ({"qk_rope_head_dim": 8}, ["E0604"]),  # more than an index head has
    ({"qk_rope_head_dim": 5}, ["E0604"]),
    ({"qk_rope_head_dim": 4, "partial_rotary_factor": 4 / 12}, []),
    ({"partial_rotary_factor": 0.5}, ["W0601"]),
    ({"partial_rotary_factor": 1.5}, ["E0604", "W0601"]),
    ({"partial_rotary_factor": 0.0}, ["E0604", "W0601"]),
    ({"rope_scaling": YARN}, []),
    ({"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}, ["W0601", "W0601"]),
    ({"rope_scaling": YARN | {"attention_factor": 1.2}}, []),
    ({"rope_scaling": YARN | {"rope_theta": 9.0}}, ["W0601"]),
    ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, ["W0601"]),
    ({"rope_scaling": YARN | {"stretch": 3}}, ["E0603"]),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["E0605"]),
    ({"original_max_position_embeddings": 64}, ["W0601"]),
    ({"rope_parameters": NESTED}, ["E0604"]),  # transformers fails on it
    ({"rope_parameters": NESTED, "partial_rotary_factor": 4 / 12}, []),
    ({"rope_parameters": PLAIN}, ["E0604", "W0601"]),  # whole heads turn, which is more than an index head has
    ({"rope_parameters": PLAIN, "index_head_dim": 12}, ["W0601"]),
    ({"rope_parameters": {"main": dict(YARN)}}, ["E0604"]),
    ({"rope_parameters": NESTED | {"factor": 2.0}, "partial_rotary_factor": 4 / 12}, ["W0601"]),
    ({"scoring_func": "sigmoid"}, ["E0605"]),
    ({"scoring_func": "sigmoid", "num_hash_layers": 0}, []),
    ({"scoring_func": "softmax"}, ["E0605", "E0604"]),
    ({"scoring_func": "softmax", "num_hash_layers": 0}, ["E0604"]),
    ({"scoring_func": "relu", "num_hash_layers": 0}, ["E0605"]),
    ({"hidden_act": "gelu"}, ["E0605"]),
    ({"hidden_act": "swish"}, []),
    ({"swiglu_limit": 0.0}, ["E0605"]),
    ({"swiglu_limit": None}, ["E0604"]),
    ({"mlp_bias": True}, ["E0605"]),
    ({"attention_bias": True}, ["W0601"]),
    ({"n_shared_experts": 2}, ["W0601"]),
    ({"norm_topk_prob": False}, ["W0601"]),
    ({"num_key_value_heads": 2}, ["W0601"]),
    ({"topk_method": "noaux_tc", "expert_dtype": "fp4", "ep_size": 8, "first_k_dense_replace": 0}, []),
    ({"num_local_experts": 8}, ["W0601"]),
    ({"num_experts_per_tok": 5}, ["E0604"]),
    ({"output_router_logits": True}, ["E0605"]),
    ({"output_router_logits": True, "router_aux_loss_coef": 0.0}, []),
    ({"output_router_logits": True, "num_hash_layers": 3}, []),
    ({"attention_dropout": 0.1, "router_jitter_noise": 0.1}, ["W0602", "W0602"]),
    ({"dspark_block_size": 5, "num_nextn_predict_layers": 3}, ["W0601"]),
    ({"q_lora_rank": None}, ["E0604"]),
    ({"sliding_window": None}, ["E0604"]),
    ({"hc_mult": 4.0}, ["E0604"]),
]


@pytest.mark.parametrize(("changes", "codes"), REPORTED, ids=str)
def test_what_is_reported(changes: dict[str, Any], codes: list[str]) -> None:
    text, diagnostics = converted(small("deepseek_v4", **changes))
    assert sorted(d.code for d in diagnostics) == sorted(codes)
    assert bool(text) == all(d.severity != "error" for d in diagnostics)


def test_modules_that_draft_blocks_are_no_modules_for_further_tokens() -> None:
    config = small("deepseek_v4", num_nextn_predict_layers=3, dspark_block_size=5)
    text, diagnostics = convert(config, "model_x", mtp=True)
    assert "mtp" not in text
    assert [d.code for d in diagnostics] == ["W0601", "W0603"]
