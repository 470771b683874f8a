"""Predicted and measured times of this machine: ``python -m bench.local_time [--fast] [--precision bf16]``.

Measures the machine on one thread (`archc bench --calibrate`), builds packages of Llama-, V3- and V4-like models in
three sizes each, and prints the time of a prefill and of a decoding step as `archc cost --hardware local` has it beside
the median of several runs, taken in turns. Times are those of the process's clock, which other processes do not stop;
they do share its memory and caches, so that a quiet machine is worth having.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from archc.cli._bench.calibrate import calibrate
from archc.cost.count import workload
from archc.cost.local import Rates, forward
from archc.plan import plan
from archc.resolve import load_text
from tests.built import built

HEAD = "arch 1\nmodel {name} {{ vocab = 32_000, dim = {dim}, layers = {layers}, context = 8Ki, head = untied\n"
HEAD += "precision = {precision}, cache = {precision}\n"
BODIES = {
    "llama": "attention = gqa {{ heads = {heads}, kv_heads = {groups}, rope = rope }}\n"
    "ffn = swiglu {{ hidden = {hidden} }} }}",
    "v3": "attention = mla {{ heads = 16, q_rank = {rank}, kv_rank = 256, nope_dim = 64, rope_dim = 32, v_dim = 64,\n"
    "  rope = yarn {{ theta = 10e3, pairs = interleaved, factor = 40, original = 4Ki, mscale = 1,\n"
    "  mscale_all_dim = 1 }} }}\nffn dense = swiglu {{ hidden = {hidden} }}\n"
    "ffn moe = moe {{ experts = 16, hidden = 1024, shared = 1,\n"
    "  router = sigmoid {{ active = 4, groups = 4, keep_groups = 2, scale = 2.5 }} }}\n"
    "schedule {{ ffn = [dense, moe * rest] }} }}",
    "v4": "residual = mhc {{ streams = 4, sinkhorn_iters = 20, hc_eps = 1e-6 }}\n"
    "attention swa = windowed {{ heads = {heads}, head_dim = 128, rope_dim = 32, q_rank = {rank}, out_groups = 4,\n"
    "  out_rank = {rank}, window = 128, rope = rope {{ theta = 10e3, pairs = interleaved }} }}\n"
    "attention csa = swa {{ compress = csa {{ ratio = 4,\n"
    "  indexer = lightning {{ heads = 16, head_dim = 64, topk = 128 }} }} }}\n"
    "attention hca = csa {{ compress = hca {{ ratio = 128 }} }}\n"
    "ffn moe = moe {{ experts = 16, hidden = 1024, shared = 1, activation = glu {{ clamp = 10 }},\n"
    "  router = sqrtsoftplus {{ active = 4, scale = 1.5 }} }}\n"
    "schedule {{ attention = [swa, (csa, hca) * rest] }} }}",
}
SIZES: dict[str, tuple[dict[str, int], ...]] = {
    "llama": (
        {"dim": 1024, "layers": 12, "heads": 16, "groups": 4, "hidden": 4096},
        {"dim": 1536, "layers": 12, "heads": 12, "groups": 4, "hidden": 4096},
        {"dim": 2048, "layers": 12, "heads": 32, "groups": 8, "hidden": 5632},
    ),
    "v3": (
        {"dim": 1024, "layers": 10, "rank": 384, "hidden": 4096},
        {"dim": 1536, "layers": 10, "rank": 512, "hidden": 4096},
        {"dim": 2048, "layers": 10, "rank": 768, "hidden": 6144},
    ),
    "v4": (
        {"dim": 1024, "layers": 9, "heads": 8, "rank": 512},
        {"dim": 1536, "layers": 9, "heads": 12, "rank": 512},
        {"dim": 2048, "layers": 9, "heads": 16, "rank": 768},
    ),
}
STEPS = {"prefill": (256, 256), "decode": (1, 2048)}
"""New tokens, and tokens in the end."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def text(family: str, size: int, precision: str = "fp32") -> str:
    """The spec of a model."""
    name = f"{family}_{size}"
    return (HEAD + BODIES[family]).format(name=name, precision=precision, **SIZES[family][size])


class Runner:
    """A package and a step of it, again and again from the same state."""

    def __init__(self, net: Any, vocab: int, mode: str) -> None:
        self.net, self.mode = net, mode
        self.new, self.total = STEPS[mode]
        self.ids = torch.randint(vocab, (1, self.total), generator=torch.Generator().manual_seed(0))
        self.cache: Any = None

    @torch.no_grad()
    def seconds(self) -> float:
        """One step."""
        past = self.total - self.new
        if self.cache is None or not past:
            self.cache = self.net.new_cache(1, self.total)
            for start in range(0, past, 512):
                self.net(self.ids[:, start : min(start + 512, past)], cache=self.cache)
        else:
            self.cache.rewind(self.new)
        begun = time.process_time()
        self.net(self.ids[:, past:], cache=self.cache)
        return time.process_time() - begun


def measured(family: str, size: int, rates: Rates, *, runs: int = 5, precision: str = "fp32") -> dict[str, Any]:
    """Seconds of prefill and of a decoding step, predicted and the median of runs taken in turns."""
    model = load_text(text(family, size, precision))[0]
    graph = plan(model)
    with tempfile.TemporaryDirectory() as folder:
        net = built(model, Path(folder)).Model(dtype=DTYPES[precision])
    steps = {mode: Runner(net, model.vocab, mode) for mode in STEPS}
    for step in steps.values():
        step.seconds()
        step.seconds()
    spent: dict[str, list[float]] = {mode: [] for mode in STEPS}
    for _ in range(runs):
        for mode, step in steps.items():
            spent[mode].append(step.seconds())
    found = {}
    for mode, (new, total) in STEPS.items():
        w, _ = workload(model, mode, 1, new, total)  # pyright: ignore[reportArgumentType]
        found[mode] = (forward(graph, w, rates), statistics.median(spent[mode]))
    return {"parameters": sum(p.numel() for p in net.parameters()), **found}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one size of each family")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("measuring the machine ...", flush=True)
    rates = Rates(calibrate(1))
    print(f"{'model':<10}{'parameters':>12}  {'step':<9}{'predicted':>12}{'measured':>12}{'deviation':>11}")
    for family, sizes in SIZES.items():
        for size in range(1 if options.fast else len(sizes)):
            found = measured(family, size, rates, precision=options.precision)
            for mode in STEPS:
                predicted, real = found[mode]
                print(
                    f"{family}_{size:<{9 - len(family)}}{found['parameters'] / 1e6:>11.0f}M  {mode:<9}"
                    f"{1e3 * predicted:>9.1f} ms{1e3 * real:>9.1f} ms{100 * (predicted / real - 1):>+10.0f} %",
                    flush=True,
                )
            gc.collect()


if __name__ == "__main__":
    main()
