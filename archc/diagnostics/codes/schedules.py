"""E03xx: schedules."""

from __future__ import annotations

from archc.diagnostics.registry import Code


def _model(schedule: str, *, rest: str = "", layers: int = 6) -> str:
    """A small spec with two attention drawers and a schedule."""
    fields = f"  vocab = 1000, dim = 64, layers = {layers}, context = 1Ki\n"
    drawers = "  attention full = gqa { heads = 4 }\n  attention local = full { window = 16 }\n"
    fields += "  ffn = swiglu { hidden = 256 }\n"
    block = f"  schedule {{ {schedule} }}\n" if schedule else ""
    return f"arch 1\nmodel tiny {{\n{fields}{drawers}{rest}{block}}}\n"


CODES: tuple[Code, ...] = (
    Code(
        id="E0301",
        title="schedule of the wrong length",
        explanation="""\
A sequence covers exactly the layers of the model. `NAME * rest` fills whatever the other items leave.""",
        failing=_model("attention = [local * 2, full * 3]"),
        fixed=_model("attention = [local * 2, full * rest]"),
    ),
    Code(
        id="E0302",
        title="sequence and placements mixed",
        explanation="""\
A schedule lists drawers in order, `[local * 2, full]`, or places them, `[local at 0..1, full at 2..]`; not both in
one list.""",
        failing=_model("attention = [local at 0..1, full * 4]"),
        fixed=_model("attention = [local at 0..1, full at 2..]"),
    ),
    Code(
        id="E0303",
        title="layer placed twice",
        explanation="""\
Two placements of one slot name the same layer. Ranges include both ends.""",
        failing=_model("attention = [local at 0..2, full at 2..]"),
        fixed=_model("attention = [local at 0..2, full at 3..]"),
    ),
    Code(
        id="E0304",
        title="layer without a drawer",
        explanation="""\
Placements of `attention` and `ffn` cover every layer; `none at 3` says that a layer has none on purpose. In optional
slots (memory) a gap means none.""",
        failing=_model("attention = [local at 0..2, full at 4..]"),
        fixed=_model("attention = [local at 0..2, full at 3..]"),
    ),
    Code(
        id="E0305",
        title="no such layer",
        explanation="""\
Layers are counted from 0; the last is `layers - 1`. An open range (`3..`) ends there.""",
        failing=_model("attention = [local at 0..2, full at 3..6]"),
        fixed=_model("attention = [local at 0..2, full at 3..5]"),
    ),
    Code(
        id="E0306",
        title="filled and scheduled",
        explanation="""\
`SLOT = KIND { ... }` fills a slot in every layer, a schedule says which named drawer each layer uses. A model does
one or the other for a slot.""",
        failing=_model("attention = [local * 2, full * rest]", rest="  attention = local\n"),
        fixed=_model("attention = [local * 2, full * rest]"),
    ),
    Code(
        id="E0307",
        title="malformed schedule item",
        explanation="""\
An item is a drawer, `NAME * COUNT`, a group `(a, b)`, or a group repeated: `(a, b) * 3`. A computed count stands in
parentheses.""",
        failing=_model("attention = [2 * local, full * rest]"),
        fixed=_model("attention = [local * 2, full * rest]"),
    ),
    Code(
        id="E0308",
        title="`rest` that does not fit",
        explanation="""\
`rest` stands once, directly in the list: `[local * 2, (local, full) * rest]`. What the other items leave must be a
multiple of the group.""",
        failing=_model("attention = [local, (local, full) * rest]"),
        fixed=_model("attention = [local * 2, (local, full) * rest]"),
    ),
    Code(
        id="E0309",
        title="drawers without a schedule",
        explanation="""\
With one named drawer of a slot every layer uses it; with several, a schedule says which layer uses which.""",
        failing=_model(""),
        fixed=_model("attention = [local * 2, full * rest]"),
    ),
    Code(
        id="E0310",
        title="slot that does not differ by layer",
        explanation="""\
Layers may differ in `memory`, `attention` and `ffn`. Other slots are filled once for the whole model.""",
        failing=_model("attention = full, norm = [rms * 6]", rest="  check local.window == 16\n"),
        fixed=_model("attention = [local * 2, full * rest]", rest="  norm = rms\n"),
    ),
    Code(
        id="E0311",
        title="negative repeat",
        explanation="""\
A repeat count is a whole number, at least 0.""",
        failing=_model("attention = [local * (layers - 8), full * rest]"),
        fixed=_model("attention = [local * (layers - 4), full * rest]"),
    ),
)
