"""The table of recipes: what the card of each well-known text-embedding model asks for.

The facts are in `table.yaml`, by family: a value of a family holds for all of its models, and a model overrides it.
Notes are added to those of the family. The table is validated whole when it is read, so that a typing error in it
cannot become a wrong prompt. Neither torch nor transformers is imported here.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_pipeline.config.embedding import POOLINGS
from data_pipeline.errors import ModelError
from data_pipeline.utils import converted_errors

_PATH = Path(__file__).with_name("table.yaml")
_HUB = "https://huggingface.co/"


def _known_modes(pooling: str) -> str:
    modes = pooling.split("+")
    if len(set(modes)) != len(modes) or not set(modes) <= set(POOLINGS):
        raise ValueError(f"{pooling!r} must be one or more of {', '.join(POOLINGS)}, joined by '+'")
    return pooling


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Line = Annotated[str, AfterValidator(_not_empty)]
"""Text that is not empty."""

Address = Annotated[str, Field(pattern=r"^https://\S+$")]
"""Address of a page."""


class ModelCard(BaseModel):
    """What is known of one model, with the values of its family filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Name on the hub: owner/name."""
    family: Line
    """Family in the table."""
    about: Line
    """One line about the family."""
    checked: Literal["card", "secondary", "unconfirmed"]
    """How well the entry is known: the card or the model's files were read; other documentation; general knowledge."""
    source: Address
    """Address that the entry was made from; the card where the table names no other."""
    licence: str | None = None
    """Licence as the card names it; None if it is not known."""
    pooling: Annotated[str, AfterValidator(_known_modes)] | None = None
    """How token vectors become one vector; several modes are joined by `+`. None: only the model's files say it."""
    normalize: bool | None = None
    """Whether the model gives vectors of length 1; None if it is not known."""
    similarity: Literal["cosine", "dot", "euclidean", "manhattan"] = "cosine"
    """Comparison of two vectors that the model was trained for."""
    max_length: Annotated[int, Field(gt=0)] | None = None
    """Maximum length that the card recommends, in tokens; None for no limit, or if it is not known."""
    dim: Annotated[int, Field(gt=0)] | None = None
    """Number of dimensions; None for models that do not give one dense vector for a text."""
    mrl: tuple[int, ...] = ()
    """Smaller numbers of dimensions that the model was trained to be cut to (Matryoshka), in descending order."""
    document_prompt: str = ""
    """Prefix of documents, exact to the last space; empty for none."""
    query_prompt: str = ""
    """Prefix of queries, exact to the last space or line end; empty for none."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Other prefixes by name."""
    remote_code: bool = False
    """Whether only Python code that comes with the model gives the right vectors."""
    fp16_overflows: bool = False
    """Whether it is known to give non-finite values in float16."""
    include_prompt: bool = True
    """Whether the tokens of the prompt are part of the pooling."""
    end_token: Line | None = None
    """Token that every text must end with; None where the model does not require one."""
    architecture: Line | None = None
    """`model_type` of its config.json, for display; None if it is not known."""
    refused: Line | None = None
    """Reason why this package cannot make dense vectors with the model; None if it can, or might."""
    sparse: Literal["splade", "token_weights"] | None = None
    """How it gives sparse vectors: from its logits of all words, or a weight for each token; None if it gives none."""
    notes: tuple[Line, ...] = ()
    """Known faults and hints, one sentence or two each."""

    @property
    def card(self) -> str:
        """Address of the model card."""
        return _HUB + self.name

    @model_validator(mode="after")
    def _is_consistent(self) -> "ModelCard":
        if self.dim is None and self.refused is None:
            raise ValueError("dim is missing; only a refused model may lack it")
        sizes = (self.dim or 0, *self.mrl)
        if any(size <= 0 for size in self.mrl) or sorted(set(sizes), reverse=True) != list(sizes):
            raise ValueError(f"mrl {list(self.mrl)} must be positive, in descending order and below dim {self.dim}")
        if empty := [name for name, prompt in self.prompts.items() if not prompt]:
            raise ValueError(f"the prompts {', '.join(empty)} are empty; leave them out")
        return self


@cache
def load_table() -> Mapping[str, ModelCard]:
    """Load the table of this package: cards by the names of the models, in the order of the file.

    Raises:
        ModelError: the file is damaged.
    """
    with converted_errors(OSError, ModelError, f"{_PATH.name} cannot be read", "Reinstall the package."):
        return parse_table(_PATH.read_text(encoding="utf-8"))


def parse_table(text: str) -> Mapping[str, ModelCard]:
    """Read a table in the format of `table.yaml`.

    Args:
        text: YAML with the key `families`.

    Returns:
        Cards by the names of the models, in the order of the text.

    Raises:
        ModelError: the text is not YAML, or an entry has an unknown field, a wrong value, or the name of another.
    """
    with converted_errors(yaml.YAMLError, ModelError, "the table of recipes is not valid YAML"):
        content = yaml.safe_load(text)
    families = _section(content, "the table of recipes", "families")
    cards: dict[str, ModelCard] = {}
    names: set[str] = set()
    for family, values in families.items():
        models = _section(values, f"family {family}", "models")
        shared = {key: value for key, value in values.items() if key != "models"}
        for name, own in models.items():
            if str(name).lower() in names:
                raise ModelError(f"family {family}: {name} is in the table already. Remove one of the two entries.")
            names.add(str(name).lower())
            cards[name] = _card(str(family), str(name), shared, own or {})
    return MappingProxyType(cards)


def _section(content: Any, place: str, key: str) -> dict[str, Any]:
    section = content.get(key) if isinstance(content, dict) else None
    if not isinstance(section, dict) or not section:
        raise ModelError(f"{place} must be a mapping with the key {key!r}, which names at least one entry.")
    return section


def _card(family: str, name: str, shared: dict[str, Any], own: dict[str, Any]) -> ModelCard:
    place = f"family {family}, model {name}"
    if not isinstance(own, dict) or "models" in own:
        raise ModelError(f"{place} must be a mapping of fields to values, found {own!r}.")
    notes = [*(shared.get("notes") or []), *(own.get("notes") or [])]
    defaults = {"family": family, "name": name, "source": _HUB + name}
    # An entry that was checked on its own card does not have the source of its family.
    inherited = {key: value for key, value in shared.items() if key != "source" or own.get("checked") != "card"}
    merged = defaults | inherited | own | {"notes": notes}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in merged.items()}
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'entry'}: {fault['msg']}" for fault in error.errors()
        )
        raise ModelError(f"{place}: {faults}. Correct the entry in table.yaml.") from error
