"""Files of tagged words as in CoNLL: a word with its tags in each line, a blank line behind each sentence."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from reader.tagging import read_columns
from reader.tsv import decode, read_all
from utils.files import atomic_file


class TaggedSentence(NamedTuple):
    """The words of a sentence, their gold tags (None if unknown) and their predicted tags."""

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


def write_conll(path: str | os.PathLike, sentences: Iterable[TaggedSentence]) -> None:
    """Write each word, its gold tag if it is known, and its predicted tag: the form that conlleval reads.

    White space inside a word becomes "_", and so does a word of white space alone.
    """
    with atomic_file(path, "w", newline="\n") as file:
        for words, gold, predicted in sentences:
            plain_words = ["_".join(word.split()) or "_" for word in words]
            columns = [plain_words, predicted] if gold is None else [plain_words, gold, predicted]
            for cells in zip(*columns, strict=True):
                file.write(f"{' '.join(cells)}\n")
            file.write("\n")


def read_conll(path: str | os.PathLike) -> list[TaggedSentence]:
    """Read a file that `write_conll` wrote.

    Raises:
        UserError: it cannot be read, or has another form.
    """
    lines = decode(read_all(Path(path)), path, 1).split("\n")
    form = "a word, its gold tag if it is known, and its predicted tag"
    sentences = []
    for _first_line, rows in read_columns(lines, path, str.split, form):
        words, *between, predicted = zip(*rows)  # the columns
        gold = between[-1] if between else None  # conlleval, too, reads the last two columns
        sentences.append(TaggedSentence(words, gold, predicted))
    return sentences
