"""E00xx: what the parser reports."""

from __future__ import annotations

from archc.diagnostics.registry import Code

_MODEL = """\
arch 1

model small {{
  vocab = 256, dim = 64, layers = 2, context = 1Ki
  {line}
  attention = gqa {{ heads = 4 }}
  ffn = swiglu {{ hidden = 256 }}
}}
"""


def _small(line: str) -> str:
    """A small model with one more line in it."""
    return _MODEL.format(line=line)


CODES = (
    Code(
        id="E0001",
        title="unexpected token",
        explanation="""\
Something stands where it cannot. The message says what could. A statement ends at a newline or a comma; newlines
inside `[ ]` and `( )`, and after an operator, do not count. The broken statement is left out, and reading goes on with
the next one.""",
        failing=_small("norm == rms { eps = 1e-5 }"),
        fixed=_small("norm = rms { eps = 1e-5 }"),
    ),
    Code(
        id="E0002",
        title="unexpected character",
        explanation="""\
A character that the language has no use for: `:`, `;`, `@`, a typographic quote or dash, a space that is none. Fields
are set with `=`, statements are separated by newlines or commas, logic is written `and`, `or`, `not`.""",
        failing=_small("norm: rms { eps = 1e-5 }"),
        fixed=_small("norm = rms { eps = 1e-5 }"),
    ),
    Code(
        id="E0003",
        title="unbalanced bracket",
        explanation="""\
A bracket is never closed, closes nothing, or is closed by one of another shape. For a missing one the help says where
it seems to be missing, judged by line and indentation; what follows is read as if it stood there.""",
        failing=_small("norm = rms { eps = (1 + 1) / (200 * 1000 }"),
        fixed=_small("norm = rms { eps = (1 + 1) / (200 * 1000) }"),
    ),
    Code(
        id="E0004",
        title="nested too deeply",
        explanation="""\
Brackets and operators may nest a hundred deep. Chained operators count, since `a + b + c` is `(a + b) + c`. No
architecture needs that much; a generated spec can name inner parts with `let`, and a long schedule repeats with
`*`.""",
        failing=_small(f"norm = rms {{ eps = 1e-5{' + 0' * 101} }}"),
        fixed=_small("norm = rms { eps = 1e-5 + 0 }"),
    ),
    Code(
        id="E0005",
        title="statements run together",
        explanation="Two statements stand on one line with nothing between them. Put a comma or a newline there.",
        failing=_small("head = tied norm = rms { eps = 1e-5 }"),
        fixed=_small("head = tied, norm = rms { eps = 1e-5 }"),
    ),
    Code(
        id="E0006",
        title="malformed number",
        explanation="""\
The suffix is no unit, or `_` does not stand between two digits. Units are K M B T (powers of 1000), Ki Mi Gi Ti (powers
of 1024), KB MB GB TB and KiB MiB GiB TiB (bytes); `/s` makes a rate: 3.35TB/s.""",
        failing=_small("let eps = 10ki\n  norm = rms { eps = 1 / eps }"),
        fixed=_small("let eps = 10Ki\n  norm = rms { eps = 1 / eps }"),
    ),
    Code(
        id="E0007",
        title="number too large",
        explanation="A number must fit a double; a whole number has fewer than sixty digits.",
        failing=_small("norm = rms { eps = 1e999 }"),
        fixed=_small("norm = rms { eps = 1e-9 }"),
    ),
    Code(
        id="E0008",
        title="malformed string",
        explanation="""\
Strings stand between double quotes, on one line. The escapes are `\\n`, `\\t`, `\\"` and `\\\\`.""",
        failing=_small('check dim % 64 == 0 else "FP8 blocks'),
        fixed=_small('check dim % 64 == 0 else "FP8 blocks"'),
    ),
    Code(
        id="E0009",
        title="name with a letter of another alphabet",
        explanation="""\
Names are made of a-z, A-Z, 0-9 and `_`, since they become names in generated code. Comments and strings
may hold any text.""",
        failing=_small("let breite_µ = 1e-5\n  norm = rms { eps = 1e-5 }"),
        fixed=_small("let width_mu = 1e-5\n  norm = rms { eps = width_mu }"),
    ),
    Code(
        id="E0010",
        title="unknown edition",
        explanation="""\
The first line says which edition of the language a file is written in. This compiler does not know that one: it may be
newer than the compiler.""",
        failing="arch 7\n" + _small("").removeprefix("arch 1\n"),
        fixed=_small(""),
    ),
)
