"""Predict with a model: JSON lines in, JSON lines out, or a page in the browser. See docs/predict.md.

echo '{"text": "A man eats."}' | ernie-m predict --task classify --model checkpoints/best
ernie-m predict --task encode --model exported --engine onnx --input texts.jsonl --output vectors.jsonl
ernie-m predict --serve --model checkpoints/best,pretrained
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from ernie_m.model.tasks import COMMAND_WORDS
from ernie_m.reader.files.find_pairs import named_files
from ernie_m.reader.files.official_tsv import official_names, refuse_compressed
from ernie_m.reader.files.rows import (
    AnsweredTable,
    TableForm,
    column_of_texts,
    form_of_table,
    is_table,
    place_of,
    rows_of_table,
)
from ernie_m.utils.errors import FULL, UserError, install_command, pipe_may_close, printable
from ernie_m.utils.files import read_bytes, take_lock, unwritable_is_a_user_error
from ernie_m.utils.load_config import load_config
from ernie_m.utils.logging import logger, progress, setup_console
from ernie_m.utils.options import PositiveInt, Range, option

if TYPE_CHECKING:
    from ernie_m.inference.labelled import LabelledRows
    from ernie_m.inference.tasks import Answerer

AT_ONCE = 1024  # requests that are answered together


@dataclass
class PredictFlags:
    """What to predict, and with which model."""

    model: str
    """A checkpoint of any supported format, or a folder that ernie-m export wrote. With --serve several,
    separated by commas."""

    task: Literal[COMMAND_WORDS] | None = None
    """What to predict."""

    input: str = "-"
    """A file of JSON lines; a table with a header, whose name ends in .tsv, .csv, .tsv.gz or .csv.gz; "-":
    standard input, of JSON lines."""

    columns: str | None = None
    """For a table: the name of the column of the texts, or of two for pairs, as in review. Default: they are
    found."""

    output: str = "-"
    """A new file, compressed if its name ends in .gz; "-": standard output. The answers to a table are its
    rows with further columns."""

    on_error: Literal["stop", "skip"] = "stop"
    """Whether a wrong request stops the command before anything is answered, or is left out."""

    engine: str = "auto"
    """dygraph is for checkpoints; onnx and paddle are for exported folders. auto: the first one that is
    there."""

    amp: Literal["none", "bf16", "fp16"] = "none"
    """bf16: multiply in bfloat16, on a CPU with avx512_bf16 or AMX or on a GPU from A100 on. fp16: in
    float16, on a GPU. For checkpoints; fp16 also for --engine paddle on a GPU."""

    max_seq_len: int | None = None
    """The longest input in tokens; for tag and answer, the longest window. Default: as in training, otherwise
    what the model can read."""

    top_k: PositiveInt = 5
    """The number of candidates (answer, fill, translate-probe) or of sentences (search)."""

    pooling: Literal["mean", "specials", "cls", "pooled"] | None = None
    """For encode and search: the mean over the tokens, the mean with [CLS] and [SEP] (specials), the state of
    [CLS] (cls), or the pooled [CLS]. Default: as the model's files say, otherwise mean."""

    normalize: bool | None = None
    """For encode: whether vectors have length 1. Default: as the model's files say, otherwise not."""

    prompt: str | None = None
    """For encode and search: the name of the prompt of the model that is put before a text; "": none.
    Default: as the model's files say, otherwise none."""

    layer: str | None = None
    """For encode and search: a number, middle or top. Default: as exported, or as in training for retrieval,
    otherwise top."""

    centre: bool | None = None
    """For encode and search: whether vectors are without the mean of their language (docs/retrieval.md).
    Default: in search if the model has the means, otherwise not."""

    corpus: str | None = None
    """For search: a text file with a sentence on each line; or several with their languages, as in
    "de<=de.txt,fr<=fr.txt"."""

    index: str | None = None
    """For search: a folder that keeps the vectors of --corpus. It is made if it is not there; afterwards
    nothing is encoded but the request, and --corpus may be left out."""

    labels: str | None = None
    """For zero-shot: the labels, separated by commas. A request can have others."""

    template: str = "This example is {}."
    """For zero-shot: a sentence in any language, with {} where a label goes."""

    several: bool = False
    """For zero-shot: whether several labels can be true of a text."""

    serve: bool = option(False, bare=True)
    """Whether to serve a page for the browser and a JSON API, instead of --task."""

    host: str = "127.0.0.1"
    """The address of --serve. Only this machine can reach 127.0.0.1."""

    port: Annotated[int, Range(at_least=1, at_most=65535)] = 8000
    """The port of --serve."""

    token: str | None = None
    """What every request to --serve must bring: "Authorization: Bearer TOKEN"; a browser asks for it as the
    password of any user. Others on the machine can read it here: --token_file and the variable ERNIE_M_TOKEN
    of the environment are for that. none: everyone may ask."""

    token_file: str | None = None
    """A file with the token of --serve."""

    max_queue: PositiveInt = 4096
    """For --serve: how many texts may wait; further requests are answered with 503."""

    max_batch_tokens: PositiveInt = 1024
    """For --serve: the tokens that a thread computes at once."""

    timeout: PositiveInt = 300
    """For --serve: the seconds within which a request is answered."""

    log_level: Literal["info", "warning"] = "info"
    """For --serve: info is a line for each request, without its texts."""

    def __post_init__(self) -> None:
        has_task = self.task is not None
        if has_task == self.serve:  # both, or none
            raise UserError("give --task TASK or --serve, one of them")
        if self.columns and not is_table(self.input):
            raise UserError(f"--columns {self.columns}: --input {self.input} is no table, .csv or .tsv")
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
    flags = load_config(PredictFlags, sys.argv[1:], __doc__)
    # Imported here, so that --help is fast.
    from ernie_m.inference.labelled import LabelledRows
    from ernie_m.inference.load import load
    from ernie_m.inference.tasks import TaskOptions, make_answerer

    # Each is the name of a flag, too, but for the kind of the texts, which the task knows.
    names = [field.name for field in fields(TaskOptions) if field.name != "kind"]
    options = TaskOptions(**{name: getattr(flags, name) for name in names})
    if flags.serve:
        try:
            from ernie_m.inference.server.serve import serve, token_of
        except ImportError as error:
            raise UserError(f"--serve needs {error.name}: {install_command('serve')}") from error
        setup_console()  # says how far the corpus is encoded
        token = token_of(flags.token, flags.token_file)
        logger.setLevel(flags.log_level.upper())
        models = [load(folder, engine=flags.engine, amp=flags.amp) for folder in flags.model.split(",")]
        if sum(model.model is not None for model in models) > 1:
            from ernie_m.inference.paddle_model import share_encoders

            share_encoders(models)
        limits = (flags.max_queue, flags.max_batch_tokens, flags.timeout)
        serve(models, options, flags.host, flags.port, token, *limits)
        return
    model = load(flags.model, engine=flags.engine, task=flags.task, amp=flags.amp)
    answerer = make_answerer(flags.task, model, options)
    columns = flags.columns.split(",") if flags.columns else ()
    requests = read_requests(flags.input, answerer.parse, flags.on_error == "skip", columns)
    if not requests:
        print(f"--input {flags.input}: no requests in it, so there are no answers", file=sys.stderr)
    write = write_answers
    labelled = LabelledRows()
    if is_table(flags.input):
        write = partial(write_table, form=form_of_table(Path(flags.input)), labelled=labelled)
    parts = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    if flags.output == "-":
        write_to_stdout(answerer, parts, write)
    else:
        # Resolved, because a link stays: what it leads to is replaced.
        write_to_file(answerer, parts, Path(flags.output).resolve(), write)
    if requests and is_table(flags.input):
        print(*map(printable, labelled.summary()), sep="\n", file=sys.stderr)


def _unfinished(output: Path) -> Path:
    """The file in which the answers are until all are written; it stays after Ctrl-C."""
    return output.with_name(f"{output.name}.part")


class Request(NamedTuple):
    """A request that was read.

    Attributes:
        id_entry: {"id": its id}, which is returned in the answer; {} if it has none. Of a row of a table all
            its cells, by the names of the columns.
        content: what the answerer's `parse` made of it.
    """

    id_entry: dict
    content: Any


def read_requests(
    path: str, parse: Callable[[dict], Any], skip_wrong: bool = False, columns: Sequence[str] = ()
) -> list[Request]:
    """Read and parse the request on each line, or in each row, of a file; "-": standard input.

    Args:
        skip_wrong: report wrong requests, and leave them out.
        columns: those of the texts of a table; none: they are found.

    Raises:
        UserError: the file cannot be read, or a request is wrong; names the line.
    """
    name = "standard input" if path == "-" else path
    table = rows_for_requests(Path(path), columns) if is_table(path) else None
    if table is None:
        data = sys.stdin.buffer.read() if path == "-" else read_bytes(path)
        refuse_compressed(data, name)
        lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    else:
        lines = table.rows
    requests = []
    for number, line in lines:
        try:
            if table is None:
                values = parse_object(line)
                id_entry = {"id": values["id"]} if "id" in values else {}
            else:
                id_entry, values = table.request(line)
            requests.append(Request(id_entry, parse(values)))
        except UserError as error:
            line_error = UserError(f"{name}, line {number}: {error}")
            if not skip_wrong:
                raise line_error from error
            print(f"skipped: {line_error}", file=sys.stderr)
    return requests


class TableOfRequests(NamedTuple):
    """A table whose rows are requests.

    Attributes:
        header: the names of its columns.
        keys: the key of a request that each column has.
        rows: the number of the line of each row, and its cells.
    """

    header: Sequence[str]
    keys: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    def request(self, cells: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The cells of a row by the names of the columns, and as a request.

        Raises:
            UserError: there are more cells than columns, or fewer.
        """
        if len(cells) != len(self.header):
            raise UserError(f"{len(cells)} columns, but the header has {len(self.header)}")
        values = dict(zip(self.keys, cells))
        if "text_a" in values:
            values.setdefault("text", values["text_a"])  # what most tasks call it
        return dict(zip(self.header, cells)), values


def rows_for_requests(path: Path, columns: Sequence[str] = ()) -> TableOfRequests:
    """Read a table whose header has text_a, or a usual name of it; or question and context.

    Below another header the texts are the one column of many words.

    Args:
        columns: the names in the header of the column of the texts, or of the two of pairs.

    Raises:
        UserError: the table cannot be read, or it is not clear which column has the texts.
    """
    rows = rows_of_table(path)
    if not rows:
        raise UserError(f"{path}: no rows in it")
    (line, header), *below = rows
    if len(set(header)) < len(header):
        raise UserError(f"{path}, line {line}: two columns have one name; rename one")
    keys = official_names(header)
    if columns:
        keys = [f"another {key}" if key in ("text", "text_a", "text_b") else key for key in keys]
        for key, name in zip(("text_a", "text_b"), columns):
            keys[place_of(path, header, name)] = key
    if "text_a" not in keys and "question" not in keys:
        keys[column_of_texts(path, rows, "say which with --columns")] = "text_a"
    return TableOfRequests(header, keys, below)


def parse_object(line: bytes) -> dict:
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
        write: `write_answers`, or what has its arguments.

    Raises:
        UserError: standard output is a file on a full disk.
    """
    sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
    with pipe_may_close():
        try:
            write(answerer, parts, sys.stdout)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(
                f"standard output: no space left to write it ({error.strerror}). Free some space, and run "
                "the same command again"
            ) from error


def write_to_file(
    answerer: "Answerer", parts: list[list[Request]], output: Path, write: Callable[..., None]
) -> None:
    """Write the answers to a file, which appears when all are written; see `write_to_stdout`.

    Raises:
        UserError: the file cannot be written, or another command is writing it.
    """
    unfinished = _unfinished(output)
    with unwritable_is_a_user_error(unfinished):
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "a", encoding="utf-8") as file:  # "w" would empty the file of another command
            if not take_lock(file):
                raise UserError(
                    f"{unfinished}: another command is writing its answers there; wait until it has ended, "
                    "end it, or name another --output"
                )
            file.truncate(0)  # what an interrupted command left
            is_packed = output.suffix == ".gz"
            with gzip.open(file.buffer, "wt", encoding="utf-8") if is_packed else nullcontext(file) as text:
                write(answerer, progress(parts, "predicting", "requests", size=len), text)
            file.flush()
            unfinished.replace(output)  # before the lock ends


def write_answers(answerer: "Answerer", parts: Iterable[list[Request]], file: IO[str]) -> None:
    """Answer the requests, a part at a time, and write a line for each."""
    for part in parts:
        answers = answerer.answer([request.content for request in part])
        for request, answer in zip(part, answers, strict=True):
            file.write(json.dumps(request.id_entry | answer, ensure_ascii=False) + "\n")
        file.flush()


def write_table(
    answerer: "Answerer",
    parts: Iterable[list[Request]],
    file: IO[str],
    form: TableForm,
    labelled: "LabelledRows",
) -> None:
    """Answer the rows of a table, a part at a time, and write them as `AnsweredTable` does.

    Args:
        labelled: receives the rows and the answers.
    """
    table = AnsweredTable(file, form)
    for part in parts:
        answers = answerer.answer([request.content for request in part])
        for request, answer in zip(part, answers, strict=True):
            table.add([*request.id_entry], [*request.id_entry.values()], answer)
            labelled.add(request.id_entry, answer)
        file.flush()
