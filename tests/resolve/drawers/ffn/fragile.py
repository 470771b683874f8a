"""A toy feed-forward whose default and rules can fail, for tests of resolve."""

from __future__ import annotations

from collections.abc import Iterator

from archc.schema import FeedForward, Problem, field


class Fragile(FeedForward):
    """Divides by what it is given."""

    parts: int = field("parts", default=1)
    hidden: int = field("width of a part", default_factory=lambda f: 64 // f["parts"])
    rule: int = field("divides 64 in a rule", default=1)

    def problems(self) -> Iterator[Problem]:
        if 64 % self.rule:
            yield Problem(fields=("rule",), message=f"rule = {self.rule} does not divide 64")
