"""A text to learn that every Python has: the topics of its `help()`, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

HELD_OUT = 10
"""Every tenth topic is kept out of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Bytes to train on, and bytes never seen in training."""

    train: bytes
    held_out: bytes


def corpus() -> Corpus:
    """The language reference in `pydoc_data.topics`, some 400 KB of English and Python."""
    from pydoc_data.topics import topics

    texts = [text.encode() for _, text in sorted(topics.items())]
    held = texts[HELD_OUT // 2 :: HELD_OUT]
    rest = [text for i, text in enumerate(texts) if i % HELD_OUT != HELD_OUT // 2]
    return Corpus(train=b"\n\n".join(rest), held_out=b"\n\n".join(held))
