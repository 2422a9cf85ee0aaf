"""What prediction reads: a model's recorded "reading", the outputs of each task, JSON requests."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from evaluation.pooling import POOLINGS
from model.task_names import ENCODING, OUTPUTS, QUESTION_ANSWERING
from reader.tokenization import Tokenizer
from utils.errors import UserError

# engine -> the file of an exported folder that it runs
FILES = {"paddle": "inference.json", "onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
LONGEST_LINE = 4 << 20  # bytes
_READ_AT_ONCE = 1 << 20


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _boolean(value: Any) -> bool:
    return type(value) is bool


# key of "reading" -> whether a value is valid
_KEYS: dict[str, Callable[[Any], bool]] = {
    "max_seq_len": _positive,
    "label_pieces": ("first", "all").__contains__,
    "official_compat": _boolean,
    "max_query_length": _positive,
    "doc_stride": _positive,
    "split_han": _boolean,
    "max_answer_length": _positive,
    "layer": lambda value: type(value) is int and value >= 0,
    "pooling": POOLINGS.__contains__,
    "language_embedding": ("masks", "none", "all").__contains__,
    "pseudo_proportion": lambda value: isinstance(value, int | float) and 0 < value <= 1,
    "pseudo_positions": ("first", "spread").__contains__,
}


def reading_of(settings: Mapping[str, Any], where: object) -> dict[str, Any]:
    """How inputs were read in training: the known keys of "reading" in a config.json, or {}.

    Raises:
        UserError: a value is not valid.
    """
    found = settings.get("reading") or {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: reading in its config.json is no JSON object; take it out")
    known = {key: value for key, value in found.items() if key in _KEYS}
    for key, value in known.items():
        if not _KEYS[key](value):
            raise UserError(
                f"{where}: reading.{key} in its config.json is {value!r}; put it right or take it out"
            )
    return known


def is_per_token(name: str, values: np.ndarray) -> bool:
    """Whether an output has values for each token, [B, T, ...], and not for each row, [B, ...]."""
    return values.ndim == 3 or name in OUTPUTS[QUESTION_ANSWERING]


def outputs_of(task: str, layer: int, num_layers: int) -> tuple[str, ...]:
    """The outputs of a model that ends at `layer`. Only the top layer has the pooled first token."""
    return OUTPUTS[task][:1] if task == ENCODING and layer < num_layers else OUTPUTS[task]


def text_of(request: dict, key: str, optional: bool = False) -> str | None:
    """The text of a key.

    Raises:
        UserError: the key is missing, or its value is not a string or only white space.
    """
    value = request.get(key)
    if value is None and optional:
        return None
    if value is None:
        has = ", ".join(f"'{name}'" for name in request) or "nothing"
        raise UserError(f"no '{key}' in it; it has {has}")
    if not isinstance(value, str):
        raise UserError(f"'{key}' is {json.dumps(value)[:40]}, a string is expected")
    if not value.strip():
        raise UserError(f"'{key}' is empty")
    return value


def choice_of(request: dict, key: str, choices: Iterable[str]) -> str:
    """The text of a key, which must be one of `choices`. UserError: it is not."""
    value, choices = text_of(request, key), list(choices)
    if value not in choices:
        raise UserError(f"'{key}' is '{value}'; it must be one of {', '.join(choices)}")
    return value


def check_length(tokenizer: Tokenizer, text: str, key: str, most: int) -> None:
    """UserError: a text has more than `most` tokens, special tokens aside."""
    count = len(tokenizer.encode(text))
    if count > most:
        raise UserError(f"'{key}' has {count} tokens, at most {most} fit; shorten it")


def read_requests(
    stream: IO[bytes], name: str, refuse: Callable[[UserError], None] | None = None
) -> Iterator[list[tuple[str, dict]]]:
    """Yield the requests of a stream as (place, request), as many at a time as have arrived.

    A pipe that waits for its answers gets them, and a large file is read in parts. Blank lines are skipped.
    `refuse` is called with the error of a wrong line; if it returns, the line is skipped.

    Raises:
        UserError: a line is too long, not UTF-8, not JSON or not an object; names the line.
    """
    rest, number = b"", 0
    while chunk := stream.read1(_READ_AT_ONCE):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _parsed(lines, name, number, refuse)
        number += len(lines)
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{name}, line {number + 1}: longer than {LONGEST_LINE >> 20} MiB")
    yield from _parsed([rest], name, number, refuse)


def _parsed(
    lines: list[bytes], name: str, before: int, refuse: Callable[[UserError], None] | None
) -> Iterator[list[tuple[str, dict]]]:
    found = []
    for number, line in enumerate(lines, before + 1):
        if line.strip(b" \r\t\xef\xbb\xbf"):
            place = f"{name}, line {number}"
            try:
                found.append((place, _parse(line, place)))
            except UserError as error:
                if found:  # what came before is answered first
                    yield found
                    found = []
                if refuse is None:
                    raise
                refuse(error)
    if found:
        yield found


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        request = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:
            json.dumps(request, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1})") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: half of a character, as \\ud800 alone is; write both halves") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f'{place}: not JSON ({error}); a line is an object such as {{"text": "..."}}'
        ) from error
    if not isinstance(request, dict):
        raise UserError(f'{place}: no object; a line is an object such as {{"text": "..."}}')
    return request


def open_input(path: str) -> tuple[IO[bytes], str]:
    """A file, or standard input for "-", and its name. UserError: it cannot be read."""
    if path == "-":
        return sys.stdin.buffer, "standard input"
    try:
        return Path(path).open("rb"), path
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
