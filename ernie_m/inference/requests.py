"""The requests of `ernie-m predict`: how they are read from a file, and answered into one."""

import gzip
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

from ernie_m.inference.input_files import InputFile
from ernie_m.inference.tasks import Answerer
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.utils.errors import FULL, UserError, discard, printable, say
from ernie_m.utils.files import only_writer_of, unwritable_is_a_user_error
from ernie_m.utils.logging import progress

AT_ONCE = 1024  # requests that are answered together


class Request(NamedTuple):
    """A request that was read.

    Attributes:
        entry: what `InputFile.write` needs of it.
        content: what the answerer's `parse` made of it; None: it is wrong, and left out.
        id: its id; None: it has none.
    """

    entry: Any
    content: Any
    id: Any = None


def unfinished(output: Path) -> Path:
    """The file in which the answers are until all are written; it stays after Ctrl-C."""
    return output.with_name(f"{output.name}.part")


def has_objects(path: str) -> bool:
    """Whether a file has a JSON object on each line, as its name or its first byte says; "-" has."""
    if path == "-" or split_name(path)[0] in (".jsonl", ".json"):
        return True
    with closing(TextFile(path, any_form=True)) as file:
        return file.buffer.lstrip()[:1] == b"{"


def read_requests(file: InputFile, parse: Callable[[dict], Any], faults: Faults) -> list[Request]:
    """Read and parse all requests of a file.

    Args:
        faults: receives what is wrong; such a request, if it may be, has no content.

    Raises:
        UserError: requests are wrong; names the lines.
    """
    requests = []
    for number, entry, values in file.requests(faults):
        content = None
        with faults.of_line(number):
            content = parse(values)
        requests.append(Request(entry, content, values.get("id")))
    faults.end(partial(say, file=sys.stderr))
    return requests


def write_answers(answerer: Answerer, requests: list[Request], file: InputFile, output: str) -> None:
    """Answer requests into a file, which appears when all are written, or to "-", standard output.

    Args:
        output: a name that ends in .trec has the hits of searches; see `_write_run`.

    Raises:
        UserError: the file cannot be written, or another command is writing it; standard output is a file on
            a full disk.
    """
    write = _write_run if Path(output).suffix == ".trec" else file.write
    parts = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    if output == "-":
        _write_to_stdout(lambda text: write(_answered(answerer, parts, text), text))
        return
    path = Path(output).resolve()  # because a link stays: what it leads to is replaced
    open_text = gzip.open if path.suffix == ".gz" else open
    parts = progress(parts, "predicting", "requests", size=len)
    with only_writer_of(path, "--output"), unwritable_is_a_user_error(unfinished(path)):
        with open_text(unfinished(path), "wt", encoding="utf-8") as text:
            write(_answered(answerer, parts, text), text)
        unfinished(path).replace(path)


# Standard output, where it is a terminal: control characters of labels and cells are escaped.
_TERMINAL: Any = SimpleNamespace(
    write=lambda text: sys.stdout.write(printable(text, keep="\n\t")), flush=lambda: sys.stdout.flush()
)


def _write_to_stdout(write: Callable[[IO[str]], None]) -> None:
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    try:
        write(_TERMINAL if sys.stdout.isatty() else sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has had enough, as `head` has
        discard(sys.stdout)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"standard output: no space left to write it ({error.strerror}). Free some space, and run "
            "the same command again"
        ) from error


def _answered(
    answerer: Answerer, parts: Iterable[list[Request]], file: IO[str]
) -> Iterator[tuple[Request, dict]]:
    """Yield each request with its answer, {} if it has no content; a part is answered at a time.

    Args:
        file: what is written of them, which is flushed after each part.
    """
    for part in parts:
        contents = [request.content for request in part if request.content is not None]
        answers = iter(answerer.answer(contents) if contents else ())
        for request in part:
            yield request, {} if request.content is None else next(answers)
        file.flush()


def _write_run(rows: Iterable[tuple[Request, dict]], file: IO[str]) -> None:
    """Write a line in the form of TREC for each hit: query, Q0, sentence, rank, cosine, name of the run.

    A query is its id, or its number from 1 on. A sentence is its line, in a corpus of several languages
    de:LINE.

    Raises:
        UserError: an id has spaces, or several queries have it.
    """
    queries = set()
    for number, (request, answer) in enumerate(rows, 1):
        query = str(number if request.id is None else request.id)
        if query in queries or len(query.split()) != 1:
            raise UserError(f"request {number}: its id, {query!r}, must be a single word that no other has")
        queries.add(query)
        for rank, hit in enumerate(answer.get("found", ()), 1):
            sentence = f"{hit['language']}:{hit['line']}" if "language" in hit else hit["line"]
            file.write(f"{query} Q0 {sentence} {rank} {hit['cosine']} ernie-m\n")
