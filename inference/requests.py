"""How inputs were read in training: "reading" in config.json, which prediction follows. No paddle here."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from evaluation.pooling import POOLINGS
from model.task_names import ENCODING, OUTPUTS, QUESTION_ANSWERING
from utils.errors import UserError


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _either(value: Any) -> bool:
    return type(value) is bool


# key -> what a value of it is
_KEYS: dict[str, Callable[[Any], bool]] = {
    "max_seq_len": _positive,
    "label_pieces": ("first", "all").__contains__,
    "official_compat": _either,
    "max_query_length": _positive,
    "doc_stride": _positive,
    "split_han": _either,
    "max_answer_length": _positive,
    "layer": lambda value: type(value) is int and value >= 0,
    "pooling": POOLINGS.__contains__,
    "language_embedding": ("masks", "none", "all").__contains__,
    "pseudo_proportion": lambda value: isinstance(value, int | float) and 0 < value <= 1,
    "pseudo_positions": ("first", "spread").__contains__,
}


def reading_of(settings: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The "reading" of a config.json; {} where it has none. Keys that are not known are passed over.

    Raises:
        UserError: a value that cannot be one.
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


# The outputs of models, whatever runs them, and the files of an exported folder. No paddle here.

# engine -> the file of an exported folder that it runs
FILES = {"paddle": "inference.json", "onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}


def is_per_token(name: str, values: np.ndarray) -> bool:
    """Whether an output has a value for each token [B, T, ...], not one for each row [B, ...]."""
    return values.ndim == 3 or name in OUTPUTS[QUESTION_ANSWERING]


def outputs_of(task: str, layer: int, num_layers: int) -> tuple[str, ...]:
    """The outputs of a model that ends at `layer`: the pooled first token is that of the top layer."""
    return OUTPUTS[task][:1] if task == ENCODING and layer < num_layers else OUTPUTS[task]


# Requests: one JSON object each; what is asked of their keys. No paddle here.

LONGEST_LINE = 4 << 20  # bytes
_READ_AT_ONCE = 1 << 20


def text_of(request: dict, key: str, optional: bool = False) -> str | None:
    """A text with something in it.

    Raises:
        UserError: no such key, no string, nothing but white space.
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


def choice_of(request: dict, key: str, choices: Iterable[str], optional: bool = False) -> str | None:
    """One of `choices`.

    Raises:
        UserError: it is none of them.
    """
    value = text_of(request, key, optional)
    choices = list(choices)
    if value is not None and value not in choices:
        raise UserError(f"'{key}' is '{value}'; it must be one of {', '.join(choices)}")
    return value


def read_requests(stream: IO[bytes], name: str) -> Iterator[list[tuple[str, dict]]]:
    """The requests of a stream, as many at a time as are there: (where it stands, request).

    So a pipe that waits for its answers gets them, and a large file is read in parts. Blank lines are passed
    over.

    Raises:
        UserError: a line that is too long, not UTF-8, not JSON or no object; it names the line.
    """
    rest, number = b"", 0
    while chunk := stream.read1(_READ_AT_ONCE):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _parsed(lines, name, number)
        number += len(lines)
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{name}, line {number + 1}: longer than {LONGEST_LINE >> 20} MiB")
    yield from _parsed([rest], name, number)


def _parsed(lines: list[bytes], name: str, before: int) -> Iterator[list[tuple[str, dict]]]:
    found = []
    for number, line in enumerate(lines, before + 1):
        if line.strip(b" \r\t\xef\xbb\xbf"):
            found.append((f"{name}, line {number}", parse(line, f"{name}, line {number}")))
    if found:
        yield found


def parse(line: bytes, place: str) -> dict[str, Any]:
    """A JSON object from UTF-8 bytes.

    Raises:
        UserError: it is none.
    """
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
    """The stream and its name; "-": standard input.

    Raises:
        UserError: it cannot be read.
    """
    import sys

    if path == "-":
        return sys.stdin.buffer, "standard input"
    try:
        return Path(path).open("rb"), path
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
