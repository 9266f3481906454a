"""Command that lists well-known embedding models and explains what each asks for: `models`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.cli.command import Command
from data_pipeline.cli.flags import Given
from data_pipeline.cli.output import Facts, Grid, Part, present
from data_pipeline.errors import ConfigError
from data_pipeline.utils import configure_logging, shown

if TYPE_CHECKING:
    from data_pipeline.embeddings.recipes import CardMatch, ModelCard

_CHECKED = {
    "card": "read from the model's card or files",
    "secondary": "read from other documentation, not from the card",
    "unconfirmed": "general knowledge that nobody has checked; read the card",
}
_MODES = {
    "last_token": "the last token",
    "cls": "the first token",
    "mean": "the mean of all tokens",
    "max": "the maximum over all tokens",
    "weightedmean": "the mean of all tokens, later ones weighted more",
    "mean_sqrt_len": "the sum of all tokens, divided by the square root of their number",
}


def _models(parsed: argparse.Namespace, given: Given) -> int:
    from data_pipeline.embeddings.recipes import CardMatch, find_card, load_table

    del given
    configure_logging(None)
    query: str = parsed.name or ""
    folder = _folder(query)
    match = find_card(query, folder)
    cards = [card for card in load_table().values() if query.lower() in f"{card.name} {card.family}".lower()]
    if match is None and len(cards) == 1 and folder is None:
        match = CardMatch(cards[0], f"{query!r}, which is part of no other name", by_name=True)
    if match:
        present(_match_as_json(match), *_explained(match))
        return 0
    if folder:
        raise ConfigError(
            f"{shown(query, 200)}: neither the path nor the files name a model of the table, so its own files alone "
            "decide how it is run. `elm models` lists the table."
        )
    if not cards:
        raise ConfigError(_unknown(query))
    count = f"\n{len(cards)} models; `elm models NAME` explains one."
    present([card.model_dump(mode="json") for card in cards], _listed(cards), count)
    return 0


def _folder(query: str) -> Path | None:
    """Return the folder that the argument names; None if it is a name, or a part of one.

    Raises:
        ConfigError: the argument can only be a path, and there is no such folder.
    """
    is_path = query.startswith((".", "/", "~")) or "\\" in query
    try:
        folder = Path(query).expanduser()
        exists = bool(query) and folder.is_dir()
        # A folder that is called like a part of a name is meant only if it has a model.
        if exists and (is_path or "/" in query or (folder / "config.json").exists()):
            return folder
    except (OSError, RuntimeError):  # a name that is too long; a user without a home
        exists = False
    if is_path and not exists:
        raise ConfigError(f"no such folder: {shown(query, 200)}. Give a model's folder, or its name on the hub.")
    return None


def _unknown(query: str) -> str:
    from data_pipeline.embeddings.recipes import nearest_names

    nearest = nearest_names(query)
    advice = f"did you mean {', '.join(nearest)}?" if nearest else "`elm models` lists all"
    return (
        f"no model or family of the table has {shown(query, 200)} in its name; {advice} A model that is not in the "
        "table runs by its own files."
    )


def _match_as_json(match: "CardMatch") -> dict[str, Any]:
    return {"evidence": match.evidence, "by_name": match.by_name, **match.card.model_dump(mode="json")}


def _listed(cards: "Sequence[ModelCard]") -> Grid:
    rows = []
    for card in cards:
        pooling = card.pooling or "its files"
        if card.refused:
            pooling = "sparse" if card.sparse else "not supported"
        remote = "yes" if card.remote_code else "no"
        rows.append(
            (
                card.name,
                _number(card.dim),
                _number(card.max_length),
                pooling,
                _prompted(card),
                remote,
                card.licence or "",
            )
        )
    columns = ("model", "dim", "tokens", "pooling", "prompts", "remote code", "licence")
    return Grid(columns, rows, right={1, 2})


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _prompted(card: "ModelCard") -> str:
    """Return which texts get a prefix."""
    sides = [side for side, prompt in (("document", card.document_prompt), ("query", card.query_prompt)) if prompt]
    return " and ".join(sides) or ("by task" if card.prompts else "none")


_SPARSE = {
    "splade": "log(1 + relu) of its logits, the largest over the tokens",
    "token_weights": "a weight for each word of a text",
}


def _explained(match: "CardMatch") -> list[Part]:
    card = match.card
    rows = [("family", f"{card.family}: {card.about}"), ("found by", match.evidence)]
    if card.refused:
        rows.append(("no dense vectors" if card.sparse else "not supported", card.refused))
    if card.sparse:
        rows.append(("sparse vectors", _SPARSE[card.sparse] + " (elm sparse --sparse.model_name)"))
    if card.pooling:
        tokens = "" if card.include_prompt else ", without those of the prompt"
        rows.append(("pooling", " and ".join(_MODES[mode] for mode in card.pooling.split("+")) + tokens))
    elif not card.refused:
        rows.append(("pooling", "as its modules.json says"))
    rows += _vector_rows(card)
    rows.append(("texts", f"at most {card.max_length:,} tokens" if card.max_length else "the limit is in its files"))
    if card.end_token:
        rows.append(("end token", f"{card.end_token!r} after every text"))
    for name, prompt in (("document", card.document_prompt), ("query", card.query_prompt), *card.prompts.items()):
        rows.append((f"prompt, {name}", repr(prompt) if prompt else "none"))
    code = "only with the Python code that comes with it (embedding.trust_remote_code)"
    rows.append(("runs", code if card.remote_code else "with the code of transformers or of this package"))
    if card.fp16_overflows:
        rows.append(("float16", "overflows; use bfloat16 or float32"))
    rows.append(("licence", card.licence or "not known; read the card"))
    rows += [("note", note) for note in card.notes]
    rows.append(("card", card.card))
    rows.append(("checked", _CHECKED[card.checked] + ("" if card.source == card.card else f": {card.source}")))
    parts: list[Part] = [card.name, Facts(rows)]
    if not match.by_name:
        parts.append("\nIts own files count for more: this is the card of the model that it was made from.")
    return parts


def _vector_rows(card: "ModelCard") -> list[tuple[str, str]]:
    if card.dim is None:
        return []
    cut = f"; can be cut to {', '.join(str(size) for size in card.mrl)}" if card.mrl else ""
    length = {True: ", normalised to length 1", False: ", not normalised by the model", None: ""}[card.normalize]
    return [("vectors", f"{card.dim:,} dimensions{length}{cut}")]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        help="name of a model, part of a name or of a family, or a folder with a model (default: all)",
    )


COMMANDS: Mapping[str, Command] = {
    "models": Command(
        "list well-known embedding models, or explain what one asks for",
        _arguments,
        _models,
        settings=False,
        example="elm models intfloat/e5-base-v2",
        group="make",
    ),
}
