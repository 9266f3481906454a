import logging

import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.download import open_corpus
from data_pipeline.download.wikitext import OFFICIAL_COUNTS, articles, wikitext_documents
from data_pipeline.errors import SourceError
from data_pipeline.user_files import read_lines
from data_pipeline.utils.markup import parse_heading


def documents_of(*lines, split="", check=False):
    return list(wikitext_documents(lines, split, check, "here"))


def lines_of(path):
    return [line for _, line in read_lines(path)]


def titles(*lines):
    return [title for title, _ in articles(lines)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" = Title = ", (1, "Title")),
        ("= Title =", (1, "Title")),
        (" = = Section = = ", (2, "Section")),
        (" = = = = Deep down = = = = ", (4, "Deep down")),
        (" = A = B = ", (1, "A = B")),
        (" = <unk> = ", (1, "<unk>")),
        (" = = Section = ", None),
        (" = Section = = ", None),
        (" = Title ", None),
        (" Title = ", None),
        (" = ", None),
        (" = = ", None),
        (" = = = ", None),
        (" == Title == ", None),
        (" =Title= ", None),
        (" text = Title = ", None),
        ("", None),
    ],
)
def test_a_heading_has_the_same_run_of_equals_on_both_sides(line, expected):
    assert parse_heading(line) == expected


def test_articles_are_cut_at_headings_of_level_one_between_blank_lines():
    lines = ["", " = A = ", "", " one ", "", " = = S = = ", "", " two ", "", " = B = ", "", " three ", ""]
    assert list(articles(lines)) == [
        ("", [""]),
        ("A", ["", " one ", "", " = = S = = ", "", " two ", ""]),
        ("B", ["", " three ", ""]),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["", " = A = ", "", " GP ", " = Played , W = ", "", " Won "],
        ["", " = A = ", "", " GP ", "", " = Played , W = ", " Won "],
        ["", " = A = ", "", " GP ", " = Played , W = ", " Won "],
        ["", " = A = ", "", " x = 1 = ", ""],
    ],
)
def test_a_line_of_the_body_that_looks_like_a_heading_stays_text(lines):
    assert titles(*lines) == ["", "A"]
    assert "\n".join(lines[2:]) == documents_of(*lines)[0].text


def test_two_headings_without_a_blank_line_between_them_are_text():
    assert titles("", " = A = ", " = B = ", "") == [""]


@pytest.mark.parametrize("blank", ["", " ", "   ", "\t"])
def test_blank_lines_may_hold_spaces(blank):
    assert titles(blank, " = A = ", blank, "text") == ["", "A"]


def test_the_edges_of_a_file_count_as_blank():
    assert list(articles([" = A = ", "", " text "])) == [("", []), ("A", ["", " text "])]
    assert list(articles(["", " = A = "])) == [("", [""]), ("A", [])]
    assert list(articles([" = A = "])) == [("", []), ("A", [])]
    assert titles(" = A = ", "text") == [""]


def test_text_above_the_first_title_is_a_document_without_one():
    first, second = documents_of(" foreword ", "", " = A = ", "", " text ")
    assert (first.title, first.text) == ("", " foreword \n")
    assert (second.title, second.text) == ("A", "\n text ")


def test_a_title_without_text_is_a_document():
    assert [(d.title, d.text) for d in documents_of("", " = A = ", "", " = B = ", "", "b")] == [("A", ""), ("B", "\nb")]


def test_an_empty_file_has_no_documents():
    assert documents_of() == []
    assert documents_of("", " ", "") == []


def test_an_article_is_known_by_its_content_not_by_its_place():
    one = ["", " = Café @-@ au lait ! = ", "", " one ", ""]
    two = [" = B = ", "", " two ", ""]
    (first, second), (again_second, again_first) = documents_of(*one, *two), documents_of("", *two, *one[1:])
    assert first.id == again_first.id
    assert second.id == again_second.id
    assert first.id.startswith("caf-au-lait-")
    assert len(first.id) == len("caf-au-lait-") + 10


def test_the_id_of_an_article_is_this_one_forever():
    # blake2b of "A\n\n one \n", five bytes; another value would move every article to another split.
    assert documents_of("", " = A = ", "", " one ", "")[0].id == "a-5e1605c96b"


def test_articles_that_differ_in_title_or_text_have_different_ids():
    bodies = [(" = A = ", " x "), (" = A = ", " y "), (" = B = ", " x "), (" = <unk> = ", " x "), (" = ! = ", " x ")]
    ids = [documents_of("", title, "", text, "")[0].id for title, text in bodies]
    assert len(set(ids)) == len(ids)


def test_titles_of_unknown_words_only_have_ids_without_them():
    unknown = documents_of("", " = <unk> = ", "", " x ", "")[0]
    assert (unknown.title, len(unknown.id), "unk" in unknown.id) == ("<unk>", 10, False)
    assert documents_of("", " = The <unk> War = ", "", " x ", "")[0].id.startswith("the-war-")


def test_documents_say_their_split_and_format():
    (document,) = documents_of("", " = A = ", "", "x", split="val")
    assert (document.source_split, document.format) == ("val", "wikitext")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_real_files_have_their_official_counts(shared, split, caplog):
    expected_lines, expected_articles = {"train": (36_718, 600), "val": (3_760, 60), "test": (4_358, 60)}[split]
    assert OFFICIAL_COUNTS[split] == (expected_lines, expected_articles)
    path = shared / "wikitext-2" / f"wiki.{'valid' if split == 'val' else split}.tokens"
    with caplog.at_level(logging.INFO):
        documents = list(wikitext_documents(lines_of(path), split, True, "here"))
    assert caplog.messages == [f"here: {expected_lines} lines, {expected_articles} articles, the official counts"]
    assert len(documents) == expected_articles
    assert all(document.title for document in documents)
    assert len({document.id for document in documents}) == expected_articles
    # Every line is there again: a title's line, the lines of the body, and what stood above.
    n_lines = sum(document.text.count("\n") + 1 + 1 for document in documents)
    assert n_lines + 1 == len(lines_of(path))


def test_other_counts_are_said(caplog):
    documents_of("", " = A = ", "", " text ", split="val", check=True)
    assert caplog.messages == [
        "here is not the official WikiText-2 val: found 4 lines and 1 articles, expected 3760 and 60"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_counts_are_not_looked_at_where_nobody_asked(caplog):
    documents_of("", " = A = ", "", " text ", split="val", check=False)
    documents_of("", " = A = ", "", " text ", split="", check=True)
    assert caplog.messages == []


def opened(path, name="mine"):
    return open_corpus(CorpusConfig(source="wikitext", path=path, name=name))


def write(path, title="A"):
    path.write_text(f"\n = {title} = \n\n text \n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
        ("train.txt", "valid.txt", "test.txt"),
        ("train.txt", "validation.txt", "test.txt"),
        ("train.txt", "val.txt", "test.txt"),
        ("train.tokens", "val.tokens", "test.tokens"),
    ],
)
def test_a_folder_of_three_files_is_read_train_first(tmp_path, names):
    for name in names:
        write(tmp_path / name, name[:3] + name[-5:])
    (tmp_path / "notes.txt").write_text("no WikiText")
    corpus = opened(tmp_path)
    assert [document.source_split for document in corpus.documents()] == ["train", "val", "test"]
    assert set(corpus.identity) == set(names)


def test_a_folder_may_lack_splits(tmp_path):
    write(tmp_path / "test.txt")
    assert [document.source_split for document in opened(tmp_path).documents()] == ["test"]


@pytest.mark.parametrize(
    ("name", "split"), [("wiki.valid.tokens", "val"), ("my-train.txt", "train"), ("book.txt", ""), ("latest.txt", "")]
)
def test_a_single_file_is_of_the_split_its_name_says(tmp_path, name, split):
    (document,) = opened(write(tmp_path / name)).documents()
    assert document.source_split == split


def test_a_corpus_can_be_read_twice_and_its_identity_follows_its_content(tmp_path):
    path = write(tmp_path / "train.txt")
    corpus = opened(path)
    assert list(corpus.documents()) == list(corpus.documents())
    write(path, "B")
    assert opened(path).identity != corpus.identity


def test_lines_are_cut_at_line_feeds_only(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("\n = A = \n\n one\u2028two\x85three\x0cfour \r\n five".encode())
    assert lines_of(path) == ["", " = A = ", "", " one\u2028two\x85three\x0cfour ", " five"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "corpus.path: the source 'wikitext' needs one local file or folder, found none"),
        ("missing", "corpus.path: no such file or folder: "),
        (".", "holds no WikiText files: expected wiki.{train,valid,test}.tokens or {train,valid,test}.txt"),
    ],
)
def test_a_path_without_wikitext_is_an_error_that_says_what_is_expected(tmp_path, path, message):
    with pytest.raises(SourceError) as caught:
        opened(path and tmp_path / path)
    assert message in str(caught.value)


def test_a_file_that_is_not_utf_8_is_an_error_that_names_it(tmp_path):
    (tmp_path / "train.txt").write_bytes("\n = A = \n\n caf\u00e9 \n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"train\.txt, line 4: not UTF-8: byte 0xe9 at position 4"):
        list(opened(tmp_path).documents())


def test_a_file_that_vanished_is_an_error_that_names_it(tmp_path):
    corpus = opened(write(tmp_path / "train.txt"))
    (tmp_path / "train.txt").unlink()
    with pytest.raises(SourceError, match=r"train\.txt cannot be read after line 0"):
        list(corpus.documents())


def test_the_licence_is_known_of_wikitext_itself_and_not_of_other_texts_in_its_format(shared, tmp_path):
    assert opened(shared / "wikitext-2").license == "CC-BY-SA-3.0"
    (tmp_path / "wiki.test.tokens").write_text(" \n = A = \n \n text \n")
    assert opened(tmp_path).license is None


def test_wikitext_that_lost_its_blank_lines_is_an_error_and_not_one_long_paragraph(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(" = A = \n one text \n = = Part = = \n another \n = B = \n a third \n")
    with pytest.raises(
        SourceError, match=r"train\.txt has 2 lines that look like titles, such as ' = A = ', and no blank"
    ):
        list(opened(path).documents())


def test_text_without_titles_is_one_article(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(" one text \n another \n")
    assert [document.text for document in opened(path).documents()] == [" one text \n another "]
