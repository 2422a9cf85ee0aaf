"""What the routes have in common: the texts of a request, and the way of its work through the queue."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from ernie_m.inference.server.gate import Refused
from ernie_m.inference.server.work_queue import MOST_TEXTS, QueueFull, Run, WorkQueue
from ernie_m.utils.child_processes import cache_until_fork

T = TypeVar("T")
_FEW = 4096  # characters that are tokenized in the event loop, which is faster than another thread


@cache_until_fork
def _tokenizing() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "tokenizing")


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


Texts = Annotated[str | list[str], BeforeValidator(_only_texts)]
# True and "END": texts that are too long are cut at their end; otherwise they are refused.
Truncate = bool | Literal["NONE", "END"] | None


class Asked(BaseModel):
    """The body of a request. Strict: true is not the number 1, and a key that nobody reads is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


def listed(texts: str | list[str], key: str, most: int = MOST_TEXTS) -> list[str]:
    """The texts of a key as a list.

    Raises:
        Refused: it has none, or too many.
    """
    texts = [texts] if isinstance(texts, str) else texts
    if not 1 <= len(texts) <= most:
        raise Refused(400, f"'{key}' has {len(texts)} texts; a request has 1 to {most}", key)
    return texts


async def beside_the_loop(prepare: Callable[[], T], texts: Sequence[str]) -> T:
    """What `prepare` makes of texts. Long ones would hold up the event loop, so a thread reads them."""
    if sum(map(len, texts)) <= _FEW:
        return prepare()
    return await asyncio.get_running_loop().run_in_executor(_tokenizing(), prepare)


async def work(
    queue: WorkQueue, request: Request, run: Run, contents: Sequence[Any], tokens: Sequence[int]
) -> list[Any]:
    """What `run` makes of the contents of a request, when it is its turn.

    Args:
        tokens: of each content.

    Raises:
        Refused: the queue is full.
        BatchFailed: the model failed.
    """
    request.scope["work"] |= {"texts": len(contents), "tokens": sum(tokens)}
    client = request.client.host if request.client else None
    try:
        return await queue.results(run, contents, tokens, client)
    except QueueFull as error:
        raise Refused(503, str(error), headers={"Retry-After": str(error.retry_after)}) from error
