"""Lines of generated C++, and the names in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

WIDTH = 120
"""Columns of a line."""

RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
        T t t0 b d round end first i j k l m n lo hi act slices slice numbers alignas and asm auto bool break
        case catch char class const constexpr continue decltype default delete do double else enum explicit
        export extern false float for friend goto if inline int long main mutable namespace new not operator or
        private protected public register return short signed sizeof static std struct switch template this
        throw true try typedef typename union unsigned using virtual void volatile while xor INFINITY NAN Lanes
        Words Halves Parts bfloat16 columns error exponential larger lanes limited logarithm outer project
        rounded sigmoid softplus tangent unproject unproject_rows in_slices slices_of add_lanes
        project_block project_rows Tokens by_number by_token
        """,
    )
)
"""Names that generated text, what every file carries, and C++ have a meaning for."""


class Lines:
    """Text in blocks, with names that are given once."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self._taken = {*taken, *RESERVED}

    def line(self, text: str) -> None:
        """Writes a line, or more where it would be too long."""
        self.lines += broken(text, self.depth)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines within braces."""
        self.line(f"{head} {{" if head else "{")
        self.depth += 1
        outside = set(self._taken)
        yield
        self._taken = outside
        self.depth -= 1
        self.line("}")

    def name(self, hint: str) -> str:
        """A name that nothing has yet."""
        found = (
            hint if hint not in self._taken else next(n for i in count(2) if (n := f"{hint}_{i}") not in self._taken)
        )
        self._taken.add(found)
        return found


def _whole(text: str, *, loose: bool) -> str:
    """A line of C++ with spaces where it may break alone: after a comma, a plus or a semicolon, and in no index; after
    the sign of an assignment where it makes one name.
    """
    many = re.match(r"(const )?float [^=(]*=[^(]*, \w+ = ", text)
    if not loose:
        text = re.sub(r"(?<![,+;]) " if many else r"(?<![,+;])(?<! =) ", "\0", text)
    return re.sub(r"\[[^\[\]]*\]", lambda index: index.group().replace(" ", "\0"), text)


def broken(text: str, depth: int = 0, *, loose: bool = False) -> list[str]:
    """A line of C++ as lines that are not too long; ``loose``: it may break at any space but in an index."""
    indent = "    " * depth
    if len(indent + text) <= WIDTH:
        return [indent + text]
    comment, pragma = text.startswith("//"), text.startswith("#")
    indent += " " * (len(text) - len(text.lstrip()))
    lines = textwrap.wrap(
        # Elsewhere a line breaks after a comma or an operator only
        text.lstrip() if comment or pragma else _whole(text.lstrip(), loose=loose),
        WIDTH - 2 * pragma,
        initial_indent=indent,
        subsequent_indent=f"{indent}// " if comment else indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    if not (comment or pragma or loose) and max(map(len, lines)) > WIDTH:
        return broken(text, depth, loose=True)
    made = [line.replace("\0", " ") for line in lines]
    return [f"{line} \\" for line in made[:-1]] + made[-1:] if pragma else made
