"""Serving: tables by batch, loaded caches, drafted tokens."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.cli import main
from archc.cost.setting import Setting
from tests.cost.test_time import machine, timed


def test_throughput_grows_with_the_batch_and_a_step_never_gets_faster() -> None:
    found = timed("llama_3_1_8b", "decode", Setting(hardware=machine(), serving=True), context=4096)
    assert found.serving is not None
    rows = found.serving[:6]
    assert [r.batch for r in rows] == [1, 2, 4, 8, 16, 32]
    assert rows[0].total_s == found.total_s
    assert [r.total_s for r in rows] == sorted(r.total_s for r in rows)
    assert [r.tokens_per_s for r in rows] == sorted(r.tokens_per_s for r in rows)


def test_a_cache_is_loaded_at_the_rate_of_its_path() -> None:
    """70,272 bytes a token of DeepSeek-V3 (arXiv:2505.09343, table 1), over 64 GB/s, and over a disk of 7 GB/s."""
    for source, rate in (("host", 64e9), ("disk", 7e9)):
        setting = Setting(hardware=machine("h800", disk=7e9), cache_from=source)
        found = timed("deepseek_v3", "decode", setting, context=100_000).cache_load
        assert found is not None
        assert found.load_s == pytest.approx(70_272 * 100_000 / rate, rel=1e-4)
        assert found.prefill_s > found.load_s


@pytest.mark.parametrize(
    ("name", "tokens", "width", "layers"),
    [("llama_3_1_8b", 32_768, 4096, 32), ("nsa_27b", 2048 + 1024 + 512, 2560, 30)],
)
def test_a_cache_that_lies_elsewhere_is_read_from_there(name: str, tokens: int, width: int, layers: int) -> None:
    """To decode token 32,768 of 4 rows: all keys and values (8 heads of 128), or of the entries, blocks and window of
    native sparse attention (arXiv:2502.11089, table 4) those of 4 heads of 192 and 128.
    """
    need = 4 * tokens * width * layers
    near = timed(name, "decode", Setting(hardware=machine("h800")), batch=4, context=32_768)
    for where, rate in (("host", 64e9), ("disk", 7e9)):
        hardware = machine("h800", disk=7e9)
        far = timed(name, "decode", Setting(hardware=hardware, cache=where), batch=4, context=32_768)
        assert far.total_s - near.total_s == pytest.approx(need * (1 / rate - 1 / hardware.streams), rel=0.02)
        assert far.memory_s == pytest.approx(far.parts["memory"], rel=0.02)
    unknown = timed(name, "decode", Setting(hardware=machine("h800"), cache="disk"), batch=4, context=32_768)
    assert unknown.total_s == near.total_s


@given(drafts=st.integers(1, 6), accept=st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_a_step_gives_the_expected_tokens(drafts: int, accept: float) -> None:
    """The mean of the drafts that pass one after the other, and one more, against the sum by hand."""
    setting = Setting(hardware=machine("h800"), speculate=drafts, accept=accept)
    found = timed("deepseek_v3", "decode", setting, context=4096).speculation
    assert found is not None
    by_hand = 1 + sum(accept**k for k in range(1, drafts + 1))
    assert found.tokens_per_step == pytest.approx(by_hand)
    plain = timed("deepseek_v3", "decode", Setting(hardware=machine("h800")), context=4096)
    assert found.check_s >= plain.total_s * 0.999
    assert found.draft_s > 0
    assert found.speedup == pytest.approx(by_hand * plain.total_s / (found.draft_s + found.check_s))


def test_drafts_that_are_never_accepted_only_cost() -> None:
    setting = Setting(hardware=machine("h800"), speculate=1, accept=0.0)
    found = timed("deepseek_v3", "decode", setting, context=4096).speculation
    assert found is not None
    assert found.speedup < 1


def test_a_model_that_predicts_no_further_tokens_cannot_draft() -> None:
    with pytest.raises(ValueError, match="no modules that predict further tokens"):
        timed("llama_3_1_8b", "decode", Setting(hardware=machine(), speculate=1), context=4096)


def test_the_command_prints_and_gives_the_same_figures() -> None:
    args = ["cost", "deepseek_v3", "--hardware", "h800", "--context", "8Ki", "--parallel", "dp=64,ep=64"]
    args += ["--batch", "64", "--cache-from", "host", "--speculate", "1"]
    text = CliRunner().invoke(main, args).output
    data = json.loads(CliRunner().invoke(main, [*args, "--format", "json"]).output)["time"]
    assert f"{data['total_s'] * 1e3:.2f} ms" in text
    assert f"{data['speculation']['speedup']:.2f}x" in " ".join(text.split())
    assert data["serving"][0]["batch"] == 64
    assert "loading" in text and "tokens/s" in text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--cache-from", "host"], "need --hardware"),
        (["--hardware", "h800", "--mode", "train", "--speculate", "1"], "need --hardware"),
        (["--hardware", "h800", "--cache-from", "disk"], "no rate of disk"),
        (["--hardware", "h9"], "no hardware `h9`"),
        (["--tokens", "1T"], "need --hardware and --mode train"),
        (["--hardware", "h800", "--price", "2"], "need --mode train"),
        (["--mode", "train", "--tokens", "1T"], "need --hardware"),
        (["--hardware", "h800", "--mode", "train", "--price", "2"], "needs --tokens"),
        (["--hardware", "h800", "--accept", "0.9"], "needs --speculate"),
    ],
)
def test_what_cannot_be_timed_is_said_in_a_sentence(extra: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["cost", "deepseek_v3", *extra])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
