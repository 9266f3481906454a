import time

from data_pipeline.report.differences import marked_differences


def test_words_that_differ_are_marked():
    left, right = marked_differences("the old mill by the sea", "the new mill by a wide sea")
    assert left == [("the ", False), ("old ", True), ("mill by ", False), ("the ", True), ("sea", False)]
    assert right == [("the ", False), ("new ", True), ("mill by ", False), ("a wide ", True), ("sea", False)]


def test_equal_and_empty_texts():
    assert marked_differences("a b", "a b") == ([("a b", False)], [("a b", False)])
    assert marked_differences("", "a") == ([], [("a", True)])


def test_long_texts_are_cut_with_an_ellipsis():
    left, right = marked_differences("x " * 500, "x y", words=3)
    assert left[-1] == ("…", False)
    assert "".join(part for part, _ in left) == "x x x …"
    assert right == [("x ", False), ("y", True)]


def test_a_megabyte_without_a_space_takes_no_time():
    started = time.perf_counter()
    marked_differences("a" * 10**6, "b" * 10**6)
    assert time.perf_counter() - started < 5
