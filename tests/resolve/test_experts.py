"""Mixtures of experts: rules between their fields, and twins in which routing still has to choose."""

from __future__ import annotations

from typing import Any

import pytest

from archc.graph.gradient import learned
from archc.plan import plan, shrink
from tests.resolve.support import GQA, found, one, only, spec


def moe(fields: str, router: str) -> str:
    return spec(f"{GQA}ffn = moe {{ hidden = 30, {fields}, router = {router} }}")


@pytest.mark.parametrize(
    ("fields", "router", "place", "message"),
    [
        ("experts = 8", "softmax { active = 9 }", "9", "active = 9 is more than the 8 experts"),
        (
            "experts = 8",
            "sigmoid { active = 2, groups = 3 }",
            "3",
            "groups = 3 does not divide experts = 8",
        ),
        (
            "experts = 12",
            "sigmoid { active = 7, groups = 4, keep_groups = 2 }",
            "7",
            "active = 7 is more than the 6 experts in keep_groups = 2 groups",
        ),
        ("experts = 8, shared_gate = true", "softmax { active = 2 }", "true", "there is no shared expert"),
        ("experts = 8, shared_hidden = 9", "softmax { active = 2 }", "9", "there is no shared expert"),
        ("experts = 8, shared_activation = silu", "softmax { active = 2 }", "silu", "there is no shared expert"),
        ("experts = 2", "hash { active = 3 }", "3", "active = 3 is more than the 2 experts"),
        (
            "experts = 8",
            "hash { active = 2, vocab = 32 }",
            "32",
            "vocab = 32 of `hash`, but the model has vocab = 1_000 tokens",
        ),
        ("experts = 8, shared = 1, shared_hidden = 0", "softmax { active = 2 }", "0", "shared experts of width 0"),
    ],
)
def test_rules(fields: str, router: str, place: str, message: str) -> None:
    """Reported at the value that was written, whichever drawer knows the rule."""
    problem = only(moe(fields, router))
    assert (problem.code, problem.message) == ("E0210", message)
    assert problem.span is not None
    assert problem.span.text == place


def test_a_field_of_a_router_is_reported_where_a_derived_drawer_sets_it() -> None:
    """`groups` is written in the derived mixture, `experts` in the one it derives from."""
    text = "ffn a = moe { experts = 8, hidden = 30, router = softmax { active = 4, groups = 4, keep_groups = 2 } }\n"
    problem = only(spec(f"{GQA}{text}ffn b = a {{ router {{ groups = 3 }} }}\nschedule {{ ffn = [b * rest] }}"))
    assert problem.message == "groups = 3 does not divide experts = 8"
    assert problem.span is not None
    assert problem.span.text == "3"
    assert [note.span.text for note in problem.related] == ["8"]


def mixture(text: str) -> Any:
    return one(text).schedule[0].ffn


def test_shared_experts_are_as_wide_as_so_many() -> None:
    assert mixture(moe("experts = 8, shared = 3", "softmax { active = 2 }")).shared_hidden == 90
    assert mixture(moe("experts = 8, shared = 1, shared_hidden = 50", "softmax { active = 2 }")).shared_hidden == 50


def test_an_activation_has_fields_of_its_own() -> None:
    assert mixture(moe("experts = 8, activation = glu { clamp = 10 }", "softmax { active = 2 }")).activation.clamp == 10
    problem = only(moe("experts = 8, activation = glu { clamp = 0 }", "softmax { active = 2 }"))
    assert (problem.code, problem.message) == ("E0204", "`clamp` must be greater than 0, got 0")


def test_shared_experts_may_have_an_activation_of_their_own() -> None:
    """Clamped experts beside an unclamped one (DeepSeek-V4's first inference code), or all alike."""
    router, clamped = "softmax { active = 2 }", "experts = 8, shared = 1, activation = glu { clamp = 10 }"
    assert mixture(moe(clamped, router)).shared_activation is None
    assert mixture(moe(f"{clamped}, shared_activation = silu", router)).shared_activation.kind == "silu"

    def limits(text: str) -> list[str]:
        nodes = [node for node, _ in plan(shrink(one(text))).walk() if node.op.kind == "swiglu"]
        return [f"{node.component} {getattr(node.op, 'limit', None)}" for node in nodes]

    assert limits(moe(clamped, router)) == ["experts 10.0", "shared_experts 10.0"]
    assert limits(moe(f"{clamped}, shared_activation = silu", router)) == ["experts 10.0", "shared_experts None"]


@pytest.mark.parametrize(
    ("fields", "router"),
    [
        ("experts = 256, shared = 1", "sigmoid { active = 8, groups = 8, keep_groups = 4 }"),  # DeepSeek-V3
        ("experts = 160, shared = 2", "softmax { active = 6, groups = 8, keep_groups = 3 }"),  # DeepSeek-V2
        ("experts = 72", "sigmoid { active = 6, groups = 3, keep_groups = 2 }"),
        ("experts = 384, shared = 1", "sigmoid { active = 8 }"),  # Kimi K2
        ("experts = 8", "softmax { active = 2 }"),
        ("experts = 5", "softmax { active = 4 }"),
        ("experts = 2", "softmax { active = 1 }"),
    ],
)
def test_a_twin_still_has_to_choose(fields: str, router: str) -> None:
    """Few experts, more than a token uses; a limit on groups still keeps some out."""
    model = one(moe(fields, router))
    whole, small = model.schedule[0].ffn, shrink(model).schedule[0].ffn
    assert small.router.active < small.experts <= 12
    assert not list(small.problems())
    assert (small.router.keep_groups < small.router.groups) == (whole.router.keep_groups < whole.router.groups)
    assert bool(small.shared_hidden) == bool(small.shared) == bool(whole.shared)
    plan(shrink(model))


@pytest.mark.parametrize(
    ("router", "cause"),
    [
        ("softmax { active = 1, topk_first = true }", "topk_first"),
        ("softmax { active = 1, renormalise = true }", "renormalise"),
        ("sigmoid { active = 1 }", "renormalise"),
        ("hash { active = 1 }", "renormalise"),
        ("softmax { active = 1 }", None),
        ("sigmoid { active = 2 }", None),
        ("sigmoid { active = 1, renormalise = false }", None),
        ("hash { active = 1, renormalise = false }", None),
    ],
)
def test_a_router_whose_one_weight_is_always_1_learns_nothing(router: str, cause: str | None) -> None:
    """The plan knows it, and the author is told."""
    text = moe("experts = 8", router)
    graph = plan(one(text))
    taught = {p.name for p in graph.parameters() if p.value in learned(graph)}
    assert ("model.layers.0.mlp.gate.weight" in taught) == (cause is None)
    assert "model.layers.0.mlp.experts.gate_up_proj" in taught
    assert [d.message for d in found(text)] == (
        [f"the weight of the one expert is always 1 after {cause}: the router learns nothing from it"] if cause else []
    )


@pytest.mark.parametrize("router", ["softmax { topk_first = true,", "sigmoid {"])
def test_a_loss_that_levels_loads_teaches_such_a_router(router: str) -> None:
    text = moe("experts = 8", f"{router} active = 1, balance_weight = 0.1 }}")
    graph = plan(one(text))
    assert {p.name for p in graph.parameters() if not (p.spec.buffer or p.value in learned(graph))} == set()
    assert not found(text)
