"""The tables and charts of a study, from the figures of its finished models.

    python -m experiments.tables table6
    python -m experiments.tables table6 output/ablation    # of scripts/base/ablation.sh

It writes docs/results/<study>.md and docs/images/<study>.png. experiments/scores.py says what the errors are.
"""

from utils.environment import run

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments import charts
from experiments.scores import Difference, Figures, Scores, contrast_of, difference_of, mean_perplexity
from experiments.study import UNTRAINED, Study
from experiments.three_ways import CENTRED_WAYS, PLAIN
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.tables import in_markdown

RESULTS = Path("docs/results")
IMAGES = Path("docs/images")
# Measure -> title of its table.
TITLES = {
    "retrieval 300": "Retrieval, 300 pairs (%)",
    "retrieval 300 centred": "Retrieval, 300 pairs, centred (%)",
    "retrieval 300 centred margin": "Retrieval, 300 pairs, centred, by margin (%)",
    "retrieval 1000": "Retrieval, 1,000 pairs (%)",
    "retrieval 1000 centred": "Retrieval, 1,000 pairs, centred (%)",
    "retrieval 1000 centred margin": "Retrieval, 1,000 pairs, centred, by margin (%)",
    "xnli": "XNLI, accuracy (%)",
    "ner": "PAN-X, F1 (%)",
}
# Measure -> column of the table that has all differences.
SUMMARY = {
    "retrieval 300": "retrieval",
    "retrieval 300 centred": "centred",
    "retrieval 300 centred margin": "centred, margin",
    "xnli": "XNLI",
    "ner": "PAN-X",
}
# Measure -> column of the paper's differences.
OF_PAPER = {"xnli": "paper (XNLI)", "ner": "paper (CoNLL)"}
# Column of the table of held-out text -> objective, and key of its figures.
PERPLEXITIES = {
    "mmlm": ("mmlm", "perplexity"),
    "tlm": ("tlm", "perplexity"),
    "camlm": ("camlm", "perplexity"),
    "btmlm": ("btmlm", "perplexity"),
    "btmlm without pseudo-tokens": ("btmlm", "perplexity_without"),
}
# The same for the columns of BTMLM's pseudo-tokens.
RATES = {
    "in the translation": ("btmlm", "precision"),
    "the most frequent words instead": ("btmlm", "frequent_precision"),
    "copied from the sentence": ("btmlm", "copy_rate"),
    "repeated": ("btmlm", "repeat_rate"),
}


def read_figures(study: Study, results: Path) -> Figures:
    """The figures of the finished models, the untrained one first.

    Raises:
        UserError: no model has finished.
    """
    figures: dict[str, dict[int, Mapping]] = {}
    for name in (UNTRAINED, *study.models):
        for seed in study.seeds:
            path = study.figures_file(results, name, seed)
            if path.is_file():
                figures.setdefault(name, {})[seed] = read_json(path)
    if not figures:
        raise UserError(f"{results / study.name}: no figures; run python -m experiments.run {study.name}")
    return figures


def as_text(study: Study, figures: Figures) -> str:
    """All tables of a study in Markdown."""
    counts = ", ".join(f"{model} {len(by_seed)}" for model, by_seed in figures.items())
    sections = []
    about = [f"- {model.name}: {model.about}" for model in study.models.values() if model.about]
    if about:
        sections.append("\n".join(about))
    sections.append(f"Seeds: {counts}.")
    fewest_models = min(2, len(figures))  # that have a measure, if it is to have a table
    measured_three_ways = any("layers" in values for values in _values(figures))
    chosen_on_half = any("half" in values for values in _values(figures))  # the layer, in earlier studies
    if measured_three_ways and (study.compare or study.contrasts):
        sections.append("**Differences, paired by seed (bold: more than two standard errors)**")
        sections.append(summary_table(study, figures))
    for measure, title in TITLES.items():
        scores = Scores(figures, measure)
        if len(scores.models) < fewest_models:
            continue
        sections += [f"**{title}**", score_table(scores)]
        differences = scores.differences(rows_of(study))
        if differences:
            paper_scores = study.paper.get(measure, {})  # model -> score; empty if the paper has none
            sections.append(difference_table(differences, measure, paper_scores))
    if measured_three_ways:
        sections.append("**Layers chosen on held-out pairs, by seed**")
        sections.append(layer_table(figures))
        sections.append("**Sentences whose language is that of the nearest language mean, by layer (%)**")
        sections.append(named_table(figures))
    elif chosen_on_half:
        sections.append("**Retrieval, 300 pairs, the layer chosen on one half (%)**")
        sections.append(half_table(figures))
    held_out = "Held-out text, at the end: perplexity by objective, and shares of BTMLM's pseudo-tokens (%)"
    sections += [f"**{held_out}**", held_out_table(figures)]
    return "\n\n".join(sections) + "\n"


def rows_of(study: Study) -> dict[str, Mapping[str, float]]:
    """The differences and contrasts of a study, as `Scores.differences` takes them: label -> weights."""
    rows = {}
    for a, b in study.compare:
        rows |= difference_of(a, b)
    for label, (minuend, subtrahend) in study.contrasts.items():
        rows |= contrast_of(label, minuend, subtrahend)
    return rows


def score_table(scores: Scores) -> str:
    """A row for each model: the mean over the seeds in every language, then over the languages."""
    last_column = "mean" if scores.averaged == scores.languages else "mean without en"
    lines = [["model", *scores.languages, last_column]]
    for model, by_seed in scores.cells.items():
        line = [model]
        for language in scores.languages:
            line.append(f"{np.mean([scores.score(model, seed, language) for seed in by_seed]):.1f}")
        mean = np.mean([scores.mean(model, seed) for seed in by_seed])
        line.append(with_error(f"{mean:.1f}", scores.error(model)))
        lines.append(line)
    return in_markdown(lines)


def difference_table(differences: Sequence[Difference], measure: str, paper: Mapping[str, float]) -> str:
    """A row for each difference, with the verdict and, if there are scores of the paper, its difference.

    Args:
        paper: model -> the score in the paper's table.
    """
    lines = [["", "difference", "verdict"]]
    if paper:
        lines[0].append(OF_PAPER[measure])
    for difference in differences:
        cell = with_error(f"{difference.mean:+.1f}", difference.error)
        line = [difference.label, cell, difference.verdict]
        if paper:
            of_paper = sum(weight * paper[model] for model, weight in difference.weights.items())
            line.append(f"{of_paper:+.1f}")
        lines.append(line)
    return in_markdown(lines)


def summary_table(study: Study, figures: Figures) -> str:
    """A row for each difference that some measure has, and a column for each measure."""
    lines = [["", *SUMMARY.values()]]
    rows = rows_of(study)
    columns = []  # for each measure: label -> difference
    for measure in SUMMARY:
        differences = Scores(figures, measure).differences(rows)
        columns.append({difference.label: difference for difference in differences})
    for label in rows:
        cells = [_summary_cell(column.get(label)) for column in columns]
        if any(cells):
            lines.append([label, *cells])
    return in_markdown(lines)


def _summary_cell(difference: Difference | None) -> str:
    """The difference with its error, in bold if it is significant; "" if it was not measured."""
    if difference is None:
        return ""
    cell = with_error(f"{difference.mean:+.1f}", difference.error)
    return f"**{cell}**" if difference.is_significant else cell


def layer_table(figures: Figures) -> str:
    """A row for each model: the layer of each way of measuring, seed by seed."""
    ways = (PLAIN, *CENTRED_WAYS)
    lines = [["model", *ways]]
    for model, by_seed in figures.items():
        layers_by_seed = [values["layers"] for values in by_seed.values() if "layers" in values]
        if layers_by_seed:
            line = [model]
            for way in ways:
                line.append(", ".join(str(layers[way]) for layers in layers_by_seed))
            lines.append(line)
    return in_markdown(lines)


def named_table(figures: Figures) -> str:
    """A row for each model, and a column for each layer, 0 to L, of `three_ways.named_languages`.

    A cell has the share of sentences that are nearest to the mean of their language, averaged over languages
    and seeds.
    """
    lines = []
    for model, by_seed in figures.items():
        shares = []  # of each seed and language, [L + 1]
        for values in by_seed.values():
            for of_language in values.get("named", {}).values():
                shares.append(np.array(of_language["right"]) / of_language["sentences"])
        if shares:
            means = np.mean(shares, axis=0)  # [L + 1]
            lines.append([model, *(f"{100 * share:.1f}" for share in means)])
    columns = len(lines[0]) - 1  # without that of the model
    layers = [str(layer) for layer in range(columns)]
    return in_markdown([["model", *layers], *lines])


def half_table(figures: Figures) -> str:
    """A row for each model and seed, from the key "half" of figures of earlier revisions.

    A cell has the accuracy on the half of the pairs that did not choose the layer, among 150 candidates.
    """
    lines = []
    languages: list[str] = []
    for model, by_seed in figures.items():
        for seed, values in by_seed.items():
            if "half" not in values:
                continue
            half = values["half"]  # language -> [score, standard error]
            languages = list(half)  # the same in all rows
            cells = [with_error(f"{score:.1f}", error) for score, error in half.values()]
            mean = np.mean([score for score, _ in half.values()])
            error_of_mean = math.sqrt(sum(error**2 for _, error in half.values())) / len(half)
            cells.append(with_error(f"{mean:.1f}", error_of_mean))
            lines.append([f"{model}, seed {seed}", *cells, str(values["layer"])])
    return in_markdown([["model", *languages, "mean", "layer of the tables above"], *lines])


def held_out_table(figures: Figures) -> str:
    """A row for each model: perplexities (geometric means over seeds), and rates of BTMLM's pseudo-tokens."""
    lines = [["model", *PERPLEXITIES, *RATES]]
    for model, by_seed in figures.items():
        # The last evaluation of each seed.
        evaluations = [values["held_out"][-1] for values in by_seed.values() if values.get("held_out")]
        if not evaluations:
            continue
        line = [model]
        for objective, key in PERPLEXITIES.values():
            logs = [math.log(mean_perplexity(evaluation, objective, key)) for evaluation in evaluations]
            line.append(_or_empty(math.exp(np.mean(logs))))
        for objective, key in RATES.values():
            rates = []  # of each seed and language pair
            for evaluation in evaluations:
                rates += [of_pair[key] for of_pair in evaluation.get(objective, {}).values()]
            line.append(_or_empty(100 * np.mean(rates) if rates else math.nan))
        lines.append(line)
    return in_markdown(lines)


def with_error(mean: str, error: float) -> str:
    """The mean with its error, such as "12.3 ± 0.4", or the mean alone if the error is nan."""
    return mean if math.isnan(error) else f"{mean} ± {error:.1f}"


def _or_empty(value: float) -> str:
    """The text of a cell; "" for nan."""
    return "" if math.isnan(value) else f"{value:.1f}"


def _values(figures: Figures) -> list[Mapping]:
    """The figures of all models and seeds, without their names."""
    return [values for by_seed in figures.values() for values in by_seed.values()]


def write(study: Study, results: Path, images: Path) -> None:
    """Print the tables, and write them and the chart."""
    figures = read_figures(study, results)
    text = as_text(study, figures)
    print(text)
    with atomic_file(results / f"{study.name}.md", "w") as file:
        file.write(f"# {study.title}\n\n{text}")
    charts.draw(study, figures, TITLES, images / f"{study.name}.png")


def at_paper_size(study: Study, runs: Path) -> str:
    """Mean and deviation over the seeds of the average over the test languages, beside the paper's figures.

    Args:
        runs: folder with <model>/<task>/results.json, as scripts/base/ablation.sh leaves it. A missing one
            leaves its cell empty.
    """
    lines = [["", "XNLI (accuracy)", "paper", "CoNLL (F1)", "paper"]]
    for model in study.models:
        line = [model]
        # The script's folder of a task, and the study's name of its measure.
        for task, measure in (("xnli", "xnli"), ("conll", "ner")):
            line.append(_test_score(runs / model / task / "results.json"))
            line.append(_or_empty(study.paper.get(measure, {}).get(model, math.nan)))
        lines.append(line)
    return in_markdown(lines)


def _test_score(results: Path) -> str:
    """Mean and deviation of the average over the test languages; empty if there is no such file."""
    if not results.is_file():
        return ""
    for table in read_json(results)["tables"]:
        if "test" in table["title"]:
            return f"{table['mean']['avg']:.2f} ± {table['deviation']['avg']:.2f}"
    return ""


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise UserError("usage: python -m experiments.tables STUDY [OUTPUT of scripts/base/ablation.sh]")
    study = Study.read(sys.argv[1])
    runs_at_paper_size = sys.argv[2:]
    if runs_at_paper_size:
        print(at_paper_size(study, Path(runs_at_paper_size[0])))
    else:
        write(study, RESULTS, IMAGES)


if __name__ == "__main__":
    run(main)
