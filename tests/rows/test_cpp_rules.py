"""Every op of rows as C++: functions of a number, rounding, rotations, sums over a row, numbers without a row."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

from archc.rows import pointwise as more
from archc.rows import rules as r
from archc.rows.cpp import translation_unit
from archc.rows.cpp.lines import WIDTH
from archc.rows.interpret import run
from archc.rows.kernel import Kernel, trained
from archc.rows.rotate import Rotate
from archc.rows.value import Program, Rule
from tests.rows.boundary import boundary
from tests.rows.compiled import call
from tests.rows.test_cpp import check, check_all, drawn

if TYPE_CHECKING:
    from numpy.typing import NDArray

FUNCTIONS: dict[str, tuple[Rule, Callable[[Any], Any], float]] = {
    "exp": (r.Exp(), np.exp, 3e-7),
    "log": (r.Log(), np.log, 3e-7),
    "gate": (r.Sigmoid(), lambda x: 1 / (1 + np.exp(-x)), 4e-7),
    "root": (more.Sqrt(), np.sqrt, 1e-7),
    "inverse_root": (r.Rsqrt(), lambda x: 1 / np.sqrt(x), 2e-7),
    "inverse": (r.Recip(), lambda x: 1 / x, 1e-7),
    "soft": (r.Softplus(), lambda x: np.logaddexp(0, x), 4e-7),
    "root_soft": (more.SqrtSoftplus(), lambda x: np.sqrt(np.logaddexp(0, x)), 4e-7),
    "tangent_of": (more.Tanh(), np.tanh, 4e-7),
    "erf": (more.Erf(), np.vectorize(math.erf), 5e-7),
    "sign": (more.Sign(), np.sign, 0.0),
    "clip": (r.Clip(low=-2.0, high=3.0), lambda x: np.clip(x, -2, 3), 0.0),
    "upper": (r.Clip(low=-math.inf, high=3.0), lambda x: np.minimum(x, 3), 0.0),
    "inside": (r.Inside(low=-2.0, high=3.0), lambda x: ((x >= -2) & (x <= 3)) * 1.0, 0.0),
    "relu": (more.Relu(), lambda x: np.maximum(x, 0), 0.0),
}
"""Each with what numpy has for it, and how far off the value may be, as a part of it: about three units of the last
place of a float32, which is 6e-8 of a number.
"""


def functions(width: int) -> Kernel:
    """A kernel of all functions of a row."""
    p = Program()
    x = p.make(r.Input(name="x", row=True))
    return Kernel("functions", width, {"x": x}, {n: p.make(rule, x) for n, (rule, _, _) in FUNCTIONS.items()}, {})


ENDS = [0.0, 1.0, 1e-38, 1e-42, 88.0, 1e30, math.inf]


def of_all_sizes(width: int) -> NDArray[np.float32]:
    """Rows of numbers from 1e-8 to 100, with those at the ends of what there is."""
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=(5, width)) * 10.0 ** rng.integers(-8, 2, (5, width)), rng.normal(size=(2, width))]
    )
    ends = [*ENDS, *(-e for e in ENDS), -103.0, 3.0, -2.0]
    x[0, : len(ends)] = ends
    return x.astype(np.float32)


def hold(name: str, got: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """What a function of ``FUNCTIONS`` gave is what it is of float64."""
    _, function, tolerance = FUNCTIONS[name]
    want = function(x.astype(np.float64))
    # What a float32 does not hold, or only with fewer digits
    want = np.where(np.abs(want) > np.finfo(np.float32).max, np.sign(want) * math.inf, want)
    np.testing.assert_allclose(got, want, tolerance, 2e-38, err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions() -> None:
    """Each function on numbers of all sizes, in loops that are of vectors, and at the ends of what there is."""
    x = of_all_sizes(1003)
    got = call([functions(1003)], 0, {"x": x}, 7)
    for name in FUNCTIONS:
        hold(name, got[name], x)


def test_nothing_hides_what_is_no_number() -> None:
    """NaN stays NaN: the compiler may not assume that there is none."""
    width = 40
    got = call([functions(width)], 0, {"x": np.full((1, width), math.nan, np.float32)}, 1)
    hidden = {name for name, x in got.items() if not np.isnan(x).all()}
    assert hidden == {"sign", "inside"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rounding_to_bfloat16() -> None:
    """To the nearest, ties to even, as ml_dtypes rounds: of every upper half with lower halves around a tie."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (upper[:, None] | lower).astype(np.uint32).view(np.float32)
    p = Program()
    leaf = p.make(r.Input(name="x", row=True))
    gives = {
        "stored": leaf,
        "inside": p.make(r.Round(format="act"), leaf),
        "named": p.make(r.Round(format="bf16"), leaf),
    }
    got = call([Kernel("rounding", 6, {"x": leaf}, gives, {"stored": "act"})], 0, {"x": x}, len(x), "bfloat16")
    want = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    for name, made in got.items():
        np.testing.assert_array_equal(made.astype(np.float32), want, err_msg=name)


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("end", ["first", "last"])
def test_norm_and_rotation_of_heads(pairs: Any, end: Any) -> None:
    """Of three heads for each token, which share its angles."""
    p, turned, width = Program(), 12, 21
    x = p.make(r.Input(name="x", row=True, format="act"))
    weight = p.make(r.Param(name="weight", row=True, format="act"))
    angles = p.make(r.Input(name="angles", streams=(turned // 2, 2), shared=3))
    scale = p.make(r.Rsqrt(), r.add(r.mul(p.make(r.RowSum(), r.mul(x, x)), 1 / width), 1e-6))
    normed = r.mul(r.mul(x, scale), weight)
    y = p.make(Rotate(turned=turned, pairs=pairs, end=end), normed, angles)
    takes = {"x": x, "weight": weight, "angles": angles}
    kernel = Kernel("norm_rotate", width, takes, {"y": y, "plain": normed}, {"y": "act"})
    check_all(kernel, 15, "float", 0, wanted=("x", "weight"))
    if (pairs, end) == ("half", "last"):
        check_all(kernel, 6, "bfloat16", 1, wanted=("x", "weight"))


def projections(m: int, width: int) -> Kernel:
    """Two products of matrices: of a row that is given, and of one that is made and goes nowhere."""
    p = Program()
    x, y = (p.make(r.Input(name=name, row=True, format="act")) for name in "xy")
    first = p.make(r.Param(name="first", streams=(m,), row=True))
    second = p.make(r.Param(name="second", streams=(3,), row=True, format="act"))
    bias = p.make(r.Param(name="bias", streams=(m,)))
    scores = r.add(p.make(r.Project(), x, first), bias)
    both = p.make(r.Project(), r.mul(p.make(r.Sigmoid(), x), y), second)
    gated = r.mul(x, r.product("a->", both))
    takes = {"x": x, "y": y, "first": first, "second": second, "bias": bias}
    return Kernel("projections", width, takes, {"scores": scores, "both": both, "gated": gated}, {"gated": "act"})


@pytest.mark.parametrize(("body", "together"), [("quotient", True), ("exponent", False), ("outside", False)])
def test_rounds_beside_a_product_of_matrices(body: str, together: bool) -> None:
    """Rounds of sums, products and inverses run for all tokens of a tile at once, others token by token."""
    p = Program()
    x = p.make(r.Input(name="x", row=True, format="act"))
    weight = p.make(r.Param(name="weight", streams=(3,), row=True))
    bias = p.make(r.Input(name="bias", streams=(3,)))
    rounds: dict[str, Callable[[Any], Any]] = {
        "quotient": lambda c: r.mul(c, r.recip(r.add(r.product("a->", r.mul(c, c)), 1.0))),
        "exponent": lambda c: p.make(r.Exp(), r.mul(c, -1.0)),
        "outside": lambda c: r.mul(c, bias),
    }
    scores = r.repeat(3, rounds[body], r.add(p.make(r.Sigmoid(), p.make(r.Project(), x, weight)), 0.5))
    kernel = Kernel("rounds", 24, {"x": x, "weight": weight, "bias": bias}, {"scores": r.mul(scores, 2.0)}, {})
    assert ("by_token(" in translation_unit([kernel], "")) is together
    wanted = ("x", "weight", *["bias"] * (body == "outside"))
    for tokens in (1, 19):
        check_all(kernel, tokens, "float", tokens, wanted=wanted)


@pytest.mark.parametrize(
    ("m", "width", "act"), [(5, 70, "float"), pytest.param(8, 1200, "bfloat16", marks=pytest.mark.slow)]
)
def test_two_projections(m: int, width: int, act: str) -> None:
    check_all(projections(m, width), 11, act, 0)


def test_softmax_of_a_row() -> None:
    p, width = Program(), 37
    x = p.make(r.Input(name="x", streams=(2,), row=True))
    e = p.make(r.Exp(), r.add(x, r.mul(p.make(r.RowMax(), x), -1.0)))
    y = r.mul(e, r.recip(p.make(r.RowSum(), e)))
    # The same row under two names, and what is taken is given
    check_all(Kernel("softmax", width, {"x": x}, {"y": y, "again": y, "x_kept": x}, {}), 5, "float", 0)


def test_numbers_alone() -> None:
    """Without a row: scores of 24 experts, normed and scaled by numbers of parameters, and their gradients."""
    p, n = Program(), 24
    x = p.make(r.Input(name="x", streams=(n,)))
    scale = p.make(r.Param(name="scale", streams=(n,)))
    all_scale = p.make(r.Param(name="all_scale"))
    soft = r.mul(p.make(more.SqrtSoftplus(), x), p.make(r.Exp(), scale))
    made = r.product("a,->a", soft, r.recip(r.add(r.product("a->", soft), 1e-20)))
    part = p.make(r.Take(start=4, shape=(4, 3)), made)
    most = p.make(r.StreamMax(), part)
    kernel = Kernel(
        "scores",
        1,
        {"x": x, "scale": scale, "all_scale": all_scale},
        {"made": r.mul(made, all_scale), "part": part, "most": most},
        {"part": "act"},
    )
    check_all(kernel, 9, "float", 0)


def test_gradients_of_any_size() -> None:
    """Gradients from above of 1e30 stay finite, and as right as those of 1."""
    kernel, tokens = boundary(4, 40, 3), 5
    forward, backward = trained(kernel, list(kernel.takes), ("mixed",))
    arrays = drawn(kernel, tokens, "float", 0)
    made = call([forward], 0, arrays, tokens)
    have = {**drawn(backward, tokens, "float", 1), **made, **arrays}
    small = call([backward], 0, have, tokens)
    large = call([backward], 0, {n: x * 1e30 if n.startswith("grad_") else x for n, x in have.items()}, tokens)
    for name, x in large.items():
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x / np.float32(1e30), small[name], 1e-4, 1e-5 * float(np.abs(small[name]).max()))


@pytest.mark.parametrize("size", [1e-15, 1e15])
def test_gradients_of_rows_of_any_size(size: float) -> None:
    """Of rows whose squares float32 still holds, none of the factors of a gradient is lost beside the others."""
    kernel, tokens = boundary(4, 40, 3), 5
    forward, backward = trained(kernel, list(kernel.takes))
    arrays = drawn(kernel, tokens, "float", 0)
    arrays |= {n: arrays[n] * size for n in ("streams", "y")}
    have = {**drawn(backward, tokens, "float", 1), **call([forward], 0, arrays, tokens), **arrays}
    have = {n: np.asarray(x, np.float32).astype(np.float64) for n, x in have.items()}
    got = call([backward], 0, have, tokens)
    for name, want in zip(backward.gives, run(list(backward.gives.values()), have), strict=True):
        largest = float(np.abs(want).max())
        np.testing.assert_allclose(got[name] / largest, np.broadcast_to(want, got[name].shape) / largest, 0, 1e-4)


def test_threads_share_tokens() -> None:
    """Slices of tokens give what one thread gives, sums over tokens to rounding and twice the same."""
    kernel, tokens = projections(5, 2000), 333
    forward, backward = trained(kernel, list(kernel.takes))
    arrays = drawn(kernel, tokens, "float", 0)
    made = call([forward], 0, arrays, tokens)
    have = {**drawn(backward, tokens, "float", 1), **made, **arrays}
    threads = ctypes.CDLL("libgomp.so.1")
    before = threads.omp_get_max_threads()
    found = []
    try:
        for n in (1, 3, 3):
            threads.omp_set_num_threads(n)
            found.append((call([forward], 0, arrays, tokens), call([backward], 0, have, tokens)))
    finally:
        threads.omp_set_num_threads(before)
    one, three, again = found
    for part in range(2):
        for name, x in one[part].items():
            np.testing.assert_array_equal(three[part][name], again[part][name])
            np.testing.assert_allclose(three[part][name], x, 1e-5, 1e-5 * float(np.abs(x).max()), err_msg=name)
    check([backward], 0, have, tokens, "float")


def test_text_fits_a_line() -> None:
    kernel = boundary(8, 7168, 20)
    text = translation_unit([*trained(kernel, list(kernel.takes))])
    assert max(map(len, text.splitlines())) <= WIDTH
