"""Numbers of a token as C++: loops over small arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from archc.rows.cpp.expressions import closed, flat, number, pointwise, summed
from archc.rows.cpp.lines import WIDTH, Lines
from archc.rows.cpp.schedule import count, padded
from archc.rows.names import hint
from archc.rows.rewrite import Matrix
from archc.rows.rules import (
    Add,
    Const,
    Pad,
    Pointwise,
    Product,
    Repeat,
    RepeatBack,
    RowSum,
    Spread,
    StreamMax,
    Take,
)
from archc.rows.value import Row, Streams

LETTERS = "ijklmn"
"""Names of loop variables, outermost first."""


class Place(NamedTuple):
    """Where numbers lie: an array from ``start`` on, or without one (``start`` None) a name of a single number."""

    array: str
    start: str | None = ""

    def at(self, index: str) -> str:
        """One of the numbers."""
        if self.start is None:
            return self.array
        return f"{self.array}[{summed(self.start, index)}]"


class Numbers(Lines):
    """Writes numbers, each once in the scopes that see it."""

    def __init__(self, taken: Sequence[str], values: Sequence[Row], kept: set[int]) -> None:
        super().__init__(taken)
        self.arrays_of = frozenset(taken)
        """Names of arrays in memory."""
        self.uses, self.kept, self.pads = Counter(a.id for v in values for a in v.args), kept, padded(values)
        self.places: list[dict[int, Place]] = [{}]
        self.kind = "float"
        """What a number is: float, or `Tokens`, one of each token of a tile."""

    @contextmanager
    def scope(self, head: str) -> Iterator[None]:
        """A block whose names end with it."""
        with self.block(head):
            self.places.append({})
            yield
            self.places.pop()

    def hint(self, value: Row) -> str:
        """What a value may be called."""
        name = hint(value)
        if name not in self.arrays_of:
            return name
        # What goes to an array is called by what it is before it does
        rule = value.rule
        return rule.name if isinstance(rule, Repeat) else f"{name}_{'sum' if isinstance(rule, RowSum) else 'of_token'}"

    def place(self, value: Row) -> Place | None:
        """Where a number lies, if it does."""
        return next((m[value.id] for m in reversed(self.places) if value.id in m), None)

    # --- reading ---------------------------------------------------------------------------------
    def single(self, value: Row) -> bool:
        """Whether a value that lies nowhere is written where it is read, the one time that is."""
        rule = value.rule
        if self.uses[value.id] > 1 or value.id in self.kept:
            return False
        whole = isinstance(rule, Pointwise | Add) or (isinstance(rule, Product) and not _over(value))
        return whole and value.id not in self.pads

    def ready(self, value: Row, *, once: bool = True, line: bool = False) -> None:
        """Writes what must lie somewhere before an expression reads a value: ``once`` if it reads each number once,
        ``line`` if it reads them along their line.
        """
        rule = value.rule
        if self.place(value) is not None or isinstance(rule, Const):
            return
        if isinstance(rule, Take):
            self.ready(value.args[0], once=once, line=True)
        elif isinstance(rule, Spread) and not line:
            self.ready(value.args[0], once=False)
        elif once and self.single(value) and not (line and not _in_line(value)) and len(self._text(value)) < WIDTH // 2:
            for a in value.args:
                self.ready(a, once=_each_once(value, a), line=line and bool(a.streams))
        else:
            self.made(value)

    def _text(self, value: Row) -> str:
        """About what a value would be as text."""
        if self.place(value) is not None or not value.args:
            return "x" * 12
        return " + ".join(self._text(a) if self.single(a) else "x" * 12 for a in value.args)

    def at(self, value: Row, index: Sequence[str]) -> str:
        """The text of a number that is ready."""
        place, rule = self.place(value), value.rule
        if place is not None:
            return place.at(flat(value.streams, index))
        if isinstance(rule, Spread):
            where = dict(zip(rule.made, index, strict=True))
            return self.at(value.args[0], [where[c] for c in rule.kept])
        if isinstance(rule, Take):
            return self.along(value, flat(value.streams, index))
        if isinstance(rule, Product):
            ins, out = rule.letters()
            where = dict(zip(out, index, strict=True))
            return self._factors([(a, [where[c] for c in letters]) for a, letters in zip(value.args, ins, strict=True)])
        read = [self.at(a, index if a.streams else ()) for a in value.args]
        return self._expression(value, read)

    def along(self, value: Row, index: str) -> str:
        """The text of a number by its place in the line of them."""
        place, rule = self.place(value), value.rule
        if place is not None:
            return place.at(index)
        if isinstance(rule, Take):
            return self.along(value.args[0], summed(str(rule.start), index))
        if isinstance(rule, Const) or not value.streams:
            return self.at(value, ())
        read = [self.along(a, index) if a.streams else self.at(a, ()) for a in value.args]
        return self._product(read) if isinstance(rule, Product) else self._expression(value, read)

    def _expression(self, value: Row, read: Sequence[str]) -> str:
        rule = value.rule
        if isinstance(rule, Const):
            return number(rule.number)
        if isinstance(rule, Pointwise):
            return pointwise(rule, read[0])
        assert isinstance(rule, Add), rule
        return f"{read[0]} + {read[1]}".replace("+ -", "- ")

    def _factors(self, some: Sequence[tuple[Row, Sequence[str]]]) -> str:
        return self._product([self.at(a, index) for a, index in some])

    def _product(self, read: Sequence[str]) -> str:
        minus = read.count("-1.0f")
        rest = [r if r.startswith("-") and " " not in r else closed(r) for r in read if r != "-1.0f"]
        text = " * ".join(rest) or "1.0f"
        return f"-{text}" if minus % 2 else text

    # --- writing ---------------------------------------------------------------------------------
    def made(self, value: Row) -> Place:
        """Where a number lies, written if it does not yet."""
        return self.place(value) or self.written(value)

    def written(self, value: Row, into: Place | None = None) -> Place:
        """Writes a number, to a place if there is one for it."""
        rule = value.rule
        if isinstance(rule, Repeat):
            made = self._repeat(value)
        elif isinstance(rule, RepeatBack):
            made = self._repeat_back(value)
        else:
            made = self._assigned(value, into)
        if into is not None and made is not into:
            self.copy(value, made, into)
            made = into
        self.places[-1][value.id] = made
        return made

    def copy(self, value: Row, source: Place, into: Place) -> None:
        """Writes numbers to another place."""
        with self.loops(value.streams and (count(value),)) as index:
            at = index[0] if index else "0"
            self.line(f"{into.at(at)} = {source.at(at)};")

    @contextmanager
    def loops(self, sizes: Streams, free: str = LETTERS) -> Iterator[list[str]]:
        """Loops around one statement; gives the index of each size."""
        index = []
        depth = self.depth
        letters = iter(free)
        for n in sizes:
            if n == 1:
                index.append("0")
                continue
            c = next(letters)
            self.line(f"for (int {c} = 0; {c} < {n}; ++{c})")
            self.depth += 1
            index.append(c)
        yield index
        self.depth = depth

    @contextmanager
    def braces(self, sizes: Streams) -> Iterator[None]:
        """Several statements within the `loops` of these sizes."""
        inside = any(n > 1 for n in sizes)
        if inside:
            self.lines[-1] += " {"
        else:
            self.line("{")
            self.depth += 1
        yield
        self.depth -= 1
        self.line("}")
        self.depth += inside

    def _zero(self) -> str:
        return "0" if self.kind == "float" else "{}"

    def _declared(self, value: Row, *, zero: bool = False) -> Place:
        name = self.name(self.hint(value))
        if not value.streams:
            if zero:
                self.line(f"{self.kind} {name} = {self._zero()};")
            return Place(name, None)
        self.line(f"{self.kind} {name}[{count(value)}]{' = {}' if zero else ''};")
        return Place(name)

    def _assigned(self, value: Row, into: Place | None) -> Place:
        rule = value.rule
        if value.id in self.pads:
            return self._padded(value, into)
        if isinstance(rule, Matrix):
            return self._matrix(value, into)
        if isinstance(rule, StreamMax):
            return self._largest(value, into)
        if isinstance(rule, Product) and _over(value):
            return self._contracted(value, into)
        for a in value.args:
            if not isinstance(rule, Take | Spread):
                self.ready(a, once=_each_once(value, a))
        if isinstance(rule, Take | Spread):
            self.ready(value)
        if not value.streams:
            text = self.at(value, ())
            if into is not None:
                self.line(f"{into.at('0')} = {text};")
                return into
            name = self.name(self.hint(value))
            self.line(f"const {self.kind} {name} = {text};")
            return Place(name, None)
        place = into or self._declared(value)
        if len(value.streams) > 1 and _in_line(value, self):
            with self.loops((count(value),)) as (i,):
                self.line(f"{place.at(i)} = {self.along(value, i)};")
        else:
            with self.loops(value.streams) as index:
                self.line(f"{place.at(flat(value.streams, index))} = {self.at(value, index)};")
        return place

    def _contracted(self, value: Row, into: Place | None) -> Place:
        rule = value.rule
        assert isinstance(rule, Product)
        for a in value.args:
            self.ready(a, once=_each_once(value, a))
        ins, out = rule.letters()
        sizes = _sizes(value)
        over = {c: sizes[c] for c in _over(value)}

        def terms(place: Mapping[str, str]) -> str:
            return self._factors([(a, [place[c] for c in letters]) for a, letters in zip(value.args, ins, strict=True)])

        def add(total: str, place: Mapping[str, str], free: str) -> None:
            with self.loops(tuple(over.values()), free) as index:
                self.line(f"{total} += {terms({**place, **dict(zip(over, index, strict=True))})};")

        if not value.streams:
            place = self._declared(value, zero=True)
            add(place.array, {}, LETTERS)
            return place
        place = into or self._declared(value)
        with self.loops(value.streams) as index, self.braces(value.streams):
            total = self.name("total")
            self.line(f"{self.kind} {total} = {self._zero()};")
            free = LETTERS[sum(n > 1 for n in value.streams) :]
            add(total, dict(zip(out, index, strict=True)), free)
            self.line(f"{place.at(flat(value.streams, index))} = {total};")
            self._taken.discard(total)
        return place

    def _padded(self, value: Row, into: Place | None) -> Place:
        """A sum of numbers that stand in different parts of a line."""
        terms: list[Row] = []

        def flatten(v: Row) -> None:
            if isinstance(v.rule, Add) and (v is value or (v.id in self.pads and self._loose(v))):
                for a in v.args:
                    flatten(a)
            else:
                terms.append(v)

        flatten(value)
        pads = [v for v in terms if isinstance(v.rule, Pad) and (v is value or self._loose(v))]
        for v in terms:
            self.ready(v.args[0] if v in pads else v, line=True)
        place = into or self._declared(value, zero=True)
        if into is not None:
            with self.loops((count(value),)) as (i,):
                self.line(f"{place.at(i)} = 0;")
        for v in terms:
            start, source = (v.rule.start, v.args[0]) if v in pads and isinstance(v.rule, Pad) else (0, v)
            with self.loops((count(source) if source.streams or v in pads else count(value),)) as (i,):
                self.line(f"{place.at(summed(str(start), i))} += {self.along(source, i)};")
        return place

    def _loose(self, value: Row) -> bool:
        return self.place(value) is None and self.uses[value.id] == 1 and value.id not in self.kept

    def _matrix(self, value: Row, into: Place | None) -> Place:
        rule, numbers = value.rule, value.args[0]
        assert isinstance(rule, Matrix)
        self.ready(numbers, once=False)
        place = into or self._declared(value, zero=True)
        if into is not None:
            with self.loops((count(value),)) as (i,):
                self.line(f"{place.at(i)} = 0;")
        sizes = dict(zip(rule.x + rule.out, rule.sizes, strict=True))
        sizes |= dict(zip(rule.numbers, numbers.streams, strict=True))
        with self.loops(tuple(sizes.values())) as index:
            where = dict(zip(sizes, index, strict=True))
            to = flat(rule.sizes, [where[c] for c in rule.x + rule.out])
            self.line(f"{place.at(to)} += {self.at(numbers, [where[c] for c in rule.numbers])};")
        return place

    def _largest(self, value: Row, into: Place | None) -> Place:
        (x,) = value.args
        self.ready(x)
        place = into or self._declared(value)
        last = x.streams[-1]
        if not value.streams:
            self.line(f"{'' if into else 'float '}{place.at('0')} = {self.at(x, ['0'])};")
            if last > 1:
                self.line(
                    f"for (int i = 1; i < {last}; ++i) {place.at('0')} = larger({place.at('0')}, {self.at(x, ['i'])});"
                )
            return place
        with self.loops(value.streams) as index, self.braces(value.streams):
            to = place.at(flat(value.streams, index))
            self.line(f"{to} = {self.at(x, [*index, '0'])};")
            if last > 1:
                c = LETTERS[len(index)]
                self.line(f"for (int {c} = 1; {c} < {last}; ++{c}) {to} = larger({to}, {self.at(x, [*index, c])});")
        return place

    # --- repeats ---------------------------------------------------------------------------------
    def together(self, value: Row, given: Mapping[int, str], into: str) -> None:
        """Runs a repeat for all tokens of a tile at once: ``given`` are arrays [token][number] by value."""
        with self.scope(""):
            self.kind = "Tokens"
            for v in value.args[: 1 if isinstance(value.rule, Repeat) else 2]:
                name = self.name(f"{given[v.id]}_tokens")
                self.line(f"Tokens {name}[{count(v)}];")
                self.line(f"by_number({given[v.id]}, {name});")
                self.places[-1][v.id] = Place(name)
            made = self._repeat(value) if isinstance(value.rule, Repeat) else self._repeat_back(value)
            self.line(f"by_token({made.array}, {into});")
            self.kind = "float"

    def _state(self, value: Row, source: Row, hint: str) -> Place:
        """A place of its own for numbers that change."""
        place = Place(self.name(hint), "" if value.streams else None)
        self.line(f"{self.kind} {place.array}{f'[{count(value)}]' if value.streams else ''};")
        self.copy(value, self.made(source), place)
        return place

    def _repeat(self, value: Row) -> Place:
        start, state, end = value.args
        assert isinstance(value.rule, Repeat)
        place = self._state(value, start, self.hint(value))
        with self.scope(f"for (int round = 0; round < {value.rule.times}; ++round)"):
            self.places[-1][state.id] = place
            self.copy(value, self.made(end), place)
        return place

    def _repeat_back(self, value: Row) -> Place:
        start, grad, state, end, cotangent, back = value.args
        assert isinstance(value.rule, RepeatBack)
        size, times = count(start), value.rule.times
        first, given = self.made(start), self.made(grad)
        rounds = self.name("rounds")
        self.line(f"{self.kind} {rounds}[{times}][{size}];")
        self.copy(start, first, Place(f"{rounds}[0]"))
        with self.scope(f"for (int round = 1; round < {times}; ++round)"):
            self.places[-1][state.id] = Place(f"{rounds}[round - 1]")
            self.copy(start, self.made(end), Place(f"{rounds}[round]"))
        place = Place(self.name("back"))
        self.line(f"{self.kind} {place.array}[{size}];")
        self.copy(start, given, place)
        with self.scope(f"for (int round = {times - 1}; round >= 0; --round)"):
            self.places[-1][state.id] = Place(f"{rounds}[round]")
            self.places[-1][cotangent.id] = place
            self.copy(start, self.made(back), place)
        return place


def _sizes(value: Row) -> dict[str, int]:
    """The size of each letter of a product."""
    assert isinstance(value.rule, Product)
    ins, _ = value.rule.letters()
    return {c: n for s, a in zip(ins, value.args, strict=True) for c, n in zip(s, a.streams, strict=True)}


def _over(value: Row) -> list[str]:
    """The letters that a product is summed over."""
    assert isinstance(value.rule, Product)
    _, out = value.rule.letters()
    return [c for c in _sizes(value) if c not in out]


def _each_once(value: Row, operand: Row) -> bool:
    """Whether a value reads each number of an operand once."""
    rule = value.rule
    if isinstance(rule, Product):
        ins, _ = rule.letters()
        at = next(i for i, a in enumerate(value.args) if a is operand)
        sizes = _sizes(value)
        return all(c in ins[at] or sizes[c] == 1 for c in sizes)
    if isinstance(rule, Pointwise):
        return rule.cpp.count("{x}") == 1
    return count(operand) == count(value)


def _in_line(value: Row, seen: Numbers | None = None) -> bool:
    """Whether a value's number at a place of its line is made of its operands' numbers at this place."""
    rule = value.rule
    if seen is not None and seen.place(value) is not None:
        return True
    if isinstance(rule, Take | Const) or not value.streams:
        return True
    if isinstance(rule, Product):
        ins, out = rule.letters()
        same = all(s in {out, ""} for s in ins)
    else:
        same = isinstance(rule, Pointwise | Add)
    inner = value.args if seen is not None else ()
    return same and all(_in_line(a, seen) or (not a.streams) for a in inner)
