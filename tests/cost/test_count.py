"""Counts against published figures and against arithmetic done by hand."""

from __future__ import annotations

import pytest

import archc
from archc.cost.report import COMPONENTS
from archc.plan import plan
from archc.resolve import load_text


# Totals of the public implementations on the meta device (transformers with the published configurations).
@pytest.mark.parametrize(
    ("spec", "total"),
    [("llama_3_1_8b", 8_030_261_248), ("llama_3_1_70b", 70_553_706_496), ("llama_3_1_405b", 405_853_388_800)],
)
def test_parameters_equal_the_published_totals(spec: str, total: int) -> None:
    params = archc.cost(archc.load(spec)).params
    assert params.total == params.active == total
    assert sum(params.by_component.values()) == total


def test_cache_of_405b_as_published() -> None:
    """516.096 KB a token (DeepSeek-AI 2025, arXiv:2505.09343, table 1)."""
    assert archc.cost(archc.load("llama_3_1_405b")).kv_cache.bytes_per_token == 516_096


def test_training_flops_of_405b_as_published() -> None:
    """2,448 GFLOPs a token in training at 4,096 (arXiv:2505.09343, table 2; how it counts attention is not said)."""
    report = archc.cost(archc.load("llama_3_1_405b"), mode="train", seq=4096)
    assert report.flops.ideal.train_per_token == pytest.approx(2448e9, rel=0.02)


@pytest.mark.parametrize(
    ("mode", "seq", "context"),
    [("train", 100, None), ("prefill", 100, None), ("prefill", 100, 350), ("decode", None, 350)],
)
def test_ideal_flops_by_hand(mode: str, seq: int | None, context: int | None) -> None:
    """Linear maps twice their weights a token; attention 4 x heads x head_dim a visible pair."""
    model = archc.load("llama_3_1_8b")
    report = archc.cost(model, mode=mode, batch=3, seq=seq, context=context)
    new, total = (1, context) if mode == "decode" else (seq, context or seq)
    pairs = sum(range(total - new + 1, total + 1))
    weights = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336) + 4096 * 128256
    expected = 3 * (2 * new * weights + 32 * 4 * 4096 * pairs)
    assert report.flops.ideal.workload_total == expected * (3 if mode == "train" else 1)
    assert report.flops.ideal.forward_per_token == pytest.approx(expected / (3 * new))
    assert report.flops.ideal.train_per_token == pytest.approx(3 * expected / (3 * new))


def test_report_shape() -> None:
    data = archc.cost(archc.load("llama_3_1_8b")).as_dict()
    assert [key for key in data if key not in ("assumptions", "format_version")] == [
        "model", "archc", "workload", "params", "flops", "kv_cache", "memory", "time", "tables",
    ]  # fmt: skip
    for section in (data["params"], data["flops"]["ideal"], data["flops"]["executed"], data["kv_cache"]):
        assert tuple(section["by_component"]) == COMPONENTS
    assert data["format_version"] == 1


def test_a_tied_head_counts_as_embedding() -> None:
    untied, tied = (archc.cost(archc.load("llama_3_1_8b", set={"head": kind})).params for kind in ("untied", "tied"))
    assert untied.total - tied.total == 128256 * 4096
    assert tied.active_without_embedding == tied.active_core == untied.active_core


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "train", "seq": 8, "context": 9}, "training sees no tokens"),
        ({"mode": "prefill", "seq": 8, "context": 7}, "cannot hold"),
        ({"batch": 0}, "at least 1"),
    ],
)
def test_workloads_that_cannot_be(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        archc.cost(archc.load("llama_3_1_8b"), **kwargs)


def test_one_window_layer_by_hand() -> None:
    """A window keeps window - 1 tokens and 8 to take back, whatever the context."""
    model = archc.load("llama_3_1_8b", set={"attention.window": "128"})
    cache = archc.cost(model, context=100_000, batch=2).kv_cache
    assert cache.bytes_per_token == 0
    assert cache.bytes_per_sequence_fixed == 32 * 2 * (127 + 8) * 8 * 128 * 2 + 8
    assert cache.bytes_total == 2 * cache.bytes_per_sequence_fixed


@pytest.mark.parametrize(
    "key",
    [
        "params.total",
        "params.active_core",
        "params.by_component.attention",
        "flops.ideal.workload_total",
        "flops.executed.by_component.head",
        "kv_cache.bytes_total",
        "kv_cache.by_component.attention",
    ],
)
@pytest.mark.parametrize("mode", ["train", "decode"])
def test_explanations_add_up(key: str, mode: str) -> None:
    from archc.cost.explain import explain

    model = archc.load("llama_3_1_70b")
    graph = plan(model)
    report = archc.cost(model, mode=mode, batch=2, graph=graph)
    explanation = explain(model, graph, report, key)
    assert sum(t.total for t in explanation.terms) == explanation.value
    assert all(t.total % t.count == 0 for t in explanation.terms)


def test_explanations_show_the_lines_behind_a_number() -> None:
    from archc.cost.explain import explain

    model = archc.load("llama_3_1_70b")
    graph = plan(model)
    found = explain(model, graph, archc.cost(model, graph=graph), "params.by_component.attention").sources
    assert {s.field for s in found if s.drawer == "model"} == {"dim", "layers"}
    heads = next(s for s in found if s.field == "heads")
    assert [span.source.name.rpartition("/")[2] for span in heads.spans] == ["llama_3_1_70b.arch", "llama_3_1_8b.arch"]
    assert [span.text for span in heads.spans] == ["64", "32"]


def test_shares_of_experts_name_the_router_that_decides_them() -> None:
    from archc.cost.explain import explain

    model = archc.load("gpt_oss_20b")
    graph = plan(model)
    report = archc.cost(model, graph=graph)
    for key in ("params.active", "flops.ideal.by_component.experts", "params.by_component.router"):
        found = {(s.drawer, s.field): s.value for s in explain(model, graph, report, key).sources}
        assert found["router softmax", "active"] == "4", key
        assert found["router softmax", "bias"] == "True", key
        assert not any(drawer.startswith(("rope", "norm", "activation")) for drawer, _ in found), key
    v3 = archc.load("deepseek_v3")
    found = explain(v3, plan(v3), archc.cost(v3), "params.active").sources
    assert "active" in {s.field for s in found}
    assert not {"scale", "bias_rate", "balance_weight"} & {s.field for s in found}, "fractions count nothing"


def test_indexers_and_compressors_are_named_where_their_numbers_count() -> None:
    from archc.cost.explain import explain

    model = archc.load("deepseek_v4_flash")
    graph = plan(model)
    report = archc.cost(model, graph=graph)
    for key in ("params.by_component.indexer", "flops.ideal.by_component.indexer", "kv_cache.bytes_per_token"):
        found = {(s.drawer, s.field): s.value for s in explain(model, graph, report, key).sources}
        assert found["compress csa", "ratio"] == "4", key
        lightning = {field: value for (drawer, field), value in found.items() if drawer == "indexer lightning"}
        assert lightning == {"heads": "64", "head_dim": "128", "topk": "512"}, key


def test_unknown_figures_name_the_known_ones() -> None:
    with pytest.raises(KeyError) as error:
        archc.cost(archc.load("llama_3_1_8b")).value("params.totl")
    assert "params.total" in error.value.args[1]


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_every_figure_is_the_sum_of_its_terms(mode: str) -> None:
    """Per-token figures too: their terms together, over the tokens of the workload."""
    from archc.cost.explain import explain

    model = archc.load("llama_3_1_8b", set={"attention.window": "128"})
    graph = plan(model)
    seq = None if mode == "decode" else 96
    report = archc.cost(model, mode=mode, batch=3, seq=seq, context=None if mode == "train" else 500, graph=graph)

    def keys(node: dict, prefix: str = "") -> list[str]:
        found = []
        for name, value in node.items():
            if isinstance(value, dict):
                found += keys(value, f"{prefix}{name}.")
            elif isinstance(value, int | float):
                found.append(prefix + name)
        return found

    data = report.as_dict()
    for section in ("params", "flops", "kv_cache"):
        for key in keys(data[section], f"{section}."):
            found = explain(model, graph, report, key)
            assert sum(t.total for t in found.terms) / found.over == pytest.approx(found.value), key


def test_decoding_several_tokens_at_once() -> None:
    """As verifying a draft does: the last tokens of the context together."""
    model = archc.load("llama_3_1_8b")
    together = archc.cost(model, mode="decode", seq=3, context=100).flops.ideal.workload_total
    one_by_one = (archc.cost(model, mode="decode", context=n).flops.ideal.workload_total for n in (98, 99, 100))
    assert together == sum(one_by_one)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is train, prefill, decode, not 'serve'"):
        archc.cost(archc.load("llama_3_1_8b"), mode="serve")


def test_what_an_indexer_learns_is_counted_in_training_alone() -> None:
    """A spec that gives the loss no weight has the same forward, and neither the loss nor gradients of its indexers."""
    from archc.cost.explain import explain

    csa = "compress = csa { ratio = 4, indexer = lightning { heads = 3, head_dim = 8, topk = 2, loss_weight = %s } }"
    attention = (
        "heads = 2, head_dim = 8, rope_dim = 4, q_rank = 6, out_groups = 1, out_rank = 4, window = 4, rope = rope"
    )
    specs = [
        f"arch 1\nmodel m {{ vocab = 50, dim = 16, layers = 2, context = 64\n"
        f"attention = windowed {{ {attention}, {csa % weight} }}\nffn = swiglu {{ hidden = 24 }} }}\n"
        for weight in ("1", "0")
    ]
    (with_loss,), (without,) = map(load_text, specs)
    graph = plan(with_loss)
    for mode in ("prefill", "decode"):
        kept, left = (archc.cost(m, mode=mode, seq=24, context=24).flops for m in (with_loss, without))
        assert kept.ideal.workload_total == left.ideal.workload_total
        assert kept.executed.workload_total == left.executed.workload_total
    learns, idle = (archc.cost(m, mode="train", batch=2, seq=24) for m in (with_loss, without))
    assert any("index loss" in text for text in learns.assumptions)
    assert not any("index loss" in text for text in idle.assumptions)
    assert learns.flops.ideal.forward_per_token == idle.flops.ideal.forward_per_token
    more = {c: n - idle.flops.ideal.by_component[c] for c, n in learns.flops.ideal.by_component.items()}
    assert {c for c, n in more.items() if n} == {"indexer"}
    # What reads constants has the gradient of its weight alone, once its forward: q_b_proj, weights_proj, and the
    # matrices of values and gates, of twice the width for the overlap; the scores have two products for each pick.
    picked = sum(min((t + 1) // 4, 2) for t in range(24))
    weights = 6 * 24 + 16 * 3 + 2 * 16 * 16
    assert more["indexer"] == 2 * 2 * (24 * 2 * weights + 4 * 3 * 8 * picked)
    for key in ("ideal", "executed"):
        for part in ("workload_total", "by_component.indexer", "train_per_token", "forward_per_token"):
            found = explain(with_loss, graph, learns, f"flops.{key}.{part}")
            assert sum(t.total for t in found.terms) / found.over == pytest.approx(found.value), (key, part)
