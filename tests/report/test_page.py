"""The report page without a browser: it is whole, stands alone, and says what `archc cost` says."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from archc.importers import load
from tests.report.reading import Element, cost, read, report

CASES = {
    "one": ("deepseek_v3",),
    "three": ("deepseek_v3", "deepseek_v4_flash", "llama_3_1_405b"),
    "train": ("olmoe_1b_7b", "llama_3_1_8b", "--mode", "train", "--batch", "4"),
    "hardware": ("deepseek_v2_lite", "--hardware", "h100", "--batch", "8"),
}
UNITS = {
    "": 1.0,
    "K": 1e3,
    "M": 1e6,
    "B": 1e9,
    "T": 1e12,
    **{f"{p}FLOP": 1000.0**i for i, p in enumerate(["", "k", "M", "G", "T", "P", "E"])},
    **{f"{p}B": 1024.0**i for i, p in enumerate(["", "Ki", "Mi", "Gi", "Ti"], 0) if p},
    "s": 1.0,
    "ms": 1e-3,
    "µs": 1e-6,
    "%": 1e-2,
}


@cache
def page(case: str) -> tuple[Element, list[str]]:
    first = next((i for i, word in enumerate(CASES[case]) if word.startswith("-")), None)
    specs = list(CASES[case][:first])
    path = report(Path(mkdtemp()), *CASES[case])
    return read(path.read_text(encoding="utf-8")), specs


@cache
def costs(spec: str, options: str) -> dict:
    return cost(spec, options)


def at(data: dict, key: str) -> object:
    for part in key.split("."):
        data = data[part]
    return data


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_that_of_the_json(case: str) -> None:
    root, specs = page(case)
    figures = root.all(data_key=None)
    assert len(figures) > 45 * len(specs)
    for element in figures:
        of = element.attributes
        value = at(costs(specs[int(of["data-spec"])], of["data-at"]), of["data-key"])
        if isinstance(value, bool):
            value = "yes" if value else "no"
        assert of["data-value"] == str(value), of


@pytest.mark.parametrize("case", CASES)
def test_what_is_shown_is_the_figure_rounded(case: str) -> None:
    root, _ = page(case)
    for element in root.all("span", data_key=None):
        value = element.attributes["data-value"]
        if not re.fullmatch(r"[-\d.e+]+", value):
            assert element.text == value
            continue
        shown = re.fullmatch(r"([\d,]+(?:\.(\d+))?(?:e[-+]\d+)?)[\s]?(\D*)", element.text)
        assert shown is not None, element.text
        digits, unit = shown[1].replace(",", ""), shown[3].strip()
        one = 1.0 if unit == "B" and element.attributes["data-key"].startswith(("kv", "mem")) else UNITS[unit]
        last = 0.5 * 10.0 ** -len(shown[2] or "")
        assert abs(float(digits) - float(value) / one) <= last * (1 + 1e-6) + 1e-9, (element.text, value)


@pytest.mark.parametrize("case", CASES)
def test_no_other_text_holds_a_figure(case: str) -> None:
    """Numbers of cells stand in elements that say where they are from; changes say of what."""
    root, _ = page(case)
    for table in root.all("table"):
        if not table.attributes.get("id"):
            continue
        for cell in table.all("td"):
            inside = cell.all("span")
            assert "".join(e.text for e in inside) == cell.text.strip()
            assert all(
                "data-key" in e.attributes or "data-change" in e.attributes or e.text in {"–", ""} for e in inside
            )


@pytest.mark.parametrize("case", ["three", "train"])
def test_changes_are_from_the_first_model(case: str) -> None:
    root, specs = page(case)
    changes = root.all("span", data_change=None)
    assert len(changes) > 20
    for element in changes:
        of = element.attributes
        new, old = (at(costs(specs[i], of["data-at"]), of["data-change"]) for i in (int(of["data-spec"]), 0))
        assert of["data-spec"] != "0"
        text = element.text.replace("\N{NO-BREAK SPACE}", " ")
        if text == "same":
            assert new == old
        elif text.startswith("×"):
            digits, _, unit = text[1:].partition(" ")
            assert float(digits.replace(",", "")) * UNITS[unit] == pytest.approx(new / old, rel=6e-3)
            assert new >= 10 * old
        else:
            assert float(text.removesuffix(" %")) == pytest.approx(100 * (new - old) / old, abs=0.0501)


@pytest.mark.parametrize("case", CASES)
def test_the_page_stands_alone(case: str) -> None:
    root, _ = page(case)
    assert not root.all("script") and not root.all("link") and not root.all("img") and not root.all("iframe")
    for element in root.all():
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            assert name not in element.attributes, (element.tag, name)
        assert not any(name.startswith("on") for name in element.attributes)
    style = "".join(e.text for e in root.all("style"))
    assert "url(" not in style and "@import" not in style
    assert "{%" not in style and "{{" not in style


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_put_together_well(case: str) -> None:
    root, specs = page(case)
    ids = [e.attributes["id"] for e in root.all(id=None)]
    assert len(set(ids)) == len(ids)
    assert all(e.attributes["aria-labelledby"] in ids for e in root.all(aria_labelledby=None))
    assert root.all("html")[0].attributes["lang"] == "en"
    for svg in root.all("svg"):
        assert svg.attributes["role"] == "img"
        assert len(svg.children[0].text) > 40, "a picture needs a text"
    for table in root.all("table"):
        head = [e for e in table.all("th") if e.attributes["scope"] == "col"]
        for row in table.all("tbody")[0].all("tr"):
            (first, *rest) = row.children
            assert first.attributes["scope"] == "row" and first.text.strip()
            assert len(rest) == len(head) - 1
    for table in root.all("table", id=None):
        assert len(table.all("th", scope="col")) == len(specs) + 1


@pytest.mark.parametrize("case", CASES)
def test_markers_stand_where_their_figures_are(case: str) -> None:
    """Both axes are logarithmic: equal ratios are equal distances, upwards and to the right."""
    from math import log

    root, _ = page(case)
    for svg in root.all("svg"):
        marks = [e.attributes for e in svg.all("circle")]
        for name, place, sign in (("data-x", "cx", 1), ("data-value", "cy", -1)):
            pairs = sorted({(log(float(m[name])), sign * float(m[place])) for m in marks})
            if len(pairs) > 2 and pairs[-1][0] - pairs[0][0] > 0.1:
                (a, p), (b, q) = pairs[0], pairs[-1]
                for x, y in pairs:
                    assert y == pytest.approx(p + (x - a) / (b - a) * (q - p), abs=0.03)


def test_the_roofline_is_that_of_the_hardware() -> None:
    """FLOPs for each byte are those of a step over what memory moves in its time; the roof bends at peak over rate."""
    from archc.drawers import drawer_class

    root, specs = page("hardware")
    hw = drawer_class("hardware", "h100")()
    (figure,) = root.all("figure", id="plot-roofline")
    marks = [e.attributes for e in figure.all("circle")]
    assert len(marks) == 9
    for of in marks:
        time = costs(specs[0], of["data-at"])["time"]
        moved = time["memory_s"] * hw.streams
        assert float(of["data-x"]) == pytest.approx(time["flops_per_device"] * time["total_s"] / moved)
        assert float(of["data-value"]) <= min(hw.peak("bf16"), float(of["data-x"]) * hw.streams) * (1 + 1e-9)


def test_markers_of_batches_that_do_not_fit_are_hollow() -> None:
    root, specs = page("hardware")
    (figure,) = root.all("figure", id="plot-throughput-batch")
    for element in figure.all("circle"):
        memory = costs(specs[0], element.attributes["data-at"])["memory"]
        too_much = memory is not None and memory["fits"] is False
        assert ("hollow" in element.attributes["class"].split()) == too_much


@pytest.mark.parametrize("case", ["one", "three"])
def test_every_layer_is_in_the_picture_and_in_the_table(case: str) -> None:
    root, specs = page(case)
    for i, spec in enumerate(specs, 1):
        model = load(spec)
        (figure,) = root.all("figure", id=f"layers-{i}")
        titles = [e.text for e in figure.all("rect")]
        for title in titles:
            layer, slot, label = re.fullmatch(r"layer (\d+), (\w+): (\w+)(?: \(\w+\))?", title).groups()  # type: ignore[union-attr]
            assert getattr(model.schedule[int(layer)], slot).label == label
        drawn = {int(re.match(r"layer (\d+)", t)[1]) for t in titles}  # type: ignore[index]
        labels = [e.text for e in figure.all("text")]
        covered = set()
        for label in labels:
            first, _, last = label.partition("–")
            covered |= set(range(int(first), int(last or first) + 1))
        assert covered == set(range(model.layers))
        assert drawn <= covered
        if len(set(map(id, model.schedule))) > 1:
            assert drawn == covered
        counts = [int(n) for e in figure.all("li") for n in re.findall(r"(\d+) layers?$", e.text.strip())]
        assert sum(counts) == 2 * model.layers


def test_colours_of_text_stand_out() -> None:
    """WCAG 2 AA: 4.5 to 1 for text, 3 to 1 for lines and markers, in light and in dark."""
    root, _ = page("one")
    style = "".join(e.text for e in root.all("style"))
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media")[:2])
    for colours in (light, dark):
        for ground in ("page", "card"):
            assert all(contrast(colours[c], colours[ground]) >= 4.5 for c in ("text", "soft"))
            assert all(contrast(colours[f"s{i}"], colours[ground]) >= 3 for i in range(6))


def contrast(a: str, b: str) -> float:
    """Contrast of two colours: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_of_specs_cannot_break_the_page(tmp_path: Path) -> None:
    spec = tmp_path / "m.arch"
    spec.write_text(
        "arch 1\n## A <script>alert(1)</script> & 'more' \"text\".\nmodel m {\n"
        "  vocab = 50, dim = 24, layers = 2, context = 2Ki\n"
        "  attention = gqa { heads = 2 }\n  ffn = swiglu { hidden = 32 }\n}\n"
    )
    root = read(report(tmp_path, str(spec)).read_text())
    assert not root.all("script")
    assert any("<script>alert(1)</script> & 'more'" in e.text for e in root.all("p"))


def test_a_config_of_transformers_and_a_model_of_a_file(tmp_path: Path) -> None:
    import json

    from tests.importers.configs import LLAMA_3_1

    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA_3_1["llama_3_1_8b"]))
    spec = tmp_path / "two.arch"
    body = "vocab = 50, dim = 24, layers = 2, context = 2Ki\n  attention = gqa { heads = 2 }\n"
    ffn = "  ffn = swiglu { hidden = 32 }"
    spec.write_text(f"arch 1\nmodel a {{\n  {body}{ffn}\n}}\nmodel b extends a {{\n  layers = 3\n}}\n")
    root = read(report(tmp_path, str(config), f"{spec}@b").read_text())
    names = [e.text for e in root.all("article")]
    assert len(names) == 2
    assert "8.03" in names[0]


def test_too_many_models_are_refused() -> None:
    from click.testing import CliRunner

    from archc.cli import main

    result = CliRunner().invoke(main, ["report", *["llama_3_1_8b"] * 7])
    assert result.exit_code == 2
    assert "7 models do not fit side by side" in result.output
