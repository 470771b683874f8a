"""E05xx: `check` statements, and `solve` in sweeps."""

from __future__ import annotations

from archc.diagnostics.registry import Code


def _model(check: str) -> str:
    """A small spec with a check."""
    fields = "  vocab = 1000, dim = 64, layers = 2, context = 1Ki\n"
    drawers = "  attention = gqa { heads = 4 }\n  ffn = swiglu { hidden = 256 }\n"
    return f"arch 1\nmodel tiny {{\n{fields}{drawers}  {check}\n}}\n"


def _swept(solve: str, domain: str = " in 1..512") -> str:
    """A small spec with a sweep."""
    params = f"param h = 2 in [2, 4]\n  param n = 64{domain}"
    drawers = "attention = gqa { heads = h }\n  ffn = swiglu { hidden = n }"
    fields = "vocab = 1000, dim = 64, layers = 2, context = 1Ki"
    sweep = f"sweep s {{ h = [2, 4], {solve} }}"
    return f"arch 1\nmodel tiny {{\n  {params}\n  {fields}\n  {drawers}\n  {sweep}\n}}\n"


CODES: tuple[Code, ...] = (
    Code(
        id="E0501",
        title="check that does not hold",
        explanation="""\
`check condition else "why"` must hold for the model. The message shows the sides of the comparison that failed.
Checks that ask for costs run in `archc check` and `archc build`, the others whenever the spec is read.""",
        failing=_model('check dim % 128 == 0 else "FP8 blocks are 128 wide"'),
        fixed=_model('check dim % 64 == 0 else "blocks are 64 wide"'),
    ),
    Code(
        id="E0502",
        title="check without a condition",
        explanation="""\
The condition of a check is `true` or `false`: a comparison, or several with `and`, `or` and `not`.""",
        failing=_model("check dim * 2"),
        fixed=_model("check dim * 2 == 128"),
    ),
    Code(
        id="E0503",
        title="unknown cost",
        explanation="""\
`cost.` is followed by a key of `archc cost --format json`, for example `cost.params.total`,
`cost.kv_cache.bytes_per_token` or `cost.memory.per_device.total`.""",
        failing=_model("check cost <= 1B"),
        fixed=_model("check cost.params.total <= 1B"),
    ),
    Code(
        id="E0504",
        title="cost outside a check",
        explanation="""\
Costs follow from the finished model, so no value of the model can depend on them. A `check` may ask for them.""",
        failing=_model("let budget = cost.params.total\n  check budget <= 1B"),
        fixed=_model("check cost.params.total <= 1B"),
    ),
    Code(
        id="E0505",
        title="bad workload",
        explanation="""\
A cost in a check takes the keywords `mode` (train, prefill or decode), `batch`, `seq` and `context`; those left out
are decode, batch 1, and the context of the model. `hardware`, `gpus`, `parallel` and `recompute` say what it runs on,
as the options of `archc cost` do; `cost.time` and `cost.memory.fits` need hardware, there or in the model.""",
        failing=_model("check cost.kv_cache.bytes_total(contxt = 1Ki) <= 1GiB"),
        fixed=_model("check cost.kv_cache.bytes_total(context = 1Ki) <= 1GiB"),
    ),
    Code(
        id="E0506",
        title="solve without an equation",
        explanation="""\
`solve PARAM for LEFT == RIGHT` finds the value of a param that brings two quantities closest to each other. `within`
says how far they may differ, as a share of the right one: `within 0.005` is half a percent; by default it is 0.01.""",
        failing=_swept("solve n for cost.params.total <= 1M"),
        fixed=_swept("solve n for cost.params.total == 1M within 0.05"),
    ),
    Code(
        id="E0507",
        title="param that cannot be solved for",
        explanation="""\
A `solve` searches the domain of its param: a list of numbers, a range of whole numbers (`1..64`) or of fractions
(`0.5..4.0`).""",
        failing=_swept("solve n for n * h == 256", domain=""),
        fixed=_swept("solve n for n * h == 256"),
    ),
    Code(
        id="E0508",
        title="solve without a solution",
        explanation="""\
The value of the domain that comes closest to the equation of a `solve` still misses it by more than its tolerance, or
none of them gives a model. `archc sweep` lists the variant with this reason, and never counts it to the front.""",
        failing="archc sweep my.arch split     # solve experts for cost.params.total == 27B, experts in 1..64",
        fixed="archc sweep my.arch split     # experts in 1..512",
        example="shell",
    ),
)
