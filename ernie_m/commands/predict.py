"""Predict with a model: JSON lines in, JSON lines out, or a table with further columns. See docs/predict.md.

echo '{"text": "A man eats."}' | ernie-m predict --task classification --model checkpoints/best
ernie-m predict --task embedding --model exported --engine onnx --input texts.jsonl --output vectors.jsonl
ernie-m predict --input new.csv --model checkpoints/kinds --output labeled.csv --sort uncertain
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from ernie_m.inference.model_flags import ModelFlags
from ernie_m.model.conventions import COLUMNS, own_reading
from ernie_m.model.tasks import (
    CLASSIFICATION,
    EMBEDDING,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    SEARCH,
    TASKS,
    TOKEN_CLASSIFICATION,
    ZERO_SHOT,
    task_named,
)
from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.find_pairs import named_files
from ernie_m.reader.files.official_tsv import refuse_compressed
from ernie_m.reader.files.plain_text import TextFile, split_name
from ernie_m.reader.files.rows import LabelOptions
from ernie_m.utils.errors import FULL, UserError, pipe_may_close, printable, say
from ernie_m.utils.files import only_writer_of, read_json, unwritable_is_a_user_error
from ernie_m.utils.logging import progress
from ernie_m.utils.options import option, parse_options

if TYPE_CHECKING:
    from ernie_m.inference.tasks import Answerer, InputFile

AT_ONCE = 1024  # requests that are answered together
_CLASSIFIERS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)  # which have the same kind of head
# Flags that are ineffective in other tasks.
_FOR_TASKS = {
    "pooling": (EMBEDDING, SEARCH),
    "layer": (EMBEDDING, SEARCH),
    "prompt": (EMBEDDING, SEARCH),
    "corpus": (SEARCH,),
    "index": (SEARCH,),
    "labels": (ZERO_SHOT,),
}


@dataclass
class PredictFlags(ModelFlags, LabelOptions):
    """What to predict, and with which model."""

    task: Literal[tuple(TASKS)] | None = None
    """What to predict. Default: what the model's head is for."""

    input: str = option("-", needed=True)
    """A file of JSON lines; a table: .csv, .tsv, .xlsx, ... (docs/data.md lists what is read), or a text on
    each line; for token-classification words in CoNLL form, for question-answering
    SQuAD; "-": standard input, of JSON lines."""

    output: str = option("-", needed=True)
    """A new file, compressed if its name ends in .gz; "-": standard output. The answers to a table are its
    rows with further columns. For search: NAME.trec is a run file (docs/retrieval.md)."""

    sort: Literal["table", "uncertain"] = "table"
    """For a table: the order of the rows that are written: as they came, or those first whose answer the
    model is least sure of."""

    def __post_init__(self) -> None:
        if self.output != "-":
            self._check_output()

    def _check_output(self) -> None:
        """Refuse an --output that is there, or that would first be written over what the command reads."""
        output = Path(self.output).resolve()
        if output.exists():
            raise UserError(f"--output {self.output}: it exists already; name a new file")
        read = {self.input: "the input"}
        if self.corpus:
            read |= {path: f"{path} of --corpus" for _, path in named_files(self.corpus)}
        for path, name in read.items():
            if Path(path).resolve() == _unfinished(output):
                raise UserError(f"--output {self.output}: {path}, which it is written to first, is {name}")


def main() -> None:
    flags = parse_options(PredictFlags, None, __name__)
    # Imported here, so that --help is fast.
    from ernie_m.inference.labelled import LabelledRows
    from ernie_m.inference.load import load
    from ernie_m.inference.tasks import make_answerer
    from ernie_m.reader.files.tables import open_asked

    options = flags.options()
    # Before a model is loaded, as far as a file can be read without one.
    with_objects = has_objects(flags.input)
    is_lines = flags.input == "-" or split_name(flags.input)[0] == ".jsonl"
    objects = read_objects(flags.input, flags) if is_lines else None
    settings = settings_of(flags.model)
    columns = settings.get(COLUMNS, {})
    if not (isinstance(columns, dict) and all(isinstance(name, str) for name in columns.values())):
        raise UserError(
            f"{flags.model}: config.json: '{COLUMNS}' must have the name of a column for each part"
        )
    faults = Faults(_name(flags.input), flags.on_error == "skip")
    known_task = flags.task or task_named(str(settings.get("task")))
    table = None
    if (
        not with_objects
        and known_task in TASKS
        and known_task not in (TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
    ):
        table = open_asked(Path(flags.input), flags, faults, columns)
        table.check(own_reading(settings, None).pairs if known_task in _CLASSIFIERS else False)
    model = load(flags.model, engine=flags.engine, task=flags.task, amp=flags.amp)
    task = flags.task or model.own_task
    if task is None:
        raise UserError(f"--model {flags.model}: it has no head, so say what to predict with --task")
    if task in _CLASSIFIERS and model.own_task in _CLASSIFIERS and task != model.own_task:
        raise UserError(f"--task {task}: {flags.model} is for {model.own_task}; leave --task out")
    given = [name for name, tasks in _FOR_TASKS.items() if getattr(flags, name) and task not in tasks]
    if given:
        raise UserError(f"--{given[0]} is for {' and '.join(_FOR_TASKS[given[0]])}, and not for {task}")
    is_run = Path(flags.output).suffix == ".trec"
    if is_run and task != SEARCH:
        raise UserError(f"--output {flags.output}: a run file (.trec) is of search, and not of {task}")
    answerer = make_answerer(task, model, options)
    # JSON lines, a file in the form of the training data of a tagger or its like, or a table.
    has_form = task in (TOKEN_CLASSIFICATION, QUESTION_ANSWERING) and flags.input != "-"
    file = answerer.training_file(Path(flags.input), flags) if has_form else None
    is_table = file is None and not with_objects
    if is_table and table is None:
        table = open_asked(Path(flags.input), flags, faults, columns, questions=task == QUESTION_ANSWERING)
    sorts = flags.sort != "table"
    if sorts and not (is_table and task in (CLASSIFICATION, MULTI_LABEL, QUESTION_ANSWERING)):
        raise UserError(
            f"--sort {flags.sort}: it sorts the rows of a table by the probability of their answers"
        )
    if is_table:
        table.check(model.reading.pairs if task in _CLASSIFIERS else task == QUESTION_ANSWERING)
        file = LabelledRows(table, model.held_out, sorts)
    requests = read_requests(flags.input, answerer.parse, flags, file, objects, faults, columns)
    if not requests:
        say(f"--input {flags.input}: no requests in it, so there are no answers", file=sys.stderr)
    write = write_answers if file is None else file.write
    if is_run:
        write = write_run
    parts = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    if flags.output == "-":
        write_to_stdout(answerer, parts, write)
    else:
        # Resolved, because a link stays: what it leads to is replaced.
        parts = progress(parts, "predicting", "requests", size=len)
        write_to_file(answerer, parts, Path(flags.output).resolve(), write)
    if requests and file is not None and not is_run:
        say(*map(printable, file.summary()), file=sys.stderr)


def settings_of(model: str) -> dict[str, Any]:
    """What config.json in the folder of a model says; {}: there is none."""
    path = Path(model) / "config.json"
    settings = read_json(path) if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _unfinished(output: Path) -> Path:
    """The file in which the answers are until all are written; it stays after Ctrl-C."""
    return output.with_name(f"{output.name}.part")


class Request(NamedTuple):
    """A request that was read.

    Attributes:
        id_entry: {"id": its id}, which is returned in the answer; {} if it has none. Of a row of a table all
            its cells, by the names of the columns.
        content: what the answerer's `parse` made of it.
        id: its id; None: it has none.
    """

    id_entry: Any
    content: Any
    id: Any = None


def has_objects(path: str) -> bool:
    """Whether a file has a JSON object on each line, as its name or its first byte says; "-" has."""
    if path == "-" or split_name(path)[0] in (".jsonl", ".json"):
        return True
    with closing(TextFile(path, any_form=True)) as file:
        return file.buffer.lstrip()[:1] == b"{"


def read_requests(
    path: str,
    parse: Callable[[dict], Any],
    options: LabelOptions,
    file: "InputFile | None" = None,
    objects: list[tuple[int, dict]] | None = None,
    faults: Faults | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
) -> list[Request]:
    """Read and parse the request on each line, or in each row, of a file; "-": standard input.

    Args:
        options: whether a request may be wrong, and how a table is read.
        file: the file, if it is no JSON lines. A request in it that is wrong, and may be, keeps its place
            with the content None.
        objects: what `read_objects` has read of JSON lines; None: they are read here.
        faults: receives what is wrong; None: nothing has been noted yet.
        columns: the columns that the model learned from; see `find_columns`.

    Raises:
        UserError: the file cannot be read, or requests are wrong; names the lines.
    """
    name = _name(path)
    faults = faults or Faults(name, options.on_error == "skip")
    if file is not None:
        lines = file.requests(faults)
    elif options.columns:
        raise UserError(f"--columns {options.columns}: {name} has JSON lines; name keys: --text KEY")
    else:
        objects = read_objects(path, options) if objects is None else objects
        lines = ((number, None, values) for number, values in objects)
    requests = []
    for number, cells, values in lines:
        try:
            id_entry = {"id": values["id"]} if "id" in values else {}
            if file is None:
                values = with_texts(values, options, columns)
            requests.append(Request(id_entry if file is None else cells, parse(values), values.get("id")))
        except UserError as error:
            faults.note(number, error)
            if file is not None:
                requests.append(Request(cells, None))
    faults.end(partial(say, file=sys.stderr))
    return requests


def with_texts(values: dict, options: LabelOptions, columns: Mapping[str, str]) -> dict:
    """A request, with the texts of the keys that --text and --text_b name, or that the model learned from.

    Raises:
        UserError: it lacks a key that a flag names.
    """
    added = {}
    for part in ("text", "text_b"):
        flag = getattr(options, part)
        given = flag or columns.get(part, "")
        names = [given] if given in values else given.split("+")
        is_there = {*names} <= values.keys()
        if flag and not is_there:
            raise UserError(f"there is no '{flag}' in it, which --{part} names; it has {', '.join(values)}")
        if is_there and (flag or values.keys().isdisjoint((part, "text_a"))):
            parts = [values[name] for name in names]
            is_joined = len(parts) > 1 and all(isinstance(text, str) for text in parts)
            added[part] = "\n".join(filter(str.strip, parts)) if is_joined else parts[0]
    return {**values, **added}


def read_objects(path: str, options: LabelOptions) -> list[tuple[int, dict]]:
    """The JSON object on each line that is not blank, with the number of the line; "-": standard input.

    Raises:
        UserError: the file cannot be read, or lines hold no object; names them.
    """
    faults = Faults(_name(path), options.on_error == "skip")
    if path != "-":
        lines = TextFile(path, any_form=True).texts(faults)
    else:
        lines = sys.stdin.buffer.read().splitlines()
        refuse_compressed(lines[0] if lines else b"", _name(path))
    objects = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                objects.append((number, parse_object(line)))
            except UserError as error:
                faults.note(number, error)
    faults.end(partial(say, file=sys.stderr))
    return objects


def _name(path: str) -> str:
    """A file in messages."""
    return "standard input" if path == "-" else path


def parse_object(line: str | bytes) -> dict:
    """Parse a JSON object in UTF-8.

    Raises:
        UserError: the line holds none.
    """
    try:
        value = json.loads(line)
        # Half a character, such as the escape \ud83d alone, is JSON, but could not be written back.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f'it is not JSON ({error}); a line is an object such as {{"text": "..."}}') from error
    if not isinstance(value, dict):
        raise UserError('it is not an object; a line is one such as {"text": "..."}')
    return value


def write_to_stdout(answerer: "Answerer", parts: list[list[Request]], write: Callable[..., None]) -> None:
    """Print the answers to `parts`, the requests that are answered together.

    Args:
        write: `write_answers`, or what else takes `answered` and a file.

    Raises:
        UserError: standard output is a file on a full disk.
    """
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    file = _Terminal() if sys.stdout.isatty() else sys.stdout
    with pipe_may_close():
        try:
            write(answered(answerer, parts, file), file)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(
                f"standard output: no space left to write it ({error.strerror}). Free some space, and run "
                "the same command again"
            ) from error


class _Terminal:
    """Standard output, where it is a terminal: control characters of labels and cells are escaped."""

    def write(self, text: str) -> None:
        sys.stdout.write(printable(text, keep="\n\t"))

    def flush(self) -> None:
        sys.stdout.flush()


def write_to_file(
    answerer: "Answerer", parts: list[list[Request]], output: Path, write: Callable[..., None]
) -> None:
    """Write the answers to a file, which appears when all are written; see `write_to_stdout`.

    Raises:
        UserError: the file cannot be written, or another command is writing it.
    """
    unfinished = _unfinished(output)
    open_text = gzip.open if output.suffix == ".gz" else open
    with only_writer_of(output, "--output"), unwritable_is_a_user_error(unfinished):
        with open_text(unfinished, "wt", encoding="utf-8") as text:
            write(answered(answerer, parts, text), text)
        unfinished.replace(output)


def answered(
    answerer: "Answerer", parts: Iterable[list[Request]], file: IO[str]
) -> Iterator[tuple[Request, dict]]:
    """Yield each request with its answer, {} if it has no content; a part is answered at a time.

    Args:
        file: what is written of them, which is flushed after each part.
    """
    for part in parts:
        answers = iter(answerer.answer([request.content for request in part if request.content is not None]))
        for request in part:
            yield request, {} if request.content is None else next(answers)
        file.flush()


def write_answers(rows: Iterable[tuple[Request, dict]], file: IO[str]) -> None:
    """Write a line for each answer. `rows`: each request with its answer."""
    for request, answer in rows:
        file.write(json.dumps(request.id_entry | answer, ensure_ascii=False) + "\n")


def write_run(rows: Iterable[tuple[Request, dict]], file: IO[str]) -> None:
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
