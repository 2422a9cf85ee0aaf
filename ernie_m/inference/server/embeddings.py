"""POST /v1/embeddings: sentence vectors in the form of OpenAI's API, which tools of other makers speak.

GET /v1/models names the model.
"""

import asyncio
import base64
from collections import deque
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from ernie_m.inference.tasks import text_of
from ernie_m.inference.tasks.encode import EncodeTexts
from ernie_m.reader.batching import BATCH_TOKENS, Feature
from ernie_m.utils.errors import UserError
from ernie_m.vectors.nearest import unit

PATH = "/v1/embeddings"
MODELS_PATH = "/v1/models"
MOST_TEXTS = 2048  # how many texts a request may have, as at OpenAI
_PATIENCE = 0.002  # seconds between the first text of a batch and its start, in which others may join it


def _only_texts(value: Any) -> Any:
    """Refuse what is no text and no list of texts with one fault, where pydantic has one for each number."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError(
            "no_texts",
            "it must be a text or a list of texts; token ids are those of another model, so a client that "
            "sends them must be told to send texts (LangChain: check_embedding_ctx_length=False)",
        )
    return value


class EmbeddingsRequest(BaseModel):
    """A request. Other keys of OpenAI's form, such as "user", are not read."""

    model_config = ConfigDict(strict=True)

    input: Annotated[str | list[str], BeforeValidator(_only_texts)]
    model: str | None = None  # any name: the server has one encoder
    encoding_format: Literal["float", "base64"] | None = None  # None: float
    dimensions: int | None = None


class EmbeddingsAnswerer:
    """Answers requests. Texts that wait at the same time, whoever sent them, are encoded in one batch.

    Args:
        encode: makes the vectors, which get length 1.
        name: the name of the model, for the answers.
    """

    def __init__(self, encode: EncodeTexts, name: str):
        self.encode = encode
        self.name = name
        self._waiting: deque[tuple[Feature, asyncio.Future]] = deque()  # each with its vector to come

    def models(self) -> dict[str, Any]:
        """The list of the models that can be asked for vectors: there is one."""
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "ernie-m"}
        return {"object": "list", "data": [model]}

    async def answer(self, request: EmbeddingsRequest) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            UserError: a text is empty or too long, there are too many, or the vectors have other dimensions.
        """
        features = self._features(request)
        vectors = await asyncio.gather(*[self._vector_of(feature) for feature in features])
        entries = []
        for number, vector in enumerate(vectors):
            embedding = vector.tolist()
            if request.encoding_format == "base64":
                embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            entries.append({"object": "embedding", "index": number, "embedding": embedding})
        tokens = sum(len(feature.ids) for feature in features)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": entries, "model": self.name, "usage": usage}

    def _features(self, request: EmbeddingsRequest) -> list[Feature]:
        """The model inputs of the texts of a request."""
        width = self.encode.model.config.hidden_size
        if request.dimensions not in (None, width):
            raise UserError(f"'dimensions' is {request.dimensions}; the vectors of this model have {width}")
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not 1 <= len(texts) <= MOST_TEXTS:
            raise UserError(f"'input' has {len(texts)} texts; a request has 1 to {MOST_TEXTS}")
        keys = [f"input[{number}]" for number in range(len(texts))]
        features = self.encode.features([text_of({key: text}, key) for key, text in zip(keys, texts)])
        for key, feature in zip(keys, features):
            if feature.cut:
                raise UserError(f"'{key}' has more than {self.encode.max_seq_len - 2} tokens; shorten it")
        return features

    def _vector_of(self, feature: Feature) -> asyncio.Future:
        """The vector of a text, float32 [H], when its batch was encoded."""
        vector = asyncio.get_running_loop().create_future()
        self._waiting.append((feature, vector))
        if len(self._waiting) == 1:
            self._start_soon()
        return vector

    def _start_soon(self) -> None:
        # In the event loop, so that the model runs in the thread that loaded it.
        asyncio.get_running_loop().call_later(_PATIENCE, self._encode_batch)

    def _encode_batch(self) -> None:
        """Encode the texts that have waited longest, at most BATCH_TOKENS tokens, or one text."""
        batch = [self._waiting.popleft()]
        tokens = len(batch[0][0].ids)
        while self._waiting:
            next_feature, _ = self._waiting[0]
            tokens += len(next_feature.ids)
            if tokens > BATCH_TOKENS:
                break
            batch.append(self._waiting.popleft())
        if self._waiting:  # later, so that requests that arrive meanwhile are read first
            self._start_soon()
        try:
            vectors: np.ndarray = unit(self.encode.vectors_of([feature for feature, _ in batch]))  # [N, H]
        except Exception as error:  # else their requests would wait for ever
            for _, vector_to_come in batch:
                if not vector_to_come.done():
                    vector_to_come.set_exception(error)
            return
        for (_, vector_to_come), vector in zip(batch, vectors):
            if not vector_to_come.done():  # else its request was cancelled
                vector_to_come.set_result(vector)
