"""The ablation of scripts/ablation.sh: the paper's Table 6 with small encoders, on public text.

For each seed, an encoder is trained with MMLM. Each row continues from its checkpoint, with its optimizer and
its position in the text, but with other objectives. All rows take equal steps at equal learning rates, with
as many sequences in a step as give equal tokens. All rows read the same text, because the sides of all pairs
are monolingual text too.

The rows, random weights and static embeddings are evaluated by transfer from English to other languages, by
retrieval among pairs of packages that are not in the text, and by perplexities on held-out text.
"""

from ernie_m.utils.first_import import run

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from statistics import fmean, geometric_mean, stdev
from typing import Any, Literal

import numpy as np

from ernie_m.commands.launch import run_processes
from ernie_m.data.download_text import TABLE
from ernie_m.finetune.retrieval.training_plan import Command, make_search_command
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData, open_corpus
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.run_length import measure_mean_tokens
from ernie_m.training.log import HELD_OUT, METRICS
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.checksums import MANIFEST
from ernie_m.utils.errors import get_install_command, say
from ernie_m.utils.files import atomic_file, read_json
from ernie_m.utils.logging import format_columns
from ernie_m.utils.value_types import PositiveInt

OUTPUT = Path("output/ablation")
XNLI = Path("data/xnli")  # evaluated if it is there
CONFIG = "configs/pretrain/own.yaml"
LANGUAGES = ("de", "es", "fr")  # with English
# Row -> mixing ratios after the common start. As in CONFIG, pairs have 70 %.
ROWS: dict[str, dict[str, float]] = {
    "exp1": {"mmlm": 100},
    "exp2": {"mmlm": 30, "tlm": 70},
    "exp3": {"mmlm": 30, "camlm": 70},
    "exp4": {"mmlm": 15, "btmlm": 15, "camlm": 70},
    "exp5": {"mmlm": 15, "btmlm": 15, "camlm": 35, "tlm": 35},
}
# Scale -> rows, seeds, and tokens that a row is trained on.
SCALES: dict[str, tuple[Sequence[str], Sequence[int], int]] = {
    "quick": (["exp1", "exp4"], [1], 10_000_000),  # exp4 is the mix of CONFIG
    "night": ([*ROWS], [1, 2, 3], 30_000_000),
}
# Column -> row of sweep.json. The even pairs select the layer, the odd ones score it.
SEARCHES = {"retrieval": "chosen, odd pairs", "centered": "centered, chosen, odd pairs"}
PERPLEXITIES = ("mmlm", "tlm", "camlm")
LEGEND = """
transfer, XNLI: accuracy in the other languages of a classifier trained on English
retrieval: accuracy@1 at the layer that the other half of the pairs selects; centered: without language means
mmlm, tlm, camlm: perplexity on held-out text
±: standard error over seeds; that of one accuracy of 30 % on 1,000 pairs is 1.4
"""


@dataclass
class AblationFlags:
    """Options of scripts/ablation.sh --scale quick and night."""

    scale: Literal["quick", "night"]
    """Rows, seeds and tokens to train."""

    tokens: PositiveInt | None = option(None, needed=True)
    """Approximate number of tokens that a row is trained on (default: that of the scale)."""


def main() -> None:
    flags = parse_options(AblationFlags, None, __name__)
    rows, seeds, total_tokens = SCALES[flags.scale]
    say("ablation: after Ctrl-C, run the same command to resume")

    # Text, vocabulary, corpus.
    text = OUTPUT / "text"
    vocab = OUTPUT / "vocab" / "piece.model"
    corpus = OUTPUT / "corpus"
    run_commands(Command("download public text", ["download", "text", text, *LANGUAGES], text / TABLE))
    sources = [
        word
        for path in sorted((text / "train").iterdir())
        for word in ("--mono" if path.suffix == ".txt" else "--parallel", f"{path.stem}<={path}")
    ]
    words = ["train_vocab", "--output", vocab.parent, "--vocab_size", 8000, "--hard_vocab_limit", "false"]
    run_commands(Command("train a vocabulary", [*words, *sources], vocab))
    words = ["build_corpus", "--output", corpus, "--piece_model_path", vocab]
    run_commands(Command("build a corpus", [*words, *sources], corpus / MANIFEST))

    # Equal steps for all rows. Pairs are longer than sentences, so a step has fewer of them.
    config = parse_options(PretrainConfig, ["--config", CONFIG, "--data.corpus", str(corpus)])
    tokens = {row: measure_tokens(config, ROWS[row]) for row in rows}  # of as many texts or pairs
    steps = round((flags.tokens or total_tokens) / tokens["exp1"])

    # The start of each seed, and the rows from there. A run of one step writes the initial weights.
    runs = OUTPUT / f"steps-{steps}"
    last_step = round(config.objectives.later_start * steps)
    last = f"checkpoints/step_{last_step}"
    length = {"optimizer.steps": steps, "run.eval_steps": math.ceil(steps / 10)}
    run_commands(
        *(
            plan_pretraining(runs, "start", seed, {**length, "run.stop_after_steps": last_step}, last)
            for seed in seeds
        )
    )
    words = ["train", text / "train", "--output", OUTPUT / "static"]
    trainings = [Command("train static embeddings", words, OUTPUT / "static/retrieval.json")]
    for seed in seeds:
        trainings.append(plan_pretraining(runs, "random", seed, {"optimizer.steps": 1}))
        for row in rows:
            later = {
                **length,
                "init.checkpoint": runs / f"start-{seed}" / last,
                "optimizer.batch_size": round(config.optimizer.batch_size * tokens["exp1"] / tokens[row]),
            }
            trainings.append(plan_pretraining(runs, row, seed, later))
    run_commands(*trainings)

    # Evaluation of all models.
    models = {"static": [OUTPUT / "static"]}
    models |= {row: [runs / f"{row}-{seed}" for seed in seeds] for row in ("random", *rows)}
    tasks = {"transfer": text / "packages"} | ({"XNLI": XNLI} if XNLI.exists() else {})
    folders = [*chain.from_iterable(models.values())]
    run_commands(*(plan_search(folder, text) for folder in folders))
    run_commands(*(plan_fine_tuning(folder, name, tasks[name]) for name in tasks for folder in folders))
    scores = {row: [read_scores(folder, tasks) for folder in models[row]] for row in models}
    print_table(scores)
    say(json.dumps({"scale": flags.scale, "steps": steps, "tokens": round(steps * tokens["exp1"]), **scores}))
    if find_spec("matplotlib"):
        plot(runs, rows, seeds, tokens["exp1"])
    else:
        say(f"no plot: it requires matplotlib ({get_install_command('plot')})")


def run_commands(*commands: Command) -> None:
    """Run unfinished commands, as many at a time as there are cores, and show the output of the first one.

    If a command fails, those beside it are stopped, and this script exits with its exit code. The next run
    resumes them.
    """
    unfinished = [command for command in commands if not command.result.exists()]
    cores = len(os.sched_getaffinity(0))
    for first in range(0, len(unfinished), cores):
        group = unfinished[first : first + cores]
        say(*(f"\n{command.purpose}\n  {command}" for command in group))
        code = run_processes(
            [[sys.executable, "-m", "ernie_m", *map(str, command.words)] for command in group],
            [{}] * len(group),
            OUTPUT / "log",
        )
        if code or not all(command.result.exists() for command in group):
            say("stopped; run the same command to resume", file=sys.stderr)
            sys.exit(code)


def measure_tokens(config: PretrainConfig, mix: dict[str, float]) -> float:
    """Measure the mean number of tokens of a step with these mixing ratios."""
    objectives = replace(config.objectives, mixing_ratios=mix, later_mixing_ratios={}, btmlm_start=0.0)
    corpus, tokenizer = open_corpus(config.data)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    text = TrainingData.from_corpus(corpus, vocabulary, replace(config, objectives=objectives))
    batch_size = config.optimizer.batch_size
    return measure_mean_tokens(text, batch_size, config.run.micro_batch_tokens, config.run.seed)


def plan_pretraining(
    runs: Path, row: str, seed: int, changes: Mapping[str, object], result: str = f"encoder/{MANIFEST}"
) -> Command:
    """Return the command that pretrains an encoder with CONFIG.

    Args:
        runs: parent of the output directory.
        row: a row of `ROWS`, or a run that trains MMLM.
        changes: further options.
        result: the file or directory that the command writes last.
    """
    folder = runs / f"{row}-{seed}"
    options = {
        "config": CONFIG,
        "data.corpus": OUTPUT / "corpus",
        "run.output": folder,
        "run.seed": seed,
        "optimizer.tokens": 0,
        "objectives.mixing_ratios": json.dumps(ROWS.get(row, ROWS["exp1"])),
        "objectives.later_mixing_ratios": "{}",
        **changes,
    }
    return make_command(f"train {folder.name}", "run_pretrain", options, folder / result)


def make_command(purpose: str, name: str, options: Mapping[str, object], result: Path) -> Command:
    """Return a command of `ernie-m` with options."""
    return Command(purpose, [name, *chain(*((f"--{key}", value) for key, value in options.items()))], result)


def get_model_path(folder: Path) -> Path:
    """Return the path of the trained model in an output directory."""
    return folder / ("best" if folder.name == "static" else "encoder")


def plan_search(folder: Path, text: Path) -> Command:
    """Return the command that evaluates retrieval among held-out pairs with a model."""
    flags = {"init_pretraining_params": get_model_path(folder), "layer": "sweep"}
    search = make_search_command(f"evaluate retrieval with {folder.name}", text, folder / "search", flags)
    return search._replace(result=folder / "search" / "sweep.json")


def plan_fine_tuning(folder: Path, name: str, task: Path) -> Command:
    """Return the command that fine-tunes a model on English, and tests it in all languages.

    Args:
        name: name of the task.
        task: its data, in the layout of data/xnli.
    """
    labels = task / "label_map.json"
    options = {
        "init_pretraining_params": get_model_path(folder),
        "train_set": task / "train/train.en.tsv",
        "dev_set": task / "test/test.%s.tsv",
        "do_test": "false",
        "label_map_config": labels,
        "lang_map_config": task / "lang_map.json",
        "num_labels": len(read_json(labels)),
        "max_seq_len": 128,
        "select_on": "last",
        "auto_hyperparameters": "true",
        "checkpoints": folder / name,
    }
    if folder.name == "static":  # almost only the head, so that English does not leave the other languages
        options |= {"learning_rate": 3e-2, "layerwise_lr_decay": 1e-4}
    return make_command(
        f"fine-tune {folder.name} for {name}", "run_classifier", options, folder / name / "results.json"
    )


def read_scores(folder: Path, tasks: Iterable[str]) -> dict[str, float]:
    """Return the scores of a model: accuracies in %, means over languages without English, and perplexities.

    Static embeddings have no perplexities, and no language means for centering.
    """
    scores = {}
    for name in tasks:
        accuracies = read_json(folder / name / "results.json")["tables"][0]["mean"]
        scores[name] = fmean(accuracies[language] for language in LANGUAGES)
    found = read_json(folder / "search" / "sweep.json")["rows"]
    scores |= {name: fmean(found[row].values()) for name, row in SEARCHES.items() if row in found}
    if folder.name != "static":
        scores |= {name: compute_perplexity(read_evaluations(folder)[-1], name) for name in PERPLEXITIES}
    return scores


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluations in metrics.jsonl of a run."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if HELD_OUT in record]


def compute_perplexity(evaluation: Mapping[str, Any], objective: str) -> float:
    """Compute the geometric mean of the perplexities of all languages or language pairs."""
    return geometric_mean(scores["perplexity"] for scores in evaluation[HELD_OUT][objective].values())


def compute_accuracy(evaluation: Mapping[str, Any]) -> float:
    """Compute the mean accuracy@1 of retrieval at the last layer over all language pairs, in %."""
    return 100 * fmean(layers[-1] for layers in evaluation[HELD_OUT]["retrieval"].values())


def print_table(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print the means over seeds and their standard errors.

    Args:
        scores: row -> the scores of each seed.
    """
    measures = list(scores["exp1"][0])
    lines = [["", *measures]]
    for row, of_seeds in scores.items():
        lines.append(
            [
                " ".join([row, *ROWS.get(row, ())]),
                *(format_mean([seed[name] for seed in of_seeds if name in seed]) for name in measures),
            ]
        )
    say(LEGEND, format_columns(lines), "")


def format_mean(values: Sequence[float]) -> str:
    """Format the mean of the values of several seeds, with its standard error."""
    error = f" ± {stdev(values) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{error}" if values else "-"


def plot(runs: Path, rows: Iterable[str], seeds: Sequence[int], tokens: float) -> None:
    """Plot retrieval and perplexity on held-out text over tokens, means over seeds, to curves.svg in `runs`.

    Args:
        tokens: number of tokens of a step.
    """
    from matplotlib.figure import Figure  # imported here, because it is optional

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    curves = {
        "accuracy@1 of retrieval at the last layer, %": compute_accuracy,
        "perplexity of MMLM": partial(compute_perplexity, objective="mmlm"),
    }
    for axes, (name, compute) in zip(figure.subplots(1, 2), curves.items()):
        axes.set(xlabel="tokens", ylabel=name)
        for row in rows:
            of_seeds = [
                [*read_evaluations(runs / f"start-{seed}"), *read_evaluations(runs / f"{row}-{seed}")]
                for seed in seeds
            ]
            axes.plot(
                [tokens * evaluation["step"] for evaluation in of_seeds[0]],
                np.mean([[compute(evaluation) for evaluation in one] for one in of_seeds], axis=0),
                label=row,
            )
    axes.legend()
    with atomic_file(runs / "curves.svg") as file:
        figure.savefig(file, format="svg")
    say(f"plot: {runs / 'curves.svg'}")


if __name__ == "__main__":
    run(main)
