"""Passes over the row as C++: loops over channels that compilers vectorise, each stream of a row by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from archc.rows.cpp.expressions import closed, number, pointwise
from archc.rows.cpp.lines import WIDTH
from archc.rows.cpp.numbers import Numbers, Place
from archc.rows.cpp.schedule import Pass, Schedule, count
from archc.rows.elements import Element, Elements
from archc.rows.kernel import Kernel
from archc.rows.names import hint
from archc.rows.rotate import Rotate
from archc.rows.rules import Const, Input, Param, Pointwise, Product, Round, RowMax, Spread, Unproject
from archc.rows.value import Row

CHUNK = 1024
"""Channels of the row that a tile of tokens walks before it multiplies them by those of a matrix: they and the matrix'
stay in the second cache."""

KINDS = {"act": "act", "fp32": "float", "bf16": "bfloat16"}
"""Formats in memory as C++ calls them."""


class Loop(Elements):
    """The body of a loop over channels."""

    def __init__(self, out: Numbers, schedule: Schedule, p: Pass) -> None:
        self.out, self.schedule, self.p = out, schedule, p
        self.known: dict[int, list[Element]] = {}
        self.inline = False

    # --- what elements look like -----------------------------------------------------------------
    def bind(self, text: str, hint: str) -> Element:
        if self.inline and len(text) < WIDTH - 40:
            return Element(f"({text})" if " + " in text or " - " in text else text)
        name = self.out.name(hint)
        self.out.line(f"const float {name} = {text};")
        return Element(name)

    def show(self, element: Element) -> str:
        if element.number is None:
            return element.text
        text = number(element.number)
        return f"({text})" if text.startswith("-") else text

    def pointwise(self, rule: Pointwise, x: str) -> str:
        return pointwise(rule, x)

    def larger(self, a: str, b: str) -> str:
        return f"larger({a}, {b})"

    # --- values ----------------------------------------------------------------------------------
    def read(self, value: Row) -> list[Element]:
        """The elements of a number that the loop reads, as names of numbers."""
        if value.id in self.known:
            return self.known[value.id]
        place = self.out.place(value)
        if place is None:
            found = self.combine(value, [self.read(a) for a in value.args], self.out.hint(value))
        elif place.start is None:
            found = [Element(place.array)]
        else:
            hint = self.out.hint(value) if value.args else getattr(value.rule, "name", "x")
            names = [self.out.name(f"{hint}_{i}" if value.streams else hint) for i in range(count(value))]
            pairs = [f"{n} = {place.at(str(i))}" for i, n in enumerate(names)]
            self.out.line(f"const float {', '.join(pairs)};")
            found = [Element(n) for n in names]
        self.known[value.id] = found
        return found

    def made(self, value: Row) -> list[Element]:
        """The elements of a value, written where they are not yet."""
        if value.id not in self.known:
            args = [self.made(a) for a in value.args]
            self.inline = value.row and self._single(value)
            self.known[value.id] = self.combine(value, args, self._hint(value))
            self.inline = False
        return self.known[value.id]

    def _hint(self, value: Row) -> str:
        """What an element of a value is called; those of streams have a number after it."""
        name = hint(value)
        return f"{name}_d" if name in self.out.arrays_of and not value.streams else name

    def made_here(self, value: Row) -> None:
        """Makes a value of which each element is written where it is read, if that is short."""
        if value.id not in self.known:
            args = [self.made(a) for a in value.args]
            self.inline = True
            self.known[value.id] = self.combine(value, args, self._hint(value))
            self.inline = False

    def _single(self, value: Row) -> bool:
        """Whether a row is read once, by what reads each element of it once."""
        return self.p.uses[value.id] == 1 and value.id in self.singles

    @cached_property
    def singles(self) -> set[int]:
        """Rows whose only reader reads each element once."""
        found: set[int] = set()
        for reader in self.schedule.every:
            for a in reader.args:
                if isinstance(reader.rule, Product):
                    ins, _ = reader.rule.letters()
                    letters = ins[next(i for i, x in enumerate(reader.args) if x is a)]
                    once = set("".join(ins)) == set(letters)
                elif isinstance(reader.rule, Pointwise):
                    once = reader.rule.cpp.count("{x}") == 1
                else:
                    once = not isinstance(reader.rule, Spread) and count(a) == count(reader)
                if once:
                    found.add(a.id)
                else:
                    found.discard(a.id)
        return found


class Rows:
    """Writes passes over the row."""

    def __init__(self, out: Numbers, schedule: Schedule) -> None:
        self.out, self.schedule = out, schedule
        self.kernel: Kernel = schedule.kernel
        self.width = schedule.kernel.width
        self._unprojected: dict[int, str] = {}

    def kind(self, name: str) -> str:
        """What an array in memory consists of."""
        return "float" if name in self.schedule.held else KINDS[self.kernel.format(name)]

    def where(self, value: Row) -> str:
        """By what name a row lies in memory."""
        if isinstance(value.rule, Input | Param):
            return value.rule.name
        return self.schedule.turned.get(value.id) or self.schedule.stored[value.id]

    def start(self, name: str, value: Row, token: str = "t") -> str:
        """Where in memory the rows of a token begin."""
        if not value.token:
            return name
        if name in self.schedule.held:
            if not self.schedule.tiled:
                return name
            token = "b" if token == "t" else "0"
        if isinstance(value.rule, Input) and value.rule.shared > 1:
            token = f"{token} / {value.rule.shared}"
        return name if token == "0" else f"{name} + {token} * {count(value) * self.width}"

    def pointers(self, name: str, value: Row, hint: str, *, const: bool) -> list[str]:
        """Names of pointers to each row of a token."""
        n, made = count(value), []
        for i in range(n):
            made.append(local := self.out.name(f"{hint}_{i}" if n > 1 else hint))
            shift = f" + {i * self.width}" if i else ""
            kind = f"{'const ' * const}{self.kind(name)}* __restrict"
            self.out.line(f"{kind} {local} = {self.start(name, value)}{shift};")
        return made

    def loop(self, p: Pass, lo: str, hi: str, sums: dict[int, Place]) -> None:
        """One pass over a token's channels from ``lo`` to ``hi``; ``sums`` are arrays that sums are added to, where a
        row is walked in parts. Other sums get names.
        """
        out = self.out
        body = Loop(out, self.schedule, p)
        for v in p.numbers:
            body.read(v)
        # Numbers that rows need put in their places: what is left of zeros and repetitions
        for v in _spelt(p, self.schedule):
            body.read(v)
        for v in p.leaves:
            name = self.where(v)
            names = self.pointers(name, v, f"{name}_{'row' if count(v) == 1 else ''}".rstrip("_"), const=True)
            body.known[v.id] = [Element(f"{n}[d]") for n in names]
        for v in p.unprojected:
            base, n = self.unprojected(v), count(v)
            names = []
            for i in range(n):
                names.append(local := out.name(f"{base}_{i}" if n > 1 else f"{base}_row"))
                chunk = min(CHUNK, self.width)
                back = "" if lo == "0" else " - lo"
                out.line(f"const float* __restrict {local} = {base} + (b * {n} + {i}) * {chunk}{back};")
            body.known[v.id] = [Element(f"{n}[d]") for n in names]
        targets = [(v, name, self.pointers(name, v, f"to_{name}", const=False)) for name, v in p.stores]
        totals: list[tuple[Row, dict[str, str]]] = []
        # The body is written before its head: which sums are equal shows in it
        mark = len(out.lines)
        out.depth += 1
        for v, name, names in targets:
            x = v
            if (
                isinstance(v.rule, Round)
                and self.kernel.format(name) == v.rule.format
                and name not in self.schedule.held
            ):
                x = v.args[0] if p.uses[v.id] == 1 else v
            if p.uses[x.id] == 1:
                body.made_here(x)
            for local, e in zip(names, body.made(x), strict=True):
                out.line(f"{local}[d] = {_open(body.show(e))};")
        heads = []
        for v in p.reduced:
            most = isinstance(v.rule, RowMax)
            made, hint = body.made(v.args[0]), out.hint(v)
            texts = list(dict.fromkeys(body.show(e) for e in made))
            named = {}
            for text in texts:
                at = next(i for i, e in enumerate(made) if body.show(e) == text)
                named[text] = out.name(f"{hint}_{at}" if v.streams else hint)
                total = named[text]
                out.line(f"{total} = larger({total}, {_open(text)});" if most else f"{total} += {_open(text)};")
            heads.append((most, list(named.values())))
            totals.append((v, {str(i): named[body.show(e)] for i, e in enumerate(made)}))
        for name, v in p.summed:
            for i, e in enumerate(body.made(v)):
                out.line(f"{name}[{f'{i * self.width} + ' if i else ''}d] += {_open(body.show(e))};")
        out.depth -= 1
        written = out.lines[mark:]
        del out.lines[mark:]
        for most, names in heads:
            out.line("float " + ", ".join(f"{n} = {'-INFINITY' if most else '0'}" for n in names) + ";")
        clauses = []
        for most, sign in ((False, "+"), (True, "max")):
            names = [n for m, some in heads if m == most for n in some]
            if names:
                clauses.append(f" reduction({sign}: {', '.join(names)})")
        out.line(f"#pragma omp simd{''.join(clauses)}")
        out.line(f"for (int64_t d = {lo}; d < {hi}; ++d) {{")
        out.lines += written
        out.line("}")
        for v, names in totals:
            self._keep(v, list(names.values()), sums.get(v.id))

    def _keep(self, value: Row, names: Sequence[str], into: Place | None) -> None:
        """Puts what a pass summed where it is read."""
        most = isinstance(value.rule, RowMax)
        if into is not None:
            if len(names) > 1:
                array = self.out.name("totals")
                self.out.line(f"const float {array}[{len(names)}] = {{{', '.join(names)}}};")
            with self.out.loops((len(names),)) as (i,):
                at, total = into.at(i), f"{array}[{i}]" if len(names) > 1 else names[0]
                self.out.line(f"{at} = larger({at}, {total});" if most else f"{at} += {total};")
        elif not value.streams:
            self.out.places[-1][value.id] = Place(names[0], None)
        else:
            array = self.out.name(self.out.hint(value))
            self.out.line(f"const float {array}[{len(names)}] = {{{', '.join(names)}}};")
            self.out.places[-1][value.id] = Place(array)

    def unprojected(self, value: Row) -> str:
        """What memory of a chunk of rows is called that numbers by a matrix give."""
        if value.id not in self._unprojected:
            self._unprojected[value.id] = self.out.name("unprojected")
        return self._unprojected[value.id]

    def turn(self, value: Row, angles: Place) -> None:
        """Turns pairs of channels of a row where it lies."""
        out, rule = self.out, value.rule
        assert isinstance(rule, Rotate)
        name = self.schedule.turned[value.id]
        out.line(f"// {name}: {rule.turned} of its {self.width} channels turned")
        for n in self.pointers(name, value, f"{name}_turned", const=False):
            first = 0 if rule.end == "first" else self.width - rule.turned
            step, other = ("", rule.turned // 2) if rule.pairs == "half" else ("2 * ", 1)
            a, b = (f"{n}[{f'{s} + ' if s else ''}{step}i]" for s in (first, first + other))
            out.line("#pragma omp simd")
            with out.block(f"for (int64_t i = 0; i < {rule.turned // 2}; ++i)"):
                sign = "-" if rule.inverse else ""
                out.line(f"const float cosine = {angles.at('2 * i')}, sine = {sign}{angles.at('2 * i + 1')};")
                out.line(f"const float one = {a}, other = {b};")
                out.line(f"{a} = one * cosine - other * sine;")
                out.line(f"{b} = one * sine + other * cosine;")


def _open(text: str) -> str:
    """An expression without parentheses around it."""
    return text[1:-1] if text.startswith("(") and closed(text[1:-1]) == text and text.count("(") == 1 else text


def _spelt(p: Pass, schedule: Schedule) -> Iterable[Row]:
    """Numbers that the rows of a pass read in other places than they lie in."""
    seen: set[int] = set()
    stack = list(p.ends)
    while stack:
        v = stack.pop()
        if v.id in seen or schedule.reads(v, p.level) or isinstance(v.rule, Unproject):
            continue
        seen.add(v.id)
        for a in v.args:
            if a.row:
                stack.append(a)
            elif not isinstance(a.rule, Const):
                yield a
