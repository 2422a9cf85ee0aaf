"""Train in float32, and with products in bfloat16 on a CPU (docs/cpu.md), and compare what the models learn.

    sh scripts/demo.sh                                    # makes the encoder and the pairs for fine-tuning
    .venv/bin/python -m experiments.precision --corpus output/experiments/en-de-fr-tr/corpus

Two runs at a time have a core each. A run is finished when its folder has its results. Writes the figures to
docs/results/precision.json and the picture to docs/images/precision.png, and prints the table.
"""

from utils.environment import run

import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.measure import held_out
from experiments.scores import mean_perplexity
from pretrain.config import OBJECTIVES
from scripts import demo
from scripts.jobs import Job, as_line, carry_out_chains
from training.records import read_records
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.tables import in_markdown

FIGURES = Path("docs/results/precision.json")
PICTURE = Path("docs/images/precision.png")
FLOAT32 = "float32"
BFLOAT16 = "bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16)
# Line styles; the curves lie so close together that one is drawn upon the other.
STYLES = {FLOAT32: {"color": "#99c5ee", "linewidth": 3.0}, BFLOAT16: {"color": "#bb2233", "linewidth": 0.8}}
SEEDS = (1, 2, 3)
LOG_STEPS = 10
FINE_TUNING = "fine-tuning"
PRE_TRAINING = "pre-training"
STEPS = {FINE_TUNING: 400, PRE_TRAINING: 600}
LAST_STEPS = 50  # the final training loss is the mean over these
LOSS = f"loss of the last {LAST_STEPS} steps"
LOGGED = re.compile(r"step: (\d+)/\d+, ave loss: ([\d.]+)")  # the step and the loss in a line of fine-tuning

# training -> precision -> seed -> the `curve` of a run: {"steps", "losses", "final": figure -> value}
Curves = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--corpus", type=Path, required=True, help="of the studies, in four languages")
    parser.add_argument("--output", type=Path, default=Path("output/precision"), help="for the runs")
    args = parser.parse_args(arguments)
    if not (demo.OUTPUT / "camlm" / "encoder").is_dir():
        raise UserError(f"{demo.OUTPUT} has no encoder; make it with sh scripts/demo.sh")
    carry_out_chains(chains(args.output, args.corpus), at_once=2)
    curves = read_curves(args.output)
    with atomic_file(FIGURES) as file:
        file.write(f"{json.dumps(curves)}\n".encode())
    draw(curves, PICTURE)
    print(table(curves))


def chains(output: Path, corpus: Path) -> list[list[Job]]:
    """For each seed and precision a chain of two jobs: fine-tuning and pre-training."""
    all_chains = []
    for seed in SEEDS:
        for precision in PRECISIONS:
            chain = [fine_tuning(output, seed, precision), pre_training(output, corpus, seed, precision)]
            all_chains.append(chain)
    return all_chains


def folder_of(output: Path, training: str, seed: int, precision: str) -> Path:
    """The output folder of a run."""
    return output / f"{training}-{precision}-{seed}"


def fine_tuning(output: Path, seed: int, precision: str) -> Job:
    """The demo's fine-tuning on English inference pairs, tested in all languages."""
    folder = folder_of(output, FINE_TUNING, seed, precision)
    _pre_training, demo_job, _search = demo.jobs_of("camlm", seed)
    flags = {
        "max_steps": STEPS[FINE_TUNING],
        "skip_steps": LOG_STEPS,
        "cpu_bf16": _true_or_false(precision),
        "checkpoints": folder,
    }
    command = [*demo_job.command, *as_line(flags)]  # these come last, so they replace the demo's
    return Job(folder.name, command, folder / "results.json", output=folder.with_suffix(".log"))


def pre_training(output: Path, corpus: Path, seed: int, precision: str) -> Job:
    """The full strategy on real text, from random weights."""
    folder = folder_of(output, PRE_TRAINING, seed, precision)
    flags = {
        "config": "configs/pretrain/real4.yaml",
        "data.corpus": corpus,
        "optimizer.steps": STEPS[PRE_TRAINING],
        "run.log_steps": LOG_STEPS,
        "run.seed": seed,
        "run.cpu_bf16": _true_or_false(precision),
        "run.output": folder,
    }
    command = ["run_pretrain.py", *as_line(flags)]
    result = folder / "encoder" / "model.safetensors"
    return Job(folder.name, command, result, output=folder.with_suffix(".log"))


def _true_or_false(precision: str) -> str:
    """The value of the option cpu_bf16."""
    return "true" if precision == BFLOAT16 else "false"


def read_curves(output: Path) -> Curves:
    """Read the losses and the final figures of all runs."""
    curves: dict[str, dict[str, dict[str, Any]]] = {}
    for training, read in ((FINE_TUNING, read_fine_tuning), (PRE_TRAINING, read_pre_training)):
        curves[training] = {}
        for precision in PRECISIONS:
            folders = {str(seed): folder_of(output, training, seed, precision) for seed in SEEDS}
            curves[training][precision] = {seed: read(folder) for seed, folder in folders.items()}
    return curves


def read_fine_tuning(folder: Path) -> dict[str, Any]:
    """The `curve` of a fine-tuning run, from its log and its results."""
    log = folder.with_suffix(".log").read_text(encoding="utf-8")
    losses = {int(step): float(loss) for step, loss in LOGGED.findall(log)}
    (accuracy_table,) = read_json(folder / "results.json")["tables"]
    scores = accuracy_table["mean"]  # over the seeds of the run, of which there is one
    return curve(losses, {"accuracy, English": scores["en"], "accuracy, ten languages": scores["avg"]})


def read_pre_training(folder: Path) -> dict[str, Any]:
    """The `curve` of a pre-training run, from its metrics.jsonl."""
    metrics = folder / "metrics.jsonl"
    # The other records are those of held-out evaluations.
    losses = {
        record["step"]: round(record["loss"], 4) for record in read_records(metrics) if "loss" in record
    }
    evaluation = held_out(metrics)[-1]
    return curve(losses, {f"perplexity, {name}": mean_perplexity(evaluation, name) for name in OBJECTIVES})


def curve(losses: Mapping[int, float], final: Mapping[str, float]) -> dict[str, Any]:
    """The figures of a run that go to the file of figures.

    Args:
        losses: step -> the mean training loss of the LOG_STEPS steps that end with it.
        final: name -> value at the end of the run.
    """
    logged_losses = list(losses.values())
    count = LAST_STEPS // LOG_STEPS
    figures = {LOSS: float(np.mean(logged_losses[-count:])), **final}
    with_six_digits = {name: float(f"{value:.6g}") for name, value in figures.items()}
    return {"steps": list(losses), "losses": logged_losses, "final": with_six_digits}


def table(curves: Curves) -> str:
    """The final figures: mean of each precision, their difference, and its standard error over the seeds."""
    lines = [["", FLOAT32, BFLOAT16, "difference", "standard error"]]
    for training, of_training in curves.items():
        first_run = next(iter(of_training[FLOAT32].values()))
        for name in first_run["final"]:
            float32 = final_values(of_training[FLOAT32], name)
            bfloat16 = final_values(of_training[BFLOAT16], name)
            difference = bfloat16.mean() - float32.mean()
            error = math.sqrt((float32.var(ddof=1) + bfloat16.var(ddof=1)) / len(float32))
            means = [f"{float32.mean():#.4g}", f"{bfloat16.mean():#.4g}"]
            lines.append([f"{training}: {name}", *means, f"{difference:+#.2g}", f"{error:#.2g}"])
    return in_markdown(lines)


def final_values(by_seed: Mapping[str, Mapping[str, Any]], name: str) -> np.ndarray:
    """One of the final figures, of each seed: [seeds]."""
    return np.array([of_seed["final"][name] for of_seed in by_seed.values()])


def draw(curves: Curves, path: Path) -> None:
    """Draw a panel for each training, with a line for each run, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, (training, of_training) in zip(figure.subplots(1, len(curves)), curves.items()):
        for precision, by_seed in of_training.items():
            for number, of_seed in enumerate(by_seed.values()):
                label = precision if number == 0 else None  # one line of the legend for each precision
                axis.plot(of_seed["steps"], of_seed["losses"], label=label, **STYLES[precision])
        axis.set_title(training, fontsize=9)
        axis.set(xlabel="step", ylabel="training loss")
        axis.legend(fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    run(main)
