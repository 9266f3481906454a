"""Paragraphs of given documents, made as a run makes them."""

from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipeline.config import Config, CorpusConfig
from data_pipeline.download import Corpus
from data_pipeline.download.corpus import Unit
from data_pipeline.stages.preprocess import ParagraphOutput, Source, write_paragraphs


def words_tokenizer():
    """A tokenizer whose tokens are the words between white space."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def corpus_of(documents, metadata=None, **options):
    """A corpus of documents, in one unit."""
    return Corpus("a test", {}, lambda: [Unit(lambda on_bytes, on_bad: iter(documents))], metadata or {}, **options)


def write(corpus, folder, tokenizer=None, shard_rows=1000, **sections):
    """Write the paragraphs of a corpus to a processed folder, and return the manifest.

    Args:
        corpus: the corpus.
        folder: processed folder.
        tokenizer: tokenizer; None for words.
        shard_rows: maximum number of rows in a file.
        sections: sections of the config, as mappings or configs.
    """
    preprocess = {"min_chars": 0, "min_tokens": 1} | dict(sections.pop("preprocess", {}))
    sections["storage"] = {"shard_rows": shard_rows, "versions": 0}
    config = Config(data_dir=folder.parent, preprocess=preprocess, **sections)
    source = Source(corpus, CorpusConfig())
    return write_paragraphs(config, tokenizer or words_tokenizer(), [source], ParagraphOutput(folder, {}))
