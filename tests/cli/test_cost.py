"""`archc cost`: what its tables say."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from archc.cli import main
from archc.cli._cost.units import bytes_text


def cost(*words: str) -> list[str]:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(main, ["cost", *words])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def words(lines: list[str], first: str) -> list[str]:
    """The words of the line that starts with ``first``."""
    return next(line.split() for line in lines if line.startswith(first))


def test_shares_are_of_the_total_which_leaves_mtp_out() -> None:
    lines = cost("deepseek_v3")
    assert words(lines, "mtp ")[1:3] == ["11,610,067,968", "apart"]
    start = next(i for i, line in enumerate(lines) if line.startswith("component"))
    end = next(i for i, line in enumerate(lines) if line.startswith("mtp"))
    shares = [line.split("%")[0].split()[-1] for line in lines[start + 1 : end] if "<" not in line]
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.5)
    assert "< 0.1 %" in next(line for line in lines if line.startswith("norm"))


def test_backward_is_a_matter_of_training() -> None:
    assert not any("with backward" in line for line in cost("deepseek_v3", "--mode", "prefill"))
    assert any("with backward" in line for line in cost("deepseek_v3", "--mode", "train"))


def test_latent_attention_explains_why_executed_differs() -> None:
    latent = "latent attention: ideal expands"
    assert any(latent in line for line in cost("deepseek_v3"))
    assert not any(latent in line for line in cost("mixtral_8x7b"))


@pytest.mark.parametrize("spec", ["deepseek_v3", "llama_3_1_8b"])
def test_lines_end_without_blanks(spec: str) -> None:
    for key in ((), ("--explain", "params.total"), ("--explain", "flops.ideal.forward_per_token")):
        assert all(line == line.rstrip() for line in cost(spec, *key))


def test_products_of_experts_are_taken_apart() -> None:
    lines = cost("deepseek_v3", "--explain", "flops.ideal.by_component.experts")
    line = next(line for line in lines if "gate_up_proj" in line)
    assert "2 x 8 x 4,096 x 7,168" in line
    assert line.split()[-1] == f"{58 * 2 * 8 * 4096 * 7168:,}"


def test_equal_terms_of_dense_and_sparse_layers_are_one() -> None:
    lines = [
        line for line in cost("deepseek_v3", "--explain", "flops.ideal.by_component.attention") if "o_proj" in line
    ]
    assert len(lines) == 1
    assert " 61 " in lines[0]


def test_training_memory_is_counted_with_names() -> None:
    """What a forward keeps depends on its variables: the graph must have their names."""
    done = CliRunner().invoke(main, ["cost", "llama_3_1_8b", "--mode", "train", "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["memory"]["activations"] > 0


def test_the_peak_of_a_step_stands_apart_from_parts_that_add_up() -> None:
    """On one device that trains: there it is a figure of the report."""
    spec = ("llama_3_1_8b", "--seq", "512")
    done = CliRunner().invoke(main, ["cost", *spec, "--mode", "train", "--format", "json"])
    peak = json.loads(done.output)["memory"]["step_peak"]
    lines = cost(*spec, "--mode", "train", "--hardware", "h100")
    assert words(lines, "step peak")[2:5] == [*bytes_text(peak).split(), "apart:"]
    starts = [line.split(" ")[0] for line in lines]
    assert starts.index("step") > starts.index("total", starts.index("memory"))
    for other in (("--mode", "train", "--parallel", "fsdp=2", "--batch", "2"), ("--mode", "prefill")):
        assert not any(line.startswith("step peak") for line in cost(*spec, *other, "--hardware", "h100"))


def test_what_does_not_fit_is_timed_with_a_word_of_it() -> None:
    """171 GiB of training on 80 GB, and one row served on the same device."""
    lines = cost("llama_3_1_8b", "--mode", "train", "--hardware", "h100")
    assert "does not fit into memory" in next(line for line in lines if line.startswith("a step"))
    assert any("time: as if it fitted" in line for line in lines)
    served = cost("llama_3_1_8b", "--hardware", "h100", "--context", "8Ki")
    assert not any("not fit" in line or "as if it fitted" in line for line in served)


def test_parts_of_a_step_that_are_there_are_never_nothing() -> None:
    """Communication is named where devices talk, and a small share is not 0 %."""
    lines = cost("deepseek_v3", "--hardware", "h100", "--context", "8Ki", "--parallel", "dp=16,ep=16", "--batch", "16")
    assert not any(f"({nothing} %)" in line for line in lines for nothing in ("0", "0.0"))
    assert "communication" in next(line for line in lines if line.startswith("if alone"))
    alone = cost("llama_3_1_8b", "--hardware", "h100", "--context", "8Ki")
    assert not any("communication" in line for line in alone[: alone.index("conventions")])
