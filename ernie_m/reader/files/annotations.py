"""Exports of annotation tools in JSON: spans and labels of documents from doccano, Label Studio and Prodigy.

Their documents become rows: {"words", "tags"} for spans, otherwise {"text", "label"}. The keys of a document
tell the tool. Documents that were rejected, skipped or not annotated are left out, and counted.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from ernie_m.reader.files.official_tags import WITHOUT_SPACES, split_words
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.tag_schemes import OUTSIDE
from ernie_m.utils.errors import UserError, format_value, join_items
from ernie_m.utils.logging import logger

_HEAD = 1000  # documents to find the key of the spans
_NOT_ANNOTATED = "not annotated"
_ACCEPT = "accept"  # of Prodigy: an answer, and the key of the chosen labels
_ANSWERS = {_ACCEPT: "", "reject": "rejected", "ignore": "ignored"}
_OF_PRODIGY = {"_task_hash", "spans", "options", _ACCEPT}
# Keys of the start, end, label and text of a span in doccano, Label Studio or Prodigy.
_KEYS = (("start", "start_offset"), ("end", "end_offset"), ("label", "labels"), ("text",))
# A span in JSON: [start, end, label], or an object.
SPAN = re.compile(r'\[\s*\d+\s*,\s*\d+\s*,\s*"|\{(?=[^{}]*"start(_offset)?"\s*:)[^{}]*"labels?"\s*:')
_FIX = "Correct the annotation and export it again"

Span = tuple[int, int, str, str | None]  # start, end (exclusive), label, and its text if the export has it


def convert_exports(
    objects: Iterable[tuple[int, dict]], path: Path, errors: RowErrors
) -> Iterator[tuple[int, dict]]:
    """Yield the rows of an export of an annotation tool; other objects are yielded as they are.

    Args:
        objects: the line number and the value of each JSON object.
        path: the path of the file, for messages.
        errors: collects documents with invalid annotations.

    Raises:
        UserError: several keys have spans.
    """
    counts = Counter[str]()  # what a warning says -> number of documents or words
    documents = _iter_accepted(objects, counts, errors)
    head = list(islice(documents, _HEAD))
    keys = {
        key
        for _, value in head
        for key, items in value.items()
        if isinstance(items, list) and any(map(_parse_span, items))
    }
    if len(keys) > 1:
        raise UserError(f"{path}: several keys have spans: {join_items(sorted(keys))}. Remove all but one")
    for line, value in chain(head, documents):
        rows = [] if keys else [value]
        for key in keys:
            with errors.record_errors(line):
                rows = _convert_spans(value, key, counts)
        for row in rows:
            yield line, row
    for what, count in (+counts).items():
        logger.warning("%s: %d %s", path, count, what)


def _iter_accepted(
    objects: Iterable[tuple[int, dict]], counts: Counter[str], errors: RowErrors
) -> Iterator[tuple[int, dict]]:
    """Yield the documents with an accepted annotation with their line numbers, and count the others."""
    for line, value in objects:
        with errors.record_errors(line):
            status, document = _unpack(value)
            if status:
                counts[f"documents {status}, left out"] += 1
            else:
                yield line, document


def _unpack(value: dict) -> tuple[str, dict]:
    """Return why a document is left out, "" if it is not, and its keys with those of its annotation.

    Raises:
        UserError: the annotation is invalid, or there are several.
    """
    status = ""
    chosen = None
    if isinstance(value.get("annotations"), list) and isinstance(value.get("data"), dict):  # Label Studio
        try:
            finished = [one["result"] for one in value["annotations"] if not one.get("was_cancelled")]
            results = [[part["value"] for part in result if "value" in part] for result in finished]
            parts = results[0] if results else []
            chosen = [*chain.from_iterable(part.get("choices", ()) for part in parts)]
            spans = [part for part in parts if "labels" in part]
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"invalid Label Studio annotation ({error!r}). {_FIX}") from error
        if any(result != parts for result in results):
            raise UserError(f"{len(results)} different annotations of a document. Keep one of them")
        if not results:
            status = "skipped" if value["annotations"] else _NOT_ANNOTATED
        value = {**value["data"], "spans": spans}
    elif value.get("answer") in [*_ANSWERS] and not _OF_PRODIGY.isdisjoint(value):
        status = _ANSWERS[value["answer"]]
        chosen = value.get(_ACCEPT)
    if chosen is not None:
        value = {**value, "label": chosen[0] if len(chosen) == 1 else chosen}
    return status, value


def _parse_span(value: Any) -> list[Span]:
    """Parse [start, end, label], or an object with the keys of a tool: one span, or none."""
    if isinstance(value, dict):
        value = [next((value[name] for name in names if name in value), None) for names in _KEYS]
        if isinstance(value[2], list) and len(value[2]) == 1:  # of Label Studio
            (value[2],) = value[2]
    if not isinstance(value, list) or [*map(type, value[:3])] != [int, int, str]:
        return []
    start, end, label, expected, *_ = [*value, None]
    return [(start, end, label, expected)]


def _convert_spans(value: dict, key: str, counts: Counter[str]) -> list[dict]:
    """Return the row of a document, with its words and tags; none if it is not annotated.

    Args:
        key: the key of its spans.

    Raises:
        UserError: there is no text, or a span is invalid.
    """
    text = value.get("text")
    if not isinstance(text, str):
        raise UserError(f"missing 'text' beside the spans (found: {join_items([*value])}). {_FIX}")
    if value.get(key) is None:
        counts[f"documents {_NOT_ANNOTATED}, left out"] += 1
        return []
    spans = [*chain.from_iterable(map(_parse_span, value[key]))]
    if len(spans) < len(value[key]):
        raise UserError(f"invalid span in '{key}' (expected start, end and one label). {_FIX}")
    words = split_words(text, True, [*WITHOUT_SPACES])
    of_utf_16 = [_convert_from_utf_16(span, text) for span in spans]
    if not _is_on_words(spans, text, words) and _is_on_words(of_utf_16, text, words):
        spans = of_utf_16
        counts["documents with offsets in UTF-16 code units, as in JavaScript"] += 1
    if error := _find_error(spans, text):
        raise UserError(f"{error}. {_FIX}")
    counts["documents without spans, read as text without entities"] += not spans

    # Words are divided at the ends of spans, so that no tag is lost.
    ends = {*chain.from_iterable(span[:2] for span in spans)}
    parts: list[tuple[int, int]] = []
    for start, end in words:
        inside = sorted(place for place in ends if start < place < end)
        counts["words divided at the end of a span"] += bool(inside)
        parts += pairwise([start, *inside, end])
    tags = [OUTSIDE] * len(parts)
    for first, last, label, _ in spans:
        covered = [number for number, (start, _) in enumerate(parts) if first <= start < last]
        for number in covered:
            tags[number] = f"{'B' if number == covered[0] else 'I'}-{label}"
    plain = {name: value[name] for name in value if not isinstance(value[name], list | dict)}
    return [{**plain, "words": [text[start:end] for start, end in parts], "tags": tags}]


def _convert_from_utf_16(span: Span, text: str) -> Span:
    """Convert offsets that count UTF-16 code units to offsets in characters; others are kept."""
    units = text.encode("utf-16-le")
    if not 0 <= 2 * span[0] <= 2 * span[1] <= len(units):
        return span
    start, end = (len(units[: 2 * offset].decode("utf-16-le", "ignore")) for offset in span[:2])
    return start, end, *span[2:]


def _is_on_words(spans: Sequence[Span], text: str, words: Sequence[tuple[int, int]]) -> bool:
    """Return whether spans are valid, and begin and end where words do."""
    starts, ends = ({word[side] for word in words} for side in (0, 1))
    return not _find_error(spans, text) and all(span[0] in starts and span[1] in ends for span in spans)


def _find_error(spans: Sequence[Span], text: str) -> str:
    """Return the error of the spans of a document; "" if they are valid."""
    for start, end, label, expected in spans:
        found = text[max(start, 0) : end]
        is_inside = 0 <= start < end <= len(text) and found.strip()
        if not is_inside or expected not in (None, found):
            return (
                f"span {start} to {end} '{label}' in a text of {len(text)} characters is "
                f"{format_value(found)}, not {'text' if expected is None else format_value(expected)}"
            )
    for first, second in pairwise(sorted(spans, key=lambda span: span[:2])):
        if second[0] < first[1]:
            return f"spans '{first[2]}' and '{second[2]}' overlap at {second[0]}"
    return ""
