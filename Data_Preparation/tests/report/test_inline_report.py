"""Reports shown inside a notebook: in a real browser, in a page like that of a notebook server."""

from dataclasses import replace

import pytest
from support.browser import open_page
from support.builders import made

from data_pipeline import write_report
from data_pipeline.report.inline import MAX_INLINE_BYTES, inline_frame

MAP = "[data-map] .plot-map .main-svg"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(made(tmp_path_factory.mktemp("inline")))


@pytest.fixture(scope="module")
def notebook(browser, report, tmp_path_factory):
    """A page that shows the report as a notebook does, and the frame in it, with its map drawn."""
    page = tmp_path_factory.mktemp("notebook") / "notebook.html"
    page.write_text(f"<!doctype html><title>notebook</title><h1 id=map>A cell</h1>{report._repr_html_()}")
    with open_page(browser) as watched:
        watched.page.goto(page.as_uri())
        frame = watched.page.frames[1]
        frame.wait_for_selector(MAP, state="attached")
        yield watched, frame


def check(watched):
    """No error, and no request but the one for the notebook."""
    watched.check()
    assert watched.requests == [watched.page.url]


@pytest.mark.slow
def test_the_page_in_the_frame_draws_its_map_and_searches(notebook):
    watched, frame = notebook
    assert frame.evaluate("document.querySelector('.plot-map').data.length") >= 3
    frame.fill("[data-role=search]", "honey")
    frame.wait_for_function("document.querySelector('[data-role=count]').textContent.includes('found')")
    frame.locator("[data-role=found] button").first.click()
    frame.wait_for_selector("[data-role=row] ol button")
    assert "honey" in frame.locator("[data-role=row] .text").inner_text().lower()
    check(watched)


@pytest.mark.slow
def test_links_move_within_the_frame_and_leave_the_notebook_alone(notebook):
    watched, frame = notebook
    address = watched.page.url
    for name in ("map", "vectors"):
        frame.click(f"nav a[href='#{name}']")
        frame.wait_for_function(f"document.activeElement.id === '{name}'")
        top = frame.evaluate(f"document.getElementById('{name}').getBoundingClientRect().top")
        assert 0 <= top < 300  # below the header, which stays
    assert frame.url == "about:srcdoc"
    assert watched.page.url == address
    check(watched)


@pytest.mark.slow
def test_the_frame_is_closed_off_from_the_notebook(notebook):
    watched, frame = notebook
    assert frame.evaluate("window.origin") == "null"
    assert frame.evaluate("try { window.parent.document.title } catch (error) { error.name }") == "SecurityError"
    assert watched.page.locator("iframe").get_attribute("title") == "report.html"
    assert watched.page.locator("iframe").get_attribute("sandbox") == "allow-scripts"


def test_a_page_cannot_leave_its_frame():
    shown = inline_frame('<p title="a">\'</iframe><script>hacked()</script>', '"><script>')
    assert shown.count("<") == 2  # the frame and its end
    assert "hacked()" in shown


def test_a_page_that_is_gone_or_too_large_is_named_instead(report):
    large = replace(report, bytes=MAX_INLINE_BYTES + 1)._repr_html_()
    gone = replace(report, path=report.path.with_name("<gone>.html"))._repr_html_()
    for shown, reason in ((large, "larger than the 16.0 MB"), (gone, "No such file")):
        assert "<iframe" not in shown
        assert reason in shown
    assert "&lt;gone&gt;.html" in gone
