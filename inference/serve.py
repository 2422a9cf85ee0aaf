"""The page and the JSON API of `predict.py --serve`: what the loaded models can answer.

Requests are answered one at a time, in the main thread. Bodies and texts have a size limit. A server on a
loopback address checks the Host header, so that a page of another site cannot use it.
"""

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any

from inference.loading import Loaded
from inference.tasks import TASKS, Answerer, TaskOptions, make
from model.task_names import ENCODING, task_named
from utils.errors import UserError

LONGEST_BODY = 64 << 10  # bytes
LONGEST_TEXT = 10_000  # characters
THIS_MACHINE = ("127.0.0.1", "localhost")
PAGE = Path(__file__).with_name("page.html")


def tasks_of(models: list[Loaded], options: TaskOptions) -> dict[str, Answerer]:
    """For each task, an answerer on the first model that can do it. `search` needs a corpus."""
    found: dict[str, Answerer] = {}
    for model in models:
        can = [word for word in TASKS if task_named(word) == model.head]
        if model.head == "fill" and model.paddle_model.languages:
            can.append("translate-probe")
        if options.corpus and (model.exported is None or model.exported["task"] == ENCODING):
            can.append("search")
        for name in can:
            if name not in found:
                found[name] = make(name, model, options)
    return found


def make_app(models: list[Loaded], options: TaskOptions) -> Any:
    """The FastAPI application.

    Raises:
        UserError: no model can do any task.
    """
    from fastapi import Body, FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel, StringConstraints

    tasks = tasks_of(models, options)
    if not tasks:
        raise UserError("these models have nothing to show: no head, and no --corpus to search")
    Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT)]

    class ClassifyRequest(BaseModel):
        text_a: Text
        text_b: Text | None = None

    class TextRequest(BaseModel):
        text: Text

    class FillRequest(BaseModel):
        text: Text
        language: Text | None = None

    class ProbeRequest(BaseModel):
        text: Text
        language: Text
        text_language: Text | None = None

    class AnswerRequest(BaseModel):
        question: Text
        context: Text

    kinds = {
        "classify": (ClassifyRequest, "the class of a text or of a pair of texts"),
        "tag": (TextRequest, "the entities of a text"),
        "answer": (AnswerRequest, "the answer to a question, from a text"),
        "search": (TextRequest, "the nearest sentences of the corpus, in any language"),
        "fill": (FillRequest, "the likeliest tokens for each [MASK]"),
        "translate-probe": (ProbeRequest, "the pseudo-tokens that the model proposes in another language"),
    }
    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version="1", docs_url=None, redoc_url=None)
    languages = {name: task.languages for name, task in tasks.items() if hasattr(task, "languages")}
    needs_own = [name for name, task in tasks.items() if getattr(task, "needs_own", False)]

    @app.exception_handler(RequestValidationError)
    async def refuse(_, error: RequestValidationError) -> JSONResponse:
        # The input is left out: it may be long, or not representable in JSON.
        told = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return JSONResponse({"detail": told}, 422)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.get("/api/info", summary="what this server can do")
    async def info() -> dict:
        return {
            "tasks": list(tasks),
            "languages": languages,
            "needs_text_language": needs_own,
            "longest_text": LONGEST_TEXT,
        }

    def add(name: str, task: Answerer, kind: type, summary: str) -> None:
        # Async, so that it runs in the thread that loaded the model: Paddle's modes belong to a thread.
        async def endpoint(request) -> dict:
            try:
                return task.answer([task.parse(request.model_dump(exclude_none=True))])[0]
            except UserError as error:
                raise HTTPException(422, str(error)) from error

        endpoint.__annotations__["request"] = Annotated[kind, Body()]
        app.post(f"/api/{name}", summary=summary, operation_id=name)(endpoint)

    for name, task in tasks.items():
        add(name, task, *kinds[name])
    return app


class BoundedBodies:
    """ASGI middleware: answers 413 to a body above LONGEST_BODY bytes, and 400 if it is not UTF-8."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > LONGEST_BODY:
                await _refuse(send, 413, f"the request is longer than {LONGEST_BODY} bytes")
                return
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            await _refuse(send, 400, f"the request is not UTF-8 (byte {error.start + 1})")
            return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> dict:
            return next(messages, None) or await receive()

        await self.app(scope, again, send)


async def _refuse(send: Any, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})


def serve(models: list[Loaded], options: TaskOptions, host: str, port: int) -> None:
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
    app.add_middleware(BoundedBodies)
    if is_this_machine(host):
        allowed = [*THIS_MACHINE, host, f"[{host}]"]  # an IPv6 address has brackets in the header
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)
    check_port(host, port)
    print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}, Ctrl-C ends it", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_keep_alive=5, limit_concurrency=64)


def is_this_machine(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Check that the port is free. UserError: it is not."""
    import socket

    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}); choose another"
        ) from error
