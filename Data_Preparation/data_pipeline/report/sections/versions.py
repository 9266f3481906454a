"""Section with the versions of a dataset over time."""

from data_pipeline.config import Config
from data_pipeline.report.blocks import Block, Section, Table
from data_pipeline.report.figures import curves
from data_pipeline.stages.versions import describe_versions
from data_pipeline.utils import human_bytes


def versions_section(config: Config) -> Section | None:
    """List the versions that are kept, with their rows; None for a dataset with one version."""
    versions = describe_versions(config)
    if len(versions) < 2:
        return None
    splits = list(dict.fromkeys(split for version in versions for split in version.rows))
    rows = [
        (
            f"{version.number}" + (" (present)" if version.is_present else ""),
            f"{version.made:%Y-%m-%d %H:%M} UTC",
            *(f"{version.rows.get(split, 0):,}" for split in splits),
            f"{version.added:,}",
            f"{version.removed:,}",
            version.model or "none",
            human_bytes(version.own_bytes),
        )
        for version in versions
    ]
    columns = ("version", "made", *splits, "rows added", "rows removed", "vectors of", "bytes of its own")
    numbers = frozenset({*range(2, 4 + len(splits)), len(columns) - 1})
    positions = [f"{version.number}" for version in versions]
    lines = {split: (positions, [float(version.rows.get(split, 0)) for version in versions]) for split in splits}
    alt = "; ".join(f"version {version.number}: {sum(version.rows.values()):,} rows" for version in versions)
    blocks: list[Block] = [
        Table("Versions", columns, rows, numbers),
        curves("Rows by version", alt, lines, "version", "rows"),
    ]
    return Section("versions", "Versions", blocks)
