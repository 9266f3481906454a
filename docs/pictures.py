"""Takes the screenshots of the documentation: report and explorer of the bundled sample, in the browser of the tests.

Run by hand when a page looks different: `python docs/pictures.py`. It needs the extras `dev` and `umap`, and Debian's
chromium or another one.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from data_pipeline.config.load import load_config, preset_path
from data_pipeline.execution.run import run_pipeline
from data_pipeline.report.explorer.explorer import open_explorer
from data_pipeline.report.make import write_report

IMAGES = Path(__file__).parent / "images"
_WIDTH, _WIDE, _HEIGHT = 1100, 1440, 820


def take(page: Page, report: Path) -> None:
    """Take the map of a report, with a row and its nearest rows."""
    page.goto(report.as_uri())
    page.wait_for_selector("[data-map] .plot-map .main-svg", state="attached")
    page.locator("#map").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('map').scrollIntoView()")
    page.select_option("[data-role=projection]", label="UMAP")
    page.select_option("[data-role=color]", label="subject")
    page.fill("[data-role=search]", "honey")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-role=row] ol button")
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(1000)
    page.screenshot(path=IMAGES / "report.png")


def take_explorer(page: Page, url: str) -> None:
    """Take the explorer with the results of a search, coloured by subject."""
    page.set_viewport_size({"width": _WIDE, "height": _HEIGHT})
    page.goto(url)
    page.get_by_text("222 points", exact=True).first.wait_for()
    page.get_by_title("Show / hide table").click()
    page.get_by_text("split (VARCHAR)").locator("xpath=ancestor-or-self::select").first.select_option(
        label="subject (VARCHAR)"
    )
    page.get_by_role("button", name="Search").click()
    page.get_by_role("searchbox").fill("honey")
    page.keyboard.press("Enter")
    page.get_by_text(" results.").wait_for()
    page.wait_for_timeout(4000)
    page.screenshot(path=IMAGES / "explorer.png")
    picture = Image.open(IMAGES / "explorer.png").quantize(256, Image.Quantize.MAXCOVERAGE)  # a third of the bytes
    picture.save(IMAGES / "explorer.png", optimize=True)


def main() -> None:
    """Make the dataset of the sample, its report, and the pictures."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.chdir(folder)  # so that pages show no path of this machine
        values = {"data_dir": "data", "corpus.source": "sample", "corpus.name": "sample"}
        config = load_config(preset_path("offline"), values)
        run_pipeline(config)
        report = write_report(config, umap=True)
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=browser_path, args=options)
        take(browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}), report.path.resolve())
        browser.close()
        # Later, since its options are for a map that is drawn by WebGPU.
        sys.path.insert(0, str(IMAGES.parents[1] / "Data_Preparation" / "tests"))
        from support.browser import launch
        from support.explorer_server import served

        browser = launch(playwright)
        with served(open_explorer(config, projection="umap")) as url:
            take_explorer(browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}), url)
            browser.close()


if __name__ == "__main__":
    main()
