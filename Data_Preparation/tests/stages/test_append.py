"""A dataset that grows has the rows of a run on the whole corpus, and the rows it had stay where they are."""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.growing import PARAGRAPHS, counts, examples, left_out, rows, settings, write

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import ConfigError, SourceError, StaleStageError, StoreError
from data_pipeline.stages.compact import compact, plan_compaction
from data_pipeline.stages.pipeline import append_documents, embed, run
from data_pipeline.stages.verify import verify_corpus
from data_pipeline.stages.versions import compare_versions, roll_back
from data_pipeline.store import ParagraphStore, corpus_files
from data_pipeline.store.dropped import read_dropped_examples
from data_pipeline.types import SPLITS
from data_pipeline.utils import exclusive

A = [("a1", [0, 1]), ("a2", [2]), ("a3", [1, 3]), ("a4", [9, 4])]
B = [("b1", [5]), ("b2", [0, 6]), ("b3", [7, 7])]


@pytest.fixture
def corpus(tmp_path):
    """Two files, of which the dataset is made of the first one."""
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write(files[0], A)
    write(files[1], B)
    run(settings(tmp_path / "data", files[:1]))
    return files


def of_nothing(folder, files, **changes):
    config = settings(folder, files, **changes)
    run(config)
    return config


def assert_same(config, whole):
    assert rows(config) == rows(whole)
    assert left_out(config) == left_out(whole)
    assert examples(config) == examples(whole)
    assert counts(config) == counts(whole)
    assert verify_corpus(config)[1] == []


def test_new_documents_get_files_of_their_own(corpus, tmp_path, counted):
    config = settings(tmp_path / "data", corpus[1:])
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("t*.*") if path.is_file()}
    growth, _ = append_documents(config)
    assert growth.documents == {"added": 3, "changed": 0, "gone": 0, "unchanged": 0}
    assert sum(sum(of_split.values()) for of_split in growth.rows.values()) == 3  # two of five repeat others
    assert counted[-1].texts == 3
    assert all(path.read_bytes() == content for path, content in before.items())
    store = ParagraphStore(config.processed_dir)
    assert store.version == 2
    assert store.manifest["parent"] == 1
    assert store.manifest["changes"]["documents"]["added"] == 3
    assert any("-v0002" in shard.file for split in store.splits for shard in store.listed(split))
    assert_same(config, of_nothing(tmp_path / "whole", corpus))


def test_another_process_that_writes_is_waited_for_by_the_user(corpus, tmp_path):
    config = settings(tmp_path / "data", corpus[1:])
    before = rows(config)
    for folder in (config.processed_dir, config.embeddings_dir):
        with exclusive(folder), pytest.raises(StoreError, match="another process is writing to"):
            append_documents(config)
        assert rows(config) == before
    with exclusive(config.embeddings_dir), pytest.raises(StoreError, match="another process is writing to"):
        compact(config)


def test_a_source_that_has_grown_is_appended_too(corpus, tmp_path):
    config = settings(tmp_path / "data", corpus[:1])
    write(corpus[0], [*A[:2], ("a5", [8]), *A[2:]])
    with pytest.raises(StaleStageError, match="a.jsonl of the corpus was changed"):
        run(config)
    growth, _ = append_documents(config)
    assert growth.documents == {"added": 1, "changed": 0, "gone": 0, "unchanged": 4}
    assert_same(config, of_nothing(tmp_path / "whole", corpus[:1]))
    run(config)  # and is not stale any more


def test_a_path_that_is_added_belongs_to_the_source(corpus, tmp_path):
    growth, _ = append_documents(settings(tmp_path / "data", corpus))
    assert growth.documents == {"added": 3, "changed": 0, "gone": 0, "unchanged": 4}
    assert "appended" not in growth.manifest
    assert_same(settings(tmp_path / "data", corpus), of_nothing(tmp_path / "whole", corpus))


def test_documents_that_changed_or_went_are_errors_until_it_is_said_what_to_do(corpus, tmp_path):
    changed = [("a1", [0, 8]), *A[2:]]
    write(corpus[0], changed)
    config = settings(tmp_path / "data", corpus[:1])
    before = rows(config)
    with pytest.raises(SourceError, match="1 document changed and 1 document gone .*'a1', 'a2'"):
        append_documents(config)
    assert rows(config) == before
    assert not (tmp_path / "data" / ".mine_processed.new").exists()

    growth, _ = append_documents(settings(tmp_path / "data", corpus[:1], **{"corpus.on_changed": "keep"}))
    assert growth.documents == {"added": 0, "changed": 1, "gone": 1, "unchanged": 2}
    assert rows(config) == before
    assert ParagraphStore(config.processed_dir).version == 1

    growth, _ = append_documents(settings(tmp_path / "data", corpus[:1], **{"corpus.on_changed": "replace"}))
    assert growth.documents == {"added": 0, "changed": 1, "gone": 1, "unchanged": 2}
    assert_same(config, of_nothing(tmp_path / "whole", corpus[:1]))
    assert sum(len(ParagraphStore(config.processed_dir).deleted_rows(split)) for split in SPLITS) > 0


def test_a_row_that_repeated_one_that_went_takes_its_place(corpus, tmp_path):
    """Paragraph 1 of a1 is repeated in a3; 9 of a4 nearly repeats 0 of a1."""
    near = {"preprocess.near_dedup": True, "preprocess.near_threshold": 0.5}
    config = of_nothing(tmp_path / "near", corpus[:1], **near)
    assert PARAGRAPHS[9] not in {
        text for split in SPLITS for text in ParagraphStore(config.processed_dir).read(split)["text"]
    }
    write(corpus[0], A[1:])
    config = settings(tmp_path / "near", corpus[:1], **near, **{"corpus.on_changed": "replace"})
    append_documents(config)
    assert PARAGRAPHS[9] in {
        text for split in SPLITS for text in ParagraphStore(config.processed_dir).read(split)["text"]
    }
    assert_same(config, of_nothing(tmp_path / "whole", corpus[:1], **near))


def test_a_document_of_another_source_with_other_text_is_a_change(corpus, tmp_path):
    write(corpus[1], [("a2", [8]), ("b1", [5])])
    with pytest.raises(SourceError, match="1 document changed and 0 documents gone"):
        append_documents(settings(tmp_path / "data", corpus[1:]))
    kept, _ = append_documents(settings(shutil.copytree(tmp_path / "data", tmp_path / "keep"), corpus[1:],
                                        **{"corpus.on_changed": "keep"}))  # fmt: skip
    assert kept.documents == {"added": 1, "changed": 1, "gone": 0, "unchanged": 0}
    config = settings(tmp_path / "data", corpus[1:], **{"corpus.on_changed": "replace"})
    append_documents(config)
    write(corpus[0], [A[0], *A[2:]])
    assert_same(config, of_nothing(tmp_path / "whole", corpus))


def test_other_settings_make_it_again_with_all_its_sources(corpus, tmp_path):
    append_documents(settings(tmp_path / "data", corpus[1:]))
    seed = settings(tmp_path / "data", corpus[:1], **{"split.seed": 5})
    with pytest.raises(StaleStageError, match="split.seed"):
        append_documents(seed)
    report = run(seed, overwrite=True)
    assert all(result.tally.reused == result.rows for result in report.embeddings.values())
    assert_same(seed, of_nothing(tmp_path / "whole", corpus, **{"split.seed": 5}))
    assert ParagraphStore(seed.processed_dir).version == 3
    corpus[1].unlink()
    with pytest.raises(SourceError, match="b.jsonl"):
        run(settings(tmp_path / "data", corpus[:1], **{"split.seed": 6}), overwrite=True)
    assert ParagraphStore(seed.processed_dir).version == 3


def test_the_earlier_version_is_read_and_restored(corpus, tmp_path):
    config = settings(tmp_path / "data", corpus[:1])
    before = rows(config)
    append_documents(settings(tmp_path / "data", corpus[1:]))
    grown = rows(config)
    train = {row[0] for row in before["train"]}
    assert {json.dumps(row, sort_keys=True) for row in ELMDataset(config=config, version=1).rows.table(
        ELMDataset(config=config).rows.names).to_pylist()} == train  # fmt: skip
    difference = compare_versions(config, 1, 2)
    assert sum(counts["added"] for counts in difference.rows.values()) == 3
    assert sum(counts["removed"] + counts["changed"] for counts in difference.rows.values()) == 0
    roll_back(config, 1)
    assert rows(config) == before
    append_documents(settings(tmp_path / "data", corpus[1:]))
    assert rows(config) == grown
    assert ParagraphStore(config.processed_dir).version == 4


def test_documents_that_went_and_came_back_are_in_a_file_with_the_texts_of_another_one(corpus, tmp_path):
    replace = {"corpus.on_changed": "replace"}
    append_documents(settings(tmp_path / "data", corpus[1:]))
    write(corpus[1], [])
    append_documents(settings(tmp_path / "data", corpus[1:], **replace))
    write(corpus[1], B)
    append_documents(settings(tmp_path / "data", corpus[1:], **replace))
    config = settings(tmp_path / "data", corpus[:1])
    store = ParagraphStore(config.processed_dir)
    contents = [shard.content for split in SPLITS for shard in store.listed(split) if "-v" in shard.file]
    assert len(contents) == 2 * len(set(contents))
    assert_same(config, of_nothing(tmp_path / "whole", corpus))


def shorts(name, numbers):
    """Documents of a paragraph that is kept, one that is too short, and a copy of the one before."""
    words, records = ("some", "words", "of", "a", "text", "that", "is", "kept"), []
    for number in numbers:
        text = " ".join(f"{word}{name}{number}" for word in words)
        records.append({"id": f"{name}{number}", "text": f"{text}\n\ntoo short {name}{number}\n\n{text}"})
    return records


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, {"id": 7}]))


def test_examples_of_dropped_rows_are_those_of_a_run_on_all_documents(tmp_path):
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_records(files[0], shorts("a", range(20)))
    write_records(files[1], shorts("b", range(20)))
    config = of_nothing(tmp_path / "data", files[:1])
    append_documents(settings(tmp_path / "data", files[1:]))
    whole = of_nothing(tmp_path / "whole", files)
    assert_same(config, whole)
    table = read_dropped_examples(config.processed_dir)
    assert Counter(table["reason"].to_pylist()) == {"exact_duplicate": 10, "too_few_tokens": 10, "missing_field": 2}
    texts = {row["text_id"]: row["text"] for row in table.to_pylist() if row["reason"] == "too_few_tokens"}
    assert all(text == f"too short {name.split('#')[0]}" for name, text in texts.items())
    assert {name[0] for name in texts} == {"a", "b"}
    before = examples(config)
    write_records(files[1], shorts("b", range(30)))
    append_documents(settings(tmp_path / "data", files[1:]))
    assert examples(config) != before
    assert_same(config, of_nothing(tmp_path / "again", files))
    compact(config)
    assert examples(config) == examples(settings(tmp_path / "again", files))
    roll_back(config, 2)
    assert examples(config) == before
    assert verify_corpus(config)[1] == []


def test_examples_of_documents_that_went_go_with_them(tmp_path):
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_records(files[0], shorts("a", range(20)))
    config = of_nothing(tmp_path / "data", files[:1])
    gone = read_dropped_examples(config.processed_dir)["document_id"].to_pylist()[0]
    write_records(files[0], [record for record in shorts("a", range(20)) if record["id"] != gone])
    append_documents(settings(tmp_path / "data", files[:1], **{"corpus.on_changed": "replace"}))
    found = read_dropped_examples(config.processed_dir)
    whole = read_dropped_examples(of_nothing(tmp_path / "whole", files[:1]).processed_dir)
    assert gone not in found["document_id"].to_pylist()
    assert set(map(str, found.to_pylist())) <= set(map(str, whole.to_pylist()))
    assert whole.num_rows - 1 <= found.num_rows <= whole.num_rows  # one text is not known any more
    assert verify_corpus(config)[1] == []


def test_a_dataset_of_an_earlier_version_gets_the_examples_that_are_known(tmp_path):
    files = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_records(files[0], shorts("a", range(4)))
    write_records(files[1], shorts("b", range(4)))
    config = of_nothing(tmp_path / "data", files[:1])
    (config.processed_dir / "dropped_examples.parquet").unlink()
    manifest = json.loads((config.processed_dir / "manifest.json").read_text())
    for name in ("dropped_examples_sha256", "package_version"):
        del manifest[name]
    del manifest["leakage"]["pairs"]
    (config.processed_dir / "manifest.json").write_text(json.dumps(manifest))
    assert verify_corpus(config)[1] == []
    run(config)
    assert read_dropped_examples(config.processed_dir) is None
    append_documents(settings(tmp_path / "data", files[1:]))
    table = read_dropped_examples(config.processed_dir)
    of_reason = {
        reason: {row["document_id"] for row in table.to_pylist() if row["reason"] == reason}
        for reason in ("too_few_tokens", "exact_duplicate")
    }
    assert of_reason["too_few_tokens"] == {f"b{number}" for number in range(4)}
    assert of_reason["exact_duplicate"] == {f"{name}{number}" for name in "ab" for number in range(4)}
    roll_back(config, 1)
    assert read_dropped_examples(config.processed_dir) is None
    compact(config)
    assert verify_corpus(config)[1] == []


def license_of(config):
    return ParagraphStore(config.processed_dir).manifest.get("license")


def test_the_licences_of_all_sources_are_recorded(corpus, tmp_path):
    config = settings(tmp_path / "data", corpus[:1])
    assert license_of(config) is None
    append_documents(settings(tmp_path / "data", corpus[1:], **{"corpus.license": "CC-BY-4.0"}))
    assert license_of(config) == ["CC-BY-4.0", "unknown"]
    roll_back(config, 1)
    assert license_of(config) is None
    # A licence decides no bytes: it is recorded, and nothing is made again.
    licensed = settings(tmp_path / "data", corpus[:1], **{"corpus.license": "CC-BY-4.0"})
    shards = {path: path.stat().st_mtime_ns for path in config.processed_dir.glob("*.parquet")}
    assert run(licensed).preprocess_skipped
    assert license_of(config) == "CC-BY-4.0"
    assert {path: path.stat().st_mtime_ns for path in config.processed_dir.glob("*.parquet")} == shards
    append_documents(settings(tmp_path / "data", corpus[1:], **{"corpus.license": "CC-BY-4.0"}))
    assert license_of(config) == "CC-BY-4.0"
    # Made again with its sources, each with its own licence.
    run(settings(tmp_path / "data", corpus[:1], **{"corpus.license": "MIT", "split.seed": 5}), overwrite=True)
    assert license_of(config) == ["CC-BY-4.0", "MIT"]
    append_documents(settings(tmp_path / "data", corpus[1:], **{"corpus.license": "CC0-1.0", "split.seed": 5}))
    assert license_of(config) == ["CC-BY-4.0", "CC0-1.0", "MIT"]


def test_nothing_new_makes_no_version(corpus, tmp_path):
    config = settings(tmp_path / "data", corpus[:1])
    before = sorted((path.name, path.stat().st_mtime_ns) for path in config.processed_dir.iterdir())
    growth, _ = append_documents(config)
    assert not growth.is_written
    assert sorted((path.name, path.stat().st_mtime_ns) for path in config.processed_dir.iterdir()) == before


def test_what_cannot_grow_says_so(corpus, tmp_path):
    with pytest.raises(StaleStageError, match="preprocess.min_tokens was 5, now 6"):
        append_documents(settings(tmp_path / "data", corpus[1:], **{"preprocess.min_tokens": 6}))
    with pytest.raises(ConfigError, match="rows of all splits would move"):
        append_documents(settings(tmp_path / "data", corpus[1:], **{"split.method": "paragraph"}))
    with pytest.raises(StaleStageError, match="metadata_fields"):
        append_documents(settings(tmp_path / "data", corpus[1:], **{"corpus.metadata_fields": {"id": "str"}}))
    write(corpus[0], [])
    with pytest.raises(SourceError, match="no row would be left"):
        append_documents(settings(tmp_path / "data", corpus[:1], **{"corpus.on_changed": "replace"}))
    (tmp_path / "data" / "mine_processed" / ".documents.arrow").unlink()
    with pytest.raises(StoreError, match="Run elm run --overwrite once"):
        append_documents(settings(tmp_path / "data", corpus[1:]))
    write(corpus[0], A)
    run(settings(tmp_path / "data", corpus[:1]), overwrite=True)
    append_documents(settings(tmp_path / "data", corpus[1:]))


def test_without_embeddings_the_dataset_says_which_vectors_it_lacks(corpus, tmp_path, counted):
    config = settings(tmp_path / "data", corpus[1:])
    growth, _ = append_documents(config, skip_embeddings=True)
    split = next(split for split in SPLITS if growth.rows[split]["added"])
    with pytest.raises(StoreError, match=f"1 of its 2 files of {split} have no vectors"):
        ELMDataset(config=config, split=split)
    embed(config, SPLITS)
    assert counted[-1].texts == 3
    assert_same(config, of_nothing(tmp_path / "whole", corpus))


def test_compaction_drops_deleted_rows_and_computes_nothing(corpus, tmp_path, counted):
    config = settings(tmp_path / "data", corpus[:1])
    embed(
        settings(tmp_path / "data", corpus[:1], **{"embedding.variant": "int8", "embedding.precision": "int8"}), SPLITS
    )
    append_documents(settings(tmp_path / "data", corpus[1:]))
    embed(
        settings(tmp_path / "data", corpus[:1], **{"embedding.variant": "int8", "embedding.precision": "int8"}), SPLITS
    )
    write(corpus[0], [("a1", [0, 8]), *A[2:]])
    append_documents(settings(tmp_path / "data", corpus[:1], **{"corpus.on_changed": "replace"}))
    embed(
        settings(tmp_path / "data", corpus[:1], **{"embedding.variant": "int8", "embedding.precision": "int8"}), SPLITS
    )
    variant = config.model_copy(update={"embedding": config.embedding.model_copy(update={"variant": "int8"})})
    before, before_of_variant = rows(config), rows(variant)
    plan = plan_compaction(config)
    assert plan is not None
    assert plan.deleted == 3
    loaded = len(counted)
    assert compact(config) == 4
    assert len(counted) == loaded
    assert rows(config) == before
    assert rows(variant) == before_of_variant
    assert verify_corpus(config)[1] == verify_corpus(variant)[1] == []
    whole = of_nothing(tmp_path / "whole", corpus)
    for split in SPLITS:
        assert ParagraphStore(config.processed_dir).read(split).equals(ParagraphStore(whole.processed_dir).read(split))
    names = {path.name for path in config.embeddings_dir.glob("*.safetensors")}
    assert names == {f"{split}_embeddings-v0004.safetensors" for split in SPLITS}
    assert plan_compaction(config) is None
    assert compact(config) == 4
    run(config)
    write(corpus[1], [*B, ("b4", [8, 8, 2])])
    append_documents(settings(tmp_path / "data", corpus[1:]))
    assert_same(config, of_nothing(tmp_path / "again", corpus))
    roll_back(config, 3)
    assert rows(config) == before


documents = st.lists(
    st.tuples(
        st.integers(0, 6), st.one_of(st.none(), st.lists(st.integers(0, len(PARAGRAPHS) - 1), max_size=4))
    ),
    min_size=1, max_size=7,
)  # fmt: skip
steps = st.lists(st.tuples(st.sampled_from(["a", "b", "seed", "filter", "compact"]), documents), min_size=1, max_size=5)


@hypothesis_settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes long
    suppress_health_check=list(HealthCheck),
)
@given(
    start=documents,
    steps=steps,
    on_duplicate_id=st.sampled_from(["drop", "suffix"]),
    near=st.booleans(),
    own_splits=st.booleans(),
)
@pytest.mark.slow
def test_any_sequence_of_changes_ends_in_the_rows_of_a_run_on_the_whole_corpus(
    start, steps, on_duplicate_id, near, own_splits
):
    root = Path(tempfile.mkdtemp())
    try:
        files = {name: root / f"{name}.jsonl" for name in "ab"}
        present = ["a"]
        changes = {
            "corpus.on_duplicate_id": on_duplicate_id, "preprocess.near_dedup": near, "split.train_ratio": 0.5,
            "split.val_ratio": 0.25, "split.test_ratio": 0.25, "storage.shard_rows": 3,
            "decontamination.own_splits": own_splits, "decontamination.ngram_words": 4,
            "decontamination.min_words": 4, "decontamination.min_overlap": 0.6,
        }  # fmt: skip

        def write_file(name, found):
            write(files[name], [(f"{name}{number}", paragraphs) for number, paragraphs in found])

        write_file("a", [*start, (9, [0])])  # one row at least
        run(settings(root / "data", [files["a"]], **changes))
        for number, (what, found) in enumerate(steps):
            if what in files:
                write_file(what, [*found, (9, [0])] if what == "a" else found)
                present = sorted({*present, what})
                append_documents(settings(root / "data", [files[what]], **changes, **{"corpus.on_changed": "replace"}))
            elif what == "compact":
                compact(settings(root / "data", [files["a"]], **changes))
            else:
                changes |= {"split.seed": number} if what == "seed" else {"preprocess.min_tokens": 3 + 2 * (number % 2)}
                run(settings(root / "data", [files["a"]], **changes), overwrite=True)
            whole = of_nothing(root / f"whole{number}", [files[name] for name in present], **changes)
            assert_same(settings(root / "data", [files["a"]], **changes), whole)
    finally:
        shutil.rmtree(root)


def test_a_dataset_that_grows_while_it_is_opened_is_the_old_one_or_the_new_one(corpus, tmp_path, monkeypatch):
    """It grows between the reading of one file and the next, at every place."""
    config = settings(tmp_path / "data", corpus[:1])
    before = {split: len(ELMDataset(split=split, config=config)) for split in SPLITS}
    whole = of_nothing(tmp_path / "whole", corpus)
    after = {split: len(ELMDataset(split=split, config=whole)) for split in SPLITS}
    assert before != after
    saved = shutil.copytree(tmp_path / "data", tmp_path / "saved")
    split = next(split for split in SPLITS if before[split] != after[split])
    seen = []
    for change in ("append", "compact"):
        for place in range(100):
            shutil.rmtree(tmp_path / "data")
            shutil.copytree(saved, tmp_path / "data")
            if change == "compact":
                append_documents(settings(tmp_path / "data", corpus[1:]))
            found, was_reached = open_while(config, split, place, change, corpus, tmp_path, monkeypatch)
            seen.append((change, found))
            if not was_reached:
                break
        assert place > 2
    assert {found for change, found in seen if change == "append"} == {before[split], after[split]}
    assert {found for change, found in seen if change == "compact"} == {after[split]}


def open_while(config, split, place, change, corpus, tmp_path, monkeypatch):
    """Rows of a split that is opened while the dataset changes just before the n-th read of a file."""
    reads, busy = [], []
    with monkeypatch.context() as patched:

        def interfere(owner, name):
            real = getattr(owner, name)

            def read(*arguments, **options):
                if not busy:
                    reads.append(name)
                    if len(reads) == place + 1:
                        busy.append(True)
                        with monkeypatch.context():
                            if change == "append":
                                append_documents(settings(tmp_path / "data", corpus[1:]))
                            else:
                                compact(config)
                return real(*arguments, **options)

            patched.setattr(owner, name, read)

        interfere(Path, "read_bytes")
        interfere(pq, "read_metadata")
        interfere(pq, "read_table")
        interfere(corpus_files, "open_embedding_shard")
        dataset = ELMDataset(split=split, config=config)
    vectors = dataset.to_numpy()
    texts = dataset.rows.table(["text"])["text"].to_pylist()
    assert len(vectors) == len(texts) == len(dataset)
    return len(dataset), bool(busy)
