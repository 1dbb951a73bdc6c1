import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from outcomes import make_sweep

from effvit.profiling import results
from effvit.profiling.report.figures import FIGURES
from effvit.profiling.report.html import html_text
from effvit.profiling.report.rows import make_rows

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER or not DRIVER, reason="needs chromium and chromedriver on PATH"),
]
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Figures with visible size in the panel that is shown; vegaEmbed draws them one after the other.
DRAWN = """
const charts = [...document.querySelectorAll(".panel:not([hidden]) .chart")];
return charts.filter(chart => {
  const box = chart.querySelector("svg")?.getBoundingClientRect();
  return box && box.width > 200 && box.height > 200 && chart.querySelectorAll(".mark-symbol path").length > 0;
}).length;
"""
HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    outcomes = make_sweep()
    outcomes[0] = replace(outcomes[0], run=HOSTILE, notes=(HOSTILE,))
    path: Path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html_text(make_rows(outcomes)), encoding="utf-8")
    return path.as_uri()


def _open(browser: "Chrome", page: str, width_px: int, scheme: str = "light") -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    metrics = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page)
    WebDriverWait(browser, 20).until(lambda chrome: chrome.execute_script(DRAWN) == len(FIGURES))


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_and_the_page_fits(browser: "Chrome", page: str, width_px: int, scheme: str) -> None:
    _open(browser, page, width_px, scheme)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    widest = browser.execute_script("return document.documentElement.scrollWidth")
    assert widest <= width_px
    assert browser.get_log("browser") == []


def test_another_context_is_drawn_when_it_is_chosen(browser: "Chrome", page: str) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    _open(browser, page, 1280)
    Select(browser.find_element("id", "context")).select_by_visible_text("ort-cpu, fp32, batch 8")
    WebDriverWait(browser, 20).until(lambda chrome: chrome.execute_script(DRAWN) == len(FIGURES))
    assert browser.get_log("browser") == []


def test_text_is_readable_in_the_dark(browser: "Chrome", page: str) -> None:
    _open(browser, page, 390, "dark")
    fill = "return getComputedStyle(document.querySelector('.chart .role-axis-label text')).fill"
    assert browser.execute_script(fill) == "rgb(232, 234, 237)"


def test_the_download_is_the_result_file(browser: "Chrome", page: str, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    _open(browser, page, 1280)
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    browser.execute_script("document.getElementById('download').click()")
    WebDriverWait(browser, 20).until(lambda _: (tmp_path / "results.jsonl").exists())
    assert len(results.read(tmp_path / "results.jsonl")) == len(make_sweep())


def test_a_hostile_name_stays_text(browser: "Chrome", page: str) -> None:
    _open(browser, page, 1280)
    assert browser.title.startswith("Attention report")
    assert browser.find_elements("tag name", "img") == []
    assert HOSTILE in (browser.find_element("tag name", "main").text)
