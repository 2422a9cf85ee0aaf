"""Rows of sentence pairs: query, positive, and any number of negatives, with tabs between them. No header."""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reader.tsv import FileLines, decode, open_lines, without_blank_end
from utils.errors import UserError


class PairRows(FileLines, Sequence[list[str]]):
    """The rows of a file, each a list of its texts. All rows are checked when the file is opened.

    Attributes:
        with_negatives: the number of rows that have negatives.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a row has an empty cell or fewer than two.
    """

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        starts = array("q", [0])  # the byte at which each row begins; at last the end of the rows
        self.with_negatives = 0
        with open_lines(path) as (file, version):
            for number, line in enumerate(without_blank_end(file), 1):
                texts = _texts(line, path, number)
                self.with_negatives += len(texts) > 2
                starts.append(starts[-1] + len(line))
        super().__init__(path, version, np.asarray(starts, np.int64))

    def __getitem__(self, index: int) -> list[str]:
        return _texts(self.line(index), self.path, index + 1)


def _texts(line: bytes, path: Path, number: int) -> list[str]:
    """The texts of line `number` of a file.

    Raises:
        UserError: the line is not UTF-8, has an empty cell, or has fewer than two cells.
    """
    cells = decode(line, path, number).strip("\ufeff\r\n").split("\t")  # U+FEFF: byte order mark
    texts = [cell.strip() for cell in cells]
    if len(texts) < 2 or not all(texts):
        raise UserError(
            f"{path}, line {number}: give query, tab, positive, and perhaps negatives, or remove the line"
        )
    return texts
