"""Kernels of Liger (LinkedIn) through the tool of `archc bench --static`: ``python -m bench.liger`` prints the rows of
docs/kernel_facts.md, of 1, 64 and 4,096 tokens in bfloat16, at the widths of DeepSeek-V4-Flash or (``--width 7168``)
DeepSeek-V4-Pro, and what kernels compile to for one or more ``--arch``.

It needs Liger 0.8.5, which nothing else here uses: ``pip install --no-deps --target DIR liger-kernel==0.8.5``, and DIR
on PYTHONPATH. Kernels that Liger tunes on a GPU take the first of their configurations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from archc.cli._bench.rows import narrowest

STREAMS, NUMBERS = 4, 24
HIDDEN = {4096: 2048, 7168: 3072}
"""Channels of an expert, by those of the model."""
BF16 = torch.bfloat16


def main() -> None:
    """Prints the rows, or what a child of this file found."""
    parser = argparse.ArgumentParser(prog="python -m bench.liger")
    parser.add_argument("--width", type=int, choices=list(HIDDEN), default=4096)
    parser.add_argument("--arch", nargs="+", choices=["sm_80", "sm_90", "sm_100"], default=["sm_90"])
    parser.add_argument("--child", choices=["trace", "compile"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        found = compiled(asked.width, asked.arch) if asked.child == "compile" else traced(asked.width)
        print("\n" + json.dumps(found))
        return
    moved, code = (_child(how) for how in ("trace", "compile"))
    print("| op | tokens | launches | must move | distinct | asked |")
    print("|---|---|---|---|---|---|")
    for name, of in moved.items():
        for tokens, found in of.items():
            cells = [name, f"{int(tokens):,}", str(found["launches"]), f"{found['bound'] / 2**20:.2f} MiB"]
            cells += [f"{found[kind] / found['bound']:.2f}x" for kind in ("distinct", "requested")]
            print("|", " | ".join(cells), "|")
    for arch in asked.arch:
        print(f"\n| op, {arch} | tokens | registers | spills | shared | access | matrix | compile |")
        print("|---|---|---|---|---|---|---|---|")
        for name, of in moved.items():
            for tokens, found in of.items():
                facts = code[arch][name][tokens]
                widths = [narrowest(f, moved) for f, moved in zip(facts, found["arrays"], strict=True)]
                cells = [name, f"{int(tokens):,}", ", ".join(str(f["registers"]) for f in facts)]
                cells += [f"{sum(f['spills'] for f in facts)} B", f"{max(f['shared'] for f in facts) / 1024:.1f} KiB"]
                cells += [f"{min(w for w in widths if w)}-bit"]
                cells += [", ".join(f"{n} {kind}" for f in facts for kind, n in f["matrix"].items()) or "-"]
                print("|", " | ".join([*cells, f"{max(f['seconds'] for f in facts):.1f} s"]), "|")


def _child(how: str) -> Any:
    with tempfile.TemporaryDirectory() as kept:
        env = {**os.environ, "TRITON_INTERPRET": "1" if how == "trace" else "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "bench.liger", *sys.argv[1:], "--child", how]
        env |= {"TRITON_CACHE_DIR": kept}
        said = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(said.strip().splitlines()[-1])


# --- what is called ------------------------------------------------------------------------------
def cases(width: int) -> dict[str, Callable[[int], tuple[Callable[[], Any], int]]]:
    """By name: of a number of tokens the call, and the bytes that it must move."""
    names = ("fused_add_rms_norm", "mhc", "rms_norm", "swiglu")
    fused_add_rms_norm, mhc, rms_norm, swiglu = (import_module(f"liger_kernel.ops.{name}") for name in names)

    hidden = HIDDEN[width]

    def norm(tokens: int) -> tuple[Callable[[], Any], int]:
        x, weight = torch.empty(tokens, width, dtype=BF16), torch.empty(width, dtype=BF16)
        return lambda: rms_norm.rms_norm_forward(x, weight, 1e-6, 0.0, "llama", None), 4 * tokens * width + 2 * width

    def add_norm(tokens: int) -> tuple[Callable[[], Any], int]:
        x, y, weight = (torch.empty(*shape, dtype=BF16) for shape in ((tokens, width), (tokens, width), (width,)))
        run = fused_add_rms_norm.fused_add_rms_norm_forward
        return lambda: run(x, y, weight, 1e-6, 0.0, "llama"), 8 * tokens * width + 2 * width

    def gate(tokens: int) -> tuple[Callable[[], Any], int]:
        x, y = (torch.empty(tokens, hidden, dtype=BF16) for _ in range(2))
        return lambda: swiglu.swiglu_forward(x, y), 6 * tokens * hidden

    def boundary(tokens: int) -> tuple[Callable[[], Any], int]:
        """Coefficients and collapse of one sub-layer, and the mixing after it; the norm between is not in it."""
        x, y = torch.empty(tokens, STREAMS, width, dtype=BF16), torch.empty(tokens, width, dtype=BF16)
        fn, base = torch.empty(STREAMS * width, NUMBERS, dtype=BF16), torch.zeros(NUMBERS)
        scales = [torch.tensor(0.1) for _ in range(3)]

        def run() -> None:
            coefficients = mhc.LigerMHCCoeffsFunction.apply(x, fn, base, *scales, False, 20, 1e-6, 0.0, 1e-6, 2.0)
            pre, post, comb = coefficients
            mhc.LigerMHCPreFunction.apply(x, pre)
            mhc.LigerMHCPostResFunction.apply(x, y, post, comb)

        rows = 2 * (2 * STREAMS + 2) * width  # streams and a row come, streams and a row go
        return run, tokens * (rows + 4 * 2 * (STREAMS + STREAMS**2)) + 2 * fn.numel() + 4 * (NUMBERS + 3)

    return {"RMSNorm": norm, "add, RMSNorm": add_norm, "SwiGLU": gate, "mHC": boundary}


def _calls(width: int) -> dict[str, dict[int, tuple[Callable[[], Any], int]]]:
    from triton.runtime import autotuner

    def first(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = (self.prune_configs(kwargs) or self.configs)[0]
        return self.fn.run(*args, **{**kwargs, **config.all_kwargs()})

    patch.object(autotuner.Autotuner, "run", first).start()
    return {name: {tokens: make(tokens) for tokens in (1, 64, 4096)} for name, make in cases(width).items()}


# --- what is found -------------------------------------------------------------------------------
def traced(width: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Launches, and bytes moved and to move, by name and tokens."""
    import numpy as np

    from archc.cli._bench.static.interpreter import repair
    from archc.cli._bench.static.traced import tracing

    repair()
    np.seterr(all="ignore")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, of in _calls(width).items():
        for tokens, (run, bound) in of.items():
            with torch.no_grad(), tracing(sampled=True) as made:
                run()
            both = {kind: sum(sum(getattr(m, kind).values()) for m in made) for kind in ("distinct", "requested")}
            arrays = [m.requested for m in made if m.backend == "triton"]
            found.setdefault(name, {})[tokens] = {"launches": len(made), "bound": bound, **both, "arrays": arrays}
    return found


def compiled(width: int, archs: list[str]) -> dict[str, dict[str, dict[int, list[dict[str, Any]]]]]:
    """What the launches compile to, by target, name and tokens."""
    from archc.cli._bench.static.compiled import Facts, recording
    from archc.cli._bench.static.compiled import compiled as facts_of

    found: dict[str, dict[str, dict[int, list[dict[str, Any]]]]] = {arch: {} for arch in archs}
    for name, of in _calls(width).items():
        for tokens, (run, _) in of.items():
            with torch.no_grad(), recording() as made:
                run()
            for arch, rows in found.items():
                facts = [facts_of(launch, arch) for launch in made]
                rows.setdefault(name, {})[tokens] = [{f: getattr(x, f) for f in Facts.__slots__} for x in facts]
    return found


if __name__ == "__main__":
    main()
