"""Turn public question answering releases into the layout of the official scripts, ./data/mlqa.

    python scripts/data/prepare_mlqa.py MLQA_V1 train-v1.1.json xquad
    python scripts/data/prepare_mlqa.py folder --output data/my-qa

A source is a file, or a folder that is looked through with its sub-folders. A file is known by its name:

    train-v1.1.json                              SQuAD v1.1: English training questions
    {dev,test}-context-<l>-question-<l>.json     MLQA_V1: text and question in the same language
    xquad.<language>.json                        XQuAD
    {train,dev,test}[.-]<language>*.json         this layout, TyDi QA GoldP by language, ...

Written are train/train.<language>.json, dev/dev.<language>.json, test/test.<language>.json,
xquad/xquad.<language>.json and lang_map.json: checked copies, byte for byte. MLQA's other pairs of languages
are read where they lie, by --gxlt_set. See docs/qa.md.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(
    0, str(Path(__file__).resolve().parents[2])
)  # a script's own folder is on the path, not the root

from reader.squad import read_squad
from scripts.data.joint_files import place_in, write_language_map, write_numbers
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.logging import setup_console

SPLITS = ("train", "dev", "test", "xquad")
# The order of MLQA's and the paper's tables; other languages follow in alphabetical order.
LANGUAGES = ("en", "es", "de", "ar", "hi", "vi", "zh")

_PAIR = re.compile(r"(dev|test)-context-([a-z]{2,3})-question-([a-z]{2,3})\.json")
_XQUAD = re.compile(r"xquad\.([a-z]{2,3})\.json")
_BY_LANGUAGE = re.compile(r"(train|dev|test)[.-]([a-z]{2,3})(?:[.-].*)?\.json")
_SQUAD = "train-v1.1.json"


class Source(NamedTuple):
    """One input file and what it is taken for."""

    path: Path
    split: str
    language: str


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources that the command line names, and print a table of what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, help="folders or files; of two for the same, the first counts"
    )
    parser.add_argument("--output", type=Path, default=Path("data/mlqa"), help="folder to write (data/mlqa)")
    options = parser.parse_args(arguments)

    setup_console()
    sources = find_sources(options.sources, options.output)
    print(f"{'split':<6} {'language':<9}{'texts':>10}{'questions':>11}{'without an answer':>19}")
    for source in sources:
        # Training files may repeat an id, for dev and test every answer needs its own.
        file = read_squad(source.path, "train" if source.split == "train" else "dev")
        lost = sum(question.span is None for question in file.questions)
        numbers = f"{len(file.contexts):>10,}{len(file.questions):>11,}{lost:>19,}"
        print(f"{source.split:<6} {source.language:<9}{numbers}", flush=True)
        name = f"{source.split}.{source.language}.json"
        with atomic_file(options.output / source.split / name) as copy:
            copy.write(source.path.read_bytes())
    languages = {split: [source.language for source in sources if source.split == split] for split in SPLITS}
    if xquad := languages.pop("xquad"):
        write_numbers(options.output / "xquad" / "lang_map.json", xquad)
    notes = write_language_map(options.output, languages, by_paper, "json")
    for note in [*notes, f"written to {options.output}"]:
        print(note)


def find_sources(paths: Iterable[Path], output: Path) -> list[Source]:
    """The files to read, in the order of splits and languages. Of two for the same the earlier one counts.

    Args:
        paths: files, or folders that are looked through with their sub-folders.
        output: files below it are passed over.

    Raises:
        UserError: a path that is not there, or with nothing whose name is known.
    """
    chosen: dict[tuple[str, str], Source] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*.json") if file.is_file())
        found = [source for file in files if (source := _recognise(file, output))]
        if not found:
            raise UserError(
                f"{path}: no file there has a known name ({_SQUAD}, dev-context-en-question-en.json, "
                "xquad.en.json, train.en.json, ...; --help lists them); rename it or name another folder"
            )
        for source in found:
            first = chosen.setdefault((source.split, source.language), source)
            if first is not source:
                print(f"not used: {source.path} ({source.split} is taken from {first.path})")
    return sorted(chosen.values(), key=lambda source: (SPLITS.index(source.split), by_paper(source.language)))


def by_paper(language: str) -> tuple[int, str]:
    """Sort key of languages."""
    return place_in(LANGUAGES, language)


def _recognise(path: Path, output: Path) -> Source | None:
    if output.resolve() in path.resolve().parents:
        return None
    if match := _PAIR.fullmatch(path.name):
        return Source(path, match[1], match[2]) if match[2] == match[3] else None
    if match := _XQUAD.fullmatch(path.name):
        return Source(path, "xquad", match[1])
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return Source(path, match[1], match[2])
    return Source(path, "train", "en") if path.name == _SQUAD else None


if __name__ == "__main__":
    run(main)
