"""Imported models are those of transformers: logits, losses, gradients, hidden states and generated tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.importers.configs import CLASSES
from tests.laws import LAWS
from tests.parity.configs import Case, cases
from tests.parity.pair import FACTOR, TINY, Pair, assert_within_rounding, gap

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

ALL = [case for family in CLASSES for case in cases(family)]

SAMPLE = (1, 3, 5, 6, 8, 10)
"""Cases of mixtures of experts that meet every feature of the others at least once."""

SAMPLED = [case for case in ALL if case.index in SAMPLE or case.family in ("llama", "qwen3", "olmo2")]
"""Cases for what takes long."""


@pytest.fixture(scope="module", params=ALL, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    return Pair(case, tmp_path_factory.mktemp(str(case)))


def test_logits(pair: Pair) -> None:
    assert_within_rounding(pair.ours32.logits, pair.reference32.logits, pair.reference64.logits, "logits")


def test_loss(pair: Pair) -> None:
    assert_within_rounding(pair.ours32.loss, pair.reference32.loss, pair.reference64.loss, "loss")


def test_hidden_states(pair: Pair) -> None:
    runs = (pair.ours32.hidden, pair.reference32.hidden, pair.reference64.hidden)
    for i, states in enumerate(zip(*runs, strict=True)):
        assert_within_rounding(*states, f"hidden state {i}")


def test_gradients(pair: Pair) -> None:
    ours, reference, exact = pair.ours32.gradients, pair.reference32.gradients, pair.reference64.gradients
    assert ours.keys() == reference.keys() == exact.keys()
    # Gradients that cancel (those of a query that sees one key are zero) round like the terms they are made of.
    largest = max(want.norm().item() for want in exact.values())
    for name, want in exact.items():
        floor = (reference[name].double() - want).norm().item()
        apart = (ours[name].double() - reference[name].double()).norm().item()
        allowed = FACTOR * floor + TINY * largest
        assert apart <= allowed, f"{name}: {apart:.3g} apart of {want.norm():.3g}, rounding is {floor:.3g}"


def test_float64(pair: Pair) -> None:
    ours, exact = pair.ours64, pair.reference64
    assert gap(ours.logits, exact.logits) <= 1e-9 * exact.logits.abs().max().item()
    assert gap(ours.loss, exact.loss) <= 1e-9
    for name, want in exact.gradients.items():
        apart = (ours.gradients[name] - want).norm().item()
        assert apart <= 1e-9 * max(want.norm().item(), 1e-3), name


@pytest.mark.parametrize("pair", SAMPLED, indirect=True, ids=str)
def test_greedy_decoding(pair: Pair) -> None:
    """A cache of ours and a cache of theirs give the same 16 tokens, wherever rounding cannot turn a choice."""
    model = pair.ours(torch.float32)
    # Far above rounding: neither cache may turn a choice by summing in another order.
    noise = 20 * gap(pair.reference32.logits, pair.reference64.logits)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        prompt = torch.randint(pair.spec.vocab, (1, 9), generator=generator)
        want = _generate(pair, prompt)
        top = pair.reference(want).logits[:, 8:-1].topk(2).values
        if (top[..., 0] - top[..., 1]).min() > noise and pair.clear(want):
            assert model.generate(prompt, max_new_tokens=16).tolist() == want.tolist()
            return
    pytest.fail("no prompt has clear choices")


@torch.no_grad()
def _generate(pair: Pair, prompt: torch.Tensor) -> torch.Tensor:
    # The cache of transformers 5.23 keeps everything where a window is one token wide: it slices the last -1 + 1.
    cached = getattr(pair.config, "sliding_window", None) != 1
    mask = torch.ones_like(prompt)
    return pair.reference.generate(
        prompt, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0, use_cache=cached
    )


PADDED = [case for case in ALL if case.family != "deepseek_v4"]
"""Of DeepSeek-V4 the reference pools padding into entries (issue 45938 of transformers); the laws say what is right."""


@pytest.mark.parametrize("pair", PADDED, indirect=True, ids=str)
def test_left_padding(pair: Pair) -> None:
    """A padded batch, which the reference has to be told the positions of."""
    mask = torch.ones_like(pair.ids)
    mask[0, :13] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    # The reference takes what a padding token says of the next one for a prediction.
    labels = pair.labels.masked_fill(mask.roll(1, 1) * mask == 0, -100)
    with torch.no_grad():
        want = pair.reference(pair.ids, attention_mask=mask, position_ids=positions, labels=labels)
        got = pair.ours(torch.float32)(pair.ids, attention_mask=mask, labels=labels)
    with pair.wide() as model, torch.no_grad():
        exact = model(pair.ids, attention_mask=mask, position_ids=positions)
        exact_loss = pair.exact_loss(exact, labels)
    at = mask.bool()
    assert_within_rounding(got.logits[at], want.logits[at], exact.logits[at], "logits")
    assert_within_rounding(got.loss, want.loss, exact_loss, "loss")


GROUPED = [case for case in ALL if case.keywords.get("topk_group", 1) < case.keywords.get("n_group", 1)]
BIASED = [case for case in ALL if case.family in ("deepseek_v3", "kimi_k2", "deepseek_v4") and case.index % 3 == 0]
V4 = [case for case in ALL if case.family == "deepseek_v4"]
PICKED = [case for case in ALL if case.family in ("deepseek_v32", "glm_moe_dsa")]


@pytest.mark.parametrize("pair", GROUPED, indirect=True, ids=str)
def test_limits_of_groups_bind(pair: Pair) -> None:
    """The reference without them is another model: the comparisons above see them."""
    routers = [m for m in pair.reference.modules() if hasattr(m, "topk_group")]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for router in routers:
            patch.setattr(router, "topk_group", router.num_group)
        free = pair.reference(pair.ids).logits
    assert gap(free, pair.reference32.logits) > 1e-3


@pytest.mark.parametrize("pair", BIASED, indirect=True, ids=str)
def test_biases_of_routers_choose(pair: Pair) -> None:
    """The same for the biases that only choose."""
    biases = [b for name, b in pair.reference.named_buffers() if name.endswith("e_score_correction_bias")]
    kept = [b.clone() for b in biases]
    with torch.no_grad():
        for bias in biases:
            bias.zero_()
        plain = pair.reference(pair.ids).logits
        for bias, value in zip(biases, kept, strict=True):
            bias.copy_(value)
    assert gap(plain, pair.reference32.logits) > 1e-3


@pytest.mark.parametrize("pair", V4, indirect=True, ids=str)
def test_what_only_deepseek_v4_has_matters(pair: Pair) -> None:
    """The comparisons above see limits on picks, tables of experts, sinks, and where in a group a token stands."""
    parts = list(pair.reference.modules())
    indexers = [m for m in parts if hasattr(m, "index_topk")]
    tables = [m for m in parts if hasattr(m, "tid2eid")]
    changes: list[tuple[Any, str, Any]] = [(m, "index_topk", 41) for m in indexers]
    changes += [(m, "tid2eid", m.tid2eid.roll(1, 0)) for m in tables]
    changes += [(m, "sinks", torch.nn.Parameter(m.sinks + 1)) for m in parts if hasattr(m, "sinks")]
    changes += [
        (m, "position_bias", torch.nn.Parameter(m.position_bias.flip(0)))
        for m in parts
        if type(m).__name__.endswith("Compressor")
    ]
    assert len(tables) == pair.config.mlp_layer_types.count("hash_moe")
    assert len(indexers) == pair.config.layer_types.count("compressed_sparse_attention")
    for owner, name, value in changes:
        kept = getattr(owner, name)
        setattr(owner, name, value)
        with torch.no_grad():
            other = pair.reference(pair.ids).logits
        setattr(owner, name, kept)
        assert gap(other, pair.reference32.logits) > 1e-3, (type(owner).__name__, name)


@pytest.mark.parametrize("pair", PICKED, indirect=True, ids=str)
def test_what_picks_tokens_matters(pair: Pair) -> None:
    """The comparisons above see limits on picks, biases of index keys, weights of heads, and how channels pair."""
    indexers = [m for m in pair.reference.modules() if hasattr(m, "index_topk")]
    assert len(indexers) == pair.config.num_hidden_layers
    noise = torch.Generator().manual_seed(0)
    changes: list[tuple[Any, str, Any]] = []
    for m in indexers:
        changes.append((m, "index_topk", 41))
        bias = m.k_norm.bias + torch.randn(m.k_norm.bias.shape, generator=noise)
        changes += [(m.k_norm, "bias", torch.nn.Parameter(bias))]
        changes += [(m.weights_proj, "weight", torch.nn.Parameter(-m.weights_proj.weight))]
    halves, neighbours = "apply_rotary_pos_emb", "apply_rotary_pos_emb_interleave"
    if pair.case.family == "deepseek_v32" and pair.config.qk_rope_head_dim > 2:  # a pair alone is both
        changes.append((pair.modeling, halves, getattr(pair.modeling, neighbours)))
    for owner, name, value in changes:
        kept = getattr(owner, name)
        setattr(owner, name, value)
        with torch.no_grad():
            other = pair.reference(pair.ids).logits
        setattr(owner, name, kept)
        assert gap(other, pair.reference32.logits) > 1e-4, (type(owner).__name__, name)


@pytest.mark.parametrize("pair", V4, indirect=True, ids=str)
def test_bfloat16(pair: Pair) -> None:
    """As near to float32 as the reference, but for tokens whose experts or entries rounding turns in either."""
    ids = torch.randint(pair.spec.vocab, (32, 41), generator=torch.Generator().manual_seed(pair.case.index))
    narrow = pair.model_class.from_pretrained(
        pair.folder / "checkpoint",
        dtype=torch.bfloat16,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    with torch.no_grad():
        exact = pair.reference(ids).logits
        theirs = (narrow.eval()(ids).logits.float() - exact).abs()
        ours = (pair.ours(torch.bfloat16)(ids).logits.float() - exact).abs()
    assert ours.median() <= 1.2 * theirs.median()
    assert ours.mean() <= 1.5 * theirs.mean()


@pytest.mark.parametrize("pair", SAMPLED, indirect=True, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@given(data=st.data())
@settings(max_examples=4)
def test_laws(pair: Pair, law: Callable[..., None], data: st.DataObject) -> None:
    law(pair.model64, pair.spec.vocab, data)
