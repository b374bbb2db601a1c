"""The page in headless Chromium: it scrolls, jumps, toggles, and shows the right pixels."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_ext.hospital.report.page import PageOptions, write_page
from tests.hospital.report.studies import LESION_HU, LUNG_HU, SIZE, SLICES, labels, write_study

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

READY = '#viewer[data-ready]:not([data-ready=""])'
LUNG_WINDOW, SOFT_WINDOW = (-600, 1500), (40, 400)
LESION_RGB = (255, 90, 40)
LARGE_ROW, LARGE_COLUMN, LARGE_SLICE = 15, 12, 3
STEP_OF_CODES_HU = 874 / 66  # the coarsest below soft tissue


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("page")
    file = folder / "report.html"
    write_page(file, write_study(folder / "scan"), PageOptions())
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(120_000)
        opened.requests = []
        opened.on("request", lambda request: opened.requests.append(request.url))
        opened.goto(file.as_uri())
        opened.wait_for_selector(READY)
        yield opened
        browser.close()


def shown(page: Any) -> int:
    page.wait_for_selector(READY)
    return int(page.locator("#viewer").get_attribute("data-ready"))


def picture(page: Any) -> np.ndarray:
    """Return what the canvas shows, (row, column, RGBA)."""
    page.wait_for_selector(READY)
    script = """() => {
        const canvas = document.getElementById("picture");
        const { width, height } = canvas;
        return Array.from(canvas.getContext("2d").getImageData(0, 0, width, height).data);
    }"""
    return np.array(page.evaluate(script), np.uint8).reshape(SIZE, SIZE, 4)


def grey_of(hu: float, window: tuple[int, int]) -> float:
    centre, width = window
    return float(np.clip(255 * (hu - centre + width / 2) / width, 0, 255))


def test_it_opens_on_the_largest_lesion_and_loads_nothing_else(page: Any) -> None:
    page.reload()
    assert shown(page) == LARGE_SLICE
    others = [url for url in page.requests if not url.startswith(("data:", "file:"))]
    assert others == [] and sum(url.startswith("file:") for url in page.requests) == 2


def test_every_pixel_is_that_of_the_slice_and_its_segments(page: Any) -> None:
    page.reload()
    mask = labels()[LARGE_SLICE]
    colours = picture(page).astype(float)
    grey = grey_of(LESION_HU, LUNG_WINDOW)
    inside = 0.7 * grey + 0.3 * np.array(LESION_RGB)
    np.testing.assert_allclose(colours[LARGE_ROW, LARGE_COLUMN, :3], inside, atol=2)
    np.testing.assert_allclose(colours[12, 10, :3], LESION_RGB, atol=1)  # the outline
    coloured = np.ptp(colours[..., :3], axis=-1) > 3
    np.testing.assert_array_equal(coloured, mask > 0)


def test_segments_are_switched_off_together_and_one_by_one(page: Any) -> None:
    page.reload()
    mask = labels()[LARGE_SLICE]
    page.uncheck("input.shown >> nth=0")
    coloured = np.ptp(picture(page)[..., :3].astype(int), axis=-1) > 3
    np.testing.assert_array_equal(coloured, mask == 2)

    page.focus("#viewer")
    page.keyboard.press("o")
    assert not page.is_checked("#overlay")
    plain = picture(page).astype(float)
    step = 255 * STEP_OF_CODES_HU / LUNG_WINDOW[1]
    assert plain[30, 30, 0] == pytest.approx(grey_of(LUNG_HU, LUNG_WINDOW), abs=step)
    assert np.ptp(plain[..., :3], axis=-1).max() == 0


def test_windows_change_what_is_bright(page: Any) -> None:
    page.reload()
    page.uncheck("#overlay")
    page.focus("#viewer")
    page.keyboard.press("2")
    assert page.input_value("#centre") == "40"
    lesion = picture(page)[LARGE_ROW, LARGE_COLUMN, 0]
    assert lesion == pytest.approx(grey_of(LESION_HU, SOFT_WINDOW), abs=2)
    assert picture(page)[30, 30, 0] == 0

    page.fill("#centre", str(LESION_HU))
    page.fill("#width", "10")
    assert page.input_value("#window") == "own"
    assert 100 < picture(page)[LARGE_ROW, LARGE_COLUMN, 0] < 160


def test_wheel_keys_slider_and_drag_scroll(page: Any) -> None:
    page.reload()
    page.focus("#viewer")
    page.keyboard.press("Home")
    assert shown(page) == 0
    page.keyboard.press("ArrowUp")
    assert shown(page) == 1
    page.keyboard.press("End")
    assert shown(page) == SLICES - 1
    page.keyboard.press("ArrowUp")
    assert shown(page) == SLICES - 1

    page.hover("#stage")
    page.mouse.wheel(0, 120)
    page.wait_for_selector(f'#viewer[data-ready="{SLICES - 4}"]')
    page.locator("#slice").fill("2")
    assert shown(page) == 1 and "Slice 2 of 12" in page.inner_text("#status")

    box = page.locator("#stage").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 8 * 4, middle[1], steps=4)
    page.mouse.up()
    assert shown(page) == 5


def test_lesions_are_jumped_to_and_marked(page: Any) -> None:
    page.reload()
    page.click("button.jump >> nth=1")
    assert shown(page) == 8
    stage = page.locator("#stage").bounding_box()
    mark = page.locator("#mark").bounding_box()
    column = (mark["x"] + mark["width"] / 2 - stage["x"]) / stage["width"] * SIZE
    row = (mark["y"] + mark["height"] / 2 - stage["y"]) / stage["height"] * SIZE
    assert (row, column) == (pytest.approx(30.5, abs=0.5), pytest.approx(33.5, abs=0.5))

    page.focus("#viewer")
    page.keyboard.press("n")
    assert shown(page) == LARGE_SLICE
    page.keyboard.press("PageUp")
    assert shown(page) != LARGE_SLICE  # which waits until it is drawn
    assert page.locator("#mark").is_hidden()


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.reload()
    page.wait_for_selector(READY)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1200, "height": 900})


@pytest.mark.parametrize("width_px", [360, 1200])
def test_no_fault_of_accessibility_is_found(page: Any, width_px: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width_px, "height": 900})
    page.reload()
    page.click("button.jump >> nth=0")
    page.wait_for_selector(READY)
    found = axe.Axe().run(page).response["violations"]
    assert [(fault["id"], fault["impact"]) for fault in found] == []
