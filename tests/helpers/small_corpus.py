"""Text, a piece model and corpora for tests, made from a seed."""

import gzip
import itertools
import json
import os
import random
import sys
from pathlib import Path
from unittest import mock

import sentencepiece

from pretrain.build_corpus import build_corpus
from pretrain.corpus.options import BuildOptions

ROOT = Path(__file__).resolve().parents[2]
# The options of the build with which the tests compare others.
OPTIONS = {"deduplicate": True, "held_out": 50, "shard_mib": 0.02}
_SYLLABLES = [
    consonant + ending for consonant in "bdfgklmnprst" for ending in ("a", "e", "i", "o", "u", "an", "or")
]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of 1 to 12 made-up words, most of them different."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 3))) for _ in range(draw.randint(1, 12))]
        lines.append(" ".join(words))
    return lines


def train_pieces(path: Path, texts: list[str] | None = None, **options) -> Path:
    """Train a piece model on texts, by default on `sentences`; write it to `path`, which is returned.

    `options`: of sentencepiece's trainer.
    """
    defaults = {"vocab_size": 200, "hard_vocab_limit": False, "character_coverage": 1.0, "num_threads": 1}
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts or sentences(500, seed=99)),
            model_writer=file,
            minloglevel=2,
            **(defaults | options),
        )
    return path


def write_lines(path: Path, lines: list[str]) -> str:
    """Write lines to a file, and return its path as text."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return str(path)


def write_languages(folder: Path, **texts: list[str]) -> str:
    """Write the lines of each language to a file of its name; return these files as a flag names them."""
    paths = {language: write_lines(folder / language, lines) for language, lines in texts.items()}
    return ",".join(f"{language}<={path}" for language, path in paths.items())


def build(output: Path, pieces: Path, **options) -> dict:
    """Build a corpus in this process, by default in units of 8 KiB with nothing held out.

    Returns:
        Its manifest.
    """
    defaults = {"workers": 1, "unit_mib": 8 / 1024, "held_out": 0}
    chosen = BuildOptions(output=str(output), piece_model_path=str(pieces), **(defaults | options))
    # Waiting for the disk would take most of the time of a build of hundreds of small files.
    with mock.patch.object(os, "fsync"):
        return build_corpus(chosen)


def files_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_inputs(folder: Path) -> dict:
    """Write the input of a build, and return its options `mono` and `parallel`.

    They are three languages and two language pairs in several forms of files, with many repeated lines.
    """
    draw = random.Random(5)
    lines = {}
    for seed, language in enumerate(("en", "de", "fr")):
        texts = sentences(1500, seed)
        lines[language] = [draw.choice(texts) for _ in range(1500)]  # so that some come several times
    (folder / "en.gz").write_bytes(gzip.compress("\n".join(lines["en"]).encode()))
    pairs = list(zip(lines["en"], lines["de"]))
    french = write_lines(folder / "x.fr", lines["fr"])
    english = write_lines(folder / "x.en", lines["en"])
    return {
        "mono": {
            "en": [str(folder / "en.gz"), write_lines(folder / "en.more", lines["en"][::3])],
            "de": write_lines(folder / "de", lines["de"]),
            "fr": write_lines(folder / "fr", lines["fr"]),
        },
        "parallel": {
            "en-de": write_lines(folder / "en-de.tsv", ["\t".join(pair) for pair in pairs + pairs[:100]]),
            "fr-en": f"{french},{english}",
        },
    }


def command(output: Path, pieces: Path, inputs: dict, **options) -> list[str]:
    """The command line of a build, by default in units of 8 KiB.

    Args:
        inputs: what `make_inputs` returned.
        options: further flags; a value that is no text is written as JSON.
    """
    words = [sys.executable, "-m", "pretrain.build_corpus", "--output", str(output)]
    words += ["--piece_model_path", str(pieces)]
    words += ["--mono", json.dumps(inputs["mono"]), "--parallel", json.dumps(inputs["parallel"])]
    defaults = {"unit_mib": 8 / 1024}
    for key, value in (defaults | options).items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


class Stopped(Exception):
    """The build was stopped by `stop_at`."""


def stop_at(monkeypatch, file_number: int) -> None:
    """Raise `Stopped` in place of the renaming that completes a file. The number of the file counts from 0.

    Earlier files stay, as after a kill.
    """
    renamings = itertools.count()
    replace = os.replace

    def replace_or_stop(source, target):
        if next(renamings) == file_number:
            raise Stopped
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_or_stop)
