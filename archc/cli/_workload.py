"""Options that say what is costed and on what, for commands that cost several models alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archc.cli.cost import Quantity, Ways
from archc.cli.options import Command

if TYPE_CHECKING:
    from archc.cost.report import Mode, Report
    from archc.cost.setting import Parallel, Recompute
    from archc.graph import Graph
    from archc.schema import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The workload and setting that options ask for; what is None has the default of `archc cost`."""

    mode: Mode = "decode"
    batch: int = 1
    seq: int | None = None
    context: int | None = None
    hardware: str | None = None
    gpus: int | None = None
    parallel: Parallel | None = None
    recompute: Recompute = "none"
    tokens: int | None = None
    price: float | None = None

    def common(self, models: list[Model]) -> Asked:
        """For several models: what would follow from a model is the shortest of theirs, so that all do the same."""
        from dataclasses import replace

        shortest = min(m.context for m in models)
        if self.mode == "decode":
            return replace(self, context=self.context or max(shortest, self.seq or 1))
        return replace(self, seq=self.seq or min(4096, shortest))

    def words(self) -> dict[str, str]:
        """The options of `archc cost` that ask for it."""
        from dataclasses import fields

        given = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.parallel is not None:
            ways = ((f.name, getattr(self.parallel, f.name)) for f in fields(self.parallel))
            given["parallel"] = ",".join(f"{name}={n}" for name, n in ways if n > 1) or "dp=1"
        return {name: str(value) for name, value in given.items() if value not in {None, "none"}}

    def report(self, model: Model, graph: Graph, drawers: tuple[Path, ...] = ()) -> Report:
        """The cost of a planned model. Raises click.UsageError for what cannot be."""
        from archc.cost.count import count
        from archc.cost.setting import check, setting_of

        try:
            setting = setting_of(
                model,
                hardware=self.hardware,
                gpus=self.gpus,
                parallel=self.parallel,
                recompute=self.recompute,
                # Beside a training run, pages look at the same models as they serve
                tokens=self.tokens if self.mode == "train" else None,
                price=self.price if self.mode == "train" else None,
                drawers=drawers,
            )
            check(self.mode, setting)
            return count(
                model,
                graph,
                mode=self.mode,
                batch=self.batch,
                seq=self.seq,
                context=self.context,
                setting=setting,
            )
        except ValueError as error:
            raise click.UsageError(f"{model.name}: {error}") from error


_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(["train", "prefill", "decode"]),
        default="decode",
        show_default=True,
        help="What is run.",
    ),
    click.option("--batch", type=Quantity(), default=1, show_default=True, help="Rows."),
    click.option("--seq", type=Quantity(), help="New tokens a row; by default 4Ki, in decode 1."),
    click.option(
        "--context",
        type=Quantity(),
        help="Tokens a row has at the end; decode: by default the shortest context of the models.",
    ),
    click.option("--hardware", metavar="NAME", help="A kind of hardware; by default that of each spec."),
    click.option("--gpus", type=Quantity(), help="Devices; by default as many as the plan has."),
    click.option("--parallel", type=Ways(), metavar="PLAN", help="dp=..,fsdp=..,tp=..,pp=..,ep=..,cp=.."),
    click.option(
        "--recompute",
        type=click.Choice(["none", "selective", "full", "mhc"]),
        default="none",
        show_default=True,
        help="What a backward pass computes again instead of keeping it.",
    ),
    click.option("--tokens", type=Quantity(), help="Tokens of a training run."),
    click.option("--price", type=click.FloatRange(min=0, min_open=True), help="Dollars for an hour of a device."),
)


def workload_options(command: Command) -> Command:
    """All of them, passed as the fields of `Asked`."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def asked(options: Mapping[str, Any]) -> Asked:
    """What the options that `workload_options` adds ask for. Raises click.UsageError where they ask for a run's hours
    or money without a run.
    """
    found = Asked(**options)
    if (found.tokens or found.price) and found.mode != "train":
        raise click.UsageError("--tokens and --price are those of a training run: they need --mode train")
    return found


def of_file(spec: str, model: str | None) -> tuple[str, str | None]:
    """A SPEC and the model of it that is meant: ``FILE@MODEL`` names one, whatever `-m` says."""
    path, at, name = spec.rpartition("@")
    if at and path and name and not Path(spec).exists():
        return path, name
    return spec, model
