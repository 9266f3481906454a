"""A corpus whose texts, titles and names attack the page that shows them."""

import json

TEXTS = (
    "<script>window.hacked = 1</script> a paragraph with a script in it",
    '<img src=x onerror="window.hacked = 2"> a picture that fails to load',
    "</script><script>window.hacked = 3</script> the end of the script that holds the data",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} #{7 * 7} <%= 7 * 7 %> braces of five languages of templates",
    "\"><svg onload=window.hacked=4> ' onmouseover='window.hacked=5 quotes that end an attribute",
    "<!-- <![CDATA[ a comment that is never closed &lt;b&gt; &amp;amp; &#60;i&#62;",
    "\u202eright to left\u202c עברית العربية \u200bzero\u200dwidth\ufeff and \u2028 line separators \u2029",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 and flags 🇩🇪 and combining Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢",
    "a null \x00 and an escape \x1b[31m and a bell \x07 and a delete \x7f",
    "javascript:window.hacked=6 <a href='javascript:window.hacked=7'>a link</a> %{text} $\\LaTeX$",
    "long " * 200_000,
    "https://example.com/pixel.gif <link rel=stylesheet href=https://example.com/a.css> a request",
)
"""Texts of the corpus; a page shows each as it is, but for characters that HTML cannot hold."""
SUBJECTS = ("<b>bold</b>", "<script>window.hacked = 8</script>", "{{ constructor }}", "a & b")
"""Values of a metadata column, which become groups of colours."""


def write_corpus(path, copies=4):
    """Write the texts as JSON Lines, each several times with a word of its own, so that none is a duplicate."""
    with path.open("w") as file:
        for number in range(copies * len(TEXTS)):
            text, subject = TEXTS[number % len(TEXTS)], SUBJECTS[number % len(SUBJECTS)]
            record = {"id": f"{number}<i>&'\"", "text": f"{text} copy {number} {'w' * number}", "subject": subject}
            file.write(json.dumps(record) + "\n")


SETTINGS = {
    "corpus.source": "jsonl", "corpus.name": "hostile", "corpus.id_field": "id",
    "corpus.metadata_fields": {"subject": "str"}, "embedding.model_name": "hashing", "preprocess.unit": "document",
    "preprocess.min_tokens": 1, "preprocess.max_tokens": 10**7, "preprocess.min_chars": 0, "preprocess.clean": "raw",
    "preprocess.max_punctuation_share": 1, "preprocess.max_digit_share": 1, "preprocess.near_dedup": False,
    "split.method": "paragraph",
}  # fmt: skip
"""Settings that keep the texts."""
