"""Labels as people write them, label_map.json and lang_map.json, and `%s` in the names of files.

Of a label: its normal form, several in a cell, or what stands for none.
"""

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path

import numpy as np

from ernie_m.reader.equal_texts import normal_form
from ernie_m.utils.errors import JOINERS, UserError
from ernie_m.utils.files import read_object, write_json
from ernie_m.utils.languages import common_language

# The key under which `expand` puts the file of a pattern without %s if there is no language map.
ALL_LANGUAGES = "all"
# A language with a script and a region, or with the language of the questions: zh-hans-cn, zh-question-de.
_LANGUAGE = re.compile(
    r"((train|dev|test|mlqa|xquad)-)?(context-)?(?P<code>[a-z]{2,3})"
    r"(-[a-z]{4})?(-[a-z]{2}|-\d{3})?(-question-.+)?"
)


def read_label_map(path: str | os.PathLike, num_labels: int | None = None) -> dict[str, int]:
    """Label -> id from a JSON object.

    Raises:
        UserError: the ids are not 0, 1, 2, ..., each of them once, a label is "", or there are not
            `num_labels` labels.
    """
    labels = _read_json_object(path, '{"label": id, ...}')
    ids = list(labels.values())
    are_whole_numbers = all(type(id_) is int for id_ in ids)  # not bool
    if not are_whole_numbers or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{path}: invalid ids {ids} (expected 0 to {len(ids) - 1}, one each)")
    if "" in labels:  # an empty cell has no label
        raise UserError(f"{path}: empty label name")
    if num_labels is not None and len(labels) != num_labels:
        raise UserError(
            f"{path}: {len(labels)} labels ({', '.join(labels)}) do not match --num_labels {num_labels}. "
            f"Set --num_labels {len(labels)}"
        )
    return labels


def read_languages(path: str | os.PathLike) -> list[str]:
    """The language codes of lang_map.json: the keys of a JSON object, in its order.

    Raises:
        UserError: the file has another form.
    """
    return list(_read_json_object(path, '{"en": ..., "fr": ...}'))


def named_language(name: str) -> str:
    """The language that a key of a language map or the name of a file says, in two letters; "": it says none.

    zh, zh_CN, zh-Hans, zho and zh-question-de are zh, and so are xquad.zh.json and
    dev-context-zh-question-de.json: of two languages the first is that of the contexts.
    """
    matches = map(_LANGUAGE.fullmatch, name.lower().replace("_", "-").split("."))
    codes = [code for match in matches if match and (code := common_language(match["code"]))]
    return codes[-1] if codes else ""


def write_places(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Write a label_map.json or lang_map.json: each name -> its place in `names`, from 0."""
    write_json(path, {name: index for index, name in enumerate(names)})


def expand(patterns: str, languages: Sequence[str] | None, flag: str) -> dict[str, dict[str, Path]]:
    """The files that a flag names, such as `--dev_set dev.%s.tsv,test.%s.tsv`: pattern -> language -> path.

    The file of a pattern without `%s` is under the only language, or under "all" without a language map.

    Raises:
        UserError: a pattern has `%s` but there are no languages, a pattern has no `%s` but there are several
            languages, a pattern is there twice, or no file is named.
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
                "Write %s in place of the language code, as in dev.%s.tsv"
            )
        files[pattern] = {language: Path(pattern.replace("%s", language)) for language in keys}
    if not files:
        raise UserError(f"{flag}: missing file name")
    return files


def _read_json_object(path: str | os.PathLike, form: str) -> dict:
    """Read a JSON object that is not empty.

    Args:
        form: an example of it, for the error.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    value = read_object(path, f"it holds {form}")
    if not value:
        raise UserError(f"{path}: invalid contents (expected {form})")
    return value


def check_labels(
    inputs: np.ndarray,
    targets: np.ndarray,
    location: Callable[[int], str],
    trained_inputs: np.ndarray | None = None,
    noun: str = "rows",
) -> list[str]:
    """Which equal texts have two labels, and how many texts are trained on.

    Args:
        inputs: `input_hash` of each row, int64 [N].
        targets: a number for the label, or the labels, of each row, int64 [N]; [0]: there are none.
        location: the number of a row -> where it stands, in words.
        trained_inputs: if rows are evaluated on, `input_hash` of each that is trained on, int64 [M].
        noun: what the rows are called.
    """
    found = []
    if len(targets):
        order = np.lexsort((targets, inputs))  # rows of one input stand together, by their labels
        # Of each row and the next in this order: whether the input is the same, and the label another.
        is_same_input = np.diff(inputs[order]) == 0
        is_other_label = np.diff(targets[order]) != 0
        conflicts = np.flatnonzero(is_same_input & is_other_label)
        if len(conflicts):
            count = len(np.unique(inputs[order][conflicts]))
            first, second = sorted(order[conflicts[0] : conflicts[0] + 2].tolist())
            texts = "1 text has" if count == 1 else f"{count:,} texts have"
            found.append(
                f"{texts} two labels, as in {location(first)} and {location(second)}; no model can learn both"
            )
    known = 0 if trained_inputs is None else int(np.isin(inputs, trained_inputs).sum())
    if known:
        share = f"{known:,} of {len(inputs):,} {noun}"
        found.append(f"{share} have a text that is trained on, so scores on them are too good")
    return found


# How tables write that a row has no label, in small letters: pandas, Excel, R, databases (\\N), people, and
# SNLI where its annotators did not agree. Some may be names of classes, so that they are asked about.
NO_LABEL = ("nan", "nat", "<na>", "-", "\\n", "n/a", "#n/a", "na", "null", "none", "?", "(blank)", "todo")
# That a row has no label, in Hugging Face's data sets; but a sentiment may be -1, 0 or 1, or -2 to 2. Then it
# is none if it is so many times rarer than the others are on average.
_HIDDEN, _RARE = "-1", 10
# Cells by which a row has the label of their column, or has it not.
_YES_OR_NO = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
# In brackets: what begins with a quotation mark or a bracket, has a comma, or is of numbers and the like. The
# name of a class may stand before them; one number may be a label, such as Art(2), unless a program says it.
_PRINTED = re.compile(
    r"([\w.]+(?=\([\[({'\")])|(tensor|array|(np|numpy|torch)\.\w+)(?=\())?"
    r"[\[({]\s*(['\"\[({].*|[^,]*,.*|([\d\s.]|e[+-]|-(?=\d)|true|false|none|null|nan)*)[\])}]",
    re.IGNORECASE | re.DOTALL,
)


@lru_cache(maxsize=1 << 16)
def normal_label(label: str) -> str:
    """The one form of labels that a reader takes for the same.

    It is in NFC, without control characters and characters of zero width, with one space for white space
    inside and none around it; a whole number has no decimals, which pandas adds: "1.0" is "1". "1.000"
    may be a thousand.
    """
    spaced = " ".join(label.split())
    visible = [
        character
        for character in unicodedata.normalize("NFC", spaced)
        if character in JOINERS or unicodedata.category(character) not in ("Cc", "Cf")
    ]
    return re.sub(r"^([+-]?\d+)\.00?$", r"\1", "".join(visible).strip())


def is_no_label(label: str) -> bool:
    """Whether a label in its normal form says that there is none."""
    return label.lower() in ("", *NO_LABEL)


def number_in(cell: str) -> float | None:
    """The finite number in a cell; None: it has none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_marked(cell: object) -> bool | None:
    """Whether a cell in a column for one label says that the row has it; None: it says neither."""
    return _YES_OR_NO.get(str(cell).strip().lower())


def labels_between(cell: str, separator: str | None) -> list[str]:
    """The labels in a cell, in their normal form; a blank one has none.

    Args:
        separator: what separates them; None: nothing.
    """
    return list(filter(None, map(normal_label, cell.split(separator) if separator else [cell])))


def is_printed(cell: str) -> bool:
    """Whether a whole cell is a list, tuple, set, object or array, as a program prints it: "['a']", "{a,b}",
    "array([1])", "[]", and not "[a]" or "(don't know)".
    """
    return _PRINTED.fullmatch(cell.strip()) is not None


def is_mark(label: str) -> bool:
    """Whether a label is a number from 0 to 1, or true or false: whether, or how much, another one holds."""
    return is_marked(label) is not None or 0 < (number_in(label) or 0) < 1


def is_mixed(labels: Iterable[object]) -> bool:
    """Whether some labels of a row are texts, and others numbers, or true or false, which may be of those."""
    known = (label for label in labels if isinstance(label, str | Real | np.bool_))
    return len({isinstance(label, str) for label in known}) > 1


def labels_for_none(counts: Mapping[str, int]) -> set[str]:
    """Which labels say that a row has none.

    Args:
        counts: label -> number of rows.
    """
    none = set(filter(is_no_label, counts))
    others = [count for label, count in counts.items() if label not in none | {_HIDDEN}]
    is_rare = counts.get(_HIDDEN, 0) * len(others) * _RARE < sum(others)
    may_be_one = "-2" in counts or {"0", "1", _HIDDEN}.issuperset(counts.keys() - none)
    return none | {_HIDDEN} if _HIDDEN in counts and (is_rare or not may_be_one) else none


def input_hash(text_a: str, text_b: str | None = None) -> int:
    """An int64 that is equal for equal inputs of this process, whose texts are compared by `normal_form`."""
    return hash(tuple(map(normal_form, [text_a] if text_b is None else [text_a, text_b])))
