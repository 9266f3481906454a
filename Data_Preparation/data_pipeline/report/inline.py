"""Pages shown in a notebook, each in a frame that holds the whole page and is closed off from the notebook."""

import html

HEIGHT_PX = 760
"""Height of the frame."""
MAX_INLINE_BYTES = 16_000_000
"""Largest page that is shown: it becomes a part of the notebook's own file, which is loaded and saved as a whole."""


def inline_frame(page: str, title: str) -> str:
    """Return HTML that shows a page in a frame.

    The frame has an origin of its own: scripts of the page run, and reach neither the notebook nor its server, nor open
    windows. The content security policy of the page holds as well.

    Args:
        page: HTML of the page, which must need no other file.
        title: title of the frame for screen readers, as plain text.
    """
    return (
        f'<iframe title="{html.escape(title)}" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width: 100%; height: {HEIGHT_PX}px; border: 1px solid #8888"></iframe>'
    )
