"""The real data of a study: a corpus, and XNLI and PAN-X in the official layout, all in lower case.

A vocabulary of a few thousand pieces has no room for capitals.
"""

import gzip
import os
import re
import subprocess
from pathlib import Path

from experiments.study import STUDIES
from reader.corpus import read_manifest
from scripts.data import prepare
from utils.errors import UserError
from utils.files import atomic_file

NAMED_FILE = re.compile(r"\$DATA/([^\s,\]}\"']+)")  # in the configuration of a corpus


def data_folder() -> Path:
    """The folder of real data, which the variable DATA names.

    Raises:
        UserError: it is not set.
    """
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    return Path(os.environ["DATA"])


def prepare_corpus(name: str, data: Path, output: Path) -> None:
    """Build <output>/corpus from configs/corpus/<name>.yaml with its own vocabulary, if it is not there.

    Raises:
        UserError: a file of text is missing, or the corpus cannot be built.
    """
    config = (STUDIES.parent / "corpus" / f"{name}.yaml").read_text(encoding="utf-8")
    for file in NAMED_FILE.findall(config):
        lower_case(data / file, output / "text" / file)
    command = ["sh", "scripts/data/real_corpus.sh", name, str(output)]  # does what is not done yet
    finished = subprocess.run(command, env={**os.environ, "DATA": str(output / "text")})
    if finished.returncode:
        raise UserError(f"{output / 'corpus'}: not built; the lines above say why")


def lower_case(source: Path, target: Path) -> None:
    """Copy a text file, plain or .gz, in lower case. A copy that exists is kept.

    Raises:
        UserError: there is no such file.
    """
    if target.is_file():
        return
    if not source.is_file():
        raise UserError(f"{source}: no such file; DATA names the folder of real data")
    data = source.read_bytes()
    if source.suffix == ".gz":
        text = gzip.decompress(data).decode("utf-8")
        copy = gzip.compress(text.lower().encode(), mtime=0)  # without a time: the same bytes at every run
    else:
        copy = data.decode("utf-8").lower().encode()
    with atomic_file(target) as file:
        file.write(copy)


def prepare_xnli(data: Path, output: Path, corpus: Path) -> None:
    """Prepare English pairs to train on, and XNLI's development sets of the corpus' languages."""
    source = output.parent / "nli"
    for path in _files_of(data / "nli", corpus):
        lower_case(path, source / path.name)
    prepare.main(["xnli", str(source), "--output", str(output)])


def prepare_ner(data: Path, output: Path, corpus: Path) -> None:
    """Prepare PAN-X: English sentences to train on, and the development sets of the corpus' languages."""
    source = output.parent / "panx"
    for path in _files_of(data / "ner" / "panx", corpus):
        with atomic_file(source / path.name, "w") as file:
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                word, tab, tag = line.partition("\t")  # tags keep their capitals
                file.write(f"{word.lower()}{tab}{tag}")
    prepare.main(["panx", str(source), "--output", str(output)])


def _files_of(folder: Path, corpus: Path) -> list[Path]:
    """The files of a folder whose names end in a language of the corpus, such as train-en.tsv."""
    languages = read_manifest(corpus)["mono"]
    files = sorted(folder.glob("*.tsv"))
    return [path for path in files if path.stem.split("-")[-1] in languages]
