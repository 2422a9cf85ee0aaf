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

import sys
from pathlib import Path

# The path has the folder of a script, not the root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reader.question_answering import read_squad
from scripts.data.sources import DataFile, DataSet, WrittenFile, prepare, source_parser, write_numbers
from utils.errors import run
from utils.files import atomic_file
from utils.logging import setup_console

MLQA = DataSet(
    output="data/mlqa",
    languages=("en", "es", "de", "ar", "hi", "vi", "zh"),
    names=(
        r"(?P<split>dev|test)-context-(?P<language>[a-z]{2,3})-question-(?P=language)\.json",
        r"(?P<split>train|dev|test)[.-](?P<language>[a-z]{2,3})(?:[.-].*)?\.json",
        r"(?P<split>xquad)\.(?P<language>[a-z]{2,3})\.json",
        r"train-v1\.1\.json",
    ),
    examples="train-v1.1.json, dev-context-en-question-en.json, xquad.en.json, train.en.json",
    ending="json",
)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the sources of the command line, and print a table of what was written."""
    options = source_parser(__doc__, MLQA.output).parse_args(arguments)
    setup_console()
    written = prepare(MLQA, options, convert)
    if xquad := [one.language for one in written if one.split == "xquad"]:
        write_numbers(options.output / "xquad" / "lang_map.json", xquad)


def convert(source: DataFile, output: Path) -> list[WrittenFile]:
    """Check and copy one file. UserError: `read_squad` raises it."""
    # Ids may repeat in training files; in dev and test every answer needs its own.
    content = read_squad(source.path, "train" if source.split == "train" else "dev")
    with atomic_file(output / source.split / f"{source.split}.{source.language}.json") as copy:
        copy.write(source.path.read_bytes())
    cells = {
        "texts": len(content.contexts), "questions": len(content.questions),
        "without an answer": sum(question.span is None for question in content.questions),
    }  # fmt: skip
    return [WrittenFile(source.split, source.language, cells)]


if __name__ == "__main__":
    run(main)
