"""The explorer in a real browser: with mouse and keyboard, in the dark, exported, and with hostile texts."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from support.browser import open_page, painted_share
from support.builders import made
from support.explorer_server import served
from support.hostile import SETTINGS, TEXTS, write_corpus

pytest.importorskip("embedding_atlas", reason="needs the extra explore")

from data_pipeline import ELMDataset
from data_pipeline.cli import main
from data_pipeline.config.load import load_config
from data_pipeline.report.explorer.database import TEXT_CHARACTERS
from data_pipeline.report.explorer.explorer import open_explorer
from data_pipeline.report.explorer.nearest import nearest_rows
from data_pipeline.report.explorer.server import HOST
from data_pipeline.selection import Budget
from data_pipeline.stages.pipeline import run
from data_pipeline.stages.select import select_subset

pytestmark = pytest.mark.slow
LEAST_PAINTED = 0.0005  # of the map; dozens of points that lie on each other take no more


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    config = made(tmp_path_factory.mktemp("explorer"))
    select_subset(config, "random", Budget(rows=30), seed=0)
    explorer = open_explorer(config)
    with served(explorer) as url:
        yield explorer, url


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_corpus(folder / "corpus.jsonl")
    config = load_config(
        None, {"data_dir": str(folder / "data"), "corpus.path": [str(folder / "corpus.jsonl")], **SETTINGS}
    )
    run(config)
    explorer = open_explorer(config)
    with served(explorer) as url:
        yield explorer, url


def wait_for_points(page, url, rows):
    """Open the page, and wait until all points are drawn and labelled."""
    page.goto(url)
    page.get_by_text(f"{rows:,} points", exact=True).first.wait_for()
    for _ in range(600):
        if painted_share(page) > LEAST_PAINTED and page.get_by_text("Generating labels").count() == 0:
            return
        page.wait_for_timeout(100)
    pytest.fail("no points were drawn in time")


@pytest.fixture(scope="module")
def opened(browser, sample):
    """The page of the sample, which the tests of this file use one after the other."""
    explorer, url = sample
    with open_page(browser, downloads=True) as watched:
        wait_for_points(watched.page, url, len(explorer.contents))
        yield watched


def test_points_rows_and_charts_are_shown(opened, sample):
    page = opened.page
    assert painted_share(page) > LEAST_PAINTED
    assert page.title() == "sample - Embedding Atlas"
    first = sample[0].contents.table().slice(0, 1).to_pylist()[0]
    assert page.get_by_text(first["text_id"], exact=True).count() == 1
    assert page.get_by_text(first["text"][:60]).count() >= 1
    for name in ("token_count", "subject", "subset random_n30_seed0"):
        assert page.get_by_text(name, exact=True).count() >= 1
    assert page.get_by_text("train", exact=True).count() >= 1  # the legend of colours
    opened.check()


def test_a_search_finds_the_texts(opened, sample):
    page = opened.page
    page.get_by_role("button", name="Search").click()
    page.get_by_role("searchbox").fill("jupiter")
    page.keyboard.press("Enter")
    texts = sample[0].contents.table()["text"].to_pylist()
    count = sum("jupiter" in text.lower() for text in texts)
    page.get_by_text(f"{count} results.").wait_for()
    page.get_by_text("saturn-").first.wait_for()
    opened.check()


def test_a_point_shows_our_text_and_our_neighbours(opened, sample):
    page, contents = opened.page, sample[0].contents
    page.get_by_role("searchbox").fill("Saturn sixth planet")
    page.keyboard.press("Enter")
    texts = contents.table()["text"].to_pylist()
    row = next(number for number, text in enumerate(texts) if text.startswith("Saturn is the sixth"))
    result = page.get_by_text(texts[row]).first
    result.wait_for()
    result.click()
    button = page.get_by_text("Nearest Neighbors").first
    button.wait_for(state="attached")
    button.evaluate("(button) => button.click()")
    page.get_by_text(f"Neighbors of #{row}").wait_for()
    page.get_by_text("10 results.").wait_for()
    nearest = nearest_rows(contents, row)
    distance = f"{nearest.distances[0]:.5f}".rstrip("0")
    assert page.get_by_text(distance).count() >= 1
    assert page.get_by_text(texts[nearest.rows[0]][:80]).count() >= 1
    opened.check()


def test_a_selection_comes_back_as_a_subset(opened, sample, tmp_path, clean_logging):
    page, explorer = opened.page, sample[0]
    page.locator("button[title=astronomy]").click()  # its bar in the chart of subjects
    page.locator("button[title=train]").click()
    rows = explorer.contents.table().to_pylist()
    expected = [row["text_id"] for row in rows if (row["subject"], row["split"]) == ("astronomy", "train")]
    page.get_by_text(f"{len(expected)} / {len(rows)} points").wait_for()
    page.get_by_title("Export Selection").first.click()
    with page.expect_download() as download:
        page.get_by_title("Export the selected points").click()
    download.value.save_as(tmp_path / "selection.parquet")
    assert pl.read_parquet(tmp_path / "selection.parquet")["text_id"].to_list() == expected
    opened.check()
    data_dir = explorer.cache.folder.parent
    assert main(["select", "--ids", str(tmp_path / "selection.parquet"), "--output-dir", str(data_dir)]) == 0
    (subset,) = (path.name for path in (data_dir / "selections").iterdir() if path.name.startswith("ids_"))
    dataset = ELMDataset(data_dir, subset=subset)
    assert [row["metadata"]["text_id"] for row in dataset] == expected


def test_a_search_of_too_many_rows_says_what_to_do(browser, sample, monkeypatch):
    explorer, url = sample
    monkeypatch.setattr("data_pipeline.report.explorer.database.MAX_SEARCHED_ROWS", 100)
    with open_page(browser) as watched:
        page = watched.page
        wait_for_points(page, url, len(explorer.contents))
        page.get_by_role("button", name="Search").click()
        page.get_by_role("searchbox").fill("saturn")
        page.keyboard.press("Enter")
        page.get_by_text("No result found.").wait_for()
        (said,) = watched.errors
        assert "rows are too many for a search by words, which takes at most 100" in said
        page.locator("button[title=astronomy]").click()
        page.get_by_role("searchbox").fill("saturn ")
        page.keyboard.press("Enter")
        page.get_by_text("Saturn is the sixth").first.wait_for()
        assert len(watched.errors) == 1


def test_a_processor_draws_fewer_points_and_the_page_says_so(browser, sample):
    """The browser of the tests draws by the processor; elsewhere nothing is changed."""
    explorer, url = sample

    def with_lower_limit(route):
        script = route.fetch().text()
        assert "MAX_DRAWN = 100_000" in script
        route.fulfill(body=script.replace("MAX_DRAWN = 100_000", "MAX_DRAWN = 50"), content_type="text/javascript")

    with open_page(browser) as watched:
        wait_for_points(watched.page, url, len(explorer.contents))
        everything = painted_share(watched.page)
        assert watched.page.locator("#elm-note").count() == 0
        watched.page.route("**/full_precision.js", with_lower_limit)
        watched.page.goto("about:blank")
        wait_for_points(watched.page, url, len(explorer.contents))
        steps = -(-len(explorer.contents) // 50)
        assert f"draws one of {steps} points" in watched.page.locator("#elm-note").inner_text()
        assert painted_share(watched.page) < 0.6 * everything
        watched.check()


def test_it_is_dark_where_the_system_is(browser, sample):
    explorer, url = sample
    with open_page(browser, dark=True) as watched:
        wait_for_points(watched.page, url, len(explorer.contents))
        background = "(element) => getComputedStyle(element).backgroundColor"
        assert watched.page.locator(".dark").count() >= 1
        assert watched.page.locator(".dark").first.evaluate(background) != "rgb(255, 255, 255)"
        watched.check()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_the_exported_application_needs_any_static_server_and_no_other(browser, sample, tmp_path):
    explorer, _ = sample
    explorer.export(tmp_path / "app", with_neighbors=True)
    server = ThreadingHTTPServer((HOST, 0), functools.partial(Quiet, directory=tmp_path / "app"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with open_page(browser) as watched:
            wait_for_points(watched.page, f"http://{HOST}:{server.server_port}/", len(explorer.contents))
            assert watched.page.get_by_text("saturn-").count() >= 1
            watched.check()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_hostile_texts_change_nothing_but_the_text_shown(browser, hostile):
    explorer, url = hostile
    with open_page(browser) as watched:
        page = watched.page
        wait_for_points(page, url, len(explorer.contents))
        page.get_by_role("button", name="Search").click()
        for words in ("script", "picture", "template", "request", "long", "null", "emoji", "quotes"):
            page.get_by_role("searchbox").fill(words)
            page.keyboard.press("Enter")
            page.get_by_text(" results.").wait_for()
            page.wait_for_timeout(200)
        page.get_by_role("searchbox").fill("fails to load")
        page.keyboard.press("Enter")
        page.get_by_text(TEXTS[1]).first.wait_for()
        assert page.evaluate("window.hacked") is None
        assert page.locator("img[src=x], svg[onload], iframe, a[href^='javascript:']").count() == 0
        page.get_by_role("searchbox").fill("long")
        page.keyboard.press("Enter")
        page.get_by_text(f"cut: {TEXT_CHARACTERS} of 1000").first.wait_for()
        watched.check()
