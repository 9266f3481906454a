"""Settings of an embedder behind an API."""

from typing import Literal, Self

from pydantic import field_validator, model_validator

from data_pipeline.config.base import setting
from data_pipeline.config.calls import CallsConfig, plain_address


class ApiConfig(CallsConfig):
    """Server that computes the vectors, its requests, and the handling of failures."""

    provider: Literal["openai", "cohere", "voyage"] = "openai"
    """Form of the requests. openai: every server with OpenAI's `/v1/embeddings` (OpenAI, vLLM, TEI, Infinity,
    llama.cpp, Ollama, LM Studio)."""
    base_url: str | None = setting(None, decides=False)
    """Address of the API, up to /v1; the full address of its embeddings is accepted too. none: that of the provider."""
    timeout_s: float = setting(60.0, decides=False, gt=0)
    """Timeout of one call in seconds, from its first byte to its last."""
    slots: int = setting(16, decides=False, ge=1)
    """Number of concurrent calls, over all shards."""
    encoding: Literal["auto", "base64", "float"] = setting("auto", decides=False)
    """Encoding of the vectors in a reply; auto: base64, a quarter of the bytes, unless the server refuses it."""
    send_dimensions: Literal["auto"] | bool = "auto"
    """Whether embedding.dim is sent as `dimensions`; auto: unless the server refuses it. Longer vectors are cut here,
    which is the same for models that are trained for it (Matryoshka)."""
    tokenizer: str | None = None
    """Hugging Face name or folder of the tokenizer of the model, which counts the tokens; none: a token is taken to
    have four bytes."""
    price_per_million_tokens: float | None = setting(None, decides=False, ge=0)
    """Price of a million tokens, in any currency; none: costs are not shown."""
    max_cost: float | None = setting(None, decides=False, gt=0)
    """Maximum cost of one run, in the currency of the price; a run that would exceed it does not start, and one that
    reaches it stops cleanly. none: no limit."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        return None if url is None else plain_address(plain_address(url, "/embeddings"), "/embed")

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.max_cost is not None and self.price_per_million_tokens is None:
            raise ValueError("max_cost needs price_per_million_tokens to count the cost with")
        return self
