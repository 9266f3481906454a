"""Commands `versions`, `diff`, `rollback`, `compact` and `gc`: the versions of a dataset."""

import argparse
from collections.abc import Mapping

from data_pipeline.cli.command import Command, common_arguments, configure_existing
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, present, say
from data_pipeline.errors import ConfigError
from data_pipeline.utils import human_bytes


def _versions(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.versions import describe_versions

    rows, versions = [], describe_versions(configure_existing(parsed, given))
    for version in versions:
        counts = ", ".join(f"{split} {count:,}" for split, count in version.rows.items())
        model = f", vectors of {version.model}" if version.model else ", no vectors"
        size = "the present one" if version.is_present else f"{human_bytes(version.own_bytes)} of its own"
        came = f", {version.added:,} rows added and {version.removed:,} removed since version {version.parent}"
        size += came if version.added or version.removed else ""
        rows.append((f"{version.number}", f"{version.made:%Y-%m-%d %H:%M} UTC  {counts}{model} ({size})"))
    present({"versions": versions}, Facts(rows))
    return 0


def _diff(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.stages.versions import compare_versions

    found = compare_versions(configure_existing(parsed, given), parsed.before, parsed.after)
    rows = [
        (split, f"{counts['added']:,} rows added, {counts['removed']:,} removed, {counts['changed']:,} changed")
        for split, counts in found.rows.items()
    ]
    rows += [("setting", change) for change in found.settings]
    rows += [("vectors", change) for change in found.vectors]
    before, after = found.leakage
    if before is not None and after is not None:
        rows.append(("leakage", f"{before:.2%} of the test rows had a near duplicate in train, now {after:.2%}"))
    document = {
        "before": parsed.before,
        "after": parsed.after,
        "rows": {split: {name: counts[name] for name in ("added", "removed", "changed")}
                 for split, counts in found.rows.items()},
        "settings": found.settings,
        "vectors": found.vectors,
        "leakage": {"before": before, "after": after},
    }  # fmt: skip
    present(document, Facts(rows))
    return 0


def _rollback(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.upkeep import roll_back

    config = configure_existing(parsed, given)
    number = roll_back(config, parsed.number)
    present(
        {"folder": config.processed_dir, "version": number, "same_as": parsed.number},
        f"{config.shown_location}: version {number} is version {parsed.number} again; version {number - 1} is kept",
    )
    return 0


def _gc(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.upkeep import remove_garbage
    from data_pipeline.stages.versions import bytes_in, find_garbage, find_leftovers
    from data_pipeline.store.versions import own_bytes, version_folder

    if parsed.keep < 0:
        raise ConfigError(f"--keep must be 0 or more, found {parsed.keep}")
    config = configure_existing(parsed, given)
    garbage, leftovers = find_garbage(config, parsed.keep), find_leftovers(config)
    if not (garbage or leftovers):
        nothing = f"{config.shown_location}: nothing to remove; earlier versions to keep: {parsed.keep}"
        present({"remove": [], "removed": False, "bytes": 0}, nothing)
        return 0
    folders = [version_folder(folder, number) for folder, number in garbage]
    say(Facts([("remove", str(folder)) for folder in [*folders, *leftovers]]))
    size = own_bytes(folders) + sum(bytes_in(folder) for folder in leftovers)
    found = {"remove": [*folders, *leftovers], "removed": parsed.yes, "bytes": size}
    if not parsed.yes:
        present(found, f"this would free {human_bytes(size)}; add --yes to do it")
        return 0
    freed = remove_garbage(config, parsed.keep)
    present({**found, "bytes": freed}, f"freed {human_bytes(freed)}")
    return 0


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=int, help="number of a version")
    parser.add_argument("after", type=int, help="number of another version")
    common_arguments(parser)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("number", type=int, help="number of an earlier version")
    common_arguments(parser)


def _gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", type=int, default=0, help="number of earlier versions to keep (default: none)")
    parser.add_argument("--yes", action="store_true", help="remove them; without it, only say what would be freed")
    common_arguments(parser)


def _compact(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.execution.upkeep import compact
    from data_pipeline.stages.compact import plan_compaction

    config = configure_existing(parsed, given)
    plan = plan_compaction(config)
    if plan is None and not parsed.yes:
        nothing = f"{config.shown_location}: nothing to compact: no deleted rows, and no more files than needed"
        present({"plan": None, "version": None}, nothing)
        return 0
    if plan is not None:
        rows = [("deleted rows", f"{plan.deleted:,} (about {human_bytes(plan.deleted_bytes)})")]
        rows.append(("files", f"{plan.files:,}, {plan.files_after:,} after it"))
        rows += [("make again", name) for name in plan.made_again]
        say(Facts(rows))
    if not parsed.yes:
        advice = "rows would move; the version before is kept until elm gc removes it. Add --yes to do it"
        present({"plan": plan, "version": None}, advice)
        return 0
    version = compact(config)
    done = f"{config.shown_location}: version {version}; elm gc --keep 0 frees the space of the ones before"
    present({"plan": plan, "version": version}, done)
    return 0


def _compact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do it; without it, only say what would be done")
    common_arguments(parser)


COMMANDS: Mapping[str, Command] = {
    "versions": Command("list the versions of a dataset", common_arguments, _versions, example="elm versions"),
    "diff": Command(
        "say what differs between two versions of a dataset", _diff_arguments, _diff, example="elm diff 1 2"
    ),
    "rollback": Command(
        "make an earlier version of a dataset the present one",
        _rollback_arguments,
        _rollback,
        example="elm rollback 1",
        group="maintain",
    ),
    "compact": Command(
        "rewrite a dataset that has grown in few files",
        _compact_arguments,
        _compact,
        example="elm compact --yes",
        group="maintain",
    ),
    "gc": Command(
        "remove earlier versions of a dataset",
        _gc_arguments,
        _gc,
        example="elm gc --keep 1 --yes",
        group="maintain",
    ),
}
