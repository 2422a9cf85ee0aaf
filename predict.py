"""Predict with a model: JSON lines in, JSON lines out, or a page in the browser. See docs/predict.md.

echo '{"text": "A man eats."}' | python predict.py --task classify --model checkpoints/best
python predict.py --task encode --model exported --engine onnx-int8 --input texts.jsonl --output vectors.jsonl
python predict.py --serve --model checkpoints/best,pretrained
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from utils.environment import run
from utils.command_line import load_config
from utils.errors import UserError, pipe_may_close
from utils.options import PositiveInt, Range, option

AT_ONCE = 1024  # requests that are answered together


@dataclass
class PredictFlags:
    """What to predict, and with which model."""

    model: str
    """A checkpoint of any supported format, or a folder that export.py wrote. With --serve several, separated
    by commas."""

    task: Literal["classify", "tag", "answer", "encode", "search", "fill", "translate-probe"] | None = None
    """What to predict."""

    input: str = "-"
    """A file of JSON lines; "-": standard input."""

    output: str = "-"
    """A file; "-": standard output."""

    on_error: Literal["stop", "skip"] = "stop"
    """Whether a wrong request stops the command before anything is answered, or is left out."""

    engine: Literal["auto", "dygraph", "paddle", "onnx", "onnx-int8"] = "auto"
    """dygraph is for checkpoints, the others are for exported folders. auto: the first one that is there."""

    amp: Literal["none", "bf16"] = "none"
    """bf16: multiply in bfloat16, on a CPU with avx512_bf16 or AMX. For checkpoints."""

    max_seq_len: int | None = None
    """The longest input in tokens; for tag and answer, the longest window. Default: for windows as in
    training, otherwise what the model can read."""

    top_k: PositiveInt = 5
    """The number of candidates (answer, fill, translate-probe) or of sentences (search)."""

    pooling: Literal["mean", "specials", "pooled"] | None = None
    """For encode and search: the mean over the tokens, the mean with [CLS] and [SEP] (specials), or the
    pooled [CLS]. Default: as in training for retrieval, otherwise mean."""

    layer: str | None = None
    """For encode and search: a number, middle or top. Default: as exported, or as in training for retrieval,
    otherwise top."""

    corpus: str | None = None
    """For search: a text file with a sentence on each line; or several with their languages, as in
    "de<=de.txt,fr<=fr.txt"."""

    serve: bool = option(False, bare=True)
    """Whether to serve a page for the browser and a JSON API, instead of --task."""

    host: str = "127.0.0.1"
    """The address of --serve. Only this machine can reach 127.0.0.1."""

    port: Annotated[int, Range(at_least=1, at_most=65535)] = 8000
    """The port of --serve."""

    def __post_init__(self) -> None:
        if (self.task is None) != self.serve:
            raise UserError("give --task TASK or --serve, one of them")
        if self.output != "-" and Path(self.output).resolve() == Path(self.input).resolve():
            raise UserError(f"--output {self.output}: it is the input")
        if self.output != "-" and Path(self.output).is_dir():
            raise UserError(f"--output {self.output}: it is a folder; name a file")


def main() -> None:
    flags = load_config(PredictFlags, sys.argv[1:], __doc__)
    # Imported here, so that a process that only loads this file stays light.
    from inference.loading import load
    from inference.tasks import TaskOptions, make
    from utils.files import unwritable_is_a_user_error
    from utils.logging import progress

    options = TaskOptions(flags.max_seq_len, flags.top_k, flags.pooling, flags.layer, flags.corpus)
    folders = flags.model.split(",") if flags.serve else [flags.model]
    models = [load(folder, engine=flags.engine, task=flags.task, amp=flags.amp) for folder in folders]
    if flags.serve:
        from inference.serve import serve

        serve(models, options, flags.host, flags.port)
        return
    task = make(flags.task, models[0], options)
    asked = read_requests(flags.input, task.parse, flags.on_error == "skip")
    parts = [asked[first : first + AT_ONCE] for first in range(0, len(asked), AT_ONCE)]
    if flags.output == "-":
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale
        with pipe_may_close():
            write_answers(task, parts, sys.stdout)
    else:
        unfinished = Path(f"{flags.output}.part")  # it stays after Ctrl-C
        with unwritable_is_a_user_error(unfinished):
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "w", encoding="utf-8") as file:
                write_answers(task, progress(parts, "predicting", "requests", size=len), file)
            unfinished.replace(flags.output)


def read_requests(path: str, parse: Callable[[dict], Any], skip: bool = False) -> list[tuple[dict, Any]]:
    """The "id" and the parsed content of the request on each line of a file; "-": standard input.

    With `skip`, wrong requests are reported and left out.

    Raises:
        UserError: the file cannot be read, or a request is wrong; names the line.
    """
    from utils.files import read_bytes

    data = sys.stdin.buffer.read() if path == "-" else read_bytes(path)
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            if line.strip():
                request = parse_object(line)
                found.append(({"id": request["id"]} if "id" in request else {}, parse(request)))
        except UserError as error:
            wrong = UserError(f"{'standard input' if path == '-' else path}, line {number}: {error}")
            if not skip:
                raise wrong from error
            print(f"skipped: {wrong}", file=sys.stderr)
    return found


def parse_object(line: bytes) -> dict:
    """A JSON object in UTF-8. UserError: it is none."""
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be written
    except (ValueError, RecursionError) as error:
        raise UserError(f'no JSON ({error}); a line is an object such as {{"text": "..."}}') from error
    if not isinstance(value, dict):
        raise UserError('no object; a line is an object such as {"text": "..."}')
    return value


def write_answers(task: Any, parts: Iterable[list[tuple[dict, Any]]], file: IO[str]) -> None:
    """Answer the requests, some at a time, and write a line for each."""
    for part in parts:
        for (with_id, _), answer in zip(part, task.answer([content for _, content in part])):
            file.write(json.dumps(with_id | answer, ensure_ascii=False) + "\n")
        file.flush()


if __name__ == "__main__":
    run(main)
