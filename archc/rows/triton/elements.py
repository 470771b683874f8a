"""Values of row programs in Triton: what a program knows of a tile of tokens.

For each of its streams a row value is a tensor [TILE, CHUNK], a number of each token [TILE], a row of a parameter
[1, CHUNK], and a number of a parameter a scalar.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from archc.rows.elements import Element, Elements, literal, places
from archc.rows.kernel import Kernel
from archc.rows.names import hint
from archc.rows.rotate import Rotate
from archc.rows.rules import Format, Input, Param, Pointwise, Round
from archc.rows.triton.lines import Lines
from archc.rows.triton.printed import FUNCTIONS
from archc.rows.value import Row

FORMATS: dict[Format, str] = {"bf16": "tl.bfloat16", "fp8": "tl.float8e4nv", "fp32": "tl.float32"}
RESERVED = FUNCTIONS | {
    *("t", "d", "m", "T", "TILE", "CHUNK", "SPLIT", "inside", "first"),
    *("tl", "torch", "Tensor", "jit"),
}


def count(value: Row) -> int:
    """How many numbers, or rows, a value has for each token."""
    return math.prod(value.streams)


def to(give: str) -> str:
    """What the array is called that a give is written to."""
    return f"to_{give}"


class Tile(Elements):
    """Writes values of a tile of tokens into the body of a Triton kernel.

    It counts on the names ``t`` (the tokens of the tile from its first on, [TILE]), ``inside`` ([TILE]: whether there
    is such a token) and, where rows are made, on ``d`` (channels, [CHUNK]), and on pointers of arrays that stand at
    the tile's first token, whose number among all is ``first``. ``masked``: CHUNK does not divide the width.
    """

    def __init__(self, kernel: Kernel, *, masked: bool = False, taken: Collection[str] = ()) -> None:
        self.kernel, self.masked = kernel, masked
        self.arguments_taken = {*kernel.takes, *map(to, kernel.gives), *RESERVED, *taken}
        self.body = Lines(self.arguments_taken)
        self.known: list[dict[tuple[int, str], list[Element]]] = [{}]
        self.functions: list[str] = []
        """Device functions that what is written calls."""
        self.channels = "d"
        """The channels at which rows are made: ``d``, or those that ``d`` are turned with."""
        self._places: list[dict[str, str]] = [{}]
        self._hints: dict[int, str] = {}
        self._dense: dict[int, bool] = {}

    # --- lines -----------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        """Writes a line."""
        self.body.line(text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indents what is written inside, and forgets afterwards what was made there."""
        with self.body.block(head):
            self.known.append({})
            self._places.append({})
            yield
            self.known.pop()
            self._places.pop()

    def hint(self, value: Row) -> str:
        """What a value is called."""
        if value.id not in self._hints:
            name = hint(value)
            same = sum(name == known.rstrip("0123456789") for known in self._hints.values())
            self._hints[value.id] = f"{name}{same + 1}" if same else name
        return self._hints[value.id]

    # --- of Elements -----------------------------------------------------------------------------
    def bind(self, text: str, hint: str) -> Element:
        return Element(self.body.assign(text, hint, passing="tl.load" not in text))

    def show(self, element: Element) -> str:
        if element.number is None:
            return element.text
        if math.isinf(element.number):
            return 'float("inf")' if element.number > 0 else '-float("inf")'
        return repr(element.number) if element.number >= 0 else f"({element.number!r})"

    def pointwise(self, rule: Pointwise, x: str) -> str:
        if isinstance(rule, Round):
            return f"{x}.to({self.dtype(rule.format)}).to(tl.float32)"
        shown = {k: self.show(literal(v)) if isinstance(v, float) else v for k, v in rule.__dict__.items()}
        return rule.triton.format(x=x, **shown)

    def larger(self, a: str, b: str) -> str:
        return f"tl.maximum({a}, {b})"

    def combine(self, value: Row, args: Sequence[Sequence[Element]], hint: str) -> list[Element]:
        rule = value.rule
        if isinstance(rule, Pointwise) and all(x.number is not None for x in args[0]):
            import numpy as np

            return [literal(float(rule.value(np.array([x.number], np.float64))[0])) for x in args[0]]
        return super().combine(value, args, hint)

    def dtype(self, format: Format) -> str:
        """A format as a type of Triton; ``act`` is that of the elements of an array that is of it."""
        if format != "act":
            return FORMATS[format]
        taken = (n for n in self.kernel.takes if self.kernel.format(n) == "act")
        given = (to(n) for n in self.kernel.gives if self.kernel.format(n) == "act")
        return f"{next(iter((*taken, *given)))}.dtype.element_ty"

    # --- values ----------------------------------------------------------------------------------
    def get(self, value: Row) -> list[Element] | None:
        """The elements of a value that was made before."""
        key = self._key(value)
        return next((m[key] for m in reversed(self.known) if key in m), None)

    def know(self, value: Row, elements: Sequence[Element]) -> None:
        """Says what the elements of a value are, until the end of the block."""
        self.known[-1][self._key(value)] = list(elements)

    def _key(self, value: Row) -> tuple[int, str]:
        return value.id, self.channels if value.row else ""

    def made(self, value: Row) -> list[Element]:
        """The elements of a value, written where they are not known yet."""
        found = self.get(value)
        if found is None:
            found = self.written(value)
            self.know(value, found)
        return found

    def written(self, value: Row) -> list[Element]:
        """The elements of a value, written now."""
        rule = value.rule
        if isinstance(rule, Input | Param):
            return self.loaded(rule, value)
        if isinstance(rule, Rotate):
            from archc.rows.triton.rotated import rotated

            return rotated(self, value)
        made = self.combine(value, [self.operand(value, a) for a in value.args], self.hint(value))
        if not value.token or not value.args:
            return made
        # What only came from a parameter is given its tokens
        still = {e.text for a in value.args if not a.token for e in self.made(a)}
        alone = not any(a.token for a in value.args)
        return [self._of_tokens(value, e) if e.number is None and (alone or e.text in still) else e for e in made]

    def _of_tokens(self, value: Row, element: Element) -> Element:
        """An element that has no tokens, for each of them."""
        if not value.row:
            return self.of_tokens(element, value, alone=True)
        return self.bind(f"tl.broadcast_to({element.text}, (TILE, CHUNK))", f"{self.hint(value)}_everywhere")

    def operand(self, value: Row, arg: Row) -> list[Element]:
        """The elements of an operand as they stand beside those of the result: numbers of tokens as columns."""
        made = self.made(arg)
        if not value.row or arg.row or not arg.token:
            return made
        return [e if e.number is not None else Element(f"{e.text}[:, None]") for e in made]

    # --- memory ----------------------------------------------------------------------------------
    def place(self, wide: int, shared: int = 1) -> str:
        """Where rows of an array lie that has ``wide`` numbers for each token, or for ``shared`` of them."""
        key = f"{self.channels} {wide} {shared}"
        found = next((p[key] for p in reversed(self._places) if key in p), None)
        if found is None:
            token = "t" if shared == 1 else self.token(shared)
            hint = "row" if wide == self.kernel.width else f"row_of_{wide // self.kernel.width}"
            found = self.body.assign(f"{token}[:, None] * {wide} + {self.channels}[None, :]", hint)
            self._places[-1][key] = found
        return found

    def token(self, shared: int) -> str:
        """The places of tokens among what ``shared`` of them share."""
        key = f"token {shared}"
        found = next((p[key] for p in reversed(self._places) if key in p), None)
        if found is None:
            found = self.body.assign(f"(first + t) // {shared}", f"t_of_{shared}")
            self._places[-1][key] = found
        return found

    def inside(self, value_row: bool, *, token: bool = True, fill: str = "0.0") -> str:
        """The mask argument of an access, with what stands where nothing is read; empty where all is there."""
        parts = []
        if token:
            parts.append("inside[:, None]" if value_row else "inside")
        if value_row and self.masked:
            parts.append(f"({self.channels} < {self.kernel.width})[None, :]")
        if not parts:
            return ""
        return f", mask={' & '.join(parts)}" + (f", other={fill}" if fill else "")

    def loaded(self, rule: Input | Param, value: Row, called: str = "") -> list[Element]:
        """A leaf from memory, as float32."""
        name, n, width = rule.name, count(value), self.kernel.width
        mask = self.inside(value.row, token=value.token)
        wide = "" if rule.format == "fp32" else ".to(tl.float32)"
        kind = "row" if value.row else "value"
        called = called or name
        hints = ["_".join((called, *map(str, p))) if p else f"{called}_{kind}" for p in places(value.streams)]
        if isinstance(rule, Param):
            base, step = (f"{self.channels}[None, :]", width) if value.row else ("", 1)
        elif value.row:
            base, step = self.place(n * width, rule.shared), width
        else:
            token = "t" if rule.shared == 1 else self.token(rule.shared)
            base, step = token if n == 1 else f"{token} * {n}", 1
        made = []
        for i, each in enumerate(hints):
            at = " + ".join(part for part in (name, base, str(i * step) if i else "") if part)
            made.append(self.bind(f"tl.load({at}{mask}){wide}", each))
        return made

    def store(self, name: str, value: Row) -> None:
        """Writes a value to memory, in the format that the array has."""
        n, width = count(value), self.kernel.width
        base = self.place(n * width) if value.row else "t" if n == 1 else f"t * {n}"
        mask = self.inside(value.row, fill="")
        for i, e in enumerate(self.made(value)):
            step = str(i * (width if value.row else 1)) if i else ""
            at = " + ".join(part for part in (to(name), base, step) if part)
            self.line(f"tl.store({at}, {self.show(e)}{mask})")

    def of_tokens(self, element: Element, value: Row, *, alone: bool = False) -> Element:
        """An element of numbers of tokens as a tensor [TILE], even if it is known or (``alone``) has no tokens."""
        hint = f"{self.hint(value)}_everywhere"
        if element.number is not None:
            return self.bind(f"tl.full((TILE,), {self.show(element)}, tl.float32)", hint)
        alone = alone or not value.token
        return self.bind(f"{element.text} + tl.zeros((TILE,), tl.float32)", hint) if alone else element
