"""Builds of a corpus: their inputs, their command, and how they are stopped."""

import gzip
import itertools
import json
import os
import random
import sys
from pathlib import Path

from tests.toys import sentences, write_lines

LINES = 300  # of each language
# The options of the build with which the tests compare others: several chunks and shards of each text.
OPTIONS = {"deduplicate": True, "held_out": 20, "chunk_mib": 3 / 1024, "shard_mib": 0.0034}


def make_inputs(folder: Path) -> dict:
    """Write the input of a build, and return its options `mono` and `parallel`.

    They are three languages and two language pairs in several formats of files, with many repeated lines.
    """
    draw = random.Random(5)
    lines = {}
    for seed, language in enumerate(("en", "de", "fr")):
        texts = sentences(LINES, seed)
        lines[language] = [draw.choice(texts) for _ in range(LINES)]  # so that some come several times
    lines["fr"][::7] = [f"{line} ბ" for line in lines["fr"][::7]]  # a letter without a subword
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
            "en-de": write_lines(folder / "pairs.tsv", ["\t".join(pair) for pair in pairs + pairs[:100]]),
            "fr-en": f"{french},{english}",
        },
    }


def command(output: Path, piece_model: Path, inputs: dict, **options) -> list[str]:
    """The command line of a build.

    Args:
        inputs: what `make_inputs` returned.
        options: further flags; a value that is not text is written as JSON.
    """
    words = [sys.executable, "-m", "ernie_m", "build_corpus", "--output", str(output)]
    words += ["--piece_model_path", str(piece_model)]
    words += ["--mono", json.dumps(inputs["mono"]), "--parallel", json.dumps(inputs["parallel"])]
    for key, value in options.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


class Stopped(Exception):
    """The build was stopped by `stop_at`."""


def stop_at(monkeypatch, file_number: int) -> None:
    """Raise `Stopped` instead of the renaming that completes a file. The number of the file counts from 0.

    Earlier files stay, as after a kill.
    """
    renamings = itertools.count()
    replace = os.replace

    def replace_or_stop(source, target):
        if next(renamings) == file_number:
            raise Stopped
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_or_stop)
