"""Kernels of Liger (LinkedIn) through the tool of `archc bench --static`: ``python -m bench.liger`` prints the rows of
docs/kernels.md, of 64 and 4,096 tokens of DeepSeek-V4-Flash's widths in bfloat16.

It needs Liger 0.8.5, which nothing else here uses: ``pip install --no-deps --target DIR liger-kernel==0.8.5``, and DIR
on PYTHONPATH. Kernels that Liger tunes on a GPU take the first of their configurations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from archc.cli._bench.rows import narrowest

D, HIDDEN, STREAMS, NUMBERS = 4096, 2048, 4, 24
BF16 = torch.bfloat16


def main() -> None:
    """Prints the rows, or what a child of this file found."""
    if len(sys.argv) > 1:
        print("\n" + json.dumps(compiled() if sys.argv[1] == "compile" else traced()))
        return
    moved, code = (_child(how) for how in ("trace", "compile"))
    print("| op | tokens | launches | distinct | asked | registers | spills | access | matrix |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, of in moved.items():
        for tokens, found in of.items():
            facts = code[name][tokens]
            cells = [name, f"{int(tokens):,}", str(found["launches"])]
            cells += [f"{found[kind] / found['bound']:.2f}x" for kind in ("distinct", "requested")]
            cells += [str(max(f["registers"] for f in facts)), f"{sum(f['spills'] for f in facts)} B"]
            widths = [narrowest(f, moved) for f, moved in zip(facts, found["arrays"], strict=True)]
            cells += [f"{min(w for w in widths if w)}-bit"]
            cells += [", ".join(f"{n} {kind}" for f in facts for kind, n in f["matrix"].items()) or "-"]
            print("|", " | ".join(cells), "|")


def _child(how: str) -> Any:
    env = {**os.environ, "TRITON_INTERPRET": "1" if how == "trace" else "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.liger", how]
    said = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.strip().splitlines()[-1])


# --- what is called ------------------------------------------------------------------------------
def cases() -> dict[str, Callable[[int], tuple[Callable[[], Any], int]]]:
    """By name: of a number of tokens the call, and the bytes that it must move."""
    names = ("fused_add_rms_norm", "mhc", "rms_norm", "swiglu")
    fused_add_rms_norm, mhc, rms_norm, swiglu = (import_module(f"liger_kernel.ops.{name}") for name in names)

    def norm(tokens: int) -> tuple[Callable[[], Any], int]:
        x, weight = torch.empty(tokens, D, dtype=BF16), torch.empty(D, dtype=BF16)
        return lambda: rms_norm.rms_norm_forward(x, weight, 1e-6, 0.0, "llama", None), 4 * tokens * D + 2 * D

    def add_norm(tokens: int) -> tuple[Callable[[], Any], int]:
        x, y, weight = (torch.empty(*shape, dtype=BF16) for shape in ((tokens, D), (tokens, D), (D,)))
        run = fused_add_rms_norm.fused_add_rms_norm_forward
        return lambda: run(x, y, weight, 1e-6, 0.0, "llama"), 8 * tokens * D + 2 * D

    def gate(tokens: int) -> tuple[Callable[[], Any], int]:
        x, y = (torch.empty(tokens, HIDDEN, dtype=BF16) for _ in range(2))
        return lambda: swiglu.swiglu_forward(x, y), 6 * tokens * HIDDEN

    def boundary(tokens: int) -> tuple[Callable[[], Any], int]:
        """Coefficients and collapse of one sub-layer, and the mixing after it; the norm between is not in it."""
        x, y = torch.empty(tokens, STREAMS, D, dtype=BF16), torch.empty(tokens, D, dtype=BF16)
        fn, base = torch.empty(STREAMS * D, NUMBERS, dtype=BF16), torch.zeros(NUMBERS)
        scales = [torch.tensor(0.1) for _ in range(3)]

        def run() -> None:
            coefficients = mhc.LigerMHCCoeffsFunction.apply(x, fn, base, *scales, False, 20, 1e-6, 0.0, 1e-6, 2.0)
            pre, post, comb = coefficients
            mhc.LigerMHCPreFunction.apply(x, pre)
            mhc.LigerMHCPostResFunction.apply(x, y, post, comb)

        rows = 2 * (2 * STREAMS + 2) * D  # streams and a row come, streams and a row go
        return run, tokens * (rows + 4 * 2 * (STREAMS + STREAMS**2)) + 2 * fn.numel() + 4 * (NUMBERS + 3)

    return {"RMSNorm": norm, "add, RMSNorm": add_norm, "SwiGLU": gate, "mHC": boundary}


def _calls() -> dict[str, dict[int, tuple[Callable[[], Any], int]]]:
    from triton.runtime import autotuner

    def first(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = (self.prune_configs(kwargs) or self.configs)[0]
        return self.fn.run(*args, **{**kwargs, **config.all_kwargs()})

    patch.object(autotuner.Autotuner, "run", first).start()
    return {name: {tokens: make(tokens) for tokens in (64, 4096)} for name, make in cases().items()}


# --- what is found -------------------------------------------------------------------------------
def traced() -> dict[str, dict[int, dict[str, Any]]]:
    """Launches, and bytes moved and to move, by name and tokens."""
    import numpy as np

    from archc.cli._bench.static.interpreter import repair
    from archc.cli._bench.static.traced import tracing

    repair()
    np.seterr(all="ignore")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, of in _calls().items():
        for tokens, (run, bound) in of.items():
            with torch.no_grad(), tracing(sampled=True) as made:
                run()
            both = {kind: sum(sum(getattr(m, kind).values()) for m in made) for kind in ("distinct", "requested")}
            arrays = [m.requested for m in made if m.backend == "triton"]
            found.setdefault(name, {})[tokens] = {"launches": len(made), "bound": bound, **both, "arrays": arrays}
    return found


def compiled() -> dict[str, dict[int, list[dict[str, Any]]]]:
    """What the launches compile to for an H100."""
    from archc.cli._bench.static.compiled import Facts, recording
    from archc.cli._bench.static.compiled import compiled as facts_of

    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for name, of in _calls().items():
        for tokens, (run, _) in of.items():
            with torch.no_grad(), recording() as made:
                run()
            facts = [facts_of(launch, "sm_90") for launch in made]
            found.setdefault(name, {})[tokens] = [{f: getattr(x, f) for f in Facts.__slots__} for x in facts]
    return found


if __name__ == "__main__":
    main()
