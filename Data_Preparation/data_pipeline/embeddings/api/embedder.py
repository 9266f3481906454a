"""Embedder behind an API: one request for each pack of texts, and an identity that a changed model cannot keep."""

import logging
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from data_pipeline.config import EmbeddingConfig
from data_pipeline.embeddings.api.calls import Calls
from data_pipeline.embeddings.api.client import CallFailedError, Client
from data_pipeline.embeddings.api.providers import PROVIDERS, QUERY_MARK, Reply, Request
from data_pipeline.embeddings.api.texts import TextReader, to_text
from data_pipeline.embeddings.api.vectors import read_vectors
from data_pipeline.embeddings.base import API_REVISION, Identity, Runtime, tokenizer_sha256
from data_pipeline.embeddings.probes import PROBES, sketch_of
from data_pipeline.embeddings.recipes import find_card
from data_pipeline.embeddings.tokens import Tokens
from data_pipeline.errors import ApiError, ConfigError, ModelError, RequestRefusedError
from data_pipeline.types import Float32Array
from data_pipeline.utils import shortened

logger = logging.getLogger(__name__)

_QUOTED_CHARS = 200
_BATCH_SIZE, _BATCH_TOKENS = 32, 16_384  # the smallest limits of common servers, those of TEI


class ApiEmbedder:
    """Embedder behind an API; see `base.Embedder`. The probe texts are requested when it is created.

    Args:
        config: model, dimensions, server and limits.
        tokenizer: counts tokens; that of the model if the config names one.

    Raises:
        ConfigError: a setting does not fit an API, or the environment variable with the key is not set.
        ApiError: the server cannot be used.
        MissingExtraError: the package httpx2 is not installed.
    """

    def __init__(self, config: EmbeddingConfig, tokenizer: Tokenizer) -> None:
        _check_settings(config)
        self._config, self._provider = config, PROVIDERS[config.api.provider]
        self._client = Client(config.api, config.model_name, self._provider)
        self._calls = Calls(config.api, self._client.name)
        self.tokenizer = tokenizer
        self._reader = TextReader(tokenizer if config.api.tokenizer else None, config.max_length)
        self._asks_for_base64 = config.api.encoding != "float" and self._provider.has_base64
        self._sent_dim = config.dim if config.api.send_dimensions else None
        self._width, self._served_model = 0, ""
        probes = self._open()
        dim = config.dim or self._width
        prompt, query_prompt = _prompts(config)
        self.query_prompt = (QUERY_MARK if self._provider.has_queries else "") + query_prompt
        self.runtime = Runtime(
            attention="server",
            batch_dependent=True,
            in_flight=config.api.slots,
            batch_tokens=config.batch_tokens or _BATCH_TOKENS,
            batch_size=config.batch_size or _BATCH_SIZE,
            remote=self._calls,
        )
        self.identity = Identity(
            model=config.model_name,
            revision=API_REVISION + config.api.provider,
            pooling="server",
            normalized=config.normalize is not False,
            dtype="float32",
            dim=dim,
            max_length=config.max_length or 0,
            prompt=prompt,
            tokenizer=tokenizer_sha256(self.tokenizer),
            probes=sketch_of(probes[:, :dim]),
        )
        logger.info(
            "Model %s, served as %r: %d of %d dimensions, %s, %d slots",
            self._client.name, self._served_model, dim, self._width,
            "base64" if self._asks_for_base64 else "lists of numbers", config.api.slots,
        )  # fmt: skip

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts as ids of four bytes, with their numbers of tokens; see `base.Embedder` and `texts`.

        Raises:
            ModelError: a text holds a lone surrogate.
        """
        return self._reader.read(texts)

    def forward(self, texts: Tokens, dtype: str | None = None) -> Float32Array:
        """Vectors of one request, as the server sent them; see `base.Embedder`.

        Raises:
            RequestRefusedError: the server does not accept the request.
            ApiError: the calls failed; see `Calls.make`.
        """
        del dtype
        content = [to_text(texts.row(row)) for row in range(len(texts))]
        is_query = np.array([text.startswith(QUERY_MARK) for text in content], np.bool_)
        if not self._provider.has_queries or is_query.all() or not is_query.any():
            return self._vectors(content, int(texts.lengths.sum()), bool(is_query.any()))
        # Documents and queries cannot share a request.
        vectors = np.empty((len(texts), self._width), np.float32)
        for rows in (np.flatnonzero(is_query), np.flatnonzero(~is_query)):
            vectors[rows] = self.forward(texts.take(rows))
        return vectors

    def _vectors(self, texts: list[str], tokens: int, is_query: bool, is_budgeted: bool = True) -> Float32Array:
        if self._provider.has_queries:
            texts = [text.removeprefix(QUERY_MARK) for text in texts]
        request = Request(self._config.model_name, texts, is_query, self._asks_for_base64, self._sent_dim)
        return self._calls.make(lambda: self._attempt(request, tokens), tokens, is_budgeted=is_budgeted)

    def _attempt(self, request: Request, tokens: int) -> Float32Array:
        """Make one call, and check its reply.

        Raises:
            CallFailedError: the call failed, or its reply is not one vector of the right width for each text.
        """
        content = self._client.post(self._provider.body(request))
        try:
            reply = self._provider.read(content, len(request.texts))
            counted = reply.tokens if isinstance(reply.tokens, int) and reply.tokens > 0 else tokens
            self._calls.bill(counted)
            vectors = read_vectors(reply.vectors)
        except (KeyError, TypeError, AttributeError) as error:
            beginning = shortened(str(content), _QUOTED_CHARS)
            raise CallFailedError(f"a reply of another structure ({error}): {beginning}") from None
        except ValueError as error:
            raise CallFailedError(f"an unusable reply: {error}") from None
        self._check_reply(reply, vectors)
        return vectors

    def _check_reply(self, reply: Reply, vectors: Float32Array) -> None:
        if not self._width:
            self._served_model = reply.model
            return
        if reply.model != self._served_model:
            raise CallFailedError(
                f"answered by the model {reply.model!r}, not by {self._served_model!r} as at the start; if a router "
                "serves several models under one name, set embedding.model_name to one of them"
            )
        if vectors.shape[1] != self._width:
            raise CallFailedError(f"vectors of {vectors.shape[1]} dimensions, not of {self._width} as at the start")

    def _open(self) -> Float32Array:
        """Request the vectors of the probe texts, leaving out what the server refuses.

        Raises:
            ApiError, ModelError: the server cannot be used.
        """
        tokens = self._reader.read(PROBES)
        while True:
            try:
                vectors = self._vectors(list(PROBES), int(tokens.lengths.sum()), False, is_budgeted=False)
                break
            except RequestRefusedError as error:
                if not self._simplify_request(error):
                    raise ApiError(
                        f"{self._client.name} refuses the probe texts: {error}. Check embedding.model_name and "
                        "embedding.api.base_url."
                    ) from None
        if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
            raise ModelError(
                f"{self._client.name} gives no finite vector for a probe text. Use another model or server."
            )
        self._width = vectors.shape[1]
        if self._config.dim is not None and self._config.dim > self._width:
            raise ConfigError(f"embedding.dim {self._config.dim}: {self._client.name} gives {self._width} dimensions")
        return vectors

    def _simplify_request(self, error: RequestRefusedError) -> bool:
        """Leave out an optional part of the requests; returns whether there was one."""
        about_dimensions = "dimension" in str(error).lower()
        may_drop_base64 = self._asks_for_base64 and self._config.api.encoding == "auto"
        may_drop_dim = self._sent_dim is not None and self._config.api.send_dimensions == "auto"
        if may_drop_dim and (about_dimensions or not may_drop_base64):
            logger.warning(
                "%s refuses the parameter for the dimensions (%s): vectors are cut to %d dimensions here, which needs "
                "a model that is trained for it", self._client.name, error, self._sent_dim,
            )  # fmt: skip
            self._sent_dim = None
            return True
        self._asks_for_base64 = self._asks_for_base64 and not may_drop_base64
        return may_drop_base64


def _prompts(config: EmbeddingConfig) -> tuple[str, str]:
    """Prefixes of documents and queries: those of the config, else of the model's card, which servers do not add."""
    match = find_card(config.model_name)
    own = (match.card.document_prompt, match.card.query_prompt) if match else ("", "")
    prompts = tuple(
        theirs if given is None else given
        for given, theirs in zip((config.prompt, config.query_prompt), own, strict=True)
    )
    if match and prompts == own and any(own):
        logger.info(
            "%s: prompts of its card, %r for documents and %r for queries; if the server adds its own, set "
            "embedding.prompt and embedding.query_prompt to an empty text", match.card.name, *own,
        )  # fmt: skip
    return prompts[0], prompts[1]


def _check_settings(config: EmbeddingConfig) -> None:
    """Refuse settings that would be ignored."""
    if config.max_length is not None and config.api.tokenizer is None:
        raise ConfigError(
            f"embedding.max_length {config.max_length} needs a tokenizer to cut texts with: set "
            "embedding.api.tokenizer, or leave it to the server, which refuses texts that are too long"
        )
    if config.api.encoding == "base64" and not PROVIDERS[config.api.provider].has_base64:
        raise ConfigError(f"embedding.api.encoding base64: {config.api.provider} has only lists of numbers; set auto")
