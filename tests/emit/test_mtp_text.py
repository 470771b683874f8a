"""How modules that predict further tokens are printed, and that other packages carry nothing of them."""

from __future__ import annotations

import ast
import json

import pytest

import archc
from archc.api import package
from archc.resolve import load_text

SPEC = """arch 1
model further {
  vocab = 50, dim = 24, layers = 2, context = 64
  attention = gqa { heads = 2 }
  ffn = swiglu { hidden = 32 }
  mtp = concat { depth = 2, weight = 0.1 }
}
"""


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return package(load_text(SPEC)[0])


def method(text: str, name: str) -> str:
    """The source of a method of the model, comments left out."""
    model = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == "Model")
    return ast.unparse(next(n for n in model.body if isinstance(n, ast.FunctionDef) and n.name == name))


def test_a_module_shares_its_class_and_the_embedding(files: dict[str, str]) -> None:
    text = files["model.py"]
    assert text.count("class ConcatMtp(nn.Module)") == 1
    made = ", ".join(f"ConcatMtp(GqaAttention({k}), Swiglu())" for k in range(2))
    assert f"self.mtp = nn.ModuleList([{made}] if mtp else [])" in method(text, "__init__")
    assert method(text, "ahead").splitlines()[1:] == [
        "    embedding = self.model.embed_tokens(step.tokens)",
        "    return step.region(self.mtp[depth])(embedding, hidden, step)",
    ]
    assert "class Model(MtpLanguageModel)" in text
    assert "mtp_weight = 0.1" in text


@pytest.mark.parametrize(("residual", "last"), [("mhc { streams = 3 }", "streams"), ("add", "x.unsqueeze(-2)")])
def test_a_module_that_reads_streams_hands_them_on(residual: str, last: str) -> None:
    """Beside what the head gets; the backbone gives them too, and records its last hidden state alone."""
    spec = SPEC.replace("mtp = concat", f"residual = {residual}, mtp = mtp_streams")
    text = package(load_text(spec)[0])["model.py"]
    assert text.count("class MtpStreams(nn.Module)") == 1
    pair = "tuple[Tensor, Tensor]"
    assert method(text, "hidden").splitlines() == [
        f"def hidden(self, step: Step) -> {pair}:",
        "    return self.model(step)",
    ]
    assert method(text, "ahead").splitlines() == [
        f"def ahead(self, depth: int, streams: Tensor, step: Step) -> {pair}:",
        "    embedding = self.model.embed_tokens(step.tokens)",
        "    return step.region(self.mtp[depth])(embedding, streams, step)",
    ]
    backbone = text.partition("class Backbone(nn.Module)")[2].partition("\nclass ")[0]
    assert f"def forward(self, step: Step) -> {pair}:" in backbone
    end = [line.partition("#")[0].strip() for line in backbone.strip().splitlines()]
    assert end[-2:] == ["step.record(x)", "return x, streams"]
    assert last == "streams" or f"streams = {last}" in end


def test_the_header_counts_the_modules_apart(files: dict[str, str]) -> None:
    params = json.loads(files["plan.json"])["cost"]["decode"]["params"]
    assert (
        f"further: {params['total']:,} parameters, and {params['mtp']:,} more for"
        in files["model.py"].partition("\n")[0]
    )


def test_other_packages_carry_nothing_of_it(files: dict[str, str]) -> None:
    theirs = {"runtime/mtp.py", "runtime/speculate.py", "tests/test_mtp.py"}
    assert theirs <= files.keys()
    others = package(archc.load("llama_3_1_8b"), tiny=True)
    assert not theirs & others.keys()
    assert "mtp" not in others["model.py"]
    assert "speculate" not in others["README.md"]
