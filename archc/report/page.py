"""The page: what it shows, handed to its template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archc import resources
from archc.report.curves import curves
from archc.report.number import Change, Number, change, number
from archc.report.schedule import Picture, colours, picture
from archc.report.subject import Subject
from archc.report.tables import tables
from archc.version import VERSION

KEY_FIGURES = (
    ("parameters", "params.total"),
    ("active a token", "params.active"),
    ("FLOPs a token, ideal", "flops.ideal.{per_token}"),
    ("FLOPs a token, executed", "flops.executed.{per_token}"),
    ("cache", "kv_cache.bytes_total"),
    ("memory of the fullest device", "memory.per_device.total"),
    ("time of a step", "time.total_s"),
    ("tokens a second", "time.tokens_per_s"),
    ("MFU", "time.mfu"),
)
"""What the head of a model shows; ``per_token`` is with the backward in training, where nothing is cached."""

FACTS = ("residual", "norm", "head", "cache", "precision", "optimizer")
"""Slots of a model, besides those of its layers, whose drawers are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is said of one model."""

    subject: Subject
    figures: tuple[tuple[str, Number, Change | None], ...]
    facts: tuple[tuple[str, str], ...]
    picture: Picture


def render(subjects: list[Subject]) -> str:
    """The page of some models, which run the same workload: complete in itself, without network or script."""
    import jinja2

    folder = resources.templates() / "report"
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    palette = colours(subjects)
    return env.get_template("page.html.j2").render(
        title=" · ".join(s.model.name for s in subjects),
        workload=workload(subjects[0].report()["workload"]),
        cards=[_card(s, subjects[0], palette) for s in subjects],
        tables=tables(subjects),
        plots=curves(subjects),
        conventions=conventions(subjects),
        version=VERSION,
    )


def _card(subject: Subject, first: Subject, palette: dict[Any, int]) -> Card:
    figures = []
    training = subject.report()["workload"]["mode"] == "train"
    per_token = "train_per_token" if training else "forward_per_token"
    for name, path in KEY_FIGURES:
        key = path.format(per_token=per_token)
        if (n := number(subject, key)) is not None and not (training and key.startswith("kv_cache")):
            figures.append((name, n, change(n, number(first, key))))
    facts = [(slot, d.kind) for slot in FACTS if (d := getattr(subject.model, slot)) is not None]
    if subject.model.mtp is not None:
        depth = subject.model.mtp.depth
        facts.append(("further tokens", f"{subject.model.mtp.kind}, {depth} module{'s' * (depth > 1)}"))
    if subject.hardware is not None:
        facts.append(("hardware", subject.hardware.kind))
    return Card(subject=subject, figures=tuple(figures), facts=tuple(facts), picture=picture(subject, palette))


def workload(w: dict[str, Any]) -> str:
    """A workload in words."""
    rows = f"{w['batch']:,} row{'s' * (w['batch'] > 1)}"
    return {
        "train": f"Training on {rows} of {w['seq']:,} tokens",
        "prefill": f"Prefill of {rows} of {w['seq']:,} tokens, {w['context']:,} in the end",
        "decode": f"Decoding token {w['context']:,} of {rows}"
        if w["seq"] == 1
        else f"Decoding {w['seq']:,} tokens up to {w['context']:,} of {rows}",
    }[w["mode"]]


def conventions(subjects: list[Subject]) -> list[tuple[str, list[str]]]:
    """(convention, the models that have it; none where all do)."""
    found: dict[str, list[str]] = {}
    for s in subjects:
        for line in s.report()["assumptions"]:
            found.setdefault(line, []).append(s.model.name)
    return [(line, [] if len(names) == len(subjects) else names) for line, names in found.items()]
