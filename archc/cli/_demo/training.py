"""Trains a generated package on bytes for a given time: an ordinary PyTorch loop. Imports torch."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archc.cli._demo.text import Corpus
from archc.record import dataclass

ROWS, COLUMNS = 3, 256
"""Bytes of a step: few, because a minute is short; in long rows, because it writes badly beyond their length."""
RATE, FLOOR, WARM_UP = 2.5e-3, 0.02, 20
"""The largest learning rate, the part of it that is left at the end, and the steps until it is reached."""
CHECKS = 24
"""Rows of held-out text that are measured."""
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is."""

    step: int
    seconds: float
    done: float  # part of the time that has passed, up to 1
    loss: float  # of the next byte, in nats, averaged over the last steps
    held_out: float | None  # measured now, or None
    bytes_per_second: float


def load_model(package: Path) -> Any:
    """The model of the package in a folder, freshly initialised, on the CPU."""
    sys.path.insert(0, str(package.parent))
    try:
        module = importlib.import_module(package.name)
    finally:
        sys.path.remove(str(package.parent))
    # Products this small gain little from a second thread; on a busy machine, waiting for it costs far more.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    return module.Model()


def train(model: Any, corpus: Corpus, seconds: float, checks: int = 6) -> Iterator[Progress]:
    """Progress after every step; the held-out loss is measured before the first one and at `checks` equal times.

    AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), a cosine schedule over the time there is, gradients clipped to
    norm 1. Equal seeds see equal batches; how many steps fit depends on the machine.
    """
    text, held = as_ids(corpus.train), sample(as_ids(corpus.held_out), CHECKS, torch.Generator().manual_seed(SEED + 1))
    batches = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    first = held_out_loss(model, held)
    yield Progress(step=0, seconds=0.0, done=0.0, loss=first, held_out=first, bytes_per_second=0.0)
    start, step, average, measured, done = time.perf_counter(), 0, math.nan, 0, 0.0
    while done < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, done)
        batch = sample(text, ROWS, batches)
        out = model(batch, labels=batch)
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.after_step()
        step += 1
        average = smoothed(average, float(out.lm_loss.detach()), step)
        passed = time.perf_counter() - start
        done = min(1.0, passed / seconds)
        check = done * checks >= measured + 1 or done == 1
        measured = int(done * checks)
        yield Progress(
            step=step,
            seconds=passed,
            done=done,
            loss=average,
            held_out=held_out_loss(model, held) if check else None,
            bytes_per_second=step * ROWS * COLUMNS / passed,
        )


def rate(step: int, done: float) -> float:
    """The learning rate: a short warm-up, then half a cosine down to a small part of the largest."""
    return RATE * min(1.0, (step + 1) / WARM_UP) * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)


def smoothed(average: float, loss: float, step: int) -> float:
    """An exponential average over some 20 steps, exact while there are fewer."""
    weight = 1 / min(step, 20)
    return loss if step == 1 else average + weight * (loss - average)


def as_ids(text: bytes) -> Tensor:
    """One token for each byte: [bytes]."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def sample(text: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Rows of `COLUMNS` bytes from random places: [rows, COLUMNS]."""
    starts = torch.randint(len(text) - COLUMNS, (rows,), generator=generator)
    return torch.stack([text[start : start + COLUMNS] for start in starts.tolist()])


@torch.no_grad()
def held_out_loss(model: Any, rows: Tensor) -> float:
    """Mean cross entropy of held-out bytes, in nats a byte."""
    return float(model(rows, labels=rows).lm_loss)


def generate(model: Any, prompt: str, new: int, write: Callable[[str], Any]) -> float:
    """Writes what the model continues a prompt with, byte by byte as its cache is extended; returns bytes a second."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def stream(token: Tensor) -> None:
        byte = int(token[0])
        write(decoder.decode(bytes([byte])) if byte < 256 else "?")

    start = time.perf_counter()
    model.generate(
        as_ids(prompt.encode())[None],
        max_new_tokens=new,
        temperature=0.7,
        top_p=0.9,
        stream=stream,
        generator=torch.Generator().manual_seed(SEED),
    )
    return new / (time.perf_counter() - start)


def most_likely(model: Any, prompt: str, new: int, drafts: int) -> tuple[list[int], Any]:
    """The most likely bytes after a prompt, up to `drafts` of them drafted for each pass, and what the model says of
    how that went.
    """
    ids = as_ids(prompt.encode())[None]
    out = model.generate(ids, max_new_tokens=new, speculate=drafts)
    return out[0, ids.shape[1] :].tolist(), model.last_generation
