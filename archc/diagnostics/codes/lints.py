"""W0xxx: lints, warnings about specs that compile."""

from __future__ import annotations

from archc.diagnostics.registry import Code


def _model(rest: str, *, context: str = "1Ki") -> str:
    """A small spec with some more statements."""
    fields = f"  vocab = 1000, dim = 64, layers = 2, context = {context}\n"
    drawers = "  attention full = gqa { heads = 4 }\n  ffn = swiglu { hidden = 256 }\n"
    return f"arch 1\nmodel tiny {{\n{fields}{drawers}{rest}}}\n"


def _windowed(compress: str) -> str:
    """A small spec with a compressor."""
    return f"""\
arch 1
model tiny {{
  vocab = 1000, dim = 64, layers = 2, context = 1Ki
  attention = windowed {{
    heads = 4, head_dim = 16, rope_dim = 8, q_rank = 32, out_groups = 2, out_rank = 16, window = 32, rope = rope
    compress = {compress}
  }}
  ffn = swiglu {{ hidden = 256 }}
}}
"""


def _routed(router: str) -> str:
    """A small spec with a mixture of experts."""
    fields = "  vocab = 1000, dim = 64, layers = 2, context = 1Ki\n  attention = gqa { heads = 4 }\n"
    return f"arch 1\nmodel tiny {{\n{fields}  ffn = moe {{ experts = 8, hidden = 32, router = {router} }}\n}}\n"


_BYPASSING = "  memory early = engram { heads = 2, head_dim = 8, rows = 100, bypass = confidence }\n"

CODES: tuple[Code, ...] = (
    Code(
        id="W0001",
        title="unused drawer",
        explanation="""\
No layer uses the drawer and no other drawer is made from it.""",
        failing=_model("  attention local = full { window = 16 }\n  schedule { attention = full }\n"),
        fixed=_model("  attention local = full { window = 16 }\n  schedule { attention = [full, local] }\n"),
    ),
    Code(
        id="W0002",
        title="unused `let`",
        explanation="""\
Nothing reads the constant.""",
        failing=_model("  let head = 16\n"),
        fixed=_model("  let head = 16\n  full.head_dim = head\n"),
    ),
    Code(
        id="W0003",
        title="unused `param`",
        explanation="""\
Nothing reads the param, so setting it with `-P` or sweeping it changes nothing.""",
        failing=_model("  param head = 16 in [16, 32]\n"),
        fixed=_model("  param head = 16 in [16, 32]\n  full.head_dim = head\n"),
    ),
    Code(
        id="W0004",
        title="decimal context",
        explanation="""\
`K` and `M` are decimal: `4K` is 4000. Context lengths are nearly always powers of two: `4Ki` is 4096.""",
        failing=_model("", context="4K"),
        fixed=_model("", context="4Ki"),
    ),
    Code(
        id="W0005",
        title="choice of everything",
        explanation="""\
An indexer scores entries to pick the few that a token attends to. Where its `topk` is no smaller than the entries
there are at the model's `context`, it picks all of them: its parameters and its work change nothing. So do the `blocks`
of native sparse attention where together they are as long as the context, and those of an indexer in two stages that
hold all entries.""",
        failing=_windowed("csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 256 } }"),
        fixed=_windowed("csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 32 } }"),
    ),
    Code(
        id="W0006",
        title="context that compression does not divide",
        explanation="""\
A compressor makes one entry of every `ratio` tokens. The tokens at the end of a full `context` that are too few for a
group are seen through the window alone.""",
        failing=_windowed("hca { ratio = 100 }"),
        fixed=_windowed("hca { ratio = 128 }"),
    ),
    Code(
        id="W0007",
        title="indexer with a single pick",
        explanation="""\
The index loss compares where attention looks among the picked entries with the softmax of their scores. Over one entry
both are 1, whatever the scores: in the sparse stage, the default, the parameters of such an indexer get no gradient.
The dense stage compares all entries that a token sees, and teaches it.""",
        failing=_windowed("csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 1 } }"),
        fixed=_windowed("csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 32 } }"),
    ),
    Code(
        id="W0008",
        title="router that learns nothing",
        explanation="""\
Where a token has one expert, and weights add up to 1, its weight is 1 whatever the router says: no gradient of the loss
moves the router. Without `renormalise` (and `topk_first`) the weight is the expert's score, which learns. A loss that
levels loads teaches the router, too, but not which expert is good for a token.""",
        failing=_routed("sigmoid { active = 1 }"),
        fixed=_routed("sigmoid { active = 1, renormalise = false }"),
    ),
    Code(
        id="W0009",
        title="value without effect",
        explanation="""\
The field belongs to a part that this model does not have, or that it has elsewhere: what was written changes nothing.
Index keys of a compressor are normed by the compressor: `key_norm` is for indexers that make a key of each token.""",
        failing=_windowed(
            "csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 6, key_norm = rms } }",
        ),
        fixed=_windowed("csa { ratio = 4, indexer = lightning { heads = 2, head_dim = 8, topk = 6 } }"),
    ),
    Code(
        id="W0010",
        title="bypass on the last layer",
        explanation="""\
A bypass lets the tokens that its gate is sure of skip the layers behind its own. Behind the last layer there is none:
the gate and its loss change nothing that a token goes through.""",
        failing=_model(f"{_BYPASSING}  schedule {{ memory = early at 1 }}\n"),
        fixed=_model(f"{_BYPASSING}  schedule {{ memory = early at 0 }}\n"),
    ),
)
