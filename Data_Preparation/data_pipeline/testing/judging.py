"""Simulated judgements, which are deterministic."""

import re
from hashlib import blake2b


def simulated_grade(query: str, passage: str) -> int:
    """Grade from 0 to 3 by how many words of the query the passage contains: none, some, most or all."""
    query_words, passage_words = (set(re.findall(r"\w+", text.casefold())) for text in (query, passage))
    share = len(query_words & passage_words) / max(1, len(query_words))
    return 3 if share == 1 else 2 if share >= 0.5 else 1 if share > 0 else 0


def simulated_answer(system: str, user: str) -> str:
    """Label of a prompt by its hash: YES or NO if the system prompt has the word YES, else a grade from 0 to 3."""
    digest = blake2b(user.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]
    return ("NO", "YES")[digest % 2] if "YES" in system else str(digest % 4)
