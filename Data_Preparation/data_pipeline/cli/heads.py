"""Commands for heads over the vectors: `heads convert`, `heads train` and `heads evaluate`."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path
from data_pipeline.cli.flags import Given, add_model_flags
from data_pipeline.cli.output import Facts, Part, present
from data_pipeline.config import EmbeddingConfig, explain
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import atomic_write_json, configure_logging

if TYPE_CHECKING:
    from data_pipeline.heads import Evaluation, Head, Labelled, Trained


def _convert(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.embeddings import load_embedder
    from data_pipeline.heads import identity_of, load_head, save_head

    configure_logging(None)
    head = load_head(parsed.head)
    settings = given(parsed).get("embedding", {})
    if parsed.embedder is not None:
        config = _validated(EmbeddingConfig, {**settings, "model_name": parsed.embedder})
        head = head.bound_to(identity_of(load_embedder(config)))
    elif settings:
        raise ConfigError("--embedding flags need --embedder MODEL, the model that they configure")
    save_head(head, parsed.folder, parsed.overwrite)
    present({"folder": parsed.folder, **_head_to_json(head)}, str(parsed.folder), Facts(_head_rows(head)))
    return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("head", help="a .ckpt or .pt file, the folder of a head, or the name of a published head")
    parser.add_argument("folder", type=local_path, help="output folder of the head")
    parser.add_argument("--embedder", help="embedding model of the head; it is loaded, and identified in the head")
    parser.add_argument("--overwrite", action="store_true", help="replace a head that exists")


def _train(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.config.training import TrainingConfig
    from data_pipeline.heads import identity_of_maker, save_head, train_head

    config = _validated(TrainingConfig, parsed.training(parsed))
    if parsed.on == "test":
        raise ConfigError("--on test is for evaluation only; train on another split")
    data = _labelled(parsed, given, parsed.on, parsed.labels)
    trained = train_head(data, config, identity_of_maker(data, probes=not parsed.without_probes))
    save_head(trained.head, parsed.folder, parsed.overwrite)
    document = {
        "folder": parsed.folder,
        **_head_to_json(trained.head),
        "rows": {"train": len(data) - len(trained.validation), "validation": len(trained.validation)},
        "curve": trained.curve,
        "losses": trained.losses,
    }
    present(document, str(parsed.folder), *_training_parts(data, trained))
    return 0


def _training_parts(data: "Labelled", trained: "Trained") -> list[Part]:
    best = min(trained.curve, key=lambda point: point["validation_loss"])
    rows = [
        ("rows", f"{len(data) - len(trained.validation):,} to train on, {len(trained.validation):,} held out"),
        ("best epoch", f"{best['epoch']:.0f} of {len(trained.curve)}, validation loss {best['validation_loss']:.4f}"),
    ]
    if len(trained.losses) > 1:
        rows.append(("seeds", ", ".join(f"{seed}: {loss:.4f}" for seed, loss in trained.losses.items())))
    curve = "\n".join(
        f"  {point['epoch']:5.0f}  {point['train_loss']:10.4f}  {point['validation_loss']:15.4f}"
        for point in trained.curve
    )
    return [Facts(_head_rows(trained.head) + rows), f"  epoch  train loss  validation loss\n{curve}"]


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from data_pipeline.config.training import TrainingConfig

    common_arguments(parser)
    parser.add_argument("folder", type=local_path, help="output folder of the head")
    _label_arguments(parser, default_split="train")
    parser.add_argument(
        "--without-probes", action="store_true",
        help="do not load the embedder; the head then identifies it by its settings only",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a head that exists")
    parser.set_defaults(training=add_model_flags(parser, TrainingConfig, "training"))


def _evaluate(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.heads import evaluate_head, load_head

    data = _labelled(parsed, given, parsed.on, parsed.labels)
    head = load_head(parsed.head)
    chosen_on = _chosen_on(parsed, given) if parsed.wanted else None
    evaluation = evaluate_head(
        head, data, parsed.wanted, parsed.positive_from, chosen_on, rounds=parsed.bootstrap, seed=parsed.seed
    )
    if isinstance(parsed.json, Path):
        atomic_write_json(parsed.json, evaluation.to_json())
    present(evaluation.to_json(), _evaluation_text(evaluation, data.where, (chosen_on or data).where))
    return 0


def _chosen_on(parsed: argparse.Namespace, given: Given) -> "Labelled | None":
    """Return the rows that thresholds are chosen on; None for the rows that are evaluated."""
    from data_pipeline.heads.labelled import has_vectors

    if parsed.thresholds_labels:
        return _labelled(parsed, given, parsed.thresholds_from, parsed.thresholds_labels)
    if parsed.labels and has_vectors(parsed.labels[0]):
        return None
    if parsed.thresholds_from != parsed.on:
        return _labelled(parsed, given, parsed.thresholds_from, parsed.labels)
    if parsed.on == "test":
        raise ConfigError("thresholds cannot be chosen on the test split; use --thresholds-from val")
    return None


def _evaluation_text(evaluation: "Evaluation", where: str, chosen_on: str) -> str:
    width = max(len(name) for name in [*evaluation.measures, "measure"])
    lines = [f"{evaluation.rows:,} rows, {where}", f"  {'measure':<{width}}  {'value':>8}  95 % interval"]
    for name, measure in evaluation.measures.items():
        interval = "" if math.isnan(measure.low) else f"{measure.low:.4f} to {measure.high:.4f}"
        lines.append(f"  {name:<{width}}  {measure.value:8.4f}  {interval}")
    scores = {label: score for label, score in evaluation.f1.items() if not math.isnan(score)}
    if scores:
        lines.append("  F1 by label that occurs: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    if evaluation.thresholds:
        lines.append(f"  thresholds chosen on {chosen_on}:")
    for threshold in evaluation.thresholds:
        if math.isinf(threshold.score):
            lines.append(f"  precision {threshold.wanted:g}: no threshold reaches it")
            continue
        lines.append(
            f"  precision {threshold.wanted:g}: score >= {threshold.score:.4f} keeps {threshold.rows:,} rows, "
            f"precision {threshold.precision:.3f}, recall {threshold.recall:.3f}"
        )
    return "\n".join(lines)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("head", help="folder, file or name of a head")
    _label_arguments(parser, default_split="val")
    parser.add_argument(
        "--precision", type=float, nargs="+", default=[], dest="wanted", help="precisions that need a threshold"
    )
    parser.add_argument("--positive-from", type=float, help="lowest label that counts as positive, for thresholds")
    parser.add_argument("--thresholds-from", choices=SPLITS, default="val", help="split to choose thresholds on (val)")
    parser.add_argument(
        "--thresholds-labels", type=local_path, nargs="+", help="files to choose thresholds on, like --labels"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, help="rounds for the intervals; 0 for none (1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    parser.add_argument(
        "--json", type=local_path, nargs="?", const=True, metavar="FILE",
        help="print the result as one JSON document, or write it to this file beside what is printed",
    )  # fmt: skip


def _label_arguments(parser: argparse.ArgumentParser, default_split: str) -> None:
    parser.add_argument("--label", default="label", help="column with the labels (label)")
    parser.add_argument(
        "--labels", type=local_path, nargs="+",
        help="label files: tables with text_id or document_id for the corpus, or HDF5, parquet, JSON Lines with "
        "vectors; default: metadata of the corpus",
    )  # fmt: skip
    parser.add_argument("--group", default="train", help="group in HDF5 files (train)")
    parser.add_argument("--on", choices=SPLITS, default=default_split, help=f"split of the corpus ({default_split})")


def _labelled(parsed: argparse.Namespace, given: Given, split: Any, labels: list[Path] | None) -> "Labelled":
    from data_pipeline.heads import labelled
    from data_pipeline.store.reader import open_rows

    if labels and labelled.has_vectors(labels[0]):
        configure_logging(None)
        return labelled.join([labelled.labels_of_file(path, parsed.label, parsed.group) for path in labels])
    rows = open_rows(configure_existing(parsed, given), split)
    if not labels:
        return labelled.labels_of_rows(rows, parsed.label)
    return labelled.join([labelled.labels_of_table(rows, path, parsed.label) for path in labels])


def _head_rows(head: "Head") -> list[tuple[str, str]]:
    shapes = " -> ".join([str(head.dim), *(str(len(layer.bias)) for layer in head.layers)])
    labels = ", ".join(head.labels[:12]) + (f", ... ({len(head.labels)})" if len(head.labels) > 12 else "")
    settings = head.embedder.settings if head.embedder else {}
    probes = " and probe vectors" if head.embedder is not None and head.embedder.probes is not None else ""
    embedder = ", ".join(f"{name} {value!r}" for name, value in settings.items()) + probes if settings else "unknown"
    return [("kind", head.kind), ("labels", labels), ("layers", shapes), ("embedder", embedder)]


def _head_to_json(head: "Head") -> dict[str, Any]:
    return {
        "kind": head.kind,
        "labels": head.labels,
        "layers": [head.dim, *(len(layer.bias) for layer in head.layers)],
        "embedder": head.embedder.settings if head.embedder else None,
    }


def _validated(model: Any, values: Mapping[str, Any]) -> Any:
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


COMMANDS: Mapping[str, Command] = {
    "heads convert": Command(
        "convert a head of another system",
        _convert_arguments,
        _convert,
        example="elm heads convert edu.ckpt heads/edu --embedder Snowflake/snowflake-arctic-embed-m-v2.0",
        group="enrich",
    ),
    "heads train": Command(
        "train a head on vectors and labels",
        _train_arguments,
        _train,
        example="elm heads train heads/edu --labels labels.csv --label grade",
        group="enrich",
    ),
    "heads evaluate": Command(
        "measure a head on vectors and labels",
        _evaluate_arguments,
        _evaluate,
        example="elm heads evaluate heads/edu --labels labels.csv --label grade",
        group="enrich",
    ),
}
