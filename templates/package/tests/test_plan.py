"""The plan's numbers are the module's: initial weights, cache bytes, executed FLOPs; and what the code imports."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .. import Model as FullModel
from .tiny_model import Model
from .twin import FULL, TESTS, TINY, fresh, structure, tokens

MODES = ("train", "prefill", "decode")
MODELS = pytest.mark.parametrize(("make", "plan"), [(Model, TINY), (FullModel, FULL)], ids=["tiny", "full"])


def test_initial_weights_follow_the_plan() -> None:
    """Ones, zeros, one number, the identity, a one, level choices, or normal with the plan's deviation, within six
    standard errors.
    """
    state = fresh(seed=3).state_dict()
    for spec in TINY["parameters"]:
        values, init = state[spec["name"]], spec["init"]
        if isinstance(init, dict) and "wrapped at" in init:
            assert torch.equal(values, torch.arange(len(values)) % init["wrapped at"]), spec["name"]
            continue
        if isinstance(init, dict) and "choices" in init:
            assert_choices(values, init["choices"])
            continue
        if spec["buffer"]:
            continue
        if init == "eye" or (isinstance(init, dict) and "one at" in init):
            eye = torch.eye(len(values), dtype=values.dtype)
            assert torch.equal(values, eye if init == "eye" else eye[init["one at"]]), spec["name"]
            continue
        if isinstance(init, str):
            assert torch.equal(values, {"ones": torch.ones_like, "zeros": torch.zeros_like}[init](values)), spec["name"]
            continue
        if isinstance(init, float):
            assert torch.equal(values, torch.full_like(values, init)), spec["name"]
            continue
        std, n = init["normal"], values.numel()
        assert abs(float(values.mean())) <= 6 * std / math.sqrt(n), spec["name"]
        assert abs(float(values.std(correction=0)) - std) <= 6 * std / math.sqrt(2 * n) + std / n, spec["name"]


def assert_choices(table: Tensor, below: int) -> None:
    """Fails unless each row of a table has distinct ids under `below`, and all ids are about equally frequent."""
    columns = table.shape[1]
    assert all(len(set(row)) == columns for row in table.tolist())
    counts = table.flatten().bincount(minlength=below)
    assert counts.numel() == below
    assert int(counts.max() - counts.min()) <= columns, "only the last rows may be uneven"


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (fresh(seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# --- cache ---------------------------------------------------------------------------------------
def tensors(thing: Any) -> list[Tensor]:
    """Every tensor that an object holds."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        return [t for item in thing.values() for t in tensors(item)]
    if isinstance(thing, list | tuple):
        return [t for item in thing for t in tensors(item)]
    return tensors(vars(thing)) if hasattr(thing, "__dict__") else []


@MODELS
def test_a_cache_has_the_bytes_of_the_plan(make: type[Model], plan: dict) -> None:
    """At the plan's workload and layout; the full model's lies on the meta device."""
    report = plan["cost"]["decode"]
    workload, counted = report["workload"], report["kv_cache"]
    full = make is FullModel
    model = make(device="meta" if full else "cpu", dtype=torch.bfloat16 if full else torch.float32)
    cache = model.new_cache(workload["batch"], workload["context"], layout=counted["layout"])
    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors(cache)}
    assert sum(held.values()) == counted["bytes_total"]
    assert cache.bytes() == counted["bytes_total"]


# --- FLOPs ---------------------------------------------------------------------------------------
def fused_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """FLOPs of PyTorch's fused attention on a CPU, from shapes [B, H, S, D]: two matrix products."""
    batch, heads, new, width = q
    return 2 * batch * heads * new * k[2] * (width + v[3])


def fused_attention_backward(_: Any, q: Any, k: Any, v: Any, *__: Any, **___: Any) -> int:
    """Five products: the scores again, then the gradients of scores, queries, keys and values."""
    batch, heads, new, width = q
    return 2 * batch * heads * new * k[2] * (3 * width + 2 * v[3])


FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_attention_backward,
}


class Repeats:
    """Lets only the first of equal modules in a model's layers run; the FLOPs of the others are as many each."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self.counter, self.flops = counter, 0
        self.seen: dict[str, tuple[Any, int]] = {}
        for layers in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
            for module in [m for layer in layers for m in layer.modules()]:
                module.forward = partial(self.run, structure(module), module.forward)

    def total(self) -> int:
        """FLOPs so far."""
        return self.counter.get_total_flops() + self.flops

    def run(self, kind: str, forward: Callable[..., Any], *given: Any) -> Any:
        """What a module returns, or what one like it returned on equal shapes: on the meta device that is the same."""
        key = f"{kind} {[(x.shape, x.dtype) for x in given if isinstance(x, Tensor)]}"
        if key in self.seen:
            out, flops = self.seen[key]
            self.flops += flops
            return out
        before = self.total()
        out = forward(*given)
        self.seen[key] = out, self.total() - before
        return out


def executed(model: Model, mode: str, workload: dict[str, int]) -> int:
    """FLOPs that PyTorch counts while the model runs a workload of the plan. On the meta device that is the forward,
    where equal modules run once.
    """
    batch, new, past = workload["batch"], workload["seq"], workload["context"] - workload["seq"]
    device = next(model.parameters()).device
    ids = tokens(batch, new, seed=1).to(device)
    cache = None if mode == "train" else model.new_cache(batch, workload["context"])
    if cache is not None and past:
        # What was there before costs nothing now, so it may be anything.
        cache.advance(torch.full((batch,), past, device=device), [past] * batch)
    with torch.set_grad_enabled(mode == "train"), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        repeats = Repeats(model, counter) if device.type == "meta" else None
        out = model(ids, cache=cache, labels=ids if mode == "train" else None)
        if repeats is not None:
            return repeats.total()
        if mode == "train":
            out.loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("mode", MODES)
def test_executed_flops_follow_the_plan(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward of the twin, on the reference path."""
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    report = TINY["cost"][mode]
    assert executed(fresh(), mode, report["workload"]) == report["flops"]["executed"]["workload_total"]


@pytest.mark.parametrize("mode", MODES)
def test_executed_flops_of_the_full_model_follow_the_plan(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward at full size, on the meta device: every width fits, no memory is needed."""
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    report = FULL["cost"][mode]
    workload = report["workload"]
    ahead = report["flops"]["executed"]["forward_per_token"] * workload["batch"] * workload["seq"]
    without = {"mtp": False} if report["params"]["mtp"] else {}  # FLOPs a token are those of the model without them
    model = FullModel(device="meta", dtype=torch.bfloat16, **without)
    model.index_stage = "off"  # nor those of losses, which the twin's include
    assert executed(model, mode, workload) == ahead


# --- code ----------------------------------------------------------------------------------------
def test_the_package_stands_alone() -> None:
    """It imports the standard library, torch, safetensors and (on a GPU) triton, and nothing else, but for functions
    that read what another package writes.
    """
    package, known = TESTS.parent, {*sys.stdlib_module_names, "torch", "safetensors", "triton"}
    for path in (p for p in package.rglob("*.py") if TESTS not in p.parents):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert imported(tree.body) <= known, path
        assert imported(ast.walk(tree)) <= known | WHEN_CALLED.get(path.name, set()), path


WHEN_CALLED = {"merging.py": {"numpy", "tokenizers"}}
"""What functions of a file import when they are called, and nothing else needs."""


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of the packages outside this one that code imports."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names
