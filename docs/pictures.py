"""Takes the screenshots of the documentation: the report of the bundled sample, in the browser that the tests use.

Run by hand when a page looks different: `python docs/pictures.py`. It needs the extras `dev` and `umap`, and Debian's
chromium or another one.
"""

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from data_pipeline.config.load import load_config, preset_path
from data_pipeline.execution.run import run_pipeline
from data_pipeline.report.make import write_report

IMAGES = Path(__file__).parent / "images"
_WIDTH, _HEIGHT = 1100, 820


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


if __name__ == "__main__":
    main()
