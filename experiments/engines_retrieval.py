"""Retrieval of translations by the engines of one exported encoder: what int8 costs in accuracy.

    python export.py --task encoding --model tuned/scratch-1/best --output exported --int8 true
    python -m experiments.engines_retrieval --model exported --pairs tuned/pairs

Each sentence's translation is looked for among all of its bitext, by cosine, in both directions. A table per
language; the last line is JSON, with the differences to the first engine in points.
"""

import argparse
import json
from pathlib import Path

from evaluation.search import search_both
from finetune.report import average, in_markdown
from inference.loading import load
from inference.tasks.encode import EncodeTexts
from reader.bitext import BATCH_TOKENS, Bitext, read_bitexts
from utils.errors import run

ENGINES = ("onnx", "onnx-int8")
MAX_SEQ_LEN = 512


def accuracies(encode: EncodeTexts, bitexts: list[Bitext]) -> dict[str, float]:
    """Language -> per cent of the translations that are found, the mean of both directions."""
    found = {}
    for bitext in bitexts:
        english, other = (encode.vectors(side) for side in (bitext.translations, bitext.sentences))
        forward, backward = search_both(english, other).accuracies()
        found[bitext.language] = (forward + backward) / 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, type=Path, help="what export.py --task encoding wrote")
    parser.add_argument("--pairs", required=True, type=Path, help="folder of bitexts")
    parser.add_argument("--languages", nargs="+", default=(), help="default: all that are there")
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    args = parser.parse_args()
    bitexts = read_bitexts(args.pairs, args.languages)
    scores = {}
    for engine in args.engines:
        encode = EncodeTexts(load(args.model, engine=engine), MAX_SEQ_LEN, BATCH_TOKENS)
        scores[engine] = accuracies(encode, bitexts)
    first = scores[args.engines[0]]
    mean = {engine: average(row) for engine, row in scores.items()}
    lines = [["engine", *first, "mean"]]
    lines += [
        [name, *(f"{value:.1f}" for value in (*row.values(), mean[name]))] for name, row in scores.items()
    ]
    print(f"\ntranslations found, both directions, per cent\n\n{in_markdown(lines)}\n")
    off = {engine: round(value - mean[args.engines[0]], 3) for engine, value in mean.items()}
    largest = {
        engine: round(max(abs(row[name] - first[name]) for name in first), 3)
        for engine, row in scores.items()
    }
    print(json.dumps({
        "mean": {name: round(value, 3) for name, value in mean.items()}, "off": off, "off_at_most": largest,
        "pairs": sum(len(bitext.sentences) for bitext in bitexts),
    }))  # fmt: skip


if __name__ == "__main__":
    run(main)
