"""A headless Chromium that opens pages of reports."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# Every figure that is not hidden has marks in a drawing of visible size, and there is one at least.
DRAWN = """
const figures = [...document.querySelectorAll("figure:not([hidden])")];
return figures.length > 0 && figures.every(figure => {
  const box = figure.querySelector(".chart svg")?.getBoundingClientRect();
  return box && box.width > 200 && box.height > 100 && figure.querySelector("[class*='mark-'] path") !== null;
});
"""


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Yield a browser that keeps its files in `profile`, and what pages write to the console."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield chrome
    finally:
        chrome.quit()


def show(browser: Chrome, page: str, width_px: int = 1280, scheme: str = "light") -> None:
    """Open `page` in a window of this width, and wait until its figures are drawn."""
    metrics = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get("about:blank")  # another hash alone would not load the page again
    browser.get(page)
    wait_until_drawn(browser)


def wait_until_drawn(browser: Chrome) -> None:
    """Wait until every figure that is not hidden is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120).until(lambda chrome: chrome.execute_script(DRAWN))
