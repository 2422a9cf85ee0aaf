"""The page and the JSON API of `predict.py --serve`: what the loaded models can answer.

Requests are answered one at a time, in the main thread.
"""

import contextlib
import errno
import socket
from pathlib import Path
from typing import Any, Literal

from inference.loading import LoadedModel
from inference.tasks import TASKS, Answerer, TaskOptions, make
from model.task_names import task_named
from pretrain.config import OBJECTIVES
from utils import __version__
from utils.errors import UserError

LONGEST_BODY = 64 << 10  # bytes
MOST_DISCARDED = 16 << 20  # bytes; a body that is too long, but below this, is read and thrown away
LONGEST_WAIT = 5  # seconds until a request must have arrived whole
MOST_CONNECTIONS = 512  # fewer than the files that a process may open
THIS_MACHINE = ["127.0.0.1", "localhost", "[::1]"]
PAGE = Path(__file__).with_name("page.html")
# With this policy, a browser loads nothing from other sites and does not show the page in a frame.
POLICY = "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'"

# (type, default); `...` if there is none
_TEXT, _MAYBE_TEXT, _LAYER = (str, ...), (str | None, None), (int | None, None)
_FIELDS: dict[str, dict[str, Any]] = {  # of a request for each task
    "classify": {"text_a": _TEXT, "text_b": _MAYBE_TEXT},
    "tag": {"text": _TEXT},
    "answer": {"question": _TEXT, "context": _TEXT},
    "search": {"text": _TEXT, "each": (bool, False), "layer": _LAYER},
    "fill": {"text": _TEXT, "language": _MAYBE_TEXT},
    "translate-probe": {"text": _TEXT, "language": _TEXT},
    "align": {"text_a": _TEXT, "text_b": _TEXT, "layer": _LAYER},
    "masks": {"text_a": _TEXT, "text_b": _MAYBE_TEXT, "objective": (Literal[OBJECTIVES], ...)},
}


def tasks_of(models: list[LoadedModel], options: TaskOptions) -> dict[str, Answerer]:
    """For each task, an answerer on the first model that can do it. `search` needs a corpus.

    `align` and `masks` are for the page alone: see `inference.tasks.pictures`.
    """
    found: dict[str, Answerer] = {}
    for model in models:
        can = [word for word in TASKS if task_named(word) == model.task]
        if model.languages:
            can.append("translate-probe")
        if model.exported_layer is None or model.task is None:
            can += ["search", "align"] if options.corpus else ["align"]
        found |= {name: make(name, model, options) for name in [*can, "masks"] if name not in found}
    return found


def make_app(models: list[LoadedModel], options: TaskOptions) -> Any:
    """The FastAPI application."""
    from fastapi import FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import create_model
    from starlette.requests import Request

    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version=__version__, docs_url=None, redoc_url=None)
    tasks = tasks_of(models, options)
    encoder = tasks["align"].encode.model if "align" in tasks else None
    info = {
        "tasks": list(tasks),
        "languages": {name: task.languages for name, task in tasks.items() if hasattr(task, "languages")},
        "models": [
            {"name": str(model.folder), "layers": model.num_layers,
             "hidden_size": model.config["hidden_size"], "vocabulary": model.config["vocab_size"]}
            for model in models
        ],
        "corpus_languages": list(filter(None, tasks["search"].members)) if "search" in tasks else [],
        # an exported folder has one layer
        "layers": encoder.num_layers if encoder and encoder.exported_layer is None else None,
    }  # fmt: skip

    @app.middleware("http")
    async def limit_length(request: Request, answer: Any) -> Any:
        # The server reads no more of a body than its header says, and nothing if that is "chunked".
        size = request.headers.get("content-length", 0)
        if "transfer-encoding" in request.headers or int(size) > LONGEST_BODY:
            if 0 < int(size) < MOST_DISCARDED:  # a browser reads the answer only once it has sent everything
                async for _ in request.stream():
                    pass
            detail = f"the request is longer than {LONGEST_BODY} bytes, or does not give its length"
            return JSONResponse({"detail": detail}, 413, {"Connection": "close"})
        return await answer(request)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        # without the input, which may be no JSON that can be written
        told = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return JSONResponse({"detail": told}, 422)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/api/info", summary="what this server can do")
    async def tell() -> dict:
        return info

    def add(name: str, task: Answerer, kind: type) -> None:
        # Async, so that it runs in the thread that loaded the model: Paddle's modes belong to a thread.
        async def endpoint(request: kind) -> dict:
            try:
                asked = task.parse(request.model_dump(exclude_none=True))
                if name in ("search", "translate-probe"):  # on the command line, they cut the text
                    task.check_length(asked)
                return task.answer([asked])[0]
            except UserError as error:
                raise HTTPException(422, str(error)) from error

        summary = type(task).__doc__.splitlines()[0]
        app.post(f"/api/{name}", summary=summary, operation_id=name)(endpoint)

    for name, task in tasks.items():
        title = "".join(map(str.title, [*name.split("-"), "request"]))
        add(name, task, create_model(title, **_FIELDS[name]))
    return app


def timed_protocol() -> type:
    """uvicorn's HTTP/1.1, but a request has LONGEST_WAIT seconds to arrive; uvicorn itself waits for ever."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.await_request()

        def on_response_complete(self) -> None:
            self.await_request()
            super().on_response_complete()

        def shutdown(self) -> None:
            super().shutdown()
            if self.cycle is not None and self.cycle.more_body:
                self.transport.abort()  # nobody answers half a request

        def await_request(self) -> None:
            self.loop.call_later(LONGEST_WAIT, self.close_unless_past, self.cycle)

        def close_unless_past(self, last: Any) -> None:
            """Close the connection if no whole request has arrived since `last`, the previous one."""
            if self.cycle is last or self.cycle.more_body:
                self.transport.abort()

    return TimedProtocol


def serve(models: list[LoadedModel], options: TaskOptions, host: str, port: int) -> None:
    """Answer until Ctrl-C.

    Raises:
        UserError: FastAPI or uvicorn is not installed, or the port is taken.
    """
    try:
        import uvicorn
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app = make_app(models, options)
    except ImportError as error:
        raise UserError(f"--serve needs {error.name}: pip install -r requirements-serve.txt") from error
    name, family = (f"[{host}]", socket.AF_INET6) if ":" in host else (host, socket.AF_INET)
    if name in THIS_MACHINE:  # against DNS rebinding: another site's name could resolve to this address
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=THIS_MACHINE, www_redirect=False)
    config = uvicorn.Config(
        app, log_level="warning", http=timed_protocol(), ws="none", timeout_keep_alive=2,
        timeout_graceful_shutdown=2, limit_concurrency=MOST_CONNECTIONS,
        headers=[("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff")],
    )  # fmt: skip
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: another program listens there; choose another port") from error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error})") from error
    print(f"serving on http://{name}:{port}, Ctrl-C ends it", flush=True)
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
