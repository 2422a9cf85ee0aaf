"""Time texts to vectors from a folder of weights beside sentence-transformers (torch), in turns.

    .venv/bin/python scripts/benchmarks/encode.py WEIGHTS TEXT

WEIGHTS has the form of XLM-R, and TEXT a text in each line. All contenders compute the mean over all tokens
of the top layer, special ones included, from the text on; ours also with the ONNX files of ernie-m export.
"""

from ernie_m.utils.first_import import run

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import read_text
from ernie_m.utils.options import PositiveInt, option, parse_options
from scripts.benchmarks.turns import LATEST, OURS, Contender, compare

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 1 << 30  # bytes of TEXT


@dataclass
class EncodeBenchmark:
    """What is timed."""

    weights: str = option(positional=True)
    """A folder of weights in the form of XLM-R, with its tokenizer."""

    text: str = option(positional=True)
    """A file with a text in each line."""

    batch_size: PositiveInt = 200
    """Texts of a call, which each contender divides as it likes."""

    calls: PositiveInt = 10
    """The number of calls that are timed."""

    threads: PositiveInt | None = None
    """The number of threads. Default: what suits this machine."""


def main() -> None:
    flags = parse_options(EncodeBenchmark, None, __name__)
    texts = [line for line in read_text(flags.text, LARGEST).splitlines() if line.strip()]
    needed = flags.batch_size * flags.calls
    if len(texts) < needed:
        raise UserError(f"{flags.text}: {len(texts)} texts; {needed} are needed")
    batches = [texts[start : start + flags.batch_size] for start in range(0, needed, flags.batch_size)]
    with TemporaryDirectory() as folder:
        exported = f"{folder}/exported"
        line = [
            "-m",
            "ernie_m",
            "export",
            "--model",
            flags.weights,
            "--output",
            exported,
            "--task",
            "embedding",
            "--format",
            "onnx",
        ]
        subprocess.run([sys.executable, *line], check=True, stdout=sys.stderr)
        given = {"weights": flags.weights, "exported": exported, "batches": batches}
        compare("encode", CONTENDERS, given, needed, "texts/s", flags.threads)


def ours(
    given: dict[str, Any], folder: str = "weights", engine: str = "auto", amp: str = "none"
) -> Callable[[list[str]], Any]:
    """What `ernie_m.load(...).encode` does. `folder`: the key of the folder that is loaded."""
    from ernie_m.inference.load import load
    from ernie_m.inference.tasks import PredictionOptions, make_answerer

    model = load(given[folder], engine=engine, amp=amp)
    return make_answerer("embedding", model, PredictionOptions(pooling="specials")).vectors


def sentence_transformers_peer(given: dict[str, Any]) -> Callable[[list[str]], Any]:
    """The same of sentence-transformers, which takes the mean if the folder does not say otherwise."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(given["weights"], device="cpu")
    return partial(model.encode, show_progress_bar=False)


CONTENDERS = {
    OURS: Contender(ours),
    "ours, bfloat16": Contender(ours, bfloat16=True, options={"amp": "bf16"}),
    "ours, ONNX Runtime": Contender(ours, options={"folder": "exported", "engine": "onnx"}),
    "sentence-transformers": Contender(sentence_transformers_peer, LATEST),
}


if __name__ == "__main__":
    run(main)
