"""The routes of the server: the page, its JSON API, the models, and what an operator asks for."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import create_model
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.server.asked import Asked, Texts, beside_the_loop, listed, work
from ernie_m.inference.server.gate import HEALTH, Gate, Refused
from ernie_m.inference.server.metrics import Metrics
from ernie_m.inference.server.rerank import RerankRoutes
from ernie_m.inference.server.vectors import VectorRoutes
from ernie_m.inference.server.work_queue import BatchFailed, Run, WorkQueue
from ernie_m.inference.tasks import OPTIONAL_TEXT, REQUIRED_TEXT, Answerer, TaskOptions, make_answerer
from ernie_m.inference.tasks.finetuned import FineTunedTask, InferenceLabels
from ernie_m.model.tasks import ENCODING, TASKS
from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError

MODELS = "/v1/models"
# The predictions whose requests are refused if they are too long. On the command line, a long text is cut
# instead, and many labels may take their time.
LIMITED_WORDS = ("search", "zero-shot")
# The keys of a request to /api that may have a list of texts, for as many answers.
LISTED = ("text", "text_a", "text_b", "question", "context")
PAGE = Path(__file__).with_name("page.html")
_CHARACTERS = 4  # of a token, about
_DTYPES = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}  # --amp -> in the words of TEI


def make_app(
    models: list[LoadedModel],
    options: TaskOptions,
    token: str | None = None,
    max_queue: int = 4096,
    max_batch_tokens: int = 1024,
    timeout: float = 300,
    hosts: Sequence[str] | None = None,
) -> Gate:
    """The ASGI application, whose threads wait for work.

    Args:
        token: what every request must bring; None: nothing.
        max_queue: texts that may wait.
        max_batch_tokens: tokens of a batch.
        timeout: seconds within which a request is answered.
        hosts: the names under which a request may come; None: any.
    """
    all_answerers = answerers_of(models, options)
    answerers = first_of_each(all_answerers)
    info = describe(models, answerers)
    metrics = Metrics(lambda: queue.waiting)
    threads = max(model.workers for model in models)

    def begin() -> None:  # what a thread does first
        if threads > 1:
            for model in models:
                model.become_worker()

    queue = WorkQueue(max_queue, max_batch_tokens, threads, begin, metrics.note_batch)

    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    _describe_errors(app, models)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.head(HEALTH, include_in_schema=False)
    @app.get(HEALTH, summary="Whether the server takes requests")
    async def show_health() -> JSONResponse:
        if gate.is_stopping:
            return JSONResponse({"status": "stopping"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", summary="Figures for Prometheus")
    async def show_metrics() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/api/info", summary="What this server can do")
    async def show_info() -> dict:
        return info

    offered = {}  # the models that /v1 names
    if "encode" in answerers:
        encode = answerers.pop("encode")
        vectors = VectorRoutes(encode, encode.model.name, queue)
        vectors.add_to(app)
        _add_tei_info(app, vectors, max_batch_tokens)
        offered[encode.model.name] = vectors.entry(options.prompt)
    for word in answerers:
        _add_endpoint(app, word, all_answerers[word], queue)
    ranker = next((model for model in models if model.ranks), None)
    if ranker is not None:
        RerankRoutes(make_answerer("classify", ranker, options), ranker.name, queue).add_to(app)
        offered.setdefault(ranker.name, {})
    _add_models(app, offered)
    paths = {route.path for route in app.routes}
    gate = Gate(app, token, timeout, metrics, paths)
    return gate


def answerers_of(models: list[LoadedModel], options: TaskOptions) -> dict[str, dict[str, Answerer]]:
    """For each word of `ernie_m.model.tasks.PREDICTIONS`, an answerer on each model whose own task it is.

    Where it is no model's own task, as vectors are mostly, there is one on the first model that can answer.

    Returns:
        word -> name of the model -> answerer. A request that names no model is answered by the first one.

    Raises:
        UserError: two models of a task have one name.
    """
    answerers: dict[str, dict[str, Answerer]] = {}
    for model in models:
        own_words = [] if model.task is None else [each.word for each in TASKS[model.task].predictions]
        for word in _words_of(model, options):
            by_name = answerers.setdefault(word, {})
            if by_name and word not in own_words:
                continue
            if model.name in by_name:
                raise UserError(
                    f"{model.folder}: another model for {word} is also called {model.name}; rename its folder"
                )
            by_name[model.name] = make_answerer(word, model, options)
    return answerers


def first_of_each(answerers: dict[str, dict[str, Answerer]]) -> dict[str, Answerer]:
    """word -> the answerer of requests that name no model."""
    return {word: next(iter(by_name.values())) for word, by_name in answerers.items()}


def _words_of(model: LoadedModel, options: TaskOptions) -> list[str]:
    """The words of the predictions that the server offers on a model."""
    predictions = []
    if model.task is not None:
        predictions += TASKS[model.task].predictions
    # An exported folder with a head has no vectors: its outputs are those of the head alone.
    is_export_with_head = model.exported_layer is not None and model.task is not None
    if not is_export_with_head:
        predictions += TASKS[ENCODING].predictions
    unavailable = set()
    if not options.corpus and not options.index:
        unavailable.add("search")
    if InferenceLabels.of(model.labels).entailment is None:
        unavailable.add("zero-shot")
    return [prediction.word for prediction in predictions if prediction.word not in unavailable]


def describe(models: list[LoadedModel], answerers: dict[str, Answerer]) -> dict[str, Any]:
    """What /api/info answers, from which the page makes its tabs and fields."""
    languages = {}
    for word, answerer in answerers.items():
        if hasattr(answerer, "languages"):
            languages[word] = answerer.languages
    corpus_languages = []
    corpus_examples = []
    layers = None
    centred = []
    if "search" in answerers:
        search = answerers["search"]
        corpus_languages = search.corpus_languages
        corpus_examples = search.examples()
        if search.centre:  # a query's language must have a mean, which is subtracted
            centred.append("search")
            languages["search"] = search.means_at(search.encode.layer).languages
        if search.encode.model.exported_layer is None:  # an exported folder has one layer
            layers = search.encode.model.num_layers
    labels: list[str] = []
    infers = False
    if "classify" in answerers:
        labels = answerers["classify"].task.labels
        infers = InferenceLabels.of(labels).entailment is not None
    return {
        "tasks": [word for word, answerer in answerers.items() if answerer.fields is not None],
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
        "corpus_languages": corpus_languages,
        "corpus_examples": corpus_examples,
        "labels": labels,
        "infers": infers,  # whether classify is natural language inference
        # Whether classify reads pairs of texts; None: it is not known.
        "pairs": answerers["classify"].model.reading.pairs if "classify" in answerers else None,
        "layers": layers,
        "centred": centred,
    }


def _describe_errors(app: FastAPI, models: list[LoadedModel]) -> None:
    """Answer a request that is wrong in one line.

    It does not repeat the body, and does not say where the models are on this machine.
    """

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> Response:
        if "json" not in request.headers.get("content-type", ""):  # curl -d, say, names a form
            return Refused(400, "the header Content-Type: application/json is missing").response()
        faults = []
        for fault in error.errors():
            keys = [str(key) for key in fault["loc"][1:]]  # without "body"
            message = fault["msg"]
            if fault["type"] == "extra_forbidden":
                message = "unknown key"
                if len(keys) == 1:  # of the body, and not of an object in it
                    asked = request.scope["endpoint"].__annotations__["asked"]
                    message += f"; {request.url.path} takes {', '.join(asked.model_fields)}"
            faults.append(f"'{'.'.join(keys)}': {message}" if keys else message)
        first = error.errors()[0]["loc"]
        param = str(first[1]) if len(first) > 1 and isinstance(first[1], str) else None
        return Refused(400, "; ".join(faults), param).response()

    @app.exception_handler(UserError)
    async def refuse_content(request: Request, error: UserError) -> Response:
        message = str(error)
        for model in models:
            message = message.replace(str(model.folder), model.name)
        key = re.search(r"'(\w+)", message)  # most messages begin with the key
        return Refused(400, message, key[1] if key else None).response()

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)  # such as those for a path that is not there
    async def refuse_request(request: Request, error: HTTPException) -> Response:
        message = error.detail
        if error.status_code == 404:
            routes = [route.path for route in app.routes if "POST" in route.methods]
            message = f"there is no such route; the models are asked at {', '.join(routes)}"
        return Refused(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(BatchFailed)
    async def say_that_it_failed(request: Request, error: BatchFailed) -> Response:
        return Refused(500, "the model failed; the server's log says why").response()

    @app.exception_handler(Exception)
    async def say_that_it_broke(request: Request, error: Exception) -> Response:
        return Refused(500, "the server failed; its log says why").response()


def _add_endpoint(app: FastAPI, word: str, by_name: dict[str, Answerer], queue: WorkQueue) -> None:
    """Answer requests to /api/<word>, by the model that "model" names, or else by the first."""
    first = next(iter(by_name.values()))
    class_name = "".join(map(str.title, [*word.split("-"), "request"]))  # "zero-shot": "ZeroShotRequest"
    fields = dict(first.fields)
    for key in LISTED:
        if fields.get(key) == REQUIRED_TEXT:
            fields[key] = (Texts, ...)
        elif fields.get(key) == OPTIONAL_TEXT:
            fields[key] = (Texts | None, None)
    if len(by_name) > 1:
        fields["model"] = (Literal[tuple(by_name)] | None, None)
    request_class = create_model(class_name, __base__=Asked, **fields)
    runs = {}
    for name, answerer in by_name.items():
        in_many_threads = isinstance(answerer, FineTunedTask) and answerer.in_many_threads
        runs[name] = Run(answerer.answer, in_many_threads)

    async def endpoint(request: Request, asked: request_class) -> Any:
        values = asked.model_dump(exclude_none=True)
        name = values.pop("model", next(iter(by_name)))
        answerer = by_name[name]
        rows, is_list = _rows_of(values, queue.most_texts)

        def parse() -> list[Any]:
            contents = []
            for row in rows:
                contents.append(answerer.parse(row))
                if word in LIMITED_WORDS:
                    answerer.check_length(contents[-1])
            return contents

        contents = await beside_the_loop(parse, [str(row) for row in rows])
        tokens = [_tokens_of(content) for content in contents]
        answers = await work(queue, request, runs[name], contents, tokens)
        return JSONResponse(answers if is_list else answers[0])

    summary = type(first).__doc__.splitlines()[0]
    app.post(f"/api/{word}", summary=summary, operation_id=word)(endpoint)


def _rows_of(values: dict[str, Any], most: int) -> tuple[list[dict[str, Any]], bool]:
    """The requests of a body, one for each text of its lists; and whether there are lists.

    Raises:
        Refused: lists are of different lengths, or too long.
    """
    lists = {key: values[key] for key in LISTED if isinstance(values.get(key), list)}
    if not lists:
        return [values], False
    counts = {key: len(listed(texts, key, most)) for key, texts in lists.items()}
    if len(set(counts.values())) > 1:
        names = ", ".join(f"'{key}' has {count}" for key, count in counts.items())
        raise Refused(400, f"{names}: lists of texts must be of one length", next(iter(counts)))
    rows = [dict(zip(lists, texts)) for texts in zip(*lists.values())]
    return [values | row for row in rows], True


def _tokens_of(content: Any) -> int:
    """About how many tokens the model reads for a parsed request; zero-shot reads its text for each label."""
    return (len(str(content)) // _CHARACTERS + 2) * len(getattr(content, "labels", [""]))


def _add_tei_info(app: FastAPI, vectors: VectorRoutes, max_batch_tokens: int) -> None:
    """Answer GET /info as TEI does."""
    encode = vectors.encode
    info = {
        "model_id": vectors.name,
        "model_sha": None,
        "model_dtype": _DTYPES[encode.model.amp],
        "model_type": {"embedding": {"pooling": encode.pooling}},
        "max_input_length": encode.max_seq_len,
        "max_batch_tokens": max_batch_tokens,
        "max_client_batch_size": vectors.queue.most_texts,
        "auto_truncate": False,
        "version": __version__,
    }

    @app.get("/info", summary="The model of the vectors, in the form of TEI")
    async def show() -> dict:
        return info


def _add_models(app: FastAPI, offered: dict[str, dict[str, Any]]) -> None:
    """Answer GET /v1/models and /v1/models/{id}.

    Args:
        offered: the name of each model -> what is said of it beside OpenAI's keys.
    """
    entries = {
        name: {"id": name, "object": "model", "created": 0, "owned_by": "ernie-m", **more}
        for name, more in offered.items()
    }

    @app.get(MODELS, summary="The models, in the form of OpenAI", operation_id="models")
    async def show_models() -> dict:
        return {"object": "list", "data": list(entries.values())}

    @app.get(MODELS + "/{name:path}", summary="A model, in the form of OpenAI", operation_id="model")
    async def show_model(name: str) -> dict:
        if name not in entries:
            raise Refused(
                404, f"there is no model of this name; the server has {', '.join(entries)}", "model"
            )
        return entries[name]
