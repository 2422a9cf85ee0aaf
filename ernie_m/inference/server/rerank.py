"""Scores of documents for a query, by a cross-encoder.

POST /v1/rerank has the form of Cohere and Jina, /rerank that of TEI.
"""

from typing import Any, Literal

import numpy as np
from fastapi import FastAPI
from pydantic import PositiveInt
from starlette.requests import Request

from ernie_m.inference.server.asked import Asked, Texts, Truncate, beside_the_loop, listed, work
from ernie_m.inference.server.gate import Refused
from ernie_m.inference.server.work_queue import Run, WorkQueue
from ernie_m.inference.tasks import text_of
from ernie_m.inference.tasks.finetuned import ClassifyTexts
from ernie_m.reader.batching import Example

V1_RERANK = "/v1/rerank"
V2_RERANK = "/v2/rerank"  # where newer clients of Cohere ask for the same
RERANK = "/rerank"


class Document(Asked):
    """A document as an object."""

    text: str


class V1RerankRequest(Asked):
    """A request in the form of Cohere and Jina. Long pairs are cut, as there, unless `truncate` is false."""

    query: str
    documents: list[str | Document]
    model: str | None = None  # any name
    top_n: PositiveInt | None = None
    return_documents: bool | None = None
    truncate: Truncate = None  # None: true


class RerankRequest(Asked):
    """A request in the form of TEI."""

    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: Truncate = None
    truncation_direction: Literal["Right", "right"] | None = None


class RerankRoutes:
    """Answers requests for scores.

    Args:
        classify: of a model that predicts a number for a pair of texts.
        name: the name of the model, for the answers.
    """

    def __init__(self, classify: ClassifyTexts, name: str, queue: WorkQueue):
        self.task = classify.task
        self.name = name
        self.queue = queue
        self.run = Run(classify.predictions, classify.in_many_threads)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes."""

        @app.post(V2_RERANK, include_in_schema=False)
        @app.post(V1_RERANK, summary="Scores of documents, in the form of Cohere", operation_id="v1-rerank")
        async def v1_rerank(request: Request, asked: V1RerankRequest) -> dict[str, Any]:
            texts = [each if isinstance(each, str) else each.text for each in asked.documents]
            truncate = True if asked.truncate is None else asked.truncate
            outputs, tokens = await self.outputs(request, asked.query, texts, "documents", truncate)
            scores = _between_0_and_1(outputs)
            results: list[dict[str, Any]] = []
            for row in np.argsort(-scores, kind="stable").tolist()[: asked.top_n]:
                results.append({"index": row, "relevance_score": float(scores[row])})
                if asked.return_documents:
                    results[-1]["document"] = {"text": texts[row]}
            return {"model": self.name, "results": results, "usage": {"total_tokens": tokens}}

        @app.post(RERANK, summary="Scores of texts, in the form of TEI", operation_id="rerank")
        async def rerank(request: Request, asked: RerankRequest) -> list[dict[str, Any]]:
            texts = listed(asked.texts, "texts")
            outputs, _ = await self.outputs(request, asked.query, texts, "texts", asked.truncate)
            scores = outputs if asked.raw_scores else _between_0_and_1(outputs)
            results: list[dict[str, Any]] = []
            for row in np.argsort(-scores, kind="stable").tolist():
                results.append({"index": row, "score": float(scores[row])})
                if asked.return_text:
                    results[-1]["text"] = texts[row]
            return results

    async def outputs(
        self, request: Request, query: str, texts: list[str], key: str, truncate: Truncate
    ) -> tuple[np.ndarray, int]:
        """The output of the model for the query with each text, float64 [N], and the number of tokens.

        Raises:
            UserError: a text is empty.
            Refused: there are too many texts, or a pair is too long.
        """
        texts = listed(texts, key, self.queue.most_texts)
        query = text_of({"query": query}, "query")
        pairs = []
        for number, text in enumerate(texts):
            name = f"{key}[{number}]"
            pairs.append(Example(query, text_of({name: text}, name)))
        features = await beside_the_loop(lambda: self.task.encode(pairs), [query, *texts])
        for number, feature in enumerate(features):
            if feature.cut and truncate in (None, False, "NONE"):
                most = self.task.encode.max_seq_len - 4
                message = (
                    f"'{key}[{number}]' and the query have more than {most} tokens; shorten them, or send"
                )
                raise Refused(400, f'{message} "truncate": true', key)
        tokens = [len(feature.ids) for feature in features]
        outputs = await work(self.queue, request, self.run, features, tokens)
        return np.array(outputs, np.float64), sum(tokens)


def _between_0_and_1(outputs: np.ndarray) -> np.ndarray:
    """The sigmoid of outputs, in a form that does not overflow."""
    return np.exp(-np.logaddexp(0, -outputs))
