"""E02xx: values and fields."""

from __future__ import annotations

from archc.diagnostics.registry import Code


def _model(attention: str = "gqa { heads = 4 }", *, rest: str = "") -> str:
    """A small spec around the part that an example is about."""
    fields = "  vocab = 1000, dim = 64, layers = 2, context = 1Ki\n"
    return f"arch 1\nmodel tiny {{\n{fields}  attention = {attention}\n  ffn = swiglu {{ hidden = 256 }}\n{rest}}}\n"


CODES: tuple[Code, ...] = (
    Code(
        id="E0201",
        title="missing field",
        explanation="""\
A drawer has fields without a default; each must be set in its body, or in the drawer that it amends. A model needs
`attention` and `ffn`; `none` says that a layer has none on purpose.""",
        failing=_model("gqa"),
        fixed=_model(),
    ),
    Code(
        id="E0202",
        title="wrong kind of value",
        explanation="""\
A field takes values of one type: whole numbers (`4096`, `4Ki`, also `10e3`), numbers, `true` or `false`, strings,
lists, or drawers of a slot. `archc drawers KIND` lists the fields of a drawer and their types.""",
        failing=_model("gqa { heads = 4.5 }"),
        fixed=_model(),
    ),
    Code(
        id="E0203",
        title="unknown field",
        explanation="""\
A drawer has the fields of its kind, no others; `archc drawers KIND` lists them.""",
        failing=_model("gqa { heads = 4, windo = 128 }"),
        fixed=_model("gqa { heads = 4, window = 128 }"),
    ),
    Code(
        id="E0204",
        title="value out of its limits",
        explanation="""\
Fields have limits: a width is positive, a rotated width is even. A value that follows from other fields (a default)
must respect them too.""",
        failing=_model("gqa { heads = -4 }"),
        fixed=_model(),
    ),
    Code(
        id="E0205",
        title="unknown word",
        explanation="""\
Some fields take one of a few words, written bare: `norm_placement = post`.""",
        failing=_model(rest="  norm_placement = pst\n"),
        fixed=_model(rest="  norm_placement = post\n"),
    ),
    Code(
        id="E0206",
        title="param out of its domain",
        explanation="""\
`param name = value in domain` lists the values that the param may take; its own value, `-P name=value` and the values
of sweeps are checked against it.""",
        failing=_model("gqa { heads = h }", rest="  param h = 6 in [2, 4, 8]\n"),
        fixed=_model("gqa { heads = h }", rest="  param h = 4 in [2, 4, 8]\n"),
    ),
    Code(
        id="E0207",
        title="operands that do not fit",
        explanation="""\
`+ - * / // %` and `< <= > >=` take numbers, `and or not` take `true` and `false`, `==` compares things of one type.""",
        failing=_model("gqa { heads = 4 + true }"),
        fixed=_model("gqa { heads = 4 + 4 }"),
    ),
    Code(
        id="E0208",
        title="division by zero",
        explanation="""\
The right side of `/`, `//` or `%` is 0.""",
        failing=_model("gqa { heads = 4 / n }", rest="  let n = 0\n"),
        fixed=_model("gqa { heads = 4 / n }", rest="  let n = 2\n"),
    ),
    Code(
        id="E0209",
        title="too large",
        explanation="""\
A field holds whole numbers up to 2^63 - 1, an expression numbers up to 1e308 (whole ones up to 1e30), a list at most
10,000 values of a range.""",
        failing=_model("gqa { heads = 4, scale = 1e300 * 1e300 }"),
        fixed=_model("gqa { heads = 4, scale = 1e-3 * 1e2 }"),
    ),
    Code(
        id="E0210",
        title="fields that do not fit each other",
        explanation="""\
A drawer has rules between its fields, for example that the key-value heads divide the query heads. The message states
the rule with its numbers.""",
        failing=_model("gqa { heads = 4, kv_heads = 3 }"),
        fixed=_model("gqa { heads = 4, kv_heads = 2 }"),
    ),
    Code(
        id="E0211",
        title="amending a value",
        explanation="""\
`name { ... }` and `name.part = ...` change parts of a drawer. A number, word or list has no parts: it is replaced
whole.""",
        failing=_model(rest="  dim { size = 128 }\n"),
        fixed=_model(rest="  norm { eps = 1e-5 }\n"),
    ),
    Code(
        id="E0212",
        title="unknown function",
        explanation="""\
The language has no functions; only costs inside a `check` take arguments, as in `cost.kv_cache.bytes_total(context =
1Mi)`.""",
        failing=_model("gqa { heads = min(4, 8) }"),
        fixed=_model(),
    ),
    Code(
        id="E0215",
        title="default that cannot be computed",
        explanation="""\
The default of a field follows from others by a formula of its drawer, which has no result for these values. Set the
field.""",
        failing="archc check my.arch --drawers drawers/     # its default divides by groups, groups = 0",
        fixed="archc check my.arch --drawers drawers/     # groups = 4",
        example="shell",
    ),
)
