"""OpenVINO, only ever used in other processes: its threads do not survive a fork, and other tests fork."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason='needs the extra "openvino"'),
]

CHECKS = Path(__file__).with_name("openvino_checks.py")
SIZES = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
RESULT = re.compile(r"::(\S+) (PASSED|SKIPPED|FAILED|ERROR)\b.*\[ *(\d+)%\]")


def test_every_check_passes_in_a_process_of_its_own(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist", str(CHECKS)]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=500)
        except subprocess.TimeoutExpired:
            process.kill()  # releasing its models may hang, after all checks have passed
            process.wait()
    printed = log.read_text()
    results = RESULT.findall(printed)
    assert results, printed
    assert {outcome for _, outcome, _ in results} <= {"PASSED", "SKIPPED"}, printed
    assert results[-1][2] == "100", printed
    assert sum(outcome == "PASSED" for _, outcome, _ in results) >= 11, printed


def test_its_use_is_reported_to_nobody(tmp_path):
    if importlib.util.find_spec("openvino_telemetry") is None:
        pytest.skip("nothing would report it")
    code = (
        "import sys, torch\n"
        "from transformers import BertConfig, BertModel\n"
        "from data_pipeline.embeddings.transformer.openvino import OpenVinoForward\n"
        "from support.small_models import pooled_by\n"
        f"OpenVinoForward(BertModel(BertConfig(**{SIZES})), pooled_by('mean'), False, 0, 'float32', 1)\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    # The telemetry counts its uses in a folder of the home folder.
    environment = os.environ | {
        "HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n", done.stderr
    assert not (tmp_path / "intel").exists()
