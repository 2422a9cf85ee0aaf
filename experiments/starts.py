"""Encoders to start from, and tables that compare what becomes of them: what the experiments here share.

An encoder is <runs>/<strategy>-<seed>/encoder, as experiments.pretrain_real leaves it; "scratch" is the same
shape with random weights. A fine-tuning seed starts from the encoder of its own seed; where there is only
one of a strategy, all seeds start from that.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.pretrain_real import STRATEGIES
from finetune.report import average, in_markdown, mean_and_deviation
from reader.vocabulary import SPECIAL_TOKENS, read_vocab
from utils.errors import UserError
from utils.files import atomic_file

SCRATCH = "scratch"
OTHERS = "mean without en"
CASES = ("auto", "lower", "as-is")

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]  # start -> seed -> language -> per cent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every comparison of starts takes."""
    add = parser.add_argument
    add("--runs", required=True, type=Path, help="output folder of experiments.pretrain_real")
    add("--data", required=True, type=Path, help="folder of the real data")
    add(
        "--output",
        required=True,
        type=Path,
        help="a folder <start>-<seed> for each run, and results.{md,json}",
    )
    add("--starts", nargs="+", choices=[SCRATCH, *STRATEGIES], help="default: scratch and all that RUNS has")
    add(
        "--seeds", nargs="+", type=int, help="default: those of the runs; 1 2 3 where no strategy has several"
    )
    add("--languages", nargs="+", help="default: those of the data that the encoders were trained on")
    add("--case", choices=CASES, default="auto", help="of the text; auto: lower if no piece has a capital")
    add("--at_once", type=int, default=2, help="runs side by side, a core each (2)")


def finished(runs: Path, strategy: str) -> dict[int, Path]:
    """seed -> folder of the encoder."""
    found = {}
    for path in runs.glob(f"{strategy}-*/encoder/model.safetensors"):
        name, _, seed = path.parents[1].name.rpartition("-")
        if name == strategy and seed.isdecimal():
            found[int(seed)] = path.parent
    return found


def choose_starts(args: argparse.Namespace) -> list[str]:
    """--starts, or scratch and every strategy with a finished encoder; fills in --seeds.

    Raises:
        UserError: there is none.
    """
    there = [strategy for strategy in STRATEGIES if finished(args.runs, strategy)]
    if not there:
        raise UserError(
            f"{args.runs}: no finished pre-training run there; run experiments.pretrain_real first"
        )
    several = [{*seeds} for strategy in there if len(seeds := finished(args.runs, strategy)) > 1]
    args.seeds = args.seeds or (sorted(set.intersection(*several)) if several else [1, 2, 3])
    return args.starts or [SCRATCH, *there]


def encoder(runs: Path, start: str, seed: int) -> Path:
    """The folder of the encoder that a run starts from; for scratch, of the one whose shape it has.

    Raises:
        UserError: there is none of this start, or several and none of this seed.
    """
    for strategy in reversed(STRATEGIES) if start == SCRATCH else [start]:
        if found := finished(runs, strategy):
            break
    if not found:
        raise UserError(f"{runs / f'{start}-{seed}'}: no finished pre-training run there")
    if seed not in found and len(found) > 1:
        raise UserError(f"{runs}: {strategy} has seeds {', '.join(map(str, sorted(found)))}, but not {seed}")
    return found.get(seed) or next(iter(found.values()))


def is_lower_case(args: argparse.Namespace) -> bool:
    """Whether the text is to be read in lower case, as the text that the encoders were trained on."""
    if args.case != "auto":
        return args.case == "lower"
    vocabulary = read_vocab(encoder(args.runs, SCRATCH, args.seeds[0]) / "vocab.txt")
    return all(piece == piece.lower() for piece in vocabulary if piece not in SPECIAL_TOKENS)


def languages_of(args: argparse.Namespace, there: Sequence[str]) -> list[str]:
    """--languages, or those of `there` that the encoders were trained on.

    Raises:
        UserError: none, or one of --languages is not there.
    """
    if absent := [language for language in args.languages or () if language not in there]:
        raise UserError(f"--languages: no {', '.join(absent)} in the data; it has {', '.join(there)}")
    config = encoder(args.runs, SCRATCH, args.seeds[0]).parent / "full" / "config.json"
    trained = json.loads(config.read_text(encoding="utf-8"))["languages"] if config.is_file() else there
    found = args.languages or [language for language in there if language in trained]
    if not found:
        raise UserError(f"{args.data}: none of its languages ({', '.join(there)}) is one of the encoders'")
    return found


def table(scores: Scores) -> str:
    """A row per start: mean and deviation over the seeds, per language and over all but English; Markdown."""
    first = next(iter(next(iter(scores.values())).values()))
    lines = [["start", *first, OTHERS if "en" in first else "mean"]]
    for start, summary in summaries(scores).items():
        seeds = len(scores[start])
        shown = [
            f"{mean:.1f} ± {deviation:.1f}" if seeds > 1 else f"{mean:.1f}"
            for mean, deviation in summary.values()
        ]
        lines.append([start, *shown])
    return in_markdown(lines)


def summaries(scores: Scores) -> dict[str, dict[str, tuple[float, float]]]:
    """start -> language and `OTHERS` -> mean and standard deviation over the seeds."""
    found = {}
    for start, by_seed in scores.items():
        rows = [with_mean(row) for row in by_seed.values()]
        found[start] = {name: mean_and_deviation([row[name] for row in rows]) for name in rows[0]}
    return found


def with_mean(row: Mapping[str, float]) -> dict[str, float]:
    """The row and its mean over the languages that are not English (over all where there are no others)."""
    others = {language: value for language, value in row.items() if language != "en"}
    return {**row, OTHERS: average(others or row)}


def report(output: Path, task: str, tables: Mapping[str, Scores], **facts) -> None:
    """Print the tables, write results.md and results.json; the last line is one of JSON."""
    text = "\n\n".join(f"**{title}**\n\n{table(scores)}" for title, scores in tables.items())
    values = {
        "task": task,
        "tables": {
            title: {
                start: {
                    "seeds": {str(seed): with_mean(row) for seed, row in scores[start].items()},
                    "mean": {name: mean for name, (mean, _) in summary.items()},
                    "deviation": {name: deviation for name, (_, deviation) in summary.items()},
                }
                for start, summary in summaries(scores).items()
            }
            for title, scores in tables.items()
        },
        **facts,
    }
    for name, content in (("results.md", text), ("results.json", json.dumps(values, indent=1))):
        with atomic_file(output / name, "w") as file:
            file.write(content + "\n")
    print(f"{text}\n\nwritten: {output / 'results.md'}, {output / 'results.json'}")
    short = {
        title: {
            start: [round(value, 2) for value in found[OTHERS]] for start, found in summaries(scores).items()
        }
        for title, scores in tables.items()
    }
    print(json.dumps({"task": task, OTHERS: short, **facts}))
