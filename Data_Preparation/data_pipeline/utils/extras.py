"""Optional dependencies."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from types import ModuleType
from typing import TYPE_CHECKING

from data_pipeline.errors import MissingExtraError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_NAME = "elm-data-preparation"
_MEANINGS = {
    "offline": "the bundled embedding model, weights included",
    "fast": "token counts at hundreds of MB/s",
    "gpu": "flash attention 2",
    "fp8": "matrix products in float8",
    "openvino": "another engine for CPUs",
    "onnx": "another engine for CPUs, for models with an export",
    "html": "the text of web pages",
    "warc": "web archives (WARC)",
    "api": "embedders behind an API",
    "http": "corpora at https://",
    "s3": "data and corpora on S3",
    "gcs": "data and corpora on Google Cloud Storage",
    "annotation": "HDF5 and JSON Lines pipelines, Slurm",
    "ray": "workers on a Ray cluster",
    "filters": "quality presets, languages, phone numbers",
    "presidio": "another search for personal data",
    "weak-labels": "candidates, judge and measures of weak labels",
    "rerank": "cross-encoders",
    "selection": "wrong labels, readability",
    "report": "the HTML report",
    "umap": "another map in the report and the explorer",
    "explore": "the explorer",
    "study": "subsets compared by training on them",
    "workflow": "sweeps of the study",
    "tracking": "runs logged to Weights & Biases",
    "notebook": "notebooks",
    "all": "everything for users but engines and clusters",
    "bench": "benchmarks",
    "bench-loader": "benchmarks of loaders",
    "bench-quality": "benchmarks of filters",
    "bench-decoder": "benchmarks of a decoder",
    "docs": "the documentation site",
    "dev": "tests of this package",
}
"""What an extra is for. Which extras there are, and what they need, is read from the installed package."""


@dataclass(frozen=True)
class Extra:
    """Optional group of dependencies."""

    name: str
    about: str
    """What it is for; empty if that is not known."""
    missing: tuple[str, ...]
    """Requirements that are not installed, or in another version."""

    @property
    def pip_command(self) -> str:
        """Command that installs it."""
        return f'pip install "{_NAME}[{self.name}]"'


def list_extras() -> list[Extra]:
    """List the extras of the installed package; none if the package itself is not installed."""
    try:
        package = distribution(_NAME)
    except PackageNotFoundError:
        return []
    names = package.metadata.get_all("Provides-Extra") or []
    return [Extra(name, _MEANINGS.get(name, ""), tuple(dict.fromkeys(_missing(package, name)))) for name in names]


def _missing(package: Distribution, extra: str) -> Iterator[str]:
    from packaging.requirements import Requirement  # of no use to a training loop

    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.marker.evaluate({"extra": ""}):  # a dependency of every installation
            continue
        if requirement.name == _NAME:
            for other in sorted(requirement.extras):
                yield from _missing(package, other)
        elif not _is_installed(requirement):
            yield f"{requirement.name}{requirement.specifier}"


def _is_installed(requirement: "Requirement") -> bool:
    try:
        installed = distribution(requirement.name).version
    except PackageNotFoundError:
        return False
    return requirement.specifier.contains(installed, prereleases=True)


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: name of the module.
        extra: extra of this package that installs the module.
        why: name of the feature that needs the module, for the message.

    Raises:
        MissingExtraError: the module is not installed; the message has the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{why} needs the package {module!r}, which is not installed. "
            f'Install it with: pip install "{_NAME}[{extra}]" '
            f'(in a checkout: pip install -e ".[{extra}]")'
        ) from error
