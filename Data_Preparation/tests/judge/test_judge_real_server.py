"""The client against a server that we did not write: `transformers serve` with a tiny random Qwen3."""

import pytest
from support.chat_server import served
from support.judging import judge_all, make_pairs, quick

from data_pipeline.errors import JudgeError
from data_pipeline.judge import load_judge


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
    with served(chat_model) as address:
        yield address


@pytest.mark.slow
def test_a_random_model_is_asked_answers_and_is_no_judge(real_server, chat_model, tmp_path):
    # Without room for reasoning: a model that never ends would fill it.
    config = quick(real_server, model=str(chat_model), timeout_s=120.0, slots=2, reasoning_tokens=0)
    message = (
        r"gave no label in any of the 2 request formats.*logprobs were requested and not reported.*expected one of NO"
    )
    with pytest.raises(JudgeError, match=message):
        judge_all(tmp_path / "s.db", make_pairs(2, 2), load_judge(config), config)
