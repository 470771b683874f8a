"""Packages sharded over real processes: what each computes and holds, against one process and against the plan."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import archc
from archc.cost.parallel import collectives
from archc.cost.setting import Parallel, Recompute, Setting
from archc.cost.shards import rank_shapes
from archc.ops import Workload
from archc.plan import plan, shrink
from tests.package.conftest import SPECS
from tests.package.sharded import CHECKS

ROOT = Path(__file__).parents[2]
FLOAT32 = 4


def ran(models: list[archc.Model], folder: Path, ways: int, policies: dict[str, list[str]]) -> list[dict[str, Any]]:
    """What every process found, of packages of these models, and of each what is asked for."""
    for model in models:
        archc.build(model, folder / "packages")
    command = [sys.executable, "-m", "tests.package.sharded", str(folder / "packages")]
    file = folder / "found"
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ways), str(file), json.dumps(policies)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ways)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n\n".join(said)
    return [json.loads(Path(f"{file}.{rank}").read_text(encoding="utf-8")) for rank in range(ways)]


def assert_agree(models: list[archc.Model], found: list[dict[str, Any]]) -> None:
    """Nothing differs, and every process holds of each parameter, gradient and moment what the plan says."""
    for model in models:
        graph = plan(model)
        for rank, all_of in enumerate(found):
            assert {k: v for k, v in all_of[model.name]["wrong"].items() if v} == {}, f"process {rank}"
            want = rank_shapes(graph, len(found), rank)
            held = all_of[model.name]["held"]
            assert held.keys() == want.keys()
            for name, shape in want.items():
                size = FLOAT32
                for d in shape:
                    size *= d
                assert all(part == [list(shape), size] for part in held[name]), name
            # A parameter, its gradient and two moments; less of what has no gradient.
            trained = [name for name, parts in held.items() if len(parts) == 4]
            assert len(trained) >= 0.9 * len(held)


@pytest.mark.parametrize(
    ("ways", "policies"),
    [
        (2, {"mixed": ["selective", "weights"], "routed": ["full"], "streams": ["none", "mhc", "narrow"]}),
        (4, {"routed": ["none", "copies"]}),
    ],
    ids=str,
)
def test_sharded_training_is_that_of_one_process(tmp_path: Path, ways: int, policies: dict[str, list[str]]) -> None:
    """Widths that processes do not divide, dimensions smaller than their number, tied weights, all that MTP and routers
    leave behind; also with copies of shards (HSDP), in bfloat16, and from weights that were written.
    """
    models = [archc.load(SPECS / f"{name}.arch") for name in policies]
    assert_agree(models, ran(models, tmp_path, ways, policies))


@pytest.mark.slow
@pytest.mark.parametrize("ways", [2, 4])
def test_sharded_twins_train_as_in_one_process(tmp_path: Path, ways: int) -> None:
    names = ("deepseek_v3", "deepseek_v4_flash", "gpt_oss_20b", "olmoe_1b_7b")
    models = [*(shrink(archc.load(name)) for name in names), archc.load(SPECS / "streams.arch")]
    every = [*get_args(Recompute), *CHECKS[ways == 2 :]]  # copies of shards take four processes
    policies = {model.name: every for model in models}
    assert_agree(models, ran(models, tmp_path, ways, policies))


@pytest.mark.parametrize("ways", [2, 4])
def test_processes_send_what_the_plan_says(tmp_path: Path, ways: int) -> None:
    """All-gathers and reduce-scatters of a step, byte by byte, where rows divide among the processes; where they do
    not, they are padded. Embedding and head are gathered in the backward again, where the plan gathers them once.
    """
    models = [shrink(archc.load("llama_3_1_8b", set={"precision": "fp32"}))]
    models.append(archc.load(SPECS / "mixed.arch", set={"precision": "fp32"}))
    for model in models:
        archc.build(model, tmp_path / "packages")
    file = tmp_path / "sent"
    command = [sys.executable, "-m", "tests.package.sent", str(tmp_path / "packages")]
    processes = [
        subprocess.Popen([*command, str(rank), str(ways), str(file)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for rank in range(ways)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n\n".join(said)
    found = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))
    for model in models:
        graph, sent = plan(model), found[model.name]
        w = Workload(batch=2 * ways, new=24, act=FLOAT32)  # as `sharded.batch` has them
        counted = dict.fromkeys(("all_gather", "reduce_scatter"), 0.0)
        for c in collectives(model, graph, w, "train", Setting(parallel=Parallel(fsdp=ways))):
            counted[c.kind] += c.bytes * c.count
        shapes = rank_shapes(graph, ways, 0, padded=True)
        padded = (ways - 1) * FLOAT32 * sum(map(math.prod, shapes.values()))
        assert sent["reduce_scatter"] == padded
        assert counted["reduce_scatter"] <= padded
        assert counted["all_gather"] <= sent["all_gather"]
        if all(p.spec.shape[0] % ways == 0 for p in graph.parameters() if not p.spec.buffer):
            assert counted["reduce_scatter"] == padded
            ends = (math.prod(p.spec.shape) for p in graph.parameters() if p.spec.role in ("embedding", "head"))
            assert sent["all_gather"] - counted["all_gather"] == (ways - 1) / ways * FLOAT32 * sum(ends)
