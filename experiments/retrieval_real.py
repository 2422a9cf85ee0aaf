"""Retrieval with pre-training runs, each sentence's translation among all: tables, JSON and learning curves.

    python -m experiments.retrieval_real --runs output/real4 --pairs "$DATA/retrieval/tatoeba-style-dev"

A sentence is the mean of its token vectors. The layer is chosen on one half of the pairs and reported on
the other, in both directions, with the standard error of a bootstrap over pairs. Each half is searched on
its own: with 300 pairs a sentence has 150 candidates. Languages are those of the runs.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.pretrain_real import STRATEGIES
from reader.bitext import Sentences
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.runtime import prepare


def measure(
    folder: Path, pairs: Path, counts: Sequence[int], length: int, lower: bool, trained: bool = True
) -> dict[int, dict[str, dict]]:
    """Count -> language -> the result of `choose_on_half` on that many pairs of the language and English.

    Args:
        folder: the full model of a run.
        trained: False: the same model with fresh weights.
    """
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
        lines = [line.lower() if lower else line for line in Sentences(path).texts()]
        ids = (line[:length] for line in tokenizer.encode_batch(lines))
        return encode(model, [np.array([tokenizer.cls_id, *line, tokenizer.sep_id]) for line in ids])

    result: dict[int, dict[str, dict]] = {count: {} for count in counts}
    for language in sorted(set(checkpoint.extra["languages"]) - {"en"}):
        src, tgt = (vectors(pairs / f"{language}-en.{side}") for side in (language, "en"))  # [L + 1, N, H]
        for count in counts:
            first = slice(count or None)
            result[count][language] = dataclasses.asdict(choose_on_half(src[:, first], tgt[:, first]))
    return result


def summarised(by_language: dict[str, dict]) -> dict[str, Any]:
    """With the mean over languages, and its error."""
    found = list(by_language.values())
    error = math.sqrt(sum(one["standard_error"] ** 2 for one in found)) / len(found)
    mean = float(np.mean([one["mean"] for one in found]))
    return {"languages": by_language, "mean": mean, "standard_error": error}


def table(results: dict[str, dict]) -> str:
    """Per cent with standard error, a row for each run, in Markdown."""
    languages = sorted({language for result in results.values() for language in result["languages"]})
    lines = [f"| run | {' | '.join(languages)} | mean |", "|---|" + "---:|" * (len(languages) + 1)]
    for name, result in results.items():
        cells = [result["languages"][language] for language in languages] + [result]
        shown = [f"{100 * cell['mean']:.1f} ± {100 * cell['standard_error']:.1f}" for cell in cells]
        layers = "/".join(str(result["languages"][language]["layer"]) for language in languages)
        lines.append(f"| {name} (layer {layers}) | {' | '.join(shown)} |")
    return "\n".join(lines)


def held_out(folder: Path) -> list[dict]:
    """The evaluations of a run: step, tokens that it was trained on by then, and the numbers."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps, tokens = zip(*((record["step"], record["tokens"]) for record in records if "tokens" in record))
    return [
        {"tokens": float(np.interp(record["step"], steps, tokens)), **record}
        for record in records
        if "held_out" in record
    ]


def perplexity_table(runs: dict[str, list[dict]]) -> str:
    """Held-out perplexity at the first and at the last evaluation, by objective and stream, in Markdown."""
    lines = []
    for kind in ("mmlm", "tlm", "camlm"):
        names = sorted({name for found in runs.values() for name in found[-1]["held_out"].get(kind, {})})
        lines += [f"| {kind} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for run_name, found in runs.items():
            first, last = (found[i]["held_out"][kind] for i in (0, -1))
            cells = [f"{first[name]['perplexity']:.1f} to {last[name]['perplexity']:.1f}" for name in names]
            lines.append(f"| {run_name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Draw held-out perplexity and retrieval over the tokens trained on, a line for each run."""
    from matplotlib.figure import Figure

    def perplexity(kind: str):
        return lambda numbers: math.exp(
            np.mean([math.log(one["perplexity"]) for one in numbers[kind].values()])
        )

    panels = {
        "MMLM perplexity, held out": perplexity("mmlm"),
        "TLM perplexity, held out": perplexity("tlm"),
        "retrieval accuracy of the best layer, held out (%)": lambda numbers: (
            100 * float(np.mean(list(numbers["retrieval"].values()), axis=0).max())
        ),
    }
    strategies = list(dict.fromkeys(name.rpartition("-")[0] for name in runs))
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, value) in zip(axes, panels.items()):
        for name, found in runs.items():
            strategy = name.rpartition("-")[0]
            first = next(other for other in runs if other.rpartition("-")[0] == strategy)
            axis.plot(
                [one["tokens"] / 1e6 for one in found], [value(one["held_out"]) for one in found], marker=".",
                color=f"C{strategies.index(strategy)}", label=strategy if name == first else None,
            )  # fmt: skip
        axis.set(title=title, xlabel="million tokens trained on")
        if "perplexity" in title:
            axis.set_yscale("log")
    axes[0].legend()
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--runs", required=True, type=Path, help="folder of run folders <strategy>-<seed>")
    add("--pairs", required=True, type=Path, help="folder of files <language>-en.<language> and .en")
    add("--counts", type=int, nargs="+", default=[300, 0], help="the first so many pairs of each; 0: all")
    add("--length", type=int, default=60, help="largest number of tokens of a sentence")
    add("--lower_case", action="store_true")
    args = parser.parse_args()
    prepare()
    order = [*STRATEGIES]
    folders = [path.parent for path in args.runs.glob("*-*/full")]
    folders.sort(key=lambda folder: (order.index(folder.name.rpartition("-")[0]), folder.name))
    if not folders:
        raise UserError(f"{args.runs}: no finished run there")
    how = args.pairs, args.counts, args.length, args.lower_case
    found = {"untrained": measure(folders[0] / "full", *how, trained=False)}
    found |= {folder.name: measure(folder / "full", *how) for folder in folders}
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
