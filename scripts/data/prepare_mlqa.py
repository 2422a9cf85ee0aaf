"""Turn public question answering releases into the layout of the official scripts, ./data/mlqa.

    python scripts/data/prepare_mlqa.py MLQA_V1 train-v1.1.json xquad
    python scripts/data/prepare_mlqa.py folder --output data/my-qa

A source is a file, or a folder that is searched with its sub-folders. The name of a file says what it holds:

    train-v1.1.json                              SQuAD v1.1: English training questions
    {dev,test}-context-<l>-question-<l>.json     MLQA_V1: text and question in the same language
    xquad.<language>.json                        XQuAD
    {train,dev,test}[.-]<language>*.json         this layout, TyDi QA GoldP by language, ...

The script writes train/train.<language>.json, dev/dev.<language>.json, test/test.<language>.json,
xquad/xquad.<language>.json and lang_map.json: checked copies, byte for byte. MLQA's other pairs of languages
are read from their own folder by --gxlt_set. See docs/qa.md.
"""

import re
import sys
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.squad import read_squad
from scripts.data.sources import by_split, find_files, source_parser, write_language_map, write_numbers
from utils.errors import run
from utils.files import atomic_file
from utils.logging import setup_console

LANGUAGES = ("en", "es", "de", "ar", "hi", "vi", "zh")  # the order of MLQA's and the paper's tables
KNOWN = (
    "train-v1.1.json, dev-context-en-question-en.json, xquad.en.json, train.en.json, ...; --help lists "
    "them); rename it or name another folder"
)

_PAIR = re.compile(r"(dev|test)-context-([a-z]{2,3})-question-([a-z]{2,3})\.json")
_BY_LANGUAGE = re.compile(r"(train|dev|test)[.-]([a-z]{2,3})(?:[.-].*)?\.json|(xquad)\.([a-z]{2,3})\.json")


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, "data/mlqa").parse_args(arguments)
    setup_console()
    files = find_files(options.sources, recognise, LANGUAGES, KNOWN, options.output)
    print(f"{'split':<6} {'language':<9}{'texts':>10}{'questions':>11}{'without an answer':>19}")
    for path, split, language in files:
        # Ids may repeat in training files; in dev and test every answer needs its own.
        content = read_squad(path, "train" if split == "train" else "dev")
        lost = sum(question.span is None for question in content.questions)
        numbers = f"{len(content.contexts):>10,}{len(content.questions):>11,}{lost:>19,}"
        print(f"{split:<6} {language:<9}{numbers}", flush=True)
        with atomic_file(options.output / split / f"{split}.{language}.json") as copy:
            copy.write(path.read_bytes())
    if xquad := [file.language for file in files if file.split == "xquad"]:
        write_numbers(options.output / "xquad" / "lang_map.json", xquad)
    languages = by_split((file[1:] for file in files), LANGUAGES)
    notes = write_language_map(options.output, languages, LANGUAGES, "json")
    print("\n".join([*notes, f"written to {options.output}"]))


def recognise(path: Path) -> tuple[str, str] | None:
    """Split and language of a file."""
    if match := _PAIR.fullmatch(path.name):
        return (match[1], match[2]) if match[2] == match[3] else None
    if match := _BY_LANGUAGE.fullmatch(path.name):
        return match[1] or match[3], match[2] or match[4]
    return ("train", "en") if path.name == "train-v1.1.json" else None


if __name__ == "__main__":
    run(main)
