"""Simulated grades, the same for the same texts."""

import re
from hashlib import blake2b


def simulated_grade(query: str, passage: str) -> int:
    """A grade from 0 to 3 by how many of the query's words the passage has: none, some, most, all."""
    words, there = (set(re.findall(r"\w+", text.casefold())) for text in (query, passage))
    share = len(words & there) / max(1, len(words))
    return 3 if share == 1 else 2 if share >= 0.5 else 1 if share > 0 else 0


def simulated_answer(system: str, user: str) -> str:
    """A label for a prompt, by its hash: YES or NO where the system prompt has those words, else a digit."""
    digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]
    return ("NO", "YES")[digest % 2] if "YES" in system else str(digest % 4)
