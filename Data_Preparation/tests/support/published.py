"""A small corpus that grows, made in a data folder at a URL, and what is there."""

import hashlib
import random
from pathlib import Path

from data_pipeline.config import Config, CorpusConfig, EmbeddingConfig, PreprocessConfig, StorageConfig
from data_pipeline.working_copy.writer_lock import LOCK

_WORDS = ("river", "mountain", "city", "house", "tree", "water", "light", "stone", "paper", "engine", "music")


def write_corpus(folder: Path, count: int, first: int = 0) -> Path:
    """Write documents of 40 words as JSON Lines; returns the path."""
    path = folder / f"corpus-{first}-{count}.jsonl"
    lines = []
    for number in range(first, first + count):
        words = random.Random(number).choices(_WORDS, k=40)
        lines.append(f'{{"id": "{number}", "text": "{" ".join(words)}."}}\n')
    path.write_text("".join(lines))
    return path


def config_at(location: object, corpus: Path, cache: Path, **changes: object) -> Config:
    """The configuration of a dataset of that corpus at a URL or in a folder."""
    settings = {
        "data_dir": location,
        "cache_dir": cache,
        "corpus": CorpusConfig(source="jsonl", path=(str(corpus),), name="grown", id_field="id"),
        "preprocess": PreprocessConfig(min_tokens=10),
        "storage": StorageConfig(shard_rows=20),
        "embedding": EmbeddingConfig(model_name="hashing"),
    }
    return Config(**settings | changes)


def local_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a data folder, by name, without logs, locks and caches."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
        and not {"logs", ".cache"} & set(path.relative_to(folder).parts)
        and not path.name.endswith((".lock", ".published.json"))
    }


def remote_files(system: object, root: str) -> dict[str, str]:
    """SHA-256 of the objects below a prefix, by name, without the lock."""
    system.invalidate_cache()
    return {
        name.removeprefix(f"{root}/"): hashlib.sha256(system.cat_file(name)).hexdigest()
        for name in system.find(root)
        if not name.endswith(LOCK)
    }
