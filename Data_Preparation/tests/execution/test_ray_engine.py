"""The engine ray on a real cluster of two worker nodes, on this machine: the bytes of one process."""

import os
import sys
import threading
import time

import pytest
from execution.test_embed_workers import corpus, processes  # noqa: F401 - fixtures
from execution.test_local_engine import Counting
from execution.test_slurm_run import settings, tree

pytest.importorskip("ray", reason='needs the extra "ray"')

import ray
from ray.cluster_utils import Cluster

from data_pipeline.config.execution import RaySettings
from data_pipeline.config.load import load_config
from data_pipeline.errors import ConfigError, DataPipelineError, SourceError
from data_pipeline.execution.engines import engine_of
from data_pipeline.execution.ray_engine import RayEngine
from data_pipeline.stages.base import run_stage
from data_pipeline.stages.pipeline import run

# Ray warns of its own use of what it deprecated.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]


@pytest.fixture
def cluster(monkeypatch):
    """A head that runs nothing, and two nodes with one CPU each."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path])))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name, value in {"period_ms": 300, "timeout_ms": 500, "initial_delay_ms": 0, "failure_threshold": 2}.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_that_is_killed_while_it_embeds_changes_no_byte(tmp_path, corpus, request, cluster):  # noqa: F811
    few = tmp_path / "few.jsonl"
    few.write_text("".join(corpus.read_text().splitlines(keepends=True)[:400]))
    run(load_config(None, settings(few, tmp_path / "inline")))
    worked = request.getfixturevalue("processes")
    own = settings(few, tmp_path / "ray") | {"execution.engine": "ray"}
    config = load_config(None, own)
    config = config.model_copy(update={"execution": config.execution.model_copy(
        update={"ray": RaySettings(address=cluster.address)})})  # fmt: skip
    killed = []

    def kill():
        end = time.monotonic() + 120
        while len(worked()) < 2 and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(1.0)
        node = next(iter(cluster.worker_nodes))
        cluster.remove_node(node, allow_graceful=False)
        killed.append(node)

    thread = threading.Thread(target=kill)
    thread.start()
    with engine_of(config) as (own_config, engine):
        assert engine.workers == 2
        run(own_config, execute=engine)
    thread.join()
    assert killed
    assert tree(tmp_path / "ray") == tree(tmp_path / "inline")


def test_errors_and_results_of_tasks(tmp_path, cluster):
    with RayEngine(RaySettings(address=cluster.address), None, tmp_path / "crew") as engine:
        (tmp_path / "good").mkdir()
        assert run_stage(Counting(tmp_path / "good", 6), execute=engine) == list(range(6))
        (tmp_path / "bad").mkdir()
        with pytest.raises(SourceError, match="this one cannot be read"):
            run_stage(Counting(tmp_path / "bad", 6, failing=2), execute=engine)
        told = []
        stage = Counting(tmp_path / "good", 5)
        engine(stage, stage.tasks(), told.append)
        assert sum(told) == 50
    with pytest.raises(ConfigError, match=r"2 CPUs and 0 GPUs, a worker needs 1 and 1"):
        RayEngine(RaySettings(address=cluster.address, gpus_per_worker=1), None, tmp_path / "crew")


@pytest.mark.parametrize(
    ("given", "variable", "used"), [(None, "", "local"), (None, "a:1", "a:1"), ("b:2", "a:1", "b:2")]
)
def test_a_cluster_of_others_is_not_joined_unasked(tmp_path, monkeypatch, given, variable, used):
    seen = []

    def init(address, **named):
        seen.append(address)
        raise ConnectionError("far enough")

    monkeypatch.setenv("RAY_ADDRESS", variable)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match="far enough"):
        RayEngine(RaySettings(address=given), None, tmp_path / "crew")
    assert seen == [used]


def test_what_ray_gives_up_is_an_error_with_advice(tmp_path, monkeypatch):
    def give_up(self, folder, count, on_device):
        raise ray.exceptions.RaySystemError("the cluster went away")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(RayEngine, "_run", give_up)
    (tmp_path / "good").mkdir()
    with (
        RayEngine(RaySettings(), None, tmp_path / "crew") as engine,
        pytest.raises(DataPipelineError, match=r"Ray gave up Counting: .*the cluster went away.*Run the same command"),
    ):
        run_stage(Counting(tmp_path / "good", 6), execute=engine)
