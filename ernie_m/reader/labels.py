"""Normalization and validation of labels, label_map.json and lang_map.json, and `%s` in file names."""

import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.reader.equal_texts import normalize_text
from ernie_m.utils.errors import JOINERS, UserError
from ernie_m.utils.files import read_object, write_json
from ernie_m.utils.languages import base_language

# The language key of `expand_patterns` for a pattern without %s and without a language map.
ALL_LANGUAGES = "all"
# A language with script and region, or with the language of questions: zh-hans-cn, zh-question-de.
_LANGUAGE = re.compile(
    r"((train|dev|test|mlqa|xquad)-)?(context-)?(?P<code>[a-z]{2,3})"
    r"(-[a-z]{4})?(-[a-z]{2}|-\d{3})?(-question-.+)?"
)


def read_label_map(path: str | os.PathLike, num_labels: int | None = None) -> dict[str, int]:
    """Read a label map, a JSON object of label -> id.

    Args:
        num_labels: the required number of labels; None: any.

    Raises:
        UserError: the ids are not 0, 1, 2, ..., each exactly once, a label is "", or the number of labels is
            not `num_labels`.
    """
    labels = _read_json_object(path, '{"label": id, ...}')
    ids = list(labels.values())
    are_whole_numbers = all(type(id_) is int for id_ in ids)  # not bool
    if not are_whole_numbers or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{path}: invalid ids {ids} (expected 0 to {len(ids) - 1}, one each)")
    if "" in labels:  # an empty cell is a missing label
        raise UserError(f"{path}: empty label name")
    if num_labels is not None and len(labels) != num_labels:
        raise UserError(
            f"{path}: {len(labels)} labels ({', '.join(labels)}) do not match --num_labels {num_labels}. "
            f"Set --num_labels {len(labels)}"
        )
    return labels


def read_languages(path: str | os.PathLike) -> list[str]:
    """Read the language codes from lang_map.json: the keys of a JSON object, in order.

    Raises:
        UserError: the file cannot be read, or is not a non-empty JSON object.
    """
    return list(_read_json_object(path, '{"en": ..., "fr": ...}'))


def parse_language(name: str) -> str:
    """Return the two-letter language code in a key of a language map or in a file name; "" if unknown.

    zh, zh_CN, zh-Hans, zho, zh-question-de, xquad.zh.json and dev-context-zh-question-de.json give zh; in the
    names of MLQA, the first language is that of the contexts.
    """
    matches = map(_LANGUAGE.fullmatch, name.lower().replace("_", "-").split("."))
    codes = [code for match in matches if match and (code := base_language(match["code"]))]
    return codes[-1] if codes else ""


def write_indices(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a label map or language map: a JSON object of each name -> its index in `names`."""
    write_json(path, {name: index for index, name in enumerate(names)})


def expand_patterns(patterns: str, languages: Sequence[str] | None, flag: str) -> dict[str, dict[str, Path]]:
    """Expand an option such as `--dev_set dev.%s.tsv,test.%s.tsv` into pattern -> language -> path.

    Args:
        patterns: comma-separated file names; `%s` stands for the language.
        languages: the languages; None: without a language map, the only key is "all".
        flag: the name of the option, for errors.

    Raises:
        UserError: a pattern has `%s` without languages, or no `%s` with several languages; a pattern is
            duplicate; or there is no pattern.
    """
    keys = languages or [ALL_LANGUAGES]  # the keys of the inner dictionaries
    files: dict[str, dict[str, Path]] = {}
    for item in patterns.split(","):
        pattern = item.strip()
        if not pattern:
            continue
        if pattern in files:
            raise UserError(f"{flag} {patterns}: duplicate {pattern}")
        if "%s" in pattern and languages is None:
            raise UserError(f"{flag} {pattern}: %s stands for a language and requires --lang_map_config")
        if "%s" not in pattern and len(keys) > 1:
            raise UserError(
                f"{flag} {pattern}: missing %s, but the language map has {len(keys)} languages. "
                "Write %s for the language code, as in dev.%s.tsv"
            )
        files[pattern] = {language: Path(pattern.replace("%s", language)) for language in keys}
    if not files:
        raise UserError(f"{flag}: missing file name")
    return files


def _read_json_object(path: str | os.PathLike, expected: str) -> dict:
    """Read a non-empty JSON object.

    Args:
        expected: an example of the object, for the error.

    Raises:
        UserError: the file cannot be read, or is not a non-empty JSON object.
    """
    value = read_object(path, f"expected {expected}")
    if not value:
        raise UserError(f"{path}: invalid contents (expected {expected})")
    return value


def find_label_issues(
    inputs: np.ndarray,
    targets: np.ndarray,
    get_location: Callable[[int], str],
    trained_inputs: np.ndarray | None = None,
    noun: str = "rows",
) -> list[str]:
    """Return warnings about equal texts with different labels, and about leakage of training texts.

    Args:
        inputs: `hash_input` of each row, int64 [N].
        targets: an integer for the label or labels of each row, int64 [N]; [0]: without labels.
        get_location: maps a row index to its location for messages.
        trained_inputs: for evaluation rows, `hash_input` of each training row, int64 [M].
        noun: a plural noun for the rows in messages.
    """
    found = []
    if len(targets):
        order = np.lexsort((targets, inputs))  # group rows by input, then by label
        # For each row and the next one in this order: same input, different label.
        is_same_input = np.diff(inputs[order]) == 0
        is_other_label = np.diff(targets[order]) != 0
        conflicts = np.flatnonzero(is_same_input & is_other_label)
        if len(conflicts):
            count = len(np.unique(inputs[order][conflicts]))
            first, second = sorted(order[conflicts[0] : conflicts[0] + 2].tolist())
            texts = "1 text has" if count == 1 else f"{count:,} texts have"
            found.append(f"{texts} two labels, as in {get_location(first)} and {get_location(second)}")
    known = 0 if trained_inputs is None else int(np.isin(inputs, trained_inputs).sum())
    if known:
        share = f"{known:,} of {len(inputs):,} {noun}"
        found.append(f"{share} have a text of the training data; scores on them are inflated")
    return found


# Values for a missing label, group or language, in lower case: of pandas, Excel, R, databases (\\N), people,
# and SNLI without annotator agreement. As labels, some may be names of classes, which is an error.
_MISSING = ("", "nan", "nat", "<na>", "-", "\\n", "n/a", "#n/a", "na", "null", "none", "?", "(blank)", "todo")
# A missing label in Hugging Face's data sets; but a sentiment may be -1, 0 or 1, or -2 to 2. Then it is
# missing only if it is this many times rarer than the average label.
_HIDDEN, _RARE = "-1", 10
# Cells of a label column: whether the row has the label.
_YES_OR_NO = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
# Brackets with a quotation mark, bracket, comma, or numbers inside, optionally after the name of a class. A
# single number may be a label, such as Art(2), except after the name of an array type.
_PRINTED = re.compile(
    r"([\w.]+(?=\([\[({'\")])|(tensor|array|(np|numpy|torch)\.\w+)(?=\())?"
    r"[\[({]\s*(['\"\[({].*|[^,]*,.*|([\d\s.]|e[+-]|-(?=\d)|true|false|none|null|nan)*)[\])}]",
    re.IGNORECASE | re.DOTALL,
)


@lru_cache(maxsize=1 << 16)
def normalize_label(label: str) -> str:
    """Normalize a label, so that labels that look the same are equal.

    Applies NFC, removes control and zero-width characters, collapses and strips white space, and removes the
    decimals that pandas adds to integers: "1.0" becomes "1". "1.000" is kept, because it may mean a thousand.
    """
    spaced = " ".join(label.split())
    visible = [
        character
        for character in unicodedata.normalize("NFC", spaced)
        if character in JOINERS or unicodedata.category(character) not in ("Cc", "Cf")
    ]
    return re.sub(r"^([+-]?\d+)\.00?$", r"\1", "".join(visible).strip())


def is_missing(value: object) -> bool:
    """Return whether a label, group or language is blank or a placeholder, such as "nan" or None."""
    return normalize_label(str(value)).lower() in _MISSING


def parse_number(cell: str) -> float | None:
    """Parse a cell as a finite number; None if it is not one."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def parse_boolean(cell: object) -> bool | None:
    """Parse a cell such as 1, 0, true or false as a boolean; None if it is not one."""
    return _YES_OR_NO.get(str(cell).strip().lower())


def parse_label_list(cell: Any) -> list | None:
    """Return a list of labels, also from a cell with a JSON list; None for any other cell."""
    with suppress(ValueError, RecursionError):
        labels = cell if isinstance(cell, list) else json.loads(str(cell))
        return labels if isinstance(labels, list) else None
    return None


def split_labels(cell: str, separator: str | None) -> list[str] | None:
    """Split a cell into unique normalized labels; None if it is blank, so that its labels are unknown.

    Args:
        separator: the separator of labels; None: the cell is a single label.
    """
    labels = map(normalize_label, cell.split(separator) if separator else [cell])
    return list(dict.fromkeys(filter(None, labels))) or None


def is_printed_collection(cell: str) -> bool:
    """Return whether a cell is a printed list, tuple, set, object or array.

    Examples are "['a']", "{a,b}", "array([1])" and "[]"; "[a]" and "(don't know)" are not.
    """
    return _PRINTED.fullmatch(cell.strip()) is not None


def is_label_score(label: str) -> bool:
    """Return whether a label is a number from 0 to 1 or a boolean: the score of a label, not its name."""
    return parse_boolean(label) is not None or 0 < (parse_number(label) or 0) < 1


def has_mixed_types(labels: Iterable[object]) -> bool:
    """Return whether the labels of a row include both strings and numbers, which may be label scores."""
    known = (label for label in labels if isinstance(label, str | Real | np.bool_))
    return len({isinstance(label, str) for label in known}) > 1


def find_missing_labels(counts: Mapping[str, int]) -> set[str]:
    """Return the labels of a data set that are placeholders for a missing label.

    Args:
        counts: normalized label -> number of rows.
    """
    none = set(filter(is_missing, counts))
    others = [count for label, count in counts.items() if label not in none | {_HIDDEN}]
    is_rare = counts.get(_HIDDEN, 0) * len(others) * _RARE < sum(others)
    may_be_one = "-2" in counts or {"0", "1", _HIDDEN}.issuperset(counts.keys() - none)
    return none | {_HIDDEN} if _HIDDEN in counts and (is_rare or not may_be_one) else none


def hash_input(text_a: str, text_b: str | None = None) -> int:
    """Hash the text or the two texts of an example, normalized by `normalize_text`, to an int64.

    Hashes are comparable only within a process.
    """
    return hash(tuple(map(normalize_text, [text_a] if text_b is None else [text_a, text_b])))
