"""Files of tags in CoNLL format, read back."""

import os

from ernie_m.finetune.sequence_label import TaggedSentence
from ernie_m.reader.files.conll import read_columns
from ernie_m.reader.files.official_tsv import decode_line
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.utils.files import read_bytes


def read_conll(path: str | os.PathLike) -> list[TaggedSentence]:
    """Read a file that `write_conll` wrote.

    Raises:
        UserError: it cannot be read, or has another format.
    """
    lines = [decode_line(line, path, number) for number, line in enumerate(read_bytes(path).split(b"\n"), 1)]
    errors = RowErrors(path)
    sentences = []
    for rows in read_columns(lines, lambda line, _: line.split(), errors):
        words, *between, predicted = zip(*(cells for _, cells in rows))  # the columns
        gold = between[-1] if between else None  # conlleval reads the last two columns
        sentences.append(TaggedSentence(words, gold, predicted))
    errors.report(print)
    return sentences
