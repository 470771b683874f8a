"""What routers share: logits in float32, groups of experts of which a token may use a few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from archc.schema import Doubt, Problem, Router, field

if TYPE_CHECKING:
    from archc.graph import Builder, Value


def settled(active: int, cause: str) -> Iterator[Doubt]:
    """What is doubtful where ``cause`` makes the weights of a token's experts add up to 1, and there is one expert."""
    if active == 1:
        yield Doubt(
            code="W0008",
            fields=("active", cause),
            message=f"the weight of the one expert is always 1 after {cause}: the router learns nothing from it",
            help=f"let a token choose more, or write `{cause} = false`",
        )


class Grouped(Router):
    """Base of the routers that choose the experts of highest score, those of the best groups only."""

    group_worth: ClassVar[str]
    """What a group is chosen by, in words."""

    active: int = field("experts per token", gt=0)
    groups: int = field("groups that the experts form", default=1, gt=0)
    keep_groups: int = field("groups that a token may choose from", default=1, gt=0)
    scale: float = field("factor on the weights", default=1.0, gt=0)

    def problems(self) -> Iterator[Problem]:
        if self.keep_groups > self.groups:
            yield Problem(
                fields=("keep_groups", "groups"),
                message=f"keeps {self.keep_groups} of {self.groups} {'group' if self.groups == 1 else 'groups'}",
            )

    def about(self) -> str:
        return self.and_groups(super().about())

    def and_groups(self, doc: str) -> str:
        """A docstring, and which groups of experts a token may use where that is not all."""
        if self.keep_groups == self.groups:
            return doc
        return (
            f"{doc}\n\nOnly experts of {self.keep_groups} of {self.groups} groups: a group is worth {self.group_worth}."
        )

    def misfits(self, experts: int) -> Iterator[Problem]:
        size, rest = divmod(experts, self.groups)
        if rest:
            yield Problem(fields=("groups",), message=f"groups = {self.groups} does not divide experts = {experts}")
        elif self.active > size * self.keep_groups:
            limit = f" in keep_groups = {self.keep_groups} groups" if self.groups > 1 else ""
            yield Problem(
                fields=("active", "keep_groups") if limit else ("active",),
                message=f"active = {self.active} is more than the {size * self.keep_groups} experts{limit}",
            )

    def tiny(self) -> dict[str, Any]:
        groups = 4 if self.groups >= 4 else min(self.groups, 2)
        keep = groups
        if self.keep_groups < self.groups:  # so that the limit still binds
            keep = min(max(1, round(self.keep_groups * groups / self.groups)), groups - 1)
        return {"active": min(self.active, 2), "groups": groups, "keep_groups": keep}

    def logits(self, g: Builder, x: Value, experts: int, *, bias: bool = False) -> Value:
        """One for each expert [B, S, experts], in float32: a choice must not hang on the rounding of 16 bits."""
        weight = g.param("weight", (experts, x.type.last), role="router")
        logits = g.project(g.cast(x, to="fp32"), g.cast(weight, to="fp32"))
        if bias:
            logits = logits + g.param("bias", (experts,), role="bias", init="zeros")
        return logits

    def best(self, g: Builder, scores: Value, *, of_group: int) -> Value:
        """Ids of the experts a token chooses [B, S, active]; a group is worth the sum of its ``of_group`` best."""
        allowed = scores
        if self.keep_groups < self.groups:
            allowed = g.group_mask(scores, groups=self.groups, keep=self.keep_groups, best=of_group)
        return g.topk(allowed, k=self.active)
