"""The report page as a browser lays it out: on a phone and on a desktop, in light and in dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import CHROMIUM, Browser
from tests.report.reading import report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")

FAULTS = """
(() => {
  const found = [], seen = (e) => {
    const r = e.getBoundingClientRect();
    const head = e.closest('thead');
    const hidden = head && getComputedStyle(head).position == 'absolute';  // its words stand before each figure
    return e.checkVisibility() && !hidden && r.width > 1 && r.height > 1;
  };
  const name = (e) => e.tagName + ' ' + (e.id || e.className.baseVal || e.className) + ' '
    + e.textContent.trim().slice(0, 40);
  if (document.documentElement.scrollWidth > window.innerWidth) found.push('the page scrolls sideways');
  for (const e of document.body.querySelectorAll('*')) {
    if (!seen(e) || e.closest('svg') && e.tagName != 'svg') continue;
    const r = e.getBoundingClientRect();
    if (r.right > window.innerWidth + 0.5 || r.left < -0.5) found.push('beyond the window: ' + name(e));
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1) found.push('cut: ' + name(e));
    const card = e.parentElement.closest('.card');
    if (card && seen(card)) {
      const c = card.getBoundingClientRect();
      const out = r.right > c.right - 4 || r.left < c.left + 4 || r.bottom > c.bottom + 0.5;
      if (out) found.push('outside its card: ' + name(e));
    }
  }
  for (const row of document.querySelectorAll('tr, dl')) {
    const pieces = [...row.querySelectorAll('.number, .change, th, dt')].filter(seen).map((e) => [e, range(e)]);
    overlaps(pieces, 'in a row');
  }
  function range(e) {
    const r = document.createRange(); r.selectNodeContents(e); return r.getBoundingClientRect();
  }
  function overlaps(pieces, where) {
    for (const [i, [a, p]] of pieces.entries()) for (const [b, q] of pieces.slice(i + 1)) {
      if (a.contains(b) || b.contains(a)) continue;
      const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (x > 0.5 && y > 2) found.push('overlap ' + where + ': ' + name(a) + ' and ' + name(b));
    }
  }
  for (const svg of document.querySelectorAll('svg')) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map((e) => [e, e.getBoundingClientRect()]);
    overlaps(texts, 'in a picture');
    for (const [e, r] of texts) {
      if (r.left < frame.left || r.right > frame.right || r.top < frame.top - 1 || r.bottom > frame.bottom + 1)
        found.push('outside its picture: ' + name(e));
      if (r.height < 9) found.push('too small to read: ' + name(e));
    }
  }
  return found;
})()
"""

PAGES = {
    "one": ["deepseek_v3"],
    "two": ["deepseek_v4_flash", "deepseek_v4_pro", "--mode", "train", "--batch", "2", "--hardware", "h100"],
    "three": ["deepseek_v3", "deepseek_v4_flash", "llama_3_1_405b"],
    "six": ["mixtral_8x7b", "olmoe_1b_7b", "qwen3_235b_a22b", "kimi_k2", "gpt_oss_120b", "deepseek_v2_lite"],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1024, 1440])
@pytest.mark.parametrize("case", PAGES)
def test_nothing_is_cut_or_overlaps(
    case: str, width: int, dark: bool, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = _page(case, tmp_path_factory)
    browser.show(page, width=width, dark=dark)
    assert browser.run("window.innerWidth") == width
    assert browser.run(FAULTS) == []
    browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true })")
    assert browser.run(FAULTS) == []
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(246, 247, 249)")


_PAGES: dict[str, Path] = {}


def _page(case: str, folders: pytest.TempPathFactory) -> Path:
    if case not in _PAGES:
        _PAGES[case] = report(folders.mktemp(case), *PAGES[case])
    return _PAGES[case]


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        ("document.querySelector('h1').style.width = '3000px'", "sideways"),
        ("document.querySelector('.card svg').style.cssText = 'width: 700px; max-width: none'", "outside its card"),
        ("document.querySelectorAll('svg text').forEach((e) => e.setAttribute('y', 40))", "overlap in a picture"),
        (
            "document.querySelector('h3').style.cssText = 'overflow: hidden; white-space: nowrap; width: 40px'",
            "cut",
        ),
    ],
)
def test_faults_are_seen(break_it: str, fault: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    browser.show(_page("one", tmp_path_factory), width=390)
    browser.run(break_it)
    assert any(fault in found for found in browser.run(FAULTS))


def test_models_stand_side_by_side_on_a_desktop_and_stacked_on_a_phone(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    places = (
        "[...document.querySelectorAll('article')].map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.top])"
    )
    for width, across in ((1440, True), (390, False)):
        browser.show(_page("three", tmp_path_factory), width=width)
        found = browser.run(places)
        assert len({x for x, _ in found}) == (3 if across else 1)
        assert len({y for _, y in found}) == (1 if across else 3)


def test_the_page_asks_for_nothing(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    browser.show(_page("three", tmp_path_factory), width=1440)
    assert browser.run("performance.getEntriesByType('resource').length") == 0
