"""What the documents show is true: specs check, Python runs, links lead somewhere, every command is listed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)?[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDERS = ("archc", "bench", "docs", "grammar", "kernels", "specs", "templates", "tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document: its language, the file it is written to ("" for none), its text."""

    language: str
    name: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [Block(language=language, name=name, text=text) for language, name, text in found]


def archc(folder: Path, *argv: str, columns: int = 80) -> str:
    """What a command prints. Fails with its output unless it exits with 0."""
    done = process(folder, "-m", "archc", *argv, columns=columns)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def process(folder: Path, *argv: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """A finished Python process in a folder, from which this checkout and the folder's packages can be imported."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "build")]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": str(columns),
    }
    return subprocess.run(
        [sys.executable, *argv], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the named blocks of a document, and of docs/drawers.md its drawer."""
    for block in blocks(ROOT / request.param):
        if block.name:
            file = tmp_path / block.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
    return tmp_path


def test_blocks_are_found() -> None:
    assert [block.name for block in blocks(ROOT / "docs/language.md") if block.language == "arch"] == [
        "base.arch",
        "mixture.arch",
        "child.arch",
    ]
    assert {block.language for block in blocks(ROOT / "docs/drawers.md")} >= {"python", "arch"}


def test_every_spec_has_a_name() -> None:
    """So that the next test sees it."""
    nameless = [
        path.name for path in DOCUMENTS for block in blocks(path) if block.language == "arch" and not block.name
    ]
    assert not nameless


@pytest.mark.parametrize(
    "written",
    [
        "docs/language.md",
        "docs/drawers.md",
        "docs/attention.md",
        "docs/residual.md",
        "docs/memory.md",
        "docs/sweeps.md",
        "README.md",
    ],
    indirect=True,
)
def test_specs_check_and_are_in_canonical_form(written: Path) -> None:
    specs = sorted(path.name for path in written.glob("*.arch"))
    assert specs
    own = ["--drawers", "my_drawers"] if (written / "my_drawers").is_dir() else []
    archc(written, "check", "--strict", *own, *specs)
    archc(written, "fmt", "--check", *specs)


@pytest.mark.parametrize("written", ["docs/drawers.md"], indirect=True)
def test_the_drawer_of_the_guide_costs_builds_trains_and_decodes(written: Path) -> None:
    own = ("--drawers", "my_drawers")
    assert "attention" in archc(written, "cost", "small.arch", *own)
    archc(written, "build", "small.arch", *own)
    model = (written / "build/small/model.py").read_text()
    shown = [block.text for block in blocks(ROOT / "docs/drawers.md") if block.text.startswith("class ")]
    assert len(shown) == 1
    assert shown[0] in model
    archc(written, "build", "small.arch", "--tiny", *own)
    done = process(written, "-c", TRAIN_AND_DECODE)
    assert done.returncode == 0, done.stderr


TRAIN_AND_DECODE = """
import torch
from small import Model

torch.manual_seed(0)
m = Model(dtype=torch.float64)
ids = torch.randint(0, m.vocab, (2, 20))
optimizer = torch.optim.Adam(m.parameters(), lr=3e-3)
losses = []
for _ in range(20):
    loss = m(ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.5 * losses[0], losses

with torch.no_grad():
    whole = m(ids).logits
    cache = m.new_cache(2, 20)
    chunks = [m(chunk, cache=cache).logits for chunk in ids.split([11, 1, 8], 1)]
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=1e-9, atol=1e-9)
    kept = m.new_cache(2, 1000).bytes()
assert kept < 1.1 * 2 * 1000 * 32 * 8 * len(m.model.layers), "keys alone, not keys and values"
"""


def test_the_readme_shows_what_commands_print(tmp_path: Path) -> None:
    readme = blocks(ROOT / "README.md")
    (shown,) = [block.text for block in readme if block.text.startswith("$ archc cost")]
    command, _, table = shown.removesuffix("...\n").partition("\n")
    printed = archc(tmp_path, *command.removeprefix("$ archc ").split())
    assert printed.startswith(table)
    (spec,) = [block for block in readme if block.language == "arch"]
    assert spec.text == (ROOT / "specs" / spec.name).read_text(encoding="utf-8")
    archc(tmp_path, "build", "deepseek_v4_flash")
    (code,) = [block.text for block in readme if block.text.startswith("class ")]
    model = (tmp_path / "build/deepseek_v4_flash/model.py").read_text()
    assert code in model
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"`model.py` has (\d+) lines", text) == [str(model.count("\n"))]


def test_the_readme_says_what_deepseek_v4_costs() -> None:
    import archc
    from archc.api import package

    columns: list[list[str]] = []
    for name in ("deepseek_v4_flash", "deepseek_v4_pro"):
        model = archc.load(name)
        report, prefill = archc.cost(model), archc.cost(model, mode="prefill", seq=4096, context=4096)
        narrow = archc.cost(archc.load(name, set={"cache": "v4_fp8"}))
        columns.append(
            [
                f"{report.params.total:,}",
                f"{report.params.mtp:,}",
                f"{prefill.flops.ideal.forward_per_token / 1e9:.2f} G",
                f"{report.flops.ideal.forward_per_token / 1e9:.2f} G",
                f"{report.kv_cache.bytes_per_token:,} bytes",
                f"{narrow.kv_cache.bytes_per_token:,} bytes",
                str(package(model)["model.py"].count("\n")),
            ]
        )
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("| | [V4-Flash]") :].split("\n\n")[0].splitlines()[2:]
    assert [tuple(row.strip("| ").split(" | ")[1:]) for row in table] == list(zip(*columns, strict=True))


def test_the_readme_lists_the_library() -> None:
    import archc
    from archc import resources

    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name: cells.split(" | ") for name, cells in rows}
    assert sorted(listed) == sorted(path.stem for path in resources.specs().glob("*.arch"))
    for name, (attention, ffn, *figures) in listed.items():
        model, report = archc.load(name), archc.cost(archc.load(name))
        kinds = [dict.fromkeys(f"`{getattr(layer, slot).kind}`" for layer in model.schedule) for slot in SLOTS]
        assert [attention, ffn] == [", ".join(kind) for kind in kinds], name
        counted = (report.params.total, report.params.active, report.kv_cache.bytes_per_token)
        assert figures == [f"{n:,}" for n in counted], name


SLOTS = ("attention", "ffn")


def test_the_page_on_kernels_shows_a_layer_as_it_is_printed() -> None:
    """As the golden file has it."""
    (shown,) = [block.text for block in blocks(ROOT / "docs/kernels.md") if block.text.startswith("    def forward")]
    assert shown in (ROOT / "tests/golden/deepseek_v4_flash/fused/model.py").read_text(encoding="utf-8")


def test_the_page_on_kernels_shows_triton_as_it_is_printed(tmp_path: Path) -> None:
    (shown,) = [block.text for block in blocks(ROOT / "docs/kernels.md") if block.text.startswith("@jit")]
    archc(tmp_path, "build", "deepseek_v4_flash", "-o", "made")
    assert shown in (tmp_path / "made/deepseek_v4_flash/fused/mix_sinkhorn_collapse_norm.py").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("path", ["docs/cost.md", "docs/memory.md", "docs/kernels.md"])
def test_pages_on_cost_show_what_commands_print(path: str, tmp_path: Path) -> None:
    """Every `$ archc ...` block, from its first line to the one that says that there is more; its Python runs."""
    page = blocks(ROOT / path)
    shown = [block.text for block in page if block.text.startswith("$ archc ")]
    assert shown
    for text in shown:
        command, _, output = text.partition("\n")
        printed = archc(ROOT, *command.removeprefix("$ archc ").split())
        for part in filter(None, output.split("...\n")):
            assert part in printed, command
    for block in page:
        if block.language == "python" and not block.text.startswith(" "):
            done = process(tmp_path, "-c", block.text)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("written", ["docs/sweeps.md"], indirect=True)
def test_the_page_of_sweeps_shows_what_they_print(written: Path) -> None:
    text = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    (shown,) = [b.text for b in blocks(ROOT / "docs/sweeps.md") if b.text.startswith("$ archc sweep ")]
    command, _, table = shown.partition("\n")
    assert archc(written, *command.removeprefix("$ archc ").split(), columns=100) == table
    pytest.importorskip("matplotlib")
    (drawn,) = re.findall(r"`archc (sweep [^`]* -o) docs/figures/capacity.png`", text)
    archc(written, *drawn.split(), "capacity.png")
    new, old = (path.read_bytes() for path in (written / "capacity.png", ROOT / "docs/figures/capacity.png"))
    assert new[16:24] == old[16:24], "width and height"


@pytest.mark.parametrize(("document", "spec"), [("docs/package.md", "deepseek_v3"), ("README.md", "deepseek_v4_flash")])
def test_python_runs(document: str, spec: str, tmp_path: Path) -> None:
    """The Python of a document, block after block, on the tiny twin of the spec it speaks of."""
    archc(tmp_path, "build", spec, "--tiny")
    parts = [block.text for block in blocks(ROOT / document) if block.language == "python" and "import" in block.text]
    rest = [
        block.text
        for block in blocks(ROOT / document)
        if block.language == "python" and not block.text.startswith("class ")
    ]
    assert parts
    done = process(tmp_path, "-c", "\n".join(rest))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(path: Path) -> None:
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text):
        # A change log speaks of what was
        assert path.name == "CHANGELOG.md" or (ROOT / target).exists(), target


def test_the_readme_lists_every_command() -> None:
    from archc.cli import main

    listed = re.findall(r"^\| `archc ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == main.list_commands(None)  # type: ignore[arg-type]


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    assert sorted(phony.split()) == sorted(explained)
