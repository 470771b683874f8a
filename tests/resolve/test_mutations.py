"""Mutated specs: whatever a person may type gives a model or diagnostics, never a traceback, and never takes long.

`ARCHC_MUTANTS=100000 pytest tests/resolve/test_mutations.py` runs more of them.
"""

from __future__ import annotations

import os
import random
import re
import time

from archc import resources
from archc.diagnostics import ArchError, Diagnostic
from archc.resolve import load_text
from archc.schema import Model
from tests.resolve.support import TOYS
from tests.resolve.test_amending import HOUSE
from tests.resolve.test_params import TEXT

MUTANTS = int(os.environ.get("ARCHC_MUTANTS", "2000"))
SEED = 20_261_122

_TOKEN = re.compile(r'"[^"\n]*"|#[^\n]*|\d[\w.]*|[A-Za-z_]\w*|\.\.|[=<>!]=|//|\s+|\S')
_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "16",
    "64",
    "96",
    "128",
    "1Ki",
    "4K",
    "-1",
    "1e-6",
    "0.5",
    "1e300",
    "1T",
    "true",
    "none",
    "[2]",
    "dim",
    "layers",
    "2 * 3",
    "7 // 2",
    "1 / 0",
)
_WORDS = (
    "a",
    "dim",
    "heads",
    "gqa",
    "swa",
    "csa",
    "rope",
    "rest",
    "cost",
    "none",
    "model",
    "let",
    "param",
    "schedule",
    "attention",
    "window",
    "in",
    "at",
    "by",
)
_MARKS = ("{", "}", "[", "]", "(", ")", "=", ",", "\n", ".", "*", "..", "==", "-", "/", "@", '"')


def seeds() -> list[str]:
    """The specs that are mutated: the library's, and those of the tests of amending and params."""
    return [
        (resources.specs() / "llama_3_1_8b.arch").read_text(),
        (resources.specs() / "llama_3_1_405b.arch").read_text(),
        HOUSE,
        TEXT,
    ]


def value(rng: random.Random, old: str) -> str:
    """What may stand in place of a number: mostly one of its size, sometimes anything."""
    if rng.random() < 0.3:
        return rng.choice((*_NUMBERS, str(rng.randrange(1, 200))))
    return rng.choice(
        (
            f"{old} * 2",
            f"{old} + {old}",
            f"4 * {old}",
            f"({old})",
            str(2 ** rng.randrange(1, 16)),
            f"{old} * 4 / 4",
            f"{old}.0",
        )
    )


def mutant(rng: random.Random, text: str) -> str:
    """A spec with one to three tokens changed: mostly values, sometimes names or the structure."""
    edition, _, rest = text.partition("\n")  # another edition is one mistake, and a dull one
    tokens = _TOKEN.findall(rest)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        at = rng.randrange(len(tokens))
        numbers = [i for i, t in enumerate(tokens) if t[0].isdigit()]
        match rng.random():
            case p if p < 0.7 and numbers:
                at = rng.choice(numbers)
                tokens[at] = value(rng, tokens[at])
            case p if p < 0.8:
                names = [i for i, t in enumerate(tokens) if t[0].isalpha()]
                at = rng.choice(names)
                tokens[at] = rng.choice((*_WORDS, tokens[rng.choice(names)], tokens[at][1:] + tokens[at][:1]))
            case p if p < 0.87:
                tokens.insert(at, rng.choice((*_MARKS, *_WORDS)))
            case p if p < 0.95:
                del tokens[at]
            case _:
                tokens[at] = tokens[rng.randrange(len(tokens))]
    return "".join((edition, "\n", *tokens))


def test_mutated_specs_give_models_or_diagnostics() -> None:
    rng = random.Random(SEED)
    texts = seeds()
    resolved, slowest = 0, 0.0
    for number in range(MUTANTS):
        text = mutant(rng, rng.choice(texts))
        start = time.perf_counter()
        models, diagnostics = outcome(text, number)
        assert models or diagnostics, f"mutant {number}: {text}"
        for d in diagnostics:
            _presentable(d.message, number)
            _presentable(d.help or "", number)
        resolved += bool(models) and all(len(m.schedule) == m.layers for m in models)
        slowest = max(slowest, time.perf_counter() - start)
    assert resolved >= 0.4 * MUTANTS, f"{resolved} of {MUTANTS} mutants reach a model"
    assert slowest < 5


def outcome(text: str, number: int) -> tuple[tuple[Model, ...], tuple[Diagnostic, ...]]:
    """The models of a text or its diagnostics; anything else that is raised names the mutant."""
    try:
        return load_text(text, drawers=[TOYS]), ()
    except ArchError as error:
        return (), error.diagnostics
    except Exception as error:
        raise AssertionError(f"mutant {number}: {type(error).__name__}: {error}\n{text}") from error


def _presentable(text: str, number: int) -> None:
    """Fails on text that is not ours: pydantic's phrases, or the insides of the compiler."""
    for foreign in (
        "Input should",
        "validation error",
        "pydantic",
        "FAILED",
        "object at 0x",
        "Traceback",
        "archc.resolve",
    ):
        assert foreign not in text, f"mutant {number}: {text}"
