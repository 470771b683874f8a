"""The table of hardware: every figure is possible, what is measured never exceeds what its maker states, and a spec may
name machines of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from archc.cli import main
from archc.cost.setting import named
from archc.drawers import drawer_class, kinds
from archc.schema import Hardware

KINDS = kinds("hardware")
SPEC = """arch 1
hardware desk = rtx_4090 { price = 0.5 }
model m {
  vocab = 1024
  dim = 256
  layers = 2
  context = 1Ki
  attention = gqa { heads = 4, kv_heads = 2 }
  ffn = swiglu { hidden = 512 }
  hardware lab = h100 { memory = 94GiB, price = 2.5 }
}
"""


def machine(kind: str) -> Hardware:
    found = drawer_class("hardware", kind)()
    assert isinstance(found, Hardware)
    return found


def test_the_table_has_the_machines_that_people_ask_for() -> None:
    wanted = "a100 h100 h800 h200 b200 gb200 mi300x mi355x ascend_910b ascend_910c rtx_4090 rtx_5090 m3_ultra m4_max"
    assert set(wanted.split()) <= set(KINDS)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "local"])
def test_a_narrower_format_is_never_slower(kind: str) -> None:
    found = machine(kind)
    peaks = [found.peak(number) for number in ("bf16", "fp8", "fp4")]
    assert peaks == sorted(peaks)
    assert found.peak("tf32") <= found.peak("bf16")


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "local"])
def test_what_is_measured_never_exceeds_what_is_stated(kind: str) -> None:
    found = machine(kind)
    assert found.gemm_bf16 <= found.bf16
    assert found.gemm_fp8 <= found.fp8
    assert found.attention <= found.bf16 and found.attention_backward <= found.bf16
    assert found.stream <= found.bandwidth and found.drain <= found.bandwidth
    assert found.link_measured <= found.link and found.network_measured <= found.network


# What makers and papers state, copied by hand: bytes, bytes/s, FLOP/s (dense), bytes/s in one direction.
STATED = {
    "a100": (80e9, 2.039e12, 312e12, 0, 300e9),
    "h100": (80e9, 3.35e12, 989.4e12, 1978.9e12, 450e9),
    "h800": (80e9, 3.35e12, 989.4e12, 1978.9e12, 200e9),
    "h200": (141e9, 4.8e12, 989.4e12, 1978.9e12, 450e9),
    "mi300x": (192e9, 5.3e12, 1307.4e12, 2614.9e12, 448e9),
    "ascend_910c": (128e9, 3.2e12, 752e12, 0, 392e9),
}


@pytest.mark.parametrize("kind", STATED)
def test_figures_are_those_of_the_sources(kind: str) -> None:
    found = machine(kind)
    assert (found.memory, found.bandwidth, found.bf16, found.fp8, found.link) == pytest.approx(STATED[kind], rel=1e-3)


# The first README of DeepGEMM: FP8 products of 4096 rows on H800, (results, channels summed over) and TFLOP/s.
DEEPGEMM = {
    (2112, 7168): 1058,
    (24576, 1536): 990,
    (32768, 512): 590,
    (7168, 16384): 1358,
    (4096, 7168): 1304,
    (7168, 2048): 1025,
}


@pytest.mark.parametrize("shape", [s for s in DEEPGEMM if s[0] > 4000])
def test_long_and_short_products_of_an_h800_take_the_published_time(shape: tuple[int, int]) -> None:
    """2112 results are left out: 17 columns of tiles on 132 cores, which no rule without tiles can know."""
    results, channels = shape
    found = machine("h800")
    flops = 2 * 4096 * results * channels
    seconds = flops / found.rate("fp8") + 2 * 4096 * results / found.drain
    assert flops / seconds == pytest.approx(1e12 * DEEPGEMM[shape], rel=0.06)


def test_a_product_runs_in_the_next_wider_format_that_there_is() -> None:
    assert machine("a100").peak("fp4") == machine("a100").bf16
    assert machine("ascend_910c").peak("fp32") == machine("ascend_910c").bf16
    assert machine("h100").attends("fp8") == pytest.approx(2 * machine("h100").attention, rel=1e-3)


def test_a_class_argument_that_is_no_figure_is_refused() -> None:
    with pytest.raises(TypeError, match="no figure `bandwith`"):
        type("Wrong", (Hardware,), {}, bandwith=1.0)


# --- in a spec -----------------------------------------------------------------------------------
def test_a_spec_names_machines(tmp_path: Path) -> None:
    import archc as api

    path = tmp_path / "m.arch"
    path.write_text(SPEC)
    model = api.load(str(path))
    lab, desk = named(model, "lab"), named(model, "desk")
    assert lab is not None and desk is not None and named(model, None) is None
    assert (lab.kind, lab.memory, lab.price, lab.bf16) == ("h100", 94 * 2**30, 2.5, machine("h100").bf16)
    assert (desk.kind, desk.price) == ("rtx_4090", 0.5)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0 and "no findings" in result.output
    with pytest.raises(ValueError, match=r"no hardware `h10`; did you mean `h100`\? There are .*lab"):
        named(model, "h10")


def test_hardware_of_the_model_is_the_default(tmp_path: Path) -> None:
    import archc as api

    path = tmp_path / "m.arch"
    path.write_text(SPEC.replace("hardware lab = ", "hardware = "))
    found = named(api.load(str(path)), None)
    assert found is not None and (found.kind, found.price) == ("h100", 2.5)


def test_figures_are_listed_as_a_spec_writes_them(tmp_path: Path) -> None:
    """What `archc drawers` shows as the defaults of a machine makes that machine when it is written down."""
    import archc as api
    from archc.drawers.catalog import default_text, entries

    entry = next(e for e in entries(()) if e.name == "hardware/h100")
    shown = {f.name: default_text(f) for f in entry.fields if f.name != "price"}
    assert (shown["memory"], shown["bandwidth"], shown["bf16"], shown["drain"]) == (
        "80GB",
        "3.35TB/s",
        "989.4T",
        "1.97TB/s",
    )
    path = tmp_path / "m.arch"
    written = ", ".join(f"{name} = {text}" for name, text in shown.items())
    path.write_text(SPEC.replace("h100 { memory = 94GiB, price = 2.5 }", f"a100 {{ {written} }}"))
    lab = named(api.load(str(path)), "lab")
    assert lab is not None
    assert lab.__dict__ == machine("h100").__dict__
