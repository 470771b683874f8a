"""Trains and decodes a model in a process that may not have as much memory as its tables take.

Run as ``python limited.py PACKAGE WEIGHTS PLACEMENT``; prints what happened as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch


def main(package: Path, weights: Path, placement: str, megabytes: int) -> None:
    sys.path.insert(0, str(package.parent))
    module = __import__(package.name)
    torch.set_num_threads(1)
    # What the process allocates: mappings of files that are shared with the disk do not count.
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
    model = module.Model(device="meta", memory=placement)
    module.load_weights(model, weights, device="cpu")
    both = module.optimizers(model, lr=1e-2)
    ids = torch.randint(model.vocab, (2, 24), generator=torch.Generator().manual_seed(0))
    (table,) = model.tables.values()
    losses, touched = [], torch.empty(0, dtype=torch.int64)
    for _ in range(4):
        loss = model(ids, labels=ids).loss
        loss.backward()
        touched = torch.cat([touched, table.weight.grad.coalesce().indices()[0]]).unique()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    rest = torch.randint(table.num_embeddings, (2000,), generator=torch.Generator().manual_seed(1))
    rest = rest[~torch.isin(rest, touched)]
    with torch.no_grad():
        cache = model.new_cache(1, 40)
        parts = [model(chunk, cache=cache).logits for chunk in ids[:1].split([20, 1, 1, 2], 1)]
        apart = float((torch.cat(parts, 1) - model(ids[:1]).logits).abs().max())
    made = model.generate(ids[:, :8], 8)
    found = {
        "bytes": table.weight.numel() * table.weight.element_size(),
        "losses": losses,
        "touched": len(touched),
        "moved": int(table.weight.detach()[touched].any(1).sum()),
        "others": int(table.weight.detach()[rest].any(1).sum()),
        "apart": apart,
        "generated": list(made.shape),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
