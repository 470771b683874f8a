"""E05xx: `check` statements."""

from __future__ import annotations

from archc.diagnostics.registry import Code


def _model(check: str) -> str:
    """A small spec with a check."""
    fields = "  vocab = 1000, dim = 64, layers = 2, context = 1Ki\n"
    drawers = "  attention = gqa { heads = 4 }\n  ffn = swiglu { hidden = 256 }\n"
    return f"arch 1\nmodel tiny {{\n{fields}{drawers}  {check}\n}}\n"


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
)
