"""Ids of queries and passages: which ones are accepted, and how files in TREC's formats spell them.

TREC's files (qrels, runs) separate their columns by white space, so an id such as `annual report, 1` cannot stand in
them. Such an id is percent-encoded there: white space and `%` become `%20`, `%25` and so on (RFC 3986). Every other id,
and every other kind of file, keeps its ids as they are. Control characters are refused, since they break lines and
columns everywhere (see `user_files.check_id`).
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from urllib.parse import quote, unquote

from data_pipeline.errors import SourceError

REFUSED = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{feff}]"
"""Characters that no id may have, as an expression of RE2: control characters, line ends, the byte-order mark."""
WHITE_SPACE = r"\p{Zs}"
"""White space that an id may have, as an expression of RE2."""

_WHITE_SPACE = re.compile(r"\s")
_ENCODED = re.compile(r"[\s%]")
_MOST_SHOWN = 80


def has_white_space(identity: str) -> bool:
    """Whether files in TREC's formats cannot hold an id as it is."""
    return _WHITE_SPACE.search(identity) is not None


def to_trec(identity: str) -> str:
    """An id as files in TREC's formats spell it: percent-encoded if it has white space, else as it is."""
    return _ENCODED.sub(lambda found: quote(found[0], safe=""), identity) if has_white_space(identity) else identity


def from_trec(spelling: str) -> str | None:
    """The id with white space that `to_trec` spells like this; None if there is none."""
    if "%" not in spelling:
        return None
    try:
        decoded = unquote(spelling, errors="strict")
    except UnicodeDecodeError:
        return None
    return decoded if has_white_space(decoded) and to_trec(decoded) == spelling else None


def resolve(spellings: Iterable[str], known: Callable[[Sequence[str]], Collection[str]]) -> Mapping[str, str]:
    """Known ids by the spelling that a file has for them; spellings that stand for no known id are left out.

    Args:
        spellings: ids as a file has them, encoded or not.
        known: ids -> those of them that are known.
    """
    wanted = list(dict.fromkeys(spellings))
    found = {identity: identity for identity in known(wanted)}
    decoded = {spelling: from_trec(spelling) for spelling in wanted if spelling not in found}
    candidates = {spelling: identity for spelling, identity in decoded.items() if identity is not None}
    there = set(known(list(candidates.values())))
    return found | {spelling: identity for spelling, identity in candidates.items() if identity in there}


def refuse_same_spelling(
    ids: Iterable[str], known: Callable[[Sequence[str]], Collection[str]], what: str, where: str
) -> None:
    """Make sure that TREC's formats spell no two ids alike.

    Args:
        ids: those that have white space.
        known: ids -> those of them that exist.
        what: `passage` or `query`, for the message.
        where: the source of the ids, for the message.

    Raises:
        SourceError: two ids would be written the same way.
    """
    spelled = {to_trec(identity): identity for identity in ids}
    for spelling in known(list(spelled)):
        raise SourceError(
            f"{where}: the {what} ids {spelled[spelling][:_MOST_SHOWN]!r} and {spelling[:_MOST_SHOWN]!r} would be "
            "written the same way in TREC's formats, where white space is percent-encoded; rename one of them"
        )
