from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import BROWSER, DRIVER, chromium, show, wait_until_drawn
from many import CELLS, make_many
from outcomes import VARIANTS, make_sweep, without_evidence

from effvit.profiling import results
from effvit.profiling.records import Outcome, Training
from effvit.profiling.report.html import html_text
from effvit.profiling.report.page import content_of
from effvit.profiling.report.rows import make_rows
from effvit.spec import Swap

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER or not DRIVER, reason="needs chromium and chromedriver on PATH"),
]
HOSTILE = (
    '</script><img src=x onerror="document.title=1">', '"><script>document.title=2</script>',
    "' onload='document.title=3",
    "\u2028\u0000\u202e{{ title }}${document.title=4}", "javascript:document.title=5", "&lt;b&gt;`\\",
)  # fmt: skip
MOST_BYTES = 5_000_000
# A4 between margins of a centimetre, of 96 px an inch.
PAPER_PX = 718
CHOOSE = (
    "const all = arguments[0].parentElement; all.value = arguments[0].value; all.dispatchEvent(new Event('change'))"
)
NAMES = "return [...document.querySelectorAll('figure:not([hidden])')].map(figure => figure.id)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    pytest.importorskip("selenium.webdriver")
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def _written(outcomes: list[Outcome], folder: Path) -> str:
    path = folder / "report.html"
    path.write_text(html_text(content_of(make_rows(outcomes))), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    training = Training(30, 1800.0, 410.0, 0.81, 2**31, None)
    outcomes = [replace(outcome, training=training) for outcome in make_sweep()]
    return _written(outcomes, tmp_path_factory.mktemp("report"))


def _select(browser: Chrome, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    where = f"select[data-dimension='{name}']" if name else "#context"
    Select(browser.find_element("css selector", where)).select_by_visible_text(value)
    wait_until_drawn(browser)


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_and_the_page_fits(browser: Chrome, page: str, width_px: int, scheme: str) -> None:
    show(browser, page, width_px, scheme)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert len(browser.execute_script(NAMES)) == 11  # all but energy, which was not measured
    widest = browser.execute_script("return document.documentElement.scrollWidth")
    assert widest <= width_px
    assert browser.get_log("browser") == []


def test_another_context_is_drawn_when_it_is_chosen(browser: Chrome, page: str) -> None:
    show(browser, page)
    _select(browser, "", "ort-cpu, fp32, batch 8")
    assert browser.find_element("id", "shown").text == "ort-cpu, fp32, batch 8"
    label = browser.find_element("css selector", "#accuracy-latency .chart").get_attribute("aria-label")
    assert label == ("Accuracy against latency: ort-cpu, fp32, batch 8, 15 cells. The numbers are in the table below.")
    assert browser.get_log("browser") == []


def test_filters_act_on_tables_and_figures_and_a_view_can_be_shared(browser: Chrome, page: str) -> None:
    show(browser, page)
    _select(browser, "batch", "8")
    _select(browser, "px", "384")
    assert "10 of 60 cells" in browser.find_element("id", "count").text  # 5 variants, 2 backends
    points = "return document.querySelectorAll('#accuracy-size .mark-symbol path').length"
    alone = browser.execute_script(points)
    shared = browser.current_url
    assert "#batch=8&px=384" in shared
    show(browser, page)
    assert browser.execute_script(points) > alone
    show(browser, shared)
    assert "10 of 60 cells" in browser.find_element("id", "count").text
    assert browser.execute_script(points) == alone
    browser.find_element("id", "reset").click()
    wait_until_drawn(browser)
    assert "60 of 60 cells" in browser.find_element("id", "count").text
    assert "#" not in browser.current_url
    assert browser.get_log("browser") == []


def test_a_hash_that_names_nothing_shows_everything(browser: Chrome, page: str) -> None:
    show(browser, f"{page}#batch=77&figures=<img>&px")
    assert "60 of 60 cells" in browser.find_element("id", "count").text
    assert browser.get_log("browser") == []


def test_the_keyboard_reaches_filters_tables_and_downloads(browser: Chrome, page: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    show(browser, page)
    reached = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(
            browser.execute_script("const e = document.activeElement; return e.id || e.dataset.dimension || e.tagName")
        )
    assert reached[0] == "A"  # skips to the figures
    for wanted in ("backend", "batch", "px", "attention", "context", "reset", "SUMMARY"):
        assert wanted in reached
    regions = browser.find_elements("css selector", ".scroll")
    assert all(region.get_attribute("tabindex") == "0" for region in regions)


def test_a_filter_is_set_and_a_table_opened_without_a_mouse(browser: Chrome, page: str) -> None:
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, page)
    browser.find_element("css selector", "select[data-dimension='batch']").send_keys("8")
    wait_until_drawn(browser)
    assert "30 of 60 cells" in browser.find_element("id", "count").text
    browser.find_element("css selector", "#latency-resolution summary").send_keys(Keys.ENTER)
    # The page hears of it a moment later. Of 15 cells one failed, and one ran out of memory.
    rows = "return document.querySelectorAll('#latency-resolution tbody tr').length"
    WebDriverWait(browser, 60).until(lambda chrome: chrome.execute_script(rows) == 13)


def test_the_table_of_what_training_took_has_each_run_once(browser: Chrome, page: str) -> None:
    show(browser, page)
    browser.execute_script("document.querySelector('#training-cost details').open = true")
    rows = "return [...document.querySelectorAll('#training-cost tbody tr')].map(row => row.cells[1].textContent)"
    assert sorted(browser.execute_script(rows)) == sorted(f"vit_tiny-{name}" for name in VARIANTS)


def test_hovering_a_point_tells_all_facts_of_its_cell(browser: Chrome, page: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, page)
    mark = browser.find_elements("css selector", "#accuracy-size .mark-symbol.role-mark path[aria-label]")[-1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    WebDriverWait(browser, 10).until(lambda chrome: chrome.find_elements("css selector", "#vg-tooltip-element.visible"))
    told = browser.find_element("id", "vg-tooltip-element").text
    for fact in ("attention", "latency p50", "peak memory", "top-1", "parameters", "trained", "run"):
        assert fact in told


def test_text_is_readable_in_the_dark(browser: Chrome, page: str) -> None:
    show(browser, page, 390, "dark")
    fill = "return getComputedStyle(document.querySelector('.chart .role-axis-label text')).fill"
    assert browser.execute_script(fill) == "rgb(232, 234, 237)"


def test_print_is_light_even_in_the_dark_and_fits_its_paper(browser: Chrome, page: str) -> None:
    show(browser, page, PAPER_PX, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(one => one.open)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PAPER_PX
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_the_download_is_the_result_file(browser: Chrome, page: str, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, page)
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    browser.execute_script("document.querySelector(\"a[download='results.jsonl.gz']\").click()")
    WebDriverWait(browser, 20).until(lambda _: (tmp_path / "results.jsonl").exists())
    assert len(results.read(tmp_path / "results.jsonl")) == len(make_sweep())


def test_hostile_names_stay_text_wherever_they_stand(browser: Chrome, tmp_path: Path) -> None:
    outcomes = make_sweep()
    for place, name in enumerate(HOSTILE):
        outcome = outcomes[place]
        model = replace(outcome.cell.model, backbone=name, swaps=(Swap(name, ((name, name),)),))
        machine = replace(outcome.environment, cpu=name, packages=((name, name),))
        outcomes[place] = replace(
            outcome,
            cell=replace(outcome.cell, model=model, backend=name),
            run=name,
            data=name,
            notes=(name,),
            environment=machine,
        )
    outcomes.append(without_evidence(outcomes[0], "failed", "open", HOSTILE[0]))
    page = _written(outcomes, tmp_path)
    show(browser, page)
    title = browser.title
    assert title.startswith("Attention report")
    for context in browser.find_elements("css selector", "#context option"):
        browser.execute_script(CHOOSE, context)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.title == title
    assert browser.find_elements("tag name", "img") == []
    assert HOSTILE[0] in browser.find_element("tag name", "main").text
    assert browser.get_log("browser") == []


@pytest.mark.slow
def test_two_thousand_cells_stay_below_five_megabytes_and_open(browser: Chrome, tmp_path: Path) -> None:
    page = _written(make_many(), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < MOST_BYTES
    show(browser, page)
    assert f"{CELLS} of {CELLS} cells" in browser.find_element("id", "count").text
    _select(browser, "batch", "64")
    assert f"{CELLS // 4} of {CELLS} cells" in browser.find_element("id", "count").text
    assert browser.get_log("browser") == []
