"""The page and the JSON API of `predict.py --serve`: what the loaded models can answer.

Requests are answered one at a time, in the main thread. `inference.http_limits` has
what protects it from the network.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from inference.http_limits import (
    MOST_CONNECTIONS,
    BoundedBodies,
    check_port,
    is_this_machine,
    security_headers,
    timed_protocol,
)  # fmt: skip
from inference.loading import Loaded
from inference.tasks import TASKS, Answerer, TaskOptions, make
from model.task_names import ENCODING, task_named
from pretrain.config import OBJECTIVES
from utils import __version__
from utils.errors import UserError

LONGEST_TEXT = 10_000  # characters
THIS_MACHINE = ("127.0.0.1", "localhost")
PAGE = Path(__file__).with_name("page.html")


def tasks_of(models: list[Loaded], options: TaskOptions) -> dict[str, Answerer]:
    """For each task, an answerer on the first model that can do it. `search` needs a corpus.

    `align` and `masks` are for the page alone: see `inference.tasks.pictures`.
    """
    found: dict[str, Answerer] = {}
    for model in models:
        can = [word for word in TASKS if task_named(word) == model.head]
        if model.head == "fill" and model.languages:
            can.append("translate-probe")
        if model.exported is None or model.exported["task"] == ENCODING:
            can += ["search", "align"] if options.corpus else ["align"]
        for name in [*can, "masks"]:
            if name not in found:
                found[name] = make(name, model, options)
    return found


def make_app(models: list[Loaded], options: TaskOptions) -> Any:
    """The FastAPI application."""
    from fastapi import Body, FastAPI, HTTPException
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import StringConstraints, create_model

    text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT)], ...
    maybe_text, maybe_layer = (text[0] | None, None), (int | None, None)
    # task -> the name of its requests' schema, their fields, and what it answers
    kinds = {
        "classify": (
            "ClassifyRequest", {"text_a": text, "text_b": maybe_text},
            "the class of a text or of a pair of texts",
        ),
        "tag": ("TextRequest", {"text": text}, "the entities of a text"),
        "answer": (
            "AnswerRequest", {"question": text, "context": text}, "the answer to a question, from a text"
        ),
        "search": (
            "SearchRequest", {"text": text, "each": (bool, False), "layer": maybe_layer},
            "the nearest sentences of the corpus, in any language",
        ),
        "fill": (
            "FillRequest", {"text": text, "language": maybe_text}, "the likeliest tokens for each [MASK]"
        ),
        "translate-probe": (
            "ProbeRequest", {"text": text, "language": text, "text_language": maybe_text},
            "the pseudo-tokens that the model proposes in another language",
        ),
        "align": (
            "AlignRequest", {"text_a": text, "text_b": text, "layer": maybe_layer},
            "the similarity of the tokens of two texts",
        ),
        "masks": (
            "MasksRequest", {"text_a": text, "text_b": maybe_text, "objective": (Literal[OBJECTIVES], ...)},
            "what a pair of texts looks like in pre-training",
        ),
    }  # fmt: skip
    tasks = tasks_of(models, options)
    html = PAGE.read_text(encoding="utf-8")
    # FastAPI's documentation pages load scripts from other servers.
    app = FastAPI(title="ERNIE-M", version=__version__, docs_url=None, redoc_url=None)
    languages = {name: task.languages for name, task in tasks.items() if hasattr(task, "languages")}
    encoder = tasks["align"].encode.model if "align" in tasks else None
    has_layers = encoder is not None and encoder.exported is None  # an exported folder has one layer
    needs_own = [name for name, task in tasks.items() if getattr(task, "needs_own", False)]

    @app.exception_handler(RequestValidationError)
    async def refuse(_, error: RequestValidationError) -> JSONResponse:
        # The input is left out: it may be long, or not representable in JSON.
        told = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return JSONResponse({"detail": told}, 422)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return html

    @app.get("/api/info", summary="what this server can do")
    async def info() -> dict:
        return {
            "tasks": list(tasks),
            "languages": languages,
            "needs_text_language": needs_own,
            "longest_text": LONGEST_TEXT,
            "models": [
                {"name": str(model.folder), "layers": model.num_layers,
                 "hidden_size": model.config["hidden_size"], "vocabulary": model.config["vocab_size"]}
                for model in models
            ],
            "examples": {"search": tasks["search"].examples()} if "search" in tasks else {},
            "corpus_languages": tasks["search"].languages_of_corpus if "search" in tasks else [],
            "layers": encoder.num_layers if has_layers else None,
        }  # fmt: skip

    def add(name: str, task: Answerer, kind: type, summary: str) -> None:
        # Async, so that it runs in the thread that loaded the model: Paddle's modes belong to a thread.
        async def endpoint(request) -> dict:
            try:
                asked = request.model_dump(exclude_none=True)
                parsed = task.parse(asked)
                if name in ("search", "translate-probe"):  # on the command line, they cut the text
                    task.check_length(asked["text"])
                found = task.answer([parsed])[0]
                if found.get("cut"):
                    raise UserError("the texts have more tokens than the model reads; shorten them")
                return found
            except UserError as error:
                raise HTTPException(422, str(error)) from error

        endpoint.__annotations__["request"] = Annotated[kind, Body()]
        app.post(f"/api/{name}", summary=summary, operation_id=name)(endpoint)

    for name, task in tasks.items():
        kind, fields, summary = kinds[name]
        add(name, task, create_model(kind, **fields), summary)
    return app


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
    uvicorn.run(
        app, host=host, port=port, log_level="warning", http=timed_protocol(), ws="none",
        headers=security_headers(PAGE.read_text(encoding="utf-8")),
        timeout_keep_alive=2, timeout_graceful_shutdown=2, limit_concurrency=MOST_CONNECTIONS,
    )  # fmt: skip
