"""Numbers of tokens as tensors [TILE, *streams]: one line for all streams, and not one for each.

Sums over rows come stream by stream, and what scales rows goes there as such: these have a name for each stream.

Triton wants sizes that are powers of two: what lies beyond the streams that there are is anything, and left out of
sums, of what is the largest, and of what is stored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from archc.rows.elements import Element, places
from archc.rows.few_bits import Through
from archc.rows.rewrite import Matrix
from archc.rows.rules import (
    Add,
    Const,
    Input,
    Param,
    Placeholder,
    Pointwise,
    Product,
    Project,
    Repeat,
    RepeatBack,
    RowMax,
    RowSum,
    Spread,
    StreamMax,
    Take,
)
from archc.rows.triton.elements import Tile, count
from archc.rows.triton.lines import wrapped
from archc.rows.triton.parts import equal, parts
from archc.rows.value import Row, Streams, order

TENSOR = "tensor"


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def padded(streams: Streams) -> Streams:
    """Sizes of a tensor that holds so many streams."""
    return tuple(map(power_of_two, streams))


class Tensors(Tile):
    """A tile whose numbers of many streams are tensors."""

    # --- what is one -------------------------------------------------------------------------------
    def dense(self, value: Row) -> bool:
        """Whether a value is computed as a tensor, or of one."""
        if value.id not in self._dense:
            self._dense[value.id] = self._is_dense(value)
        return self._dense[value.id]

    def _is_dense(self, value: Row) -> bool:
        rule = value.rule
        if isinstance(rule, Repeat | RepeatBack | Placeholder):
            return True
        if value.row or not value.token or isinstance(rule, Input | Const | RowSum | RowMax | Project):
            return False
        streamed = [a for a in value.args if a.streams]
        if self._of_rows(value) or (
            isinstance(rule, Pointwise | Add | Product) and streamed and all(map(self._of_rows, streamed))
        ):
            return False
        if isinstance(rule, Take) and not value.streams and isinstance(value.args[0].rule, Input):
            return False
        return bool(value.streams or streamed)

    def _of_rows(self, value: Row) -> bool:
        """Whether a value is a sum of each stream's row, one number for all streams, or made of such one by one: what
        rows are then scaled by.
        """
        if isinstance(value.rule, RowSum | RowMax):
            return len(value.streams) == 1
        if isinstance(value.rule, Matrix):
            return not value.args[0].streams
        streamed = [a for a in value.args if a.streams]
        same = isinstance(value.rule, Pointwise | Add | Product) and all(a.streams == value.streams for a in streamed)
        return same and bool(streamed) and all(map(self._of_rows, streamed))

    def know_tensor(self, value: Row, name: str) -> None:
        """Says which tensor a value is, until the end of the block."""
        self.known[-1][value.id, TENSOR] = [Element(name)]

    def known_tensor(self, value: Row) -> str | None:
        """The tensor that a value is, if it was made."""
        found = next((m[value.id, TENSOR] for m in reversed(self.known) if (value.id, TENSOR) in m), None)
        return found[0].text if found else None

    # --- to and from names of their own --------------------------------------------------------------
    def made(self, value: Row) -> list[Element]:
        found = self.get(value)
        if found is None and (self.dense(value) or self.known_tensor(value)):
            found = self._columns(value)
            self.know(value, found)
        return super().made(value) if found is None else found

    def _columns(self, value: Row) -> list[Element]:
        """Each stream of a tensor as numbers [TILE]; equal ones once, and none of what is known."""
        if not value.streams:
            return [Element(self.tensor(value))]
        (like,) = equal([value])
        known = {e: e for e in like if e.number is not None}
        if all(e in known for e in like):
            return like
        name, dims = self.tensor(value), padded(value.streams)
        flat = name
        if len(dims) > 1:
            flat = self.body.assign(f"tl.reshape({name}, (TILE, {math.prod(dims)}))", f"{name}_flat")
        for e, place in zip(like, places(value.streams), strict=True):
            if e not in known:
                at = sum(i * math.prod(dims[k + 1 :]) for k, i in enumerate(place))
                known[e] = Element(self.body.assign(f"column({flat}, {at})", "_".join((name, *map(str, place)))))
        return [known[e] for e in like]

    def _stacked(self, value: Row) -> str:
        """A tensor of numbers [TILE]."""
        dims = padded(value.streams)
        given = dict(zip(places(value.streams), self.made(value), strict=True))
        names = [self.of_tokens(given[p], value).text if p in given else "" for p in places(dims)]
        names = [n or names[0] for n in names]
        stacked = f"stacked(({', '.join(names)},))" if len(names) == 1 else f"stacked(({', '.join(names)}))"
        return stacked if len(dims) == 1 else f"tl.reshape({stacked}, {self.shape(value.streams)})"

    def shape(self, streams: Streams) -> str:
        """The shape of a tensor."""
        return f"(TILE, {', '.join(map(str, padded(streams)))})" if streams else "(TILE,)"

    # --- the tensor of a value -------------------------------------------------------------------------
    def tensor(self, value: Row) -> str:
        """The name of the tensor [TILE, *streams] of a value; without tokens [1, *streams]."""
        found = self.known_tensor(value)
        if found is None:
            found = self.bound(self.tensor_text(value), value)
            self.know_tensor(value, found)
        return found

    def bound(self, text: str, value: Row) -> str:
        """The name of a tensor, which a text becomes."""
        if re.fullmatch(r"\w+", text):
            return text
        rule = value.rule
        hint = f"{rule.name}_values" if isinstance(rule, Input | Param) else self.hint(value)
        return self.bind(text, hint).text

    def tensor_text(self, value: Row) -> str:
        """What a tensor is: computed, read, or put together of numbers [TILE]."""
        rule = value.rule
        if not value.streams and not self.dense(value):
            return self.of_tokens(self.made(value)[0], value).text
        if isinstance(rule, Input | Param):
            return self.read(rule, value)
        if isinstance(rule, Take) and isinstance(value.args[0].rule, Input | Param):
            return self._taken(rule, value)
        if not isinstance(rule, Matrix) and (self.get(value) is not None or not self.dense(value)):
            return self._stacked(value)
        return self.formula(value)

    def formula(self, value: Row) -> str:
        """What a tensor is computed by."""
        rule, args, rank = value.rule, value.args, len(value.streams)
        if isinstance(rule, Repeat):
            return self._repeat(value)
        if isinstance(rule, Pointwise):
            return self.pointwise(rule, self.tensor(args[0]))
        if isinstance(rule, Add):
            spread = sum(isinstance(a.rule, Spread) for a in args) == 1
            return " + ".join(
                self._over(a) if isinstance(a.rule, Spread) and spread else self._beside(a, rank) for a in args
            )
        if isinstance(rule, Product):
            return self._product(rule, value)
        if isinstance(rule, Take):
            return self._taken(rule, value)
        if isinstance(rule, Spread):
            return f"tl.broadcast_to({self._over(value)}, {self.shape(value.streams)})"
        if isinstance(rule, StreamMax):
            return f"tl.max({self._valid(self.tensor(args[0]), args[0].streams, rank, most=True)}, {rank + 1})"
        if isinstance(rule, Through):
            return self.tensor(args[1])
        if isinstance(rule, Matrix):
            return self._of_matrix(rule, args[0])
        self.know(value, super().written(value))
        return self._stacked(value)

    def _over(self, value: Row) -> str:
        """What is repeated over streams, with an axis for each of these."""
        (x,), rule = value.args, value.rule
        assert isinstance(rule, Spread)
        text = self.tensor(x) if x.streams else self._beside(x, 0)
        return f"{text}[:, {', '.join(':' if c in rule.kept else 'None' for c in rule.made)}]"

    def _beside(self, arg: Row, rank: int) -> str:
        """An operand as it stands beside tensors of so many axes of streams."""
        if arg.streams:
            return self.tensor(arg)
        (e,) = self.made(arg)
        return f"{e.text}[:, {', '.join(['None'] * rank)}]" if e.number is None and arg.token and rank else self.show(e)

    def _valid(self, text: str, streams: Streams, axis: int, *, most: bool = False) -> str:
        """A tensor with what lies beyond the streams of an axis gone."""
        n = streams[axis]
        if n == power_of_two(n):
            return text
        index = ", ".join(["None"] * (axis + 1) + [":"] + ["None"] * (len(streams) - axis - 1))
        fill = '-float("inf")' if most else "0.0"
        return f"tl.where((tl.arange(0, {power_of_two(n)}) < {n})[{index}], {text}, {fill})"

    def _product(self, rule: Product, value: Row) -> str:
        ins, out = rule.letters()
        sizes = {c: n for s, a in zip(ins, value.args, strict=True) for c, n in zip(s, a.streams, strict=True)}
        widest = max(ins, key=len)
        axes = widest if set(widest) == set(sizes) else out + "".join(c for c in sizes if c not in out)
        factors, known = [], 1.0
        for letters, arg in zip(ins, value.args, strict=True):
            if letters:
                factors.append(self._spread(self.tensor(arg), letters, axes))
                continue
            (e,) = self.made(arg)
            if e.number is not None:
                known *= e.number
            else:
                factors.append(self._beside(arg, len(axes)))
        if known not in (1, -1):
            factors.append(self.show(Element("", known)))
        text = ("-" if known == -1 else "") + " * ".join(factors)
        return self._ordered(*self._summed(text, axes, "".join(c for c in axes if c in out), sizes), out)

    def _summed(self, text: str, axes: str, kept: str, sizes: dict[str, int]) -> tuple[str, str]:
        """A tensor summed over all axes but some, and those that it then has."""
        for c in reversed(axes):
            if c not in kept:
                at = axes.index(c)
                text = f"tl.sum({self._valid(text, tuple(sizes[x] for x in axes), at)}, {at + 1})"
                axes = axes.replace(c, "")
        return text, axes

    def _ordered(self, text: str, axes: str, wanted: str) -> str:
        """A tensor with its axes in the order that is wanted."""
        if axes == wanted:
            return text
        return f"tl.permute({text}, (0, {', '.join(str(axes.index(c) + 1) for c in wanted)}))"

    def _spread(self, x: str, letters: str, axes: str) -> str:
        """A tensor whose axes are called by letters, beside those that have more axes."""
        x = self._ordered(x, letters, "".join(c for c in axes if c in letters))
        if len(letters) == len(axes):
            return x
        return f"{x}[:, {', '.join(':' if c in letters else 'None' for c in axes)}]"

    def _taken(self, rule: Take, value: Row) -> str:
        (x,) = value.args
        if isinstance(x.rule, Input | Param):
            return self.read(x.rule, value, rule.start)
        flat, dims = self.tensor(x), padded(x.streams)
        if len(dims) > 1 and dims != x.streams:
            self.know(value, super().written(value))
            return self._stacked(value) if value.streams else self.made(value)[0].text
        if len(dims) > 1:
            flat = f"tl.reshape({flat}, (TILE, {math.prod(dims)}))"
        if not value.streams:
            return f"column({flat}, {rule.start})"
        where, many = self.place_of(value.streams), math.prod(padded(value.streams))
        where = f"{rule.start} + {where}" if rule.start else where
        if len(value.streams) == 1:
            return f"taken({flat}, {where})"
        return f"tl.reshape(taken({flat}, tl.reshape({where}, ({many},))), {self.shape(value.streams)})"

    def _of_matrix(self, rule: Matrix, numbers: Row) -> str:
        ends, first = rule.x + rule.out, len(rule.x)
        twice = [c for c in rule.x if c in rule.out]
        # A letter of x that comes out again is two axes, of which all but the diagonal is zero
        names = "".join(c.upper() if i < first and c in twice else c for i, c in enumerate(ends))
        text, axes = self._beside(numbers, 0), ""
        if numbers.streams:
            sizes = dict(zip(rule.numbers, numbers.streams, strict=True))
            kept = "".join(c for c in rule.numbers if c in ends)
            text, axes = self._summed(text, rule.numbers, kept, sizes)
            text = text if axes == rule.numbers else self.bind(text, f"{self.hint(numbers)}_summed").text
        if axes or (numbers.token and self.made(numbers)[0].number is None):
            text = self._spread(text, axes, names)
        for c in twice:
            n = power_of_two(rule.sizes[names.index(c)])
            here, there = (", ".join(":" if x == at else "None" for x in names) for at in (c.upper(), c))
            same = f"tl.arange(0, {n})[None, {here}] == tl.arange(0, {n})[None, {there}]"
            text = f"tl.where({same}, {text}, 0.0)"
        whole = all(c in axes or c.lower() in twice for c in names)
        return text if whole else f"tl.broadcast_to({text}, {self.shape(rule.sizes)})"

    # --- memory ------------------------------------------------------------------------------------
    def place_of(self, streams: Streams) -> str:
        """Where streams of a token lie in memory, [*streams]."""
        key = f"streams {streams}"
        found = next((p[key] for p in reversed(self._places) if key in p), None)
        if found is None:
            terms = []
            for axis, n in enumerate(padded(streams)):
                index = [":" if i == axis else "None" for i in range(len(streams))]
                term = f"tl.arange(0, {n})" + (f"[{', '.join(index)}]" if len(streams) > 1 else "")
                step = math.prod(streams[axis + 1 :])
                terms.append(f"{term} * {step}" if step > 1 else term)
            found = self.body.assign(" + ".join(terms), "_".join(("place", *map(str, streams))))
            self._places[-1][key] = found
        return found

    def inside_streams(self, streams: Streams, *, token: bool = True, fill: str = "0.0") -> str:
        """The mask argument of an access to a tensor."""
        rank = len(streams)
        index = ", ".join(["None"] * rank)
        masks = [f"inside[:, {index}]"] if token and rank else ["inside"] if token else []
        for axis, n in enumerate(streams):
            if n != power_of_two(n):
                index = ", ".join(["None"] * (axis + 1) + [":"] + ["None"] * (rank - axis - 1))
                masks.append(f"(tl.arange(0, {power_of_two(n)}) < {n})[{index}]")
        if not masks:
            return ""
        return f", mask={' & '.join(masks)}" + (f", other={fill}" if fill else "")

    def at(self, array: str, streams: Streams, *, each: int, start: int = 0, token: str = "t") -> str:
        """The address of a tensor in an array that has ``each`` numbers for a token, from one of them on."""
        rank = len(streams)
        index = ", ".join(["None"] * rank)
        terms = [array]
        if token:
            terms.append((f"{token}[:, {index}]" if rank else token) + (f" * {each}" if each > 1 else ""))
        if rank:
            terms.append(f"{self.place_of(streams)}[None, {', '.join([':'] * rank)}]")
        if start:
            terms.append(str(start))
        return " + ".join(terms)

    def read(self, rule: Input | Param, value: Row, start: int = 0) -> str:
        """A leaf, or streams of it from one on, from memory: as float32."""
        token = "" if isinstance(rule, Param) else "t" if rule.shared == 1 else self.token(rule.shared)
        at = self.at(rule.name, value.streams, each=math.prod(rule.streams), start=start, token=token)
        wide = "" if rule.format == "fp32" else ".to(tl.float32)"
        return f"tl.load({at}{self.inside_streams(value.streams, token=bool(token))}){wide}"

    def store(self, name: str, value: Row) -> None:
        tensor = self.known_tensor(value) or (self.get(value) is None and self.dense(value))
        if value.row or not tensor:
            super().store(name, value)
            return
        for start, part in parts(value):
            at = self.at(f"to_{name}", part.streams, each=count(value), start=start)
            self.line(f"tl.store({at}, {self.tensor(part)}{self.inside_streams(part.streams, fill='')})")

    # --- repeats ---------------------------------------------------------------------------------------
    def _repeat(self, value: Row) -> str:
        """A repeat as a call of a function of its own."""
        start, state, end = value.args
        rule = value.rule
        assert isinstance(rule, Repeat)
        inner = Body(self, [state], [rule.name])
        (name,) = inner.names
        with inner.block(f"for _ in range({rule.times}):"):
            inner.body.reassign(name, inner.tensor(end))
        inner.line(f"return {name}")
        what = f'"""{rule.times} rounds of {rule.name} on [TILE{"".join(f", {n}" for n in state.streams)}]."""'
        return inner.function(rule.name, what, [self.tensor(start)])


class Body(Tensors):
    """The body of a repeat: what does not come of its state comes from outside, as arguments."""

    def __init__(
        self, outside: Tensors, states: Sequence[Row], hints: Sequence[str], taken: Sequence[str] = ()
    ) -> None:
        super().__init__(outside.kernel, taken=taken)
        self._outside = outside
        self._inner = {v.id for v in states}
        self._others: list[tuple[str, str]] = []
        self.names = [self.body.name(h) for h in hints]
        for v, name in zip(states, self.names, strict=True):
            self.know_tensor(v, name)

    def function(self, hint: str, what: str, given: Sequence[str], more: Sequence[tuple[str, str]] = ()) -> str:
        """Writes the function: a call of it with its states ``given``, what comes from outside, and ``more``."""
        outside, text = self._outside, self.body.text()
        others = [*self._others, *more]
        args, passed = [*self.names, *(n for n, _ in others)], [*given, *(x for _, x in others)]
        if re.search(r"\bTILE\b", text):
            args, passed = [*args, "TILE: tl.constexpr"], [*passed, "TILE"]
        name = outside.body.name(f"{outside.kernel.name}_{hint}")
        head = "\n".join(wrapped(f"def {name}(", args, "):"))
        outside.functions += [*self.functions, f"@jit\n{head}\n    {what}\n{text}\n"]
        return f"{name}({', '.join(passed)})"

    def _from_outside(self, value: Row) -> bool:
        return not isinstance(value.rule, Const) and not any(v.id in self._inner for v in order([value]))

    def _argument(self, hint: str, text: str) -> str:
        name = self.body.name(hint)
        self._others.append((name, text))
        return name

    def made(self, value: Row) -> list[Element]:
        if self.get(value) is None and self.known_tensor(value) is None and self._from_outside(value):
            given = self._outside.made(value)
            self.know(value, [e if e.number is not None else Element(self._argument(e.text, e.text)) for e in given])
        return super().made(value)

    def tensor(self, value: Row) -> str:
        if self.known_tensor(value) is None and self._from_outside(value):
            given = self._outside.tensor(value)
            self.know_tensor(value, self._argument(given, given))
        return super().tensor(value)
