"""How kernels meet PyTorch: dispatch, registrations, two copies in one process, no Triton, torch.compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kernels import dispatch
from kernels.library import INTERPRETED, NAMESPACE, as_rows, largest_power_of_2_in, next_power_of_2
from kernels.rms_norm import rms_norm, rms_norm_backward, rms_norm_forward
from kernels.rope_angles import rope_angles
from kernels.rotate import rotate, rotate_channels
from kernels.swiglu import swiglu, swiglu_backward, swiglu_forward

if TYPE_CHECKING:
    from tests.kernels.support.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------------------------------------------- dispatch
def test_auto_takes_the_reference_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHC_KERNELS", raising=False)
    assert not dispatch.use_triton(torch.zeros(1))


class OnGpu:
    """Stands for a tensor on a GPU, of which dispatch sees dtype and device."""

    device = torch.device("cuda", 0)
    is_cuda = True

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@pytest.mark.parametrize(
    ("mode", "dtype", "expected"),
    [
        ("auto", torch.bfloat16, True),
        ("auto", torch.float32, True),
        ("auto", torch.float64, False),
        ("triton", torch.float16, True),
        ("triton", torch.float64, False),
        ("reference", torch.bfloat16, False),
    ],
)
def test_on_a_gpu_triton_runs_the_dtypes_it_knows(
    monkeypatch: pytest.MonkeyPatch, mode: str, dtype: torch.dtype, expected: bool
) -> None:
    monkeypatch.setenv("ARCHC_KERNELS", mode)
    assert dispatch.use_triton(OnGpu(dtype), None) is expected  # type: ignore[arg-type]


def test_auto_takes_the_reference_where_there_is_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHC_KERNELS", "auto")
    monkeypatch.setattr(dispatch, "triton", None)
    assert not dispatch.use_triton(OnGpu(torch.bfloat16))  # type: ignore[arg-type]


def test_demanding_triton_where_it_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not INTERPRETED
    monkeypatch.setenv("ARCHC_KERNELS", "triton")
    with pytest.raises(RuntimeError, match="cannot run on cpu tensors without TRITON_INTERPRET=1"):
        rms_norm(torch.zeros(2, 8), eps=1e-6)
    monkeypatch.setattr(dispatch, "triton", None)
    with pytest.raises(RuntimeError, match="triton cannot be imported"):
        rms_norm(torch.zeros(2, 8), eps=1e-6)


def test_an_unknown_mode_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHC_KERNELS", "tritan")
    with pytest.raises(ValueError, match="'tritan'; it must be one of auto, triton, cpp, reference"):
        rms_norm(torch.zeros(2, 8), eps=1e-6)


# ---------------------------------------------------------------------------------------------------- registrations
def test_a_call_of_a_model_asks_once_in_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as other:
        monkeypatch.setenv("ARCHC_KERNELS", "cpp")
        with dispatch.decided():
            monkeypatch.setenv("ARCHC_KERNELS", "reference")
            assert dispatch.chosen() == "cpp"
            assert other.submit(dispatch.chosen).result() == "reference"
            with dispatch.decided():
                assert dispatch.chosen() == "reference"
            assert dispatch.chosen() == "cpp"
        assert dispatch.chosen() == "reference"
        with pytest.raises(KeyError), dispatch.decided():
            raise KeyError
        monkeypatch.setenv("ARCHC_KERNELS", "auto")
        assert dispatch.chosen() == "auto"
        monkeypatch.setenv("ARCHC_KERNELS", "unknown")
        with pytest.raises(ValueError, match="unknown"), dispatch.decided():
            pass


def _operands(dtype: torch.dtype) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    x, weight, up = torch.randn(3, 5, 36).to(dtype), torch.randn(36), torch.randn(3, 5, 36).to(dtype)
    rstd = torch.rand(3, 5)
    heads, angles = torch.randn(2, 5, 3, 16).to(dtype), rope_angles(torch.arange(5)[None], dim=8, theta=100.0)
    grad = torch.randn(3, 5, 36).to(dtype)

    def leaf(t: torch.Tensor) -> torch.Tensor:
        return t.clone().requires_grad_()

    return {
        "rms_norm": (rms_norm_forward, (leaf(x), leaf(weight), 1e-6)),
        "rms_norm, no weight": (rms_norm_forward, (leaf(x), None, 1e-6)),
        "rms_norm, sliced": (rms_norm_forward, (leaf(x)[..., 4:20], None, 1e-6)),
        "rms_norm backward": (rms_norm_backward, (grad, x, weight, rstd, True)),
        "rms_norm backward, no weight": (rms_norm_backward, (grad, x, None, rstd, False)),
        "swiglu": (swiglu_forward, (leaf(x), leaf(up), None)),
        "swiglu, limit": (swiglu_forward, (leaf(x), leaf(up), 1.0)),
        "swiglu, gpt-oss": (swiglu_forward, (leaf(x), leaf(up), 7.0, 1.702, 1.0)),
        "swiglu backward": (swiglu_backward, (grad, x, up, 1.0)),
        "rotate": (rotate_channels, (leaf(heads), angles, "half", "first", False)),
        "rotate, interleaved": (rotate_channels, (leaf(heads), angles, "interleaved", "last", True)),
        "rotate, transposed": (
            rotate_channels,
            (leaf(heads).transpose(1, 2)[:, :3], angles[:, :3], "half", "last", False),
        ),
    }


def _opcheck(case: str, dtype: torch.dtype) -> dict[str, str]:
    torch.manual_seed(0)
    op, args = _operands(dtype)[case]
    return torch.library.opcheck(op, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", _operands(torch.float32))
def test_registrations_are_sound(interpreted: Worker, case: str, dtype: torch.dtype) -> None:
    """Schema, fake tensors, autograd and tracing, with the kernels themselves behind the operator."""
    assert set(interpreted(_opcheck, case, dtype).values()) == {"SUCCESS"}


def _empty() -> list[torch.Tensor]:
    x, weight = torch.zeros(0, 3, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    angles = rope_angles(torch.zeros(1, 3), dim=4, theta=100.0)
    out = rotate(swiglu(rms_norm(x, weight, eps=1e-6), x), angles)
    return [out.detach(), *torch.autograd.grad(out.sum(), (x, weight))]


def test_no_rows_give_no_rows_and_a_zero_weight_gradient(interpreted: Worker) -> None:
    for out, dx, dweight in (interpreted(_empty), _empty()):
        assert out.shape == dx.shape == (0, 3, 8)
        assert torch.equal(dweight, torch.zeros(8))


# ---------------------------------------------------------------------------------------------------- torch.compile
def _block(x: torch.Tensor, weight: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    y = rms_norm(x, weight, eps=1e-6)
    return rotate(swiglu(y, x, limit=2.0).unflatten(-1, (2, 8)), angles).flatten(-2)


def _compiled_and_eager() -> list[list[torch.Tensor]]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    x, weight = torch.randn(2, 3, 16, requires_grad=True), torch.randn(16, requires_grad=True)
    angles = rope_angles(torch.arange(3)[None], dim=8, theta=100.0)
    results = []
    for run in (torch.compile(_block, fullgraph=True, backend="aot_eager"), _block):
        out = run(x, weight, angles)
        results.append([out.detach(), *torch.autograd.grad(out.square().sum(), (x, weight))])
    return results


@pytest.mark.parametrize("path", ["triton", "reference"])
def test_a_whole_graph_compiles(interpreted: Worker, path: str) -> None:
    compiled, eager = interpreted(_compiled_and_eager) if path == "triton" else _compiled_and_eager()
    for mine, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(mine, theirs)


# ---------------------------------------------------------------------------------------------------- packages
def test_operators_are_named_after_the_package() -> None:
    assert NAMESPACE == "kernels"
    assert rms_norm_forward._qualname == "kernels::rms_norm_forward"


def _run(code: str, at: Path, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(at), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=at, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _copy_kernels(home: Path) -> Path:
    shutil.copytree(ROOT / "kernels", home / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    return home / "kernels"


def test_copies_in_two_packages_do_not_meet(tmp_path: Path) -> None:
    """Each copy runs its own kernels (the second one's eps is changed, to tell them apart).

    A package rebuilt elsewhere under the same name takes over from the one before it.
    """
    _copy_kernels(tmp_path / "llama_3_1_8b")
    changed = _copy_kernels(tmp_path / "modèle" / "v2") / "rms_norm.py"
    changed.write_text(changed.read_text().replace("(1.0 / D) + eps", "(1.0 / D) + 3.0"))
    _copy_kernels(tmp_path / "rebuilt" / "llama_3_1_8b")
    printed = _run(
        """
import importlib, sys, torch
packages = ("llama_3_1_8b", "modèle.v2")
for package in packages:
    importlib.import_module(package + ".kernels.rms_norm")

def show():
    for package in packages:
        module = importlib.import_module(package + ".kernels.rms_norm")
        print(module.rms_norm_forward._qualname, module.rms_norm(torch.ones(2, 8), None, eps=0.0)[0, 0].item())

show()
for name in [name for name in sys.modules if name.split(".")[0] == "llama_3_1_8b"]:
    del sys.modules[name]
sys.path.insert(0, "rebuilt")
show()
print(sys.modules["llama_3_1_8b.kernels.rms_norm"].__file__)
""",
        tmp_path,
        ARCHC_KERNELS="triton",
        TRITON_INTERPRET="1",
    )
    *shown, file = printed.splitlines()
    once = ["llama_3_1_8b__kernels::rms_norm_forward 1.0", "modue8le__v2__kernels::rms_norm_forward 0.5"]
    assert shown == once * 2
    assert "rebuilt" in file


def test_references_work_without_triton(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no triton here')")
    _copy_kernels(tmp_path)
    printed = _run(
        """
import torch
from kernels.library import tl, triton
from kernels.rms_norm import rms_norm
from kernels.rope_angles import rope_angles
from kernels.rotate import rotate
from kernels.swiglu import swiglu
x = torch.randn(2, 3, 8, requires_grad=True)
y = rotate(swiglu(rms_norm(x, torch.ones(8), eps=1e-6), x), rope_angles(torch.arange(3)[None], dim=8, theta=100.0))
y.sum().backward()
print(triton, tl, y.shape == x.grad.shape)
""",
        tmp_path,
    )
    assert printed.split() == ["None", "None", "True"]


# ---------------------------------------------------------------------------------------------------- small parts
def test_rows_are_views_where_they_can_be() -> None:
    fused = torch.randn(2, 3, 24)
    assert as_rows(fused).data_ptr() == fused.data_ptr()
    part = fused[..., 8:16]
    assert as_rows(part).data_ptr() == part.data_ptr() and as_rows(part).stride() == (24, 1)
    assert (
        torch.equal(as_rows(fused[..., ::2]), fused[..., ::2].reshape(6, 12))
        and as_rows(fused[..., ::2]).stride(1) == 1
    )


def test_powers_of_two() -> None:
    assert [next_power_of_2(n) for n in (1, 2, 3, 4, 5, 4096, 7168)] == [1, 2, 4, 4, 8, 4096, 8192]
    assert [largest_power_of_2_in(n) for n in (1, 2, 3, 12, 36, 7168, 14336)] == [1, 2, 1, 4, 4, 1024, 2048]
