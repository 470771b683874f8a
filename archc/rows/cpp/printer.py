"""Row programs as C++: tiles of tokens, passes over the row that compilers vectorise, small algebra between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from archc.rows.cpp.text import HEAD, OUTER, PROJECT
from archc.rows.elements import Element, Elements
from archc.rows.kernel import Kernel
from archc.rows.rewrite import Levels
from archc.rows.rules import (
    Const,
    Input,
    Outer,
    Param,
    Placeholder,
    Pointwise,
    Project,
    Repeat,
    RepeatBack,
    RowMax,
    RowSum,
    TokenSum,
    Unproject,
)
from archc.rows.value import Row, order

TILE = 4
"""Tokens that meet a chunk of a projection's weight while it is in the first cache."""

CHUNK = 1024
"""Channels of such a chunk."""

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-ffast-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
    "-Wno-psabi",
)
"""What a compiler is asked for, after `-DACT=float` or `-DACT=bfloat16`."""

KINDS = {"act": "act", "fp32": "float", "bf16": "bfloat16"}
"""Formats in memory as C++ calls them."""


def elements_of(value: Row) -> int:
    """How many numbers, or rows, a value has for each token."""
    return math.prod(value.streams)


class _Printer(Elements):
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.depth = 1
        self.known: list[dict[int, list[Element]]] = [{}]
        self.taken: set[str] = {
            *kernel.takes,
            *kernel.gives,
            "t",
            "b",
            "d",
            "lo",
            "hi",
            "i",
            "t0",
            "T",
            "TB",
            "project",
            "outer",
            "tile",
        }

    # --- lines -----------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text if text else "")

    @contextmanager
    def block(self, head: str, *, scope: bool = True) -> Iterator[None]:
        self.line(f"{head} {{")
        self.depth += 1
        if scope:
            self.known.append({})
        yield
        if scope:
            self.known.pop()
        self.depth -= 1
        self.line("}")

    def name(self, hint: str) -> str:
        """A name that is not taken."""
        found = (
            hint
            if hint not in self.taken
            else next(f"{hint}_{n}" for n in range(2, 1_000_000) if f"{hint}_{n}" not in self.taken)
        )
        self.taken.add(found)
        return found

    # --- elements --------------------------------------------------------------------------------
    def bind(self, text: str, hint: str) -> Element:
        name = self.name(hint)
        self.line(f"const float {name} = {text};")
        return Element(name)

    def show(self, element: Element) -> str:
        if element.number is None:
            return element.text
        text = f"{element.number!r}f"
        return f"({text})" if element.number < 0 else text

    def pointwise(self, rule: Pointwise, x: str) -> str:
        return rule.cpp.format(x=x, **rule.__dict__)

    def larger(self, a: str, b: str) -> str:
        return f"std::max({a}, {b})"

    def hint(self, value: Row) -> str:
        names = value.program.names
        return names.get(value.id) or f"{type(value.rule).__name__.lower()}"

    def get(self, value: Row) -> list[Element] | None:
        return next((m[value.id] for m in reversed(self.known) if value.id in m), None)

    def made(self, value: Row) -> list[Element]:
        """The elements of a value, written where they are not yet."""
        found = self.get(value)
        if found is None:
            found = self.written(value)
            self.known[-1][value.id] = found
        return found

    def written(self, value: Row) -> list[Element]:
        rule = value.rule
        count = elements_of(value)
        if isinstance(rule, Input | Param):
            if value.row:
                return [Element(f"{rule.name}_{i}[d]") for i in range(count)]
            at = f"{rule.name}[t * {count} + {{}}]" if value.token else f"{rule.name}[{{}}]"
            return [self.bind(at.format(i), f"{rule.name}_{i}" if count > 1 else rule.name) for i in range(count)]
        if isinstance(rule, Repeat):
            return self._repeat(value)
        if isinstance(rule, RepeatBack):
            return self._repeat_back(value)
        if isinstance(rule, Unproject):
            numbers, weight = value.args
            g, w = self.made(numbers), self.made(weight)
            return [
                self.bind(
                    " + ".join(f"{self.show(n)} * {w[j * count + i].text}" for j, n in enumerate(g)), "unprojected"
                )
                for i in range(count)
            ]
        args = [self.made(a) for a in value.args]
        return self.combine(value, args, self.hint(value))

    def _repeat(self, value: Row) -> list[Element]:
        start, state, end = value.args
        assert isinstance(value.rule, Repeat)
        name = self.name(self.hint(value))
        first = self.made(start)
        names = [f"{name}_{i}" for i in range(len(first))]
        self.taken.update(names)
        for n, e in zip(names, first, strict=True):
            self.line(f"float {n} = {self.show(e)};")
        with self.block(f"for (int i = 0; i < {value.rule.times}; ++i)"):
            self.known[-1][state.id] = [Element(n) for n in names]
            for n, e in zip(names, self.made(end), strict=True):
                self.line(f"{n} = {self.show(e)};")
        return [Element(n) for n in names]

    def _repeat_back(self, value: Row) -> list[Element]:
        start, grad, state, end, cotangent, back = value.args
        assert isinstance(value.rule, RepeatBack)
        first, size = self.made(start), elements_of(start)
        given = self.made(grad)
        rounds, name = self.name("rounds"), self.name("back")
        self.line(f"float {rounds}[{value.rule.times}][{size}];")
        for i, e in enumerate(first):
            self.line(f"{rounds}[0][{i}] = {self.show(e)};")
        with self.block(f"for (int i = 1; i < {value.rule.times}; ++i)"):
            self.known[-1][state.id] = [Element(f"{rounds}[i - 1][{k}]") for k in range(size)]
            for k, e in enumerate(self.made(end)):
                self.line(f"{rounds}[i][{k}] = {self.show(e)};")
        self.line(f"float {name}[{size}] = {{{', '.join(self.show(e) for e in given)}}};")
        with self.block(f"for (int i = {value.rule.times - 1}; i >= 0; --i)"):
            self.known[-1][state.id] = [Element(f"{rounds}[i][{k}]") for k in range(size)]
            self.known[-1][cotangent.id] = [Element(f"{name}[{k}]") for k in range(size)]
            made = [self.show(e) for e in self.made(back)]
            for k, text in enumerate(made):
                self.line(f"{name}[{k}] = {text};")
        return [Element(f"{name}[{k}]") for k in range(size)]


class _Forward(_Printer):
    """A function that runs a tile of tokens: for each level the numbers, then a pass over the row."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.levels = Levels()
        gives = kernel.gives
        self.stored = {v.id: name for name, v in gives.items() if v.row and v.token}
        self.accumulated = {name: v for name, v in gives.items() if not v.token}
        self.held: set[str] = set()
        """Rows that a product reads and nobody else gets: they lie in memory of the tile."""
        self.held_rows: list[Row] = []
        self.every = order(gives.values())
        self.reduced = [v for v in self.every if isinstance(v.rule, RowSum | RowMax)]
        self.projected = [v for v in self.every if isinstance(v.rule, Project)]
        self.arrays: dict[int, str] = {}
        self.depth_of = max((self.levels.of(v) for v in self.every), default=0)

    def rows_at(self, level: int) -> list[Row]:
        """Row values that a pass makes: those it stores, and those whose sums it takes."""
        given = (*self.kernel.gives.values(), *self.held_rows)
        found = [v for v in given if v.row and v.token and self.levels.of(v) == level]
        found += [v.args[0] for v in self.reduced if self.levels.of(v.args[0]) == level]
        for v in self.accumulated.values():
            if isinstance(v.rule, TokenSum) and v.row and self.levels.of(v) == level:
                found.append(v.args[0])
        return list(dict.fromkeys(found))

    def numbers_of(self, row: Row, level: int) -> Iterator[Row]:
        """The numbers that a row value is made of in a pass of a level."""
        for arg in row.args:
            if not arg.row:
                yield arg
            elif not (arg.id in self.stored and self.levels.of(arg) < level):
                yield from self.numbers_of(arg, level)

    def wanted(self) -> dict[int, set[int]]:
        """Numbers that are made, each with the blocks (2 * level, a pass one more) that read it."""
        readers: dict[int, set[int]] = {}

        def want(v: Row, block: int) -> None:
            if isinstance(v.rule, Const | Placeholder):
                return
            new = v.id not in readers
            readers.setdefault(v.id, set()).add(block)
            if not new or isinstance(v.rule, RowSum | RowMax | Project):
                return
            mine = 2 * self.levels.of(v)
            inner = (
                v.args[:1] if isinstance(v.rule, Repeat) else v.args[:2] if isinstance(v.rule, RepeatBack) else v.args
            )
            for arg in inner:
                want(arg, mine)

        for name, v in self.kernel.gives.items():
            if not v.row and v.token:
                want(v, 2 * self.levels.of(v))
            elif name in self.accumulated and isinstance(v.rule, Outer):
                want(v.args[0], 2 * self.levels.of(v) + 1)
            elif name in self.accumulated and isinstance(v.rule, TokenSum) and not v.row:
                want(v.args[0], 2 * self.levels.of(v))
        for level in range(self.depth_of + 1):
            for row in self.rows_at(level):
                for number in self.numbers_of(row, level):
                    want(number, 2 * level + 1)
        return readers

    def print(self) -> str:
        for v in (*self.projected, *(a for a in self.accumulated.values() if isinstance(a.rule, Outer))):
            x = v.args[0 if isinstance(v.rule, Project) else 1]
            if not isinstance(x.rule, Input) and x.id not in self.stored:
                name = self.name(self.hint(x))
                self.held.add(name)
                self.stored[x.id] = name
                size = elements_of(x) * self.kernel.width
                self.line(f"static thread_local std::vector<float> {name}_memory(TB * {size});")
                self.line(f"float* const {name} = {name}_memory.data();")
                self.held_rows.append(x)
        readers = self.wanted()
        numbers = [v for v in self.every if v.id in readers and not v.row]
        for v in numbers:
            own = 2 * self.levels.of(v)
            made_by_pass = isinstance(v.rule, RowSum | RowMax | Project)
            if v.token and (made_by_pass or any(block != own for block in readers[v.id])):
                self.arrays[v.id] = self.name(self.hint(v))
                start = " = {}" if made_by_pass else ""
                self.line(f"float {self.arrays[v.id]}[TB][{elements_of(v)}]{start};")
        for v in numbers:
            if not v.token and not isinstance(v.rule, Const):
                self.made(v)
        for v in self.reduced:
            if isinstance(v.rule, RowMax):
                self.line(f"for (auto& row : {self.arrays[v.id]}) for (float& x : row) x = -INFINITY;")
        for level in range(self.depth_of + 1):
            self._numbers(level, [v for v in numbers if v.token and self.levels.of(v) == level])
            self._pass(level)
        return "\n".join(self.lines)

    def _numbers(self, level: int, numbers: Iterable[Row]) -> None:
        sums = [
            (name, v)
            for name, v in self.accumulated.items()
            if not v.row and isinstance(v.rule, TokenSum) and self.levels.of(v) == level
        ]
        outs = [(n, v) for n, v in self.kernel.gives.items() if not v.row and v.token and self.levels.of(v) == level]
        numbers = [v for v in numbers if not isinstance(v.rule, RowSum | RowMax | Project)]
        if not numbers and not sums and not outs:
            return
        with self.block("for (int b = 0; b < TB; ++b)"):
            self.line("const int64_t t = t0 + b;")
            self._earlier(level)
            for v in numbers:
                made = self.made(v)
                if v.id in self.arrays:
                    for i, e in enumerate(made):
                        self.line(f"{self.arrays[v.id]}[b][{i}] = {self.show(e)};")
            for name, v in outs:
                for i, e in enumerate(self.made(v)):
                    self.line(f"{name}[t * {elements_of(v)} + {i}] = {self.show(e)};")
            for name, v in sums:
                for i, e in enumerate(self.made(v.args[0])):
                    self.line(f"{name}[{i}] += {self.show(e)};")

    def _earlier(self, level: int) -> None:
        """Makes known what earlier blocks left in arrays."""
        for v in self.every:
            name = self.arrays.get(v.id)
            done = self.levels.of(v) < level or isinstance(v.rule, RowSum | RowMax | Project)
            if name is not None and done and self.levels.of(v) <= level:
                self.known[-1][v.id] = [Element(f"{name}[b][{i}]") for i in range(elements_of(v))]

    def _pass(self, level: int) -> None:
        rows = self.rows_at(level)
        projected = [v for v in self.projected if self.levels.of(v.args[0]) == level]
        outers = [
            (name, v)
            for name, v in self.accumulated.items()
            if isinstance(v.rule, Outer) and self.levels.of(v) == level
        ]
        if not rows and not projected and not outers:
            return
        width = self.kernel.width
        chunked = (projected or outers) and width > CHUNK
        if chunked:
            with self.block(f"for (int64_t lo = 0; lo < {width}; lo += {CHUNK})", scope=False):
                self.line(f"const int64_t hi = std::min<int64_t>(lo + {CHUNK}, {width});")
                self._chunk(level, rows, "lo", "hi", "hi - lo", projected, outers)
        else:
            self._chunk(level, rows, "0", f"{width}", f"{width}", projected, outers)

    def _chunk(
        self, level: int, rows: list[Row], lo: str, hi: str, wide: str, projected: list[Row], outers: list
    ) -> None:
        width = self.kernel.width
        if rows:
            with self.block("for (int b = 0; b < TB; ++b)"):
                self.line("const int64_t t = t0 + b;")
                self._row_loop(level, rows, lo, hi)
        for v in projected:
            x, weight = v.args
            name, n = self._pointer(x), elements_of(x)
            assert isinstance(weight.rule, Param)
            m = weight.streams[0]
            for i in range(n):
                at = f"{self._first(name, n)} + {i * width}" + ("" if lo == "0" else f" + {lo}")
                w = f"{weight.rule.name} + {i * width}" + ("" if lo == "0" else f" + {lo}")
                self.line(f"project<TB, {m}>({at}, {n * width}, {w}, {n * width}, {wide}, {self.arrays[v.id]});")
        for name, v in outers:
            numbers, x = v.args
            given, n = self._pointer(x), elements_of(x)
            for i in range(n):
                shift = "" if lo == "0" else f" + {lo}"
                at = f"{self._first(given, n)} + {i * width}{shift}"
                self.line(
                    f"outer<TB, {elements_of(numbers)}>({self.arrays[numbers.id]}, {at}, {n * width},"
                    f" {name} + {i * width}{shift}, {n * width}, {wide});"
                )

    def _row_of(self, name: str) -> str:
        """Which row of memory is that of token t."""
        return "b" if name in self.held else "t"

    def _type(self, name: str) -> str:
        """What an array of memory consists of."""
        return "float" if name in self.held else KINDS[self.kernel.format(name)]

    def _first(self, name: str, count: int) -> str:
        """Where the rows of a tile begin."""
        return name if name in self.held else f"{name} + t0 * {count * self.kernel.width}"

    def _pointer(self, x: Row) -> str:
        """Where a row lies in memory."""
        if isinstance(x.rule, Input):
            return x.rule.name
        return self.stored[x.id]

    def _row_loop(self, level: int, rows: list[Row], lo: str, hi: str) -> None:
        width = self.kernel.width
        self._earlier(level + 1)
        # Numbers into locals: what is stored could alias arrays
        used = dict.fromkeys(n for row in rows for n in self.numbers_of(row, level))
        for v in used:
            if v.token and v.id in self.arrays:
                base = self.arrays[v.id]
                found = [self.bind(f"{base}[b][{i}]", f"{base}_{i}") for i in range(elements_of(v))]
                self.known[-1][v.id] = found
        leaves: dict[int, Row] = {}

        def collect(v: Row) -> None:
            if not v.row or v.id in leaves:
                return
            if isinstance(v.rule, Input | Param) or (v.id in self.stored and self.levels.of(v) < level):
                leaves[v.id] = v
                return
            for a in v.args:
                collect(a)

        for row in rows:
            if isinstance(row.rule, Input):
                leaves[row.id] = row
            collect(row)
        for v in leaves.values():
            name = self._pointer(v) if not isinstance(v.rule, Param) else v.rule.name
            count = elements_of(v)
            made = []
            for i in range(count):
                at = (
                    f"{name} + {self._row_of(name)} * {count * width} + {i * width}"
                    if v.token
                    else f"{name} + {i * width}"
                )
                local = self.name(f"{name}_{i}" if count > 1 else f"{name}_row")
                self.line(f"const {self._type(name)}* __restrict {local} = {at};")
                made.append(Element(f"{local}[d]"))
            self.known[-1][v.id] = made
        stores = [v for v in rows if v.id in self.stored]
        targets: dict[int, list[str]] = {}
        for v in stores:
            count, name = elements_of(v), self.stored[v.id]
            targets[v.id] = []
            for i in range(count):
                local = self.name(f"to_{name}_{i}" if count > 1 else f"to_{name}")
                self.line(
                    f"{self._type(name)}* __restrict {local} = {name} + {self._row_of(name)} * {count * width} + {i * width};"
                )
                targets[v.id].append(local)
        reduced = [v for v in self.reduced if self.levels.of(v.args[0]) == level]
        clauses, ends = [], []
        for v in reduced:
            most = isinstance(v.rule, RowMax)
            names = [self.name(f"{self.arrays[v.id]}_sum_{i}") for i in range(elements_of(v))]
            self.line("float " + ", ".join(f"{n} = {'-INFINITY' if most else '0'}" for n in names) + ";")
            clauses.append((v, most, names))
            for i, n in enumerate(names):
                at = f"{self.arrays[v.id]}[b][{i}]"
                ends.append(f"{at} = std::max({at}, {n});" if most else f"{at} += {n};")
        pragma = "#pragma omp simd"
        for most, sign in ((False, "+"), (True, "max")):
            names = [n for _, m, some in clauses if m == most for n in some]
            if names:
                pragma += f" reduction({sign}: {', '.join(names)})"
        self.line(pragma)
        with self.block(f"for (int64_t d = {lo}; d < {hi}; ++d)"):
            for v in rows:
                self.made(v)
            for v in stores:
                for local, e in zip(targets[v.id], self.made(v), strict=True):
                    self.line(f"{local}[d] = {self.show(e)};")
            for v, most, names in clauses:
                for n, e in zip(names, self.made(v.args[0]), strict=True):
                    text = self.show(e)
                    self.line(f"{n} = std::max({n}, {text});" if most else f"{n} += {text};")
            for name, v in self.accumulated.items():
                if v.row and isinstance(v.rule, TokenSum) and self.levels.of(v) == level:
                    for i, e in enumerate(self.made(v.args[0])):
                        self.line(f"{name}[{i * width} + d] += {self.show(e)};")
        for text in ends:
            self.line(text)


def translation_unit(kernels: Iterable[Kernel]) -> str:
    """One file of C++ with a function for each kernel, of its name: pointers in the order of takes and gives, then how
    many tokens T. Sums over tokens are added to what their memory holds.
    """
    return "\n".join((HEAD, PROJECT, OUTER, *map(_function, kernels)))


def print_cpp(kernel: Kernel) -> str:
    """The `translation_unit` of one kernel."""
    return translation_unit([kernel])


def _function(kernel: Kernel) -> str:
    """A kernel: what runs a tile of tokens, and the function that runs all of them."""
    body = _Forward(kernel).print()
    kinds = {n: f"const {KINDS[kernel.format(n)]}*" for n in kernel.takes}
    kinds |= {n: f"{KINDS[kernel.format(n)]}*" for n in kernel.gives}
    args = [f"{kind} __restrict {n}" for n, kind in kinds.items()]
    plain = [f"{'const ' * (n in kernel.takes)}void* {n}" for n in kinds]
    passed = ", ".join(f"({kind}){n}" for n, kind in kinds.items())
    sums = any(not v.token for v in kernel.gives.values())
    parallel = "" if sums else "    #pragma omp parallel for schedule(static)\n"
    tile = f"{kernel.name}_tile"
    return "\n".join(
        (
            f"template <int TB>\nstatic void {tile}({', '.join(args)}, int64_t t0) {{\n{body}\n}}\n",
            f'extern "C" void {kernel.name}({", ".join(plain)}, int64_t T) {{',
            f"{parallel}    for (int64_t q = 0; q < T / {TILE}; ++q) {tile}<{TILE}>({passed}, q * {TILE});",
            f"    for (int64_t t = T / {TILE} * {TILE}; t < T; ++t) {tile}<1>({passed}, t);\n}}\n",
        )
    )
