"""Vectors of texts: POST /v1/embeddings in the form of OpenAI's API, and /embed in that of TEI.

TEI is Hugging Face's text-embeddings-inference.
"""

import asyncio
import base64
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from ernie_m.inference.server.asked import Asked, Texts, Truncate, beside_the_loop, listed, work
from ernie_m.inference.server.gate import Refused
from ernie_m.inference.server.work_queue import Run, WorkQueue
from ernie_m.inference.tasks import text_of
from ernie_m.inference.tasks.encode import EncodeTexts
from ernie_m.model.conventions import DOCUMENT, QUERY
from ernie_m.reader.batching import Feature
from ernie_m.utils.errors import UserError
from ernie_m.vectors.pooling import unit

EMBEDDINGS = "/v1/embeddings"
EMBED = "/embed"
_AT_ONCE = 32  # vectors that are written before others use the event loop
# What a text is, in the words of OpenAI-like APIs -> in ours.
_KINDS = {
    "query": QUERY,
    "search_query": QUERY,
    "document": DOCUMENT,
    "passage": DOCUMENT,
    "search_document": DOCUMENT,
}


class EmbeddingsRequest(Asked):
    """A request in the form of OpenAI, and what others have added to it."""

    input: Texts
    model: str | None = None  # any name: the server has one encoder
    encoding_format: Literal["float", "base64"] | None = None  # None: float
    dimensions: int | None = None
    user: str | None = None  # not read
    input_type: Literal["query", "search_query", "document", "passage", "search_document"] | None = None
    prompt_name: str | None = None
    truncate: Truncate = None


class EmbedRequest(Asked):
    """A request in the form of TEI."""

    inputs: Texts
    normalize: bool | None = None  # None: true
    truncate: Truncate = None
    truncation_direction: Literal["Right", "right"] | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class VectorRoutes:
    """Answers requests for vectors. Texts that wait at the same time, whoever sent them, share batches.

    Args:
        encode: makes the vectors.
        name: the name of the model, for the answers.
    """

    def __init__(self, encode: EncodeTexts, name: str, queue: WorkQueue):
        self.encode = encode
        self.name = name
        self.queue = queue
        self.run = Run(encode.vectors_of, encode.model.runs_in_many_threads)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""

        @app.post(
            EMBEDDINGS, summary="Vectors of texts, of length 1, in the form of OpenAI", operation_id="encode"
        )
        async def embeddings(request: Request, asked: EmbeddingsRequest) -> Response:
            prompt = self.prompt(asked.prompt_name, asked.input_type)
            features = await self.features(asked.input, "input", prompt, asked.truncate, asked.dimensions)
            vectors = await self.vectors(request, features)
            rows = await json_rows(vectors, asked.encoding_format == "base64")
            entries = [
                b'{"object":"embedding","index":%d,"embedding":%b}' % (number, row)
                for number, row in enumerate(rows)
            ]
            tokens = sum(len(feature.ids) for feature in features)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            rest = to_json({"object": "list", "model": self.name, "usage": usage})[1:]
            return _json(b'{"data":[' + b",".join(entries) + b"]," + rest)

        @app.post(EMBED, summary="Vectors of texts, in the form of TEI", operation_id="embed")
        async def embed(request: Request, asked: EmbedRequest) -> Response:
            prompt = self.prompt(asked.prompt_name)
            features = await self.features(asked.inputs, "inputs", prompt, asked.truncate, asked.dimensions)
            vectors = await self.vectors(request, features, asked.normalize is not False)
            return _json(b"[" + b",".join(await json_rows(vectors)) + b"]")

    def entry(self, default_prompt: str | None) -> dict[str, Any]:
        """What /v1/models says of the model.

        Args:
            default_prompt: the name of the prompt that the server was started with.
        """
        reading = self.encode.model.reading
        return {
            "dimensions": self.encode.model.config.hidden_size,
            "max_tokens": self.encode.max_seq_len,
            "prompts": dict(reading.prompts),
            "default_prompt": reading.default_prompt if default_prompt is None else default_prompt,
        }

    def prompt(self, name: str | None, input_type: str | None = None) -> str:
        """What is put before the texts of a request: its choice, else that of the server.

        Raises:
            Refused: there is no prompt of this name, or the request has two answers.
        """
        if name is None and input_type is None:
            return self.encode.prompt
        if name is not None and input_type is not None:
            raise Refused(
                400, "'prompt_name' and 'input_type' are two answers; give one of them", "prompt_name"
            )
        try:
            kind = _KINDS[input_type] if input_type else QUERY  # with a name, the kind does not count
            return self.encode.model.reading.prompt(kind, name)
        except UserError as error:
            raise Refused(400, f"'prompt_name': {error}", "prompt_name") from error

    async def features(
        self,
        texts: str | list[str],
        key: str,
        prompt: str,
        truncate: Truncate = None,
        dimensions: int | None = None,
    ) -> list[Feature]:
        """The model inputs of the texts of a request.

        Raises:
            UserError: a text is empty or too long.
            Refused: there are too many, or the vectors have other dimensions.
        """
        width = self.encode.model.config.hidden_size
        if dimensions not in (None, width):
            message = f"'dimensions' is {dimensions}; the vectors of this model have {width}"
            raise Refused(400, message, "dimensions")
        texts = listed(texts, key, self.queue.most_texts)
        keys = [f"{key}[{number}]" for number in range(len(texts))]
        texts = [text_of({key: text}, key) for key, text in zip(keys, texts)]
        features = await beside_the_loop(lambda: self.encode.features(texts, prompt), texts)
        for key_of_text, feature in zip(keys, features):
            if feature.cut and truncate in (None, False, "NONE"):
                most = self.encode.max_seq_len - 2
                raise Refused(
                    400,
                    f"'{key_of_text}' has more than {most} tokens; shorten it, or send \"truncate\": true",
                    key,
                )
        return features

    async def vectors(self, request: Request, features: list[Feature], normalize: bool = True) -> np.ndarray:
        """The vectors of model inputs, float32 [N, H].

        Args:
            normalize: whether they have length 1; those of some models have it anyway.
        """
        tokens = [len(feature.ids) for feature in features]
        vectors = np.stack(await work(self.queue, request, self.run, features, tokens))
        # Division by the length once more would change the last bits.
        return unit(vectors) if normalize and not self.encode.normalize else vectors


async def json_rows(vectors: np.ndarray, as_base64: bool = False) -> list[bytes]:
    """Each of the vectors [N, H] as JSON. Others use the event loop now and then."""
    rows = []
    for number, vector in enumerate(vectors):
        if number and number % _AT_ONCE == 0:
            await asyncio.sleep(0)
        rows.append(
            b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
            if as_base64
            else to_json(vector.tolist())
        )
    return rows


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
