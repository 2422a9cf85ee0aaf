"""Tagged files in CoNLL form: a word a line with its tags, a blank line after each sentence.

    python -m finetune.conll output/test.de.tsv.3.1200
    python -m finetune.conll output/test.de.tsv.3.1200 --xtreme panx/test-de.tsv

The columns are word, gold tag (where it is known) and predicted tag, with a space between. The first command
prints what conlleval prints, the second also writes the predicted tags alone, as XTREME wants them.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from finetune.entities import entity_scores
from utils.errors import UserError, run
from utils.files import atomic_file


class Tagged(NamedTuple):
    """A sentence; `gold` is None where it is not known."""

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


def write_conll(path: str | os.PathLike, sentences: Iterable[Tagged]) -> None:
    """Write sentences, atomically. White space inside a word becomes "_", so that columns stay columns."""
    with atomic_file(path, "w", newline="\n") as file:
        for words, gold, predicted in sentences:
            plain = ["_".join(word.split()) or "_" for word in words]
            columns = (plain, predicted) if gold is None else (plain, gold, predicted)
            file.writelines(f"{' '.join(cells)}\n" for cells in zip(*columns, strict=True))
            file.write("\n")


def write_xtreme(path: str | os.PathLike, sentences: Iterable[Tagged]) -> None:
    """XTREME's submission layout, panx/test-<language>.tsv: the predicted tags alone, atomically.

    A blank line stands between sentences, none after the last.
    """
    with atomic_file(path, "w", newline="\n") as file:
        file.write("\n".join("".join(f"{tag}\n" for tag in one.predicted) for one in sentences))


def read_conll(path: str | os.PathLike) -> list[Tagged]:
    """Read a file as `write_conll` writes it. Columns between the word and the last two are not read.

    Raises:
        UserError: no such file, or a line with another number of columns; names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from error
    width = 0
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split()
        if not cells:
            sentences.append([])
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, not {max(width, 2)}; a line is a word, its "
                "gold tag if it is known, and its predicted tag"
            )
        sentences[-1].append(cells)
    if not width:
        raise UserError(f"{path}: no words in it")
    columns = [list(zip(*sentence)) for sentence in sentences if sentence]
    return [Tagged(found[0], found[-2] if width > 2 else None, found[-1]) for found in columns]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", help="predictions in CoNLL form")
    parser.add_argument("--xtreme", metavar="FILE", help="write the predicted tags there")
    options = parser.parse_args(arguments)
    sentences = read_conll(options.file)
    gold = [one.gold for one in sentences if one.gold is not None]
    if gold:
        print(entity_scores(gold, [one.predicted for one in sentences]).report(), end="")
    elif not options.xtreme:
        raise UserError(f"{options.file}: two columns, so no gold tags to compare with")
    if options.xtreme:
        write_xtreme(options.xtreme, sentences)
        print(f"written: {options.xtreme}")


if __name__ == "__main__":
    run(main)
