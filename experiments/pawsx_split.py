"""A PAWS-X to train and test on, of the development files alone: rows 1 to 1,500 against 1,501 to 2,000.

    python -m experiments.pawsx_split --source "$DATA/pawsx" --output data/pawsx-split

The files are row-aligned translations of each other: a test row must not be a training row in any language.
English rows 1 to 1,500 become train/train.en.tsv, rows 1,501 to 2,000 of every language test/test.<l>.tsv.
"""

import argparse
from pathlib import Path

from scripts.data.joint_files import write_joint_files
from scripts.data.prepare_pawsx import HEADER, LABELS, by_paper, find_files, read_rows, write_rows
from utils.errors import UserError, run

ROWS, TRAINED = 2000, 1500


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, type=Path, help="folder of dev-<language>.tsv")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args(arguments)

    files = {language: path for (name, language), path in find_files([args.source]).items() if name == "dev"}
    if "en" not in files:
        raise UserError(f"{args.source}: no dev-en.tsv there, the file to train on")
    for language, path in files.items():
        rows = list(read_rows(path))
        if len(rows) != ROWS or None in rows:
            raise UserError(f"{path}: {len(rows)} rows; {ROWS} of two sentences and a label are expected")
        if language == "en":
            write_rows(args.output / "train" / "train.en.tsv", rows[:TRAINED])
        write_rows(args.output / "test" / f"test.{language}.tsv", rows[TRAINED:])
    write_joint_files(
        args.output, {"train": ["en"], "dev": [], "test": list(files)}, LABELS, by_paper, HEADER
    )
    print(f"{args.output}: {TRAINED} rows to train on, {ROWS - TRAINED} to test on in {', '.join(files)}")


if __name__ == "__main__":
    run(main)
