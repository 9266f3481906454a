import time

import pytest

from data_pipeline.preprocess.pii.spans import has_luhn_checksum, pattern_finder

KINDS = ["email", "ip", "phone", "credit_card"]


def found(line, kinds=KINDS, region="US"):
    return [(line[span.start : span.end], span.kind) for span in pattern_finder(kinds, region)(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("write to a.b+c@example.co.uk.", [("a.b+c@example.co.uk", "email")]),
        ("<x@y.org>, z_1@müller.example", [("x@y.org", "email"), ("z_1@müller.example", "email")]),
        ("at 192.168.1.20, or 8.8.8.8:80", [("192.168.1.20", "ip"), ("8.8.8.8", "ip")]),
        ("host 2001:db8::ff00:42:8329 is up", [("2001:db8::ff00:42:8329", "ip")]),
        ("call +49 30 901820 now", [("+49 30 901820", "phone")]),
        ("(650) 253-0000 or 650.253.0000", [("(650) 253-0000", "phone"), ("650.253.0000", "phone")]),
        ("+1 (650) 253-0000", [("+1 (650) 253-0000", "phone")]),
        ("paid by 4111 1111 1111 1111", [("4111 1111 1111 1111", "credit_card")]),
        ("378282246310005,", [("378282246310005", "credit_card")]),
        ("5500-0000-0000-0004", [("5500-0000-0000-0004", "credit_card")]),
    ],
)  # fmt: skip
def test_personal_data(line, expected):
    assert found(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "foo@bar, @name, a@b, 5@-@6",
        "version 1.2.3.4.5, v1.2.3.4, 300.1.1.1",
        "at 10:20:30, std::vector, a::b, ::1",
        "1939-1945, (1939-1945), 1914-1918-1939",
        "ISBN 978-0-306-40615-7, ISBN 0-306-40615-2",
        "1,000,000 and 10 000 000 and 3.14159265 and 6502530000",
        "4111 1111 1111 1112 and 1234567890123456",
        "12/12/2012 and 2012-12-12 and 20121212",
        "pages 210, 307-357 /1910/ and 117-142, 218-234 (1945)",
    ],
)
def test_other_numbers_and_marks(line):
    assert found(line) == []


def test_numbers_without_a_country_code_are_of_the_region():
    line = "ring 030 901820 today"
    assert found(line, region="DE") == [("030 901820", "phone")]
    assert found(line, region="US") == []


def test_kinds_are_chosen():
    line = "a@b.org, 8.8.8.8 and (650) 253-0000"
    assert found(line, kinds=["ip"]) == [("8.8.8.8", "ip")]


def test_luhn_checksum():
    assert has_luhn_checksum("79927398713")
    assert not has_luhn_checksum("79927398710")


@pytest.mark.parametrize("part", ["a.", "a@", "1-", "1 ", ":", "1.", "(1", "+", "a-", "%", "1:"])
def test_hostile_lines_take_linear_time(part):
    find = pattern_finder(KINDS, "US")
    started = time.process_time()
    find(part * 100_000 + "@")
    assert time.process_time() - started < 2


def test_wikipedia_has_no_false_hits(shared):
    find = pattern_finder(KINDS, "US")
    lines = (shared / "wikitext-2" / "wiki.valid.tokens").read_text().split("\n")
    assert [span for line in lines for span in find(line)] == []
