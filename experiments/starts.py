"""What the comparisons of pre-trained encoders share: which encoder a run starts from, and the tables.

An encoder is <runs>/<strategy>-<seed>/encoder, as experiments.pretrain_real leaves it. The start "scratch"
has the same shape and random weights. A fine-tuning seed starts from the encoder with the same seed; if a
strategy has only one encoder, all seeds start from it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.pretrain_real import STRATEGIES
from finetune.report import average, in_markdown, mean_and_deviation
from reader.tokenizer_files import SPECIAL_TOKENS, read_vocab
from utils.errors import UserError
from utils.files import atomic_file

SCRATCH, OTHERS = "scratch", "mean without en"

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]  # start -> seed -> language -> per cent


def comparison_parser(description: str) -> argparse.ArgumentParser:
    """The flags of every comparison. `Comparison.from_flags` reads them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--runs", required=True, type=Path, help="output folder of experiments.pretrain_real")
    add("--data", required=True, type=Path, help="folder of the real data")
    add("--output", required=True, type=Path, help="a folder <start>-<seed> for each run; results.{md,json}")
    add("--starts", nargs="+", choices=[SCRATCH, *STRATEGIES], help="default: scratch and all that RUNS has")
    add(
        "--seeds", nargs="+", type=int, help="default: those of the runs, or 1 2 3 if no strategy has several"
    )
    add("--languages", nargs="+", help="default: those of the data that the encoders were trained on")
    add("--case", choices=("auto", "lower", "as-is"), default="auto",
        help="of the text; auto: lower if no piece has a capital")  # fmt: skip
    add("--at_once", type=int, default=2, help="runs side by side, on a core each (2)")
    return parser


@dataclass(frozen=True)
class Comparison:
    """The flags of a comparison, with the defaults filled in.

    Attributes:
        lower: the text is in lower case, as the text that the encoders were trained on.
        languages: those of --languages; None: `languages_of` chooses.
    """

    runs: Path
    data: Path
    output: Path
    starts: Sequence[str]
    seeds: Sequence[int]
    languages: Sequence[str] | None
    lower: bool
    at_once: int

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "Comparison":
        """Read the parsed flags.

        Raises:
            UserError: there is no finished pre-training run.
        """
        there = [strategy for strategy in STRATEGIES if finished(args.runs, strategy)]
        if not there:
            raise UserError(f"{args.runs}: no finished pre-training run there; run experiments.pretrain_real")
        several = [{*seeds} for strategy in there if len(seeds := finished(args.runs, strategy)) > 1]
        seeds = args.seeds or (sorted(set.intersection(*several)) if several else [1, 2, 3])
        lower = args.case == "lower"
        if args.case == "auto":
            pieces = read_vocab(encoder(args.runs, SCRATCH, seeds[0]) / "vocab.txt")
            lower = all(piece == piece.lower() for piece in pieces if piece not in SPECIAL_TOKENS)
        starts = args.starts or [SCRATCH, *there]
        return cls(args.runs, args.data, args.output, starts, seeds, args.languages, lower, args.at_once)

    def encoder(self, start: str, seed: int) -> Path:
        """The folder of the encoder of a start; for scratch, of the encoder that has its shape."""
        return encoder(self.runs, start, seed)

    def trained_languages(self, there: Sequence[str]) -> list[str]:
        """The languages of `there` that the encoders were trained on.

        Raises:
            UserError: there is none.
        """
        config = self.encoder(SCRATCH, self.seeds[0]).parent / "full" / "config.json"
        trained = json.loads(config.read_text(encoding="utf-8"))["languages"] if config.is_file() else there
        found = [language for language in there if language in trained]
        if not found:
            raise UserError(
                f"{self.data}: none of its languages ({', '.join(there)}) is one of the encoders'"
            )
        return found

    def languages_of(self, there: Sequence[str]) -> list[str]:
        """--languages, or the languages of `there` that the encoders were trained on.

        Raises:
            UserError: there is none, or one of --languages is not there.
        """
        if absent := [language for language in self.languages or () if language not in there]:
            raise UserError(f"--languages: no {', '.join(absent)} in the data; it has {', '.join(there)}")
        return list(self.languages or self.trained_languages(there))

    def report(self, task: str, tables: Mapping[str, Scores], **facts) -> None:
        """Print the tables, write results.md and results.json, and print a last line of JSON."""
        facts = {"seeds": list(self.seeds), "lower_case": self.lower, **facts}
        text = "\n\n".join(f"**{title}**\n\n{table(scores)}" for title, scores in tables.items())
        values = {title: {} for title in tables}
        for title, scores in tables.items():
            for start, summary in summaries(scores).items():
                values[title][start] = {
                    "seeds": {str(seed): with_mean(row) for seed, row in scores[start].items()},
                    "mean": {name: mean for name, (mean, _) in summary.items()},
                    "deviation": {name: deviation for name, (_, deviation) in summary.items()},
                }
        content = json.dumps({"task": task, "tables": values, **facts}, indent=1)
        for name, written in (("results.md", text), ("results.json", content)):
            with atomic_file(self.output / name, "w") as file:
                file.write(written + "\n")
        print(f"{text}\n\nwritten: {self.output / 'results.md'}, {self.output / 'results.json'}")
        short = {
            title: {
                start: [round(found[kind][OTHERS], 2) for kind in ("mean", "deviation")]
                for start, found in of_table.items()
            }
            for title, of_table in values.items()
        }
        print(json.dumps({"task": task, OTHERS: short, **facts}))


def finished(runs: Path, strategy: str) -> dict[int, Path]:
    """Seed -> folder of the encoder."""
    found = {}
    for path in runs.glob(f"{strategy}-*/encoder/model.safetensors"):
        name, _, seed = path.parents[1].name.rpartition("-")
        if name == strategy and seed.isdecimal():
            found[int(seed)] = path.parent
    return found


def encoder(runs: Path, start: str, seed: int) -> Path:
    """The folder of the encoder of a start; for scratch, of the encoder that has its shape.

    Raises:
        UserError: the start has no encoder, or it has several and none with this seed.
    """
    for strategy in reversed(STRATEGIES) if start == SCRATCH else [start]:
        if found := finished(runs, strategy):
            break
    if not found:
        raise UserError(f"{runs / f'{start}-{seed}'}: no finished pre-training run there")
    if seed not in found and len(found) > 1:
        raise UserError(f"{runs}: {strategy} has seeds {', '.join(map(str, sorted(found)))}, but not {seed}")
    return found.get(seed) or next(iter(found.values()))


def table(scores: Scores) -> str:
    """A row for each start: mean and deviation over the seeds, for each language and without English."""
    first = next(iter(next(iter(scores.values())).values()))
    lines = [["start", *first, OTHERS if "en" in first else "mean"]]
    for start, summary in summaries(scores).items():
        several = len(scores[start]) > 1
        shown = [
            f"{mean:.1f} ± {spread:.1f}" if several else f"{mean:.1f}" for mean, spread in summary.values()
        ]
        lines.append([start, *shown])
    return in_markdown(lines)


def summaries(scores: Scores) -> dict[str, dict[str, tuple[float, float]]]:
    """Start -> language and `OTHERS` -> mean and standard deviation over the seeds."""
    found = {}
    for start, by_seed in scores.items():
        rows = [with_mean(row) for row in by_seed.values()]
        found[start] = {name: mean_and_deviation([row[name] for row in rows]) for name in rows[0]}
    return found


def with_mean(row: Mapping[str, float]) -> dict[str, float]:
    """The row, and its mean over the languages that are not English (over all, if there are no others)."""
    others = {language: value for language, value in row.items() if language != "en"}
    return {**row, OTHERS: average(others or row)}
