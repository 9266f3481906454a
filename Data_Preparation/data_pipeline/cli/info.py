"""Commands `info` and `verify`: what a dataset on disk is, and whether its files are whole."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_pipeline.cli.command import FAILED, Command, common_arguments, configure_existing
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present
from data_pipeline.config import Config
from data_pipeline.user_files import visible

if TYPE_CHECKING:
    from data_pipeline.store.manifest import EmbeddingManifest, ParagraphManifest, SparseManifest
    from data_pipeline.types import Split


def _verify(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.verify import verify_corpus

    config = configure_existing(parsed, given)
    good, bad = verify_corpus(config, parsed.level, parsed.rows)
    lines = [*(f"ok     {line}" for line in good), *(f"FAULT  {line}" for line in bad)]
    state = f"{len(bad)} faults" if bad else "everything is in order"
    document = {"folder": config.processed_dir, "level": parsed.level, "ok": not bad, "checks": good, "faults": bad}
    present(document, *lines, f"{config.processed_dir}: {state}")
    return FAILED if bad else 0


def _info(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.licenses import licenses_of
    from data_pipeline.store import ParagraphStore, open_scores
    from data_pipeline.store.manifest import EmbeddingManifest, SparseManifest, read_manifest, version_of

    config = configure_existing(parsed, given)
    store = ParagraphStore(config.processed_dir)
    manifest = store.manifest
    corpus = (manifest.get("corpus") if manifest else None) or store.folder.name
    embedded, sparse = (
        read_manifest(config.embeddings_dir, EmbeddingManifest),
        read_manifest(config.sparse_dir, SparseManifest),
    )
    splits = {split: _split_facts(config, split, embedded) for split in store.splits}
    scores = {split: [scores.name for scores in open_scores(config.scores_dir, split)] for split in store.splits}
    selections = [
        path.parent.name for path in visible(config.selections_dir.glob("*/manifest.json"), config.selections_dir)
    ]
    licenses = licenses_of(manifest) if manifest else []
    rows = [("corpus", corpus), ("folder", str(store.folder))]
    rows += [("licence", ", ".join(licenses))] if licenses else []
    rows += paragraph_rows(manifest)
    rows += [(split, _split_text(facts)) for split, facts in splits.items()]
    rows += [(f"{split} scores", ", ".join(names)) for split, names in scores.items() if names]
    rows += [("selections", ", ".join(selections))] if selections else []
    rows += _maker_rows(embedded, sparse)
    for split, names in scores.items():
        splits[split]["scores"] = names
    document = {
        "corpus": corpus,
        "licenses": licenses,
        "folder": store.folder,
        "version": version_of(manifest) if manifest else None,
        "counts": manifest["counts"] if manifest else None,
        "leakage": manifest["leakage"] if manifest else None,
        "splits": splits,
        "selections": selections,
        "sparse": {name: {"rows": entry["rows"], "model": entry["settings"]["model"]}
                   for name, entry in (sparse["splits"].items() if sparse else ())},
    }  # fmt: skip
    present(document, Facts(rows))
    return 0


def _split_facts(config: Config, split: "Split", embedded: "EmbeddingManifest | None") -> dict[str, Any]:
    """Return the statistics of a split, and what made its vectors, as JSON values."""
    from data_pipeline.dataset import ELMDataset

    entry = embedded["splits"].get(split) if embedded else None
    dataset = ELMDataset(split=split, load_embeddings=entry is not None, config=config)
    statistics = dataset.get_statistics()
    facts = {
        "rows": statistics["rows"],
        "documents": statistics.get("documents"),
        "tokens": statistics["token_count"]["total"],
        "embedding": statistics.get("embedding") if len(dataset) else None,
    }
    if facts["embedding"] is not None and entry is not None:
        made_by = {name: entry["settings"].get(name) for name in ("model", "revision", "pooling")}
        facts["embedding"] = {**facts["embedding"], **made_by}
    return facts


def _split_text(facts: Mapping[str, Any]) -> str:
    text = f"{facts['rows']:,} rows, {facts['tokens']:,} tokens"
    if vector := facts["embedding"]:
        text += f", {vector['dim']} dimensions ({vector['precision']}), mean norm {vector['norm_mean']:.4f}"
    return text


def _maker_rows(embedded: "EmbeddingManifest | None", sparse: "SparseManifest | None") -> list[tuple[str, str]]:
    """Return rows of a table about what made the vectors."""
    rows = []
    for name, entry in embedded["splits"].items() if embedded else ():
        settings = entry["settings"]
        rows.append((f"{name} made by", f"{settings['model']} {settings['revision'][:32]}, {settings['pooling']}"))
    for name, made in sparse["splits"].items() if sparse else ():
        rows.append((f"{name} sparse", f"{made['rows']:,} rows by {made['settings']['model']}"))
    return rows


def paragraph_rows(manifest: "ParagraphManifest | None") -> list[tuple[str, str]]:
    """Return rows of a table about the paragraphs."""
    if manifest is None:
        return [("paragraphs", "made by an older pipeline, without counts")]
    counts, leakage = manifest["counts"], manifest["leakage"]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items()) or "none"
    rows = [
        ("paragraphs", f"{counts['paragraphs']:,} found, {counts['kept']:,} kept"),
        ("dropped", dropped),
        (
            "splits",
            ", ".join(f"{split} {entry['rows']:,}" for split, entry in manifest["splits"].items())
            + f" (by {manifest['settings']['split']['method']}, seed {manifest['settings']['split']['seed']})",
        ),
    ]
    from data_pipeline.store.manifest import version_of

    if (version := version_of(manifest)) > 1:
        rows.append(("version", f"{version}; `elm versions` lists the earlier ones that are kept"))
    if personal := counts.get("personal_data"):
        handling = "masked" if manifest["settings"]["filters"]["pii"] == "mask" else "found and dropped"
        found = ", ".join(f"{count:,} {kind}" for kind, count in personal.items())
        rows.append(("personal data", f"{found} ({handling})"))
    if (share := counts.get("too_long_token_share")) is not None:
        from data_pipeline.stages.preprocess import too_long_advice

        rows.append(("too long", too_long_advice(share, manifest["settings"]["preprocess"]["max_tokens"])))
    return [*rows, ("leakage", _leakage_text(leakage))]


def _leakage_text(leakage: Mapping[str, Any]) -> str:
    article, near = leakage["article_in_train"], leakage["near_duplicate_in_train"]
    if article is None or near is None:
        return "not measured: train or test is empty"
    compared, rows = leakage["test_paragraphs_compared"], leakage["test_paragraphs"]
    of = "" if compared == rows else f" (of the first {compared:,})"
    return f"{article:.1%} of the test paragraphs have their article in train, {near:.1%} a near duplicate{of}"


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument(
        "--level", choices=("size", "hash", "reembed", "canary"), metavar="{size,hash,reembed}", default="hash",
        help="size: files, sizes and headers; hash: also every byte (default); reembed: also some rows embedded again",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=64, help="rows of each split to embed again with --level reembed")


COMMANDS: Mapping[str, Command] = {
    "info": Command("describe the dataset on disk", common_arguments, _info, example="elm info --output-dir data"),
    "verify": Command(
        "verify checksums, counts, norms and alignment of all files",
        _verify_arguments,
        _verify,
        example="elm verify --level hash",
    ),
}
