"""Numbers and units."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archc.syntax.numbers import UNITS, UnknownUnit, parse_number


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("129_280", 129_280, ""),
        ("4Ki", 4096, "Ki"),
        ("4K", 4000, "K"),
        ("1Mi", 1_048_576, "Mi"),
        ("1Gi", 1_073_741_824, "Gi"),
        ("1Ti", 1_099_511_627_776, "Ti"),
        ("671B", 671_000_000_000, "B"),
        ("2T", 2_000_000_000_000, "T"),
        ("8KiB", 8192, "KiB"),
        ("8KB", 8000, "KB"),
        ("80GiB", 85_899_345_920, "GiB"),
        ("3.35TB/s", 3.35e12, "TB/s"),
        ("900GB/s", 900_000_000_000, "GB/s"),
        ("10e3", 10_000.0, ""),
        ("1.0", 1.0, ""),
        ("1e-6", 1e-6, ""),
        ("1.5Ki", 1536.0, "Ki"),
        ("2E2", 200.0, ""),
    ],
)
def test_value_and_unit(text, value, unit):
    found = parse_number(text)
    assert found == (value, unit)
    assert type(found[0]) is type(value)


@pytest.mark.parametrize("text", ["3Qi", "4ki", "1Bi", "5x", "1e", "2kb"])
def test_unknown_units(text):
    with pytest.raises(UnknownUnit) as caught:
        parse_number(text)
    assert text[caught.value.start :] == caught.value.unit


@pytest.mark.parametrize("text", ["1__0", "1_", "1_.5", "1._5_", "1_e3"])
def test_underscores_stand_between_digits(text):
    with pytest.raises(ValueError, match=r"\d"):
        parse_number(text)


@pytest.mark.parametrize("text", ["1e999", "9" * 60, "9" * 100_000, "1e308T"])
def test_too_large(text):
    with pytest.raises(OverflowError):
        parse_number(text)


@settings(deadline=None)
@given(st.integers(0, 10**30), st.sampled_from(sorted(UNITS)))
def test_ints_stay_exact(n, unit):
    value, _ = parse_number(f"{n:_}{unit}")
    assert isinstance(value, int)
    assert value == n * UNITS[unit]


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1e300))
def test_floats_read_as_python_reads_them(x):
    text = repr(x)
    if "e" in text or "." in text:
        assert parse_number(text) == (x, "")
