"""A report page as its readers find it: elements with attributes and text, read without a browser."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from click.testing import CliRunner

from archc.cli import main

VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


@dataclass
class Element:
    """An element: ``text`` is all text inside."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def all(self, tag: str | None = None, **attributes: str | None) -> list[Element]:
        """Elements inside, in order, with some attributes (None: whatever their value); `_` stands for a dash."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in self.children:
            fits = all(k in child.attributes and v in {None, child.attributes[k]} for k, v in wanted.items())
            if fits and tag in {None, child.tag}:
                found.append(child)
            found += child.all(tag, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.here = self.root = Element("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        child = Element(tag, {k: v or "" for k, v in attrs}, self.here)
        self.here.children.append(child)
        if tag not in VOID:
            self.here = child

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.here.children.append(Element(tag, {k: v or "" for k, v in attrs}, self.here))

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        at: Element | None = self.here
        while at is not None:
            at.pieces.append(data)
            at = at.parent


def read(text: str) -> Element:
    """The page; fails where tags are not closed in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.tag}> is not closed"
    return reader.root


def report(folder: Path, *words: str) -> Path:
    """The file that `archc report` writes."""
    path = folder / "report.html"
    result = CliRunner().invoke(main, ["report", *words, "-o", str(path)])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"wrote {path}: ")
    return path


def cost(spec: str, options: str) -> dict:
    """What `archc cost --format json` prints."""
    result = CliRunner().invoke(main, ["cost", spec, *shlex.split(options), "--format", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)
