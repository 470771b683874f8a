"""The gradient of a repeat as a Triton function: rounds are run and remembered, then their gradients backwards."""

from __future__ import annotations

from collections.abc import Sequence

from archc.rows.elements import Element, places
from archc.rows.rules import RepeatBack
from archc.rows.triton.elements import Body, Tile, count
from archc.rows.triton.lines import wrapped
from archc.rows.value import Row, order


def rounds_back(outside: Tile, value: Row, memory: str) -> list[Element]:
    """The elements of a `RepeatBack`, as a call of a function; ``memory``: where a program keeps the starts of rounds,
    [rounds, numbers of a token, TILE].
    """
    start, grad, state, end, cotangent, back = value.args
    assert isinstance(value.rule, RepeatBack)
    times, size, hint = value.rule.times, count(start), value.rule.name
    given = [outside.tensor(e, v) for v in (start, grad) for e in outside.made(v)]
    inner = _Round(outside, state, cotangent, hint)
    states, grads = ([e.text for e in inner.made(v)] for v in (state, cotangent))
    inner.line("t = tl.arange(0, TILE)")
    with inner.block(f"for i in range({times}):"):
        for k, n in enumerate(states):
            inner.line(f"tl.store(rounds + ((i * {size} + {k}) * TILE + t), {n})")
        inner.step(states, end)
    inner.line("tl.debug_barrier()")
    with inner.block(f"for i in range({times}):"):
        for k, n in enumerate(states):
            inner.body.reassign(n, f"tl.load(rounds + ((({times - 1} - i) * {size} + {k}) * TILE + t))")
        inner.step(grads, back)
    name = outside.body.name(f"{outside.kernel.name}_{hint}")
    args = [*states, *grads, *(e.text for v in inner.others for e in inner.made(v) if e.number is None)]
    head = "\n".join(wrapped(f"def {name}(", [*args, "rounds", "TILE: tl.constexpr"], "):"))
    what = f'"""The gradient of {times} rounds of {hint} on {list(start.streams)} for each token; rounds: memory."""'
    returned = "\n".join(wrapped("return (", grads, ",)" if len(grads) == 1 else ")", depth=1))
    outside.functions += [*inner.functions, f"@jit\n{head}\n    {what}\n{inner.body.text()}\n{returned}\n"]
    others = [e for v in inner.others for e in outside.made(v) if e.number is None]
    names = [outside.body.name("_".join((outside.hint(value), *map(str, p)))) for p in places(value.streams)]
    outside.line(
        f"{', '.join(names)}{',' * (len(names) == 1)} = "
        f"{name}({', '.join([*(e.text for e in (*given, *others)), memory, 'TILE'])})"
    )
    return [Element(n) for n in names]


class _Round(Body):
    """A round of a repeat and its gradient: both come from the state and the gradient of what the round gives."""

    def __init__(self, outside: Tile, state: Row, cotangent: Row, hint: str) -> None:
        super().__init__(outside, state, hint)
        self.body.taken.update(("i", "rounds"))
        self._inner = {state.id, cotangent.id}
        names = [self.body.name("_".join(("grad", *map(str, p)))) for p in places(cotangent.streams)]
        self.know(cotangent, [Element(n) for n in names])

    def written(self, value: Row) -> list[Element]:
        if any(v.id in self._inner for v in order([value])):
            return Tile.written(self, value)
        return super().written(value)

    def step(self, names: Sequence[str], ends: Row) -> None:
        """Names get the values of the next round."""
        made = [
            self.body.assign(self.show(e), f"next_{n}", passing=True)
            for n, e in zip(names, self.made(ends), strict=True)
        ]
        for n, e in zip(names, made, strict=True):
            self.body.reassign(n, e)
