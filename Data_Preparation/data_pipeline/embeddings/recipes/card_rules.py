"""What the card of a model changes in the recipe that its files give.

The card wins where a model goes by its name and the two disagree: makers correct a card more often than the files
beside it. A fine-tune that only names the model it was made from keeps what its own files say, and gets the rest.
"""

import logging
from dataclasses import replace
from pathlib import Path

from data_pipeline.embeddings.recipes.match import CardMatch, find_card
from data_pipeline.embeddings.recipes.recipe import Recipe, warn_about_assumptions
from data_pipeline.errors import ModelError

logger = logging.getLogger(__name__)


def check_runnable(match: CardMatch | None, trust_remote_code: bool, comes_with_code: bool = True) -> None:
    """Check that this package can compute a model's own vectors.

    Args:
        match: card of the model; None if it has none.
        trust_remote_code: whether Python code that comes with the model may be run.
        comes_with_code: whether the model's files name such code.

    Raises:
        ModelError: the model is of a kind that is not run, or needs code that is not allowed.
    """
    if match is None:
        return
    card = match.card
    if card.refused and card.sparse and match.by_name:
        raise ModelError(
            f"{card.name} gives no dense vectors: {card.refused}. Set sparse.model_name to it, and "
            "embedding.model_name to a dense model."
        )
    if card.refused and match.by_name:
        raise ModelError(f"{card.name} cannot be run by this package: {card.refused}. Choose another model.")
    if card.remote_code and not trust_remote_code and (match.by_name or comes_with_code):
        raise ModelError(
            f"{card.name} gives its own vectors only with the Python code that comes with it, which is not run unless "
            "you allow it. Read that code, then set embedding.trust_remote_code; or choose another model."
        )


def apply_card(recipe: Recipe, match: CardMatch) -> Recipe:
    """Complete and correct the recipe of a model by its card.

    Args:
        recipe: what the model's files say.
        match: card of the model, or of the model that it was made from.
    """
    card = match.card
    wins = match.by_name and card.checked != "unconfirmed"
    changes: dict[str, object] = {
        "end_token": recipe.end_token or card.end_token,
        "fp16_overflows": recipe.fp16_overflows or card.fp16_overflows,
        "include_prompt": recipe.include_prompt and card.include_prompt,
    }
    # A model with adapters has a prompt for each of them, which was chosen with the adapter.
    prompts = {} if recipe.task else {"prompt": card.document_prompt, "query_prompt": card.query_prompt}
    stated = {**prompts, "pooling": card.pooling, "similarity": card.similarity}
    for field, value in stated.items():
        own = getattr(recipe, field)
        is_own = bool(own) and field not in recipe.assumed
        if not value or own == value or (is_own and not wins):
            continue
        changes[field] = value
        if is_own:
            logger.warning("%s: the card says %s %r, the files %r; the card's is used", card.name, field, value, own)
        else:
            logger.info("%s (%s): %s %r, which the files do not say", card.name, match.evidence, field, value)
    if wins and card.max_length and card.max_length != recipe.max_length:
        changes["max_length"] = min(card.max_length, recipe.positions or card.max_length)
        logger.info("%s: at most %d tokens (card)", card.name, changes["max_length"])
    return replace(recipe, **changes, assumed=recipe.assumed - set(changes))  # type: ignore[arg-type]


def complete_recipe(name: str, folder: Path, recipe: Recipe, pooling: str) -> Recipe:
    """Complete the recipe of a model by its card, or warn about what is assumed of a model without one.

    Args:
        name: name of the model in the config.
        folder: folder of its files.
        recipe: what its files say.
        pooling: pooling of the config, which the card does not change unless it is `auto`.
    """
    if recipe.default_prompt and not recipe.prompt:
        logger.warning(
            "%s: its files have the default prompt %r, which is for texts of any kind and added to neither documents "
            "nor queries; set embedding.prompt to use it", name, recipe.default_prompt,
        )  # fmt: skip
    match = find_card(name, folder)
    if match is None:
        warn_about_assumptions(name, recipe)
        return recipe
    completed = apply_card(recipe, match)
    return completed if pooling == "auto" else replace(completed, pooling=recipe.pooling)


def warn_about_dim(name: str, dim: int, width: int, folder: Path) -> None:
    """Warn where vectors are cut to a size that the model of a folder was not trained for."""
    match = find_card(name, folder)
    if match is None or dim >= width or dim in match.card.mrl:
        return
    sizes = ", ".join(map(str, match.card.mrl)) or "none"
    logger.warning(
        "%s was not trained to be cut to %d dimensions (sizes of %s: %s); measure the loss",
        name, dim, match.card.name, sizes,
    )  # fmt: skip
