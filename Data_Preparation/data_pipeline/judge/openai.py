"""LLM judge behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, Groq, OpenAI."""

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.config.judge import JudgeConfig
from data_pipeline.errors import JudgeError
from data_pipeline.judge.base import CallFailedError, JudgeIdentity, Judgement
from data_pipeline.judge.formats import FormatSearch, RequestFormat, read_hints
from data_pipeline.judge.limits import passage_limit
from data_pipeline.judge.parsing import first_logprobs
from data_pipeline.judge.prompts import PROMPTS, Prompt
from data_pipeline.judge.reply import MAX_QUOTED_CHARS, Completion, read_completion, to_judgement
from data_pipeline.utils import require
from data_pipeline.utils.keys import PLACEHOLDER, read_key, without_key
from data_pipeline.utils.retry import FORBIDDEN, is_retryable, parse_retry_after

logger = logging.getLogger(__name__)

_MAX_STORED_CHARS = 2000
"""Characters of an answer that are stored: a label has a few, but a server may ignore the token limit."""
_PROBE = ("What is the capital of France?", "Paris has been the capital of France for most of its history.")
# Error codes of providers for an answer that their content filter withholds.
_FILTERED = {"content_filter", "content_policy_violation"}
_FORBIDDEN, _NOT_FOUND = 403, 404
_MAX_MODELS, _MAX_FORMATS = 10, 2
_BUDGET_SPENT = {"insufficient_quota", "billing_hard_limit_reached"}


@dataclass(frozen=True, slots=True)
class _Failure:
    """A reply with an HTTP status other than 200."""

    status: int
    code: str
    parameter: str
    """Name of the request's parameter that the server complains about."""
    text: str
    retry_after: str | None


class _RejectedError(CallFailedError):
    """A request that the server does not accept; the same request cannot succeed."""

    def __init__(self, reason: str, failure: _Failure) -> None:
        super().__init__(reason, final=True)
        self.failure = failure


class LLMJudge:
    """Judge that asks a model for the grade of one item per call. See `base.Judge`.

    Args:
        config: address, model and limits.
        prompt: used instead of the prompt of the config's mode.

    Raises:
        ConfigError: the environment variable with the key is not set, or the tokenizer cannot be loaded.
        MissingExtraError: the package openai is not installed.
    """

    def __init__(self, config: JudgeConfig, prompt: Prompt | None = None) -> None:
        self._openai: Any = require("openai", "weak-labels", "a judge behind an OpenAI-compatible server")
        self._config, self._prompt = config, prompt or PROMPTS[config.mode]
        self._key = read_key(config.api_key_env, "judge.api_key_env", "the judge")
        self._cut, self._limit = passage_limit(config)
        self._client: Any = None
        self._search = FormatSearch(config)
        self._format = RequestFormat()
        self._model = config.model
        self._identity: JudgeIdentity | None = None
        self.name = f"{config.base_url} (model {config.model or 'of the server'})"

    @property
    def identity(self) -> JudgeIdentity:
        """Identity of the judge; available after `open`."""
        if self._identity is None:
            raise RuntimeError("the judge is not open; call open() first")
        return self._identity

    async def open(self) -> None:
        """Connect, and find a request format that gives a label; see `formats`. Another call resumes the search.

        Raises:
            JudgeError: the server rejects the key, lacks the model, or gives no label in any format.
            CallFailedError: the server cannot be reached or is overloaded; another try may succeed.
        """
        if self._client is None:
            self._client = self._openai.AsyncOpenAI(
                base_url=self._config.base_url,
                api_key=self._key or PLACEHOLDER,
                timeout=self._config.timeout_s,
                max_retries=0,  # the pool retries: it knows the budget and the breaker
            )
        if not self._model:
            self._model = await self._find_only_model()
            self.name = f"{self._config.base_url} (model {self._model})"
        while (asked := self._search.next()) is not None:
            try:
                is_label = await self._probe(asked)
            except CallFailedError as error:
                # A long answer may break a server whose short answers were not labels: the message has both.
                if self._search.tried:
                    error.add_to_reason(f"Before that: {self._describe_replies()}")
                raise
            if is_label:
                return
            logger.info("Judge %s: no label with %s: %s", self.name, asked, self._search.tried[asked])
        raise JudgeError(
            f"{self.name} gave no label in any of the {len(self._search.tried)} request formats that were tried. "
            f"{self._describe_replies()}. Check base_url (it ends with /v1), the name of the model, and whether it "
            "answers with one word. Parts of the request are fixed by judge.temperature, judge.system_role, "
            "judge.logprobs, judge.limit_name, judge.reasoning_tokens and judge.extra_body."
        )

    async def _probe(self, asked: RequestFormat) -> bool:
        """Ask a harmless question in a request format; return whether the answer is a label."""
        try:
            completion = await self._call(*_PROBE, asked)
        except _RejectedError as error:
            hints = read_hints(error.failure.text, error.failure.parameter, asked)
            if error.failure.status == _NOT_FOUND and not hints and "parameter" not in error.failure.text:
                raise await self._not_found_error(error.reason) from None
            self._search.add_rejection(asked, error.reason, hints)
            return False
        if completion.refusal:
            raise CallFailedError(f"refused a harmless question: {completion.refusal[:MAX_QUOTED_CHARS]}")
        fault = self._reason_for_no_label(completion, asked)
        if fault:
            needs_more_tokens = bool(completion.reasoning) and completion.is_cut_off
            self._search.add_reply_without_label(asked, self._clean(fault), needs_more_tokens)
            return False
        self._use_format(asked, completion)
        return True

    def _reason_for_no_label(self, completion: Completion, asked: RequestFormat) -> str:
        """Give the reason why a reply to the probe holds no label; empty if it holds one."""
        try:
            if asked.top_logprobs and not completion.is_cut_off and not first_logprobs(completion.choice):
                return "logprobs were requested and not reported"
            judgement = to_judgement(completion, self._prompt.labels, asked.top_logprobs > 0)
        except (CallFailedError, ValueError) as error:
            return str(error)
        return judgement.reason

    def _describe_replies(self) -> str:
        """List the replies to all formats that were tried; equal replies once."""
        formats: dict[str, list[str]] = {}
        for tried, reply in self._search.tried.items():
            formats.setdefault(reply, []).append(f"[{tried}]")
        return "; ".join(f"{' '.join(tried[:_MAX_FORMATS])}: {reply}" for reply, tried in formats.items())

    async def _not_found_error(self, reply: str) -> JudgeError:
        try:
            models = self._clean(", ".join((await self._list_models())[:_MAX_MODELS]))
        except (CallFailedError, JudgeError):
            models = ""
        hint = f" The server lists: {models}." if models else ""
        return JudgeError(
            f"{self.name}: the server has no such model, or nothing at this address: {reply}.{hint} Check base_url (it "
            "ends with /v1) and the name of the model."
        )

    async def judge(self, query: str, passage: str) -> Judgement:
        """See `base.Judge`."""
        shown = self._cut(passage)
        started = time.perf_counter()
        completion = await self._call(query, shown, self._format)
        latency_s = time.perf_counter() - started
        if completion.model != self.identity.served_model:
            raise CallFailedError(
                f"answered by the model {self._clean(completion.model)!r}, not by {self.identity.served_model!r} as at "
                "the start; if a router serves several models under one name, set judge.model to one of them"
            )
        judgement = to_judgement(completion, self._prompt.labels, self._format.top_logprobs > 0)
        texts: dict[str, Any] = {
            name: self._clean(getattr(judgement, name) or "")[:_MAX_STORED_CHARS]
            for name in ("answer", "reason", "reasoning")
        }
        return replace(judgement, **texts, latency_s=latency_s, passage_chars=len(passage), shown_chars=len(shown))

    async def close(self) -> None:
        """Close connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _use_format(self, asked: RequestFormat, completion: Completion) -> None:
        self._format = asked
        served = self._clean(completion.model)
        parameters = {**asked.identity, "extra_body": self._config.extra_body, **self._limit}
        self._identity = JudgeIdentity(self._model, served, self._prompt.identity, parameters)
        logger.info("Judge: %s, served as %r, asked with %s", self.name, served, asked)

    async def _find_only_model(self) -> str:
        models = await self._list_models()
        if len(models) != 1:
            raise JudgeError(
                f"{self._config.base_url} serves {len(models)} models "
                f"({self._clean(', '.join(models[:_MAX_MODELS]))}); set judge.model to the one that is to judge"
            )
        return models[0]

    async def _list_models(self) -> list[str]:
        try:
            return [str(model.id) async for model in self._client.models.list()]
        except self._openai.APIStatusError as error:
            raise self._to_error(_read_failure(error), None) from None
        except (self._openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise CallFailedError(f"cannot list the models: {self._clean(str(error))}") from None

    async def _call(self, query: str, passage: str, asked: RequestFormat) -> Completion:
        messages = self._prompt.messages(query, passage, asked.system_role)
        try:
            # The library's own time-out starts anew with every byte that arrives.
            async with asyncio.timeout(self._config.timeout_s):
                # Raw: the body is parsed strictly here; the library accepts bodies of another structure.
                reply = await self._client.chat.completions.with_raw_response.create(
                    model=self._model, messages=messages, extra_body=self._config.extra_body, **asked.parameters
                )
            return read_completion(self._clean(reply.http_response.text))
        except CallFailedError as error:
            raise CallFailedError(self._clean(error.reason)) from None
        except self._openai.APIStatusError as error:
            failure = _read_failure(error)
            if failure.code in _FILTERED:
                served_model = self._identity.served_model if self._identity else ""
                return Completion(served_model, {}, "", failure.text or failure.code, None, None)
            raise self._to_error(failure, asked) from None
        except (self._openai.APITimeoutError, TimeoutError):
            hint = "; a model that reasons may need a longer judge.timeout_s" if asked.reasoning_tokens else ""
            raise CallFailedError(f"no answer within {self._config.timeout_s:g} s{hint}") from None
        except self._openai.OpenAIError as error:
            cause = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ else ""
            raise CallFailedError(self._clean(f"{error}{cause}")[:MAX_QUOTED_CHARS]) from None
        except UnicodeEncodeError:
            raise CallFailedError("the text holds a lone surrogate, which cannot be sent", final=True) from None

    def _to_error(self, failure: _Failure, asked: RequestFormat | None) -> Exception:
        reply = self._clean(f"HTTP {failure.status}: {failure.text}")[:MAX_QUOTED_CHARS]
        # "You are not allowed to request logprobs" is about the request, not about the key.
        about_format = failure.status == _FORBIDDEN and asked and read_hints(failure.text, failure.parameter, asked)
        if (failure.status in FORBIDDEN and not about_format) or failure.code in _BUDGET_SPENT:
            source = self._config.api_key_env
            key = f"the key in ${source}" if source else "a call without a key (api_key_env is not set)"
            return JudgeError(
                f"{self.name} refuses {key}: {reply}. Judgements made so far are stored. "
                "Check the key, its rights and its budget, then run the same command again."
            )
        if is_retryable(failure.status):
            retry_after_s = parse_retry_after(failure.retry_after)
            return CallFailedError(reply, limited=failure.status == 429, retry_after_s=retry_after_s)
        return _RejectedError(reply, failure)

    def _clean(self, text: str) -> str:
        """Remove the key, which servers may repeat, and what UTF-8 cannot encode."""
        return without_key(text, self._key)


def _read_failure(error: Any) -> _Failure:
    """Read the failure from an `openai.APIStatusError`, whose message repeats the body."""
    return _Failure(
        int(error.status_code),
        str(error.code or ""),
        str(error.param or ""),
        str(error.message),
        error.response.headers.get("retry-after"),
    )
