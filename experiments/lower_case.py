"""Lower-case copies of text files below $DATA, under the same paths below a folder.

    DATA=/data/is/here python -m experiments.lower_case --config configs/corpus/en-de-fr-tr.yaml --output DIR
    DATA=/data/is/here python -m experiments.lower_case nli/train-en.tsv --output DIR

The files are those that a corpus configuration names, or that the command line does. With a vocabulary of a
few thousand pieces, capitals cost more than they tell. `DATA=DIR` reads the copies. Of a .json file the texts
are put in lower case, character by character, so that an answer stays at its offset.
"""

import argparse
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.config import read_yaml
from utils.errors import UserError, run
from utils.files import atomic_file

_VARIABLE = "$DATA/"
_TEXTS = ("context", "question", "text")  # of SQuAD's JSON


def named_files(config: dict) -> list[str]:
    """Every path of a corpus configuration that begins with $DATA, without that beginning."""

    def strings(value) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from strings(item)

    paths = [path for kind in config.values() for value in kind.values() for path in strings(value)]
    return list(dict.fromkeys(path.removeprefix(_VARIABLE) for path in paths if path.startswith(_VARIABLE)))


def lower_case(source: Path, target: Path) -> None:
    """Copy a file, plain or .gz, in lower case. A copy that is there already is kept."""
    if target.is_file():
        return
    if source.suffix == ".json":
        with atomic_file(target, "w") as file:
            json.dump(_lower_texts(json.loads(source.read_text(encoding="utf-8"))), file, ensure_ascii=False)
        return
    packed = source.suffix == ".gz"
    text = (gzip.decompress(source.read_bytes()) if packed else source.read_bytes()).decode("utf-8").lower()
    with atomic_file(target) as file:
        data = text.encode("utf-8")
        file.write(gzip.compress(data, mtime=0) if packed else data)


def _lower_texts(value: Any) -> Any:
    """Every string that stands under one of the keys of `_TEXTS`."""
    if isinstance(value, list):
        return [_lower_texts(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _of_same_length(item) if key in _TEXTS and isinstance(item, str) else _lower_texts(item)
            for key, item in value.items()
        }
    return value


def _of_same_length(text: str) -> str:
    # The Turkish capital I with a dot becomes two characters, which would move all that follows: it stays.
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="below $DATA")
    parser.add_argument("--config", help="a file of configs/corpus: all that it names")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; let it name the folder of real data")
    for name in [*args.files, *(named_files(read_yaml(args.config)) if args.config else [])]:
        source = Path(os.environ["DATA"], name)
        if not source.is_file():
            where = "on the command line" if name in args.files else f"in {args.config}"
            raise UserError(f"{source}: no such file; it is named {where}")
        lower_case(source, args.output / name)


if __name__ == "__main__":
    run(main)
