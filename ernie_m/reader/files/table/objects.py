"""Tables that are JSON lines, a JSON list or an Excel sheet, and the exports of annotation tools."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ernie_m.reader.files.faults import Faults
from ernie_m.reader.files.plain_text import TextFile
from ernie_m.utils.errors import UserError, install_command, listed, shown
from ernie_m.utils.logging import logger

_LEFT_OUT = ("reject", "ignore")  # answers in Prodigy
_MARKS = ("labels", "hypertextlabels")  # the types of the results of Label Studio that are spans
_HEAD = 1000  # objects whose keys are the columns
_LARGEST_LIST = 1 << 30  # bytes of a JSON list, which is read as a whole
# The column of what is marked in a text, as a JSON list of {start, end, label}, with the text if it is known.
SPANS = "spans"


def rows_of_sheet(path: Path, say: Callable[[str], None]) -> Iterator[tuple[int, list[str]]] | None:
    """The rows of the first sheet of an Excel file that has any; None: it is another file.

    Args:
        say: is told which further sheets have rows.

    Raises:
        UserError: python-calamine is not installed, or the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.startswith("xl/") for name in archive.namelist()):
                return None
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        way = install_command("excel")
        raise UserError(f"{path}: an Excel file needs python-calamine: {way}; or save it as .csv") from error
    except zipfile.BadZipFile:
        return None
    try:
        workbook = CalamineWorkbook.from_path(path)
        sheets = {
            name: workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
            for name in workbook.sheet_names
        }
    except CalamineError as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as .csv") from error
    names = [name for name, rows in sheets.items() if rows]  # those that are not empty
    rows = sheets[names[0]] if names else []
    if names[1:]:
        say(f"{path}: only the sheet '{names[0]}' is read, not {listed(names[1:])}")
    cells_of_rows = ([_cell(value) for value in row] for row in rows)
    return ((line, cells) for line, cells in enumerate(cells_of_rows, 1) if any(cells))


def objects_of(file: TextFile, faults: Faults) -> Iterator[tuple[int, Any]] | None:
    """The objects, or the lists, in a file, each with its line; None: it holds no JSON.

    Raises:
        UserError: the file is not JSON throughout; names the line.
    """
    start = file.buffer.lstrip()
    first_line = start.split(b"\n")[0].strip()
    has_list_on_each_line = re.fullmatch(rb'\[\s*"([^"\\]|\\.)*"\s*,.*"\s*\]', first_line)
    is_list = re.match(rb"\[\s*([{\[]|$|\])", start)
    is_object = re.match(rb'\{\s*("[^"]*"\s*:|\}|$)', start)
    if not (is_list or has_list_on_each_line or is_object):
        return None
    # One object on several lines, or columns as pandas writes them: {"text": {"0": ...
    goes_on = re.fullmatch(rb'\{("[^"]*":)?\s*[\[{]?|\{"[^"]*":\s*\{"0":.*', first_line)
    return _of_whole(file, faults) if is_list or goes_on else _of_lines(file, faults)


def rows_of_objects(file: TextFile, faults: Faults) -> tuple[bool, Iterator[tuple[int, list[str]]]] | None:
    """The keys of the objects in a file, and then a row for each; None: it holds no JSON.

    What annotation tools write is read as they mean it: the labels that were chosen, and the spans.

    Returns:
        whether the first row has the keys, which a list of lists has not; and the rows.

    Raises:
        UserError: as `objects_of`.
    """
    objects = objects_of(file, faults)
    if objects is None:
        return None
    first_line, first = next(objects, (0, None))
    if first is None:
        return False, iter(())
    objects = chain([(first_line, first)], objects)
    if isinstance(first, list):
        return False, ((line, [_cell(item) for item in value]) for line, value in objects)
    objects = ((line, plain_object(value)) for line, value in answered_objects(objects, file.path))
    head = list(islice(objects, _HEAD))
    names = list(dict.fromkeys(name for _, cells in head for name in cells))  # each once, in their order
    header = [(line, names) for line, _ in head[:1]]
    rows = ((line, [cells.get(name, "") for name in names]) for line, cells in chain(head, objects))
    return True, chain(header, rows)


def _of_lines(file: TextFile, faults: Faults) -> Iterator[tuple[int, Any]]:
    kind = None  # of the first line: dict or list
    for number, line in enumerate(file.texts(faults), 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep"
            faults.add(number, f"not JSON ({reason})", "each line is an object")
            continue
        kind = kind or type(value)
        if kind in (dict, list) and isinstance(value, kind):
            yield number, value
        else:
            faults.add(number, "no JSON object", "each line is an object")


def _of_whole(file: TextFile, faults: Faults) -> Iterator[tuple[int, Any]]:
    content = file.rest()
    if len(content) > _LARGEST_LIST:
        raise UserError(f"{file.path}: a JSON list of {len(content) >> 20} MiB; write an object on each line")
    decode = json.JSONDecoder().raw_decode
    try:
        text = content.decode()
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{file.path}, line {line}: not JSON ({error}); mend it there") from error
    if isinstance(whole, dict):
        parts = list(whole.values())
        lists_of_objects = [
            part for part in parts if isinstance(part, list) and part and isinstance(part[0], dict)
        ]
        columns = [list(part.values()) if isinstance(part, dict) else part for part in parts]
        are_lists = all(isinstance(column, list) for column in columns)
        if len(lists_of_objects) == 1:
            objects = lists_of_objects[0]
        elif are_lists and len(set(map(len, columns))) <= 1:  # equally long
            objects = [dict(zip(whole, row)) for row in zip(*columns)]
        else:
            objects = [whole]
        yield from ((1, item) for item in objects)
        return
    kind = list if whole and isinstance(whole[0], list) else dict
    # Once more, item by item, for the line of each.
    position = text.index("[") + 1
    line, counted = 1, 0  # the line ends before this character are counted
    for number in range(len(whole)):
        start = re.compile(r"[\s,]*").match(text, position).end()
        line += text.count("\n", counted, start)
        counted = start
        value, position = decode(text, start)
        if isinstance(value, kind):
            yield line, value
        else:
            faults.add(line, f"item {number + 1} is no JSON object", "each item is an object")


def answered_objects(
    objects: Iterator[tuple[int, dict]], path: str, spans: bool = False
) -> Iterator[tuple[int, dict]]:
    """The objects without those that an annotator rejected, or did not come to; of several answers the first.

    Args:
        spans: whether spans of a text are asked for. Then an answer of Label Studio may have none.
    """
    left_out = 0
    differing = []  # the place of each object whose annotators do not agree
    said_of: dict[Any, str] = {}  # Prodigy's hash of a task -> what its first annotator said
    for line, value in objects:
        try:
            results = _results_of(value)
            answers = {_said(part, spans) for part in results or ()}
        except (AttributeError, LookupError, TypeError) as error:
            raise UserError(
                f"{path}, line {line}: an annotation is not as Label Studio writes it; export the file again"
            ) from error
        is_open = results is not None and not any(spans or part for part in results)
        verdict = value.get("answer")  # Prodigy's
        if (spans or "_task_hash" in value) and verdict not in (None, "accept", *_LEFT_OUT):
            raise UserError(
                f"{path}, line {line}: the answer is {shown(verdict)}; it must be accept, reject or ignore"
            )
        if is_open or verdict in _LEFT_OUT:
            left_out += 1
            continue
        if len(answers) > 1:
            differing.append(f"line {line}, id {value.get('id')}")
        if isinstance(task := value.get("_task_hash"), int):
            said = json.dumps([value.get(name) for name in ("spans", "accept", "label", "answer")])
            if task in said_of:  # by another annotator
                differing += [f"line {line}"] if said_of[task] != said else []
                continue
            said_of[task] = said
        yield line, value
    if left_out:
        line = "%s: %s rows are left out that the annotator has not answered, or has rejected"
        logger.warning(line, path, f"{left_out:,}")
    if differing:
        line = "%s: the annotators of %s tasks differ, and the first answer is taken; the first is at %s"
        logger.warning(line, path, f"{len(differing):,}", differing[0])


def _results_of(value: dict) -> list[list[dict]] | None:
    """What each annotator of Label Studio said who did not cancel; None: another tool wrote the object."""
    if not (isinstance(value.get("data"), dict) and isinstance(value.get("annotations"), list)):
        return None
    return [part["result"] for part in value["annotations"] if not part.get("was_cancelled")]


def _said(results: list[dict], spans: bool) -> frozenset[str]:
    """What an annotator said, to be compared: spans in any order, and if not they alone count, the rest."""
    said = _of_results(results)
    parts = [_span(span) for span in said.pop(SPANS, ())] + ([] if spans else [said])
    return frozenset(json.dumps(part, sort_keys=True) for part in parts)


def plain_object(value: dict[str, Any]) -> dict[str, str]:
    """An object as name -> cell: what annotators said under a name of its own, and no more of their tool."""
    results = _results_of(value)
    if results is not None:
        value = value["data"] | _of_results(results[0] if results else [])
    elif isinstance(value.get("options"), list) and isinstance(value.get("accept"), list):  # Prodigy
        value = {**value, "label": value["accept"]}
    cells: dict[str, str] = {}
    for name, part in value.items():
        is_accepted = name == "answer" and part == "accept"
        if is_accepted or name.startswith("_") or name in ("options", "accept", "meta", "config"):
            continue
        if isinstance(part, dict) and [*part] == ["choices"]:
            part = part["choices"]
        if name in ("label", "labels", "entities", SPANS) and _are_spans(part):
            cells[SPANS] = json.dumps([_span(span) for span in part], ensure_ascii=False)
        elif isinstance(part, dict):  # {"translation": {"en": ..., "de": ...}}
            cells |= {str(key): _cell(item) for key, item in part.items()}
        else:
            cells[name] = _cell(part)
    return cells


def _of_results(results: list[dict]) -> dict[str, Any]:
    """What an annotator of Label Studio said: the name of the question -> labels, a number, or spans."""
    said: dict[str, Any] = {}
    for result in results:
        kind, answer = result.get("type"), result.get("value", {})
        if kind in _MARKS:
            for label in answer.get(kind, ()):
                said.setdefault(SPANS, []).append({**answer, "label": label})
        elif kind in answer:
            said[result.get("from_name", "label")] = answer[kind]
    return said


def _are_spans(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(span, dict | list) for span in part)


def _span(span: dict | list) -> dict[str, Any]:
    if isinstance(span, list):
        return dict(zip(("start", "end", "label"), span))
    start, end = span.get("start", span.get("start_offset")), span.get("end", span.get("end_offset"))
    label = span.get("label")
    labels = span.get("labels")  # Label Studio's JSON_MIN
    if label is None and isinstance(labels, list) and len(labels) == 1:
        (label,) = labels
    known = {"text": span["text"]} if isinstance(span.get("text"), str) else {}  # Label Studio's
    return {"start": start, "end": end, "label": label, **known}


def _cell(value: Any) -> str:
    """A value as a cell. Several texts are a list as Python prints it, which the readers of labels know."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        texts = [str(item) for item in value]
        return texts[0] if len(texts) == 1 else str(texts)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
