"""The YAML files of the two file pipelines."""

import inspect
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.file_jobs import (
    ANNOTATION_EXAMPLE,
    EMBEDDING_EXAMPLE,
    SLURM_EXAMPLE,
    annotation_job,
    clean_logging,  # noqa: F401 - an autouse fixture
    embedding_job,
)

import data_pipeline.integrations.ml_filter as files_package
from data_pipeline.cli import main
from data_pipeline.config.execution import LocalSettings, SlurmSettings
from data_pipeline.errors import ConfigError
from data_pipeline.integrations.ml_filter.jobs import (
    AnnotationJob,
    AnnotationParameters,
    EmbeddingJob,
    EmbeddingParameters,
    embedding_config,
    read_job,
    stored_dtype,
    stored_label_dtype,
)

# Every field of ML-Filter's own schema; its two dtypes in their short and long names.
ML_FILTER_EMBEDDING = """
params:
  input_dir: ${oc.env:ELM_TEST_ROOT}/raw
  glob_pattern: "*.jsonl"
  keys_to_index: [document_id]
  text_field: text
  compression: gzip
  embedding_dtype: bf16
  label_dtype: int8
  model_dtype: bfloat16
  output_dir: ${params.input_dir}/out
  embedding_dir: embeddings
  embedding_model: hashing
  hdf5_dataset_name: train
  batch_size: 4
  writer_batch_size: ${params.batch_size}
  max_length: 8192
  padding: true
  truncation: longest_first
  save_labels: true
running_on_slurm: true
slurm_settings:
  tasks: 1
  time: "00:30:00"
  partition: default
  cpus_per_task: 4
  mem_per_cpu_gb: 8
  workers: -1
  job_name: embedding_pipeline
  qos: normal
  env_command: null
  condaenv: null
  venv_path: null
  max_array_size: 1001
  depends_job_id: null
  skip_completed: true
  requeue: true
  mail_type: ALL
  mail_user: null
  tasks_per_job: 1
  requeue_signals: SIGUSR1
  sbatch_args: {account: me, mem_per_gpu: 4, exclusive: true}
  srun_args: {}
"""
ML_FILTER_ANNOTATION = """
params:
  embeddings_directory: /some/where
  output_keys: [document_id, score_a]
  output_dir: /else/where
  regression_head_checkpoints: {a: a.ckpt}
  batch_size: 100
  hdf5_dataset_name: train
  compression: gzip
  embedding_dtype: float32
  label_dtype: int8
  model_dtype: bf16
running_on_slurm: false
local_settings: {tasks: 4, local_tasks: 2, local_rank_offset: 2, workers: -1, logging_dir: logs}
"""


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_documents_examples_are_valid_as_they_are(yaml_file):
    local = read_job(yaml_file(EMBEDDING_EXAMPLE), EmbeddingJob)
    assert local.params.hdf5_dataset_name == "train"
    assert local.local_settings == LocalSettings()
    slurm = read_job(yaml_file(SLURM_EXAMPLE), EmbeddingJob)
    assert (slurm.slurm_settings.tasks, slurm.slurm_settings.time) == (200, "08:00:00")
    assert slurm.slurm_settings.sbatch_args == {"gres": "gpu:1"}
    assert slurm.params.padding == "longest"
    annotation = read_job(yaml_file(ANNOTATION_EXAMPLE), AnnotationJob)
    assert list(annotation.params.regression_head_checkpoints) == ["quality", "toxicity"]
    assert list(annotation.local_settings.ranks) == [0]


def test_ml_filters_wider_schema_and_references_to_other_keys(yaml_file, monkeypatch):
    monkeypatch.setenv("ELM_TEST_ROOT", "/data")
    job = read_job(yaml_file(ML_FILTER_EMBEDDING), EmbeddingJob)
    assert (job.params.input_dir, job.params.output_dir) == (Path("/data/raw"), Path("/data/raw/out"))
    assert job.params.writer_batch_size == 4
    assert (job.params.embedding_dtype, stored_dtype(job.params)) == ("bfloat16", "float32")
    config = embedding_config(job.params)
    assert (config.model_name, config.dtype, config.max_length, config.batch_size) == ("hashing", "bfloat16", 8192, 4)
    job = read_job(yaml_file(ML_FILTER_ANNOTATION), AnnotationJob)
    assert list(job.local_settings.ranks) == [2, 3]
    assert job.params.model_dtype == "bfloat16"


# The keys and values of the files in ML-Filter's own configs/annotation, with paths of our own.
SHIPPED_EMBEDDING = """
dataset_name: validation
params:
  glob_pattern: "**/*.jsonl"
  input_dir: /data/${dataset_name}_set
  csv_hashmap_path: /data/hashes/${dataset_name}.csv
  output_dir: /data/embeddings
  embedding_dir: ${dataset_name}_embeddings
  embedding_model: jhu-clsp/mmBERT-base
  batch_size: 128
  writer_batch_size: 1000
  hdf5_dataset_name: train
  save_labels: true
  max_length: 8192
  padding: true
  truncation: true
running_on_slurm: false
local_settings: {tasks: 2, workers: 2, local_tasks: 2, local_rank_offset: 0}
slurm_settings: null
"""
SHIPPED_EMBEDDING_SLURM = """
dataset_name: training
params:
  glob_pattern: "**/*.jsonl"
  input_dir: /data/input
  output_dir: /data/output
  keys_to_index: ["id", "aggregation_type"]
  text_field: text
  embedding_dir: ${dataset_name}_embeddings
  compression: gzip
  embedding_dtype: float32
  label_dtype: bfloat16
  model_dtype: bfloat16
  embedding_model: jhu-clsp/mmBERT-base
  batch_size: 512
  writer_batch_size: 1000
  hdf5_dataset_name: train
  save_labels: false
  max_length: 8192
  padding: true
  truncation: true
running_on_slurm: true
local_settings: null
slurm_settings:
  sbatch_args: {account: "p", nodes: 1, ntasks: 1, gres: gpu:4, exclusive: user}
  partition: "capella"
  time: "04:00:00"
  cpus_per_task: 32
  mem_per_cpu_gb: 8
  gpus_per_task: 4
  job_name: "MMbert_embedder"
  output: ${params.output_dir}/logs/%j.out
  error: ${params.output_dir}/logs/%j.err
  qos: "normal"
  venv_path: /data/env/bin/activate
  tasks: 1
  workers: 1
"""
SHIPPED_ANNOTATION = """
params:
  embeddings_directory: /data/embeddings
  output_dir: /data/output
  regression_head_checkpoints: {Gemma_Snowflake: /data/head, Llama_Snowflake: /data/head}
  batch_size: 1000
  hdf5_dataset_name: train
  embedding_key: embeddings
  label_key: labels
  document_id_key: document_ids
  score_prefix: "score_"
  output_keys: [document_ids]
  model_dtype: bfloat16
  embedding_dtype: bfloat16
  label_dtype: bfloat16
  compression: gzip
running_on_slurm: false
local_settings:
  tasks: 1
  workers: 1
  local_tasks: 1
  local_rank_offset: 0
  logging_dir: ${params.output_dir}/logs
slurm_settings: null
"""
SHIPPED_ANNOTATION_SLURM = """
params:
  embeddings_directory: /data/input
  output_dir: /data/annotations/
  regression_head_checkpoints: {Gemma_Snowflake: /data/gemma.ckpt}
  batch_size: 1000
running_on_slurm: true
local_settings: null
slurm_settings:
  sbatch_args: {account: "p", nodes: 1, ntasks: 1, gres: gpu:1}
  partition: "capella"
  gpus_per_task: 1
  output: /data/%j.out
  tasks: 10
  workers: 1001
"""


def test_ml_filters_shipped_files_are_valid_as_they_are(yaml_file):
    local = read_job(yaml_file(SHIPPED_EMBEDDING), EmbeddingJob)
    assert (local.params.input_dir, local.params.embedding_dir) == (
        Path("/data/validation_set"), Path("validation_embeddings"),
    )  # fmt: skip
    assert local.params.keys_to_index == ["text"]
    slurm = read_job(yaml_file(SHIPPED_EMBEDDING_SLURM), EmbeddingJob)
    assert slurm.slurm_settings.output == "/data/output/logs/%j.out"
    assert (slurm.params.label_dtype, stored_label_dtype(slurm.params)) == ("bfloat16", "float32")
    annotation = read_job(yaml_file(SHIPPED_ANNOTATION), AnnotationJob)
    assert (annotation.params.document_id_key, annotation.params.output_keys) == ("document_ids", ["document_ids"])
    assert read_job(yaml_file(SHIPPED_ANNOTATION_SLURM), AnnotationJob).params.output_keys == ["document_id"]


def test_arguments_of_sbatch_may_stand_beside_the_settings(yaml_file):
    beside = SHIPPED_ANNOTATION_SLURM.replace(
        'sbatch_args: {account: "p", nodes: 1, ntasks: 1, gres: gpu:1}', 'account: "p"\n  nodes: 4\n  gres: gpu:4'
    )
    settings = read_job(yaml_file(beside), AnnotationJob).slurm_settings
    assert (settings.account, settings.sbatch_args) == ("p", {"nodes": 4, "gres": "gpu:4"})


@pytest.mark.parametrize("name", ["dataset", "params2", "dataset_name2"])
def test_a_top_level_key_that_nothing_refers_to_is_no_variable(yaml_file, name):
    with pytest.raises(ConfigError, match=rf"{name}: no such setting"):
        read_job(yaml_file(f"{name}: x\n{SHIPPED_EMBEDDING}"), EmbeddingJob)


@pytest.mark.parametrize(
    ("text", "change", "line"),
    [
        (EMBEDDING_EXAMPLE, ("batch_size: 64", "batchsize: 64"), "params.batchsize: no such setting (found 64)"),
        (EMBEDDING_EXAMPLE, ("  glob_pattern: \"*.jsonl\"\n", ""), "params.glob_pattern: Field required"),
        (EMBEDDING_EXAMPLE, ("batch_size: 64", "batch_size: 0"),
         "params.batch_size: Input should be greater than or equal to 1 (found 0)"),
        (EMBEDDING_EXAMPLE, ("[\"text\"]", "[]"), "params.keys_to_index: List should have at least 1 item"),
        (EMBEDDING_EXAMPLE, ("[\"text\"]", "text"), "params.keys_to_index: Input should be a valid list"),
        (EMBEDDING_EXAMPLE, ("truncation: true", "truncation: sometimes"), "params.truncation"),
        (EMBEDDING_EXAMPLE, ("embedding_dir: embeddings", "embedding_dir: ../elsewhere"),
         "params.embedding_dir: must be a folder inside output_dir, relative to it (found '../elsewhere')"),
        (EMBEDDING_EXAMPLE, ("embedding_dir: embeddings", "embedding_dir: /tmp/elsewhere"),
         "params.embedding_dir: must be a folder inside output_dir"),
        (EMBEDDING_EXAMPLE, ("dataset_name: train", "dataset_name: a/b"),
         "params.hdf5_dataset_name: must be a name without slashes (found 'a/b')"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "local_settings: {task: 3}"),
         "local_settings.task: no such setting (found 3)"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "local_settings: {tasks: 2, local_rank_offset: 2}"),
         "local_rank_offset + local_tasks = 3 goes beyond tasks = 2"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "local_settings: {workers: 0}"),
         "workers and local_tasks must be 1 or more, or -1"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "surprise: 1"), "surprise: no such setting (found 1)"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "slurm_settings: {}"),
         "running_on_slurm is false, so slurm_settings must be left out"),
        (EMBEDDING_EXAMPLE, ("local_settings: {}", "local_settings: {}\nslurm_settings: {}"),
         "running_on_slurm is false, so slurm_settings must be left out"),
        (SLURM_EXAMPLE, ("slurm_settings:", "local_settings: {}\nslurm_settings:"),
         "running_on_slurm is true, so local_settings must be left out"),
        (EMBEDDING_EXAMPLE, ("running_on_slurm: false", "running_on_slurm: true"),
         "running_on_slurm is true, so local_settings must be left out"),
        (EMBEDDING_EXAMPLE.replace("local_settings: {}\n", ""), ("running_on_slurm: false", "running_on_slurm: true"),
         "running_on_slurm is true, so slurm_settings is needed"),
        (SLURM_EXAMPLE, ("tasks: 200 ", "tasks: many "), "slurm_settings.tasks: Input should be a valid integer"),
        (SLURM_EXAMPLE, ("gres: \"gpu:1\"", "gres: [1]"), "slurm_settings.sbatch_args.gres"),
        (EMBEDDING_EXAMPLE, ("save_labels: true", "save_labels: true\n  embedder: {colour: red}"),
         "embedder: colour: no such setting (found 'red')"),
        (EMBEDDING_EXAMPLE, ("save_labels: true", "save_labels: true\n  embedder: {batch_size: 3}"),
         "embedder: batch_size is set by the job's own keys; leave it out"),
        (ANNOTATION_EXAMPLE, ("batch_size: 256", "batch_size: 0"), "params.batch_size"),
        (ANNOTATION_EXAMPLE, ("  output_dir: outputs\n", ""), "params.output_dir: Field required"),
        (ANNOTATION_EXAMPLE, ("quality: checkpoints", "\"\": checkpoints"),
         "a head needs a name of printable characters"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_path(yaml_file, text, change, line):
    assert change[0] in text
    path = yaml_file(text.replace(*change))
    kind = AnnotationJob if "embeddings_directory" in text else EmbeddingJob
    with pytest.raises(ConfigError) as caught:
        read_job(path, kind)
    assert str(path) in str(caught.value)
    assert line in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(yaml_file):
    text = EMBEDDING_EXAMPLE.replace("batch_size: 64", "batch_size: x").replace("  output_dir: outputs\n", "")
    with pytest.raises(ConfigError) as caught:
        read_job(yaml_file(text + "extra: 1\n"), EmbeddingJob)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split(":")[0] for line in lines) == ["extra", "params.batch_size", "params.output_dir"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params: Field required"),
        ("[1, 2]", "must hold a mapping"),
        ("params: [", "not valid YAML"),
        ("params: ${nowhere.at.all}", "not valid YAML"),
        ("params: ${unknown_resolver:1}", "not valid YAML"),
        ("just words", "job.yaml"),
        ("1: 2\nparams: {}", "params.input_dir: Field required"),
        ("\tparams: 1", "not valid YAML"),
    ],
)
def test_no_job_at_all(yaml_file, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_job(yaml_file(text), EmbeddingJob)


def test_a_job_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the job file .*none\.yaml"):
        read_job(tmp_path / "none.yaml", EmbeddingJob)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        read_job(tmp_path / "binary.yaml", EmbeddingJob)


def test_the_commands_exit_with_2_where_the_job_is_wrong(yaml_file, capsys):
    path = yaml_file(EMBEDDING_EXAMPLE.replace("batch_size: 64", "batchsize: 64"))
    assert main(["run_embedding_pipeline", "--config_file_path", str(path)]) == 2
    assert "params.batchsize: no such setting (found 64)" in capsys.readouterr().err
    # A job of the one pipeline is none of the other.
    assert main(["run_annotation_pipeline", "--config_file_path", str(path)]) == 2
    assert "params.embeddings_directory: Field required" in capsys.readouterr().err


def test_jobs_can_be_made_without_a_file_and_are_checked_then_too(tmp_path):
    with pytest.raises(ValidationError, match="embedding_dir"):
        embedding_job(tmp_path, embedding_dir="..")
    with pytest.raises(ValidationError, match="regression_head_checkpoints"):
        annotation_job(tmp_path, {})


def test_an_annotation_job_on_slurm_needs_no_more_than_the_block(yaml_file):
    """In ML-Filter every field was needed."""
    text = ANNOTATION_EXAMPLE.partition("local_settings")[0].replace("false", "true")
    assert read_job(yaml_file(text + "slurm_settings: {}"), AnnotationJob).slurm_settings == SlurmSettings()


@pytest.mark.parametrize("local", [{"tasks": 5, "local_tasks": 2, "local_rank_offset": 3}, {"tasks": 5}, {}])
def test_ranks_of_this_machine(local):
    expected = {5: [3, 4] if "local_tasks" in local else [0, 1, 2, 3, 4], 1: [0]}[local.get("tasks", 1)]
    assert list(LocalSettings(**local).ranks) == expected


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (EmbeddingParameters, "params"), (AnnotationParameters, "params"), (EmbeddingJob, "job|self"),
        (LocalSettings, "settings|self"), (SlurmSettings, "settings"),
    ],
)  # fmt: skip
def test_no_field_is_accepted_and_forgotten(model, names):
    """A setting that is read and ignored misleads; one that is meant to have no effect says so."""
    package = Path(inspect.getfile(files_package)).parents[2]
    folders = (package / "integrations" / "ml_filter", package / "execution", package / "config")
    source = "\n".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    passed_on = re.search(r"_SAME_NAME = \((.*?)\)", source, re.DOTALL).group(1) if model is SlurmSettings else ""
    for name, field in model.model_fields.items():
        if "without effect" in field.description:
            continue
        used = re.search(rf"\b({names})\.{name}\b", source) or f'"{name}"' in passed_on
        assert used, f"{model.__name__}.{name} is read nowhere"
        assert field.description
