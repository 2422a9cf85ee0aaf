"""The chart of a study: bars or lines of mean scores, or curves of BTMLM's perplexity."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.scores import Figures, Scores, mean_perplexity
from experiments.study import Study
from utils.files import atomic_file

# Key of a held-out evaluation of BTMLM -> title of its panel.
CURVES = {"perplexity": "BTMLM perplexity by step", "perplexity_without": "without pseudo-tokens"}
# Where retrieval is measured in all three ways, its figures among 1,000 pairs are in the tables only.
NOT_DRAWN_BESIDE_CENTRED = ("retrieval 1000", "retrieval 1000 centred", "retrieval 1000 centred margin")


def draw(study: Study, figures: Figures, titles: Mapping[str, str], path: Path) -> None:
    """Draw a panel for each measure of `titles`, or for each of `CURVES` if the study has curves, as PNG.

    Args:
        titles: measure -> title.
    """
    scores: dict[str, Scores] = {}
    if study.curves:
        panels = CURVES
    else:
        scores = scores_to_draw(figures, titles)
        panels = {measure: titles[measure] for measure in scores}
    has_bars = not study.curves and not study.lines
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    axes = np.ravel(figure.subplots(1, len(panels), sharey=has_bars))  # the models' names only at the left
    for axis, (panel, title) in zip(axes, panels.items()):
        if study.curves:
            draw_curves(axis, figures, panel)
        elif study.lines:
            draw_lines(axis, study.lines, scores[panel])
        else:
            draw_bars(axis, scores[panel], {model: label_of(study, model) for model in figures})
        if panel in scores and "en" in scores[panel].languages:
            title += ", without en"  # the mean that is drawn leaves English out
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        if not has_bars:
            axis.legend(fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def scores_to_draw(figures: Figures, titles: Mapping[str, str]) -> dict[str, Scores]:
    """Measure -> its scores, for the measures that at least two models have, or the only model."""
    fewest_models = min(2, len(figures))
    scores = {}
    for measure in titles:
        of_measure = Scores(figures, measure)
        if len(of_measure.models) >= fewest_models:
            scores[measure] = of_measure
    if "retrieval 300 centred" in scores:
        for measure in NOT_DRAWN_BESIDE_CENTRED:
            scores.pop(measure, None)
    return scores


def label_of(study: Study, model: str) -> str:
    """The model's name, behind its objectives if the study names these: "MMLM, CAMLM (exp3)"."""
    trained = study.models.get(model)  # None: random weights, which no study trains
    if trained is None or "objectives.active" not in trained.flags:
        return model
    objectives = trained.flags["objectives.active"]
    return f"{', '.join(objectives).upper()} ({model})"


def draw_bars(axis: Axes, scores: Scores, labels: Mapping[str, str]) -> None:
    """A bar with its error for each model that has the measure, the first model at the top.

    Args:
        labels: model -> what stands beside its bar.
    """
    for number, model in enumerate(labels):
        if model in scores.cells:
            axis.barh(number, _mean(scores, model), xerr=scores.error(model), capsize=3, color=f"C{number}")
    axis.set_yticks(range(len(labels)), list(labels.values()))
    axis.set_ylim(len(labels) - 0.5, -0.5)  # bottom and top: the numbers grow downwards


def draw_lines(axis: Axes, lines: Mapping[str, Mapping[str, str]], scores: Scores) -> None:
    """Lines through the mean scores of models, with their errors.

    Args:
        lines: name of a line -> label on the axis -> model. Models without the measure are left out.
    """
    for name, models in lines.items():
        labels = [label for label, model in models.items() if model in scores.cells]
        means = [_mean(scores, models[label]) for label in labels]
        errors = [scores.error(models[label]) for label in labels]
        axis.errorbar(labels, means, yerr=errors, capsize=3, marker="o", label=name)


def draw_curves(axis: Axes, figures: Figures, key: str) -> None:
    """A curve for each model and seed, in a colour for each model; models without BTMLM have none.

    Args:
        key: one of CURVES.
    """
    for number, (model, by_seed) in enumerate(figures.items()):
        for seed, values in by_seed.items():
            steps = [evaluation["step"] for evaluation in values["held_out"]]
            perplexities = [mean_perplexity(evaluation, "btmlm", key) for evaluation in values["held_out"]]
            has_btmlm = not np.isnan(perplexities[-1])
            is_first_seed = seed == min(by_seed)
            label = model if has_btmlm and is_first_seed else None  # one line of the legend for each model
            axis.plot(steps, perplexities, color=f"C{number}", label=label)


def _mean(scores: Scores, model: str) -> float:
    """A model's mean score over the languages and the seeds."""
    return float(np.mean([scores.mean(model, seed) for seed in scores.cells[model]]))
