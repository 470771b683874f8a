"""A text to learn that every Python has: the topics of its `help()`, as bytes."""

from __future__ import annotations

from collections.abc import Iterable

from archc.record import dataclass

HELD_OUT = 10
"""Every tenth topic is kept out of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Bytes to train on, and bytes never seen in training."""

    train: bytes
    held_out: bytes


def corpus() -> Corpus:
    """The language reference in `pydoc_data.topics`, some 400 KB of English and Python.

    Topics repeat parts of each other: each paragraph is kept once, and those of the held-out topics only there.
    """
    from pydoc_data.topics import topics

    texts = [text for _, text in sorted(topics.items())]
    held_out = _paragraphs(texts[HELD_OUT // 2 :: HELD_OUT])
    rest = _paragraphs(text for i, text in enumerate(texts) if i % HELD_OUT != HELD_OUT // 2)
    train = [paragraph for key, paragraph in rest.items() if key not in held_out]
    return Corpus(train="\n\n".join(train).encode(), held_out="\n\n".join(held_out.values()).encode())


def _paragraphs(texts: Iterable[str]) -> dict[str, str]:
    """Each different paragraph once, by its words: indentation and line breaks make no difference."""
    found: dict[str, str] = {}
    for text in texts:
        for paragraph in text.strip("\n").split("\n\n"):
            found.setdefault(" ".join(paragraph.split()), paragraph)
    return found
