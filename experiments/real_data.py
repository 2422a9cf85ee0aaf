"""The real data of a study: a corpus, and XNLI and PAN-X in the official layout, all in lower case.

A vocabulary of a few thousand pieces has no room for capitals.
"""

import json
import os
import subprocess
from pathlib import Path

from experiments.lower_case import lower_case, named_files
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
    with atomic_file(output / "lang_map.json", "w") as file:
        json.dump({language: number for number, language in enumerate(languages)}, file)
