"""The client against a server that we did not write: `transformers serve` with a tiny random Qwen3."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from support.judging import judge_all, make_pairs, quick

from data_pipeline.errors import JudgeError
from data_pipeline.judge import load_judge

NEEDED = ("openai", "fastapi", "uvicorn", "pydantic", "rich")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory, request):
    source = request.getfixturevalue("tiny_qwen3")
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-chat")
    Qwen3ForCausalLM(Qwen3Config.from_pretrained(source)).eval().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_server(chat_model):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)} (pip install 'transformers[serving]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = chat_model / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.skip(f"`transformers serve` does not start here: {log.read_text()[-300:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except urllib.error.HTTPError as error:
                error.close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.skip("`transformers serve` did not answer within two minutes")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_random_model_is_asked_answers_and_is_no_judge(real_server, chat_model, tmp_path):
    # Without room for reasoning: a model that never ends would fill it.
    config = quick(real_server, model=str(chat_model), timeout_s=120.0, slots=2, reasoning_tokens=0)
    message = (
        r"gave no label in any of the 2 request formats.*logprobs were requested and not reported.*expected one of NO"
    )
    with pytest.raises(JudgeError, match=message):
        judge_all(tmp_path / "s.db", make_pairs(2, 2), load_judge(config), config)
