"""The emitted `model.py` as a reader sees it."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import archc
from archc import resources

LIBRARY = sorted(p.stem for p in resources.specs().glob("*.arch"))


@pytest.fixture(scope="session", params=LIBRARY)
def text(request: pytest.FixtureRequest) -> str:
    """`model.py` of a spec of the library."""
    from archc.api import package

    return package(archc.load(request.param))["model.py"]


def classes(text: str) -> list[ast.ClassDef]:
    return [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]


def test_golden(llama: Path, golden) -> None:
    golden("llama_3_1_8b/model.py", (llama / "model.py").read_text())
    golden("llama_3_1_8b/tests/tiny_model.py", (llama / "tests" / "tiny_model.py").read_text())


@pytest.mark.parametrize("spec", ["deepseek_v3", "gpt_oss_20b", "deepseek_v4_flash"])
def test_golden_of_mixtures(spec: str, golden) -> None:
    from archc.api import package

    golden(f"{spec}/model.py", package(archc.load(spec))["model.py"])


def test_golden_of_functions(golden) -> None:
    """Layers that begin by leaving the one before, and boundaries that are one call."""
    from archc.api import package

    golden("deepseek_v4_flash/fused/model.py", package(archc.load("deepseek_v4_flash"), fuse="layers")["model.py"])


@pytest.mark.parametrize(("spec", "most"), [("deepseek_v3", 400), ("deepseek_v4_flash", 600), ("deepseek_v4_pro", 600)])
def test_a_model_is_read_in_one_sitting(spec: str, most: int) -> None:
    from archc.api import package

    assert package(archc.load(spec))["model.py"].count("\n") < most


def test_forwards_are_short(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 < 45, node.name


def test_lines_fit(text: str) -> None:
    assert max(map(len, text.split("\n"))) <= 110


def test_lines_break_only_where_that_makes_room(text: str) -> None:
    """A comment above its line leaves the line whole where that fits."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.strip().startswith("# [") and lines[i + 1].endswith("("):
            end = next(j for j in range(i + 2, len(lines)) if lines[j].strip() == ")")
            whole = lines[i + 1] + " ".join(part.strip() for part in lines[i + 2 : end]) + ")"
            assert len(whole) > 110, whole


def test_no_machine_made_names(text: str) -> None:
    names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {a.arg for n in ast.walk(ast.parse(text)) if isinstance(n, ast.arguments) for a in n.args}
    assert names
    assert not [n for n in names if re.search(r"\d$", n) or n.startswith("_") or n in {"tmp", "out_", "val", "var"}]


def test_every_class_has_a_docstring_and_drawers_cite_their_source(text: str) -> None:
    for cls in classes(text):
        doc = ast.get_docstring(cls)
        assert doc, cls.name
        if cls.name not in ("Step", "Backbone", "Model"):
            assert re.search(r"arXiv:\d{4}\.\d{4,5}|https?://", doc), f"{cls.name}: {doc}"


def test_every_step_states_its_shape(text: str) -> None:
    lines = text.split("\n")
    for cls in classes(text):
        forward = next((f for f in cls.body if isinstance(f, ast.FunctionDef) and f.name == "forward"), None)
        for statement in forward.body if forward else ():
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) != "state":
                block = lines[statement.lineno - 2 : statement.end_lineno]
                assert any(re.search(r"# \[", line) for line in block), ast.unparse(statement)


def test_printed_calls_fit_the_signatures_they_call(llama: Path, imported) -> None:
    module = sys.modules[imported(llama).Model.__module__]
    checked = 0
    for node in ast.walk(ast.parse((llama / "model.py").read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and hasattr(module, node.func.id):
            if any(isinstance(a, ast.Starred | ast.GeneratorExp) for a in node.args):
                continue
            signature = inspect.signature(getattr(module, node.func.id))
            signature.bind(*node.args, **{str(k.arg): k.value for k in node.keywords})
            checked += 1
    assert checked > 25


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Hash seeds, optimisation and missing column positions change nothing."""
    program = "import archc, sys; archc.build(archc.load('llama_3_1_8b'), sys.argv[1])"
    trees = []
    for i, flags in enumerate((["-O"], ["-X", "no_debug_ranges"], ["-B"])):
        subprocess.run(
            [sys.executable, *flags, "-c", program, str(tmp_path / str(i))], check=True, cwd=resources.specs().parent
        )
        trees.append(
            {p.relative_to(tmp_path / str(i)): p.read_bytes() for p in sorted((tmp_path / str(i)).rglob("*.*"))}
        )
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) > 15


def test_ruff_and_pyright_are_content(llama: Path) -> None:
    ruff = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "E,F,I,UP,B,W",
            "--line-length",
            "120",
            str(llama),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ruff.returncode == 0, ruff.stdout
    pyright = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--pythonpath",
            sys.executable,
            str(llama / "model.py"),
            str(llama / "tests" / "tiny_model.py"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert pyright.returncode == 0, pyright.stdout


LATENT = """arch 1
model latent {
  vocab = 61, dim = 16, layers = 1, context = 90
  attention = mla { heads = 2, kv_rank = 8, nope_dim = 4, rope_dim = 2, v_dim = 3, rope = rope }
  ffn = swiglu { hidden = 9 }
}
"""


def test_a_weight_that_an_equation_reads_stands_where_it_is_read() -> None:
    """Latent attention reads the weight of the expansion: a constructor lists it after what comes before."""
    from archc.api import package
    from archc.resolve import load_text

    (model,) = load_text(LATENT)
    text = package(model)["model.py"]
    (cls,) = (c for c in classes(text) if c.name == "MlaAttention")
    made, run = (ast.get_source_segment(text, n) or "" for n in cls.body if isinstance(n, ast.FunctionDef))
    assert re.findall(r"self\.(\w+) = (?:Linear|RMSNorm)", made) == [
        "q_proj",
        "kv_a_proj_with_mqa",
        "kv_a_layernorm",
        "kv_b_proj",
        "o_proj",
    ]
    scale, most = (4 + 2) ** -0.5, 8 * 7 // (16 - 7)
    called = f"latent_attend(q, entries, self.kv_b_proj.weight, step.time, nope=4, scale={scale}, absorb={most})"
    assert f"out = {called}" in ast.unparse(ast.parse(run))


def test_runs_cover_a_schedule_in_groups() -> None:
    from archc.emit.classes import runs

    assert runs([0, 0, 0, *[1] * 58]) == [(0, 1, 3), (3, 1, 58)]
    assert runs([0, 1] * 12) == [(0, 2, 12)]
    assert runs([2, 0, 1, 0, 1, 0, 1, 2]) == [(0, 1, 1), (1, 2, 3), (7, 1, 1)]
    assert runs([0, 1, 0, 1]) == [(i, 1, 1) for i in range(4)]
    assert runs([0, 0]) == [(0, 1, 1), (1, 1, 1)]
    assert runs([0, 0, 0, 1] * 6) == [(0, 4, 6)]


@given(schedule=st.lists(st.integers(0, 2), max_size=40))
def test_runs_give_the_schedule_back(schedule: list[int]) -> None:
    from archc.emit.classes import runs

    again: list[int] = []
    for start, period, times in runs(schedule):
        assert start == len(again)
        again += schedule[start : start + period] * times
    assert again == schedule


GROUPS = """arch 1
model groups {
  vocab = 61, dim = 16, layers = 14, context = 90
  attention near = gqa { heads = 2, window = 4 }
  attention far = gqa { heads = 2 }
  ffn = swiglu { hidden = 9 }
  schedule { attention = [far, (near * 3, far) * 3, near] }
}
"""


def test_a_layer_list_of_groups_makes_every_layer_in_its_place(tmp_path: Path, imported) -> None:
    from archc.resolve import load_text

    (model,) = load_text(GROUPS)
    built = archc.build(model, tmp_path)
    assert "for i in range(0, 12, 4)" in (built / "model.py").read_text()
    layers = imported(built).Model(device="meta").model.layers
    kinds = ["FarAttention", *["NearAttention"] * 3, "FarAttention", *["NearAttention"] * 3, "FarAttention"]
    kinds += [*["NearAttention"] * 3, "FarAttention", "NearAttention"]
    assert [type(layer.self_attn).__name__ for layer in layers] == kinds
    assert [layer.self_attn.layer for layer in layers] == list(range(14))


def test_a_router_speaks_of_groups_and_scores_only_where_it_has_them(text: str) -> None:
    doc = next((ast.get_docstring(cls) or "" for cls in classes(text) if cls.name.endswith("Router")), "")
    assert ("group" in doc) == ("group_mask(" in text)
    assert ("softmax over these" in doc) == bool(re.search(r"gather\(-1, ids\)\.softmax", text))
