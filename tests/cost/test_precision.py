"""Number formats and optimizers: against published checkpoints, and laws of their own."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archc.cost.count import count
from archc.cost.formats import held, size_of
from archc.drawers import drawer_class, kinds
from archc.graph import Graph
from archc.importers import load
from archc.ops import Op, Workload
from archc.ops.loss import Loss
from archc.plan import plan, shrink
from archc.schema import Format, Model, Optimizer, Precision

KINDS = kinds("precision")
ROLES = ("embedding", "head", "matrix", "output", "experts", "router", "pool", "scorer", "merge", "norm", "bias")


@cache
def planned(name: str, *sets: tuple[str, str]) -> tuple[Model, Graph]:
    model = load(name, set=dict(sets))
    return model, plan(model)


def precision(kind: str, **fields: object) -> Precision:
    made = drawer_class("precision", kind)(**fields)
    assert isinstance(made, Precision)
    return made


def stored(name: str, *, mtp: bool) -> Counter[str]:
    """Bytes of the weights of a model, or of its MTP, as a checkpoint has them, by format."""
    model, graph = planned(name)
    found: Counter[str] = Counter()
    for p in graph.parameters():
        if (p.component == "mtp") == mtp:
            form = held(p.spec, model.precision)
            numbers, scales = size_of(form, p.spec.shape)
            found[form.name] += numbers
            found[f"{form.name} scales"] += scales
    return found


# --- published checkpoints -----------------------------------------------------------------------
def test_deepseek_v3_has_the_bytes_of_its_checkpoint() -> None:
    """deepseek-ai/DeepSeek-V3 has 688,586,727,753 bytes of weight files. They hold embedding and head twice (model
    card); the rest are the headers of 163 files, which name 91,991 tensors with about 130 characters each.
    """
    main, mtp = stored("deepseek_v3", mtp=False), stored("deepseek_v3", mtp=True)
    again = 2 * 129_280 * 7168 * 2
    headers = 688_586_727_753 - (main.total() + mtp.total() + again)
    assert 91_991 * 100 < headers < 91_991 * 160


@pytest.mark.parametrize(
    ("name", "published"), [("deepseek_v4_flash", 166_878_536_440), ("deepseek_v4_pro", 892_727_580_904)]
)
def test_deepseek_v4_has_the_bytes_of_its_checkpoint(name: str, published: int) -> None:
    """V4-Flash-0731 and V4-Pro-0813 have three stages of DSpark in place of the MTP module: blocks of the same layers.
    What is left is theirs: the Markov head (tables of 256 and 512 channels by token) and projections.
    """
    main, mtp = stored(name, mtp=False), stored(name, mtp=True)
    rest = published - main.total() - 3 * mtp.total()
    assert 0 < rest < 0.001 * published


def test_formats_are_those_of_the_checkpoints() -> None:
    """Dtypes by the safetensors headers of V4-Flash, and of V3's index (`weight_scale_inv` of what is FP8)."""
    model, graph = planned("deepseek_v4_flash")
    found = {p.name: held(p.spec, model.precision).name for p in graph.parameters()}
    layer = "model.layers.4"
    assert {n.removeprefix(layer + "."): f for n, f in found.items() if n.startswith(layer + ".")} == {
        "input_layernorm.weight": "bf16",
        "post_attention_layernorm.weight": "bf16",
        "attn_hc.fn": "fp32",
        "attn_hc.base": "fp32",
        "attn_hc.scale": "fp32",
        "ffn_hc.fn": "fp32",
        "ffn_hc.base": "fp32",
        "ffn_hc.scale": "fp32",
        "self_attn.q_a_proj.weight": "fp8",
        "self_attn.q_a_norm.weight": "bf16",
        "self_attn.q_b_proj.weight": "fp8",
        "self_attn.kv_proj.weight": "fp8",
        "self_attn.kv_norm.weight": "bf16",
        "self_attn.sinks": "fp32",
        "self_attn.o_a_proj.weight": "fp8",
        "self_attn.o_b_proj.weight": "fp8",
        "self_attn.compressor.kv_proj.weight": "bf16",
        "self_attn.compressor.gate_proj.weight": "bf16",
        "self_attn.compressor.position_bias": "fp32",
        "self_attn.compressor.kv_norm.weight": "bf16",
        "self_attn.compressor.indexer.kv_proj.weight": "bf16",
        "self_attn.compressor.indexer.gate_proj.weight": "bf16",
        "self_attn.compressor.indexer.position_bias": "fp32",
        "self_attn.compressor.indexer.kv_norm.weight": "bf16",
        "self_attn.compressor.indexer.q_b_proj.weight": "fp8",
        "self_attn.compressor.indexer.scorer.weights_proj.weight": "bf16",
        "mlp.gate.weight": "bf16",
        "mlp.gate.e_score_correction_bias": "fp32",
        "mlp.experts.gate_up_proj": "fp4",
        "mlp.experts.down_proj": "fp4",
        "mlp.shared_experts.gate_proj.weight": "fp8",
        "mlp.shared_experts.up_proj.weight": "fp8",
        "mlp.shared_experts.down_proj.weight": "fp8",
    }
    assert found["model.layers.0.mlp.gate.tid2eid"] == "int64"
    assert found["lm_head.weight"] == found["model.embed_tokens.weight"] == "bf16"


# --- products ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "share"), [("deepseek_v4_pro", 0.27), ("deepseek_v4_flash", 0.10)])
def test_flops_at_a_million_tokens_are_those_claimed_of_v3_2(name: str, share: float) -> None:
    """arXiv:2606.19348, abstract: 27 and 10 % of V3.2's FLOPs of a token in equivalents of FP8, which are 1191 GFLOP:
    2 x 36.6e9 in FP8, 61 x 128 x 2048 x (576 + 512) x 2 in bfloat16, 61 x 64 x 128 x 2 x 2^20 in FP8.
    """
    v32 = 2 * 36.6e9 + 2 * 61 * 128 * 2048 * (576 + 512) * 2 + 61 * 64 * 128 * 2 * 2**20
    assert v32 == pytest.approx(1191e9, rel=0.001)
    report = count(*planned(name), mode="decode", context=1 << 20)
    assert report.flops.weighted_fp8_equivalent / v32 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("name", ["llama_3_1_8b", "deepseek_v3", "deepseek_v4_flash", "gpt_oss_20b"])
def test_in_bfloat16_everything_counts_twice(name: str) -> None:
    report = count(*planned(name, ("precision", "bf16")), mode="prefill", seq=512)
    assert report.flops.weighted_fp8_equivalent == pytest.approx(2 * report.flops.ideal.forward_per_token)


def test_narrower_products_never_count_more() -> None:
    wide = count(*planned("deepseek_v4_flash", ("precision", "bf16"))).flops.weighted_fp8_equivalent
    fp8 = count(*planned("deepseek_v4_flash", ("precision", "fp8"))).flops.weighted_fp8_equivalent
    fp4 = count(*planned("deepseek_v4_flash")).flops.weighted_fp8_equivalent
    assert fp4 < fp8 < wide <= 2 * fp8


# --- laws ----------------------------------------------------------------------------------------
@given(
    shape=st.lists(st.integers(1, 300), min_size=2, max_size=3),
    block=st.sampled_from([(128, 128), (1, 32), (32, 32), (1, 128)]),
    bits=st.sampled_from([4, 8]),
    scale=st.sampled_from([1, 4]),
)
def test_every_number_has_a_scale_and_no_block_has_two(
    shape: list[int], block: tuple[int, int], bits: int, scale: int
) -> None:
    """Against laying blocks over the tensor one by one."""
    numbers, scales = size_of(Format("x", bits, block, scale), shape)
    *batch, rows, columns = shape
    laid = sum(1 for r in range(0, rows, block[0]) for c in range(0, columns, block[1]))
    assert scales == laid * math.prod(batch) * scale
    assert numbers == math.ceil(math.prod(shape) * bits / 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_precision_answers_for_every_role(kind: str) -> None:
    made = precision(kind)
    for role in (*ROLES, "scale", "table"):
        assert made.stored(role).bits in (4, 8, 16, 32)
        assert made.trained(role).bits >= made.stored(role).bits
        assert made.gradient_bytes(role) in (2, 4)
        # what the optimizer moves has 32 bits: the weights themselves, or a copy
        assert made.master_bytes(role) == 4 or made.trained(role).bits == 32
    for what in (*ROLES, "attention", "index"):
        assert made.product(what) in ("fp32", "tf32", "bf16", "fp8", "fp4")


@pytest.mark.parametrize("name", ["deepseek_v4_flash", "deepseek_v3_2", "nsa_27b", "gpt_oss_20b"])
def test_ops_whose_work_grows_with_what_is_cached_run_in_the_formats_of_attention_or_an_index(name: str) -> None:
    """Those, and no others: all other products meet weights, whose format is the weights'."""
    _, graph = planned(name)
    grows = set[type[Op]]()
    for node in (node for node, _ in graph.walk() if not isinstance(node.op, Loss)):
        kinds = tuple(v.type for v in node.ins), tuple(v.type for v in node.outs)
        work = [node.op.flops(Workload(batch=1, new=1, past=past, cached=True), *kinds)[1] for past in (9, 99)]
        if work[0] != work[1]:
            grows.add(type(node.op))
        if node.op.fused == "attention":
            assert len(node.outs[0].type.shape) == 4
    said = {type(node.op) for node, _ in graph.walk() if node.op.fused and not isinstance(node.op, Loss)}
    assert grows == said != set()


def test_without_a_master_copy_bfloat16_is_moved_itself() -> None:
    assert precision("bf16", master="none").master_bytes("matrix") == 0
    assert precision("bf16", gradients="bf16").gradient_bytes("matrix") == 2


@pytest.mark.parametrize("kind", kinds("optimizer"))
def test_an_optimizer_answers_for_every_role(kind: str) -> None:
    made = drawer_class("optimizer", kind)()
    assert isinstance(made, Optimizer)
    assert all(made.state(role) > 0 for role in (*ROLES, "scale", "table"))


def test_optimizers_differ_where_papers_say() -> None:
    """Muon has one momentum of matrices, AdamW two moments of all (arXiv:2606.19348, section 2.4)."""
    muon, adamw = (drawer_class("optimizer", kind)() for kind in ("muon", "adamw"))
    assert isinstance(muon, Optimizer) and isinstance(adamw, Optimizer)
    assert [muon.state(r) for r in ("matrix", "experts", "embedding", "norm")] == [4, 4, 8, 8]
    half = drawer_class("optimizer", "adamw")(moments="bf16", tables="rows")
    assert isinstance(half, Optimizer)
    assert (half.state("matrix"), half.state("table"), half.row_state("table")) == (4, 0, 4)


def test_twins_run_in_float32() -> None:
    assert shrink(load("deepseek_v4_flash")).precision.kind == "fp32"
