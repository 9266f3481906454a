"""Commands for heads and scores: `heads`, `annotate`, and the two file pipelines."""

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data_pipeline.cli.command import Command, common_arguments, configure_existing, local_path, say
from data_pipeline.cli.flags import Given, add_model_flags
from data_pipeline.config import EmbeddingConfig, explain
from data_pipeline.errors import ConfigError
from data_pipeline.types import SPLITS
from data_pipeline.utils import atomic_write_json, configure_logging, format_table

if TYPE_CHECKING:
    from data_pipeline.heads import Evaluation, Head, Labelled, Trained
    from data_pipeline.integrations.ml_filter import JobReport


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
    say(f"{parsed.folder}\n{format_table(_head_rows(head))}")
    return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("head", help="a .ckpt or .pt file, the folder of a head, or the name of a published head")
    parser.add_argument("folder", type=local_path, help="output folder of the head")
    parser.add_argument("--embedder", help="embedding model of the head; it is loaded, and identified in the head")
    _overwrite_argument(parser)


def _train(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.config.training import TrainingConfig
    from data_pipeline.heads import identity_of_maker, save_head, train_head

    config = _validated(TrainingConfig, parsed.training(parsed))
    if parsed.on == "test":
        raise ConfigError("--on test is for evaluation only; train on another split")
    data = _labelled(parsed, given, parsed.on, parsed.labels)
    trained = train_head(data, config, identity_of_maker(data, probes=not parsed.without_probes))
    save_head(trained.head, parsed.folder, parsed.overwrite)
    say(_training_text(parsed.folder, data, trained))
    return 0


def _training_text(folder: Path, data: "Labelled", trained: "Trained") -> str:
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
    return f"{folder}\n{format_table(_head_rows(trained.head) + rows)}\n  epoch  train loss  validation loss\n{curve}"


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from data_pipeline.config.training import TrainingConfig

    common_arguments(parser)
    parser.add_argument("folder", type=local_path, help="output folder of the head")
    _label_arguments(parser, default_split="train")
    parser.add_argument(
        "--without-probes", action="store_true",
        help="do not load the embedder; the head then identifies it by its settings only",
    )  # fmt: skip
    _overwrite_argument(parser)
    parser.set_defaults(training=add_model_flags(parser, TrainingConfig, "training"))


def _evaluate(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.heads import evaluate_head, load_head

    data = _labelled(parsed, given, parsed.on, parsed.labels)
    head = load_head(parsed.head)
    chosen_on = _chosen_on(parsed, given) if parsed.wanted else None
    evaluation = evaluate_head(
        head, data, parsed.wanted, parsed.positive_from, chosen_on, rounds=parsed.bootstrap, seed=parsed.seed
    )
    if parsed.json is not None:
        atomic_write_json(parsed.json, evaluation.to_json())
    say(_evaluation_text(evaluation, data.where, (chosen_on or data).where))
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
    parser.add_argument("--json", type=local_path, help="also write the result to this file")


def _annotate(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.scores import annotate
    from data_pipeline.heads import load_head

    config = configure_existing(parsed, given, "annotate.log")
    heads = {name: load_head(source) for name, source in _parse_heads(parsed.heads).items()}
    results = annotate(config, heads, parsed.splits, parsed.overwrite, parsed.device)
    columns = next(iter(results.values())).columns
    rows = [
        (str(split), f"{result.rows:,} rows{', finished before' if result.skipped else ''}")
        for split, result in results.items()
    ]
    rows += [("columns", ", ".join(columns)), ("files", str(config.scores_dir))]
    say(format_table(rows) + f'\nRead them:\n  ELMDataset({str(config.data_dir)!r}, where="...")[0]["metadata"]')
    return 0


def _annotate_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument(
        "--heads",
        nargs="+",
        required=True,
        metavar="NAME=PATH",
        help="heads and their names",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="splits to score (default: all)")
    parser.add_argument("--device", default="cpu", help="scoring device: cpu (default), cuda, cuda:1")
    parser.add_argument("--log-file", type=local_path, help="path of the log file")
    _overwrite_argument(parser)


def _parse_heads(pairs: list[str]) -> dict[str, str]:
    heads: dict[str, str] = {}
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not equals or not name or not source:
            raise ConfigError(f"--heads takes NAME=PATH, found {pair!r}")
        if name in heads:
            raise ConfigError(f"--heads names {name!r} twice")
        heads[name] = source
    return heads


def _embedding_pipeline(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.integrations.ml_filter import run_embedding_pipeline

    return _pipeline(parsed, run_embedding_pipeline)


def _annotation_pipeline(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.integrations.ml_filter import run_annotation_pipeline

    return _pipeline(parsed, run_annotation_pipeline)


def _pipeline(parsed: argparse.Namespace, run: "Callable[..., JobReport]") -> int:
    configure_logging(None)
    report = run(parsed.config_file_path, overwrite=parsed.overwrite)
    if report.slurm_job_id is not None:
        say(
            f"submitted to Slurm as job {report.slurm_job_id}; reports will be in {report.logging_dir}\n"
            "Run the same command again when it has ended: what is finished is skipped."
        )
        return 0
    skipped = sum(file.skipped for file in report.files)
    say(
        f"Done in {report.seconds:.1f} s: {report.rows:,} rows in {len(report.files)} files"
        + (f", {skipped} of them finished before" if skipped else "")
        + f"; report in {report.logging_dir}"
    )
    return 0


def _pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config_file_path", type=local_path, required=True, help="YAML file of the job")
    _overwrite_argument(parser)


def _overwrite_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what was made with other settings")


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
    ),
    "heads train": Command(
        "train a head on vectors and labels",
        _train_arguments,
        _train,
        example="elm heads train heads/edu --labels labels.csv --label grade",
    ),
    "heads evaluate": Command(
        "measure a head on vectors and labels",
        _evaluate_arguments,
        _evaluate,
        example="elm heads evaluate heads/edu --labels labels.csv --label grade",
    ),
    "annotate": Command(
        "score the paragraphs of a corpus with heads",
        _annotate_arguments,
        _annotate,
        example="elm annotate --heads edu=heads/edu",
    ),
    "run_embedding_pipeline": Command(
        "embed JSON Lines files to HDF5, configured by a YAML file",
        _pipeline_arguments,
        _embedding_pipeline,
        settings=False,
        example="elm run_embedding_pipeline --config_file_path embedding_job.yaml",
    ),
    "run_annotation_pipeline": Command(
        "score HDF5 files to JSON Lines, configured by a YAML file",
        _pipeline_arguments,
        _annotation_pipeline,
        settings=False,
        example="elm run_annotation_pipeline --config_file_path annotation_job.yaml",
    ),
}
