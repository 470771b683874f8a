"""Lays out printed code: line width, continuation lines, aligned shape comments."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Sequence

from archc.record import dataclass

WIDTH = 110
COMMENT = 88
"""Rightmost column at which shape comments start."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code and its comment."""

    code: str
    comment: str = ""


def aligned(lines: Iterable[Line]) -> list[str]:
    """The lines as text, their comments in one column, further left only where they would not fit."""
    lines = list(lines)
    widths = [len(line.code) for line in lines if line.comment and len(line.code) + 2 <= COMMENT]
    column = max(widths, default=0) + 2
    out = []
    for line in lines:
        if not line.comment:
            out.append(line.code)
            continue
        start = max(min(column, WIDTH - len(line.comment) - 2), len(line.code) + 2)
        if start + len(line.comment) + 2 <= WIDTH:
            out.append(f"{line.code:<{start}}# {line.comment}")
        else:
            out += [f"{' ' * (len(line.code) - len(line.code.lstrip()))}# {line.comment}", line.code]
    return out


def source(node: ast.AST) -> str:
    """The text of a syntax tree, strings in double quotes."""
    return ast.unparse(ast.fix_missing_locations(_Quotes().visit(node)))


class _Quotes(ast.NodeTransformer):
    """Marks plain strings to be printed in double quotes, as ruff format would."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if (
            isinstance(node.value, str)
            and '"' not in node.value
            and "\\" not in node.value
            and node.value.isprintable()
        ):
            return ast.Name(id=f'"{node.value}"', ctx=ast.Load())
        return node


def statement(prefix: str, value: ast.expr, comment: str, indent: int) -> list[Line]:
    """``prefix`` and an expression as lines no wider than `WIDTH`, the comment on the shortest end.

    A line that would push the comments beyond `COMMENT` is broken too, if it can be and that makes room for its own.
    """
    codes = _broken(prefix, value, indent, first=COMMENT - 2 if comment else WIDTH)
    place = _shorter_end(codes)
    if len(codes) > 1 and len(codes[place]) + len(f"  # {comment}") > WIDTH:
        codes = _broken(prefix, value, indent)
        place = _shorter_end(codes)
    lines = [Line(code) for code in codes]
    lines[place] = Line(codes[place], comment)
    return lines


def _shorter_end(codes: Sequence[str]) -> int:
    """Which of some lines a comment stands on: the first, or the last where that is shorter and no bracket alone."""
    return 0 if len(codes[0]) <= len(codes[-1]) or codes[-1].strip() in (")", "]") else -1


def plain(prefix: str, value: ast.expr, indent: int) -> list[str]:
    """``prefix`` and an expression as text."""
    return _broken(prefix, value, indent)


def _broken(prefix: str, value: ast.expr, indent: int, suffix: str = "", first: int = WIDTH) -> list[str]:
    """Lines of at most `WIDTH` characters, broken inside the outermost call or list that is too long.

    One line is enough where it has at most ``first``.
    """
    pad = " " * indent
    whole = f"{pad}{prefix}{source(value)}{suffix}"
    if len(whole) <= first:
        return [whole]
    match value:
        case ast.Call(func=func, args=args, keywords=keywords):
            parts: list[tuple[str, ast.expr]] = [("", a) for a in args] + [(f"{k.arg}=", k.value) for k in keywords]
            if (isinstance(func, ast.Attribute) and not args and not keywords) or not parts:
                return [whole]
            if (
                isinstance(func, ast.Attribute)
                and isinstance(func.value, ast.Call)
                and len(source(func.value)) > WIDTH // 2
            ):
                tail = f".{func.attr}({', '.join(p + source(v) for p, v in parts)}){suffix}"
                return _broken(prefix, func.value, indent, tail)
            head, end = f"{pad}{prefix}{source(func)}(", f"{pad}){suffix}"
        case ast.List(elts=elements) if elements:
            parts = [("", e) for e in elements]
            head, end = f"{pad}{prefix}[", f"{pad}]{suffix}"
        case ast.Tuple(elts=elements) if len(elements) > 1:
            parts = [("", e) for e in elements]
            head, end = f"{pad}{prefix}(", f"{pad}){suffix}"
        case _:
            return [whole]
    texts = [p + source(v) for p, v in parts]
    if all(indent + 4 + len(text) < WIDTH for text in texts):
        filled = fill(texts, indent + 4)
        return [head, *filled, end]
    lines = [head]
    for p, v in parts:
        lines += _broken(p, v, indent + 4, ",")
    return [*lines, end]


def fill(items: Sequence[str], indent: int) -> list[str]:
    """Items with commas between them, as many on a line as fit."""
    lines = [" " * indent + items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 3 <= WIDTH:
            lines[-1] += f", {item}"
        else:
            lines[-1] += ","
            lines.append(" " * indent + item)
    return lines


def docstring(text: str, indent: int) -> list[str]:
    """A docstring wrapped to the width."""
    pad = " " * indent
    text = text.replace("\\", "\\\\").replace('"""', "'''").strip()
    if not text.endswith((".", "!", "?")):
        text += "."
    paragraphs = [" ".join(p.split()) for p in text.split("\n\n")]
    if len(paragraphs) == 1 and len(paragraphs[0]) + indent + 6 <= WIDTH:
        return [f'{pad}"""{paragraphs[0]}"""']
    lines: list[str] = []
    for i, paragraph in enumerate(paragraphs):
        wrapped = textwrap.wrap(
            ('"""' if i == 0 else "") + paragraph, WIDTH - indent, break_on_hyphens=False, break_long_words=False
        )
        lines += ([""] if i else []) + [pad + line for line in wrapped]
    return [*lines, f'{pad}"""']
