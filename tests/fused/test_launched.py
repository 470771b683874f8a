"""Packages whose functions run in Triton: what they give, of tensors of any lay-out, and which dtypes that has."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from archc.diagnostics import ArchError
from archc.emit.kernels import kernels, triton
from archc.importers import load
from archc.plan import plan, shrink
from archc.resolve import load_text
from archc.rows.kernel import Kernel
from archc.rows.rules import Input, Param, mul
from archc.rows.triton import NoTriton, Printed, print_backward
from archc.rows.value import Program
from tests.built import built
from tests.combinations import cover
from tests.fused.test_packages import drawn, functions, graded, off
from tests.kernels.conftest import interpreted
from tests.rows.triton.kernels import add_norm

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

__all__ = ["interpreted"]

# Heads that share angles of tokens; a boundary of streams with what training saves
SPECS = ["qwen3_235b_a22b", pytest.param("mhc_3b", marks=pytest.mark.slow)]
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module", params=SPECS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the small twin of a spec of the library is."""
    package = built(shrink(load(request.param)), tmp_path_factory.mktemp("launched"), fuse="layers")
    return Path(package.__file__ or "").parent


def runs(folder: Path, lead: tuple[int, int], dtype: torch.dtype, kind: str) -> dict[str, tuple[list[Tensor], ...]]:
    """Of each function by name: takes, what it gave and gradients, and the same of its ops and of these in float64.

    ``kind``: "one row" where takes come with one row for all that may, "gaps" where no take is contiguous.
    """
    sys.path[:] = [str(folder.parent), *(p for p in sys.path if p != str(folder.parent))]
    found = {}
    for fused in functions(import_module(folder.name)).values():
        layout = fused.layout
        generator = torch.Generator().manual_seed(lead[1])
        counted = lead if layout.lead == 2 else (lead[0] * lead[1],)
        takes = [drawn(a, counted, generator).to(a.dtype(dtype)) for a in layout.takes]
        if kind == "one row":
            takes = [x[:1] if a.spread else x for a, x in zip(layout.takes, takes, strict=True)]
        if kind == "gaps":
            takes = [x.repeat_interleave(2, -1)[..., ::2] for x in takes]
        learned = [i for i, _ in layout.targets]
        launched: list[Any] = []
        forward, backward = fused.triton
        fused.triton = (_counted(forward, launched), _counted(backward, launched))
        fused.runners.clear()
        got = graded(fused, takes, learned, 1.0)
        fused.triton = (forward, backward)
        assert [call for call, _ in launched] == ([forward, backward] if 0 not in lead else [])
        for made in (made for _, made in launched[1:]):  # sums over tokens too: nothing is left to cast
            assert [x.dtype for x in made] == [layout.takes[i].dtype(dtype) for i in layout.learned]
        plain = graded(fused.reference, [x.detach() for x in takes], learned, 1.0)
        exact = graded(fused.reference, [x.detach().double() for x in takes], learned, 1.0)
        with torch.no_grad():
            made = fused(*takes)
        for a, b in zip(got, (made,) if isinstance(made, Tensor) else made, strict=False):
            assert torch.equal(a, b)
        found[fused.name] = (
            [takes[i].detach() for i in learned],
            *([x.detach() for x in y] for y in (got, plain, exact)),
        )
    return found


def _counted(launcher: Any, calls: list[Any]) -> Any:
    """The launcher, which tells that it was called, and what it gave."""

    def call(*takes: Tensor) -> Any:
        made = launcher(*takes)
        calls.append((launcher, made))
        return made

    return call


@pytest.mark.parametrize(
    ("lead", "dtype", "kind"),
    [
        ((2, 3), torch.float32, ""),
        ((2, 3), torch.bfloat16, "gaps"),
        ((3, 1), torch.float32, "one row"),
        ((2, 0), torch.bfloat16, ""),
    ],
)
def test_functions(interpreted: Worker, folder: Path, lead: tuple[int, int], dtype: torch.dtype, kind: str) -> None:
    """Each function against its ops in float64: no further off than rounding, or than the ops are in this dtype; with
    gradients in the shapes and dtypes of what they are gradients of.
    """
    agree(interpreted(runs, folder, lead, dtype, kind), dtype)


@pytest.mark.parametrize("number", [3, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 50))])
def test_functions_of_any_drawers(interpreted: Worker, number: int, tmp_path: Path) -> None:
    """Of several tiles of tokens, whatever drawers the functions come from."""
    try:
        model = load_text(cover.texts(500)[number])[0]
        plan(model)
    except ArchError:
        pytest.skip("these drawers do not go together")
    folder = Path(built(model, tmp_path, fuse="layers").__file__ or "").parent
    agree(interpreted(runs, folder, (1, 70), torch.float32, ""), torch.float32)


def agree(found: dict[str, tuple[list[Tensor], ...]], dtype: torch.dtype) -> None:
    """What functions give is as near as `test_functions` says."""
    for name, (takes, got, plain, exact) in found.items():
        for x, gradient in zip(takes, got[-len(takes) :], strict=True):
            assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype), name
        for i, (a, b, c) in enumerate(zip(got, plain, exact, strict=True)):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), (name, i)
            if a.numel():
                assert off(a, c) <= max(ROUNDING[dtype], 1.5 * off(b, c)), (name, i)


def test_what_has_no_triton_has_its_forward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that Triton has no form for is left to the reference; a defect of a printer is not taken for that."""
    made = kernels(add_norm(32), ["x", "weight"], 1, {})
    assert [p.launcher for p in triton(made)] == ["launch_add_norm", "launch_add_norm_backward"]

    def raising(error: type[Exception]) -> None:
        def none(kernel: Kernel, *_: Any) -> Printed:
            raise error(kernel.name)

        monkeypatch.setattr("archc.emit.kernels.print_backward", none)

    raising(NoTriton)
    assert [p.launcher for p in triton(made)] == ["launch_add_norm"]
    raising(TypeError)
    with pytest.raises(TypeError, match="add_norm_backward"):
        triton(made)


def test_sums_over_tokens_that_are_none_have_no_triton() -> None:
    p = Program()
    bias = p.make(Param(name="bias"))
    x = p.make(Input(name="x"))
    strange = Kernel("strange", 1, {"x": x, "bias": bias}, {"d_x": mul(x, bias), "d_bias": mul(bias, 2.0)}, {})
    with pytest.raises(NoTriton, match="d_bias"):
        print_backward(strange)
