"""Models whose tables lie in different places: the same results, the same training, the same files."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import archc
from tests.built import built, randomise
from tests.tables.conftest import PLACEMENTS, SPEC

VOCAB = 61
IDS = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
TABLES = ["model.layers.0.memory.embed.table", "model.layers.3.memory.embed.table"]


def everywhere(models: dict[str, Any], run: Callable[[Any], Any]) -> list[Any]:
    """What a function gives for each model; all the same, bit for bit."""
    first, *others = found = [run(model) for model in models.values()]
    for other in others:
        assert len(first) == len(other) > 0
        for a, b in zip(first, other, strict=True):
            assert a.isfinite().all() and torch.equal(a, b)
    return found


def gradients(model: Any) -> list[Tensor]:
    """Gradients of all parameters, whole."""
    return [g.to_dense() if g.is_sparse else g for g in (p.grad for p in model.parameters()) if g is not None]


def test_a_specification_says_where_tables_lie(package: Any, models: dict[str, Any]) -> None:
    assert list(package.Model().tables) == TABLES
    for placement, model in models.items():
        assert {table.placement for table in model.tables.values()} == {placement}
    assert {table.placement for table in package.Model().tables.values()} == {"device"}
    assert (
        dict(package.Model(device="meta", memory="disk").named_parameters()).keys()
        == dict(package.Model().named_parameters()).keys()
    )


@given(data=st.data())
def test_logits_and_gradients_of_any_rows(held: dict[str, Any], data: Any) -> None:
    """Padded on any side, packed, with labels, read ahead or not."""
    ids = IDS[:, : data.draw(st.integers(1, 12))]
    given: dict[str, Any] = {}
    kind = data.draw(st.sampled_from(("whole", "masked", "packed")))
    drawn = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=ids.numel(), max_size=ids.numel())))
    if kind == "masked":
        given["attention_mask"] = (drawn.view(ids.shape) > 0).long().index_fill(1, torch.tensor([0]), 1)
    if kind == "packed":
        given["sequence_ids"] = drawn.view(ids.shape).sort(1).values
    recompute = data.draw(st.sampled_from(("none", "selective", "full", "mhc")))
    ahead = data.draw(st.booleans())

    def run(model: Any) -> list[Tensor]:
        model.zero_grad()
        model.recompute, model.reads_ahead = recompute, ahead
        out = model(ids, labels=ids, **given)
        out.loss.backward()
        model.recompute, model.reads_ahead = "none", True  # other tests hold these models, too
        tokens = given.get("attention_mask", given.get("sequence_ids", torch.ones_like(ids))) != 0
        return [out.logits[tokens], out.loss, *gradients(model)]

    everywhere(held, run)


@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5), back=st.integers(0, 4), ragged=st.booleans())
def test_caches(held: dict[str, Any], chunks: list[int], back: int, ragged: bool) -> None:
    """Chunks of any size, rows of unequal length, tokens taken back."""

    @torch.no_grad()
    def run(model: Any) -> list[Tensor]:
        cache, found, at = model.new_cache(2, 64, max_rewind=4), [], 0
        for i, new in enumerate(chunks):
            ids = IDS[:, at : at + new] if at + new <= 40 else IDS[:, :new]
            mask = torch.ones_like(ids)
            if ragged:
                mask[i % 2, new // 2 + 1 :] = 0
            found.append(model(ids, cache=cache, attention_mask=mask).logits[mask != 0])
            at += new
            if i == 1:
                cache.rewind(min(back, *cache.known))
        return found

    everywhere(held, run)


def test_generation(models: dict[str, Any]) -> None:
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, :4] = 0
    found = everywhere(models, lambda model: [model.generate(IDS[:, :9], 12, attention_mask=mask).double()])
    assert found[0][0].shape == (2, 21)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_training(package: Any, models: dict[str, Any], accumulated: int) -> None:
    """Steps with sparse gradients, summed over several batches, router biases that move, evaluation in between."""

    def run(model: Any) -> list[Tensor]:
        before = [table.weight.detach().clone() for table in model.tables.values()]
        found, both = [], package.optimizers(model, lr=3e-3)
        for step in range(4):
            for part in range(accumulated):
                ids = IDS.roll(7 * step + part, 1)[:, :16]
                (model(ids, labels=ids).loss / accumulated).backward()
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
            model.after_step()
            model.eval()
            with torch.no_grad():
                found.append(model(IDS, labels=IDS).loss)
            model.train()
        assert found[-1] < found[0]
        for table, old in zip(model.tables.values(), before, strict=True):
            assert 0 < (table.weight != old).any(1).sum() < len(old)
        return [*found, *model.state_dict().values()]

    everywhere(models, run)


def test_steps_of_one_optimizer_for_all(package: Any, models: dict[str, Any]) -> None:
    """Dense gradients of tables on the device go to any optimizer; sparse ones are refused by those that cannot."""
    device = models["device"]
    device(IDS, labels=IDS).loss.backward()
    assert not any(p.grad.is_sparse for p in device.parameters())
    torch.optim.AdamW(package.parameter_groups(device, lr=1e-3)).step()
    with pytest.raises(ValueError, match=r"model\.layers\.0\.memory\.embed\.table is not on the device"):
        models["disk"].sparse_gradients = False


def test_copies(models: dict[str, Any]) -> None:
    def run(model: Any) -> list[Tensor]:
        copy = deepcopy(model)
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        assert [table.placement for table in copy.tables.values()] == [t.placement for t in model.tables.values()]
        return [copy(IDS).logits]

    everywhere(models, run)


def test_narrow_models(models: dict[str, Any]) -> None:
    everywhere(models, lambda model: [model.bfloat16()(IDS).logits])


# --- files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("shard_bytes", [1 << 30, 5000])
def test_weights(package: Any, models: dict[str, Any], tmp_path: Path, shard_bytes: int) -> None:
    """What is saved from anywhere loads anywhere, on the meta device too, and onto the file that is being read."""
    want = models["device"](IDS).logits
    for placement, model in models.items():
        model.save_weights(tmp_path / placement, shard_bytes=shard_bytes)
        files = [{p.name: p.read_bytes() for p in (tmp_path / of).iterdir()} for of in ("device", placement)]
        assert files[0] == files[1]
        for device in ("meta", None):
            empty = package.Model(device=device, memory=placement, dtype=torch.float64)
            assert not any(package.load_weights(empty, tmp_path / "device").missing)
            assert torch.equal(empty(IDS).logits, want)
        empty.save_weights(tmp_path / "device", shard_bytes=shard_bytes)
        assert torch.equal(empty(IDS).logits, want)
        assert files[0] == {p.name: p.read_bytes() for p in (tmp_path / "device").iterdir()}


def test_state_dicts(package: Any, models: dict[str, Any]) -> None:
    for source in models.values():
        for placement in PLACEMENTS:
            model = package.Model(memory=placement, dtype=torch.float64)
            model.load_state_dict(source.state_dict())
            assert torch.equal(model(IDS).logits, source(IDS).logits)


class TestSwap:
    """Tables of another domain in the place of a model's own."""

    @pytest.fixture
    def other(self, package: Any, tmp_path: Path) -> tuple[Any, Path]:
        """A model with other weights, and the file of its tables."""
        model = package.Model(dtype=torch.float64)
        randomise(model, seed=9)
        model.save_memory(tmp_path / "law.safetensors")
        assert sorted(load_file(tmp_path / "law.safetensors")) == [f"{name}.weight" for name in TABLES]
        return model, tmp_path / "law.safetensors"

    @pytest.mark.parametrize("whole", [False, True])
    def test_swap_and_back(self, models: dict[str, Any], other: tuple[Any, Path], tmp_path: Path, whole: bool) -> None:
        """From the tables alone, or from the weights of a model."""
        want = deepcopy(models["device"])
        for name, table in want.tables.items():
            table.load_state_dict(other[0].tables[name].state_dict())
        path = tmp_path / "weights" if whole else other[1]
        if whole:
            other[0].save_weights(path)
        models["device"].save_memory(tmp_path / "own.safetensors")

        def run(model: Any) -> list[Tensor]:
            weights, before = list(model.parameters()), model(IDS).logits
            model.swap_memory(path)
            swapped = model(IDS).logits
            model.swap_memory(tmp_path / "own.safetensors")
            assert torch.equal(model(IDS).logits, before) and not torch.equal(swapped, before)
            assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))
            return [before, swapped]

        found = everywhere(models, run)
        assert torch.equal(found[0][1], want(IDS).logits)

    def test_a_table_on_disk_is_mapped(self, models: dict[str, Any], other: tuple[Any, Path]) -> None:
        """Nothing is read: what the file says later is what the model sees."""
        model = models["disk"]
        model.swap_memory(other[1])
        with other[1].open("r+b") as file:
            file.seek(-8 * 6, 2)
            file.write(torch.full((6,), 5.0, dtype=torch.float64).numpy().tobytes())
        last = max(model.tables.values(), key=lambda table: int(table.weight[-1, -1] == 5))
        assert bool((last(torch.tensor([last.num_embeddings - 1])) == 5).all())

    @pytest.mark.parametrize("placement", PLACEMENTS)
    def test_what_does_not_fit_changes_nothing(
        self, models: dict[str, Any], other: tuple[Any, Path], tmp_path: Path, placement: str
    ) -> None:
        tensors, (first, second) = load_file(other[1]), [f"{name}.weight" for name in TABLES]
        faults = {
            "is not there": {first: tensors[first], second.replace(".3.", ".2."): tensors[second]},
            r"is \[\d+, 5\] there and \[\d+, 6\] in the model": tensors | {second: tensors[second][:, :5].contiguous()},
            r"is \[12, 6\] there and \[\d+, 6\] in the model": tensors | {second: tensors[second][:12].contiguous()},
            "is F32 there and float64 in the model": tensors | {second: tensors[second].float()},
        }
        model, before = models[placement], models[placement](IDS).logits
        for i, (said, fault) in enumerate(faults.items()):
            save_file(fault, tmp_path / f"{i}.safetensors")
            with pytest.raises(ValueError, match=rf"(?s)does not fit.*layers\.3.*{said}"):
                model.swap_memory(tmp_path / f"{i}.safetensors")
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(other[1].read_bytes()[:-1])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            model.swap_memory(cut)
        with pytest.raises(FileNotFoundError):
            model.swap_memory(tmp_path / "absent")
        assert torch.equal(model(IDS).logits, before)

    def test_a_failure_in_the_middle_changes_nothing(
        self, models: dict[str, Any], other: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk fails after the first of the tables was read."""
        model = models["host"]
        before = model(IDS).logits
        last = model.tables[TABLES[1]]

        def fails(*_: Any) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(last, "prepared", fails)
        with pytest.raises(OSError, match="Input/output"):
            model.swap_memory(other[1])
        assert torch.equal(model(IDS).logits, before)


def test_shards_are_refused(package: Any, runtime: Any, models: dict[str, Any]) -> None:
    """Before anything is done: what is not on the device, and sparse gradients."""
    parallelize = import_module(f"{package.__name__}.parallelize")
    for model in (models["host"], models["disk"]):
        with pytest.raises(ValueError, match=r"table is not on the device, and only what is can be sharded"):
            parallelize.apply_fsdp(model, None)
        assert model.mesh is None
    device = models["device"]
    device.sparse_gradients = True
    with pytest.raises(ValueError, match="sparse gradients, which cannot be sharded"):
        parallelize.apply_fsdp(device, None)
    device.mesh = object()
    with pytest.raises(ValueError, match="the model is sharded"):
        device.swap_memory("anywhere")
    with pytest.raises(ValueError, match="the model is sharded"):
        device.sparse_gradients = True


def test_tables_of_a_sharded_model_are_written_whole(package: Any, models: dict[str, Any], tmp_path: Path) -> None:
    """By the first of its processes, for a model whose tables lie elsewhere; weights too."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    parallelize = import_module(f"{package.__name__}.parallelize")
    model, want = models["device"], {name: table.weight.clone() for name, table in models["device"].tables.items()}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        parallelize.apply_fsdp(model, init_device_mesh("cpu", (1,)))
        model(IDS)  # leaves parameters gathered
        model.save_memory(tmp_path / "memory.safetensors")
        model.save_weights(tmp_path / "weights")
    finally:
        dist.destroy_process_group()
    for path in (tmp_path / "memory.safetensors", tmp_path / "weights"):
        for table in models["disk"].tables.values():
            table.writable().data.zero_()
        models["disk"].swap_memory(path)
        for name, table in models["disk"].tables.items():
            assert torch.equal(table.weight, want[name])


def test_the_readme_of_a_package(
    package: Any, models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of tables is true, and runs as it stands."""
    text = (Path(package.__file__).parent / "README.md").read_text()
    count = sum(table.weight.numel() for table in models["device"].tables.values())
    assert f"2 large tables with {count:,} parameters" in text
    assert "of which each token reads 8 rows. The spec puts them on the device." in text
    code = re.search(r"^## Tables\n.*?```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert code is not None
    models["device"].float().save_weights(tmp_path / "checkpoint")
    other = package.Model()
    other.save_memory(tmp_path / "law.safetensors")
    monkeypatch.chdir(tmp_path)
    given = {name: getattr(package, name) for name in package.__all__} | {"ids": IDS}
    exec(
        code[1].replace("from tabled import clip_gradients, optimizers\n", ""), given
    )  # the package has another name here
    model = given["model"]
    assert {table.placement for table in model.tables.values()} == {"disk"}
    for name, table in model.tables.items():
        assert torch.equal(table.weight, other.tables[name].weight)


def test_tables_beside_modules_that_look_ahead(tmp_path: Path) -> None:
    """The package of a model with both keeps its laws: drafts, losses and rows read ahead."""
    text = SPEC.read_text().replace("  schedule {", "  mtp = concat { depth = 1 }\n  schedule {")
    (tmp_path / "both.arch").write_text(text)
    package = built(archc.load(tmp_path / "both.arch"), tmp_path)
    found = []
    for placement in PLACEMENTS:
        model = package.Model(memory=placement, dtype=torch.float64)
        randomise(model)
        out = model(IDS, labels=IDS)
        out.loss.backward()
        found.append([out.loss, out.losses["mtp"], model.generate(IDS[:, :8], 9, speculate=2), *gradients(model)])
        assert list(model.tables) == TABLES
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
