"""LLM judge behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, Groq, OpenAI."""

import asyncio
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import ConfigError, JudgeError
from data_pipeline.judge.base import CallFailed, JudgeIdentity, Judgement
from data_pipeline.judge.formats import FormatSearch, RequestFormat, hints_of
from data_pipeline.judge.limits import passage_limit
from data_pipeline.judge.parsing import first_logprobs
from data_pipeline.judge.prompts import PROMPTS, Prompt
from data_pipeline.judge.reply import MOST_SHOWN, Completion, read_completion, to_judgement
from data_pipeline.judge.retry import FORBIDDEN, is_retryable, parse_retry_after
from data_pipeline.utils import require

logger = logging.getLogger(__name__)

_PLACEHOLDER = "no-key-needed"
_SHORTEST_KEY = 8
"""Shorter keys are placeholders such as `none`, or words that occur in answers."""
_MOST_KEPT = 2000
"""Characters of an answer that are kept; a label has a few, a server that ignores the token limit sends any number."""
_PROBE = ("What is the capital of France?", "Paris has been the capital of France for most of its history.")
# Of a request's body: what providers call an answer that they do not let through.
_FILTERED = {"content_filter", "content_policy_violation"}
_FORBIDDEN, _NOT_FOUND = 403, 404
_MODELS_SHOWN, _FORMATS_SHOWN = 10, 2
_SPENT = {"insufficient_quota", "billing_hard_limit_reached"}


@dataclass(frozen=True, slots=True)
class _Failure:
    """A reply with an HTTP status other than 200."""

    status: int
    code: str
    parameter: str
    """The parameter of the request that the server names."""
    text: str
    retry_after: str | None


class _Refused(CallFailed):
    """A request that the server will not take; the same one cannot succeed."""

    def __init__(self, reason: str, failure: _Failure) -> None:
        super().__init__(reason, final=True)
        self.failure = failure


class LLMJudge:
    """Asks a model for the grade of one pair per call. See `base.Judge`.

    Args:
        config: address, model and limits.
        prompt: replaces the prompt of the config's mode.

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
        self._search = FormatSearch(config)
        self._format = RequestFormat()
        self._model = config.model
        self._identity: JudgeIdentity | None = None
        self.name = f"{config.base_url} (model {config.model or 'of the server'})"

    @property
    def identity(self) -> JudgeIdentity:
        """Identity of the judge; available once it is open."""
        if self._identity is None:
            raise RuntimeError("the judge is not open; call open() first")
        return self._identity

    async def open(self) -> None:
        """Connect, and find a request format that gives a label; see `formats`. Resumes the search when called again.

        Raises:
            JudgeError: the server refuses the key, lacks the model, or gives no label in any format.
            CallFailed: the server cannot be reached, or is overloaded; worth another try.
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
        while (asked := self._search.next()) is not None:
            try:
                found = await self._probe(asked)
            except CallFailed as error:
                # A long answer may break a server whose short ones were no labels: both are said.
                if self._search.tried:
                    error.add_to_reason(f"Before that: {self._outcomes()}")
                raise
            if found:
                return
            logger.info("Judge %s: no label with %s: %s", self.name, asked, self._search.tried[asked])
        raise JudgeError(
            f"{self.name} gave no label in any of the {len(self._search.tried)} request formats that were tried. "
            f"{self._outcomes()}. Check base_url (it ends with /v1), the name of the model, and whether it answers "
            "with one word. Parts of the request are fixed by judge.temperature, judge.system_role, judge.logprobs, "
            "judge.limit_name, judge.reasoning_tokens and judge.extra_body."
        )

    async def _probe(self, asked: RequestFormat) -> bool:
        """Ask a harmless question in a request format; returns whether the answer is a label."""
        try:
            completion = await self._call(*_PROBE, asked)
        except _Refused as error:
            hints = hints_of(error.failure.text, error.failure.parameter, asked)
            if error.failure.status == _NOT_FOUND and not hints and "parameter" not in error.failure.text:
                raise await self._not_found(error.reason) from None
            self._search.refused(asked, error.reason, hints)
            return False
        if completion.refusal:
            raise CallFailed(f"refused a harmless question: {completion.refusal[:MOST_SHOWN]}")
        fault = self._fault(completion, asked)
        if fault:
            self._search.no_label(asked, self._clean(fault), bool(completion.reasoning) and completion.is_cut_off)
            return False
        self._found(asked, completion)
        return True

    def _fault(self, completion: Completion, asked: RequestFormat) -> str:
        """Reason why a reply to the probe holds no label in this format; empty if it holds one."""
        try:
            if asked.top_logprobs and not completion.is_cut_off and not first_logprobs(completion.choice):
                return "logprobs were asked for and not given"
            found = to_judgement(completion, self._prompt.labels, asked.top_logprobs > 0)
        except (CallFailed, ValueError) as error:
            return str(error)
        return found.reason

    def _outcomes(self) -> str:
        """Replies to all formats that were tried; equal replies once."""
        formats: dict[str, list[str]] = {}
        for asked, said in self._search.tried.items():
            formats.setdefault(said, []).append(f"[{asked}]")
        return "; ".join(f"{' '.join(some[:_FORMATS_SHOWN])}: {said}" for said, some in formats.items())

    async def _not_found(self, said: str) -> JudgeError:
        try:
            listed = self._clean(", ".join((await self._models())[:_MODELS_SHOWN]))
        except (CallFailed, JudgeError):
            listed = ""
        known = f" The server lists: {listed}." if listed else ""
        return JudgeError(
            f"{self.name}: the server has no such model, or nothing at this address: {said}.{known} Check base_url (it "
            "ends with /v1) and the name of the model."
        )

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        shown = self._cut(passage)
        started = time.perf_counter()
        completion = await self._call(query, shown, self._format)
        latency_s = time.perf_counter() - started
        if completion.model != self.identity.served_model:
            raise CallFailed(
                f"answered by the model {self._clean(completion.model)!r}, not by {self.identity.served_model!r} as at "
                "the start; if a router serves several models under one name, set judge.model to one of them"
            )
        found = to_judgement(completion, self._prompt.labels, self._format.top_logprobs > 0)
        return replace(
            found,
            answer=self._clean(found.answer or "")[:_MOST_KEPT],
            reason=self._clean(found.reason)[:_MOST_KEPT],
            reasoning=self._clean(found.reasoning)[:_MOST_KEPT],
            latency_s=latency_s,
            passage_chars=len(passage),
            shown_chars=len(shown),
        )

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _found(self, asked: RequestFormat, completion: Completion) -> None:
        self._format = asked
        served = self._clean(completion.model)
        parameters = {**asked.identity, "extra_body": self._config.extra_body, **self._limit}
        self._identity = JudgeIdentity(self._model, served, self._prompt.identity, parameters)
        logger.info("Judge: %s, served as %r, asked with %s", self.name, served, asked)

    async def _only_model(self) -> str:
        listed = await self._models()
        if len(listed) != 1:
            raise JudgeError(
                f"{self._config.base_url} serves {len(listed)} models "
                f"({self._clean(', '.join(listed[:_MODELS_SHOWN]))}); set judge.model to the one that is to judge"
            )
        return listed[0]

    async def _models(self) -> list[str]:
        try:
            return [str(model.id) async for model in self._client.models.list()]
        except self._openai.APIStatusError as error:
            raise self._failed(_failure(error), None) from None
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise CallFailed(f"cannot list the models: {self._clean(str(error))}") from None

    async def _call(self, query: str, passage: str, asked: RequestFormat) -> Completion:
        messages = self._prompt.messages(query, passage, asked.system_role)
        try:
            # The library's own limit begins anew with every byte that trickles in.
            async with asyncio.timeout(self._config.timeout_s):
                # Raw: the body is read here, strictly, and not as whatever the library can make of it.
                reply = await self._client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,
                    extra_body=self._config.extra_body,
                    **asked.parameters,
                )
            return read_completion(self._clean(reply.http_response.text))
        except CallFailed as error:
            raise CallFailed(self._clean(error.reason)) from None
        except self._openai.APIStatusError as error:
            failure = _failure(error)
            if failure.code in _FILTERED:
                return Completion(self._served_or_empty(), {}, "", failure.text or failure.code, None, None)
            raise self._failed(failure, asked) from None
        except (self._openai.APITimeoutError, TimeoutError):
            longer = "; a model that reasons may need a longer judge.timeout_s" if asked.reasoning_tokens else ""
            raise CallFailed(f"no answer within {self._config.timeout_s:g} s{longer}") from None
        except self._openai.OpenAIError as error:
            cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
            raise CallFailed(self._clean(f"{error}{cause}")[:MOST_SHOWN]) from None
        except UnicodeEncodeError:
            raise CallFailed("the text holds half of a surrogate pair, which cannot be sent", final=True) from None

    def _served_or_empty(self) -> str:
        return self._identity.served_model if self._identity else ""

    def _failed(self, failure: _Failure, asked: RequestFormat | None) -> Exception:
        said = self._clean(f"HTTP {failure.status}: {failure.text}")[:MOST_SHOWN]
        # "You are not allowed to request logprobs" is about the request, and not about the key.
        about_format = failure.status == _FORBIDDEN and asked and hints_of(failure.text, failure.parameter, asked)
        if (failure.status in FORBIDDEN and not about_format) or failure.code in _SPENT:
            source = self._config.api_key_env
            key = f"the key in ${source}" if source else "a call without a key (api_key_env is not set)"
            return JudgeError(
                f"{self.name} refuses {key}: {said}. Judgements made so far are kept. "
                "Check the key, its rights and its budget, then run the same command again."
            )
        if is_retryable(failure.status):
            wait = parse_retry_after(failure.retry_after)
            return CallFailed(said, limited=failure.status == 429, retry_after_s=wait)
        return _Refused(said, failure)

    def _clean(self, text: str) -> str:
        """The text without the key, which servers may repeat, and without what UTF-8 cannot hold."""
        if len(self._key) >= _SHORTEST_KEY:
            text = text.replace(self._key, "[key]")
        return text.encode("utf-8", "backslashreplace").decode()


def _failure(error: Any) -> _Failure:
    """Failure of an `openai.APIStatusError`, whose message repeats the body."""
    return _Failure(
        int(error.status_code),
        str(error.code or ""),
        str(error.param or ""),
        str(error.message),
        error.response.headers.get("retry-after"),
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
