"""The laws of a package can fail: a fault is planted in a good package, and the law that forbids it must notice."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, settings

from tests.built import imported

settings.register_profile("first failure", settings.get_profile("quick"), phases=[Phase.generate])

Fault = Callable[["Planted"], None]
HOMES = ("test_properties", "test_plan", "test_mtp")
FAULTS: list[tuple[str, Fault, str]] = []
"""The package that a fault is planted in (a fixture), the fault, and a law that must notice it."""


class Planted:
    """A package of its own, to be spoilt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = imported(path)

    def module(self, name: str) -> Any:
        """A module of the package."""
        return import_module(f"{self.package.__name__}.{name}")

    @property
    def tiny(self) -> Any:
        return self.module("tests.tiny_model")


def breaks(*laws: str, of: str = "mixed") -> Callable[[Fault], Fault]:
    """Marks a fault that these laws (`test_...` without the prefix) of a package must notice."""

    def register(fault: Fault) -> Fault:
        FAULTS.extend((of, fault, law) for law in laws)
        return fault

    return register


def law(module: ModuleType, name: str, fixtures: dict[str, Any]) -> Callable[[], None]:
    """A test of a package as a function without arguments, with the first of its parameters (float64)."""
    test = getattr(module, f"test_{name}")
    given = {name: fixtures[name] for name in fixtures.keys() & inspect.signature(test).parameters.keys()}
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize":
            keys = [k.strip() for k in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            values = mark.args[1][0]
            given |= dict(zip(keys, values if len(keys) > 1 else (values,), strict=True))
    return lambda: test(**given)


@pytest.fixture(autouse=True)
def _first_failure_only():
    # A law takes its settings when it is defined; finding the smallest counterexample is not what is tested here.
    settings.load_profile("first failure")
    yield
    settings.load_profile("quick")


@pytest.mark.parametrize(("of", "fault", "name"), FAULTS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_fault_is_noticed(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
    fault: Fault,
    name: str,
) -> None:
    planted = Planted(shutil.copytree(request.getfixturevalue(of), tmp_path / of))
    modules = [planted.module(f"tests.{home}") for home in HOMES]
    home = next(module for module in modules if hasattr(module, f"test_{name}"))
    broken = law(home, name, {"tmp_path_factory": tmp_path_factory, "monkeypatch": monkeypatch})
    broken()  # holds while nothing is planted
    planted.module("tests.twin").twin.cache_clear()
    fault(planted)
    with pytest.raises((AssertionError, BaseExceptionGroup, pytest.fail.Exception)):
        broken()


# --- time ----------------------------------------------------------------------------------------
@breaks("a_token_changes_nothing_before_it")
def attention_sees_the_future(p: Planted) -> None:
    def attend(q, keys, values, time, *, scale, window=None, sinks=None):
        q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
        return F.scaled_dot_product_attention(q, keys, values, scale=scale, enable_gqa=True).transpose(1, 2)

    p.tiny.attend = attend


@breaks("every_chunking_is_one_forward", "decoding_one_by_one_is_one_forward", "rows_continue_at_their_own_pace")
def positions_start_again_with_every_call(p: Planted) -> None:
    angles = p.tiny.rope_angles
    p.tiny.rope_angles = lambda positions, **how: angles(positions - positions[:, :1], **how)


@breaks("every_chunking_is_one_forward")
def a_window_forgets_its_oldest_token(p: Planted) -> None:
    attend = p.tiny.attend

    def narrow(q, keys, values, time, *, scale, window=None, sinks=None):
        if window is not None and time.cached:
            window -= 1
        return attend(q, keys, values, time, scale=scale, window=window, sinks=sinks)

    p.tiny.attend = narrow


@breaks("rejected_drafts_leave_no_trace", "a_cache_refuses_what_it_cannot_do_and_stays_whole")
def rewinding_does_nothing(p: Planted) -> None:
    p.module("runtime.cache").Cache.rewind = lambda self, tokens: None


@breaks("narrow_caches_read_the_same_in_chunks")
def new_keys_are_read_before_they_are_rounded(p: Planted) -> None:
    recall = p.tiny.recall

    def exact(x, store, time):
        recent = recall(x, store, time)
        return x if store is None else torch.cat([recent[:, : store.keep], x], 1)

    p.tiny.recall = exact


@breaks("positions_count_from_the_start_of_each_row")
def given_positions_are_stretched(p: Planted) -> None:
    model = p.module("runtime.model")
    time = model.time_of
    model.time_of = lambda rows, positions, cache: time(rows, None if positions is None else 2 * positions, cache)


# --- rows ----------------------------------------------------------------------------------------
@breaks("rows_do_not_see_each_other", "padding_changes_nothing")
def rows_are_mixed(p: Planted) -> None:
    hidden = p.tiny.Model.hidden

    def mixed(self, step):
        x = hidden(self, step)
        return x + 1e-3 * x.mean(0, keepdim=True)

    p.tiny.Model.hidden = mixed


@breaks("padding_changes_nothing", "rows_continue_at_their_own_pace", "loss_is_the_mean_over_real_next_tokens")
def masks_are_ignored(p: Planted) -> None:
    rows = p.module("runtime.rows").Rows
    rows.masked = classmethod(lambda cls, mask, segments, *, trim: cls.whole(mask))


@breaks("packed_sequences_do_not_see_each_other")
def boundaries_are_ignored(p: Planted) -> None:
    p.module("runtime.rows").Rows.starts = lambda self: None


# --- generation ----------------------------------------------------------------------------------
@breaks("cached_generation_is_greedy_by_full_forwards")
def generation_takes_the_least_likely(p: Planted) -> None:
    p.module("runtime.generate").sample = lambda logits, *_: logits.argmin(-1)


@breaks("prompts_of_unequal_length_generate_as_alone")
def prompts_are_read_with_their_padding(p: Planted) -> None:
    logits = p.tiny.Model.next_logits
    p.tiny.Model.next_logits = lambda self, ids, mask=None, cache=None: logits(self, ids, None, cache)


@breaks("generation_stops_at_end_tokens")
def rows_never_end(p: Planted) -> None:
    generate = p.tiny.Model.generate
    p.tiny.Model.generate = lambda self, ids, eos=None, **how: generate(self, ids, **how)


@breaks("sampling_repeats_with_its_seed_and_obeys_top_p")
def top_p_is_ignored(p: Planted) -> None:
    module = p.module("runtime.generate")
    sample = module.sample
    module.sample = lambda logits, temperature, top_p, generator=None: sample(logits, temperature, 1.0, generator)


# --- losses --------------------------------------------------------------------------------------
@breaks("loss_is_the_mean_over_real_next_tokens")
def labels_are_not_shifted(p: Planted) -> None:
    p.module("runtime.rows").Rows.targets = lambda self, labels: labels


@breaks("loss_is_the_mean_over_real_next_tokens")
def boundaries_are_targets(p: Planted) -> None:
    rows = p.module("runtime.rows").Rows
    targets = rows.targets

    def across(self, labels):
        blind = type(self)(**{f: getattr(self, f) for f in ("count", "known", "new", "order", "back")})
        return targets(blind, labels)

    rows.targets = across


@breaks("the_total_is_the_language_loss_and_every_other_by_its_weight", of="routed")
def losses_count_in_full(p: Planted) -> None:
    effects = p.module("runtime.effects").Effects
    losses = effects.losses
    effects.losses = lambda self: ((name, value, 1.0) for name, value, _ in losses(self))


@breaks("the_total_is_the_language_loss_and_every_other_by_its_weight", of="routed")
def losses_are_reported_by_weight(p: Planted) -> None:
    effects = p.module("runtime.effects").Effects
    losses = effects.losses
    effects.losses = lambda self: ((name, weight * value, 1.0) for name, value, weight in losses(self))


@breaks("loss_is_the_mean_over_real_next_tokens", of="routed")
def balance_is_left_out(p: Planted) -> None:
    p.tiny.StepBase.add_loss = lambda self, name, *operands, **how: None


BIASES = "biases_move_towards_even_loads_after_a_step_and_never_in_a_forward"


@breaks(BIASES, of="routed")
def biases_move_towards_the_busy(p: Planted) -> None:
    def update(loads, buffers, group=None):
        for load in loads:
            load.bias += load.rate * (len(load.count) * load.count - load.count.sum()).sign()
            load.count.zero_()

    p.module("runtime.model").update = update


@breaks(BIASES, of="routed")
def loads_are_never_forgotten(p: Planted) -> None:
    module = p.module("runtime.model")
    update = module.update

    def remembering(loads, buffers, group=None):
        counts = [load.count.clone() for load in loads]
        update(loads, buffers, group)
        for load, count in zip(loads, counts, strict=True):
            load.count += count

    module.update = remembering


@breaks(BIASES, of="routed")
def evaluation_counts(p: Planted) -> None:
    model = p.module("runtime.model").LanguageModel
    model.eval = lambda self: self


@breaks(BIASES, of="routed")
def biases_move_in_the_forward(p: Planted) -> None:
    module = p.module("runtime.step")
    count = module.StepBase.count_loads

    def at_once(self, bias, ids, rate):
        bias += rate
        count(self, bias, ids, rate)

    module.StepBase.count_loads = at_once


@breaks("the_gradient_reaches_every_parameter_and_is_that_of_the_loss")
def norms_are_frozen(p: Planted) -> None:
    module = p.module("runtime.modules")
    module.RMSNorm.forward = lambda self, x: module.rms_norm(x, self.weight.detach(), eps=self.eps)


@breaks("the_gradient_reaches_every_parameter_and_is_that_of_the_loss")
def a_backward_is_a_tenth_too_small(p: Planted) -> None:
    swiglu = p.tiny.swiglu

    def shrunk(gate, up):
        y = swiglu(gate, up)
        return 0.9 * y + (0.1 * y).detach()

    p.tiny.swiglu = shrunk


@breaks("a_few_steps_of_training_learn_a_row_by_heart")
def nothing_is_learnt(p: Planted) -> None:
    head = p.tiny.Model.head
    p.tiny.Model.head = lambda self, x: 0 * head(self, x)


# --- further tokens ------------------------------------------------------------------------------
@breaks("the_mtp_loss_of_a_target_reads_what_comes_before_it_and_nothing_else")
def modules_read_what_they_predict(p: Planted) -> None:
    columns = p.module("runtime.mtp").Columns
    step = columns.step
    columns.step = lambda self, *given: step(replace(self, tokens=self.tokens.roll(-1, 1)), *given)


@breaks("the_mtp_loss_is_the_same_however_rows_are_padded_and_packed")
def modules_see_past_boundaries(p: Planted) -> None:
    columns = p.module("runtime.mtp").Columns
    further = columns.further
    columns.further = lambda self: further(replace(self, segments=None))


@breaks("the_mtp_loss_alone_teaches_the_modules_and_the_trunk")
def the_trunk_learns_nothing_from_further_tokens(p: Planted) -> None:
    ahead = p.tiny.Model.ahead
    p.tiny.Model.ahead = lambda self, depth, hidden, step: ahead(self, depth, hidden.detach(), step)


@breaks("a_pass_gives_one_token_more_than_it_keeps_drafts")
def every_draft_counts_as_kept(p: Planted) -> None:
    p.module("runtime.speculate")._Text.acceptance = 1.0


@breaks("without_its_modules_a_model_has_the_other_parameters", "without_its_modules_a_model_gives_the_same_logits")
def modules_are_always_made(p: Planted) -> None:
    init = p.tiny.Model.__init__
    p.tiny.Model.__init__ = lambda self, mtp=True, **how: init(self, **how)


# --- what a forward returns and leaves -----------------------------------------------------------
@breaks("hidden_states_are_the_input_of_every_layer_and_the_normed_end")
def hidden_states_are_doubled(p: Planted) -> None:
    step = p.module("runtime.step").StepBase
    record = step.record
    step.record = lambda self, x: record(self, 2 * x)


@breaks("a_forward_changes_no_weight_and_repeats_exactly")
def a_forward_moves_a_weight(p: Planted) -> None:
    hidden = p.tiny.Model.hidden

    def moving(self, step):
        with torch.no_grad():
            self.model.norm.weight.add_(1e-3)
        return hidden(self, step)

    p.tiny.Model.hidden = moving


@breaks("bfloat16_stays_close")
def logits_are_widened(p: Planted) -> None:
    head = p.tiny.Model.head
    p.tiny.Model.head = lambda self, x: head(self, x).float()


@breaks("saved_weights_come_back_bit_for_bit")
def weights_are_rounded_on_disk(p: Planted) -> None:
    module = p.module("runtime.checkpoint")
    save = module.save_file

    def rounded(data, *where, **how):
        save({name: tensor.bfloat16().float() for name, tensor in data.items()}, *where, **how)

    module.save_file = rounded


# --- the plan ------------------------------------------------------------------------------------
@breaks("parameters_are_those_of_the_plan")
def there_is_one_parameter_more(p: Planted) -> None:
    init = p.tiny.Model.__init__

    def larger(self, **how):
        init(self, **how)
        self.extra = torch.nn.Parameter(torch.zeros(1, device="meta"))

    p.tiny.Model.__init__ = larger


@breaks("initial_weights_follow_the_plan")
def matrices_start_too_large(p: Planted) -> None:
    module = p.module("runtime.modules")
    module.Linear.reset_parameters = lambda self: torch.nn.init.normal_(self.weight, std=1.2 * self.std)


@breaks("weights_depend_on_the_seed_alone")
def weights_depend_on_the_hour(p: Planted) -> None:
    def reset(self):
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "little"))
        torch.nn.init.normal_(self.weight, std=self.std, generator=generator)

    p.module("runtime.modules").Linear.reset_parameters = reset


@breaks("a_cache_has_the_bytes_of_the_plan")
def a_cache_is_a_token_too_long(p: Planted) -> None:
    make = p.tiny.Model.new_cache
    p.tiny.Model.new_cache = lambda self, batch, max_tokens, **how: make(self, batch, max_tokens + 1, **how)


@breaks("executed_flops_follow_the_plan", "executed_flops_of_the_full_model_follow_the_plan")
def a_product_is_done_twice(p: Planted) -> None:
    for cls in (p.tiny.Model, p.package.Model):
        head = cls.head

        def twice(self, x, head=head):
            head(self, x)
            return head(self, x)

        cls.head = twice


@breaks("the_package_stands_alone")
def it_imports_the_compiler(p: Planted) -> None:
    with (p.path / "model.py").open("a", encoding="utf-8") as file:
        file.write("\nimport archc\n")


def test_every_law_has_a_fault(mixed: Path) -> None:
    """No law of the package is missing from the list above."""
    package = Planted(mixed)
    for module in HOMES:
        laws = {
            name.removeprefix("test_") for name in vars(package.module(f"tests.{module}")) if name.startswith("test_")
        }
        assert laws <= {name for _, _, name in FAULTS}, laws - {name for _, _, name in FAULTS}
