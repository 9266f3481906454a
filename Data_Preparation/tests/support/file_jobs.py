"""What the tests of the two file pipelines share: the document's examples, small inputs, and readers."""

import gzip
import hashlib
import json
import logging

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings import HashingEmbedder, encode
from data_pipeline.integrations.ml_filter.jobs import AnnotationJob, EmbeddingJob

DIM = 256

# The three examples of the document on ML-Filter's pipelines, to the letter.
EMBEDDING_EXAMPLE = """running_on_slurm: false
params:
  input_dir: data/jsonl
  glob_pattern: "*.jsonl"
  keys_to_index: ["text"]
  output_dir: outputs
  embedding_dir: embeddings
  embedding_model: sentence-transformers/all-MiniLM-L6-v2
  hdf5_dataset_name: train
  batch_size: 64
  writer_batch_size: 512
  max_length: 512
  padding: true
  truncation: true
  save_labels: true
local_settings: {}
"""
SLURM_EXAMPLE = """running_on_slurm: true
params:
  input_dir: /scratch/corpus
  glob_pattern: "*.jsonl"
  keys_to_index: ["title", "body"]
  output_dir: /scratch/run123
  embedding_dir: embeddings
  embedding_model: my-org/embedding-large
  hdf5_dataset_name: train
  batch_size: 128
  writer_batch_size: 1024
  max_length: 1024
  padding: longest
  truncation: true
  save_labels: false
slurm_settings:
  tasks: 200        # number of shards / array jobs
  time: "08:00:00"
  partition: gpu
  cpus_per_task: 8
  mem_per_cpu_gb: 8
  job_name: emb_job
  sbatch_args: { gres: "gpu:1" }
"""
ANNOTATION_EXAMPLE = """running_on_slurm: false
params:
  embeddings_directory: outputs/embeddings
  output_keys: ["doc_id", "text"]
  output_dir: outputs
  regression_head_checkpoints:
    quality: checkpoints/quality_head.pt
    toxicity: checkpoints/tox_head.pt
  batch_size: 256
local_settings:
  tasks: 1
  local_tasks: 1
  local_rank_offset: 0
  workers: 4
"""


@pytest.fixture(autouse=True)
def clean_logging():
    """A command sets up the root logger; that does not outlive a test."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()


def embedding_job(folder, local=None, overwrite=False, slurm=None, execution=None, **params):
    """A job on `folder`/in, with the fake embedder."""
    settings = {"local_settings": local, "execution": execution}
    if slurm is not None:
        settings = {"slurm_settings": slurm, "running_on_slurm": True}
    given = {
        "input_dir": folder / "in", "glob_pattern": "**/*.jsonl", "keys_to_index": ["text"],
        "output_dir": folder / "out", "embedding_dir": "embeddings", "embedding_model": "hashing", "batch_size": 8,
    }  # fmt: skip
    return EmbeddingJob(params=given | params, overwrite=overwrite, **settings)


def annotation_job(folder, heads, local=None, overwrite=False, slurm=None, execution=None, **params):
    """A job on what `embedding_job` makes."""
    settings = {"local_settings": local, "execution": execution}
    if slurm is not None:
        settings = {"slurm_settings": slurm, "running_on_slurm": True}
    given = {
        "embeddings_directory": folder / "out" / "embeddings", "output_keys": ["document_id"],
        "output_dir": folder / "out", "batch_size": 8,
        "regression_head_checkpoints": {name: str(path) for name, path in heads.items()},
    }  # fmt: skip
    return AnnotationJob(params=given | params, overwrite=overwrite, **settings)


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def texts(rows, first=0):
    """Texts of various lengths, some of them twice."""
    return [
        " ".join(f"word{(row * 7 + place) % 31}" for place in range(row % 9 + 1)) for row in range(first, first + rows)
    ]


def expected_vectors(some, **config):
    return encode(HashingEmbedder(EmbeddingConfig(model_name="hashing", **config)), some)


def read_h5(path, group="train"):
    """Datasets by name, texts as str, and the group's attributes."""
    with h5py.File(path, "r") as file:
        found = {
            name: data.asstr()[:].tolist() if data.dtype.kind == "O" else data[:] for name, data in file[group].items()
        }
        return found, dict(file[group].attrs)


def read_lines(path):
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


def save_pt_head(path, dim=DIM, targets=1, hidden=7, seed=0):
    """A head as anyone saves one: a state dict."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, targets))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return path


def numpy_scores(path, vectors):
    """What a head of `save_pt_head` gives, in float64; shape (N, targets)."""
    state = {name: value.double().numpy() for name, value in torch.load(path, weights_only=True).items()}
    hidden = np.maximum(vectors.astype(np.float64) @ state["0.weight"].T + state["0.bias"], 0)
    return hidden @ state["2.weight"].T + state["2.bias"]


def tree(root):
    """Content of every file but locks and reports; a stray temporary file is one too many."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and "logs" not in path.relative_to(root).parts
    }
