"""Gradients of row programs as Triton kernels: up to three launches, none of which adds in an order left to chance.

What a gradient gives has tokens or is a sum over them, and that alone decides where it is made:

tokens  a tile of tokens at a time: passes over the row, the numbers between them, all that is given for each token; of
        sums over tokens each program keeps its share
params  products of numbers and rows over all tokens (gradients of what `Project` multiplied by), for a few channels at
        a time, each program over a range of tokens; what numbers it needs, the first kernel left in ``state``
sums    adds up the shares of programs

A kernel whose gives all have tokens is the first launch alone; without `Outer` there is no second. Where there is one
program its share is the sum, which it stores where the gradient goes, and none is launched to add up. Where the first
sums nothing over tokens, it and the second are one launch (`backward_both`). Where products are of so few numbers that
shares of them are little beside the rows of tokens, the first makes these, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.kernel import Kernel, bare
from archc.rows.rewrite import Levels, rebuilt
from archc.rows.rotate import Rotate
from archc.rows.rules import Input, Outer, Param, Round, TokenSum
from archc.rows.triton.backward_arrays import Share
from archc.rows.triton.backward_both import Both, one_kernel
from archc.rows.triton.backward_params import BLOCK, Params, blocks, print_sums
from archc.rows.triton.backward_tokens import MANY_TOKENS, Tokens, tokens_of_a_share
from archc.rows.triton.launch import described, numbers, returned
from archc.rows.triton.lines import wrapped
from archc.rows.triton.printed import NoTriton, Printed, called
from archc.rows.value import Row, order

PROGRAMS = 32
"""Programs at least for 4,096 tokens that walk tokens and keep shares of products, too."""


def print_backward(kernel: Kernel, made: Mapping[str, Row] | None = None) -> Printed:
    """The kernels of the gradient that `trained` gives. Sums over tokens are summed in the same order for equal T.

    ``made``: for takes by name, what they are of other takes, as forward made what was kept. What walks tokens makes
    these rows again instead of reading them, where it reads what they are made of anyway.

    Raises `NoTriton` where a give without tokens is no sum over tokens (`TokenSum`, `Outer`).
    """
    kernel = bare(kernel)
    shared = {n: v for n, v in kernel.gives.items() if isinstance(v.rule, TokenSum)}
    products = {n: v for n, v in kernel.gives.items() if isinstance(v.rule, Outer)}
    strange = [n for n, v in kernel.gives.items() if not v.token and n not in shared and n not in products]
    if strange:
        raise NoTriton(f"{kernel.name} gives {', '.join(strange)} without tokens that are no sums over them")
    alone = bool(products) and one_kernel(kernel)
    walked = bool(products) and not alone and _few(kernel, {**shared, **products})
    params = Params(kernel, products, part=alone) if products and not walked else None
    remade, state = _made_again(kernel, params.state if params else [], made or {})
    sums = {n: remade.gives[n] for n in (*shared, *(products if walked else ()))}
    tokens = Tokens(remade, sums, state, part=alone)
    both = Both(kernel, products, tokens, params) if params and alone else None
    own = sorted(tokens.shares, key=lambda share: kernel.format(share.name) == "fp32")
    sets = [("programs", own)] if sums else []
    if params:
        sets.append(("ranges", params.shares))
    parts = [both.text()] if both else [tokens.text(), *([params.text()] if params else [])]
    if sets:
        parts.append(print_sums(kernel.name, sets))
    parts.append(_launcher(kernel, tokens, params, both, sets))
    needs = {"torch", "Tensor", "jit", "tl", "on_device", "FUSED_MULTIPLY_ADD"}
    if sets:
        needs |= {"add_up", "processors", "shares_of"}
    if both and both.waits:
        needs.add("arrivals")
    functions = dict.fromkeys((*tokens.functions, *(params.functions if params else ())))
    text = "\n\n".join((*functions, *parts))
    return Printed(text, f"launch_{kernel.name}", frozenset(needs) | called(text))


def _made_again(kernel: Kernel, state: Sequence[Row], made: Mapping[str, Row]) -> tuple[Kernel, list[Row]]:
    """The kernel, and ``state`` for another, that read none of the rows that are ``made`` of other takes.

    These are of the first pass: what they are made of is no sum over the row.
    """
    known = {v.id for v in kernel.takes.values()}
    rows = {n: v for n, v in made.items() if n in kernel.takes and v.row and Levels().of(v) == 0}
    leaves = {n: [a for a in order([v]) if isinstance(a.rule, Input | Param)] for n, v in rows.items()}
    instead = {kernel.takes[n].id: rows[n] for n, some in leaves.items() if all(a.id in known for a in some)}
    for name, v in rows.items():
        if isinstance(v.rule, Round):
            v.program.hinted(f"{name}_exact", v.args[0])
    values = rebuilt([*kernel.gives.values(), *state], lambda old, new: instead.get(old.id, new))
    gives = dict(zip(kernel.gives, values, strict=False))
    return kernel._replace(gives=gives), values[len(gives) :]


def _few(kernel: Kernel, sums: Mapping[str, Row]) -> bool:
    """Whether programs that walk tokens are enough where they are so few that shares of all sums are, too.

    Rows that are turned are held whole, and have no pass for products.
    """
    if any(isinstance(v.rule, Rotate) for v in order(kernel.gives.values())):
        return False
    return tokens_of_a_share(kernel, sums.values()) * PROGRAMS <= MANY_TOKENS


def _launcher(
    kernel: Kernel,
    tokens: Tokens,
    params: Params | None,
    both: Both | None,
    sets: Sequence[tuple[str, Sequence[Share]]],
) -> str:
    """The function that allocates what is given, and launches."""
    counted = next(n for n, v in kernel.takes.items() if isinstance(v.rule, Input) and v.rule.shared == 1)
    each = numbers(kernel, kernel.takes[counted])
    act = next((n for n in kernel.takes if kernel.format(n) == "act"), None)
    lines = wrapped(f"def launch_{kernel.name}(", [f"{n}: Tensor" for n in kernel.takes], ") -> tuple[Tensor, ...]:")
    lines += [f'    """{text}' if not i else f"    {text}" for i, text in enumerate(described(kernel))]
    write = lines.append
    write(f"    T = {counted}.numel()" + (f" // {each}" if each > 1 else ""))
    write(f"    device = {counted}.device")
    for give, v in kernel.gives.items():
        dims = [*(["T"] if v.token else []), *map(str, v.streams), *([str(kernel.width)] if v.row else [])]
        dtype = f"{act}.dtype" if act and kernel.format(give) == "act" else "torch.float32"
        allocate = "torch.empty" if v.token else "(torch.empty if T else torch.zeros)"
        write(f"    {give} = {allocate}(({', '.join(dims)}{',' * (len(dims) == 1)}), dtype={dtype}, device=device)")
    write("    if T:")
    work = "torch.empty({}, dtype=torch.float32, device=device)".format
    write(f"        programs = {tokens.programs()}")
    for name, size in tokens.memory():
        write(f"        {name} = {work(size)}")
    if params:
        lines += [f"        {line}" for line in params.ranges()]
    for many, some in sets:
        for share in some:
            once = many == "programs" and tokens.adding and not _exact(kernel, share, sets)
            single = f", single=T <= {tokens.tile}" if once else ""
            write(f"        {share.array} = shares_of({share.name}, {many}{single})")
    if both and both.waits:
        write(f"        counters = arrivals({counted}, 3)")
    write(f"        with on_device({counted}):")
    if both:
        lines += both.call("programs")
    else:
        lines += wrapped(f"{tokens.name}[(programs,)](", [*tokens.arguments, "T", *tokens.options()], ")", depth=3)
    if params and not both:
        call = [*params.arguments, "T", "per", *params.options()]
        lines += wrapped(f"{params.name}[({params.grid()})](", call, ")", depth=3)
    if sets:
        lines += _sums(kernel, tokens, sets)
    lines += returned(list(kernel.gives))
    return "\n".join(lines) + "\n"


def _exact(kernel: Kernel, share: Share, sets: Sequence[tuple[str, Sequence[Share]]]) -> bool:
    """Whether one program that adds several tiles up does so where the gradient goes, and nothing is left to do."""
    return len(sets) == 1 and kernel.format(share.name) == "fp32"


def _sums(kernel: Kernel, tokens: Tokens, sets: Sequence[tuple[str, Sequence[Share]]]) -> list[str]:
    """Lines that launch what adds up shares, if there are any."""
    counts, lines = [sum(map(blocks, some)) for _, some in sets], []
    grid = f"{counts[0]},"
    several = [f"{many} > 1" for many, _ in sets]
    if tokens.adding and sets[0][0] == "programs":
        rounded = sum(blocks(share) for share in sets[0][1] if not _exact(kernel, share, sets))
        several[0] = f"T > {tokens.tile}" if rounded else several[0]
        grid = f"{counts[0]} if programs > 1 else {rounded}," if 0 < rounded < counts[0] else grid
    lines.append(f"            if {' or '.join(several)}:")
    if len(sets) > 1:
        lines.append(f"                blocks = {sum(counts)} if {sets[1][0]} > 1 else {counts[0]}")
        grid = "blocks,"
    call = [n for many, some in sets for n in (*(s.array for s in some), many)]
    call += [*(s.name for _, some in sets for s in some), f"BLOCK={BLOCK}", "num_warps=4", "**FUSED_MULTIPLY_ADD"]
    return lines + wrapped(f"_{kernel.name}_sums[({grid})](", call, ")", depth=4)
