"""Finds the card of a model: by its name, else by what the files of its folder say it was made from.

A fine-tuned model in a folder usually needs the prompts of the model that it was trained from, and its files name that
model. Its architecture or its number of dimensions are no evidence: hundreds of models share them. The files come from
strangers, so they are read with limits on their size, never through a link that leaves the folder, and what is damaged
is skipped with a line in the debug log; loading the model reports it.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.embeddings.recipes.table import ModelCard, load_table

logger = logging.getLogger(__name__)

_MAX_JSON_BYTES = 16_000_000  # the tokenizer_config.json of Gemma has 1.2 MB
_MAX_README_BYTES = 1_000_000  # results of MTEB make front matters of 250 kB
_MAX_REFERENCE_CHARS = 4_000
_MAX_BASE_MODEL_LINES = 50

# Files that name the model they were made from, and the fields that do, the most direct evidence first.
_FIELDS = (
    ("config.json", ("_name_or_path",)),
    ("0_Transformer/config.json", ("_name_or_path",)),  # layout of early sentence-transformers
    ("tokenizer_config.json", ("name_or_path",)),
    ("README.md", ("base_model",)),
    ("adapter_config.json", ("base_model_name_or_path",)),
    ("config_sentence_transformers.json", ("model_name_or_path", "base_model")),
    ("sentence_bert_config.json", ("model_name_or_path", "base_model")),
    ("angle_config.json", ("model_name_or_path",)),
)

_HUB_CACHE = re.compile(r"(?:^|/)models--([\w.-]+?)--([\w.-]+?)(?:/|$)")
_EARLY_CACHE = re.compile(r"(?:^|/)sentence_transformers/([A-Za-z0-9.-]+)_([\w.-]+)$")


@dataclass(frozen=True, slots=True)
class CardMatch:
    """Card that belongs to a model, and how it was found."""

    card: ModelCard
    evidence: str
    """Where the match comes from, as part of a sentence: `README.md names it as base_model`."""
    by_name: bool
    """True if the model goes by the name of the card; False if its files only say that it was made from it, so that
    its own files count for more than the card."""


def find_card(name: str, folder: Path | None = None) -> CardMatch | None:
    """Find the card of a model.

    Args:
        name: name on the hub, in any case, or a path, such as one in the cache of the hub.
        folder: folder with the files of the model, if they are on disk.

    Returns:
        The card and the evidence; None if neither the name nor the files name a model of the table.
    """
    if card := _by_name().get(name.lower()):
        return CardMatch(card, f"the name {card.name}", by_name=True)
    folder = folder.absolute() if folder else None
    for path in (name, str(folder or "")):
        if card := _card_of_reference(path):
            return CardMatch(card, f"the path, which contains the name {card.name}", by_name=True)
    if folder is None:
        return None
    for file, field, references in _references(folder):
        cards = {card.name: card for reference in references if (card := _card_of_reference(reference))}
        # A merged model names several; which of their prompts it needs is not known.
        if len(cards) == 1:
            (card,) = cards.values()
            return CardMatch(card, f"{file} names {card.name} as {field}", by_name=False)
        if cards:
            logger.debug("%s: %s of %s names several models of the table: %s", folder, field, file, ", ".join(cards))
    return None


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Names of the table that resemble a name, the nearest first.

    Args:
        name: a name without a card, with or without its owner.
        count: maximum number of names.
    """
    by_key = {key if "/" in name else key.partition("/")[2]: card.name for key, card in _by_name().items()}
    close = difflib.get_close_matches(name.lower()[:200], list(by_key), n=count, cutoff=0.5)
    return [by_key[key] for key in close]


@cache
def _by_name() -> dict[str, ModelCard]:
    return {name.lower(): card for name, card in load_table().items()}


def _card_of_reference(reference: str) -> ModelCard | None:
    """Return the card that a name or a path refers to; a path must end in owner/name, or be one of a known cache."""
    text = reference.strip().replace("\\", "/").rstrip("/")
    if not text or len(text) > _MAX_REFERENCE_CHARS:
        return None
    found = _HUB_CACHE.search(text) or _EARLY_CACHE.search(text)
    owner_and_name = "/".join(found.groups()) if found else "/".join(text.split("/")[-2:])
    return _by_name().get(owner_and_name.lower())


def _references(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield file, field and the models that the field names, for every file that names some."""
    for file, fields in _FIELDS:
        limit = _MAX_README_BYTES if file == "README.md" else _MAX_JSON_BYTES
        content = _read(folder, file, limit)
        if content is None:
            continue
        values = _front_matter(content, file) if file == "README.md" else _json_object(content, file)
        for field in fields:
            value = values.get(field)
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            if texts:
                yield file, field, texts


def _read(folder: Path, name: str, limit: int) -> bytes | None:
    """Read a file of a folder; None if there is none, or it is a link to another place, or too large."""
    # In the cache of the hub, files are links to the folder `blobs` beside `snapshots`.
    in_cache = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    root = folder.parent.parent if in_cache else folder
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            logger.debug("%s: %s is no file of this folder; it is not read", folder, name)
            return None
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a circle of links
        logger.debug("%s: %s cannot be read: %s", folder, name, error)
        return None
    if len(content) > limit and name != "README.md":  # of a README only the beginning is needed
        logger.debug("%s: %s has more than %d bytes; it is not read", folder, name, limit)
        return None
    return content[:limit]


def _json_object(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        logger.debug("%s is not valid JSON: %s", name, error)
        return {}
    return value if isinstance(value, dict) else {}


def _front_matter(content: bytes, name: str) -> dict[str, Any]:
    """Field `base_model` of the front matter of a model card; the other fields are not parsed."""
    lines = content.decode("utf-8-sig", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    block: list[str] = []
    for line in lines[1:]:
        if line.strip() == "---" or len(block) >= _MAX_BASE_MODEL_LINES:
            break
        if block and not re.match(r"\s|-", line):
            break
        if block or line.startswith("base_model:"):
            block.append(line[:_MAX_REFERENCE_CHARS])
    try:
        value = yaml.safe_load("\n".join(block))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        logger.debug("the front matter of %s is not valid YAML: %s", name, error)
        return {}
    return value if isinstance(value, dict) else {}
