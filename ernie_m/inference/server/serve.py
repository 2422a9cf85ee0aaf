"""The page and the JSON API of `ernie-m predict --serve`: what the loaded models can be asked for.

Requests are answered one at a time, in the main thread, and those for vectors together. It needs the packages
of the extra `serve`.
"""

import base64
import binascii
import contextlib
import errno
import hmac
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import ConfigDict, create_model
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.server.deadline import LONGEST_WAIT, TimedConnection
from ernie_m.inference.server.embeddings import MODELS_PATH, PATH, EmbeddingsAnswerer, EmbeddingsRequest
from ernie_m.inference.tasks import Answerer, TaskOptions, make_answerer
from ernie_m.inference.tasks.zero_shot import InferenceLabels
from ernie_m.model.tasks import ENCODING, OF_ANY_MODEL, TASKS
from ernie_m.utils import __version__
from ernie_m.utils.errors import UserError

LONGEST_BODY = 64 << 10  # bytes
LONGEST_EMBEDDINGS_BODY = 2 << 20  # bytes, of a request for the vectors of many texts
MOST_DISCARDED = 16 << 20  # bytes; a body that is too long, but below this, is read and thrown away
MOST_CONNECTIONS = 512  # fewer than the files that a process may open
NO_TOKEN = "none"  # the value of --token with which everyone may ask
THIS_MACHINE = ["127.0.0.1", "localhost", "[::1]"]
# The predictions whose requests are refused if they are too long. On the command line, a long text is cut
# instead, and many labels may take their time.
LIMITED_WORDS = ("search", "translate-probe", "zero-shot")
PAGE = Path(__file__).with_name("page.html")
# With this policy, a browser loads nothing from other sites and does not show the page in a frame.
POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"


def answerers_of(models: list[LoadedModel], options: TaskOptions) -> dict[str, Answerer]:
    """For each word of `ernie_m.model.tasks.PREDICTIONS`, an answerer on the first model that is for it."""
    answerers: dict[str, Answerer] = {}
    for model in models:
        for word in _words_of(model, options):
            if word not in answerers:
                answerers[word] = make_answerer(word, model, options)
    return answerers


def _words_of(model: LoadedModel, options: TaskOptions) -> list[str]:
    """The words of the predictions that the server offers on a model."""
    predictions = []
    if model.task is not None:
        predictions += TASKS[model.task].predictions
    # An exported folder with a head has no vectors: its outputs are those of the head alone.
    is_export_with_head = model.exported_layer is not None and model.task is not None
    if not is_export_with_head:
        predictions += TASKS[ENCODING].predictions
    predictions += OF_ANY_MODEL
    unavailable = set()
    if not model.languages:
        unavailable.add("translate-probe")
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
    if "search" in answerers:
        search = answerers["search"]
        corpus_languages = search.corpus_languages
        corpus_examples = search.examples()
        if search.centre:
            languages["search"] = search.means_at(search.encode.layer).languages
    labels: list[str] = []
    infers = False
    if "classify" in answerers:
        labels = answerers["classify"].task.labels
        infers = InferenceLabels.of(labels).entailment is not None
    layers = None
    if "align" in answerers:
        loaded = answerers["align"].encode.model
        if loaded.exported_layer is None:  # an exported folder has one layer, so there is nothing to choose
            layers = loaded.num_layers
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
        "layers": layers,
        "centred": [word for word in ("search", "align") if word in answerers and answerers[word].centre],
    }


def make_app(models: list[LoadedModel], options: TaskOptions, token: str = NO_TOKEN) -> FastAPI:
    """The FastAPI application."""
    answerers = answerers_of(models, options)
    info = describe(models, answerers)

    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(CountedBody)
    _limit_requests(app, token, models)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/api/info", summary="what this server can do")
    async def show_info() -> dict:
        return info

    for word, answerer in answerers.items():
        if word == "encode":
            _add_embeddings(app, EmbeddingsAnswerer(answerer, answerer.model.name))
        else:
            _add_endpoint(app, word, answerer)
    return app


def _limit_requests(app: FastAPI, token: str, models: list[LoadedModel]) -> None:
    """Refuse requests without the token or with bodies that are too long, and describe those that are wrong.

    A description does not repeat the body, and does not say where the models are on this machine.
    """

    @app.middleware("http")
    async def limit_length(request: Request, answer: Any) -> Any:
        # With content-length the server reads no more of a body than that says; `CountedBody` counts others.
        size = int(request.headers.get("content-length", 0))
        longest = _longest_body(request.url.path)
        if size <= longest:
            if token == NO_TOKEN or _brings(request, token):
                return await answer(request)
            ask_for_it = {"WWW-Authenticate": 'Basic realm="ERNIE-M"'}  # a browser asks for name and password
            return _refusal(request, 401, "the token is missing or wrong", ask_for_it)
        if 0 < size < MOST_DISCARDED:  # a browser reads the answer only when it has sent everything
            with contextlib.suppress(ClientDisconnect):
                async for _ in request.stream():
                    pass
        return _refusal(request, 413, _too_long(longest), {"Connection": "close"})

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which JSON may not be able to hold.
        details = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
        return _refusal(request, 422, details)

    @app.exception_handler(HTTPException)
    async def refuse_content(request: Request, error: HTTPException) -> JSONResponse:
        detail = error.detail
        for model in models:
            if detail.startswith(f"{model.folder}: "):
                detail = detail.replace(str(model.folder), model.name, 1)
        return _refusal(request, error.status_code, detail, error.headers)


class CountedBody:
    """Refuses a body that is too long although no header says so, as with transfer-encoding.

    Args:
        app: what answers the requests.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0  # bytes of the body

        async def counted_receive() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            longest = _longest_body(scope["path"])
            if read > longest:
                raise HTTPException(413, _too_long(longest), {"Connection": "close"})
            return message

        await self.app(scope, counted_receive, send)


def _longest_body(path: str) -> int:
    """The length in bytes of the longest body of a request to a path."""
    return LONGEST_EMBEDDINGS_BODY if path == PATH else LONGEST_BODY


def _too_long(longest: int) -> str:
    return f"the request is longer than {longest} bytes"


def _brings(request: Request, token: str) -> bool:
    """Whether a request has a token: as a Bearer, or as the password of any user, which browsers send."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    sent_token = credentials.encode("latin-1")
    if scheme.lower() == "basic":
        try:
            sent_token = base64.b64decode(sent_token).partition(b":")[2]
        except binascii.Error:
            return False
    return hmac.compare_digest(sent_token, token.encode())


def _refusal(
    request: Request, status: int, detail: str | list[dict], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that is refused, in the form of OpenAI where the path is of its API."""
    if request.url.path not in (PATH, MODELS_PATH):
        return JSONResponse({"detail": detail}, status, headers)
    message = detail
    if isinstance(detail, list):  # faults that pydantic found
        faults = []
        for fault in detail:
            place = ".".join(map(str, fault["loc"]))
            faults.append(f"{place}: {fault['msg']}")
        message = "; ".join(faults)
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    if status == 422:  # FastAPI's; OpenAI answers such a request with 400
        status = 400
    return JSONResponse({"error": error}, status, headers)


def _add_endpoint(app: FastAPI, word: str, answerer: Answerer) -> None:
    """Answer requests to /api/<word>."""
    class_name = "".join(map(str.title, [*word.split("-"), "request"]))  # "zero-shot": "ZeroShotRequest"
    # Strict: without it, true would be taken as the number 1.
    request_class = create_model(class_name, __config__=ConfigDict(strict=True), **answerer.fields)

    # Async, so that it runs in the thread that loaded the model: Paddle's modes belong to a thread.
    async def endpoint(request: request_class) -> dict:
        try:
            content = answerer.parse(request.model_dump(exclude_none=True))
            if word in LIMITED_WORDS:
                answerer.check_length(content)
            (answer,) = answerer.answer([content])
            return answer
        except UserError as error:
            raise HTTPException(422, str(error)) from error

    summary = type(answerer).__doc__.splitlines()[0]
    app.post(f"/api/{word}", summary=summary, operation_id=word)(endpoint)


def _add_embeddings(app: FastAPI, embeddings: EmbeddingsAnswerer) -> None:
    """Answer requests to PATH, and say at MODELS_PATH which model does."""

    @app.get(MODELS_PATH, summary="The model of the vectors, in the form of OpenAI", operation_id="models")
    async def show_models() -> dict:
        return embeddings.models()

    @app.post(PATH, summary="Vectors of texts, of length 1, in the form of OpenAI", operation_id="encode")
    async def endpoint(request: EmbeddingsRequest) -> dict:
        try:
            return await embeddings.answer(request)
        except UserError as error:
            raise HTTPException(422, str(error)) from error


def serve(models: list[LoadedModel], options: TaskOptions, host: str, port: int, token: str) -> None:
    """Answer until Ctrl-C.

    Args:
        token: what every request must bring; `NO_TOKEN`: nothing.

    Raises:
        UserError: the port is taken.
    """
    # First the port, because a corpus may take minutes to encode.
    with _listen(host, port) as listening:
        app = make_app(models, options, token)
        address = f"[{host}]" if ":" in host else host
        if address in THIS_MACHINE:  # against DNS rebinding: another name could resolve to this address
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=THIS_MACHINE, www_redirect=False)
        config = uvicorn.Config(
            app,
            loop="asyncio",  # unlike uvloop, it reads what has arrived before it looks at the time
            log_level="warning",
            http=TimedConnection,
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=2,
            timeout_graceful_shutdown=LONGEST_WAIT + 1,  # by then, a request that came in part was given up
            limit_concurrency=MOST_CONNECTIONS,
            headers=[("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")],
        )
        with contextlib.suppress(KeyboardInterrupt):
            print(f"serving on http://{address}:{port}, Ctrl-C ends it", flush=True)
            uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Open the port.

    Raises:
        UserError: it is taken, or the host has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: another program listens there; choose another port") from error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error})") from error
