"""The report in headless Chromium: as its reader sees and uses it, light and dark."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from minifold_pl.cli.main import main

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Debian's packages chromium and chromium-driver",
    ),
]
pytest.importorskip("plotly")
SECONDS_TO_OPEN = 2.0


@pytest.fixture(scope="module")
def report(made_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(made_run.folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module", params=["light", "dark"])
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser whose user prefers a theme, and no motion; downloads go to its ``downloads``."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    place = tmp_path_factory.mktemp(f"browser-{request.param}")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={place}/profile",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        made.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {
                "features": [
                    {"name": "prefers-color-scheme", "value": request.param},
                    {"name": "prefers-reduced-motion", "value": "reduce"},
                ]
            },
        )
        downloads = {"behavior": "allow", "downloadPath": str(place / "downloads")}
        made.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        made.theme, made.downloads = request.param, place / "downloads"
        yield made
    finally:
        made.quit()


@pytest.fixture
def browser(driver: Any, report: Path) -> Any:
    """The browser with the report freshly opened."""
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(report.as_uri())
    return driver


def _until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def _show_viewer(browser: Any) -> Any:
    browser.execute_script("document.getElementById('structures').scrollIntoView({behavior: 'instant'})")
    _until(lambda: browser.execute_script("return document.getElementById('stage').dataset.shown"))
    return browser.find_element("id", "stage")


def _pixels(element: Any) -> np.ndarray:
    """(h w 3) of what is on the screen."""
    from matplotlib.image import imread

    return imread(io.BytesIO(element.screenshot_as_png))[..., :3]


def _drawn(pixels: np.ndarray) -> float:
    """The share of pixels that are not the background's."""
    return float((np.abs(pixels - pixels[2, 2]).max(-1) > 0.05).mean())


def _column(browser: Any, name: str) -> list[str]:
    return browser.execute_script(
        "const heads = [...document.querySelectorAll('#chain-table thead th')];"
        "const place = heads.findIndex((head) => head.dataset.column === arguments[0]);"
        "const cells = [...document.querySelectorAll('#chain-table tbody tr')].map((row) => row.cells[place]);"
        "return cells.map((cell) => cell.dataset.value ?? cell.textContent)",
        name,
    )


def _head(browser: Any, name: str) -> Any:
    return browser.find_element("css selector", f"#chain-table th[data-column={name}] button")


def _no_trouble(browser: Any) -> None:
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def test_it_opens_in_time_without_an_error_and_asks_nothing_of_a_network(browser: Any) -> None:
    # Time on the processor: the machine may have other work.
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    browser.refresh()
    spent = {
        one["name"]: one["value"] for one in browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    }
    browser.execute_cdp_cmd("Performance.disable", {})
    _show_viewer(browser)
    _no_trouble(browser)
    assert 0 < spent["TaskDuration"] < SECONDS_TO_OPEN
    asked = [
        entry["message"]
        for entry in browser.get_log("performance")
        if 'requestWillBeSent"' in entry["message"]
    ]
    assert asked, "the page itself is among them"
    assert not any('"url":"http' in message or '"url":"ws' in message for message in asked)
    assert browser.execute_script("return document.documentElement.dataset.theme") == browser.theme
    ink, paper = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("color", "backgroundColor")
    )
    brightness = [sum(int(part) for part in colour[4:-1].split(",")[:3]) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == (browser.theme == "dark")


def test_nothing_is_wider_than_a_narrow_screen(browser: Any) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.refresh()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_table_sorts_by_number_and_by_name_and_missing_values_come_last(browser: Any) -> None:
    names = _column(browser, "name")
    assert len(names) == 20
    _head(browser, "tm_score").click()
    cells = _column(browser, "tm_score")
    assert cells[-1] == "–"
    falling = [float(cell) for cell in cells[:-1]]
    assert falling == sorted(falling, reverse=True)
    _head(browser, "tm_score").click()
    cells = _column(browser, "tm_score")
    assert [float(cell) for cell in cells[:-1]] == sorted(falling)
    assert cells[-1] == "–"
    _head(browser, "name").click()
    assert _column(browser, "name") == names
    _no_trouble(browser)


def test_the_table_filters_by_name_and_by_comparison(browser: Any, made_run) -> None:
    field = browser.find_element("id", "row-filter")
    field.send_keys("tm_score>=0.5 synthetic")
    kept = _column(browser, "tm_score")
    assert 0 < len(kept) < 20
    assert all(float(cell) >= 0.5 for cell in kept)
    field.clear()
    field.send_keys(made_run.hostile.split()[0])
    assert _column(browser, "name") == [made_run.hostile]
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    _no_trouble(browser)


def test_the_viewer_draws_turns_with_the_mouse_and_shows_other_chains(browser: Any) -> None:
    from selenium.webdriver import ActionChains

    stage = _show_viewer(browser)
    _until(lambda: _drawn(_pixels(stage)) > 0.01)
    before = _pixels(stage)
    camera = (
        "const scene = document.getElementById('stage')._fullLayout.scene._scene;"
        "const eye = scene.getCamera().eye; return [eye.x, eye.y, eye.z]"
    )
    eye = browser.execute_script(camera)
    ActionChains(browser).move_to_element(stage).click_and_hold().move_by_offset(90, 40).move_by_offset(
        60, 20
    ).release().perform()
    _until(lambda: np.abs(np.array(browser.execute_script(camera)) - eye).max() > 0.1)
    _until(lambda: (np.abs(_pixels(stage) - before).max(-1) > 0.1).mean() > 0.01)
    assert _drawn(_pixels(stage)) > 0.01

    first = browser.execute_script("return document.getElementById('stage').dataset.shown")
    browser.find_elements("css selector", "#chain-list button")[4].click()
    _until(lambda: browser.execute_script("return document.getElementById('stage').dataset.shown") != first)
    _until(lambda: _drawn(_pixels(stage)) > 0.01)
    _no_trouble(browser)


def test_without_the_truth_and_in_other_colours_another_picture_is_drawn(browser: Any) -> None:
    stage = _show_viewer(browser)
    _until(lambda: _drawn(_pixels(stage)) > 0.01)
    both = _pixels(stage)
    browser.find_element("id", "truth-choice").click()
    _until(lambda: (np.abs(_pixels(stage) - both).max(-1) > 0.1).mean() > 0.001)
    alone = _pixels(stage)
    browser.execute_script(
        "const choice = document.getElementById('colour-choice');"
        "choice.value = 'error'; choice.dispatchEvent(new Event('change'))"
    )
    _until(lambda: (np.abs(_pixels(stage) - alone).max(-1) > 0.1).mean() > 0.001)
    assert "truth" in browser.find_element("id", "legend").text
    _no_trouble(browser)


def test_a_sample_and_its_truth_download_as_the_files_they_are(browser: Any, made_run) -> None:
    folder = browser.downloads
    choice = browser.find_elements("css selector", "#chain-list button")[3]
    name = choice.get_attribute("title")
    choice.click()
    for button, expected in (("download-sample", "epoch-060"), ("download-truth", "truth")):
        link = browser.find_element("id", button)
        _until(lambda link=link: link.get_attribute("href"))
        browser.execute_script("arguments[0].click()", link)
        path = _until(lambda expected=expected: next(iter(folder.glob(f"*{expected}*.pdb")), None))
        chain = gemmi.read_pdb(str(path))[0][0]
        assert len(chain) >= 60
        assert all(residue.find_atom("CA", "*") is not None for residue in chain)
    sample = next(folder.glob(f"{name}_epoch-060*.pdb"))
    assert sample.read_text() == (made_run.folder / "samples" / "epoch-060" / f"{name}.pdb").read_text()


def test_the_button_changes_the_theme_and_figures_follow(browser: Any) -> None:
    browser.find_element("id", "theme").click()
    other = {"light": "dark", "dark": "light"}[browser.theme]
    assert browser.execute_script("return document.documentElement.dataset.theme") == other
    shown = browser.find_elements("css selector", f"figure img.{other}")
    assert shown
    _until(
        lambda: all(browser.execute_script("return arguments[0].naturalWidth", image) > 0 for image in shown)
    )
    assert all(image.is_displayed() for image in shown)
    _no_trouble(browser)


def test_the_strips_show_the_numbers_of_the_chosen_score(browser: Any) -> None:
    browser.find_element("css selector", "#score-choice button[title=rmsd]").click()
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#strips .strip.model .what')].map((cell) => cell.dataset.value)"
    )
    tile = browser.find_element("css selector", ".tile-value[data-score=rmsd]")
    assert shown == [tile.get_attribute("data-value")]
    _no_trouble(browser)
