"""The HTTP server of `ernie-m serve`: web UI, JSON API, embeddings, reranking, models, and metrics.

The event loop reads requests and writes responses; models run in other threads. Requires the extra `serve`.
See docs/serving.md.
"""

import base64
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, create_model, model_validator
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.middleware import HEALTH, RequestMiddleware, make_error_response
from ernie_m.inference.server.request_queue import WorkQueue
from ernie_m.inference.tasks import OPTIONAL_TEXT, REQUIRED_TEXT, Predictor, read_text_key
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.inference.tasks.finetuned import ClassificationPredictor, InferenceLabels
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.pipeline_config import DOCUMENT, QUERY
from ernie_m.model.tasks import CLASSIFICATION, EMBEDDING, MULTI_LABEL, REGRESSION, SEARCH, ZERO_SHOT
from ernie_m.reader.text_featurizer import Example, Feature
from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError, say
from ernie_m.utils.files import read_text
from ernie_m.vectors.pooling import normalize_vectors

MOST_KEYS = 50  # maximum number of keys of a request
MOST_TEXTS = 2048  # maximum length of a list, as at OpenAI
LONGEST_TEXT = 100_000  # maximum length of a text in characters
CHARACTERS = 3  # approximate number of characters per token
# Keys of a request to /api that may be lists of texts, for one prediction each.
LISTED = ("text", "text_a", "text_b", "question", "context")
# Kind of text in OpenAI-compatible APIs -> kind of text here.
KINDS = {
    "query": QUERY,
    "search_query": QUERY,
    "document": DOCUMENT,
    "passage": DOCUMENT,
    "search_document": DOCUMENT,
}
Texts = str | list[str]
# True and "END": truncate texts at the end; otherwise reject texts that are too long.
Truncate = bool | Literal["NONE", "END"] | None


class Body(BaseModel):
    """Base class of request bodies, with strict validation: true is not 1, and unknown keys are rejected."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def check_size(cls, body: Any) -> Any:
        """Check the size of a body before validating its values, to bound the time and the number of errors.

        Raises:
            UserError: the body is not an object, or has too many keys or texts, or a text is too long.
        """
        if not isinstance(body, dict):
            raise UserError("the body must be a JSON object, with the header Content-Type: application/json")
        if len(body) > MOST_KEYS:
            raise UserError(f"the body has {len(body)} keys (maximum: {MOST_KEYS})")
        for key, value in body.items():
            texts = value if isinstance(value, list) else [value]
            if not 1 <= len(texts) <= MOST_TEXTS:
                raise UserError(f"'{key[:50]}' has {len(texts)} texts (expected 1 to {MOST_TEXTS})")
            if any(len(text) > LONGEST_TEXT if isinstance(text, str) else texts is value for text in texts):
                raise UserError(
                    f"'{key[:50]}': expected a text or a list of texts, each of at most "
                    f"{LONGEST_TEXT} characters. Token ids are not supported; set the client to send "
                    "texts (LangChain: check_embedding_ctx_length=False)"
                )
        return body


class EmbeddingsRequest(Body):
    """An OpenAI-compatible request for embeddings, with common extensions."""

    input: Texts
    model: str | None = None  # any value: the server has one encoder
    encoding_format: Literal["float", "base64"] | None = None  # None: float
    dimensions: int | None = None
    user: str | None = None  # ignored
    input_type: Literal[tuple(KINDS)] | None = None
    prompt_name: str | None = None
    truncate: Truncate = False


class RerankRequest(Body):
    """A Jina-compatible request for reranking. Long pairs are truncated, unless `truncate` is false."""

    query: str
    documents: list[str]
    model: str | None = None  # any value
    top_n: PositiveInt | None = None
    min_score: FiniteFloat | None = None  # in the scale of the model's scores
    return_documents: bool | None = None
    truncate: Truncate = True


def make_app(
    models: list[LoadedModel],
    options: PredictionOptions,
    token: str | None = None,
    max_queue: int = 4096,
    max_batch_tokens: int = 1024,
    timeout: float = 300,
    hosts: Sequence[str] = ("*",),
) -> RequestMiddleware:
    """Create the ASGI application of the server, and start its worker threads.

    Args:
        token: the required bearer token; None: no authorization.
        max_queue: maximum number of queued texts.
        max_batch_tokens: approximate maximum number of tokens per batch.
        timeout: request timeout in seconds.
        hosts: the allowed names in the Host header; "*": any.
    """
    predictors = make_predictors(models, options)
    info = describe_server(models, predictors)
    workers = min((model.get_workers() for model in models), key=lambda workers: workers.count)
    begin = workers.begin if workers.count > 1 else lambda: None
    queue = WorkQueue(max_queue, CHARACTERS * max_batch_tokens, timeout, workers.count, begin)
    metrics = CollectorRegistry()
    ProcessCollector(registry=metrics)  # memory, CPU time, open files
    Gauge("ernie_m_queue_texts", "Queued texts.", registry=metrics).set_function(lambda: len(queue.waiting))

    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    _add_error_handlers(app, models)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    @app.head(HEALTH, include_in_schema=False)
    @app.get(HEALTH, summary="Health check")
    async def show_health() -> dict:
        return {"status": "ok"}

    @app.get("/metrics", summary="Prometheus metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics), media_type="text/plain; version=0.0.4")

    @app.get("/api/info", summary="Tasks and models of this server")
    async def show_info() -> dict:
        return info

    offered = {}  # models of /v1 -> their keys in addition to OpenAI's
    if EMBEDDING in predictors:
        encode = predictors.pop(EMBEDDING)
        offered[encode.model.name] = _add_embeddings(app, encode, queue)
    if REGRESSION in predictors and predictors[REGRESSION].model.is_cross_encoder:
        offered.setdefault(predictors[REGRESSION].model.name, {})
        _add_rerank(app, predictors[REGRESSION], queue)
    _add_models(app, offered)
    for word, predictor in predictors.items():
        _add_task(app, word, predictor, options, queue)
    return RequestMiddleware(app, token, metrics, {route.path for route in app.routes}, hosts)


def make_predictors(models: list[LoadedModel], options: PredictionOptions) -> dict[str, Predictor]:
    """Create a predictor for each task that the server offers, with the first model that supports the task.

    Returns:
        Task -> predictor.

    Raises:
        UserError: two models have the same task.
    """
    predictors: dict[str, Predictor] = {}
    tasks = [model.default_task or EMBEDDING for model in models]
    if len(set(tasks)) < len(tasks):
        raise UserError(
            f"--model: two models have the same task ({', '.join(tasks)}). Start one server for each"
        )
    for model in models:
        is_asked_for = {
            model.default_task: model.task is not None,
            ZERO_SHOT: InferenceLabels.from_labels(model.labels).entailment is not None,
            # An export with a head has only the outputs of the head, not embeddings.
            EMBEDDING: model.task is None or model.exported_layer is None,
            SEARCH: bool(options.corpus or options.index),
        }
        is_asked_for[SEARCH] &= is_asked_for[EMBEDDING]
        for task, is_offered in is_asked_for.items():
            if is_offered and task not in predictors:
                predictors[task] = make_predictor(task, model, options)
    return predictors


def describe_server(models: list[LoadedModel], predictors: dict[str, Predictor]) -> dict[str, Any]:
    """Return the response of /api/info, from which the web UI builds its tabs and fields."""
    search = predictors.get(SEARCH)
    classifiers = [
        predictors[task] for task in (CLASSIFICATION, MULTI_LABEL, REGRESSION) if task in predictors
    ]
    languages = {word: each.languages for word, each in predictors.items() if hasattr(each, "languages")}
    if search and search.center_by_language:  # centering requires the mean of the query's language
        languages[SEARCH] = search.means.languages
    labels = classifiers[0].task.labels if classifiers else []
    return {
        "tasks": [word for word, predictor in predictors.items() if predictor.fields is not None],
        "languages": languages,
        "models": [
            {
                "name": model.name,
                "layers": model.num_layers,
                "hidden_size": model.config.hidden_size,
                "vocabulary": model.config.vocab_size,
            }
            for model in models
        ],
        "corpus_languages": search.corpus_languages if search else [],
        "corpus_examples": search.choose_examples() if search else [],
        "labels": labels,
        "infers": InferenceLabels.from_labels(labels).entailment is not None,  # natural language inference
        # Whether the classifier expects pairs of texts; None: unknown.
        "pairs": classifiers[0].model.pipeline_config.pairs if classifiers else None,
        "centered": [SEARCH] if search and search.center_by_language else [],
    }


def _add_error_handlers(app: FastAPI, models: list[LoadedModel]) -> None:
    """Register the error handlers, which respond with a one-line message.

    The message does not contain the body of the request, or the paths of the models on this machine.
    """

    @app.exception_handler(RequestValidationError)
    async def report_invalid_body(request: Request, error: RequestValidationError) -> Response:
        errors: dict[str, str] = {}  # the first of each key
        for detail in error.errors()[:5]:
            if detail["type"] == "json_invalid":
                return make_error_response(400, f"the body is not JSON: {detail['ctx']['error']}")
            message = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"]
            errors.setdefault(str(detail["loc"][:2][-1])[:50], message)
        named = "; ".join(f"'{key}': {message}" for key, message in errors.items())
        fields = request.scope["endpoint"].__annotations__["asked"].model_fields
        return make_error_response(400, f"{named} (keys of {request.url.path}: {', '.join(fields)})")

    @app.exception_handler(UserError)
    async def report_user_error(_request: Request, error: UserError) -> Response:
        message = str(error)
        for model in models:
            message = message.replace(str(model.folder), model.name)
        return make_error_response(400, message)

    @app.exception_handler(HTTPException)
    async def report_http_error(_request: Request, error: HTTPException) -> Response:
        message = error.detail
        if error.status_code == 404:
            routes = [route.path for route in app.routes if "POST" in route.methods]
            message = f"unknown route (choose from {', '.join(routes)})"
        return make_error_response(error.status_code, message, error.headers)

    @app.exception_handler(Exception)
    async def report_failure(_request: Request, _error: Exception) -> Response:
        return make_error_response(500, "internal error; see the log of the server")


def _add_task(
    app: FastAPI, task: str, predictor: Predictor, options: PredictionOptions, queue: WorkQueue
) -> None:
    """Add the route POST /api/<task> of a task."""
    as_list = {REQUIRED_TEXT: (Texts, ...), OPTIONAL_TEXT: (Texts | None, None)}
    fields = {
        key: as_list.get(field, field) if key in LISTED else field for key, field in predictor.fields.items()
    }
    request_class = create_model(f"{task.title().replace('-', '')}Request", __base__=Body, **fields)

    def predict_rows(rows: list[dict[str, Any]]) -> list[Any]:
        contents = [_parse_or_get_error(predictor, row) for row in rows]
        good = [content for content in contents if not isinstance(content, UserError)]
        predictions = iter(predictor.predict(good) if good else ())
        return [content if isinstance(content, UserError) else next(predictions) for content in contents]

    async def endpoint(request: Request, asked: request_class) -> Any:
        values = asked.model_dump(exclude_none=True)
        lists = {key: values[key] for key in LISTED if isinstance(values.get(key), list)}
        if len(set(map(len, lists.values()))) > 1:
            counts = ", ".join(f"'{key}' has {len(texts)}" for key, texts in lists.items())
            raise UserError(f"{counts}: lists of texts must have the same length")
        rows = [values | dict(zip(lists, texts)) for texts in zip(*lists.values())] if lists else [values]
        labels = (values.get("labels", options.labels) or "") if "labels" in fields else ""
        # Each text is paired with each label.
        times = len(labels.split(",") if isinstance(labels, str) else labels)
        sizes = [
            _count_characters(labels)
            + times * _count_characters(*(row[key] for key in row if key != "labels"))
            for row in rows
        ]
        predictions = await queue.results(request, predict_rows, rows, sizes)
        return JSONResponse(predictions if lists else predictions[0])

    app.post(f"/api/{task}", summary=f"Predictions of {task}", operation_id=task)(endpoint)


def _parse_or_get_error(predictor: Predictor, row: dict[str, Any]) -> Any:
    """Parse a request, and return its content or its UserError."""
    try:
        content = predictor.parse(row)
        # The command line truncates long texts instead, and does not limit labels.
        if hasattr(predictor, "check_length"):
            predictor.check_length(content)
        return content
    except UserError as error:
        return error


def _count_characters(*values: Any) -> int:
    """Count the characters of all values that are texts or sequences of texts."""
    return sum(len("".join(value)) for value in values if isinstance(value, str | list | tuple))


def _convert_texts(key: str, texts: list[str], convert: Callable[[str], Any]) -> list[Any]:
    """Validate the texts of a request, and convert each by `convert` for the queue.

    Args:
        key: the key of the texts, for errors.

    Raises:
        UserError: a text is blank, or has a lone surrogate.
    """
    names = [f"{key}[{number}]" for number in range(len(texts))]
    return [convert(read_text_key({name: text}, name)) for name, text in zip(names, texts)]


def _reject_truncated(key: str, features: Sequence[Feature], max_length: int, truncate: Truncate) -> None:
    """Check that no text was truncated, unless the request allows truncation.

    Args:
        key: the key of the texts, for errors.
        features: the model inputs of the texts.
        max_length: the maximum length of a text in tokens, for errors.

    Raises:
        UserError: a text was truncated.
    """
    for number, feature in enumerate(features):
        if feature.cut and truncate not in (True, "END"):
            raise UserError(
                f"'{key}[{number}]' has more than {max_length} tokens. Shorten it, or send \"truncate\": true"
            )


def _add_embeddings(app: FastAPI, encode: EmbeddingPredictor, queue: WorkQueue) -> dict[str, Any]:
    """Add the route POST /v1/embeddings, and return the properties of the model for /v1/models."""
    width = encode.model.config.hidden_size
    pipeline_config = encode.model.pipeline_config

    def compute(as_base64: bool, texts: list[str]) -> list[tuple[Feature, bytes]]:
        """Compute the model input of each text, and its embedding as JSON, or as base64 in JSON."""
        features = encode.tokenize_texts(texts, prompt="")  # the texts include the prompt
        embeddings = encode.encode_features(features)
        if not encode.normalize:  # dividing by the norm twice would change the last bits
            embeddings = normalize_vectors(embeddings)
        rows = map(_encode_base64, embeddings) if as_base64 else embeddings.tolist()
        return list(zip(features, map(to_json, rows), strict=True))

    runs = {as_base64: partial(compute, as_base64) for as_base64 in (False, True)}

    @app.post("/v1/embeddings", summary="Embeddings of unit length (OpenAI-compatible)")
    async def embeddings(request: Request, asked: EmbeddingsRequest) -> Response:
        if asked.dimensions not in (None, width):
            raise UserError(
                f"'dimensions': invalid value {asked.dimensions} (expected {width}, the "
                "embedding size of this model)"
            )
        if asked.input_type and asked.prompt_name is not None:
            raise UserError("'prompt_name' and 'input_type' are mutually exclusive. Send one of them")
        prompt = encode.prompt
        if asked.input_type or asked.prompt_name is not None:
            try:
                prompt = pipeline_config.get_prompt(KINDS.get(asked.input_type, QUERY), asked.prompt_name)
            except UserError as error:
                raise UserError(f"'prompt_name': {error}") from error
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        contents = _convert_texts("input", texts, lambda text: prompt + text)
        run = runs[asked.encoding_format == "base64"]
        features, rows = zip(*await queue.results(request, run, contents, list(map(len, contents))))
        _reject_truncated("input", features, encode.max_seq_len - 2, asked.truncate)
        tokens = sum(len(feature.ids) for feature in features)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        rest = to_json({"object": "list", "model": encode.model.name, "usage": usage})[1:]
        entries = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (number, row)
            for number, row in enumerate(rows)
        ]
        return Response(b'{"data":[' + b",".join(entries) + b"]," + rest, media_type="application/json")

    return {
        "dimensions": width,
        "max_tokens": encode.max_seq_len,
        "prompts": dict(pipeline_config.prompts),
        "default_prompt": pipeline_config.default_prompt
        if encode.options.prompt is None
        else encode.options.prompt,
    }


def _encode_base64(embedding: np.ndarray) -> str:
    """Encode an embedding as base64 of little-endian float32, as in OpenAI's API."""
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def _add_rerank(app: FastAPI, classify: ClassificationPredictor, queue: WorkQueue) -> None:
    """Add the route POST /v1/rerank, which ranks documents with a cross-encoder."""

    def score_pairs(pairs: list[Example]) -> list[tuple[Feature, float]]:
        features = classify.task.encode(pairs)
        return list(zip(features, classify.predict_features(features), strict=True))

    @app.post("/v1/rerank", summary="Documents ranked by relevance to a query (Jina-compatible)")
    async def rerank(request: Request, asked: RerankRequest) -> Response:
        query = read_text_key({"query": asked.query}, "query")
        pairs = _convert_texts("documents", asked.documents, lambda text: Example(query, text))
        sizes = [len(query) + len(text) for text in asked.documents]
        features, scores = zip(*await queue.results(request, score_pairs, pairs, sizes))
        truncate = True if asked.truncate is None else asked.truncate
        _reject_truncated("documents", features, classify.task.encode.max_seq_len - 4, truncate)
        best_first = np.argsort(-np.array(scores), kind="stable").tolist()
        results = [
            {"index": row, "relevance_score": scores[row]}
            for row in best_first
            if asked.min_score is None or scores[row] >= asked.min_score
        ][: asked.top_n]
        for result in results if asked.return_documents else ():
            result["document"] = {"text": asked.documents[result["index"]]}
        return JSONResponse(
            {
                "model": classify.model.name,
                "results": results,
                "usage": {"total_tokens": sum(len(feature.ids) for feature in features)},
            }
        )


def _add_models(app: FastAPI, properties: dict[str, dict[str, Any]]) -> None:
    """Add the routes GET /v1/models and GET /v1/models/{name}.

    Args:
        properties: model name -> properties in addition to OpenAI's.
    """
    entries = {
        name: {"id": name, "object": "model", "created": 0, "owned_by": "ernie-m", **more}
        for name, more in properties.items()
    }

    @app.get("/v1/models", summary="List models (OpenAI-compatible)", operation_id="models")
    async def show_models() -> dict:
        return {"object": "list", "data": list(entries.values())}

    @app.get("/v1/models/{name:path}", summary="Describe a model (OpenAI-compatible)", operation_id="model")
    async def show_model(name: str) -> Any:
        if name not in entries:
            return make_error_response(404, f"'model': unknown model (choose from {', '.join(entries)})")
        return entries[name]


THIS_MACHINE = ["127.0.0.1", "localhost", "[::1]"]
# Blocks resources of other sites, and embedding in frames.
POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def serve(
    models: list[LoadedModel],
    options: PredictionOptions,
    host: str,
    port: int,
    token: str | None = None,
    max_queue: int = 4096,
    max_batch_tokens: int = 1024,
    timeout: int = 300,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Run the server until Ctrl-C or SIGTERM, and then complete the requests in flight.

    Args:
        host, port: the address to listen on.
        token, max_queue, max_batch_tokens, timeout: see `make_app`.
        allowed_hosts: the allowed names in the Host header besides those of this machine, if `host` is this
            machine.

    Raises:
        UserError: the port is in use, or two models have the same task.
    """
    # Open the port first, because encoding a corpus may take minutes.
    with _listen(host, port) as listening:
        address = f"[{host}]" if ":" in host else host
        # Protects against DNS rebinding: another name could resolve to this address.
        hosts = [*THIS_MACHINE, *allowed_hosts] if address in THIS_MACHINE else ["*"]
        config = uvicorn.Config(
            make_app(models, options, token, max_queue, max_batch_tokens, timeout, hosts),
            log_level="warning",
            access_log=False,
            ws="none",
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # proxies whose X-Forwarded-For uvicorn trusts
            timeout_graceful_shutdown=timeout,  # a client may still read a response
            headers=[("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")],
        )
        sys.setswitchinterval(0.001)  # seconds; switch from Python threads to the event loop sooner
        # Garbage collection stops all threads. Exclude loaded objects, and collect rarely.
        gc.freeze()
        gc.set_threshold(100_000)
        with contextlib.suppress(KeyboardInterrupt):
            say(f"serving on http://{address}:{port} (stop with Ctrl-C)")
            uvicorn.Server(config).run(sockets=[listening])


def read_token(file: str | None) -> str | None:
    """Read the bearer token from a file, or from the environment variable ERNIE_M_TOKEN.

    Raises:
        UserError: the token is empty, or both are set.
    """
    found = {
        f"--token_file {file}": None if file is None else read_text(Path(file), 4096),
        "ERNIE_M_TOKEN": os.environ.get("ERNIE_M_TOKEN"),
    }
    given = {name: token.strip() for name, token in found.items() if token is not None}
    if len(given) > 1 or "" in given.values():
        raise UserError(f"{' and '.join(given)}: expected one token that is not empty")
    return next(iter(given.values()), None)


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        UserError: the port is in use, or the host is empty or not an address of this machine.
    """
    if not host:  # "" would listen on all addresses
        raise UserError("--host is empty. Set an address, such as 127.0.0.1, or 0.0.0.0 for all addresses")
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}. Choose another one") from error
    # Reopened by its file descriptor to set its protocol, without which asyncio does not enable TCP_NODELAY,
    # at 40 ms per request.
    return socket.socket(fileno=listening.detach())
