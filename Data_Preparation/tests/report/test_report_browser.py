"""The report in a real browser: with mouse and keyboard, in the dark, on a phone, and with hostile texts."""

import pytest
from support.browser import PHONE_HEIGHT, PHONE_WIDTH, open_page
from support.builders import made
from support.hostile import SETTINGS, SUBJECTS, TEXTS, write_corpus

from data_pipeline.config.load import load_config
from data_pipeline.report.comparison import write_comparison
from data_pipeline.report.make import write_report
from data_pipeline.stages.pipeline import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(config):
    return write_report(config).path


@pytest.fixture(scope="module")
def hostile_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    write_corpus(folder / "corpus.jsonl")
    values = {"data_dir": str(folder / "data"), "corpus.path": [str(folder / "corpus.jsonl")], **SETTINGS}
    config = load_config(None, values)
    run(config)
    return config


@pytest.fixture
def opened(browser, report):
    with open_page(browser) as watched:
        watched.page.goto(report.as_uri())
        watched.page.wait_for_selector("[data-map] .plot-map .main-svg", state="attached")
        yield watched
        watched.check()


def draw_everything(page):
    """Scroll through the page, so that every figure is drawn."""
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    for figure in page.locator(".plot").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for(state="attached")


def test_every_figure_is_drawn_without_an_error_or_a_request(opened, report):
    draw_everything(opened.page)
    assert opened.page.locator(".plot .main-svg").count() >= 6
    assert opened.requests == [report.as_uri()]


def test_a_search_finds_rows_and_a_choice_shows_the_nearest(opened):
    page = opened.page
    page.fill("[data-role=search]", "honey")
    page.wait_for_function("document.querySelector('[data-role=count]').textContent.includes('found')")
    hits = page.locator("[data-role=found] button")
    assert hits.count() > 0
    assert "honey" in page.locator("[data-role=found]").inner_text().lower()
    page.keyboard.press("Enter")  # by keyboard alone, the first hit
    page.wait_for_selector("[data-role=row] ol button")
    assert "honey" in page.locator("[data-role=row] .text").inner_text().lower()
    assert page.locator("[data-role=row] ol button").count() == 10
    nearest = page.locator("[data-role=row] ol button").first.inner_text()
    page.locator("[data-role=row] ol button").first.click()
    assert page.locator("[data-role=row] .id").inner_text() in nearest
    page.fill("[data-role=search]", "no text has these words")
    page.wait_for_function("document.querySelector('[data-role=count]').textContent === '0 rows found'")


def test_pointing_at_a_row_shows_its_text_and_a_click_chooses_it(opened):
    page = opened.page
    place = page.evaluate(
        """() => {
            const plot = document.querySelector('.plot-map'), trace = plot.data[0], layout = plot._fullLayout;
            plot.scrollIntoView({block: 'center'});
            const box = plot.getBoundingClientRect();
            return {x: box.left + layout.xaxis._offset + layout.xaxis.c2p(trace.x[0]),
                    y: box.top + layout.yaxis._offset + layout.yaxis.c2p(trace.y[0]), row: trace.customdata[0]};
        }"""
    )
    page.mouse.move(place["x"] - 3, place["y"])
    page.mouse.move(place["x"], place["y"])
    page.wait_for_selector(".tip:not([hidden])")
    shown = page.locator(".tip").inner_text()
    page.mouse.click(place["x"], place["y"])
    page.wait_for_selector("[data-role=row] ol button")
    assert shown.startswith(page.locator("[data-role=row] .id").inner_text())
    assert shown.split("\n", 1)[1][:60] in page.locator("[data-role=row] .text").inner_text()


def test_colours_switch_to_groups_and_numbers(opened):
    page = opened.page
    traces = "document.querySelector('.plot-map').data.filter((trace) => trace.showlegend !== false).length"
    assert page.evaluate(traces) == 3  # the splits
    page.select_option("[data-role=color]", label="subject")
    assert page.evaluate(traces) == 12
    page.select_option("[data-role=color]", label="token_count")
    assert page.evaluate("document.querySelector('.plot-map').data[1].marker.showscale") is True
    page.select_option("[data-role=color]", label="cluster")
    assert page.evaluate(traces) > 1


def test_dark_is_the_system_s_choice_and_the_reader_s(browser, report, opened):
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(background)
    opened.page.click("#theme")
    assert opened.page.evaluate(background) != light
    assert opened.page.get_attribute("#theme", "aria-pressed") == "true"
    with open_page(browser, dark=True) as dark:
        dark.page.goto(report.as_uri())
        assert dark.page.evaluate(background) == opened.page.evaluate(background)
        text = dark.page.evaluate("getComputedStyle(document.body).color")
        draw_everything(dark.page)
        assert dark.page.evaluate("document.querySelector('.plot').layout.font.color") in {"#e6e9ee", text}
        dark.check()


def test_nothing_is_wider_than_a_phone(browser, report):
    with open_page(browser, width=PHONE_WIDTH, height=PHONE_HEIGHT) as phone:
        phone.page.goto(report.as_uri())
        draw_everything(phone.page)
        assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE_WIDTH
        phone.check()


def test_the_keyboard_reaches_every_control(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen, wanted = set(), {"theme", "#map", "color", "projection", "search"}
    while not wanted <= seen:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.matches(':focus-visible')")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.dataset.role || document.activeElement.hash"
            )
        )


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault_of_accessibility(browser, config, report, dark, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra dev)")
    comparison = write_comparison((config, config), ("one", "other"), tmp_path / "comparison.html").path
    for path in (report, comparison):
        with open_page(browser, dark=dark) as watched:
            watched.page.goto(path.as_uri())
            draw_everything(watched.page)
            found = axe.Axe().run(watched.page).response["violations"]
            serious = [one for one in found if one["impact"] in {"serious", "critical"}]
            assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []
            watched.check()


def test_a_hostile_corpus_changes_nothing_but_the_text_shown(browser, hostile_config, tmp_path):
    report = write_report(hostile_config).path
    comparison = write_comparison((hostile_config, hostile_config), ("<i>a</i>", "{{b}}"), tmp_path / "comparison.html")
    for path in (report, comparison.path):
        with open_page(browser) as watched:
            page = watched.page
            page.goto(path.as_uri())
            draw_everything(page)
            assert page.evaluate("window.hacked") is None
            assert (
                page.evaluate(
                    "document.querySelectorAll('main img, main svg[onload], main link, main a[href^=java]').length"
                )
                == 0
            )
            assert watched.requests == [path.as_uri()]
            watched.check()


def test_hostile_texts_and_names_are_shown_as_they_are(browser, hostile_config):
    with open_page(browser) as watched:
        page = watched.page
        page.goto(write_report(hostile_config).path.as_uri())
        for text in TEXTS:
            words = text.split("\x00")[0][:60]
            page.fill("[data-role=search]", words)
            page.wait_for_function("/^4 rows found/.test(document.querySelector('[data-role=count]').textContent)")
            page.locator("[data-role=found] button").first.click()
            assert page.locator("[data-role=row] .text").text_content().startswith(words)
            page.fill("[data-role=search]", "")
            page.wait_for_function("document.querySelector('[data-role=count]').textContent === ''")
        page.select_option("[data-role=color]", label="subject")
        legend = page.locator(".plot-map .legendtext").all_text_contents()
        assert sorted(legend) == sorted(SUBJECTS)
        page.fill("[data-role=search]", "\u202e")
        page.wait_for_function("/^4 rows/.test(document.querySelector('[data-role=count]').textContent)")
        assert page.evaluate("window.hacked") is None
        watched.check()
