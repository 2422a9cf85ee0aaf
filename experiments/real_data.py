"""The real data of a study: a corpus, and XNLI and PAN-X in the official layout, all in lower case.

A vocabulary of a few thousand pieces has no room for capitals.
"""

import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

from experiments.study import STUDIES
from reader.corpus import read_manifest
from scripts.data import prepare
from utils.config import read_yaml
from utils.errors import UserError
from utils.files import atomic_file


def prepare_corpus(name: str, data: Path, output: Path) -> None:
    """Build <output>/corpus from configs/corpus/<name>.yaml with its own vocabulary, if it is not there."""
    config = STUDIES.parent / "corpus" / f"{name}.yaml"
    for file in named_files(read_yaml(config)):
        lower_case(data / file, output / "text" / file)
    command = ["sh", "scripts/data/real_corpus.sh", name, str(output)]
    if subprocess.run(command, env={**os.environ, "DATA": str(output / "text")}).returncode:
        raise UserError(f"{output / 'corpus'}: not built; the lines above say why")


def named_files(config: Any) -> list[str]:
    """Every path in a corpus configuration that begins with $DATA, without that beginning."""
    if isinstance(config, str):
        return [config.removeprefix("$DATA/")] if config.startswith("$DATA/") else []
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return list(dict.fromkeys(path for value in values for path in named_files(value)))


def lower_case(source: Path, target: Path) -> None:
    """Copy a text file, plain or .gz, in lower case. A copy that exists is kept.

    UserError: there is no such file.
    """
    if target.is_file():
        return
    if not source.is_file():
        raise UserError(f"{source}: no such file; DATA names the folder of real data")
    data = source.read_bytes()
    if source.suffix == ".gz":
        data = gzip.compress(gzip.decompress(data).decode("utf-8").lower().encode(), mtime=0)
    else:
        data = data.decode("utf-8").lower().encode()
    with atomic_file(target) as file:
        file.write(data)


def prepare_xnli(data: Path, output: Path, corpus: Path) -> None:
    """English pairs to train on, and XNLI's development sets of the corpus' languages."""
    source = output.parent / "nli"
    for path in sorted((data / "nli").glob("*.tsv")):
        lower_case(path, source / path.name)
    prepare.main(["xnli", str(source), "--output", str(output)])
    _write_languages(output, corpus)


def prepare_ner(data: Path, output: Path, corpus: Path) -> None:
    """PAN-X: English sentences to train on, and the development sets of the corpus' languages."""
    prepare.main(["panx", str(data / "ner" / "panx"), "--output", str(output), "--lower_case"])
    _write_languages(output, corpus)


def _write_languages(output: Path, corpus: Path) -> None:
    """Let lang_map.json have the corpus' languages with a development set, English first."""
    there = [path.suffixes[-2][1:] for path in sorted((output / "dev").glob("dev.*.tsv"))]
    trained = read_manifest(corpus)["mono"]
    languages = sorted({*there} & {*trained}, key=lambda language: (language != "en", language))
    prepare.write_numbers(output / "lang_map.json", languages)
