"""Multi-token prediction as DeepSeek-V3 has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.schema import Mtp, Norm, Residual, field

if TYPE_CHECKING:
    from collections.abc import Callable

    from archc.graph import Builder, Value


class Concat(Mtp):
    """A layer on the embedding of a token ahead beside the hidden vector so far (DeepSeek-V3, arXiv:2412.19437).

    Section 2.2 of the report. The hidden vector is what the head gets, *after* the last norm, of the main model and of
    every module alike. The report leaves that open; it is what the released weights expect where they are run: SGLang
    (`deepseek_nextn.py`), vLLM (`deepseek_mtp.py`, pull request 45895), ATOM (pull request 1764, which measures 64.6 %
    acceptance with that norm between drafts, 61.4 % without).
    """

    norm: Norm = field("norm of both halves of the input, and of what the head gets", inherit="norm")

    def build(
        self, g: Builder, embedding: Value, hidden: Value, residual: Residual, layer: Callable[..., tuple[Value, ...]]
    ) -> tuple[Value, Value]:
        embedding = self.norm.build(g, embedding, "enorm")
        hidden = self.norm.build(g, hidden, "hnorm")
        x = g.linear("eh_proj", g.cat(embedding, hidden), out=hidden.type.last, role="merge")
        state = layer(g, *residual.start(g, x))
        x = residual.finish(g, state)
        x = self.norm.build(g, x, "norm")
        return x, x
