"""`param`, `-P`, `--set` and sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archc.diagnostics import ArchError, Diagnostic, Sink
from archc.resolve import load
from archc.resolve.domains import Interval
from archc.schema import Model
from tests.resolve.support import FFN, FIELDS, TOYS, found, one, only, spec

TEXT = f"""arch 1
param width = 128 in [64..256 by 64]
model m {{
{FIELDS}
  param heads = 4 in [2, 4, 8]
  param where = host in [host, device]
  param mix = gqa in [gqa, sparse]
  param free = 3
  attention = mix {{ heads = heads, window = free }}
  ffn = swiglu {{ hidden = width * 2 }}
  memory t = table {{ rows = 4, place = where }}
}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the spec above."""
    file = tmp_path / "m.arch"
    file.write_text(TEXT)
    return file


def model(path: Path, **options: Any) -> Model:
    """The model of the file with overrides."""
    return load(path, drawers=[TOYS], **options)


def errors(path: Path, **options: Any) -> tuple[Diagnostic, ...]:
    """The diagnostics of a load that fails."""
    with pytest.raises(ArchError) as caught:
        model(path, **options)
    return caught.value.diagnostics


def test_params_have_their_values_and_are_listed(path: Path) -> None:
    m = model(path)
    assert m.params == (("heads", 4), ("where", "host"), ("mix", "gqa"), ("free", 3), ("width", 128))
    assert (m.schedule[0].attention.heads, m.schedule[0].ffn.hidden, m.schedule[0].memory.place) == (4, 256, "host")


@pytest.mark.parametrize("value", [8, "8", "2 * 4", "8.0", 8.0])
def test_a_param_may_be_set(path: Path, value: Any) -> None:
    assert model(path, params={"heads": value}).schedule[0].attention.heads == 8


def test_a_param_of_the_file_a_word_and_a_kind(path: Path) -> None:
    m = model(path, params={"width": 64, "where": "device", "mix": "sparse"})
    layer = m.schedule[0]
    assert (layer.ffn.hidden, layer.memory.place, layer.attention.kind) == (128, "device", "sparse")


def test_a_value_out_of_its_domain_points_at_the_command_line(path: Path) -> None:
    (problem,) = errors(path, params={"heads": 3})
    assert (problem.code, problem.message) == ("E0206", "`heads` must be in [2, 4, 8], got 3")
    assert (problem.span.source.name, problem.span.text) == ("<-P>", "3")
    assert errors(path, params={"width": 65})[0].code == "E0206"
    assert errors(path, params={"where": "hots"})[0].code == "E0206"
    assert errors(path, params={"heads": True})[0].code == "E0206"


def test_an_unknown_param_gets_a_suggestion(path: Path) -> None:
    (problem,) = errors(path, params={"head": 3})
    assert (problem.code, problem.help) == ("E0118", "did you mean `heads`?")


def test_what_is_not_a_value_is_a_diagnostic(path: Path) -> None:
    for bad in ("", "4 +", "4, layers = 3", "4\nlayers = 3", "}", "[", '"'):
        assert errors(path, params={"heads": bad}), bad
        assert errors(path, set={"dim": bad}), bad


def test_set_amends_anything(path: Path) -> None:
    m = model(
        path,
        set={
            "dim": 128,
            "attention.window": "4Ki",
            "norm.eps": 1e-3,
            "t.orders": [4, 5],
            "schedule.memory": "t at [0, 2]",
        },
    )
    assert (m.dim, m.schedule[0].attention.window, m.norm.eps, m.schedule[0].memory.orders) == (128, 4096, 1e-3, [4, 5])
    assert [layer.memory is not None for layer in m.schedule] == [True, False, True, False, False, False]


def test_set_errors_carry_spans_in_what_was_typed(path: Path) -> None:
    (problem,) = errors(path, set={"attention.windw": 3})
    assert (problem.span.source.name, problem.span.text, problem.help) == ("<--set>", "windw", "did you mean `window`?")
    (problem,) = errors(path, set={"dmi": 3})
    assert (problem.code, problem.help) == ("E0203", "did you mean `dim`?")


def test_an_override_is_the_first_span_of_a_value(path: Path) -> None:
    spans = model(path, set={"dim": 128}).origin.fields["dim"]
    assert [s.source.name.endswith(n) for s, n in zip(spans, ("<--set>", "m.arch"), strict=True)] == [True, True]


def test_loading_twice_does_not_remember_overrides(path: Path) -> None:
    model(path, params={"heads": 8})
    assert model(path).schedule[0].attention.heads == 4


def test_a_child_sets_a_param_of_its_parent() -> None:
    base = spec("param h = 4 in [4, 8]\nattention = gqa { heads = h }\n" + FFN)
    assert one(base + "model c extends m { h = 8 }").schedule[0].attention.heads == 8
    assert only(base + "model c extends m { h = 6 }").code == "E0206"


def test_a_model_may_be_chosen(tmp_path: Path) -> None:
    file = tmp_path / "two.arch"
    file.write_text(spec("attention = none\n" + FFN) + "model second extends m { layers = 3 }")
    assert (load(file).name, load(file, model="second").layers) == ("m", 3)
    with pytest.raises(ArchError) as caught:
        load(file, model="secnd")
    assert [(d.code, d.help) for d in caught.value.diagnostics] == [("E0106", "did you mean `second`?")]


def test_specs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArchError) as caught:
        load("lama_3_1_8b")
    assert caught.value.diagnostics[0].help == "did you mean `llama_3_1_8b`?"
    for name, content in (("empty.arch", b""), ("latin.arch", b"\xff\xfe\xff"), ("let.arch", b"arch 1\nlet a = 3\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArchError) as caught:
            load(tmp_path / name)
        assert [d.code for d in caught.value.diagnostics] == ["E0106"]
    with pytest.raises(ArchError):
        load(tmp_path)


def test_warnings_reach_the_sink(tmp_path: Path) -> None:
    file = tmp_path / "m.arch"
    file.write_text(spec("attention = none\nlet a = 1\n" + FFN))
    sink = Sink()
    load(file, sink=sink)
    assert [(d.code, d.severity, d.span.text) for d in sink.items] == [("W0002", "warning", "a")]


def test_sweeps() -> None:
    body = "attention = gqa { heads = h, window = w }\nparam h = 4 in [2, 4, 8]\nparam w = 3\n" + FFN
    sweep = "## More heads.\nsweep heads { h = [2, 4..8 by 4], w = 1..3 }"
    (kept,) = one(spec(body, after=sweep)).sweeps
    assert (kept.name, kept.doc, kept.values) == ("heads", "More heads.", (("h", (2, 4, 8)), ("w", (1, 2, 3))))
    assert one(spec(body + sweep)).sweeps == (kept,)


@pytest.mark.parametrize(
    ("sweep", "code", "span"),
    [
        ("sweep s { h = [2, 3] }", "E0206", "3"),
        ("sweep s { g = [2] }", "E0118", "g"),
        ("sweep s { h = 2 }", "E0202", "2"),
        ("sweep { h = [2] }", "E0109", "sweep"),
        ("sweep s { h { } }", "E0109", "h { }"),
        ("sweep s { w = 0..1T }", "E0209", "0..1T"),
        ("sweep s { dim = [2] }", "E0118", "dim"),
    ],
)
def test_mistakes_in_sweeps(sweep: str, code: str, span: str) -> None:
    body = "attention = gqa { heads = h, window = w }\nparam h = 4 in [2, 4, 8]\nparam w = 3\n" + FFN
    problem = only(spec(body, after=sweep))
    assert (problem.code, problem.span.text) == (code, span)


def test_domains() -> None:
    body = "attention = gqa { heads = h }\n" + FFN
    assert found(spec(body + "param h = 4 in 1..8")) == ()
    assert only(spec(body + "param h = 4 in 4")).code == "E0202"
    assert only(spec(body + "param h = 4 in [true]")).code == "E0206"


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        ("0.5..4.0", ("0.5", "1.25", "2", "4.0"), ("0.4", "4.5", "none", "true")),
        ("1e-3..1", ("0.001", "0.5", "1"), ("0", "2")),
        ("-1.5..2", ("1", "0.5"), ("-2", "3")),
        ("2.5K..4K", ("2500", "4000", "3e3"), ("2500.5",)),  # no fraction: whole numbers
    ],
)
def test_domains_of_fractions(domain: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    def text(value: str) -> str:
        return spec(f"attention = gqa {{ heads = 4, scale = s }}\nparam s = {value} in {domain}\n" + FFN)

    for value in inside:
        assert one(text(value)).schedule[0].attention.scale == float(value)
    for value in outside:
        problem = only(text(value))
        assert (problem.code, problem.span.text) == ("E0206", value)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("0.5..4 by 1", "a range of fractions has no step"),
        ("0.5..", "an open range has no end here"),
        ("4.5..0.5", "the range 4.5..0.5 is empty"),
        ("0.5..true", "a number is needed here, not true"),
    ],
)
def test_mistakes_in_domains_of_fractions(domain: str, message: str) -> None:
    problem = only(spec(f"attention = gqa {{ heads = 4, scale = s }}\nparam s = 1 in {domain}\n" + FFN))
    assert problem.code == "E0202"
    assert problem.message.startswith(message)


def test_solves() -> None:
    body = "attention = gqa { heads = h, window = w, scale = s }\n" + FFN
    body += "param h = 4 in [8, 4, 2, 4]\nparam w = 3 in 1..9 by 2\nparam s = 1.0 in 0.5..2.0\n"
    sweep = """sweep heads {
      h = [2, 4]
      solve w for w * h == cost.params.total(mode = train) / 2 within 1 / 8
      solve s for s * h == 4
    }"""
    (kept,) = one(spec(body, after=sweep)).sweeps
    assert kept.values == (("h", (2, 4)),)
    first, second = kept.solves
    assert (first.param, first.text) == ("w", "w * h == cost.params.total(mode = train) / 2")
    assert (list(first.values), first.tolerance) == ([1, 3, 5, 7, 9], 0.125)
    assert (second.param, second.values, second.tolerance) == ("s", Interval(0.5, 2.0), 0.01)
    (alone,) = one(spec(body, after="sweep heads { solve h for h == 3 }")).sweeps
    assert (alone.values, list(alone.solves[0].values)) == ((), [2, 4, 8])


@pytest.mark.parametrize(
    ("solve", "code", "span"),
    [
        ("solve g for w == 2", "E0118", "g"),
        ("solve dim for w == 2", "E0118", "dim"),
        ("solve h for w == 2", "E0108", "h"),
        ("solve w for w == 2, solve w for w == 3", "E0108", "w"),
        ("solve free for free == 2", "E0507", "free"),
        ("solve word for w == 2", "E0507", "word"),
        ("solve wide for w == 2", "E0209", "wide"),
        ("solve w for w <= 2", "E0506", "w <= 2"),
        ("solve w for w", "E0506", "w"),
        ("solve w for w == 2 and h == 3", "E0506", "w == 2 and h == 3"),
        ("solve w for w == 2 within 5", "E0506", "5"),
        ("solve w for w == 2 within -0.1", "E0506", "-0.1"),
        ("solve w for w == 2 within true", "E0506", "true"),
        ("solve w for w == none", "E0207", "none"),
        ('solve w for w == "a"', "E0207", '"a"'),
        ("solve w for w == x", "E0118", "x"),
        ("solve w for w == cost", "E0503", "cost"),
        ("solve w for cost.params.total(contxt = 3) == w", "E0505", "contxt"),
        ("solve w for w / 0 == 2", "E0208", "w / 0"),
        ("check w == 2", "E0109", "check w == 2"),
    ],
)
def test_mistakes_in_solves(solve: str, code: str, span: str) -> None:
    body = "attention = gqa { heads = h, window = w, bias = b }\nparam h = 4 in [2, 4, 8]\nparam w = 3 in 1..9\n"
    body += "param free = 3\nparam word = small in [small, large]\nparam wide = 3 in 0..1e18\nlet b = false\n" + FFN
    problem = only(spec(body, after=f"sweep s {{ h = [2], {solve} }}"))
    assert (problem.code, problem.span.text) == (code, span)


@pytest.mark.parametrize("after", ["", "solve w for w == 2\n"])
def test_a_solve_stands_in_a_sweep(after: str) -> None:
    body = "attention = gqa { heads = 4, window = w }\nparam w = 3 in 1..9\n" + FFN
    inside = "" if after else "solve w for w == 2\n"
    problem = only(spec(body + inside, after=after))
    assert (problem.code, problem.message) == ("E0109", "a `solve` stands inside a sweep")
