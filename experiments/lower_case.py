"""Copy the text files that a corpus configuration names below $DATA, in lower case.

    DATA=/data/is/here python -m experiments.lower_case --config configs/corpus/en-de-fr-tr.yaml --output DIR

A vocabulary of a few thousand pieces has no room for capitals. `DATA=DIR` reads the copies, which have the
same paths. A .json file keeps everything but its texts, which change character by character, so that an
answer keeps its offset.
"""

import argparse
import gzip
import json
import os
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError, run
from utils.files import atomic_file

_VARIABLE = "$DATA/"
_TEXTS = ("context", "question", "text")  # keys of SQuAD's JSON


def named_files(config: Any) -> list[str]:
    """Every path in a corpus configuration that begins with $DATA, without that beginning."""
    if isinstance(config, str):
        return [config.removeprefix(_VARIABLE)] if config.startswith(_VARIABLE) else []
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return list(dict.fromkeys(path for value in values for path in named_files(value)))


def lower_case(source: Path, target: Path) -> None:
    """Copy a file, plain or .gz, in lower case. A copy that exists is kept.

    Raises:
        UserError: there is no such file.
    """
    if target.is_file():
        return
    if not source.is_file():
        raise UserError(f"{source}: no such file; DATA names the folder of real data")
    data = source.read_bytes()
    if source.suffix == ".json":
        data = json.dumps(_lower_texts(json.loads(data)), ensure_ascii=False).encode()
    elif source.suffix == ".gz":
        data = gzip.compress(gzip.decompress(data).decode("utf-8").lower().encode(), mtime=0)
    else:
        data = data.decode("utf-8").lower().encode()
    with atomic_file(target) as file:
        file.write(data)


def _lower_texts(value: Any) -> Any:
    """Lower every string that belongs to one of the keys of `_TEXTS`."""
    if isinstance(value, list):
        return [_lower_texts(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _of_same_length(item) if key in _TEXTS and isinstance(item, str) else _lower_texts(item)
            for key, item in value.items()
        }
    return value


def _of_same_length(text: str) -> str:
    if len(lowered := text.lower()) == len(text):
        return lowered
    # The Turkish capital I with a dot would become two characters and move everything after it: it stays.
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, type=Path, help="a file of configs/corpus")
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    for name in named_files(yaml.safe_load(args.config.read_text(encoding="utf-8"))):
        lower_case(Path(os.environ["DATA"], name), args.output / name)


if __name__ == "__main__":
    run(main)
