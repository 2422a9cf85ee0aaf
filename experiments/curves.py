"""Learning curves of runs, and the scores of trainings after them: as JSON, in tables and in a chart.

    python -m experiments.curves --add output/a --languages "en, fr, zh" --name "head start" \\
        --changed "init.head_start true" --tokens 10000000 \\
        --then "['all pairs, 3e-3<=output/pairs-a']"
    python -m experiments.curves

The first takes the figures of a run, and of trainings that start from its encoder, into
docs/results/head_start.json. Both write docs/results/head_start.md and docs/images/head_start.png from it.
"""

from utils.environment import run

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.scores import mean_perplexity
from training.records import read_records
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.tables import in_markdown

FIGURES = Path("docs/results/head_start.json")
CHART = Path("docs/images/head_start.png")
BIN = 250_000  # tokens over which the losses of the training are averaged
OBJECTIVES = ("mmlm", "camlm")
AT_MILLIONS = (0.5, 1, 1.5, 2, 3)
TITLE = "The first million tokens"
ABOUT = """`own.yaml` on the text of [pretraining.md](../pretraining.md#your-own-text): MMLM's loss in
training, in nats, over the quarter of a million tokens before, and the perplexities of held-out text at the
end. Runs without these were stopped before. Words learn at the full rate if no other is named."""
ABOUT_AFTER = """The scores after a training that starts from the run's encoder: the mean over the seeds, with
each of them in brackets. Of pairs, the translations found among 1,000 (NTREX: 1,997), per cent: the mean of
both directions and of the languages other than English. Otherwise the score in each language, per cent: F1 of
PAN-X, trained on English. "Untrained" is the start itself."""
CHART_LANGUAGES = "en, de, tr"


@dataclass
class CurvesFlags:
    """Without flags the table and the chart are written; with --add a run is added to the figures first."""

    add: str = ""
    """The output folder of run_pretrain.py."""

    languages: str = CHART_LANGUAGES
    """Of the corpus. The chart has the runs with the default."""

    name: str = ""
    """Runs of one name differ in their seed."""

    changed: str = ""
    """What the run changes in own.yaml."""

    seed: int = 1
    tokens: int = 0
    """Of its schedule; it may have been stopped before."""

    then: list[str] = field(default_factory=list)
    """about<=folder: the output of a training that started from this run's encoder. Earlier ones stay."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(CurvesFlags, arguments, __doc__)
    runs = read_json(FIGURES) if FIGURES.is_file() else []
    if flags.add:
        if not flags.name:
            raise UserError("--add needs --name, the name of the run")
        added = figures_of(flags)
        others = []
        for of_run in runs:
            if all(of_run[key] == added[key] for key in ("languages", "name", "seed")):
                added["after"] = of_run["after"] | added["after"]
            else:
                others.append(of_run)
        runs = sorted(
            [*others, added], key=lambda of_run: [of_run[key] for key in ("languages", "name", "seed")]
        )
        with atomic_file(FIGURES, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(of_run) for of_run in runs) + "\n]\n")
    with atomic_file(FIGURES.with_suffix(".md"), "w") as file:
        file.write(page(runs))
    draw(runs)


def figures_of(flags: CurvesFlags) -> dict[str, Any]:
    """The figures of one run as JSON values."""
    tokens_of_step = {}
    losses: dict[str, dict[int, list[float]]] = {objective: {} for objective in OBJECTIVES}
    held_out = []
    for record in read_records(Path(flags.add, "metrics.jsonl")):
        if "held_out" in record:
            evaluation = {"tokens": tokens_of_step[record["step"]]}
            for objective in OBJECTIVES:
                evaluation[objective] = mean_perplexity(record["held_out"], objective)
            frequencies = mean_perplexity(record["held_out"], "mmlm", "frequency_perplexity")
            if not math.isnan(frequencies):  # it is, in records of earlier revisions
                evaluation["frequencies"] = frequencies
            held_out.append(evaluation)
            continue
        tokens_of_step[record["step"]] = record["tokens"]
        for objective in OBJECTIVES:
            if objective in record:
                of_bin = losses[objective].setdefault(math.ceil(record["tokens"] / BIN), [])
                of_bin.append(record[objective]["loss"])
    training = {
        objective: [[number * BIN, round(float(np.mean(values)), 4)] for number, values in of_bins.items()]
        for objective, of_bins in losses.items()
    }
    result = {"languages": flags.languages, "name": flags.name, "changed": flags.changed, "seed": flags.seed}
    result |= {"tokens": flags.tokens, "training": training, "held_out": held_out, "after": {}}
    for item in flags.then:
        about, arrow, folder = item.partition("<=")
        if not (about and arrow and folder):
            raise UserError(f"--then '{item}': give about<=folder, in quotation marks if it has a comma")
        result["after"][about] = scores_of(Path(folder))
    return result


def scores_of(folder: Path) -> dict[str, float]:
    """The scores of a finished training, by measure if translations were searched, otherwise by language."""
    if not (folder / "retrieval.json").is_file():
        of_metric = read_json(folder / "results.json")["tables"][0]["mean"]
        return {language: score for language, score in of_metric.items() if language not in ("avg", "gap")}
    by_measure = {}
    for table in read_json(folder / "retrieval.json")["tables"]:
        for measure in ("cosine", "margin"):
            if table["title"].startswith(f"mean of both directions, {measure}"):
                by_measure[measure] = table["mean"]["avg"]
    return by_measure


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The tables of all runs, in Markdown: losses in nats, and the scores after other trainings."""
    losses = [f"at {millions} million" for millions in AT_MILLIONS]
    curves = [["languages", "run", "changed", "seed", "million tokens", *losses, "MMLM", "CAMLM"]]
    after: dict[tuple[str, ...], dict[str, list[float]]] = {}  # row -> measure or language -> scores by seed
    for of_run in runs:
        languages, name = of_run["languages"], of_run["name"]
        tokens, values = np.array(of_run["training"]["mmlm"]).reshape(-1, 2).T
        cells = []
        for millions in AT_MILLIONS:
            at = np.flatnonzero(tokens == 1e6 * millions)
            cells.append(f"{values[at[0]]:.3f}" if len(at) else "")
        end: dict[str, float] = of_run["held_out"][-1] if of_run["held_out"] else {}
        perplexities = [f"{end[objective]:.0f}" if end else "" for objective in OBJECTIVES]
        if of_run["tokens"]:
            about_run = [name, of_run["changed"], str(of_run["seed"]), f"{of_run['tokens'] / 1e6:g}"]
            curves.append([languages, *about_run, *cells, *perplexities])
        for about, scores in of_run["after"].items():
            for key, score in scores.items():
                after.setdefault((languages, about, name), {}).setdefault(key, []).append(score)
    table = [["languages", "training", "run", "scores"]]
    for row, scores_by_key in sorted(after.items()):
        texts = []
        for key, scores in scores_by_key.items():
            of_seeds = f" ({', '.join(f'{score:.1f}' for score in scores)})" if len(scores) > 1 else ""
            texts.append(f"{key} {np.mean(scores):.1f}{of_seeds}")
        table.append([*row, "; ".join(texts)])
    return f"# {TITLE}\n\n{ABOUT}\n\n{in_markdown(curves)}\n\n{ABOUT_AFTER}\n\n{in_markdown(table)}\n"


def draw(runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the training loss of each objective by tokens, a curve for each run, a colour for each name.

    Only runs with the text of `CHART_LANGUAGES` are drawn.
    """
    runs = [of_run for of_run in runs if of_run["languages"] == CHART_LANGUAGES]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    names = list(dict.fromkeys(of_run["name"] for of_run in runs if of_run["tokens"]))
    evaluations = [evaluation for of_run in runs for evaluation in of_run["held_out"]]
    # All runs have one corpus, and with it the same frequencies.
    frequencies = [evaluation["frequencies"] for evaluation in evaluations if "frequencies" in evaluation]
    for axis, objective in zip(figure.subplots(1, len(OBJECTIVES), sharey=True), OBJECTIVES):
        for of_run in runs:
            if not of_run["tokens"]:
                continue
            curve = np.array(of_run["training"][objective]).reshape(-1, 2)
            color = f"C{names.index(of_run['name'])}"
            is_first = of_run["seed"] == min(
                other["seed"] for other in runs if other["name"] == of_run["name"]
            )
            label = of_run["name"] if is_first and len(curve) else None
            axis.plot(curve[:, 0] / 1e6, curve[:, 1], color=color, label=label)
        if frequencies:
            label = "frequencies of the pieces"
            axis.axhline(math.log(frequencies[0]), color="grey", linestyle=":", label=label)
        axis.set_ylim(4.9, 7.1)
        axis.set_title(f"{objective.upper()}: loss in training, by million tokens", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7)
    with atomic_file(CHART) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    run(main)
