"""Fine-tuning of a transformer on a subset with the Trainer of transformers.

Texts are padded to the longest of their batch. The seed decides the weights of the new layer, the data order and
dropout; the number of epochs is fixed, and no rows are held out.
"""

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.model_files import ModelFiles, find_model
from data_pipeline.errors import ModelError
from data_pipeline.study.config import StudyModelConfig, StudyTrainingConfig
from data_pipeline.types import Float32Array, IntArray
from data_pipeline.utils import require

logger = logging.getLogger(__name__)

_EVAL_BATCH = 64


def model_files(config: StudyModelConfig) -> ModelFiles:
    """Folder and revision of the model that is fine-tuned.

    Raises:
        SourceError, ModelError, MissingExtraError: The model cannot be found.
    """
    embedding = EmbeddingConfig(model_name=config.name, revision=config.revision, weights=config.weights)
    return find_model(embedding, setting="model.name")


def finetune(
    source: Path,
    texts: Sequence[str],
    classes_of: IntArray,
    classes: Sequence[int],
    config: StudyTrainingConfig,
    seed: int,
    folder: Path,
) -> list[dict[str, float]]:
    """Fine-tune a model and save it.

    Args:
        source: Folder with a model and a tokenizer.
        texts: N texts.
        classes_of: Shape (N,), class of each text, counted from 0.
        classes: Label of each class.
        config: Training settings.
        seed: Seed of everything random.
        folder: Folder for the model as safetensors and its tokenizer.

    Returns:
        Entries that the Trainer logged, step by step.

    Raises:
        ModelError: The folder has no such model, or the loss is not finite.
        MissingExtraError: accelerate is not installed.
    """
    require("accelerate", "study", "fine-tuning")
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments, set_seed

    with _random_state():
        set_seed(seed)
        model, tokenizer = _load(source, len(classes))
        model.config.id2label = {number: str(label) for number, label in enumerate(classes)}
        model.config.label2id = {str(label): number for number, label in enumerate(classes)}
        encoded = _encode(tokenizer, texts, config.max_length)
        rows = [{**row, "labels": int(label)} for row, label in zip(encoded, classes_of, strict=True)]
        steps = config.epochs * -(-len(rows) // config.batch_size)
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=str(folder), num_train_epochs=config.epochs, learning_rate=config.learning_rate,
                per_device_train_batch_size=config.batch_size, weight_decay=config.weight_decay,
                warmup_steps=int(config.warmup_share * steps), lr_scheduler_type="linear", seed=seed, data_seed=seed,
                bf16=config.bf16, use_cpu=config.device == "cpu", report_to="none", save_strategy="no",
                eval_strategy="no", logging_strategy="steps", logging_steps=max(1, int(steps / 20)),
                disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
            ),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=rows,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it writes to standard output
        trainer.train()
    history = [{name: float(value) for name, value in entry.items()} for entry in trainer.state.log_history]
    if not all(np.isfinite(entry.get("loss", 0)) for entry in history):
        raise ModelError(f"the loss of {source} is not finite. Lower training.learning_rate")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return history


def finetuned_probabilities(folder: Path, texts: Sequence[str], config: StudyTrainingConfig) -> Float32Array:
    """Probabilities of the classes, shape (N, C), from a model that `finetune` saved.

    Args:
        folder: Folder of the model.
        texts: N texts.
        config: Training settings, of which the maximum length and the device are used.

    Raises:
        ModelError: The folder has no such model.
    """
    from transformers import DataCollatorWithPadding

    model, tokenizer = _load(folder)
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    encoded = _encode(tokenizer, texts, config.max_length)
    order = np.argsort([-len(row["input_ids"]) for row in encoded], kind="stable")
    pad = DataCollatorWithPadding(tokenizer)
    probabilities = np.empty((len(texts), model.config.num_labels), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), _EVAL_BATCH):
            rows = order[start : start + _EVAL_BATCH]
            batch = pad([encoded[row] for row in rows]).to(device)
            probabilities[rows] = model(**batch).logits.float().softmax(dim=-1).cpu().numpy()
    return probabilities


def _load(folder: Path, labels: int | None = None) -> tuple[Any, Any]:
    import transformers

    messages = transformers.utils.logging
    messages.disable_progress_bar()  # loading and saving weights takes about a second
    # A classifier with another number of classes gets a new last layer.
    settings = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    previous = messages.get_verbosity()
    messages.set_verbosity_error()  # its report of new weights fills a screen; they are logged in one line below
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
            **settings,
        )  # fmt: skip
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model for text classification in {folder}: {error}") from error
    finally:
        messages.set_verbosity(previous)
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    if new := sorted({*info["missing_keys"], *mismatched}):
        logger.info("Initializing weights of %s that are not in the checkpoint: %s", folder, ", ".join(new))
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer in {folder} has no padding token. Choose a model that has one")
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    longest = min(max_length, tokenizer.model_max_length)
    encoded = tokenizer(list(texts), truncation=True, max_length=longest)
    return [{name: values[row] for name, values in encoded.items()} for row in range(len(texts))]


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    """Restore the global random states on leaving."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the Trainer seeds it
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
