"""Facts of kernels as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archc.cli._bench.rows import Row
from archc.cli._cost.units import bytes_text
from archc.cli._plain import Column, Line, Table, write

NOTE = (
    "Bytes in bfloat16. What must move is every operand and result once, parameters once for all tokens. Beside it,"
    " what the launches move: distinct bytes of each launch, added up; and all that loads and stores ask for, of which"
    " caches serve a part. What PyTorch runs between kernels counts as a launch too."
)


def show(model: str, rows: Sequence[Row], layers: Sequence[dict[str, Any]]) -> None:
    """Prints what calls move against what they must, what their kernels compile to, and what layers launch."""
    parts: list[str | Line | Table] = [Line(f"{model}: kernels without a GPU", "bold")]
    ran = [row for row in rows if "error" not in row]
    archs = list(dict.fromkeys(row["arch"] for row in ran))
    for (op, shapes), some in _by(ran, "op", "shapes").items():
        parts += ["", Line(f"{op} {shapes}", "bold", len(op)), ""]
        parts.append(_bytes([row for row in some if row["arch"] == archs[0]]))
        for arch in archs:
            parts += ["", _kernels([row for row in some if row["arch"] == arch], arch)]
    if layers:
        parts += ["", Line("launches of a layer of the tiny twin", "bold"), "", _layers(layers)]
    for row in rows:
        if "error" in row:
            parts += ["", Line(f"{row['op']} {row['shapes']} cannot run here:", "bold"), row["error"].splitlines()[-1]]
    write(*parts, "", Line(NOTE, "dim"))


def _bytes(rows: Sequence[Row]) -> Table:
    """What a call moves, by way and number of tokens."""
    titles = ("tokens", "launches", "must move", "distinct", "asked")
    table = Table(Column("way"), *(Column(title, "right") for title in titles))
    for (way, tokens), some in _by(rows, "way", "tokens").items():
        bound = some[0]["bytes_bound"]
        moved = [sum(row[kind] for row in some) for kind in ("bytes_footprint", "bytes_requested")]
        table.add(
            way,
            f"{tokens:,}",
            str(sum(row["launches"] for row in some)),
            bytes_text(bound),
            *(f"{n / bound:.2f}x" for n in moved),
        )
    return table


def _kernels(rows: Sequence[Row], arch: str) -> Table:
    """What each kernel of a call compiles to: one line for each outcome, with the numbers of tokens that lead to it."""
    titles = ("tokens", "registers", "spills", "shared", "rows", "access", "compile")
    table = Table(Column(f"for {arch}"), *(Column(t, "right") for t in titles), Column("matrix"))
    facts = ("kernel", "regs", "spills", "shared", "row_bits", "access_bits", "mma")
    own = [row for row in rows if row["backend"] == "triton"]
    for some in _by(own, *facts).values():
        row = some[0]
        table.add(
            row["kernel"].removeprefix("_").removesuffix("_kernel"),
            ", ".join(f"{n:,}" for n in dict.fromkeys(r["tokens"] for r in some)),
            str(row["regs"]),
            *(bytes_text(row[kind]) if row[kind] else "0" for kind in ("spills", "shared")),
            *(f"{row[kind]}-bit" if row[kind] else "" for kind in ("row_bits", "access_bits")),
            f"{max(r['compile_seconds'] for r in some):.1f} s",
            ", ".join(f"{n} {name}" for name, n in row["mma"].items()),
        )
    return table


def _layers(layers: Sequence[dict[str, Any]]) -> Table:
    """How many launches equal layers take: op by op, with kernels alone, and fused."""
    unfused = "unfused" in layers[0]
    table = Table(
        Column("layers"),
        Column("of"),
        Column("tokens", "right"),
        Column("references", "right"),
        *([Column("unfused", "right")] if unfused else []),
        Column("fused" if unfused else "with kernels", "right"),
        Column("in Triton", "right"),
    )
    facts = ("class", "tokens", "reference", *(["unfused"] if unfused else []), "triton", "torch")
    for (name, tokens, *before, triton, torch), some in _by(layers, *facts).items():
        numbers = ", ".join(str(entry["layer"]) for entry in some)
        table.add(numbers, name, str(tokens), *map(str, before), str(triton + torch), str(triton))
    return table


def _by(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(str(row[n]) if isinstance(row[n], dict) else row[n] for n in names), []).append(row)
    return found
