"""Tagged sentences in the official form: TSV with the columns text_a and label, each joined by U+0002."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from reader.tag_schemes import SchemeCheck, to_iob2
from reader.task_reader import decode, map_bytes
from utils.errors import UserError

JOINT = "\x02"


class Sentence(NamedTuple):
    """One row. `text`: its words joined by U+0002; `labels`: an id per word, None without a label column."""

    text: str
    labels: tuple[int, ...] | None

    @property
    def words(self) -> list[str]:
        return self.text.split(JOINT)


def read_tagged(
    path: str | os.PathLike, label_map: Mapping[str, int], scheme: str = "IOB", labels: bool = True
) -> list[Sentence]:
    """Read and check a file of tagged sentences. Tags in IOB1 become IOB2.

    Args:
        path: the file; columns beside text_a and label are not read.
        label_map: tag -> id, with B- and I- of each type.
        scheme: what the tags must be; see `tag_schemes.SCHEMES`.
        labels: False: there need not be a column of tags (but if there is, it is checked the same).

    Raises:
        UserError: no such file, no header, an empty sentence, unequal numbers of tokens and tags, an unknown
            tag, a tag that the scheme does not have. It names the file and the line.
    """
    path = Path(path)
    rows = map_bytes(path)[:].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\n")
    header = decode(rows[0], path, 1).rstrip("\r").split("\t")
    missing = [name for name in ("text_a", *["label"] * labels) if name not in header]
    if missing:
        raise UserError(
            f"{path}, line 1: no column {', '.join(missing)} in the header; the first line names the "
            "tab-separated columns (text_a, label), and tokens and tags are joined by U+0002"
        )
    text_column = header.index("text_a")
    label_column = header.index("label") if "label" in header else None
    check = SchemeCheck(scheme, path)
    sentences = []
    for number, row in enumerate(rows[1:], 2):
        cells = decode(row, path, number).rstrip("\r").split("\t")
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, but the header names {len(header)} "
                f"({', '.join(header)}); a token must not hold a tab or a line end"
            )
        text = cells[text_column]
        words = _check_words(text, path, number)
        found = None
        if label_column is not None:
            tags = cells[label_column].split(JOINT)
            _check_tags(tags, words, label_map, path, number)
            check.add(tags, number)
            found = tuple(label_map[tag] for tag in to_iob2(tags))
        sentences.append(Sentence(text, found))
    if not sentences:
        raise UserError(f"{path}: no rows after the header")
    return sentences


def _check_words(text: str, path: Path, number: int) -> list[str]:
    if not text:
        raise UserError(f"{path}, line {number}: an empty sentence; remove the line")
    words = text.split(JOINT)
    if "" in words:
        raise UserError(f"{path}, line {number}: token {words.index('') + 1} of {len(words)} is empty")
    return words


def _check_tags(
    tags: list[str], words: list[str], label_map: Mapping[str, int], path: Path, number: int
) -> None:
    if len(tags) != len(words):
        raise UserError(
            f"{path}, line {number}: {len(words)} tokens but {len(tags)} tags; tokens are joined by U+0002, "
            "and so are tags, one for each token"
        )
    for position, tag in enumerate(tags, 1):
        if tag not in label_map:
            raise UserError(
                f"{path}, line {number}, token {position}: unknown tag '{tag}'; "
                f"the label map has {', '.join(label_map)}"
            )
