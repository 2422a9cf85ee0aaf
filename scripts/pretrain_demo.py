"""The demo of scripts/demo.sh --pretrain: the gain of the paper's objectives over MMLM, on public text.

A small encoder is pretrained with MMLM in ten languages. Two runs continue from it for equal steps: one with
MMLM only, one with all four objectives. Both are evaluated on bitext retrieval with packages that are not in
the training text, and on topic classification trained on English sentences.
"""

from ernie_m.utils.first_import import run

import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ernie_m import load
from ernie_m.commands.launch import run_processes
from ernie_m.data.download_text import TABLE
from ernie_m.finetune.retrieval.training_plan import Command
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import say
from ernie_m.utils.files import read_json
from ernie_m.utils.logging import format_columns
from ernie_m.utils.value_types import PositiveInt
from scripts.quick import average_without_english, read_sentences, score_topics

OUTPUT = Path("output/demo")
TEXT = OUTPUT / "text"
CONFIG = "configs/pretrain/own.yaml"
# Label -> the objectives of a run: the first and the last row of the paper's Table 6.
MIXES = {"exp1, seed 2": "mmlm", "exp5, seed 2": "mmlm,btmlm,camlm,tlm"}
# Label -> row of sweep.json. The even pairs select the layer.
SEARCHES = {"found": "chosen, odd pairs", "centered": "centered, chosen, odd pairs"}
SWEEP = "sweep.json"
STATIC = "static embeddings"
START = "start"


@dataclass
class PretrainDemoFlags:
    """Options of the pre-training demo."""

    start_steps: PositiveInt = 700
    """Number of steps of the initial MMLM training, of about 2,000 tokens each."""

    steps: PositiveInt = option(1500, needed=True)
    """Number of further steps for each mix of objectives."""


def main() -> None:
    flags = parse_options(PretrainDemoFlags, None, __name__)
    started = time.monotonic()
    print("demo: after Ctrl-C, run the same command to resume", flush=True)
    run_steps(Command("download public text", ["download", "text", TEXT], TEXT / TABLE))
    for step in plan_corpus():
        run_steps(step)

    # The initial model and the static embeddings, then the mixes, two at a time: each uses a core.
    start = OUTPUT / f"start-{flags.start_steps}"
    static = OUTPUT / "pieces"
    train = ["train", TEXT / "train", "--output", static]
    run_steps(
        make_pretraining_command("an encoder with MMLM", start, flags.start_steps, "mmlm", 1),
        Command("train a static model on the pairs", train, static / "retrieval.json"),
    )
    folders = {STATIC: static, START: start}
    trainings = []
    for label, objectives in MIXES.items():
        name = label.replace(", seed ", "-seed-")
        folders[label] = OUTPUT / f"start-{flags.start_steps}-{flags.steps}" / name
        training = make_pretraining_command(objectives, folders[label], flags.steps, objectives, 2)
        from_start = ["--init.encoder", start / "full", "--init.lm_head", "same"]
        trainings.append(training._replace(words=[*training.words, *from_start]))
    run_steps(*trainings)
    searches = [make_search_command(folder) for folder in folders.values()]
    for first in range(0, len(searches), 2):
        run_steps(*searches[first : first + 2])

    scores = {label: read_scores(folder) for label, folder in folders.items()}
    print_scores(scores)
    print(json.dumps({**scores, "minutes": round((time.monotonic() - started) / 60, 1)}))


def run_steps(*steps: Command) -> None:
    """Run unfinished commands in parallel, and show the output of the first one.

    If a command fails, the others are stopped, and this script exits with its exit code. The next run resumes
    all of them.
    """
    unfinished = []
    for step in steps:
        if step.result.exists():
            say(f"\ndone: {step.purpose}")
        else:
            say(f"\nnow: {step.purpose}\n  {step}")
            unfinished.append(step)
    if not unfinished:
        return
    commands = [[sys.executable, "-m", "ernie_m", *map(str, step.words)] for step in unfinished]
    code = run_processes(commands, [{}] * len(commands), OUTPUT / "log")
    if code or not all(step.result.exists() for step in unfinished):
        if code in (0, 130):  # SIGTERM or Ctrl-C; an error has its own line
            say("interrupted; run the same command to resume", file=sys.stderr)
        sys.exit(code)


def plan_corpus() -> list[Command]:
    """Return the commands that train a vocabulary and build a corpus from the downloaded text."""
    text = []
    for path in sorted((TEXT / "train").iterdir()):
        text += ["--mono" if path.suffix == ".txt" else "--parallel", f"{path.stem}<={path}"]
    vocab = OUTPUT / "vocab" / "piece.model"
    vocab_size = ["--vocab_size", 8000, "--hard_vocab_limit", "false"]
    corpus = OUTPUT / "corpus"
    return [
        Command("train a vocabulary", ["train_vocab", "--output", vocab.parent, *vocab_size, *text], vocab),
        Command(
            "build a corpus",
            ["build_corpus", "--output", corpus, "--piece_model_path", vocab, *text],
            corpus / MANIFEST,
        ),
    ]


def make_pretraining_command(purpose: str, folder: Path, steps: int, objectives: str, seed: int) -> Command:
    """Return the command that pretrains an encoder with CONFIG and the given objectives.

    Args:
        purpose: what is trained, for messages.
        folder: output directory.
        objectives: comma-separated objectives, with default mixing ratios.
    """
    options = {
        "config": CONFIG,
        "data.corpus": OUTPUT / "corpus",
        "run.output": folder,
        "run.seed": seed,
        "optimizer.steps": steps,
        "optimizer.tokens": 0,
        "objectives.active": objectives,
        "objectives.mixing_ratios": "{}",
        "objectives.later_mixing_ratios": "{}",
    }
    words = ["run_pretrain", *chain(*((f"--{name}", value) for name, value in options.items()))]
    return Command(f"train {purpose}", words, folder / "encoder" / MANIFEST)


def get_model_path(folder: Path) -> Path:
    """Return the path of the trained model in an output directory."""
    return folder / ("best" if folder.name == "pieces" else "encoder")


def make_search_command(folder: Path) -> Command:
    """Return the command that evaluates retrieval on held-out pairs with the model of an output directory."""
    words = ["run_retrieval", "--pairs", TEXT / "held-out", "--untrained", "false", "--layer", "sweep"]
    words += ["--init_pretraining_params", get_model_path(folder), "--checkpoints", folder / "search"]
    return Command(f"evaluate retrieval on held-out pairs with {folder}", words, folder / "search" / SWEEP)


def read_scores(folder: Path) -> dict[str, float]:
    """Return the scores of a run, means over languages: retrieval and topic accuracy in %, perplexities.

    A static model has no perplexities. The topic classifier is that of the quick demo, trained on 30 English
    sentences.
    """
    rows = read_json(folder / "search" / SWEEP)["rows"]
    scores = {name: statistics.mean(rows[row].values()) for name, row in SEARCHES.items() if row in rows}
    topics, texts = read_sentences()
    known = {code: texts[code] for code in texts if code == "en" or (TEXT / f"train/{code}.txt").exists()}
    scores["topics"] = average_without_english(score_topics(load(get_model_path(folder)), topics, known))
    if (folder / "encoder").exists():
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        held_out = [record["held_out"] for record in records if "held_out" in record][-1]
        for name in ("mmlm", "camlm"):
            perplexities = [values["perplexity"] for values in held_out[name].values()]
            scores[f"{name} perplexity"] = statistics.geometric_mean(perplexities)
    return {name: round(score, 1) for name, score in scores.items()}


def print_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of the scores of all runs, and the differences between four objectives and MMLM only."""
    measures = list(scores[START])
    lines = [["", *measures]]
    for label, row in scores.items():
        lines.append([label, *(f"{row[measure]:.1f}" if measure in row else "-" for measure in measures)])
    print(f"\n{format_columns(lines)}\n")
    alone, together = (scores[label] for label in MIXES)
    for measure in measures:
        print(f"{measure}: {together[measure] - alone[measure]:+.1f} with all four objectives vs. MMLM")


if __name__ == "__main__":
    run(main)
