"""Gradients of row programs as Triton kernels: up to three launches, none of which adds in an order left to chance.

What a gradient gives has tokens or is a sum over them, and that alone decides where it is made:

tokens  a tile of tokens at a time: passes over the row, the numbers between them, all that is given for each token; of
        sums over tokens each program keeps its share
params  products of numbers and rows over all tokens (gradients of what `Project` multiplied by), for a few channels at
        a time, each program over a range of tokens; what numbers it needs, the first kernel left in ``state``
sums    adds up the shares of programs

A kernel whose gives all have tokens is the first launch alone; without `Outer` there is no second. Where there is one
program its share is the sum, which it stores where the gradient goes, and none is launched to add up. Where the first
sums nothing over tokens, it and the second are one launch (`backward_both`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archc.rows.kernel import Kernel, bare
from archc.rows.rewrite import rebuilt
from archc.rows.rules import Input, Outer, Param, TokenSum
from archc.rows.triton.backward_arrays import Share
from archc.rows.triton.backward_both import Both, one_kernel
from archc.rows.triton.backward_params import BLOCK, Params, blocks, print_sums
from archc.rows.triton.backward_tokens import Tokens
from archc.rows.triton.launch import described, numbers, returned
from archc.rows.triton.lines import wrapped
from archc.rows.triton.printed import NoTriton, Printed, called
from archc.rows.value import Row, order


def print_backward(kernel: Kernel, made: Mapping[str, Row] | None = None) -> Printed:
    """The kernels of the gradient that `trained` gives. Sums over tokens are summed in the same order for equal T.

    ``made``: for takes by name, what they are of other takes, as forward made what was kept; the first kernel makes
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
    params = Params(kernel, products, part=alone) if products else None
    state = params.state if params else []
    known = {v.id for v in kernel.takes.values()}
    leaves = {n: [a for a in order([v]) if isinstance(a.rule, Input | Param)] for n, v in (made or {}).items()}
    can = [n for n, some in leaves.items() if n in kernel.takes and all(a.id in known for a in some)]
    again = {kernel.takes[n].id: made[n] for n in can} if made else {}
    values = rebuilt([*kernel.gives.values(), *state], lambda old, new: again.get(old.id, new))
    remade = kernel._replace(gives=dict(zip(kernel.gives, values, strict=False)))
    tokens = Tokens(remade, {n: remade.gives[n] for n in shared}, values[len(kernel.gives) :], part=alone)
    both = Both(kernel, products, tokens, params) if params and alone else None
    sets = [("programs", tokens.shares)] if shared else []
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
            single = f", single=T <= {tokens.tile}" if tokens.adding and many == "programs" else ""
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
        counts = [sum(map(blocks, some)) for _, some in sets]
        grid = f"{counts[0]},"
        several = [f"T > {tokens.tile}" if tokens.adding and many == "programs" else f"{many} > 1" for many, _ in sets]
        write(f"            if {' or '.join(several)}:")
        if len(sets) > 1:
            write(f"                blocks = {sum(counts)} if {sets[1][0]} > 1 else {counts[0]}")
            grid = "blocks,"
        call = [n for many, some in sets for n in (*(s.array for s in some), many)]
        call += [*(s.name for _, some in sets for s in some), f"BLOCK={BLOCK}", "num_warps=4", "**FUSED_MULTIPLY_ADD"]
        lines += wrapped(f"_{kernel.name}_sums[({grid})](", call, ")", depth=4)
    lines += returned(list(kernel.gives))
    return "\n".join(lines) + "\n"
