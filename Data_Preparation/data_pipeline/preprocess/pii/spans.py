"""Spans of personal data in a line of text, by kind. The spans are never logged or written, only counted."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipeline.utils.extras import require


class PersonalSpan(NamedTuple):
    """Personal data in a line."""

    start: int
    """First character."""
    end: int
    """Character behind the last one."""
    kind: str
    """Kind, such as `email`."""


Finder = Callable[[str], Sequence[PersonalSpan]]
"""Function that finds the personal data in a line, in order and without overlaps."""

# Each repetition is bounded and starts at a border, so that hostile lines take linear time.
_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w+%-](?:[\w.+%-]{0,62}[\w+%-])?@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])")
_CARD = re.compile(
    r"(?<![\w.,+-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5}|\d{13,19})"
    r"(?![\w]|[.,-]\d)"
)
_CARD_ISSUERS = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6(?:011|4[4-9]|5)")
# Digits in groups, or with a country code; which are phone numbers is decided by the numbering plan of their region.
_PHONE = re.compile(
    r"(?<![\w.,+$€£#/-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{1,12}(?:[ .-]\d{1,12}){0,5}(?![\w]|[.,:/-]\d)"
)
_NOT_A_PHONE = re.compile(r"(?:ISBN|ISSN|DOI|PMID|OCLC|LCCN)[\s:-]*(?:-1[03])?:?\s*$", re.IGNORECASE)


def _emails(line: str) -> Iterator[tuple[int, int]]:
    if "@" in line:
        yield from (match.span() for match in _EMAIL.finditer(line))


def _ips(line: str) -> Iterator[tuple[int, int]]:
    for pattern, mark, marks in ((_IPV4, ".", 3), (_IPV6, ":", 2)):
        if line.count(mark) >= marks:
            for match in pattern.finditer(line):
                text = match.group().rstrip(":") if mark == ":" and not match.group().endswith("::") else match.group()
                if _is_address(text):
                    yield match.start(), match.start() + len(text)


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # `::` and `a::b` are common in code.
    return address.version == 4 or (len(text.replace(":", "")) >= 4 and text.count(":") >= 3 and not text.isalpha())


def _cards(line: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(line):
        digits = re.sub(r"\D", "", match.group())
        if _CARD_ISSUERS.match(digits) and has_luhn_checksum(digits):
            yield match.span()


def has_luhn_checksum(digits: str) -> bool:
    """Whether the last of some digits is their check digit (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _phones(region: str) -> Callable[[str], Iterator[tuple[int, int]]]:
    library: Any = require("phonenumbers", "filters", "filters.pii for phone numbers")

    def find(line: str) -> Iterator[tuple[int, int]]:
        for match in _PHONE.finditer(line):
            text = match.group()
            digits = sum(map(str.isdigit, text))
            if not 7 <= digits <= 15 or _NOT_A_PHONE.search(line, 0, match.start()):
                continue
            has_code = text.startswith("+")
            if not has_code and ((digits < 10 and not text.startswith(("0", "("))) or text.isdigit()):
                continue  # a plain number, or years such as 1939-1945
            try:
                number = library.parse(text, region)
            except library.NumberParseException:
                continue
            if library.is_valid_number(number):
                yield match.span()

    return find


def pattern_finder(kinds: Sequence[str], phone_region: str) -> Finder:
    """Finder of personal data by patterns, checksums and numbering plans.

    Args:
        kinds: kinds to find: `email`, `ip`, `phone`, `credit_card`.
        phone_region: region (ISO 3166) of phone numbers without a country code.

    Raises:
        MissingExtraError: phone numbers are to be found, and phonenumbers is not installed.
    """
    finders: Mapping[str, Callable[[], Callable[[str], Iterator[tuple[int, int]]]]] = {
        "email": lambda: _emails,
        "ip": lambda: _ips,
        "credit_card": lambda: _cards,
        "phone": lambda: _phones(phone_region),
    }
    chosen = [(kind, load()) for kind, load in finders.items() if kind in kinds]

    def find(line: str) -> Sequence[PersonalSpan]:
        return without_overlaps(
            PersonalSpan(start, end, kind) for kind, finder in chosen for start, end in finder(line)
        )

    return find


def without_overlaps(spans: Iterator[PersonalSpan]) -> list[PersonalSpan]:
    """Spans in their order in the line; of two that overlap, the one that comes first is kept."""
    kept: list[PersonalSpan] = []
    for span in spans:
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)
