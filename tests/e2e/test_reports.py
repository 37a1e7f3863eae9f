"""A run's page and its stage reports in a real browser, as a reader sees them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hadpo import config, summary
from hadpo.runs.report import STYLE
from tests.tables.made_up_run import write_run

WIDER = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().width && !e.closest('.skip'))
  .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)
  .map(e => e.tagName + ' ' + e.className + ' ' + e.innerText?.slice(0, 40))"""
NO_WORDS = "() => [...document.images].filter(i => !i.alt.trim()).length"
BROKEN = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
# WCAG 2.2, 1.4.3: relative luminance of a text against the nearest ground that is not transparent.
FAINT = """() => {
  const parse = c => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a > 0.99) return [r, g, b];
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, style = getComputedStyle(e);
    if (!walk.currentNode.data.trim() || !e.getClientRects().length) continue;
    if (e.closest('.skip, script, style') || style.visibility === 'hidden') continue;
    const [a, b] = [light(parse(style.color)), light(ground(e))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) found.push(`${ratio.toFixed(2)} ${style.color} ${e.innerText.slice(0, 40)}`);
  }
  return found;
}"""


def opened(visit, path, *, width=1280, **options):
    """The file in a tab of 1,280 x 800, and what it wrote to the console."""
    visitor = visit(**options)
    visitor.context.on("console", lambda m: m.type == "error" and visitor.errors.append(m.text))
    visitor.tab.set_viewport_size({"width": width, "height": 800})
    visitor.tab.goto(path.as_uri())
    # the file itself is no outside request; the fixture refuses all others
    visitor.outside[:] = [url for url in visitor.outside if not url.startswith("file:")]
    return visitor.tab


def check_page(tab):
    """What holds of every page of ours, everything unfolded."""
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate(WIDER) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.evaluate(NO_WORDS) == 0
    assert tab.evaluate(BROKEN) == 0
    assert tab.evaluate(FAINT) == []
    assert tab.evaluate("document.documentElement.lang") == "en"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "a")
    return summary.write("a", folder).path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_run_is_read_from_the_top(visit, made_up, scheme):
    tab = opened(visit, made_up, color_scheme=scheme)
    assert tab.locator("#headline").evaluate("e => e.getBoundingClientRect().bottom") <= 1.5 * 800
    check_page(tab)
    heads = tab.locator("#headline thead th")
    assert {heads.nth(at).get_attribute("scope") for at in range(heads.count())} == {"col"}
    assert tab.locator("#headline tbody tr").count() == tab.locator("#headline tbody th").count()


def test_the_keyboard_leads_to_the_result_and_the_parts(visit, made_up):
    tab = opened(visit, made_up)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.innerText") == "Skip to the result"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#result")
    for link in tab.locator("nav a").all():
        place = link.get_attribute("href")
        assert tab.locator(place).count() == 1, place


def test_it_prints_on_paper_without_what_is_for_the_screen(visit, made_up):
    tab = opened(visit, made_up)
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible()
    assert tab.locator("#headline").is_visible()


def test_the_check_of_contrast_finds_what_is_faint(visit, made_up):
    tab = opened(visit, made_up)
    tab.evaluate("document.querySelector('h1').style.cssText = 'color: #888; font-size: 16px'")
    assert [text.split()[0] for text in tab.evaluate(FAINT)] == ["3.54"]
    tab.evaluate("document.querySelector('main').style.width = '2000px'")
    assert tab.evaluate(WIDER)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """`make quick`, as a user starts it; its run's folder."""
    folder = tmp_path_factory.mktemp("quick")
    is_shown = os.environ.get("HADPO_SCREENSHOTS")  # for README: a run that learns something
    recipe = "mini/llava" if is_shown else "mini/llava-smoke"
    done = subprocess.run(
        [sys.executable, "-m", "hadpo", "run", recipe, "--name", "mini-llava"],
        env=os.environ | {"HADPO_RUNS": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= max(100, len(str(folder)) + 60)
    assert done.stdout.splitlines()[-1].endswith(str(folder / "mini-llava" / "index.html"))
    return folder / "mini-llava"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (1400, "light")])
def test_every_page_of_a_run_fits_and_can_be_read(visit, quick, screenshots, width, scheme):
    mark = "" if scheme == "light" else f"_{scheme}"
    index = opened(visit, quick / "index.html", width=width, color_scheme=scheme)
    assert index.locator("#headline").evaluate("e => e.getBoundingClientRect().bottom") <= 1.5 * 800
    links = [a.get_attribute("href") for a in index.locator("table a").all()]
    assert links == [f"{stage}/report.html" for stage in config.SECTIONS]
    if width == 1280:
        index.screenshot(path=screenshots / f"index{mark}.png")
    check_page(index)
    for link in links:
        tab = opened(visit, quick / link, width=width, color_scheme=scheme)
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}[scheme]
        assert not tab.locator(".jp-CodeCell .jp-InputArea").first.is_visible()  # code is folded
        notes = tab.locator("ul.notes li").all_inner_texts()
        own = [note for note in notes if not note.startswith("Other notes")]
        assert len(own) == len(set(own))
        if width == 1280:
            tab.screenshot(path=screenshots / f"report_{link.partition('/')[0]}{mark}.png")
        check_page(tab)


def test_there_is_one_style_sheet():
    assert [p for p in config.PACKAGE.rglob("*.css") if "page" not in p.parts] == [STYLE]
