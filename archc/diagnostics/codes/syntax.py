"""E00xx: what the parser reports."""

from __future__ import annotations

from archc.diagnostics.registry import Code

CODES: tuple[Code, ...] = (
    Code(
        id="E0001",
        title="unexpected token",
        explanation="""\
The parser met something that cannot stand here. The message says what could. A statement ends at a newline or a comma; inside
`[ ]` and `( )` newlines do not count. The broken statement is skipped and parsing goes on with the next one.""",
        failing="arch 1\nlet a = (1 + ) * 2\nlet b = a\n",
        fixed="arch 1\nlet a = (1 + 1) * 2\nlet b = a\n",
    ),
)
