"""Bytes that launches move, against counts by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

traced: Any = pytest.importorskip("tests.kernels.support.traces")


def by_name(launch: Any, kind: str) -> dict[str, int]:
    return dict(sorted(getattr(launch, kind).items()))


def test_rows_of_a_norm(interpreted: Worker) -> None:
    """70 rows of 96 channels, 16 rows a program (2048 // 128): masked rows and channels do not count."""
    (forward,) = interpreted(traced.norm, 70, 96)
    assert (forward.kernel, forward.backend, forward.grid) == ("_forward_kernel", "triton", (5,))
    assert by_name(forward, "distinct") == {"out": 70 * 96 * 2, "rstd": 70 * 4, "weight": 96 * 2, "x": 70 * 96 * 2}
    assert by_name(forward, "requested") == by_name(forward, "distinct") | {"weight": 5 * 96 * 2}


def test_what_pytorch_runs_is_listed_too(interpreted: Worker) -> None:
    """Where the reference runs; a gradient in Triton is kernels alone, of which the last adds up shares of programs."""
    made = interpreted(traced.norm_backward, 270, 96)
    launches = [launch for launch in made if launch.backend == "triton"]
    assert [launch.kernel for launch in launches] == ["_forward_kernel", "_backward_kernel", "_sum_kernel"]
    assert made[-2:] == launches[1:]
    made = interpreted(traced.norm_backward, 70, 96, torch.float64)
    assert "aten::mv" in [launch.kernel for launch in made]
    assert not {"aten::empty", "aten::view", "aten::detach"} & {launch.kernel for launch in made}


def test_a_launch_that_reads_what_it_stored_counts_it_once(interpreted: Worker) -> None:
    (launch,) = interpreted(traced.last_arriver, 8, 16)
    # 8 sums of 16 floats, each stored and read; one result; a counter read and written by each program, and reset
    assert by_name(launch, "requested") == {"arrived": 8 * 8 + 4, "out": 4, "parts": 2 * 8 * 4, "x": 8 * 16 * 4}
    assert by_name(launch, "distinct") == {"arrived": 4, "out": 4, "parts": 8 * 4, "x": 8 * 16 * 4}


def test_two_arrays_in_one_memory_count_once(interpreted: Worker) -> None:
    """The halves of one tensor, gate and up: [64, 2 * 32]."""
    (launch,) = interpreted(traced.gate_of_halves, 64, 32)
    assert sum(launch.distinct.values()) == sum(launch.requested.values()) == 3 * 64 * 32 * 4


def test_tensor_operations_count_what_they_read_and_write(interpreted: Worker) -> None:
    made = interpreted(traced.plain)
    assert [(launch.kernel, sum(launch.requested.values())) for launch in made] == [
        ("aten::mul", 3 * 24 * 4),
        ("aten::add", 24 * 4 + 4 + 24 * 4),
        ("aten::_to_copy", 24 * 4 + 24 * 2),
    ]
    assert {launch.backend for launch in made} == {"torch"}


def test_programs_that_wait_and_those_waited_for(interpreted: Worker) -> None:
    """64 programs leave 4 numbers each, 32 wait, and read all of these, and 8 of their own: told by a few of both."""
    (few,), (whole,) = (interpreted(traced.waiting, 64, 32, sampled) for sampled in (True, False))
    told = {"out": 32 * 4, "state": 64 * 4 * 4, "x": 32 * 8 * 4}
    asked = told | {"state": 64 * 4 * 4 * (1 + 32)}
    for launch in (few, whole):
        counters = launch.distinct.pop("counters"), launch.requested.pop("counters")
        assert by_name(launch, "distinct") == told and by_name(launch, "requested") == asked
    # A ticket and an arrival, or the two of a wait, are read and written; who waits last writes three zeros
    assert counters == (3 * 4, (64 * 2 + 32 * 3) * 8 + 3 * 4)


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("norm", (64 * 16, 96)),
        ("norm", (70, 96)),  # a last program of few rows
        ("norm", (64 * 16 + 3, 96)),
        ("rotation", (64, 48)),  # programs of one token read the same angles
        ("rotation", (64, 5)),  # rows of a program belong to several tokens
        ("uneven", (64,)),
        ("ends", (88,)),  # the last program differs, and so do others
        ("ends", (132,)),
    ],
)
def test_a_few_programs_tell_of_all(interpreted: Worker, case: str, sizes: tuple[int, ...]) -> None:
    few, whole = (interpreted(getattr(traced, case), *sizes, sampled) for sampled in (True, False))
    assert [(x.kernel, by_name(x, "requested"), by_name(x, "distinct")) for x in few] == [
        (x.kernel, by_name(x, "requested"), by_name(x, "distinct")) for x in whole
    ]


@pytest.mark.parametrize(("rows", "width"), [(1, 512), (64, 512), (64, 8192), (1, 9000)])
def test_one_program_has_no_shares(interpreted: Worker, rows: int, width: int) -> None:
    """The gradient of a norm of few rows is one launch, which moves what comes and goes."""
    forward, backward = interpreted(traced.norm_backward, rows, width, torch.bfloat16, processors=33)
    assert forward.kernel == "_forward_kernel"
    assert sum(backward.distinct.values()) == rows * width * 2 * 3 + rows * 4 + 2 * width * 2


def test_shares_of_sums_are_few(interpreted: Worker) -> None:
    """The gradient of a norm of 1024 rows on 33 processors: what comes and goes, and a twentieth of that."""
    made = interpreted(traced.norm_backward, 1024, 512, torch.bfloat16, processors=33)
    must = 1024 * 512 * 2 * 3 + 1024 * 4 + 2 * 512 * 2
    made = [launch for launch in made if launch.kernel in ("_backward_kernel", "_sum_kernel")]
    assert must < sum(sum(launch.distinct.values()) for launch in made) <= 1.05 * must
