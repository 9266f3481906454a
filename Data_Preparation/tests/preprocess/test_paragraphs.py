import polars as pl
import pytest

from data_pipeline.config import CorpusConfig, PreprocessConfig
from data_pipeline.download import open_corpus
from data_pipeline.preprocess import extract_paragraphs
from data_pipeline.preprocess.paragraphs import document_batches
from data_pipeline.types import Document

ARTICLE = """
 The opening line .
 Its second line .

 = = History = =

 An old line .

 = = = Early years = = =

 Young and <unk> .

 = = = = Childhood = = = =

 Very young .

 = = = Late years = = =

 Not so young .

 = = The 3 @.@ 5 <unk> = =

 A last ( short ) line .
"""


def wikitext(text=ARTICLE, name="a", title="A 'title' , really"):
    return Document(id=name, text=text, format="wikitext", title=title, source_split="val")


def extract(*documents, metadata=None, **settings):
    return extract_paragraphs(documents, PreprocessConfig(**settings), metadata or {})


def columns(frame, *names):
    return frame.select(names).rows()


def test_consecutive_lines_are_one_paragraph_of_a_section():
    assert columns(extract(wikitext()), "text_id", "text", "section") == [
        ("a#s0", "The opening line. Its second line.", ""),
        ("a#s1", "An old line.", "History"),
        ("a#s2", "Young and.", "History > Early years"),
        ("a#s3", "Very young.", "History > Early years > Childhood"),
        ("a#s4", "Not so young.", "History > Late years"),
        ("a#s5", "A last (short) line.", "The 3.5 <unk>"),
    ]


def test_every_line_is_a_paragraph_with_the_unit_line():
    rows = columns(extract(wikitext(), unit="line"), "text_id", "text", "section")
    assert rows[:3] == [
        ("a#l0", "The opening line.", ""),
        ("a#l1", "Its second line.", ""),
        ("a#l2", "An old line.", "History"),
    ]
    assert len(rows) == 7


def test_the_columns_are_these_in_this_order():
    frame = extract(wikitext(), metadata={"year": "int", "lang": "str"})
    assert frame.columns == [
        "text_id", "text", "char_count", "document_id", "title", "section", "source_split", "year", "lang",
        "document_number", "raw",
    ]  # fmt: skip
    assert frame.schema["char_count"] == pl.Int64
    assert set(columns(frame, "document_id", "title", "source_split")) == {("a", "A 'title', really", "val")}
    assert frame["char_count"].to_list() == [len(text) for text in frame["text"]]


def test_raw_holds_the_text_before_cleaning():
    assert extract(wikitext())["raw"].to_list()[:3] == [
        " The opening line .  Its second line .",
        " An old line .",
        " Young and <unk> .",
    ]


def test_cleaning_off_keeps_every_character_and_line():
    frame = extract(wikitext(), clean="raw")
    assert frame["text"].to_list()[0] == " The opening line .\n Its second line ."
    assert frame["text"].to_list()[2] == " Young and <unk> ."
    assert frame["section"].to_list()[-1] == "The 3 @.@ 5 <unk>"
    assert frame["title"].to_list()[0] == "A 'title' , really"
    assert frame["text"].to_list() == frame["raw"].to_list()


def test_unknown_words_stay_in_the_text_on_request():
    assert extract(wikitext(), unknown_policy="keep")["text"].to_list()[2] == "Young and <unk>."


def test_wikitext_cleaned_as_plain_keeps_its_spacing_but_has_its_headings():
    frame = extract(wikitext(), clean="plain")
    assert columns(frame, "text", "section")[2] == ("Young and <unk> .", "History > Early years")


def test_plain_documents_have_no_headings_and_keep_their_punctuation():
    text = "First , line\nsecond\tline\n\n = = Not a heading = =\n\n \n<unk> third"
    frame = extract(Document(id="p", text=text, title="T , x"))
    assert columns(frame, "text_id", "text", "section", "title") == [
        ("p#s0", "First , line second line", "", "T , x"),
        ("p#s1", "= = Not a heading = =", "", "T , x"),
        ("p#s2", "<unk> third", "", "T , x"),
    ]


def test_plain_documents_can_be_cleaned_as_wikitext():
    frame = extract(Document(id="p", text="a , b ( c )\n\n = = S = =\n"), clean="wikitext")
    assert frame["text"].to_list() == ["a, b (c)", "= = S = ="]


def test_a_line_that_looks_like_a_heading_is_text_of_its_section():
    text = "\n = = Record = =\n\n GP = Games\n = Played , W = \n Won\n"
    (row,) = columns(extract(wikitext(text)), "text", "section")
    assert row == ("GP = Games = Played, W = Won", "Record")


@pytest.mark.parametrize("text", [" = = S = =\n\n body", "\n = = S = =\n\n body\n", " = = S = =\n \n body"])
def test_the_edges_of_a_document_count_as_blank(text):
    assert columns(extract(wikitext(text)), "text", "section") == [("body", "S")]


def test_headings_at_the_edges_of_neighbouring_documents_do_not_touch():
    documents = [
        wikitext(" one \n\n = = End = =", "a"),
        wikitext(" = = Start = =\n\n two ", "b"),
        wikitext("three", "c"),
    ]
    assert columns(extract(*documents), "text_id", "text", "section") == [
        ("a#s0", "one", ""),
        ("b#s0", "two", "Start"),
        ("c#s0", "three", ""),
    ]


def test_runs_of_lines_end_with_their_document():
    frame = extract(*(wikitext(f" line {name}", name) for name in "abc"))
    assert columns(frame, "text_id", "text") == [("a#s0", "line a"), ("b#s0", "line b"), ("c#s0", "line c")]


def test_skipped_levels_and_a_return_to_a_higher_one_give_the_path_there_is():
    text = "\n = = = = Deep = = = =\n\n one\n\n = = Up = =\n\n two\n\n = = = = Down = = = =\n\n three\n"
    assert extract(wikitext(text))["section"].to_list() == ["Deep", "Up", "Up > Down"]


def test_a_section_without_text_gives_no_paragraph():
    text = "\n = = Empty = =\n\n = = = Full = = =\n\n one\n"
    assert columns(extract(wikitext(text)), "text_id", "section") == [("a#s0", "Empty > Full")]


def test_a_document_without_text_gives_no_paragraph():
    frame = extract(wikitext("", "a"), wikitext("\n \n", "b"), wikitext(" one", "c"))
    assert frame["text_id"].to_list() == ["c#s0"]
    assert extract(wikitext("")).height == 0


def test_positions_are_counted_before_any_filter_so_ids_outlive_other_settings(shared):
    corpus = open_corpus(CorpusConfig(source="wikitext", path=shared / "wikitext-2" / "wiki.test.tokens"))
    documents = list(corpus.documents())[:20]
    usual = extract(*documents)
    for settings in ({"clean": "raw"}, {"unknown_policy": "keep"}, {"min_chars": 500, "min_tokens": 300}):
        assert extract(*documents, **settings)["text_id"].to_list() == usual["text_id"].to_list()
    alone = pl.concat([extract(document) for document in documents])
    assert alone.drop("document_number").equals(usual.drop("document_number"))
    assert usual["text_id"].n_unique() == usual.height


def test_a_paragraph_of_unknown_words_only_keeps_its_place():
    frame = extract(wikitext(" one\n\n <unk>\n\n two"))
    assert columns(frame, "text_id", "text", "raw") == [
        ("a#s0", "one", " one"),
        ("a#s1", "", " <unk>"),
        ("a#s2", "two", " two"),
    ]


def test_a_line_that_cleaning_empties_leaves_no_double_space():
    assert extract(wikitext(" one\n <unk>\n two"))["text"].to_list() == ["one two"]


def test_metadata_have_their_types_and_keep_nulls():
    kinds = {"s": "str", "i": "int", "f": "float", "b": "bool"}
    values = {"s": "x", "i": 2**62, "f": 0.5, "b": False}
    documents = [
        Document(id="a", text="one\n\ntwo", metadata=values),
        Document(id="b", text="three", metadata=dict.fromkeys(kinds)),
        Document(id="c", text="four"),
    ]
    frame = extract(*documents, metadata=kinds)
    assert [frame.schema[name] for name in kinds] == [pl.String, pl.Int64, pl.Float64, pl.Boolean]
    assert frame.select(*kinds).rows(named=True) == [values, values, dict.fromkeys(kinds), dict.fromkeys(kinds)]
    assert extract(documents[2], metadata=kinds).schema == frame.schema


def test_documents_are_grouped_by_format_in_their_order():
    documents = [wikitext(name="a"), wikitext(name="b"), Document(id="c", text="x"), wikitext(name="d")]
    assert [[document.id for document in batch] for batch in document_batches(documents)] == [["a", "b"], ["c"], ["d"]]
    small = document_batches(iter(documents), batch_chars=1)
    assert [[document.id for document in batch] for batch in small] == [["a"], ["b"], ["c"], ["d"]]


@pytest.mark.parametrize("name", ["position", "block", "document", "line", "body", "blank", "row", "index", "Ü x"])
def test_metadata_may_be_called_like_a_column_in_here(name):
    frame = extract(Document(id="a", text="one", metadata={name: "x"}), metadata={name: "str"})
    assert frame.select("text_id", "text", name, "raw").rows() == [("a#s0", "one", "x", "one")]
