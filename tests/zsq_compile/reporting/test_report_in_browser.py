"""The report's page in a real browser: nothing on its console, everything in sight, nothing to be scrolled sideways."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zsq_compile.reporting.reports import a_bare_report, a_report
from zsq_compile.reporting.html import page_of

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install '.[test]'")
from selenium import webdriver  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no browser here: apt-get install chromium chromium-driver"
)

CHARTS = """
return [...document.querySelectorAll('svg')].map(chart => {
  const b = chart.getBoundingClientRect(); return [b.width, b.height, b.left, b.right];
})
"""
DRAWN = """
const marks = 'svg rect:not(.track), svg polyline, svg circle, .map span, .confidence i';
return [...document.querySelectorAll(marks)].filter(e => {
  const b = e.getBoundingClientRect(), s = getComputedStyle(e), none = 'rgba(0, 0, 0, 0)';
  return (b.width <= 0 && b.height <= 0) || (s.fill === 'none' && s.stroke === 'none' && s.backgroundColor === none);
}).length
"""
PICTURES = "return [...document.images].map(i => [i.complete, i.naturalWidth])"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


def shown(browser: Any, path: Path, width: int, scheme: str = "light") -> None:
    """Open a page in a window of so many pixels."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(path.as_uri())
    assert browser.execute_script("return window.innerWidth") == width


@pytest.fixture(scope="module", params=["full", "bare"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    path.write_text(page_of(a_report() if request.param == "full" else a_bare_report()), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_whole_at_every_width(browser: Any, page: Path, width: int) -> None:
    shown(browser, page, width)
    assert browser.get_log("browser") == [], "the console is empty, refusals of the content policy included"
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth") <= width, "nothing to be scrolled sideways"
    charts = browser.execute_script(CHARTS)
    assert bool(charts) is (page.stem == "full")
    for wide, high, left, right in charts:
        assert wide > 100 and high >= 10 and left >= 0 and right <= width
    assert browser.execute_script(DRAWN) == 0, "every mark has a size and a colour"
    assert all(complete and wide > 0 for complete, wide in browser.execute_script(PICTURES))


def test_names_of_the_model_did_not_run(browser: Any, page: Path) -> None:
    shown(browser, page, 1400)
    assert browser.execute_script("return document.scripts.length") == 0
    assert browser.execute_script("return document.querySelectorAll('[onerror]').length") == 0


def test_light_and_dark_differ_and_both_can_be_read(browser: Any, page: Path) -> None:
    def contrast(scheme: str) -> tuple[float, float]:
        shown(browser, page, 1000, scheme)
        ground, ink = (
            browser.execute_script(f"return getComputedStyle(document.querySelector('section')).{name}")
            for name in ("backgroundColor", "color")
        )
        return luminance(ground), luminance(ink)

    (light, dark_ink), (dark, light_ink) = contrast("light"), contrast("dark")
    assert light > 0.8 and dark < 0.1
    for ground, ink in ((light, dark_ink), (dark, light_ink)):
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 7.0, "the ratio that WCAG calls AAA"


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of "rgb(r, g, b)"."""
    parts = [int(part) / 255.0 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
