"""Retrieval of pre-training runs, each sentence's translation among all: tables, JSON and curves.

    python -m experiments.retrieval_real --runs output/real4 --pairs "$DATA/retrieval/tatoeba-style-dev"

A sentence is the mean of its token vectors. The layer is chosen on one half of the pairs and reported on the
other, both directions, with the standard error of a bootstrap over pairs. Each half is searched within
itself: of 300 pairs a sentence has 150 candidates. Languages are those of the runs.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.curves import draw, held_out, perplexity_table
from experiments.pretrain_real import STRATEGIES
from reader.bitext import Sentences
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.runtime import prepare

UNTRAINED = "untrained"


def measure(
    folder: Path, pairs: Path, args: argparse.Namespace, trained: bool = True
) -> dict[int, dict[str, dict]]:
    """count -> language -> what `choose_on_half` gives for so many pairs of it and English.

    Args:
        folder: the full model of a run.
        trained: False: the same model with fresh weights.
    """
    import dataclasses

    import paddle

    from evaluation.encode import encode
    from evaluation.retrieval import choose_on_half
    from model.checkpoint.folder import load_from, read_weights
    from model.ernie_m import ErnieMModel
    from reader.tokenization import Tokenizer

    checkpoint = read_weights(folder)
    paddle.seed(1)
    model, tokenizer = ErnieMModel(checkpoint.config), Tokenizer.from_folder(folder)
    if trained:
        load_from(model, folder, ignore=("lm_head.", "language_embeddings."))

    def vectors(path: Path) -> np.ndarray:
        lines = Sentences(path).texts()
        lines = [line.lower() for line in lines] if args.lower_case else lines
        ids = (line[: args.length] for line in tokenizer.encode_batch(lines))
        return encode(model, [np.array([tokenizer.cls_id, *line, tokenizer.sep_id]) for line in ids])

    result: dict[int, dict[str, dict]] = {count: {} for count in args.counts}
    for language in sorted(set(checkpoint.extra["languages"]) - {"en"}):
        src, tgt = (vectors(pairs / f"{language}-en.{side}") for side in (language, "en"))  # [L + 1, N, H]
        for count in args.counts:
            first = slice(count or None)
            result[count][language] = dataclasses.asdict(choose_on_half(src[:, first], tgt[:, first]))
    return result


def summarised(by_language: dict[str, dict]) -> dict[str, Any]:
    """With the mean over languages, and its error."""
    found = list(by_language.values())
    error = math.sqrt(sum(one["standard_error"] ** 2 for one in found)) / len(found)
    return {"languages": by_language, "mean": float(np.mean([one["mean"] for one in found])),
            "standard_error": error}  # fmt: skip


def table(results: dict[str, dict]) -> str:
    """Per cent with standard error, a row per run, in Markdown."""
    languages = sorted({language for result in results.values() for language in result["languages"]})
    lines = [f"| run | {' | '.join(languages)} | mean |", "|---|" + "---:|" * (len(languages) + 1)]
    for name, result in results.items():
        cells = [result["languages"][language] for language in languages] + [result]
        shown = [f"{100 * cell['mean']:.1f} ± {100 * cell['standard_error']:.1f}" for cell in cells]
        layers = "/".join(str(result["languages"][language]["layer"]) for language in languages)
        lines.append(f"| {name} (layer {layers}) | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", required=True, type=Path, help="folder of run folders <strategy>-<seed>")
    add("--pairs", required=True, type=Path, help="folder of files <language>-en.<language> and .en")
    add("--counts", type=int, nargs="+", default=[300, 0], help="the first so many pairs of each; 0: all")
    add("--length", type=int, default=60, help="tokens of a sentence, at most")
    add("--lower_case", action="store_true")
    args = parser.parse_args()
    prepare()
    order = [*STRATEGIES]
    folders = [path.parent for path in args.runs.glob("*-*/full")]
    folders.sort(key=lambda folder: (order.index(folder.name.rpartition("-")[0]), folder.name))
    if not folders:
        raise UserError(f"{args.runs}: no finished run there")
    found = {UNTRAINED: measure(folders[0] / "full", args.pairs, args, trained=False)}
    found |= {folder.name: measure(folder / "full", args.pairs, args) for folder in folders}
    results = {}
    for count in args.counts:
        name = str(count or "all")
        results[name] = {run_name: summarised(by_count[count]) for run_name, by_count in found.items()}
        print(f"{name} pairs of each language\n\n{table(results[name])}\n", flush=True)
    runs = {folder.name: held_out(folder) for folder in folders}
    print(perplexity_table(runs), flush=True)
    with atomic_file(args.runs / "retrieval.json", "w") as file:
        json.dump({"pairs": results, "held_out": runs}, file, indent=1)
    draw(runs, args.runs / "curves.png")
    print(f"{args.runs / 'retrieval.json'}, {args.runs / 'curves.png'}")


if __name__ == "__main__":
    run(main)
