"""What a model of any drawers owes: from the plan to generated tokens, everything agrees and nothing breaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.api import MODES
from archc.cost.activations import activations
from archc.cost.count import count
from archc.cost.setting import Recompute, setting_of
from archc.ops import Workload
from tests import laws
from tests.flops import counted
from tests.memory.saved import held_bytes, kept_bytes
from tests.plan import test_agreement as agreement
from tests.plan.test_agreement import SPAN, Both

NEW = 6
"""Tokens to generate."""


def _folder(both: Both) -> Path:
    return Path(both.package.__file__ or "").parent


def trains(both: Both) -> None:
    """Loss and gradients are finite, in three dtypes; what the plan says is learned is reached, and nothing else."""
    ids = both.tokens(3, SPAN)
    said = json.loads((_folder(both) / "plan.json").read_text())["parameters"]
    unreached = {p["name"] for p in said if not (p["trained"] or p["buffer"])}
    late = {p["name"] for p in said if p.get("stage") == "dense"}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        module = both.wide if dtype == torch.float64 else both.package.Model(dtype=dtype)
        module.train().zero_grad()
        out = module(ids, labels=ids)
        out.loss.backward()
        assert out.loss.isfinite()
        assert out.logits.isfinite().all()
        assert out.logits.dtype == dtype
        # Those of tables hold the rows that were read
        gradients = {n: p.grad.to_dense() for n, p in module.named_parameters() if p.grad is not None}
        assert all(g.isfinite().all() for g in gradients.values())
        if module is both.wide:
            _reaches(module, gradients, unreached | late)
        module.after_step()
        module.eval().zero_grad()


def _reaches(module: Any, gradients: dict[str, Tensor], unreached: set[str]) -> None:
    """Zeros are what the plan says, and that is no more than the rounding of others."""
    sizes = {name: 0.0 for name, _ in module.named_parameters()}
    sizes |= {name: float(g.abs().max()) for name, g in gradients.items()}
    most = max(sizes.values())
    zero, noise = ({name for name, size in sizes.items() if size <= limit} for limit in (0, 1e-13 * most))
    assert zero <= unreached
    assert unreached <= noise


def counts(both: Both) -> None:
    """Parameters, executed FLOPs by component, and bytes of caches of every layout are those of the plan."""
    agreement.test_the_graph_is_sound(both)
    agreement.test_parameters(both)
    agreement.test_flops_of_training(both, 2)
    agreement.test_flops_of_prefill(both, 2, 20, 9)
    agreement.test_flops_of_decoding(both, 3, SPAN)
    agreement.test_flops_by_component(both)
    _predicts_only_with_labels(both)
    agreement.test_cache_bytes(both, 2, 7)
    agreement.test_cache_bytes_grow_as_the_plan_says(both)
    agreement.test_a_cache_of_another_layout_is_refused(both)


@torch.no_grad()
def _predicts_only_with_labels(both: Both) -> None:
    with counted() as mode:
        both.module(both.tokens(2, SPAN))
    trained = both.executed("train", 2, SPAN, SPAN)
    assert mode.get_total_flops() == trained.forward_per_token * 2 * SPAN
    assert (trained.by_component["mtp"] > 0) == (both.model.mtp is not None)


def keeps(both: Both) -> None:
    """A forward keeps the planned bytes for its backward, whatever runs again; that changes no number."""
    ids = both.tokens(2, 24)
    # The confidence of a bypass that no layer behind reads is planned to be kept, and is not: float32, one a token
    last = both.model.schedule[-1].memory
    slack = 4 * ids.numel() if getattr(last, "bypass", None) is not None else 0
    for act, dtype in ((2, torch.bfloat16), (4, torch.float32)):
        module = both.package.Model(dtype=dtype)
        w = Workload(batch=2, new=24, act=act, layout=both.model.cache.kind)
        planned = activations(both.graph, w).kept
        assert planned - slack <= kept_bytes(module, ids) <= planned
        want = module(ids, labels=ids).loss
        module.loads.clear()
        for policy in get_args(Recompute) if act == 4 else ():
            module.recompute = policy
            planned = activations(both.graph, w, policy).kept
            # Layers that run again hold the losses so far: a few numbers that are not planned
            assert planned - slack <= held_bytes(module, ids) <= planned + 32
            assert torch.equal(module(ids, labels=ids).loss, want)
            module.loads.clear()


def interprets(both: Both) -> None:
    """The graph's interpreter gives the module's numbers: whole, in chunks, padded, packed, ahead."""
    for chunks in (None, (7, 1, 1, 20, 11)):
        agreement.test_the_graph_gives_the_logits_of_the_module(both, chunks)
    for packed in (False, True):
        agreement.test_the_graph_sees_rows_as_the_module_does(both, packed)
    if both.model.mtp is not None:
        agreement.test_the_graph_predicts_further_tokens_as_the_module_does(both)


def obeys(both: Both) -> None:
    """The laws of language models with state, each with the smallest example and a random one."""
    for law in laws.LAWS:
        _law(law, both)


def _law(law: Callable[[Any, int, st.DataObject], None], both: Both) -> None:
    # The first example of hypothesis is always the smallest
    @seed(both.model.vocab)
    @settings(
        max_examples=2,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def holds(data: st.DataObject) -> None:
        law(both.wide, both.model.vocab, data)

    holds()


def narrow_caches(both: Both) -> None:
    """What a narrow cache holds was rounded before it was first read: chunks do not matter."""
    ids = both.tokens(2, SPAN)
    for layout in {model.cache.kind for model in agreement.stored(both)} - {"fp32"}:
        whole, parts = (_cached(both, ids, chunks, layout) for chunks in ([SPAN], [9, 1, 1, 13, 16]))
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def _cached(both: Both, ids: Tensor, chunks: list[int], layout: str) -> Tensor:
    cache = both.wide.new_cache(*ids.shape, layout=layout)
    return torch.cat([both.wide(part, cache=cache).logits for part in ids.split(chunks, 1)], 1)


@torch.no_grad()
def generates(both: Both) -> None:
    """Greedy tokens are those of full forwards, with drafts or without."""
    ids = want = both.tokens(2, 9)
    for _ in range(NEW):
        want = torch.cat([want, both.wide(want).logits[:, -1:].argmax(-1)], 1)
    for speculate in (0, 2) if both.model.mtp is not None else (0,):
        assert torch.equal(both.wide.generate(ids, max_new_tokens=NEW, speculate=speculate), want)


@torch.no_grad()
def saves(both: Both, folder: Path) -> None:
    """Saved weights come back bit for bit under either kind of names."""
    module, ids = both.package.Model(), both.tokens(1, 9)
    for names in ("transformers", "hub"):
        module.save_weights(folder / names, names=names)
        loaded = both.package.Model(device="meta")
        both.package.load_weights(loaded, folder / names)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
        assert torch.equal(loaded(ids).logits, module(ids).logits)


def twin(both: Both) -> None:
    """The CPU-size twin in the package is a model, too."""
    facts = json.loads((_folder(both) / "tests" / "tiny_plan.json").read_text())
    tiny = import_module(f"{both.package.__name__}.tests.tiny_model").Model()
    assert {p["name"]: p["shape"] for p in facts["parameters"] if not p["buffer"]} == {
        name: list(p.shape) for name, p in tiny.named_parameters()
    }
    ids = torch.randint(facts["vocab"], (2, 48), generator=torch.Generator().manual_seed(0))
    loss = tiny(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite()


def costs(both: Both) -> None:
    """Every report is one: on a machine, in every mode, with what runs again."""
    for mode in MODES:
        setting = setting_of(both.model, hardware="h100", gpus=1, recompute="selective" if mode == "train" else "none")
        report = count(both.model, both.graph, mode=mode, setting=setting)
        assert report.time is not None
        assert report.time.total_s > 0
        assert json.loads(json.dumps(report.as_dict()))["params"]["total"] == report.params.total
        assert sum(v for k, v in report.params.by_component.items() if k != "mtp") == report.params.total
