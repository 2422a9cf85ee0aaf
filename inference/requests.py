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


# key of "reading" -> whether a value is valid
_KEYS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("max_seq_len", "max_query_length", "doc_stride", "max_answer_length"),
        lambda value: type(value) is int and value > 0,
    ),
    **dict.fromkeys(("official_compat", "split_han"), lambda value: type(value) is bool),
    "label_pieces": ("first", "all").__contains__,
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


def read_requests(stream: IO[bytes], name: str) -> Iterator[list[tuple[str, dict | UserError]]]:
    """Yield the requests of a stream as (place, request), as many at a time as have arrived.

    A pipe that waits for its answers gets them, and a large file is read in parts. Blank lines are skipped.
    A line that is not UTF-8, not JSON or not an object gives its error in place of a request.

    Raises:
        UserError: a line is too long.
    """
    rest, number = b"", 0
    while chunk := stream.read1(_READ_AT_ONCE):
        *lines, rest = (rest + chunk).split(b"\n")
        yield _parsed(lines, name, number)
        number += len(lines)
        if len(rest) > LONGEST_LINE:
            raise UserError(f"{name}, line {number + 1}: longer than {LONGEST_LINE >> 20} MiB")
    yield _parsed([rest], name, number)


def _parsed(lines: list[bytes], name: str, before: int) -> list[tuple[str, dict | UserError]]:
    return [
        (f"{name}, line {number}", _parse(line))
        for number, line in enumerate(lines, before + 1)
        if line.strip(b" \r\t\xef\xbb\xbf")
    ]


def _parse(line: bytes) -> dict[str, Any] | UserError:
    try:
        request = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:
            json.dumps(request, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        return UserError(f"not UTF-8 (byte {error.start + 1})")
    except UnicodeEncodeError:
        return UserError("half of a character, as \\ud800 alone is; write both halves")
    except (ValueError, RecursionError) as error:
        return UserError(f'not JSON ({error}); a line is an object such as {{"text": "..."}}')
    if not isinstance(request, dict):
        return UserError('no object; a line is an object such as {"text": "..."}')
    return request


def open_input(path: str) -> tuple[IO[bytes], str]:
    """A file, or standard input for "-", and its name. UserError: it cannot be read."""
    if path == "-":
        return sys.stdin.buffer, "standard input"
    try:
        return Path(path).open("rb"), path
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
