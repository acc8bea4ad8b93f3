"""The page in headless Chromium: it is whole, fits, asks for nothing, and its large view works."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"
)

OPEN = "document.getElementById('zoom').open"
TITLE = "document.getElementById('zoom-title').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_is_shown_whole(browser: Browser, page: Path, width: int, theme: str) -> None:
    browser.open(page, width=width, theme=theme)
    images = browser.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(images) > 30
    assert min(images) > 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 3 * 128) == (theme == "light")
    assert browser.complaints() == []


def test_plots_follow_the_theme(browser: Browser, page: Path) -> None:
    colours = set()
    for theme in ("light", "dark"):
        browser.open(page, width=1400, theme=theme)
        colours.add(browser.evaluate("getComputedStyle(document.querySelector('svg text')).fill"))
    assert len(colours) == 2
    assert browser.evaluate("document.querySelectorAll('.plots svg').length") == 3


def test_theme_button_overrules_the_system(browser: Browser, page: Path) -> None:
    browser.open(page, width=1400, theme="light")
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.click("#theme")
    browser.click("#theme")
    assert browser.evaluate("document.getElementById('theme').textContent") == "Theme: dark"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_large_view_opens_by_mouse_and_shows_every_model(browser: Browser, page: Path) -> None:
    browser.open(page, width=1400, theme="light")
    assert not browser.evaluate(OPEN)
    browser.click(".shot[data-column='2']")
    assert browser.evaluate(OPEN)
    assert browser.evaluate(TITLE) == "sample 2 of seed 0"
    assert browser.evaluate("document.querySelectorAll('.large img').length") == 3
    browser.click("[data-close]")
    assert not browser.evaluate(OPEN)


def test_large_view_is_worked_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page, width=400, theme="dark")
    browser.evaluate("document.querySelector('.shot').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    focused = "document.activeElement.dataset.row + ' ' + document.activeElement.dataset.column"
    assert browser.evaluate(focused).endswith(" 1")
    assert not browser.evaluate(focused).startswith("big"), "a row below the teacher's"
    browser.press("Enter")
    assert browser.evaluate(OPEN)
    browser.press("ArrowRight")
    assert browser.evaluate(TITLE) == "sample 2 of seed 0"
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.evaluate(TITLE) == "sample 15 of seed 0", "round the end"
    browser.press("Escape")
    assert not browser.evaluate(OPEN)
    assert browser.evaluate(focused).endswith(" 1"), "the focus returns"
    assert browser.complaints() == []


def test_one_tab_stop_per_gallery(browser: Browser, page: Path) -> None:
    browser.open(page, width=1400, theme="light")
    stops = "document.querySelectorAll('.shot[tabindex=\"0\"]').length"
    assert browser.evaluate(stops) == browser.evaluate(
        "document.querySelectorAll('.gallery').length"
    )
