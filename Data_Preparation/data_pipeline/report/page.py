"""Pages: blocks turned to one HTML file that needs nothing else, by Jinja2 with autoescape."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from data_pipeline.report.blocks import Section
from data_pipeline.utils.extras import require

_EXTRA, _WHY = "report", "the HTML report"
# What would end the script element, or a line of JavaScript, in a text of the data.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_NO_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127, *range(128, 160)), "\ufffd")


def check_report_extra() -> None:
    """Check that pages can be made.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    require("jinja2", _EXTRA, _WHY)
    require("plotly", _EXTRA, _WHY)


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render a page.

    Scripts run only if their hash is in the content security policy of the page, which forbids every request, so a text
    of the data can neither run nor load anything.

    Args:
        title: title of the page.
        subtitle: line below it.
        sections: sections of the page, in order.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    check_report_extra()
    jinja2, markupsafe = require("jinja2", _EXTRA, _WHY), require("markupsafe", _EXTRA, _WHY)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_pipeline.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["json"] = lambda value: markupsafe.Markup(json_in_html(value))
    scripts = [require("plotly.offline", _EXTRA, _WHY).get_plotlyjs(), _static("report.js")]
    return str(
        environment.get_template("page.html.jinja").render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            scripts=[markupsafe.Markup(script) for script in scripts],
            style=markupsafe.Markup(_static("report.css")),
            policy=_policy(scripts),
            made_by=f"elm-data-preparation {version('elm-data-preparation')}",
        )
    )


def json_in_html(value: Any) -> str:
    """Return a value as JSON that may stand in a script element: no text can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "replace").decode()


def _printable(value: Any) -> Any:
    """Replace control characters, some of which HTML does not allow; autoescape does the rest."""
    return value.translate(_NO_CONTROLS) if type(value) is str else value


def _policy(scripts: Sequence[str]) -> str:
    """Content security policy: these scripts alone, styles in the page, and no request at all.

    Plotly draws on WebGL with code that it compiles as it runs, and it sets styles of elements.
    """
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _static(name: str) -> str:
    return (files("data_pipeline.report") / "static" / name).read_text(encoding="utf-8")
