"""What the tests of pages share."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.browser import open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser for the tests of a file; they are skipped where there is none."""
    with open_browser() as opened:
        yield opened
