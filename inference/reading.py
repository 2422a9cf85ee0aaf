"""How inputs were read in training: "reading" in config.json, which prediction follows. No paddle here."""

from collections.abc import Callable, Mapping
from typing import Any

from evaluation.pooling import POOLINGS
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
