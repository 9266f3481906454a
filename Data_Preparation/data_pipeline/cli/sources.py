"""Command that shows what a corpus has: `sources`."""

import argparse
import shlex
from collections.abc import Mapping

from data_pipeline.cli.command import Command
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present, say
from data_pipeline.config import PreprocessConfig
from data_pipeline.utils import configure_logging, human_bytes


def _sources(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.download.preview import length_advice, preview_corpus

    del given
    configure_logging(None)
    preview = preview_corpus(parsed.path, parsed.records)
    files = preview.formats[preview.source]
    others = ", ".join(f"{count} {name}" for name, count in preview.formats.items() if name != preview.source)
    size = "" if preview.bytes is None else f", {human_bytes(preview.bytes)}"
    table = [
        ("format", preview.source),
        ("files", f"{files:,}{size}" + (f"; not looked at: {others}" if others else "")),
        ("read", f"{preview.records:,} records, texts of {preview.mean_chars:,.0f} characters on average"),
    ]
    say(Facts(table))
    if preview.fields:
        width = max(len(field.name) for field in preview.fields)
        kinds = max(len(field.kind) for field in preview.fields)
        say("\nfields")
        for field in preview.fields:
            missing = preview.records - field.filled
            note = f" (missing or empty in {missing})" if missing else ""
            say(f"  {field.name:<{width}}  {field.kind:<{kinds}}  {field.example}{note}")
    words = ["elm", "run", "--source", preview.source]
    for name, values in preview.settings.items():
        words += [f"--corpus.{name}", *values]
    preprocess = PreprocessConfig()
    advice = length_advice(preview.mean_section_chars, preprocess.max_tokens, preprocess.min_tokens)
    document = {
        "source": preview.source,
        "files": files,
        "bytes": preview.bytes,
        "other_formats": {name: count for name, count in preview.formats.items() if name != preview.source},
        "records_read": preview.records,
        "mean_chars": preview.mean_chars,
        "fields": preview.fields,
        "settings": preview.settings,
        "command": words + (shlex.split(advice, comments=True) if advice else []),
    }
    command = shlex.join(words) + (f" \\\n    {advice}" if advice else "")
    present(document, f"\nread it by\n  {command}", "Add --limit 1000 to try it on the first documents.")
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="+", help="files, folders, patterns, URLs; or a dataset of the hub (owner/name)")
    parser.add_argument("--records", type=int, default=100, metavar="N", help="number of records to read (default 100)")


COMMANDS: Mapping[str, Command] = {
    "sources": Command(
        "show the format and fields of a corpus, and how to read it",
        _arguments,
        _sources,
        settings=False,
        example="elm sources my_folder",
        group="make",
    ),
}
