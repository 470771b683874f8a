"""What a bypass costs a small model in loss, and what it saves: `python -m bench.bypass`.

Small models of bytes learn the text of `archc demo`, all with the same engram on the second of eight layers, without a
bypass and with one at several weights of its loss. Each is then measured at several thresholds: held-out loss, the
part of the layers that tokens skip, and the time of decoding, layers left out or only masked. Data, steps and seeds
are the same for all. Prints a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from archc.cli._demo.text import corpus
from archc.cli._demo.training import as_ids, rate, sample
from archc.resolve import load_text
from tests.built import built

SPEC = """arch 1
model bytes {{
  vocab = 256, dim = 96, layers = {layers}, context = 512
  attention = gqa {{ heads = 4, kv_heads = 2, rope = rope }}
  ffn = swiglu {{ hidden = 256 }}
  memory engram = engram {{ orders = [2, 3], heads = 2, head_dim = 16, rows = 4000{bypass} }}
  schedule {{ memory = engram at [1] }}
}}
"""
LAYERS, ROWS, HELD = 8, 6, 24
WEIGHTS = (0.0, 0.02)
THRESHOLDS = (1.0, 0.9, 0.7, 0.5)
DECODED = 192
"""Bytes of held-out text that are decoded one by one."""


def trained(weight: float | None, steps: int, folder: Path) -> Any:
    """A model after so many steps, in eval mode; None is one without a bypass."""
    field = "" if weight is None else f"\n    bypass = confidence {{ weight = {weight} }}"
    (spec,) = load_text(SPEC.format(layers=LAYERS, bypass=field))
    torch.manual_seed(0)
    model = built(spec, folder / f"{weight}").Model()
    text, batches = as_ids(corpus().train), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, step / steps)
        batch = sample(text, ROWS, batches)
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@contextmanager
def gated(model: Any, threshold: float) -> Iterator[list[Tensor]]:
    """The model with another threshold, and what its gate decided."""
    decided: list[Tensor] = []
    kind = import_module(f"{type(model).__module__.rpartition('.')[0]}.runtime.step").StepBase
    own = kind.decide

    def decide(_: Any, confidence: Tensor, **__: float) -> Tensor:
        decided.append((confidence > threshold).to(confidence.dtype))
        return decided[-1]

    kind.decide = decide
    try:
        yield decided
    finally:
        kind.decide = own


@torch.no_grad()
def decoding(model: Any, text: Tensor) -> float:
    """Seconds of processor time for a token, one row, a token a call: the least of three runs."""
    found = []
    for _ in range(3):
        cache = model.new_cache(1, len(text))
        start = time.process_time()
        for token in text:
            model.next_logits(token.view(1, 1), cache=cache)
        found.append((time.process_time() - start) / len(text))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    held = as_ids(corpus().held_out)
    rows, text = sample(held, HELD, torch.Generator().manual_seed(1)), held[:DECODED]
    print(f"{'weight':>8}{'threshold':>11}{'held-out loss':>15}{'layers skipped':>16}{'ms a token':>12}{'masked':>9}")
    with TemporaryDirectory() as folder, torch.no_grad():
        for weight in (None, *WEIGHTS):
            with torch.enable_grad():
                model = trained(weight, steps, Path(folder))
            for threshold in THRESHOLDS if weight is not None else (1.0,):
                with gated(model, threshold) as decided:
                    loss = float(model(rows, labels=rows).lm_loss)
                    sure = float(decided[0].mean()) if decided else 0.0
                    left_out = sure * (LAYERS - 2) / LAYERS
                    times = [decoding(model, text)]
                    model.skipping = False
                    times.append(decoding(model, text))
                    model.skipping = True
                name = "none" if weight is None else f"{weight:g}"
                print(
                    f"{name:>8}{threshold:>11g}{loss:>15.4f}{left_out:>16.1%}"
                    f"{times[0] * 1e3:>12.2f}{times[1] * 1e3:>9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
