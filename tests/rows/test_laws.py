"""Every function that fusion makes is a row program that gives what its ops give in float64, gradients too, and is
printed in both languages.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby

import pytest

from archc import resources
from archc.diagnostics import ArchError
from archc.graph import Graph, Scope
from archc.importers import load
from archc.plan import plan, shrink
from archc.resolve import load_text
from archc.rows.cpp import translation_unit
from archc.rows.kernel import optimised, trained
from archc.rows.triton import print_backward, print_forward
from tests.combinations import cover
from tests.rows.functions import fits, functions, fused, lowered, names

LIBRARY = sorted(p.stem for p in resources.specs().glob("*.arch"))
QUICK, ALL = 2, 60
NUMBERS = [*range(QUICK), *(pytest.param(n, marks=pytest.mark.slow) for n in range(QUICK, ALL))]
known: set[tuple] = set()


def form(function: Scope) -> tuple:
    """What functions of equal ops on equal types share."""
    return tuple((n.op, *(str(v.type) + v.type.dtype for v in (*n.ins, *n.outs))) for n in function.nodes())


def hold(graph: Graph) -> None:
    for name, function in functions(graph).items():
        if form(function) in known:
            continue
        known.add(form(function))
        error, gradient = fits(graph, function)
        assert error < 1e-12, f"{name} is {error:.1e} off"
        assert gradient < 1e-10, f"the gradient of {name} is {gradient:.1e} off"
        printed(function)


def printed(function: Scope) -> None:
    """Prints a function in both languages, with its gradient; printers raise what they cannot print."""
    kernel = lowered(function).kernel
    wanted = [n for v, n in names(function)[0].items() if n in kernel.takes and v.step is None]
    forward, backward = trained(kernel, wanted)
    assert translation_unit([optimised(kernel)._replace(name="inference"), forward, backward])
    assert print_forward(optimised(kernel)).text
    assert print_forward(forward).text
    assert print_backward(backward).text


@cache
def twin(spec: str, *, rotated: bool = True) -> Graph:
    return fused(shrink(load(str(resources.specs() / f"{spec}.arch"))), rotated=rotated)


@pytest.mark.parametrize("spec", LIBRARY)
def test_functions_of_the_library(spec: str) -> None:
    for rotated in (False, True):
        hold(twin(spec, rotated=rotated))


@pytest.mark.parametrize("number", NUMBERS)
def test_functions_of_any_drawers(number: int) -> None:
    text = cover.texts(ALL)[number]
    try:
        model = load_text(text)[0]
        plan(model)
    except ArchError:
        pytest.skip("drawers that do not go together")
    try:
        hold(fused(model))
    except Exception as error:
        error.add_note(text)
        raise


COEFFICIENTS = "project inverse_rms binary sigmoid binary sigmoid binary sinkhorn collapse rms_norm"
FUSIONS = [
    ("llama_3_1_8b", "binary rms_norm", "B S"),
    ("qwen3_235b_a22b", "rms_norm rotate", "B S 4"),  # a row for each of the 4 query heads of a twin, and of 2 others
    ("qwen3_235b_a22b", "rms_norm rotate", "B S 2"),
    ("deepseek_v3", "rms_norm rotate cat", "B S"),
    ("deepseek_v3", "normalize binary", "B S"),
    ("deepseek_v3_2", "layer_norm rotate", "B S"),
    ("mhc_3b", f"mix {COEFFICIENTS}", "B S"),
    ("mhc_3b", "mix sum rms_norm", "B S"),
    ("deepseek_v4_flash", f"mix {COEFFICIENTS}", "B S"),
    ("deepseek_v4_flash", "mix project inverse_rms binary sigmoid binary collapse rms_norm", "B S"),
    ("deepseek_v4_flash", "rms_norm rotate", "B S//4"),  # entries of four tokens each
    ("deepseek_v4_flash", "project sqrt_softplus binary", "B S"),
    ("engram_27b", f"{COEFFICIENTS}", "B S"),
    ("engram_27b", "rms_norm binary rms_norm binary einsum binary signed_sqrt sigmoid binary rms_norm binary", "B S"),
    ("engram_27b", "silu binary", "B S 4"),
    ("nsa_27b", "sigmoid binary", "B S 4"),
]


@pytest.mark.parametrize(("spec", "ops", "tokens"), FUSIONS)
def test_fusions_that_come_out(spec: str, ops: str, tokens: str) -> None:
    found = [(works(f), " ".join(map(str, lowered(f).tokens))) for f in functions(twin(spec)).values()]
    assert (ops, tokens) in found


def works(function: Scope) -> str:
    """Kinds of the ops that a function is made of, views and casts left out, several of a kind after another once."""
    kinds = [n.op.kind for n in function.nodes() if not n.op.view and n.op.kind != "cast"]
    return " ".join(kind for kind, _ in groupby(kinds))


def test_one_op_is_no_fusion() -> None:
    """A gated feed-forward has one row-local op, between two products of matrices."""
    graph = twin("llama_3_1_8b")
    assert any(node.op.kind == "swiglu" for node, _ in graph.walk())
    assert not any(node.op.kind == "swiglu" for f in functions(graph).values() for node in f.nodes())
