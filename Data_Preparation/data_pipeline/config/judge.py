"""Settings of the judge."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from data_pipeline.config.base import setting
from data_pipeline.config.calls import CallsConfig, plain_address

_OWN_KEYS = {"messages", "model", "max_tokens", "max_completion_tokens", "temperature", "logprobs", "top_logprobs"}


class JudgeConfig(CallsConfig):
    """Judge, its requests, and the handling of failures."""

    judge: Literal["llm", "similarity"] = "llm"
    """Kind of judge. llm: a model behind an OpenAI-compatible server; similarity: cosine similarity of embeddings with
    thresholds calibrated on gold judgements, which needs no server and no LLM."""
    base_url: str = setting("http://127.0.0.1:8080/v1", decides=False)
    """Address of the server, up to /v1; the full address of its chat completions is accepted too."""
    model: str = ""
    """Name of the model, as the server lists it; empty: the only model that the server lists."""
    mode: Literal["binary", "graded"] = "binary"
    """Scale of the judgements. binary: YES or NO, stored as grades 3 and 0; graded: 0 to 3, of which 2 and 3 are
    relevant."""
    temperature: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = "auto"
    """Sampling temperature; auto: 0, and not sent to a server that refuses it; null: never sent."""
    system_role: Literal["auto"] | bool = "auto"
    """Whether the instructions are sent as a system message; false: they precede the user message; auto: true, unless
    the server rejects the system role."""
    logprobs: Literal["auto"] | bool = "auto"
    """Whether probabilities of the labels are requested; auto: if the server supports them."""
    limit_name: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    """Name of the request parameter that limits the answer; auto: the one that the server accepts."""
    reasoning_tokens: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Number of tokens for reasoning before the answer, which is removed; auto: 0, or 2048 for a reasoning model."""
    passage_tokens: int | None = Field(None, ge=1)
    """Number of tokens of `tokenizer` to which a passage is truncated for the judge, which is recorded; none: no
    limit."""
    passage_chars: int | None = Field(None, ge=1)
    """Number of characters to which passages are truncated for the judge, which is recorded; none: no limit."""
    tokenizer: str | None = None
    """Hugging Face name or folder of the tokenizer that passage_tokens counts with."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Additional keys of the request body, such as {chat_template_kwargs: {enable_thinking: false}}; no secrets, since
    they are saved."""
    price_per_million_prompt_tokens: float | None = setting(None, decides=False, ge=0)
    """Price of a million tokens of requests, in any currency; none: costs are not shown."""
    price_per_million_completion_tokens: float | None = setting(None, decides=False, ge=0)
    """Price of a million tokens of answers, in the same currency; none: costs are not shown."""
    flush_s: float = setting(0.5, decides=False, gt=0)
    """Interval at which finished judgements are written to disk, in seconds."""
    flush_answers: int = setting(256, decides=False, ge=1)
    """Number of finished judgements after which they are written to disk."""
    seed: int = 0
    """Seed of the random waits; no label depends on it."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        return plain_address(url, "/chat/completions")

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the cost of tokens in the currency of the prices; None unless both prices are set."""
        prices = self.price_per_million_prompt_tokens, self.price_per_million_completion_tokens
        if prices[0] is None or prices[1] is None:
            return None
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.passage_tokens is not None and self.tokenizer is None:
            raise ValueError("passage_tokens needs a tokenizer to count with; name the judge's, or use passage_chars")
        if self.passage_tokens is not None and self.passage_chars is not None:
            raise ValueError("passage_tokens and passage_chars are two limits for one thing; set one of them")
        if (self.price_per_million_prompt_tokens is None) != (self.price_per_million_completion_tokens is None):
            raise ValueError(
                "a cost needs both prices: set price_per_million_prompt_tokens and price_per_million_completion_tokens"
            )
        if self.logprobs is True and self.reasoning_tokens not in ("auto", 0):
            raise ValueError("logprobs are those of an answer's first token, which reasoning takes; set one of them")
        if conflicts := sorted(_OWN_KEYS & self.extra_body.keys()):
            raise ValueError(f"extra_body: {', '.join(conflicts)} is set by the judge itself; leave it out")
        return self
