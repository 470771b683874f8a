"""What each process of a sharded run does: `python -m tests.package.sharded PACKAGES RANK WAYS FILE POLICIES`.

POLICIES is JSON: for each package what to check, policies of recomputation among it (`CHECKS` are the others).

It holds every package in a folder against one process that is not sharded, and writes what differs, and what it held,
to FILE.<rank>. Started by test_fsdp.py, once for each number of processes.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from tests.built import imported, randomise

STEPS, COLUMNS, ROWS = 2, 24, 2

CHECKS = ("copies", "weights", "narrow")
"""Copies of shards (HSDP, on four processes); weights written, read and run; bfloat16."""


def model_of(package: Any, seed: int = 0, **given: Any) -> Any:
    """A model whose weights all matter, tables of experts by token id included."""
    torch.manual_seed(0)
    model = package.Model(**given)
    randomise(model, seed)
    return model


def batch(model: Any, rank: int, step: int) -> Tensor:
    """The rows of one process."""
    return torch.randint(model.vocab, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(100 * step + rank))


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    """AdamW as users make it, with a step that is large enough to see."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-4)


def alone(model: Any, ways: int) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """Mean loss and gradients of each step in one process, on the rows of all."""
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = []
        for rank in range(ways):
            ids = batch(model, rank, step)
            loss = model(ids, labels=ids).loss / ways
            loss.backward()
            losses.append(float(loss.detach()))
        yield sum(losses), {name: p.grad for name, p in model.named_parameters()}
        optimizer.step()
        model.after_step()


def nearly(got: Tensor, want: Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by rounding: by `tolerance` of the largest number."""
    return (
        float((got.detach().double() - want.detach().double()).abs().max())
        <= tolerance * float(want.detach().abs().max()) + 1e-12
    )


def check(package: Any, mesh: Any, rank: int, ways: int, recompute: str) -> list[str]:
    """Trains a sharded model and one that is not, and says where they differ."""
    wrong: list[str] = []
    whole = model_of(package, dtype=torch.float64)
    # Every process begins with other weights: those of the first count.
    model = deepcopy(whole) if rank == 0 else model_of(package, seed=rank, dtype=torch.float64)
    model.recompute = recompute
    assert package.parallelize.apply_fsdp(model, mesh) is model
    optimizer = optimizer_of(model)
    for step, (loss, gradients) in enumerate(alone(whole, ways)):
        optimizer.zero_grad()
        ids = batch(model, rank, step)
        mine = model(ids, labels=ids).loss
        mine.backward()
        mean = mine.detach().clone()
        dist.all_reduce(mean)
        if abs(float(mean) / ways - loss) > 1e-12 * loss:
            wrong.append(f"step {step}: loss {float(mean) / ways} instead of {loss}")
        for name, p in model.named_parameters():
            if (p.grad is None) != (gradients[name] is None):
                wrong.append(f"step {step}: only one has a gradient of {name}")
            elif p.grad is not None and not nearly(p.grad.full_tensor(), gradients[name], 1e-9):
                wrong.append(f"step {step}: gradient of {name}")
        optimizer.step()
        model.after_step()
    for name, p in model.named_parameters():
        if not nearly(p.full_tensor(), whole.get_parameter(name), 1e-7):
            wrong.append(f"parameter {name} after {STEPS} steps")
    wrong += [f"buffer {n}" for n, b in model.named_buffers() if not torch.equal(b, whole.get_buffer(n))]
    return wrong


def held(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Shapes and bytes of what a process holds of every parameter."""
    found = {}
    for name, p in model.named_parameters():
        parts = [p, p.grad, *(optimizer.state[p][key] for key in ("exp_avg", "exp_avg_sq") if p in optimizer.state)]
        local = [part.to_local() for part in parts if part is not None]
        found[name] = [(tuple(part.shape), part.nbytes) for part in local]
    return found


def bytes_held(package: Any, mesh: Any) -> dict[str, Any]:
    """What a process holds after a step."""
    model = package.parallelize.apply_fsdp(model_of(package), mesh)
    ids, optimizer = batch(model, 0, 0), optimizer_of(model)
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    return held(model, optimizer)


def weights(package: Any, mesh: Any, folder: Path) -> list[str]:
    """Weights that are written, read and run."""
    wrong: list[str] = []
    model = model_of(package)
    plain = deepcopy(model)
    package.parallelize.apply_fsdp(model, mesh)
    ids = batch(model, 0, 0)
    with torch.no_grad():
        if not nearly(model(ids).logits, plain(ids).logits, 1e-5):
            wrong.append("logits")
        cache, other = model.new_cache(ROWS, COLUMNS), plain.new_cache(ROWS, COLUMNS)
        for chunk in ids.split(10, 1):
            if not nearly(model(chunk, cache=cache).logits, plain(chunk, cache=other).logits, 1e-4):
                wrong.append("logits with a cache")
    if not torch.equal(model.generate(ids, 4), plain.generate(ids, 4)):
        wrong.append("generated tokens")
    for given in ({"eos": 1}, {"speculate": 2}):
        try:
            model.generate(ids, 4, **given)
        except ValueError as error:
            if "sharded" not in str(error):
                wrong.append(f"{given}: {error}")
        else:
            wrong.append(f"{given} is not refused")
    for names in ("transformers", "hub"):
        model.save_weights(folder / f"{names}", names=names)
        read = package.Model()
        package.load_weights(read, folder / f"{names}")
        pairs = zip(read.state_dict().items(), plain.state_dict().values(), strict=True)
        wrong += [f"{name} as written ({names})" for (name, a), b in pairs if not torch.equal(a, b)]
        later = package.parallelize.apply_fsdp(package.Model(device="meta"), mesh)
        later.to_empty(device="cpu")
        package.load_weights(later, folder / f"{names}")
        for name, p in later.named_parameters():
            if not torch.equal(p.full_tensor(), plain.get_parameter(name)):
                wrong.append(f"{name} as read ({names})")
        if not nearly(later(ids).logits, plain(ids).logits, 1e-5):
            wrong.append(f"logits of weights as read ({names})")
    return wrong


def see(seen: dict[str, torch.dtype | None], model: Any, names: set[str], *_: Any) -> None:
    """Notes what parameters are, gathered, while the model runs: functions read them, whose modules never do."""
    for name in names:
        p = model.get_parameter(name)
        seen[name] = None if hasattr(p, "placements") else p.dtype


def narrow(package: Any, mesh: Any) -> list[str]:
    """Models that compute in bfloat16, with parameters in it or cast to it: what stays in float32 does."""
    wrong = []
    for dtype, given in ((torch.bfloat16, {}), (torch.float32, {"param_dtype": torch.bfloat16})):
        model = model_of(package, dtype=dtype)
        plain = package.Model(dtype=torch.bfloat16)
        plain.load_state_dict(model.state_dict())
        wide = {name for name, p in plain.named_parameters() if p.dtype == torch.float32}
        dtypes = {name: p.dtype for name, p in model.named_parameters()}
        package.parallelize.apply_fsdp(model, mesh, reduce_dtype=torch.float32, **given)
        ids = batch(model, 0, 0)
        seen: dict[str, torch.dtype | None] = {}
        next(model.children()).register_forward_pre_hook(partial(see, seen, model, wide))
        out = model(ids, labels=ids)
        if any(seen[name] != torch.float32 for name in wide):
            wrong.append(f"{dtype}: parameters of islands are cast")
        if out.logits.dtype != torch.bfloat16 or not torch.equal(out.logits, plain(ids).logits):
            wrong.append(f"{dtype}: logits")
        out.loss.backward()
        for name, p in model.named_parameters():
            if p.dtype != dtypes[name] or (p.grad is not None and p.grad.dtype != dtypes[name]):
                wrong.append(f"{dtype}: {name} is {p.dtype}, its gradient {p.grad.dtype}")
        with torch.no_grad():
            model(ids, cache=model.new_cache(ROWS, COLUMNS))
        if not torch.equal(model.generate(ids, 2), plain.generate(ids, 2)):
            wrong.append(f"{dtype}: generated tokens")
    return wrong


def main(folder: str, rank: int, ways: int, file: str, policies: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ways)
    mesh, found, chosen = init_device_mesh("cpu", (ways,)), {}, json.loads(policies)
    for path in sorted(p for p in Path(folder).iterdir() if (p / "plan.json").is_file()):
        package = imported(path)
        importlib.import_module(f"{package.__name__}.parallelize")
        asked = chosen[path.name]
        wrong = {
            recompute: check(package, mesh, rank, ways, recompute) for recompute in asked if recompute not in CHECKS
        }
        if "copies" in asked:
            both = init_device_mesh("cpu", (2, ways // 2), mesh_dim_names=("copies", "parts"))
            wrong["copies"] = check(package, both, rank, ways, "none")
        if "weights" in asked:
            wrong["weights"] = weights(package, mesh, Path(f"{file}.{path.name}"))
        if "narrow" in asked:
            wrong["narrow"] = narrow(package, mesh)
        found[path.name] = {"wrong": wrong, "held": bytes_held(package, mesh)}
    Path(f"{file}.{rank}").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
