"""E01xx: names and structure."""

from __future__ import annotations

from archc.diagnostics.registry import Code

_REST = """\
  vocab = 1000, dim = 64, layers = 2, context = 1Ki
"""
_PARTS = """\
  attention = gqa { heads = 4 }
  ffn = swiglu { hidden = 256 }
"""


def _model(body: str) -> str:
    """A small spec around the part that an example is about."""
    return f"arch 1\nmodel tiny {{\n{_REST}{body}}}\n"


CODES: tuple[Code, ...] = (
    Code(
        id="E0102",
        title="import that cannot be followed",
        explanation="""\
`import "other.arch" as o` reads a file beside the importing one, or one of the library of specs. Paths are relative,
so that a spec means the same on every machine; they stay inside the folder of the spec that is compiled; files must
not import each other in a circle.""",
        failing='arch 1\nimport "lama_3_1_8b.arch" as base\n',
        fixed='arch 1\nimport "llama_3_1_8b.arch" as base\n',
    ),
    Code(
        id="E0106",
        title="unknown model or spec",
        explanation="""\
`extends` takes a model of the same file, or `alias.model` of an imported one. A command takes the path of a spec or
the name of one in the library, and with `-m` the name of a model in it.""",
        failing=f"arch 1\nmodel big extends smal {{\n{_REST}{_PARTS}}}\nmodel small {{\n{_REST}{_PARTS}}}\n",
        fixed=f"arch 1\nmodel big extends small {{ layers = 4 }}\nmodel small {{\n{_REST}{_PARTS}}}\n",
    ),
    Code(
        id="E0107",
        title="models that extend each other",
        explanation="""\
A model takes over everything the model behind `extends` says; following `extends` must come to an end.""",
        failing=f"arch 1\nmodel a extends b {{\n{_REST}{_PARTS}}}\nmodel b extends a {{ layers = 4 }}\n",
        fixed=f"arch 1\nmodel a {{\n{_REST}{_PARTS}}}\nmodel b extends a {{ layers = 4 }}\n",
    ),
    Code(
        id="E0108",
        title="defined twice",
        explanation="""\
A body sets a field once, and a name stands for one thing: drawers, `let`s and `param`s of a model share their names.
A model that extends another may define its names again; that replaces them.""",
        failing=_model(_PARTS + "  layers = 4\n"),
        fixed=_model(_PARTS),
    ),
    Code(
        id="E0109",
        title="statement in the wrong place",
        explanation="""\
Imports, models, sweeps and shared names stand at the top of a file; fields, drawers, schedules and checks inside a
model; only fields (and `let`s) inside a drawer.""",
        failing="arch 1\ndim = 4096\n",
        fixed=_model(_PARTS),
    ),
    Code(
        id="E0110",
        title="forgotten `=`",
        explanation="""\
`SLOT = KIND { ... }` fills a slot in every layer, `SLOT NAME = KIND { ... }` declares a named drawer. `NAME { ... }`
without `=` amends what exists, so words before a brace are not a drawer.""",
        failing=_model("  attention gqa { heads = 4 }\n  ffn = swiglu { hidden = 256 }\n"),
        fixed=_model(_PARTS),
    ),
    Code(
        id="E0113",
        title="unknown slot",
        explanation="""\
A named drawer says which slot it is for: `attention local = gqa { ... }`. `archc drawers` lists the slots.""",
        failing=_model(_PARTS + "  rop long = rope { theta = 1e6 }\n  attention.rope = long\n"),
        fixed=_model(_PARTS + "  rope long = rope { theta = 1e6 }\n  attention.rope = long\n"),
    ),
    Code(
        id="E0114",
        title="unknown drawer or kind",
        explanation="""\
What fills a slot is a named drawer of that slot, or one of its kinds, or a `let` that stands for one. A name never
means itself: in `attention csa = csa { ... }` the right side names a kind. `archc drawers SLOT` lists the kinds.""",
        failing=_model("  attention = gpa { heads = 4 }\n  ffn = swiglu { hidden = 256 }\n"),
        fixed=_model(_PARTS),
    ),
    Code(
        id="E0115",
        title="slot without kinds",
        explanation="""\
The word belongs to the language, but a model cannot set it: no drawer of this slot is installed, or the slot is one of
other drawers, such as `rope` of an attention.""",
        failing=_model(_PARTS + "  quantization = int8\n"),
        fixed=_model(_PARTS),
    ),
    Code(
        id="E0116",
        title="drawer file that cannot be used",
        explanation="""\
A drawer is one Python file, `DIR/<slot>/<kind>.py` or `DIR/<kind>.py` in a folder given with `--drawers`, or in an
installed package. It defines exactly one public drawer class, of the slot it stands for, with fields of types the
language has. The message names the file and what is wrong with it.""",
        failing="archc check my.arch --drawers drawers/     # drawers/attention/mine.py raises ImportError",
        fixed="archc check my.arch --drawers drawers/     # drawers/attention/mine.py defines one Attention class",
        example="shell",
    ),
    Code(
        id="E0117",
        title="amending what does not exist",
        explanation="""\
`name { ... }` and `a.b = value` change something that exists: a drawer of this model or of one it extends, or a slot
that is filled. To fill a slot, write `slot = KIND { ... }`.""",
        failing=_model(_PARTS + "  attention.rope.theta = 1e6\n"),
        fixed=_model(_PARTS + "  attention.rope = rope { theta = 1e6 }\n"),
    ),
    Code(
        id="E0118",
        title="unknown name",
        explanation="""\
A name on the right of `=` is one of the field's own words, or a drawer or kind of its slot, or a `let`, a `param` or
a field of the model. Fields of the same drawer are not visible: a value that two fields share is a `let`. `-P` sets
declared params only.""",
        failing=_model("  attention = gqa { heads = 4, kv_heads = heads }\n  ffn = none\n"),
        fixed=_model("  let h = 4\n  attention = gqa { heads = h, kv_heads = h }\n  ffn = none\n"),
    ),
    Code(
        id="E0119",
        title="defined by itself",
        explanation="""\
Following the names of a definition leads back to it, so it has no value.""",
        failing=_model("  let a = b * 2\n  let b = a + 1\n  attention = gqa { heads = a }\n  ffn = none\n"),
        fixed=_model("  let a = b * 2\n  let b = 2\n  attention = gqa { heads = a }\n  ffn = none\n"),
    ),
    Code(
        id="E0120",
        title="nested too deeply",
        explanation="""\
More than 60 definitions lead to one another (a `let` that names a `let` that names a `let` ...). No model needs as
many; the limit keeps the compiler from running out of stack.""",
        failing="arch 1\nlet a0 = 1\n"
        + "".join(f"let a{i + 1} = a{i} + 1\n" for i in range(80))
        + f"model tiny {{\n{_REST}  attention = gqa {{ heads = a80 }}\n  ffn = none\n}}\n",
        fixed=_model("  let a0 = 1\n  let a1 = a0 + 1\n  attention = gqa { heads = a1 }\n  ffn = none\n"),
    ),
)
