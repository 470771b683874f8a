"""Row programs as C++: passes over the row that compilers vectorise, and small algebra between them.

A kernel without products of matrices runs token by token. One with them runs tiles of tokens, so that a chunk of a
matrix serves several tokens while it is near.
"""

from __future__ import annotations

from collections.abc import Iterable

from archc.rows.cpp.lines import Lines
from archc.rows.cpp.numbers import Numbers, Place
from archc.rows.cpp.rows import CHUNK, KINDS, Rows
from archc.rows.cpp.schedule import HEAD, NoCpp, Pass, Schedule, count, prepared
from archc.rows.cpp.text import HEAD as CARRIED
from archc.rows.kernel import Kernel, bare
from archc.rows.rules import Input, Param, Project, RowMax, Spread, Take, TokenSum
from archc.rows.value import Row

TILE = 16
"""Tokens that meet a chunk of a matrix while it is near; as many as `Tokens` of C++ has."""

STACK = 4096
"""Numbers of a row buffer that may lie on the stack."""


class _Function:
    """One kernel: the function of a tile of tokens, and the one that runs all of them.

    ``plain`` is the same kernel without some of the numbers that this one gives: it runs the same function, with no
    memory for them.
    """

    def __init__(self, kernel: Kernel, plain: Kernel | None = None) -> None:
        self.kernel = kernel = prepared(kernel)
        self.plain = None if plain is None else prepared(plain)
        self.extra = set() if self.plain is None else kernel.gives.keys() - self.plain.gives.keys()
        self.schedule = s = Schedule(kernel)
        for name in (*kernel.takes, *kernel.gives):
            if kernel.format(name) not in KINDS:
                raise NoCpp(f"{name} of {kernel.name} is {kernel.format(name)}, C++ knows {', '.join(KINDS)}")
        self.out = Numbers(
            [*kernel.takes, *kernel.gives, *s.held, kernel.name],
            s.every,
            {v.id for v in kernel.gives.values()} | {v for v in s.block if self._read_by_rows(v)},
        )
        self.rows = Rows(self.out, s)
        self.scratch = {n: f"{n}_numbers" for n, v in s.outers.items() if not s.late(v)}
        """Numbers of all tokens, of products that are summed over tokens."""

    def _read_by_rows(self, id: int) -> bool:
        return any(b % 2 == 1 for b in self.schedule.readers[id]) or len(self.schedule.readers[id]) > 1

    # --- the tile --------------------------------------------------------------------------------
    def tile(self) -> str:
        """What runs a tile of tokens, or one token after the other."""
        out, s = self.out, self.schedule
        self._leaves()
        for v in s.numbers(HEAD):
            if not isinstance(v.rule, Take | Spread):
                out.made(v)
        self._buffers()
        if s.tiled:
            self._arrays()
            for segment in s.segments:
                if len(segment) == 1 and segment[0] % 2 == 1:
                    self._chunked(s.passes[segment[0] // 2])
                elif segment == [s.end]:
                    self._outers()
                elif any(map(self._busy, segment)):
                    with out.scope("for (int b = 0; b < n; ++b)"):
                        out.line("const int64_t t = t0 + b;")
                        for v in s.every:
                            if v.id in self.arrays:
                                out.places[-1][v.id] = Place(f"{self.arrays[v.id]}[b]")
                        for block in segment:
                            self._block(block)
                for v in (v for b in segment if b % 2 for v in s.passes[b // 2].repeats):
                    out.together(v, self.arrays, self.arrays[v.id])
        else:
            with out.scope("for (int64_t t = first; t < end; ++t)"):
                for block in range(s.end):
                    self._block(block)
        return "\n".join(out.lines)

    def _leaves(self) -> None:
        for v in self.schedule.every:
            if v.row:
                continue
            if isinstance(v.rule, Input):
                token = f"t / {v.rule.shared}" if v.rule.shared > 1 else "t"
                start = f"{token} * {count(v)}" if count(v) > 1 else token
                self.out.places[0][v.id] = Place(v.rule.name, start)
            elif isinstance(v.rule, Param):
                self.out.places[0][v.id] = Place(v.rule.name)

    def _buffers(self) -> None:
        """Memory of rows that only a tile keeps."""
        out, s, width = self.out, self.schedule, self.kernel.width
        rows = {name: count(v) * width for name, v in s.held.items()}
        for p in s.passes:
            for v in p.unprojected:
                rows[self.rows.unprojected(v)] = count(v) * min(CHUNK, width)
        for name, size in rows.items():
            many = f"{TILE * size}" if s.tiled else f"{size}"
            if size * (TILE if s.tiled else 1) <= STACK:
                out.line(f"alignas(64) float {name}[{many}];")
            else:
                out.line(f"static thread_local std::vector<float> {name}_memory({many});")
                out.line(f"float* const {name} = {name}_memory.data();")

    def _arrays(self) -> None:
        """Numbers of a tile that one loop over its tokens makes and another reads."""
        s = self.schedule
        self.arrays: dict[int, str] = {}
        self.lanes: dict[int, str] = {}
        for v in s.every:
            if v.id in s.block and s.crosses(v):
                hint = v.rule.name if isinstance(v.rule, Input) else self.out.hint(v)
                self.arrays[v.id] = name = self.out.name(hint)
                by_lanes = isinstance(v.rule, Project)
                summed = (s.block[v.id] % 2 == 1 and not by_lanes) or v.id in s.repeated
                self.out.line(f"float {name}[{TILE}][{count(v)}]{' = {}' if summed else ''};")
                if by_lanes:
                    self.lanes[v.id] = lanes = self.out.name(f"{name}_lanes")
                    self.out.line(f"alignas(64) Lanes {lanes}[{TILE}][{count(v)}];")
                    self.out.line(f"std::fill_n({lanes}[0], n * {count(v)}, Lanes{{}});")
                if isinstance(v.rule, RowMax):
                    self.out.line(f"for (auto& row : {name}) for (float& x : row) x = -INFINITY;")

    # --- blocks ----------------------------------------------------------------------------------
    def _busy(self, block: int) -> bool:
        """Whether a block does anything."""
        s = self.schedule
        if block % 2 == 1:
            return bool(s.passes[block // 2].ends)
        turned = any(self.schedule.level(v) == block // 2 for v in s.every if v.id in s.turned)
        return bool(s.numbers(block) or self._given(block) or turned)

    def _given(self, block: int) -> list[tuple[str, Row]]:
        """Numbers that go to memory after a block, or are added to a sum over tokens there."""
        s, found = self.schedule, []
        for name, v in s.kernel.gives.items():
            x = v.args[0] if isinstance(v.rule, TokenSum) or name in self.scratch else v
            if not x.row and name not in s.outers.keys() - self.scratch.keys() and 2 * s.level(x) == block:
                found.append((name, v))
        return found

    def _block(self, block: int) -> None:
        out, s = self.out, self.schedule
        if block % 2 == 1:
            p = s.passes[block // 2]
            if p.ends:
                self._comment(p)
                sums = {v.id: Place(f"{self.arrays[v.id]}[b]") for v in p.reduced if s.tiled and v.id in self.arrays}
                self.rows.loop(p, "0", str(self.kernel.width), sums)
            return
        for v in s.every:
            if v.id in s.turned and s.level(v) == block // 2:
                self.rows.turn(v, out.made(v.args[1]))
        given = self._given(block)
        direct = {v.id: name for name, v in reversed(given) if self._direct(name, v)}
        for v in s.numbers(block):
            if s.tiled and v.id in self.arrays:
                del out.places[-1][v.id]
                into = Place(f"{self.arrays[v.id]}[b]")
                if s.loaded(v):
                    out.copy(v, out.made(v), into)
                else:
                    out.written(v, into)
            elif v.id in direct:
                out.written(v, self._memory(direct[v.id], v))
            elif v.id in out.kept:
                out.made(v)
        given = [(n, v) for n, v in given if direct.get(v.id) != n or (s.tiled and v.id in self.arrays)]
        for name, v in given:
            if name not in self.extra:
                self._to_memory(name, v)
        extra = [(n, v) for n, v in given if n in self.extra]
        if extra:
            with out.scope(f"if ({extra[0][0]})"):
                for name, v in extra:
                    self._to_memory(name, v)

    def _to_memory(self, name: str, value: Row) -> None:
        """Writes the numbers of a token to memory, or adds them to a sum over tokens there."""
        out, summed = self.out, isinstance(value.rule, TokenSum)
        x = value.args[0] if summed or name in self.scratch else value
        out.ready(x, line=True)
        into = Place(name) if summed else self._memory(name, x)
        with out.loops((count(x),)) as (i,):
            out.line(f"{into.at(i)} {'+=' if summed else '='} {out.along(x, i)};")

    def _memory(self, name: str, value: Row) -> Place:
        """Where the numbers of a token lie in memory."""
        start = f"t * {count(value)}" if count(value) > 1 else "t"
        return Place(self.scratch.get(name, name), start)

    def _direct(self, name: str, value: Row) -> bool:
        """Whether a number is made where it goes to in memory."""
        made = value.args and not isinstance(value.rule, TokenSum) and name not in self.scratch
        return bool(made) and self.schedule.block.get(value.id, 1) % 2 == 0 and self.kernel.format(name) == "fp32"

    def _comment(self, p: Pass) -> None:
        """What a pass over the row makes."""
        said = [f"{name} {shape(v)}".rstrip() for name, v in (*p.stores, *p.summed)]
        for v in p.reduced:
            name = self.arrays[v.id] if self.schedule.tiled and v.id in self.arrays else self.out.hint(v)
            said.append(f"{'the largest' if isinstance(v.rule, RowMax) else 'sums'} {name} {shape(v)}".rstrip())
        self.out.line(f"// Over the row: {', '.join(said)}")

    # --- products of matrices ----------------------------------------------------------------------
    def _chunked(self, p: Pass) -> None:
        """A pass with products of matrices, chunk by chunk of the row."""
        out, width = self.out, self.kernel.width
        if p.ends:
            self._comment(p)
        for v in p.projected:
            out.line(f"// {self.arrays[v.id]} {shape(v)}: {self.rows.where(v.args[0])} by {_param(v)}")
        if width > CHUNK:
            with out.scope(f"for (int64_t lo = 0; lo < {width}; lo += {CHUNK})"):
                out.line(f"const int64_t hi = std::min<int64_t>(lo + {CHUNK}, {width});")
                self._chunk(p, "lo", "hi", "hi - lo")
        else:
            self._chunk(p, "0", str(width), str(width))
        for v in p.projected:
            out.line(f"add_lanes(n, {self.lanes[v.id]}, {self.arrays[v.id]});")

    def _chunk(self, p: Pass, lo: str, hi: str, wide: str) -> None:
        out, width = self.out, self.kernel.width
        shift = "" if lo == "0" else f" + {lo}"
        for v in p.unprojected:
            numbers, n, chunk = v.args[0], count(v), min(CHUNK, width)
            for i in range(n):
                at = f"{i * width}{shift}" if i else lo
                out.line(
                    f"unproject(n, {self.arrays[numbers.id]}, {_param(v)}{_plus(at)}, {n * width}, {wide}, "
                    f"{self.rows.unprojected(v)}{_plus(str(i * chunk))}, {n * chunk});"
                )
        if p.ends:
            with out.scope("for (int b = 0; b < n; ++b)"):
                out.line("const int64_t t = t0 + b;")
                for v in self.schedule.every:
                    if v.id in self.arrays:
                        out.places[-1][v.id] = Place(f"{self.arrays[v.id]}[b]")
                sums = {v.id: Place(f"{self.arrays[v.id]}[b]") for v in p.reduced}
                self.rows.loop(p, lo, hi, sums)
        for v in p.projected:
            x, n = v.args[0], count(v.args[0])
            for i in range(n):
                at = f"{i * width}{shift}" if i else lo
                start = self.rows.start(self.rows.where(x), x, "t0")
                out.line(
                    f"project(n, {start}{_plus(at)}, {n * width}, {_param(v)}{_plus(at)}, {n * width}, {wide}, "
                    f"{self.lanes[v.id]});"
                )

    def _outers(self) -> None:
        """Products that are summed over tokens, of rows that only this tile has."""
        for name, v in self.schedule.outers.items():
            if self.schedule.late(v):
                numbers, x = v.args
                m, n = count(numbers), count(x) * self.kernel.width
                x_at = self.rows.start(self.rows.where(x), x, "t0")
                self.out.line(f"outer<{m}>(&{self.arrays[numbers.id]}[0][0], {x_at}, {n}, {name}, n);")

    # --- the whole -------------------------------------------------------------------------------
    def print(self) -> str:
        """The text of the kernel."""
        body = self.tile()
        args = [f"{kind} __restrict {n}" for n, kind in self._kinds().items()]
        span = ["int64_t t0", "int n"] if self.schedule.tiled else ["int64_t first", "int64_t end"]
        out = Lines(())
        out.depth = 0
        out.line("// " + " ".join(self._shapes()))
        if self.extra:
            out.line(f"// {', '.join(n for n in self.kernel.gives if n in self.extra)}: in training alone, else null")
        out.line(f"static void {self._name()}({', '.join((*args, *span))}) {{")
        out.lines += [body, "}"]
        for kernel in (self.plain, self.kernel):
            if kernel is not None:
                out.line("")
                self._entry(out, kernel)
        return "\n".join((*out.lines, ""))

    def _name(self) -> str:
        """What the function of a tile is called."""
        return f"{(self.plain or self.kernel).name}_{'tile' if self.schedule.tiled else 'tokens'}"

    def _kinds(self) -> dict[str, str]:
        """The types of what the function of a tile takes, by name."""
        kernel = self.kernel
        kinds = {n: f"const {KINDS[kernel.format(n)]}*" for n in kernel.takes}
        kinds |= {n: f"{KINDS[kernel.format(n)]}*" for n in kernel.gives if n not in self.scratch}
        return kinds | dict.fromkeys(self.scratch.values(), "float*")

    def _entry(self, out: Lines, kernel: Kernel) -> None:
        """Writes the function that runs all tokens."""
        s = self.schedule
        void = [f"{'const ' * (n in kernel.takes)}void* {n}" for n in (*kernel.takes, *kernel.gives)]
        sums = {n: v for n, v in kernel.gives.items() if not v.token and n not in self.scratch}

        def given(name: str, kind: str) -> str:
            if name in sums:
                return f"{name}_parts.of(slice)"
            if name in self.scratch.values():
                return name
            return f"({kind}){name}" if name in kernel.takes or name in kernel.gives else "nullptr"

        arguments = [given(*pair) for pair in self._kinds().items()]
        with out.block(f'extern "C" void {kernel.name}({", ".join((*void, "int64_t T"))})'):
            out.line(f"const int64_t slices = slices_of(T, {_bytes(kernel)});")
            for n, name in self.scratch.items():
                size = count(s.outers[n].args[0])
                out.line(f"std::unique_ptr<float[]> {name}_memory(new float[T * {size}]);")
                out.line(f"float* const {name} = {name}_memory.get();")
            for n, v in sums.items():
                out.line(f"Parts {n}_parts({n}, {count(v) * (kernel.width if v.row else 1)}, slices);")
            out.line(
                f"in_slices(slices, T, {TILE if s.tiled else 1}, [&](int64_t slice, int64_t first, int64_t end) {{"
            )
            out.depth += 1
            if s.tiled:
                out.line(f"for (int64_t t = first; t < end; t += {TILE})")
                rest = f"int(std::min<int64_t>({TILE}, end - t))"
                out.line(f"    {self._name()}({', '.join((*arguments, 't', rest))});")
            else:
                out.line(f"{self._name()}({', '.join((*arguments, 'first', 'end'))});")
            out.depth -= 1
            out.line("});")
            for name, scratch in self.scratch.items():
                v = s.outers[name]
                m, n = count(v.args[0]), count(v.args[1]) * kernel.width
                x = self.rows.where(v.args[1])
                out.line(f"outer<{m}>({scratch}, (const {self.rows.kind(x)}*){x}, {n}, (float*){name}, T);")

    def _shapes(self) -> list[str]:
        some = [f"{n} {shape(v, self.kernel.width)}" for n, v in self.kernel.takes.items()]
        made = [f"{n} {shape(v, self.kernel.width)}" for n, v in self.kernel.gives.items()]
        return [f"{(self.plain or self.kernel).name}:", ", ".join(some), "->", ", ".join(made)]


def _bytes(kernel: Kernel) -> int:
    """Bytes of a token, activations of 4."""
    some = (*kernel.takes.values(), *kernel.gives.values())
    return sum(4 * count(v) * (kernel.width if v.row else 1) for v in some if v.token)


def shape(value: Row, width: int | None = None) -> str:
    """The dims of a value as text."""
    dims = [*(["T"] if value.token and width is not None else []), *map(str, value.streams)]
    dims += [str(width) if width is not None else "D"] * value.row
    return f"[{', '.join(dims)}]" if dims else ""


def _param(value: Row) -> str:
    """The name of the matrix of a product."""
    weight = value.args[1].rule
    assert isinstance(weight, Param)
    return weight.name


def _plus(at: str) -> str:
    return "" if at == "0" else f" + {at}"


def _within(plain: Kernel, kernel: Kernel) -> bool:
    """Whether a kernel does what another does and gives less: not all of the numbers."""
    same = plain.takes == kernel.takes and all(kernel.gives.get(n) is v for n, v in plain.gives.items())
    more = [v for n, v in kernel.gives.items() if n not in plain.gives]
    return same and bool(more) and all(v.token and not v.row for v in more)


def translation_unit(kernels: Iterable[Kernel], head: str = CARRIED) -> str:
    """One file of C++ with a function for each kernel, of its name: pointers in the order of takes and gives, then how
    many tokens T. Sums over tokens are added to what their memory holds. Raises `NoCpp` where a kernel has none.

    ``head`` stands before them: what all of them use, or how that is included.
    """
    kernels = [bare(k) for k in kernels]
    plain = {id(k): next((p for p in kernels if _within(p, k)), None) for k in kernels}
    part = {id(p) for p in plain.values()}
    return "\n".join((head, *(_Function(k, plain[id(k)]).print() for k in kernels if id(k) not in part)))


def print_cpp(kernel: Kernel) -> str:
    """The `translation_unit` of one kernel."""
    return translation_unit([kernel])
