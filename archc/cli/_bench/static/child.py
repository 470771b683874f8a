"""Does a job in a process of its own: ``python -m archc.cli._bench.static.child compile|trace|layers < JOB``.

``compile`` records what calls would launch and compiles it. ``trace`` runs them in the interpreter and counts bytes,
and ``layers`` the tiny twin, whose launches it counts; the interpreter must have been asked for before Triton is
imported (``TRITON_INTERPRET=1``). Each prints one line of JSON, as the last.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

DTYPES = {"act": torch.bfloat16, "fp32": torch.float32, "int": torch.int64, "bool": torch.bool}
Ways = dict[str, list[Any]]

CHANNELS = 64
"""Fewer make no row: what tokens have of these are coefficients, scores and angles."""


def main() -> None:
    """Does the job."""
    how, job = sys.argv[1], json.load(sys.stdin)
    sys.path.insert(0, job["folder"])
    os.environ["ARCHC_KERNELS"] = "triton"
    torch.set_num_threads(1)
    print("\n" + json.dumps({"compile": _compiled, "trace": _traced, "layers": _layers}[how](job)))


class Call:
    """A subject as a function of the number of tokens."""

    def __init__(self, package: str, subject: dict[str, Any]) -> None:
        self.operands = subject["operands"]
        names = {n: _named(package, n, module) for n, module in subject["names"].items()}
        code = compile(subject["call"], "<call>", "eval")
        self.run: Callable[..., Any] = lambda *ins: eval(  # noqa: S307 - printed by archc
            code, names | {f"_{i}": x for i, x in enumerate(ins)}
        )

    def rows(self, tokens: int) -> dict[int, int]:
        """By number of channels, how many numbers the rows of so many have in the smallest operand; few are no row."""
        found: dict[int, int] = {}
        for operand in self.operands:
            shape = operand["shapes"][str(tokens)]
            if operand["rows"] and shape[-1] >= CHANNELS:
                found[shape[-1]] = min(math.prod(shape), found.get(shape[-1], math.prod(shape)))
        return found

    def ways(
        self, tokens: int, made: list[Any], unseen: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Ways:
        """What the call adds to ``made`` forward without gradients, and then backward, on whatever lies in memory.

        The forward that backward needs runs ``unseen``.
        """
        ins = [torch.empty(o["shapes"][str(tokens)], dtype=DTYPES[o["dtype"]]) for o in self.operands]
        made.clear()
        with torch.no_grad():
            self.run(*ins)
        found = {"forward": list(made)}
        made.clear()
        wanted = [x.requires_grad_() for x, o in zip(ins, self.operands, strict=True) if o["wanted"]]
        with unseen():
            outs = [y for y in _tensors(self.run(*ins)) if y.requires_grad] if wanted else []
        if outs:
            upstream = [torch.empty_like(y) for y in outs]
            made.clear()
            torch.autograd.grad(outs, wanted, upstream, allow_unused=True)
        found["backward"] = list(made) if outs else []
        made.clear()
        return found


def _named(package: str, name: str, module: str) -> Any:
    """What a name means in a package where ``module`` defines it."""
    if module in ("torch", "torch.nn.functional"):
        found = import_module(module)
        return found if name in ("torch", "F") else getattr(found, name)
    return getattr(import_module(f"{package}.{module}"), name)


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@contextmanager
def _as_on(package: str, processors: int) -> Iterator[None]:
    """The kernels of a package launch as they would on a GPU of so many processors."""
    modules: list[Any] = [m for n, m in sys.modules.items() if n.startswith(f"{package}.") and hasattr(m, "processors")]
    with patch.object(import_module(f"{package}.kernels.dispatch"), "INTERPRETED", True):
        kept = [(m, m.processors) for m in modules]
        for module in modules:
            module.processors = lambda _: processors
        try:
            yield
        finally:
            for module, function in kept:
                module.processors = function


# --- compiling -----------------------------------------------------------------------------------
def _compiled(job: dict[str, Any]) -> list[dict[str, Any]]:
    """For each subject the facts of its launches by target, number of tokens and way."""
    from archc.cli._bench.static import compiled

    found = []
    for subject in job["subjects"]:
        try:
            call = Call(job["package"], subject)
            with _as_on(job["package"], job["processors"]), compiled.recording() as made:
                recorded = {n: call.ways(n, made) for n in job["more"]}
            rows = arrays_of_rows(recorded, call.rows)
            facts = {
                target: {
                    n: {way: [_facts(x, target, rows[x.kernel]) for x in some] for way, some in recorded[n].items()}
                    for n in job["tokens"]
                }
                for target in job["targets"]
            }
            found.append(facts)
        except Exception:  # noqa: BLE001 - reported where the row would stand
            found.append({"error": traceback.format_exc(limit=-3)})
    return found


def arrays_of_rows(recorded: dict[int, Ways], least: Callable[[int], dict[int, int]]) -> dict[Any, set[str]]:
    """By kernel its arguments that hold rows of tokens; ``recorded`` are launches by number of tokens.

    Those are as wide and as many as the ``least`` operand's where the kernel runs on the most tokens: of a single one,
    parameters and what programs add up have as many numbers as a row.
    """
    most = {x.kernel: n for n in sorted(recorded) for some in recorded[n].values() for x in some}
    found: dict[Any, set[str]] = {kernel: set() for kernel in most}
    for n, launch in ((n, x) for n, ways in recorded.items() for some in ways.values() for x in some):
        if n == most[launch.kernel]:
            rows = least(n)
            arrays = _arrays(launch).items()
            found[launch.kernel] |= {k for k, x in arrays if x.numel() >= rows.get(x.shape[-1], x.numel() + 1)}
    return found


def _arrays(launch: Any) -> dict[str, Tensor]:
    """The arrays of a launch by argument."""
    given = {**dict(zip([p.name for p in launch.kernel.params], launch.args, strict=False)), **launch.kwargs}
    return {name: x for name, x in given.items() if isinstance(x, Tensor) and x.dim()}


def _facts(launch: Any, target: str, rows: set[str]) -> dict[str, Any]:
    """What a launch compiles to, and which of its arrays hold ``rows``."""
    from archc.cli._bench.static import compiled

    facts = compiled.compiled(launch, target)
    return {**{name: getattr(facts, name) for name in compiled.Facts.__slots__}, "rows": sorted(rows)}


# --- tracing -------------------------------------------------------------------------------------
def _traced(job: dict[str, Any]) -> list[dict[str, Any]]:
    """For each subject what its launches move, by number of tokens and way."""
    import numpy as np

    from archc.cli._bench.static.interpreter import repair
    from archc.cli._bench.static.traced import tracing, unseen

    repair()
    np.seterr(all="ignore")  # a GPU overflows in silence
    found: list[dict[str, Any]] = []
    for subject in job["subjects"]:
        try:
            call, made_at = Call(job["package"], subject), {}
            with _as_on(job["package"], job["processors"]):
                with tracing(sampled=True) as made:  # what is made in a first call and kept is no launch of each
                    call.ways(min(job["tokens"]), made)
                for tokens in job["tokens"]:
                    with tracing(sampled=job.get("sampled", True)) as made:
                        made_at[tokens] = call.ways(tokens, made, unseen)
            found.append({n: {w: [asdict(t) for t in some] for w, some in ways.items()} for n, ways in made_at.items()})
        except Exception:  # noqa: BLE001 - reported where the row would stand
            found.append({"error": traceback.format_exc(limit=-3)})
        print(f"\r{len(found)} of {len(job['subjects'])}", end="", file=sys.stderr)
    return found


def _layers(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Launches of each layer of the tiny twin."""
    from archc.cli._bench.static.interpreter import repair
    from archc.cli._bench.static.layers import launches

    repair()
    return launches(job["package"])


if __name__ == "__main__":
    main()
