"""Packages whose functions run in C++ give what their ops give: logits, losses, gradients, cached decoding."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archc.importers import load
from archc.plan import shrink
from kernels.arrays import Array
from tests.built import built, randomise

QUICK = ["olmoe_1b_7b"]
SLOW = [
    "deepseek_v3",
    "deepseek_v4_flash",
    "engram_27b",
    "gpt_oss_20b",
    "mhc_3b",
    "nsa_27b",
    "qwen3_235b_a22b",
    "v4_as_predicted",
]
SPECS = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
"""Specs of the library: each function is compiled, which takes seconds."""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModuleType]:
    """The package of the small twin of a spec of the library, its functions fused, layers rotated."""
    known: dict[str, ModuleType] = {}

    def package(name: str) -> ModuleType:
        if name not in known:
            known[name] = built(shrink(load(name)), tmp_path_factory.mktemp("packages"), fuse="layers")
        return known[name]

    return package


def functions(package: ModuleType) -> dict[str, Any]:
    """What runs each function of a package that is a row program."""
    folder = Path(package.__file__ or "").parent / "fused"
    names = [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    found = {name: import_module(f"{package.__name__}.fused.{name}").KERNELS for name in names}
    return {name: fused for name, fused in found.items() if hasattr(fused, "layout")}


def model_of(package: ModuleType, dtype: torch.dtype) -> Any:
    model = package.Model(dtype=dtype)
    randomise(model)
    return model


def step(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits, loss and gradients."""
    model.zero_grad()
    out = model(tokens, labels=tokens)
    out.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), out.loss.detach(), grads


def off(got: Tensor, want: Tensor, least: float = 1e-300) -> float:
    """How far a tensor is from another, beside the size of that."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm()) / max(float(want.norm()), least)


@pytest.mark.parametrize("name", SPECS)
def test_a_step_of_training(packaged: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Beside float64, C++ in float32 is off by a few times what the ops in float32 are off by."""
    package = packaged(name)
    tokens = torch.randint(0, 97, (2, 37), generator=torch.Generator().manual_seed(0))
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    exact, plain = step(model_of(package, torch.float64), tokens), step(model_of(package, torch.float32), tokens)
    monkeypatch.setenv("ARCHC_KERNELS", "cpp")
    fused = step(model_of(package, torch.float32), tokens)
    for got, beside, want in zip(fused[:2], plain[:2], exact[:2], strict=True):
        assert off(got, want) <= 4 * off(beside, want) + 1e-6
    assert fused[2].keys() == exact[2].keys()
    least = max(float(g.norm()) for g in exact[2].values()) / 1000
    for n, want in exact[2].items():
        assert off(fused[2][n], want, least) <= max(2e-5, 6 * off(plain[2][n], want, least)), n
    ran = {n for n, f in functions(package).items() if f.runners.get(("cpp", torch.float32)) is not None}
    assert ran == functions(package).keys()


@pytest.mark.parametrize("name", SPECS)
def test_a_step_in_bfloat16(packaged: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a whole C++ in bfloat16 is about as far off as the ops are: choices of experts and entries fall otherwise."""
    package = packaged(name)
    tokens = torch.randint(0, 97, (2, 29), generator=torch.Generator().manual_seed(1))
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    exact = step(model_of(package, torch.float64), tokens)
    plain = step(model_of(package, torch.bfloat16), tokens)
    monkeypatch.setenv("ARCHC_KERNELS", "cpp")
    fused = step(model_of(package, torch.bfloat16), tokens)
    assert off(fused[0], exact[0]) <= 4 * off(plain[0], exact[0])
    total = [torch.cat([g.double().flatten() for g in made[2].values()]) for made in (exact, plain, fused)]
    assert off(total[2], total[0]) <= 4 * off(total[1], total[0])


@pytest.mark.parametrize("name", SPECS)
def test_decoding_one_by_one_is_one_forward(
    packaged: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    package = packaged(name)
    model = model_of(package, torch.float32).eval()
    tokens = torch.randint(0, 97, (2, 23), generator=torch.Generator().manual_seed(2))
    monkeypatch.setenv("ARCHC_KERNELS", "reference")
    with torch.inference_mode():
        want = model(tokens).logits
        monkeypatch.setenv("ARCHC_KERNELS", "cpp")
        cache = model.new_cache(2, 23, layout="fp32")
        parts = [model(part, cache=cache).logits for part in tokens.split([9, *[1] * 14], 1)]
    assert off(torch.cat(parts, 1), want) < 1e-4


def test_what_changes_between_calls_is_seen_at_once(
    packaged: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights, put in place or anew, another dtype, another mode."""
    package, tokens = packaged(QUICK[0]), torch.tensor([[3, 1, 4]])
    model, other = model_of(package, torch.float32).eval(), package.Model().eval()
    named = dict(model.named_parameters())

    def agree(close: float) -> Tensor:
        with torch.inference_mode():
            monkeypatch.setenv("ARCHC_KERNELS", "reference")
            want = model(tokens).logits
            monkeypatch.setenv("ARCHC_KERNELS", "cpp")
            got = model(tokens).logits
        assert off(got, want) < close
        return got.clone()

    before = agree(1e-5)
    model.load_state_dict(other.state_dict())
    assert not torch.equal(agree(1e-5), before)
    for parameter in named.values():
        parameter.data = torch.randn_like(parameter) / 10
    agree(1e-5)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.randn_like(parameter) / 10))
    agree(1e-5)
    model.to(torch.bfloat16)
    assert agree(0.1).dtype == torch.bfloat16
    model.to(torch.float64)
    assert agree(1e-12).dtype == torch.float64


def drawn(array: Array, lead: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers for a take: rows about zero, coefficients between 0.1 and 1."""
    shape = (*(() if array.once else lead), *array.own)
    wide = array.once or (array.dims and array.dims[-1] >= 16)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if not wide:
        return x.sigmoid() * 0.9 + 0.1
    return x / (array.dims or (1,))[-1] ** 0.5 if array.once and len(array.own) > 1 else x


def graded(call: Callable[..., Any], takes: list[Tensor], learned: list[int], scale: float) -> list[Tensor]:
    """What a function gives, and the gradients of a weighted sum of that."""
    takes = [x.requires_grad_(i in learned) for i, x in enumerate(takes)]
    made = call(*takes)
    made = made if isinstance(made, tuple) else (made,)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) * scale for x in made]
    total = sum((x.double() * w).sum() for x, w in zip(made, weights, strict=True))
    assert isinstance(total, Tensor)
    return [*made, *torch.autograd.grad(total, [takes[i] for i in learned])]


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=8)
@given(
    lead=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    scale=st.sampled_from([1.0, 1e30]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_function_alone(
    packaged: Callable[[str], ModuleType], name: str, lead: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    """Against the ops in float64, with the operands that the C++ had: no further off than rounding what comes out, or
    than the ops are in this dtype. Gradients that come in may be huge.
    """
    rounding = 2e-5 if dtype == torch.float32 else 2**-7
    for fused in functions(packaged(name)).values():
        layout = fused.layout
        assert fused.passed is None, "a take that only the reference reads"
        generator = torch.Generator().manual_seed(lead[1])
        takes = [drawn(a, lead, generator).to(a.dtype(dtype)) for a in layout.takes]
        learned = [i for i, _ in layout.targets]
        got = graded(fused, takes, learned, scale)
        assert fused.runners["cpp", dtype] is not None
        plain = graded(fused.reference, [x.detach() for x in takes], learned, scale)
        want = graded(fused.reference, [x.detach().double() for x in takes], learned, scale)
        for i, (a, b, c) in enumerate(zip(got, plain, want, strict=True)):
            assert a.isfinite().all(), (fused.name, i)
            assert off(a, c) <= max(rounding, 1.5 * off(b, c)), (fused.name, i)
