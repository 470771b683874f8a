"""Window attention, its compressors and indexer: rules between their fields, what is doubtful, and twins."""

from __future__ import annotations

from typing import Any

import pytest

from archc.plan import plan, shrink
from tests.resolve.support import FFN, found, one, only, spec

SIZES = {
    "heads": "4",
    "head_dim": "16",
    "rope_dim": "8",
    "q_rank": "24",
    "out_groups": "2",
    "out_rank": "12",
    "window": "8",
    "rope": "rope",
}
CSA = "csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 6 } }"

STAGED = "csa { ratio = 4, indexer = two_stage { heads = 2, head_dim = 8, topk = 6, block = 8, blocks = 31 } }"


def windowed(**given: str) -> str:
    fields = "\n".join(f"{name} = {value}" for name, value in (SIZES | given).items())
    return spec(f"attention = windowed {{\n{fields}\n}}\n{FFN}")


def attention(**given: str) -> Any:
    return one(windowed(**given)).schedule[0].attention


@pytest.mark.parametrize(
    ("given", "code", "place", "message"),
    [
        ({"out_groups": "7"}, "E0210", "7", "out_groups = 7 does not divide heads x head_dim = 4 x 16"),
        ({"rope_dim": "5"}, "E0204", "5", "`rope_dim` must be a multiple of 2, got 5"),
        ({"rope_dim": "18"}, "E0210", "18", "rope_dim = 18 channels of a head of head_dim = 16"),
        ({"rope": "rope { dim = 4 }"}, "E0210", "rope { dim = 4 }", "the rope rotates 4 channels, but rope_dim is 8"),
        ({"window": "0"}, "E0204", "0", "`window` must be greater than 0, got 0"),
        ({"compress": "hca { ratio = 1 }"}, "E0204", "1", "`ratio` must be greater than 1, got 1"),
        (
            {"compress": CSA.replace("head_dim = 8", "head_dim = 7")},
            "E0210",
            "7",
            "rope_dim = 8 channels of an index head of head_dim = 7",
        ),
        (
            {"compress": STAGED.replace("topk = 6", "topk = 249")},
            "E0210",
            "249",
            "topk = 249, but 31 blocks of 8 entries are all that is scored",
        ),
        ({"compress": STAGED.replace("31", "1")}, "E0204", "1", "`blocks` must be greater than 1, got 1"),
    ],
)
def test_rules(given: dict[str, str], code: str, place: str, message: str) -> None:
    """Reported at the value that was written, at whatever depth it stands."""
    problem = only(windowed(**given))
    assert (problem.code, problem.message) == (code, message)
    assert problem.span is not None
    assert problem.span.text == place


@pytest.mark.parametrize(
    ("compress", "code", "place", "message"),
    [
        (
            CSA.replace("topk = 6", "topk = 256"),
            "W0005",
            "256",
            "the indexer may pick 256 entries, but at context = 1024 there are 256",
        ),
        (
            CSA.replace("topk = 6", "topk = 1"),
            "W0007",
            "1",
            "the index loss of a single pick is always 0: the indexer learns nothing from it",
        ),
        (
            STAGED.replace("31", "32"),
            "W0005",
            "32",
            "the indexer may score 256 entries, but at context = 1024 there are 256",
        ),
        (
            CSA.replace("topk = 6", "topk = 6, key_norm = rms"),
            "W0009",
            "rms",
            "key_norm has nothing to do: the compressor norms index keys as it norms entries",
        ),
        (CSA.replace("ratio = 4", "ratio = 3"), "W0006", "3", "ratio = 3 does not divide context = 1024"),
        ("hca { ratio = 100 }", "W0006", "100", "ratio = 100 does not divide context = 1024"),
    ],
)
def test_what_is_doubtful(compress: str, code: str, place: str, message: str) -> None:
    doubt = only(windowed(compress=compress))
    assert (doubt.code, doubt.severity, doubt.message) == (code, "warning", message)
    assert doubt.span is not None
    assert doubt.span.text == place


@pytest.mark.parametrize(
    "compress",
    [
        "none",
        CSA,
        CSA.replace("6", "255"),
        CSA.replace("topk = 6", "topk = 1, loss_weight = 0"),
        STAGED,
        "csa { ratio = 4 }",
        "hca { ratio = 128 }",
    ],
)
def test_what_is_not(compress: str) -> None:
    assert not found(windowed(compress=compress))


def test_entries_are_normed_as_the_attention_around_them_unless_told_otherwise() -> None:
    assert attention(compress=CSA).compress.eps == 1e-6
    assert attention(compress=CSA, eps="1e-5").compress.eps == 1e-5
    assert attention(compress="hca { ratio = 8, eps = 1e-3 }", eps="1e-5").compress.eps == 1e-3


def test_the_scale_is_that_of_a_head_however_far_the_rope_reaches() -> None:
    yarn = "yarn { factor = 16, original = 64, mscale_all_dim = 1 }"
    assert attention(rope=yarn).scale == 16**-0.5
    assert attention(scale="0.5").scale == 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "the last 8 tokens and a sink"),
        ({"window": "1", "sinks": "false"}, "attends to its own token in one softmax"),
        ({"compress": CSA}, "the last 8 tokens, compressed entries and a sink"),
        ({"compress": CSA, "sinks": "false"}, "the last 8 tokens and compressed entries in"),
        ({"out_groups": "1"}, "all heads together are projected out through 12 channels."),
        ({"out_groups": "4"}, "4 groups of heads are projected out through 12 channels each."),
        ({}, "made of 24 channels and normed head by head."),
        ({"q_norm": "false"}, "made of 24 channels."),
    ],
)
def test_it_says_what_is_there(given: dict[str, str], words: str) -> None:
    assert words in attention(**given).about()


def test_compressors_and_indexers_say_what_is_there() -> None:
    picked, all_seen = (
        attention(compress=CSA).compress,
        attention(compress="csa { ratio = 5, overlap = false }").compress,
    )
    assert picked.about().startswith("Every 4 tokens make one entry")
    assert "over them and those before; an indexer picks" in picked.about()
    assert "with a learned softmax; a token attends to all it sees" in all_seen.about()
    assert picked.indexer.about().startswith("2 small heads score")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"out_groups": "1"},
        {"heads": "3", "head_dim": "8", "out_groups": "4"},
        {"heads": "1", "out_groups": "8", "window": "1"},
        {
            "heads": "64",
            "head_dim": "512",
            "rope_dim": "64",
            "out_groups": "8",
            "window": "128",
            "compress": CSA.replace("m = 8", "m = 128"),
        },
        {"compress": "csa { ratio = 2, overlap = false }", "head_dim": "9"},
        {"compress": CSA.replace("topk = 6", "topk = 200")},
        {"compress": STAGED},
        {"compress": STAGED.replace("topk = 6, block = 8", "topk = 3, block = 1")},
        {"compress": "hca { ratio = 128 }", "head_dim": "4", "rope_dim": "2", "sinks": "false", "q_norm": "false"},
    ],
)
def test_a_twin_is_small_and_sound(given: dict[str, str]) -> None:
    """Its groups still divide its heads, 64 tokens close several groups, and its indexer still has to choose."""
    whole = one(windowed(**given))
    model = shrink(whole)
    twin: Any = model.schedule[0].attention
    assert not list(twin.problems())
    assert (twin.sinks, twin.q_norm) == (given.get("sinks") != "false", given.get("q_norm") != "false")
    assert twin.heads * twin.head_dim <= 4 * 32
    assert twin.scale == pytest.approx(twin.head_dim**-0.5)
    assert twin.window <= 16
    if twin.compress is not None:
        assert 64 // twin.compress.ratio >= 8
        picker = twin.compress.picker()
        assert picker is None or picker.most() < 64 // twin.compress.ratio
        assert picker is None or picker.scored() is None or picker.most() <= picker.scored() < 64 // twin.compress.ratio
    plan(model)
