"""The texts of BUCC 2018 as plain sentences, for mine_pairs.py.

As in XTREME, dev is the sample of the release, and test is its training set.

dev/de-en.de, dev/de-en.en            one sentence a line
dev/de-en.de.ids, dev/de-en.en.ids    the id of each line in the release, for XTREME's files
dev/de-en.gold.tsv                    source and translation, the pairs that are to be found
dev/de-en.gold.ids.tsv                the same by ids
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from reader.bitext import Sentences
from utils.errors import UserError
from utils.files import atomic_file
from utils.tables import in_columns

LANGUAGES = ("de", "fr", "ru", "zh")
SPLITS = {"sample": "dev", "training": "test"}  # in the release -> in XTREME


def prepare_bucc(sources: Sequence[Path], output: Path) -> None:
    """Write what the sources have, and print a table.

    Args:
        sources: folders that hold `de-en/de-en.sample.de`, ..., at any depth.

    Raises:
        UserError: nothing is there, or a file is missing or malformed.
    """
    rows = [["split", "language", "sentences", "English", "pairs"]]
    for language in LANGUAGES:
        for name, split in SPLITS.items():
            paths: list[Path] = []
            for source in sources:
                paths += sorted(source.rglob(f"{language}-en.{name}.{language}"))
            if paths:  # if several folders have it, the first one is taken
                counts = _prepare_pair(paths[0], language, output / split / f"{language}-en")
                rows.append([split, language, *[f"{count:,}" for count in counts]])
    if len(rows) == 1:  # the header alone
        names = ", ".join(str(source) for source in sources)
        raise UserError(
            f"{names}: no file of BUCC 2018 there, such as de-en.sample.de; unpack "
            "bucc2018-de-en.sample-gold.tar.bz2"
        )
    print("", in_columns(rows), "", f"written to {output}", sep="\n")


def _prepare_pair(path: Path, language: str, target: Path) -> tuple[int, int, int]:
    """Write the files of one language and split.

    Args:
        path: the file of the language; that of English and the gold pairs are beside it.
        target: the beginning of the paths of the files to write.

    Returns:
        The numbers of sentences of the language, of English sentences, and of gold pairs.
    """
    sentences = sentences_by_id(path)
    english = sentences_by_id(path.with_suffix(".en"))
    for side, by_id in ((language, sentences), ("en", english)):
        _write_lines(f"{target}.{side}", by_id.values())
        _write_lines(f"{target}.{side}.ids", by_id.keys())
    gold_path = path.with_suffix(".gold")
    gold_ids = []  # lines
    gold = []
    for number, (id_, english_id) in enumerate(_rows(gold_path), 1):
        if id_ not in sentences or english_id not in english:
            raise UserError(f"{gold_path}, line {number}: {id_} or {english_id} is no id of a sentence")
        gold_ids.append(f"{id_}\t{english_id}")
        gold.append(f"{sentences[id_]}\t{english[english_id]}")
    _write_lines(f"{target}.gold.ids.tsv", gold_ids)
    _write_lines(f"{target}.gold.tsv", gold)
    return len(sentences), len(english), len(gold)


def sentences_by_id(path: Path) -> dict[str, str]:
    """Read the sentences of a file: id -> sentence.

    Raises:
        UserError: the file is missing or malformed, or an id occurs twice.
    """
    sentences = {}
    for number, (id_, text) in enumerate(_rows(path), 1):
        if id_ in sentences:
            raise UserError(f"{path}, line {number}: the id {id_} occurs twice")
        sentences[id_] = text
    return sentences


def _rows(path: Path) -> list[tuple[str, str]]:
    """The two cells of each line. White space in the second one becomes single spaces.

    Raises:
        UserError: the file cannot be read, or a line has one cell.
    """
    rows = []
    for number, line in enumerate(Sentences(path).texts(), 1):
        first, tab, second = line.partition("\t")
        if not tab:
            raise UserError(f"{path}, line {number}: no tab; a line is an id, a tab, and a sentence or an id")
        rows.append((first, " ".join(second.split())))
    return rows


def _write_lines(path: str, lines: Iterable[str]) -> None:
    """Write lines to a file, which appears whole or not at all."""
    with atomic_file(path, "w", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
