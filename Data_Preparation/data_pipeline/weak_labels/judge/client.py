"""An LLM behind any server that speaks OpenAI's chat API: vLLM, llama.cpp, Ollama, Groq, OpenAI itself."""

import asyncio
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.errors import ConfigError, JudgeError
from data_pipeline.utils import require
from data_pipeline.weak_labels.judge.base import CallFailed, JudgeIdentity, Judgement
from data_pipeline.weak_labels.judge.limits import passage_limit
from data_pipeline.weak_labels.judge.parsing import first_logprobs
from data_pipeline.weak_labels.judge.prompts import PROMPTS, Prompt
from data_pipeline.weak_labels.judge.reply import MOST_SHOWN, Completion, read_completion, to_judgement
from data_pipeline.weak_labels.judge.retry import FORBIDDEN, is_retryable, parse_retry_after
from data_pipeline.weak_labels.judge.settings import JudgeConfig

logger = logging.getLogger(__name__)

_PLACEHOLDER = "no-key-needed"
_SHORTEST_KEY = 8
"""Shorter ones are stand-ins such as `none`, and words that answers may hold."""
# Room for a label in several tokens, and for an answer that says more to be seen as one that does.
_WITHOUT_LOGPROBS = 8
_MOST_KEPT = 2000
"""Characters of an answer that are kept; labels have a few, and servers that ignore max_tokens may have any number."""
_WAYS: tuple[dict[str, Any], ...] = (
    {"max_tokens": 1, "logprobs": True, "top_logprobs": 20},
    {"max_tokens": 1, "logprobs": True, "top_logprobs": 5},
    {"max_completion_tokens": 1, "logprobs": True, "top_logprobs": 20},
    {"max_tokens": _WITHOUT_LOGPROBS},
    {"max_completion_tokens": _WITHOUT_LOGPROBS},
)
"""How the server is asked, best first; the first that it takes is used."""

_PROBE = ("What is the capital of France?", "Paris has been the capital of France for most of its history.")
# Of a request's body: what providers call an answer that they do not let through.
_FILTERED = {"content_filter", "content_policy_violation"}
_SPENT = {"insufficient_quota", "billing_hard_limit_reached"}


@dataclass(frozen=True, slots=True)
class _Failure:
    """An HTTP status other than 200, and what came with it."""

    status: int
    code: str
    text: str
    retry_after: str | None


class LLMJudge:
    """Asks a model for one grade a call. See `base.Judge`.

    Args:
        config: says where and how.
        prompt: is used instead of the one of the config's mode.

    Raises:
        ConfigError: the variable with the key is not set, or the tokenizer cannot be loaded.
        MissingExtra: the package openai is not installed.
    """

    def __init__(self, config: JudgeConfig, prompt: Prompt | None = None) -> None:
        self._openai: Any = require("openai", "weak-labels", "a judge behind an OpenAI-compatible server")
        self._config, self._prompt = config, prompt or PROMPTS[config.mode]
        self._key = _read_key(config.api_key_env)
        self._cut, self._limit = passage_limit(config)
        self._client: Any = None
        self._way = _WAYS[-1]
        self._model = config.model
        self._identity: JudgeIdentity | None = None
        self.name = f"{config.base_url} (model {config.model or 'of the server'})"

    @property
    def identity(self) -> JudgeIdentity:
        """Known once the judge is open."""
        if self._identity is None:
            raise RuntimeError("the judge is not open; call open() first")
        return self._identity

    async def open(self) -> None:
        """Connect, and find out with a call or a few what the server can do.

        Raises:
            JudgeError: it refuses the key, or every way of asking.
            CallFailed: it cannot be reached, or is overloaded; worth another try.
        """
        if self._client is None:
            self._client = self._openai.AsyncOpenAI(
                base_url=self._config.base_url,
                api_key=self._key or _PLACEHOLDER,
                timeout=self._config.timeout_s,
                max_retries=0,  # the pool tries again: it knows the budget and the breaker
            )
        if not self._model:
            self._model = await self._only_model()
            self.name = f"{self._config.base_url} (model {self._model})"
        refusals = []
        for way in _WAYS:
            try:
                completion = await self._call(*_PROBE, way)
                if completion.refusal:
                    raise CallFailed(f"refused a harmless question: {completion.refusal[:MOST_SHOWN]}")
                if "logprobs" in way and not first_logprobs(completion.choice):
                    refusals.append(f"{_describe(way)}: ignored")
                    continue
            except CallFailed as error:
                if not error.final:
                    raise
                refusals.append(f"{_describe(way)}: {error.reason}")
            except ValueError as error:
                refusals.append(f"{_describe(way)}: {error}")
            else:
                self._found(way, completion)
                return
        raise JudgeError(
            f"{self.name} takes none of the ways of asking it. It said: {'; '.join(dict.fromkeys(refusals))}. "
            "Check base_url (it ends with /v1) and the name of the model."
        )

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        shown = self._cut(passage)
        started = time.perf_counter()
        completion = await self._call(query, shown, self._way)
        latency_s = time.perf_counter() - started
        if completion.model != self.identity.served_model:
            raise CallFailed(
                f"answered by the model {self._clean(completion.model)!r}, "
                f"not by {self.identity.served_model!r} as at the start"
            )
        found = to_judgement(completion, self._prompt.labels, "logprobs" in self._way)
        return replace(
            found,
            answer=self._clean(found.answer or "")[:_MOST_KEPT],
            reason=self._clean(found.reason)[:_MOST_KEPT],
            latency_s=latency_s,
            passage_chars=len(passage),
            shown_chars=len(shown),
        )

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _found(self, way: dict[str, Any], completion: Completion) -> None:
        self._way = way
        served = self._clean(completion.model)
        parameters = {"temperature": 0, **way, "extra_body": self._config.extra_body, **self._limit}
        self._identity = JudgeIdentity(self._model, served, self._prompt.identity, parameters)
        logger.info("judge: %s, which calls itself %r; %s", self.name, served, _describe(way))

    async def _only_model(self) -> str:
        try:
            listed = [model.id async for model in self._client.models.list()]
        except self._openai.APIStatusError as error:
            raise self._failed(_failure(error)) from None
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise CallFailed(f"cannot list the models: {self._clean(str(error))}") from None
        if len(listed) != 1:
            raise JudgeError(
                f"{self._config.base_url} serves {len(listed)} models ({self._clean(', '.join(listed[:10]))}); "
                "set `model` to the one that shall judge"
            )
        return str(listed[0])

    async def _call(self, query: str, passage: str, way: dict[str, Any]) -> Completion:
        messages = self._prompt.messages(query, passage)
        try:
            # The library's own limit begins anew with every byte that trickles in.
            async with asyncio.timeout(self._config.timeout_s):
                # Raw: the body is read here, strictly, and not as whatever the library can make of it.
                reply = await self._client.chat.completions.with_raw_response.create(
                    model=self._model, messages=messages, temperature=0, extra_body=self._config.extra_body, **way
                )
            return read_completion(self._clean(reply.http_response.text))
        except CallFailed as error:
            raise CallFailed(self._clean(error.reason)) from None
        except self._openai.APIStatusError as error:
            failure = _failure(error)
            if failure.code in _FILTERED:
                return Completion(self._served_or_empty(), {}, "", failure.text or failure.code, None, None)
            raise self._failed(failure) from None
        except (self._openai.APITimeoutError, TimeoutError):
            raise CallFailed(f"no answer within {self._config.timeout_s:g} s") from None
        except self._openai.OpenAIError as error:
            cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
            raise CallFailed(self._clean(f"{error}{cause}")[:MOST_SHOWN]) from None
        except UnicodeEncodeError:
            raise CallFailed("the text holds half of a surrogate pair, which cannot be sent", final=True) from None

    def _served_or_empty(self) -> str:
        return self._identity.served_model if self._identity else ""

    def _failed(self, failure: _Failure) -> Exception:
        said = self._clean(f"HTTP {failure.status}: {failure.text}")[:MOST_SHOWN]
        if failure.status in FORBIDDEN or failure.code in _SPENT:
            source = self._config.api_key_env
            key = f"the key in ${source}" if source else "a call without a key (api_key_env is not set)"
            return JudgeError(
                f"{self.name} refuses {key}: {said}. Judgements made so far are kept. "
                "Check the key, its rights and its budget, then run the same command again."
            )
        if is_retryable(failure.status):
            wait = parse_retry_after(failure.retry_after)
            return CallFailed(said, limited=failure.status == 429, retry_after_s=wait)
        return CallFailed(said, final=True)

    def _clean(self, text: str) -> str:
        """Without the key, should the server repeat it, and without what cannot be stored as UTF-8."""
        if len(self._key) >= _SHORTEST_KEY:
            text = text.replace(self._key, "[key]")
        return text.encode("utf-8", "backslashreplace").decode()


def _failure(error: Any) -> _Failure:
    """Of an `openai.APIStatusError`; its message repeats the body."""
    return _Failure(
        int(error.status_code), str(error.code or ""), str(error.message), error.response.headers.get("retry-after")
    )


def _read_key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"api_key_env: the environment variable {variable} is not set; put the judge's key into it")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"api_key_env: the key in {variable} has characters that no HTTP header can carry")
    return key


def _describe(way: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in way.items())
