"""A package's README: true figures, and code that runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import archc
from archc.api import package
from archc.emit.readme import scaled, size


@pytest.fixture(scope="module")
def text() -> str:
    """The README of the full-size Llama 3.1 8B."""
    return package(archc.load("llama_3_1_8b"))["README.md"]


def table(text: str, header: str) -> dict[str, list[str]]:
    """A table's rows after the one that starts with ``header``, by their first cell."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header}"))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip(" *") for cell in line.strip("|").split("|"))
        rows[first] = rest
    return rows


def test_parameters_are_the_published_ones(text: str) -> None:
    """Llama 3.1 8B has 8,030,261,248 parameters (its safetensors index), of which 2 x 128,256 x 4,096 embed."""
    rows = table(text, "component")
    counts = {name: int(cells[0].replace(",", "")) for name, cells in rows.items()}
    assert counts.pop("all") == sum(counts.values()) == 8_030_261_248
    assert counts["token embedding"] == counts["output head"] == 128_256 * 4_096
    assert counts["norms"] == (2 * 32 + 1) * 4_096
    assert counts["attention"] == 32 * 4_096 * (32 + 8 + 8 + 32) * 128
    shares = [cells[1] for name, cells in rows.items() if name != "all"]
    assert sum(float(share.removesuffix(" %")) for share in shares if share[0] != "<") == pytest.approx(100, abs=0.3)


def test_flops_and_cache_follow_from_the_architecture(text: str) -> None:
    cache = table(text, "cache")
    token = 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, channels, bytes
    assert cache["each token"] == [f"128.0 KiB ({token:,} bytes)"]
    assert cache["one row of 131,072 tokens"] == [f"16.0 GiB ({131_072 * token + 8:,} bytes)"]
    flops = table(text, "one row")
    matrices = 8_030_261_248 - 128_256 * 4_096 - 65 * 4_096
    decoded = 2 * matrices + 2 * 2 * 32 * 32 * 128 * 131_072
    assert flops["decoding, token 131,072 of a row"] == ["83.73 G", "83.73 G", f"{decoded:,}"]
    trained = 3 * (2 * matrices + 2 * 2 * 32 * 32 * 128 * (4_096 + 1) / 2)
    ideal = flops["training (forward and backward), 4,096 tokens"][0]
    assert ideal == f"{trained / 1e9:.4g} G"


@pytest.mark.parametrize(
    ("spec", "token"),
    [("deepseek_v4_flash", "3.4 KiB (3,514.25 bytes)"), ("deepseek_v4_pro", "4.9 KiB (5,031.4375 bytes)")],
)
def test_narrow_layouts_are_offered_where_stores_know_them(spec: str, token: str) -> None:
    """Flash: 21 layers of (584 + 68) / 4 bytes and 20 of 584 / 128; Pro: 30 and 31."""
    line = f'- `new_cache(..., layout="v4_fp8")` holds keys in fewer bits, {token} for each token.'
    assert line in package(archc.load(spec))["README.md"].splitlines()
    assert "layout=" not in package(archc.load(spec, set={"cache": "v4_fp8"}))["README.md"]
    assert "layout=" not in package(archc.load("llama_3_1_8b"))["README.md"]


def test_it_names_where_it_came_from(text: str) -> None:
    model = archc.load("llama_3_1_8b")
    assert model.spec_hash in text
    assert f"archc {archc.__version__}" in text
    assert "None" not in text
    assert "{{" not in text


def test_the_file_table_is_the_package() -> None:
    files = package(archc.load("llama_3_1_8b"))
    named = {name.strip("`") for name in table(files["README.md"], "file")}
    tops = {name.partition("/")[0] + ("/" if "/" in name else "") for name in files}
    assert named == tops - {"README.md", "__init__.py"}


def test_the_twin_says_that_it_is_one(text: str) -> None:
    twin = package(archc.load("llama_3_1_8b"), tiny=True)["README.md"]
    assert twin.startswith("# llama_3_1_8b, tiny twin\n")
    assert "tiny twin" not in text


@pytest.mark.parametrize(
    "spec", ["llama_3_1_8b", Path(__file__).parent / "specs" / "mixed.arch"], ids=["llama", "mixed"]
)
def test_its_code_runs(spec: str | Path, tmp_path: Path) -> None:
    """The example, word for word, on the twin: from a checkpoint to the next one."""
    model = archc.load(spec)
    folder = archc.build(model, tmp_path, tiny=True)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    script = f"from {model.name} import Model\nModel().save_weights('checkpoint')\n{code[1]}\nprint(continued.shape)"
    assert ("speculate=" in code[1]) == (model.mtp is not None)
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    *acceptance, shape = ran.stdout.splitlines()
    assert shape == "torch.Size([1, 20])"
    assert [0 <= float(share) <= 1 for share in acceptance] == [True] * (model.mtp is not None)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (8, "8 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB (1,024 bytes)"),
        (1536.5, "1.5 KiB (1,536.5 bytes)"),
        (17_179_869_192, "16.0 GiB (17,179,869,192 bytes)"),
        (3 * 2**50, "3072.0 TiB (3,377,699,720,527,872 bytes)"),
    ],
)
def test_sizes(n: float, shown: str) -> None:
    assert size(n) == shown


@pytest.mark.parametrize(
    ("n", "shown"), [(0, "0"), (999, "999"), (1000, "1 K"), (83_728_793_600, "83.73 G"), (2e18, "2000 P")]
)
def test_scaled_numbers(n: float, shown: str) -> None:
    assert scaled(n) == shown


def test_what_training_asks_for_is_said(tmp_path: Path) -> None:
    """Losses with their weights, and the step that moves biases; nothing of it where there is neither."""
    mixture = "moe {{ experts = 8, hidden = 16, router = {} }}"
    level = mixture.format("sigmoid { active = 2, bias_rate = 0.002, balance_weight = 1e-4 }")
    other = mixture.format("softmax { active = 2, balance = batch, balance_weight = 0.01 }")
    spec = tmp_path / "routed.arch"
    spec.write_text(f"""arch 1

model routed {{
  vocab = 50, dim = 16, layers = 3, context = 64
  attention full = gqa {{ heads = 2, rope = rope {{ theta = 10e3 }} }}
  ffn level = {level}
  ffn other = {other}
  mtp = concat {{ depth = 2, weight = 0.25, ffn = swiglu {{ hidden = 8 }} }}
  schedule {{ ffn = [level * 2, other] }}
}}
""")
    files = package(archc.load(spec))
    plan = json.loads(files["plan.json"])
    assert plan["losses"] == [
        {"name": "balance", "kind": "sequence_balance", "weight": 1e-4, "layers": 2},
        {"name": "balance", "kind": "batch_balance", "weight": 0.01, "layers": 1},
        {"name": "mtp", "kind": "cross_entropy", "weight": 0.25, "layers": 2},
    ]
    assert plan["router_biases"] == [{"rate": 0.002, "routers": 2}]
    said = [
        line for line in files["README.md"].splitlines() if line.startswith(("- `out.losses", "- `model.after_step"))
    ]
    assert [line.partition(":")[0] for line in said[:3]] == [
        '- `out.losses["balance"]`, in `out.loss` with weight 0.0001',
        '- `out.losses["balance"]`, in `out.loss` with weight 0.01',
        '- `out.losses["mtp"]`, in `out.loss` with weight 0.25',
    ]
    assert len(said) == 4
    assert "biases of 2 routers by 0.002" in said[3]


def test_nothing_is_said_of_what_a_model_has_not(text: str) -> None:
    assert "after_step" not in text
    assert "out.losses" not in text
