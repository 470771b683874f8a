"""What the constraint of mHC holds, measured: ``python -m bench.residual`` writes docs/figures/residual.json and .png,
and prints the tables of docs/residual.md.

Three measurements. Sums: how far those of a mixing matrix are from one. Norms: by how much mixing can stretch the
streams at once. Depth: the size of the streams, and of their gradient, along 64 layers of a printed model, and by how
much all mixing from a layer on can stretch them.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import archc
from archc.cost.activations import activations
from archc.ops import Workload
from archc.plan import plan
from archc.resolve import load_text
from kernels.sinkhorn import sinkhorn

FIGURES = Path(__file__).resolve().parents[1] / "docs/figures"
STREAMS, PASSES = 4, 20
EPS = {"v4": 1e-6, "paper": 0.0}
SPREADS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Standard deviations of the logits of a mixing matrix."""
MATRICES = 20_000

# --- mixing matrices -----------------------------------------------------------------------------


def matrices(form: str, spread: float) -> Tensor:
    """Mixing matrices in float32, read out in float64, of normal logits: [MATRICES, STREAMS, STREAMS]."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(MATRICES, STREAMS, STREAMS, generator=draw) * spread
    return sinkhorn(logits, iters=PASSES, eps=EPS[form]).double()


def sums(form: str, spread: float) -> dict[str, float]:
    """How far the sums of either direction are from one.

    ``last`` is the direction normalised last, what a stream gets; ``other`` what a stream gives.
    """
    c = matrices(form, spread)
    last, other = ((c.sum(dim) - 1).abs().flatten() for dim in (-2, -1))
    return {
        "last_largest": float(last.max()),
        "other_median": float(other.median()),
        "other_99": float(other.quantile(0.99)),
        "other_largest": float(other.max()),
    }


def norms(form: str, spread: float) -> dict[str, float]:
    """Spectral norms of the matrices, and the largest of their bounds, sqrt(largest row sum * largest column sum)."""
    c = matrices(form, spread)
    norm = torch.linalg.matrix_norm(c, ord=2)
    bound = (c.sum(-1).amax(-1) * c.sum(-2).amax(-1)).sqrt()
    return {"mean": float(norm.mean()), "largest": float(norm.max()), "bound": float(bound.max())}


# --- depth ---------------------------------------------------------------------------------------
LAYERS, DIM = 64, 64
STD = round(0.006 * math.sqrt(7168 / DIM), 4)
"""What DeepSeek-V3's 0.006 at width 7168 (arXiv:2412.19437, section 4.2) is at this width: a matrix stretches vectors
alike."""

SPEC = """arch 1
model deep {{
  vocab     = 64
  dim       = {dim}
  layers    = {layers}
  context   = 64
  residual  = {residual}
  init      = normal {{ std = {std}, output_by_depth = {by_depth} }}
  attention = gqa {{ heads = 4, kv_heads = 2, head_dim = 16, rope = rope }}
  ffn       = swiglu {{ hidden = 128 }}
}}
"""


class Along(NamedTuple):
    """What is measured along a stack; the first layer or sub-layer first."""

    forward: list[float]
    """Norm of the streams that enter each layer, relative to those of the first."""
    backward: list[float]
    """Norm of the loss's gradient in them, relative to that of the last."""
    gains: list[tuple[float, float]]
    """Of all mixing from each sub-layer on, the largest absolute sum of a row of H_res, what a stream gets, and of a
    column, which is what its gradient gets; means over tokens (arXiv:2512.24880, figures 3 and 7: the Amax gain
    magnitude of the composite mapping)."""


@contextmanager
def module(residual: str, *, by_depth: bool) -> Iterator[Any]:
    """The model module of the deep stack's printed package."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "deep.arch"
        sizes = {"dim": DIM, "layers": LAYERS, "std": STD}
        spec.write_text(SPEC.format(residual=residual, by_depth=str(by_depth).lower(), **sizes))
        archc.build(archc.load(spec), folder, fuse="none")  # norms of modules are watched
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module("deep.model")
        finally:
            sys.path.remove(folder)
            for name in [n for n in sys.modules if n.partition(".")[0] == "deep"]:
                del sys.modules[name]


def depth(residual: str, spread: float | None = None, *, seed: int = 0, by_depth: bool = False) -> Along:
    """Sizes along the layers, in float64.

    Embeddings are drawn of unit size, matrices as ``SPEC`` says. What tokens say of mixing is drawn such that logits of
    mHC have the standard deviation ``spread`` over tokens, and that hyper-connections add ``spread`` times the tanh of
    a unit normal to each of their weights; without it both are as they start. The loss is a random direction of the
    logits of 2 x 32 random tokens.
    """
    torch.manual_seed(seed)
    with module(residual, by_depth=by_depth) as printed:
        net = printed.Model(dtype=torch.float64)
        in_logits = residual.startswith("mhc")
        with torch.no_grad():
            net.model.embed_tokens.weight.normal_()
            for name, p in net.named_parameters():
                if spread is not None and name.endswith("_hc.fn"):
                    p.normal_(std=(spread if in_logits else 1.0) / math.sqrt(p.shape[1]))
                elif spread is not None and name.endswith("_hc.scale"):
                    p.fill_(1.0 if in_logits else spread)
        mixed: list[Tensor] = []
        for part in net.modules():
            if type(part).__name__ == "HyperConnection":
                part.register_forward_hook(lambda module, args, made: mixed.append(made[-1].detach()))
        out = net(torch.randint(64, (2, 32)), hidden_states=True)
        streams = out.hidden_states[:-1]
        for x in streams:
            x.retain_grad()
        (out.logits * torch.randn(out.logits.shape, dtype=torch.float64)).sum().backward()
    forward = [float(x.detach().norm()) for x in streams]
    backward = [float(x.grad.norm()) for x in streams]
    return Along([n / forward[0] for n in forward], [n / backward[-1] for n in backward], gains(mixed))


def gains(mixed: list[Tensor]) -> list[tuple[float, float]]:
    """See `Along.gains`; of mixing matrices [B, S, from, to], the first sub-layer's first."""
    found: list[tuple[float, float]] = []
    product: Tensor | None = None
    for comb in reversed(mixed):
        product = comb if product is None else comb @ product
        size = product.abs()
        got, gave = (size.sum(dim).amax(-1).mean() for dim in (-2, -1))
        found.append((float(got), float(gave)))
    return found[::-1]


STACKS: dict[str, dict[str, Any]] = {
    "x + F(x)": {"residual": "add"},
    "mHC, form v4, logits 0.5": {"residual": "mhc", "spread": 0.5},
    "mHC, form of the paper, logits 0.5": {"residual": "mhc { form = paper }", "spread": 0.5},
    "mHC, single pass, logits 0.5": {"residual": "mhc { form = single_pass }", "spread": 0.5},
    "HC as it starts": {"residual": "hc"},
    "HC, scale 0.1": {"residual": "hc", "spread": 0.1},
    "HC, scale 0.2": {"residual": "hc", "spread": 0.2},
    "HC, scale 0.28": {"residual": "hc", "spread": 0.28},
}


# --- costs ---------------------------------------------------------------------------------------
WIDE, SUB_LAYERS, TOKENS = 4096, 64, 4096
"""Of the model whose costs are shown: that of DeepSeek-V4-Flash, and 32 layers."""

KINDS = (
    "add",
    "hc { dynamic = false }",
    "hc",
    "mhc { form = paper }",
    "mhc { form = v4 }",
    "mhc { form = single_pass }",
)


def costs(residual: str) -> dict[str, float]:
    """What the plan says of the residual path, for each sub-layer (its share of what stands at the end included):
    parameters, FLOPs of a token in a forward, and bytes a channel of a token that are kept for the gradient in
    bfloat16, with nothing run again, and with the residual path run again.
    """
    text = SPEC.replace("64\n  dim", "512\n  dim").replace("context   = 64", "context   = 4Ki")
    sizes = {"dim": WIDE, "layers": SUB_LAYERS // 2, "std": STD, "by_depth": "false"}
    (model,) = load_text(text.format(residual=residual, **sizes))
    report, graph = archc.cost(model, mode="prefill", seq=TOKENS), plan(model)
    workload = Workload(batch=1, new=TOKENS, act=2)
    none, again = (activations(graph, workload, how).by_component["residual"] for how in ("none", "mhc"))
    return {
        "parameters": report.params.by_component["residual"] / SUB_LAYERS,
        "flops": report.flops.ideal.by_component["residual"] / SUB_LAYERS / TOKENS,
        "kept": none / SUB_LAYERS / TOKENS / WIDE,
        "kept_again": again / SUB_LAYERS / TOKENS / WIDE,
    }


DIVIDED: dict[str, dict[str, Any]] = {name: how | {"by_depth": True} for name, how in STACKS.items()}
"""The same with output projections divided by sqrt(2 * layers) at the start, as GPT-2 does."""


# --- the page's data and picture -----------------------------------------------------------------
def measured() -> dict[str, Any]:
    """All that the page shows."""
    stacks, divided = ({name: depth(**how)._asdict() for name, how in kind.items()} for kind in (STACKS, DIVIDED))
    return {
        "spreads": list(SPREADS),
        "sums": {form: [sums(form, s) for s in SPREADS] for form in EPS},
        "norms": {form: [norms(form, s) for s in SPREADS] for form in EPS},
        "stacks": stacks,
        "divided": divided,
        "costs": {kind: costs(kind) for kind in KINDS},
    }


def tables(data: dict[str, Any]) -> tuple[str, str, str]:
    """The tables of the page: sums and norms at some spreads, the largest sizes in the stacks, costs."""
    spread_rows = ["| logits | gets: v4 | paper | gives: v4 | paper | stretches: v4 | paper |", "|---" * 7 + "|"]
    for s in (0.5, 1.0, 2.0, 4.0, 8.0):
        i = data["spreads"].index(s)
        given, norm = ([data[key][form][i] for form in EPS] for key in ("sums", "norms"))
        cells = [f"{row[key]:.1e}" for key in ("last_largest", "other_largest") for row in given]
        spread_rows.append(" | ".join([f"| {s:g}", *cells, *(f"{row['largest']:.4f}" for row in norm)]) + " |")
    stack_rows = [
        "| stack | streams | gradient | streams, divided | gradient, divided | gain of 60 sub-layers | of all 128 |",
        "|---" * 7 + "|",
    ]
    for name, stack in data["stacks"].items():
        ends = [max(data[kind][name][way]) for kind in ("stacks", "divided") for way in ("forward", "backward")]
        ends += [max(found[at]) for found in [stack["gains"]] for at in (-60, 0) if found]
        cells = [f"{n:.2f}" if n < 100 else f"{n:,.0f}" if n < 1e6 else f"{n:.0e}" for n in ends]
        stack_rows.append(" | ".join([f"| {name}", *cells, *["none"] * (6 - len(cells))]) + " |")
    cost_rows = ["| residual | parameters | FLOPs | kept | kept, run again |", "|---|---:|---:|---:|---:|"]
    for kind, found in data["costs"].items():
        cells = [f"{found[key]:,.0f}" for key in ("parameters", "flops")]
        cells += [f"{found[key]:.1f}" for key in ("kept", "kept_again")]
        cost_rows.append(" | ".join([f"| `{kind}`", *cells]) + " |")
    return "\n".join(spread_rows), "\n".join(stack_rows), "\n".join(cost_rows)


COLOURS = {"v4": "#0b5cad", "paper": "#c8590a"}
NAMES = {"v4": "form v4", "paper": "form of the paper"}
STACK_LINES = (
    {"color": "#8a8a8a", "linewidth": 4.5, "alpha": 0.55},
    {"color": COLOURS["v4"]},
    {"color": COLOURS["paper"], "linestyle": "--"},
    {"color": "#138086", "linestyle": "-."},
    {"color": "#e8a0a5"},
    {"color": "#d96570", "linestyle": ":"},
    {"color": "#b4121f", "linestyle": "--"},
    {"color": "#7a0c15"},
)
PAPER_GAIN = 3000
"""Of the composite mapping of a trained model of 27B with hyper-connections, over 60 sub-layers (arXiv:2512.24880,
figure 3)."""


def draw(data: dict[str, Any], path: Path) -> None:
    """Writes the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold", "legend.fontsize": 8.5})
    figure, ((a, b), (c, d), (e, f)) = plt.subplots(3, 2, figsize=(11, 12.4), layout="constrained")
    _sums(a, data)
    _norms(b, data)
    for axes, key, title, label in (
        (c, "forward", "Streams along 64 layers", "norm entering a layer / first layer"),
        (d, "backward", "Gradient along 64 layers", "norm of the gradient / last layer"),
    ):
        for (name, stack), line in zip(data["stacks"].items(), STACK_LINES, strict=True):
            axes.plot(range(LAYERS), stack[key], label=name, **line)
        axes.set(title=title, xlabel="layer", ylabel=label, yscale="log", ylim=(0.5, 1e10), xlim=(0, LAYERS - 1))
        axes.axhspan(0.5, 2, color="#2a7d2a", alpha=0.09, label="within 2x")
        axes.legend(loc="upper left" if key == "forward" else "upper right")
    for axes, at, title in ((e, 0, "streams"), (f, 1, "gradient")):
        for (name, stack), line in zip(data["stacks"].items(), STACK_LINES, strict=True):
            if stack["gains"]:
                axes.plot(range(2 * LAYERS), [gain[at] for gain in stack["gains"]], label=name, **line)
        axes.plot(2 * LAYERS - 60, PAPER_GAIN, "k*", markersize=10, label="a trained HC of 27B")
        axes.set(title=f"Gain of all mixing from here on: {title}", xlabel="sub-layer", yscale="log")
        axes.set(ylabel="largest sum of weights", ylim=(0.5, 1e10), xlim=(0, 2 * LAYERS - 1))
        axes.legend(loc="upper right", ncols=2)
    for axes in (a, b, c, d, e, f):
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _sums(axes: Any, data: dict[str, Any]) -> None:
    for form, rows in data["sums"].items():
        for key, style, what in (
            ("other_largest", "-", "given, largest"),
            ("other_99", "--", "given, 99 %"),
            ("last_largest", ":", "got, largest"),
        ):
            values = [max(row[key], 1e-8) for row in rows]
            axes.plot(data["spreads"], values, style, color=COLOURS[form], label=f"{what} ({NAMES[form]})")
    axes.axhline(5e-6, color="black", linewidth=0.8)
    axes.text(8, 6.5e-6, "5e-6", ha="right")
    _spread_axis(axes)
    axes.set(title="What a stream gives and gets: sums of weights", ylabel="distance from 1", yscale="log")
    axes.set_ylim(3e-8, 30)
    axes.legend(loc="upper left", ncols=2)


def _norms(axes: Any, data: dict[str, Any]) -> None:
    for form, rows in data["norms"].items():
        for key, style, what in (("bound", ":", "bound, largest"), ("largest", "-", "largest"), ("mean", "--", "mean")):
            values = [row[key] for row in rows]
            axes.plot(data["spreads"], values, style, color=COLOURS[form], label=f"{what} ({NAMES[form]})")
    _spread_axis(axes)
    axes.set(title="How far mixing stretches the streams at most", ylabel="spectral norm", ylim=(0.995, None))
    axes.legend(loc="upper left")


def _spread_axis(axes: Any) -> None:
    axes.set(xlabel="standard deviation of the logits", xscale="log")
    ticks = [s for s in SPREADS if math.log2(s).is_integer() or s == SPREADS[0]]
    axes.set_xticks(ticks, [f"{s:g}" for s in ticks])
    axes.minorticks_off()


def main() -> None:
    torch.set_num_threads(1)
    data = measured()
    FIGURES.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.6g}"))
    lines = ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in rounded.items())
    (FIGURES / "residual.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    draw(rounded, FIGURES / "residual.png")
    print(*tables(rounded), sep="\n\n", end="\n\n")
    print(f"{FIGURES / 'residual.json'}\n{FIGURES / 'residual.png'}")


if __name__ == "__main__":
    main()
