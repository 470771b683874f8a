"""One kernel of a gradient for tokens and for products over all tokens, where the first sums nothing over tokens.

As launches of their own both would touch what they have in common: what lies in memory as it comes, and ``state``,
which the one leaves for the other. Programs that make products wait until all that walk tokens have arrived. Each takes
a ticket, and who waits has a later one than all it waits for; so those run whatever else a GPU does.
"""

from __future__ import annotations

from collections.abc import Mapping

from archc.rows.kernel import Kernel
from archc.rows.rules import RepeatBack, TokenSum
from archc.rows.triton.backward_arrays import documented
from archc.rows.triton.backward_params import Params
from archc.rows.triton.backward_tokens import Tokens
from archc.rows.triton.elements import to
from archc.rows.triton.lines import wrapped
from archc.rows.value import Row, order


def one_kernel(kernel: Kernel) -> bool:
    """Whether programs of tokens have no memory of their own, neither for shares nor for rounds of a repeat."""
    values = kernel.gives.values()
    return not any(isinstance(v.rule, TokenSum) for v in values) and not any(
        isinstance(v.rule, RepeatBack) for v in order(list(values))
    )


class Both:
    """Writes the kernel that calls both parts."""

    def __init__(self, kernel: Kernel, products: Mapping[str, Row], tokens: Tokens, params: Params) -> None:
        self.products, self.tokens, self.params = products, tokens, params
        self.name = f"_{kernel.name}_kernel"
        self.waits = bool(params.state)
        self.warps = max(tokens.warps, params.warps)

    @property
    def arguments(self) -> list[str]:
        """The arrays that the kernel gets."""
        arrays = dict.fromkeys((*self.tokens.arguments, *self.params.arguments))
        return [*arrays, *(["counters"] if self.waits else [])]

    def call(self, programs: str) -> list[str]:
        """Lines that launch it, with so many programs for tokens."""
        params = self.params
        grid = f"{programs} + {params.chunks * params.groups} * ranges,"
        passed = [*self.arguments, "T", "per", programs, "ranges", f"num_warps={self.warps}", "num_stages=1"]
        return wrapped(f"{self.name}[({grid})](", [*passed, "**FUSED_MULTIPLY_ADD"], ")", depth=3)

    def text(self) -> str:
        """Both parts, and the kernel."""
        tokens, params = self.tokens, self.params
        given = {n: to(n) for n in tokens.given}
        names = [given.get(n, n) for n in self.arguments]
        head = "\n".join(wrapped(f"def {self.name}(", [*names, "T", "per", "earlier", "ranges"], "):"))
        what = f"The first ``earlier`` programs make {', '.join(given)} of a tile of tokens; "
        what += "the others wait for them and make" if self.waits else "the others"
        what += f"{'' if self.waits else ' make'} shares of {', '.join(self.products)}, of ``per`` tokens."
        lines = [
            f"    program = {'ticket(counters)' if self.waits else 'tl.program_id(0)'}",
            "    if program < earlier:",
        ]
        mine = [given.get(n, n) for n in tokens.arguments]
        lines += wrapped(f"{tokens.name}(", ["program", *mine, "T", *tokens.sizes_of_tile()], ")", depth=2)
        if self.waits:
            lines.append("        arrive(counters)")
        lines.append("    else:")
        if self.waits:
            lines.append("        wait_for(counters, earlier, tl.num_programs(0) - earlier)")
        lines.append("        program -= earlier")
        lines += [f"        {name} = {number}" for name, number in params.places().items()]
        call = [*params.places(), *params.arguments, "T", "per", *params.sizes_of_tile()]
        lines += wrapped(f"{params.name}(", call, ")", depth=2)
        body = "\n".join((f"@jit\n{head}", *documented(what), *lines)) + "\n"
        return f"{tokens.text()}\n\n{params.text()}\n\n{body}"
