"""Ids of queries and passages: which ids are accepted, and how files in TREC's formats spell them.

TREC's files (qrels, runs) separate their columns by white space, so they cannot hold an id such as `annual report, 1`.
Such an id is percent-encoded there: white space and `%` become `%20`, `%25` and so on (RFC 3986). Every other id
stays as it is, as do all ids in files of other formats. Control characters are refused, since they break lines and
columns everywhere (see `user_files.check_id`).
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from urllib.parse import quote, unquote

from data_pipeline.errors import SourceError

REFUSED = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}\x{feff}]"
"""RE2 pattern of the characters that no id may have: control characters, line ends, the byte-order mark."""
WHITE_SPACE = r"\p{Zs}"
"""RE2 pattern of the white space that an id may have."""

_WHITE_SPACE = re.compile(r"\s")
_ENCODED = re.compile(r"[\s%]")
_MAX_QUOTED_CHARS = 80


def has_white_space(identity: str) -> bool:
    """Whether an id has white space, so that files in TREC's formats cannot hold it as it is."""
    return _WHITE_SPACE.search(identity) is not None


def to_trec(identity: str) -> str:
    """Spell an id for files in TREC's formats: percent-encoded if it has white space, else as it is."""
    return _ENCODED.sub(lambda match: quote(match[0], safe=""), identity) if has_white_space(identity) else identity


def from_trec(spelling: str) -> str | None:
    """Decode the id with white space that `to_trec` spells like this; None if there is none."""
    if "%" not in spelling:
        return None
    try:
        decoded = unquote(spelling, errors="strict")
    except UnicodeDecodeError:
        return None
    return decoded if has_white_space(decoded) and to_trec(decoded) == spelling else None


def resolve(spellings: Iterable[str], select_existing: Callable[[Sequence[str]], Collection[str]]) -> Mapping[str, str]:
    """Map the spellings of ids in a file to existing ids; spellings of no existing id are left out.

    Args:
        spellings: ids as the file spells them, percent-encoded or not.
        select_existing: ids -> those of them that exist.
    """
    unique = list(dict.fromkeys(spellings))
    exact = {identity: identity for identity in select_existing(unique)}
    decoded = {spelling: from_trec(spelling) for spelling in unique if spelling not in exact}
    candidates = {spelling: identity for spelling, identity in decoded.items() if identity is not None}
    existing = set(select_existing(list(candidates.values())))
    return exact | {spelling: identity for spelling, identity in candidates.items() if identity in existing}


def refuse_same_spelling(
    ids: Iterable[str], select_existing: Callable[[Sequence[str]], Collection[str]], what: str, where: str
) -> None:
    """Make sure that TREC's formats spell no two ids alike.

    Args:
        ids: ids that have white space.
        select_existing: ids -> those of them that exist.
        what: `passage` or `query`, for the message.
        where: the source of the ids, for the message.

    Raises:
        SourceError: two ids would be written the same way.
    """
    by_spelling = {to_trec(identity): identity for identity in ids}
    for spelling in select_existing(list(by_spelling)):
        first, second = (identity[:_MAX_QUOTED_CHARS] for identity in (by_spelling[spelling], spelling))
        raise SourceError(
            f"{where}: the {what} ids {first!r} and {second!r} would be "
            "written the same way in TREC's formats, where white space is percent-encoded; rename one of them"
        )
