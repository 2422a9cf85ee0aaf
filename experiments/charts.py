"""The chart of a study: mean scores of its models with their errors, or curves of BTMLM's perplexity."""

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
# Measure that is drawn -> title of its panel. Retrieval among 1,000 pairs is in the tables only.
MEASURES = {
    "retrieval 300": "Retrieval, 300 pairs (%)",
    "retrieval 300 centred": "Retrieval, 300 pairs, centred (%)",
    "retrieval 300 centred margin": "Retrieval, 300 pairs, centred, by margin (%)",
    "xnli": "XNLI, accuracy (%), without en",
    "ner": "PAN-X, F1 (%), without en",
}


def draw(study: Study, figures: Figures, path: Path) -> None:
    """Draw a panel for each measure of at least two models, or for each of `CURVES` if the study has curves.

    The file is a PNG.
    """
    panels = CURVES if study.curves else measures_to_draw(figures)
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    axes = np.ravel(figure.subplots(1, len(panels), sharey=not study.curves))  # names only at the left
    for axis, (key, title) in zip(axes, panels.items()):
        if study.curves:
            draw_curves(axis, figures, key)
        else:
            lines = study.lines or {"": {label_of(study, model): model for model in figures}}
            draw_scores(axis, lines, Scores(figures, key))
        if study.curves or study.lines:
            axis.legend(fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def measures_to_draw(figures: Figures) -> dict[str, str]:
    """Those of `MEASURES` that at least two models have, or the only model."""
    fewest = min(2, len(figures))
    return {key: title for key, title in MEASURES.items() if len(Scores(figures, key).models) >= fewest}


def label_of(study: Study, model: str) -> str:
    """The model's name, behind its objectives if the study names these: "MMLM, CAMLM (exp3)"."""
    trained = study.models.get(model)  # None: random weights, which no study trains
    if trained is None or "objectives.active" not in trained.flags:
        return model
    objectives = trained.flags["objectives.active"]
    return f"{', '.join(objectives).upper()} ({model})"


def draw_scores(axis: Axes, lines: Mapping[str, Mapping[str, str]], scores: Scores) -> None:
    """Points at the mean scores with their errors, one below the other; a line connects those of one name.

    Args:
        lines: name of a line, "" for points alone -> label of a point -> model. Models without the measure
            are left out.
    """
    for name, models in lines.items():
        means = []
        errors = []
        for model in models.values():
            has_measure = model in scores.cells
            seeds = scores.cells.get(model, ())
            means.append(np.mean([scores.mean(model, seed) for seed in seeds]) if has_measure else np.nan)
            errors.append(scores.error(model) if has_measure else np.nan)
        axis.errorbar(
            means, range(len(models)), xerr=errors, capsize=3, fmt="o-" if name else "o", label=name
        )
        axis.set_yticks(range(len(models)), list(models))
        axis.set_ylim(len(models) - 0.5, -0.5)  # bottom and top: the first model is at the top


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
