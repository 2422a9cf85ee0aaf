"""The tables and charts of a study, from the figures of its finished models.

    python -m experiments.tables table6
    python -m experiments.tables table6 output/ablation    # of scripts/base/ablation.sh

It writes docs/results/<study>.md and docs/images/<study>.png. experiments/scores.py says what the errors are.
"""

from utils.environment import run

import math
import sys
from collections.abc import Mapping
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
# The second test set, some 1,000 held-out pairs of the corpus in each language.
# Measure -> column of its table.
HELD_OUT_PAIRS = {
    "held out plain": "plain",
    "held out centred": "centred",
    "held out centred margin": "centred, margin",
}
# Measure -> column of the table of differences.
COLUMNS = {
    "retrieval 300": "300 pairs",
    "retrieval 1000": "1,000 pairs",
    "held out plain": "held-out pairs",
    "retrieval 300 centred": "centred: 300 pairs",
    "retrieval 1000 centred": "1,000 pairs",
    "held out centred": "held-out pairs",
    "retrieval 300 centred margin": "centred, margin: 300 pairs",
    "retrieval 1000 centred margin": "1,000 pairs",
    "held out centred margin": "held-out pairs",
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
    """The figures of the finished models, the untrained one first, with the measures of HELD_OUT_PAIRS.

    Raises:
        UserError: no model has finished.
    """
    figures: dict[str, dict[int, Mapping]] = {}
    for name in (UNTRAINED, *study.models):
        for seed in study.seeds:
            path = study.figures_file(results, name, seed)
            if not path.is_file():
                continue
            values = read_json(path)
            for way, of_layers in values.get("held_out_layers", {}).items():
                # One number for all pairs. Its error comes from the seeds alone.
                values[f"held out {way}"] = {"pairs": [[max(of_layers)], [1]]}
            figures.setdefault(name, {})[seed] = values
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
    if study.compare or study.contrasts:
        sections.append("**Differences, paired by seed (bold: more than two standard errors)**")
        sections.append(difference_table(study, figures))
    for measure, title in TITLES.items():
        scores = Scores(figures, measure)
        if len(scores.models) >= fewest_models:
            sections += [f"**{title}**", score_table(scores)]
    if any("layers" in values for values in _values(figures)):  # measured as in three_ways.py
        sections.append("**Retrieval, some 1,000 held-out pairs, at the layer that finds most of them (%)**")
        sections.append(held_out_pairs_table(figures))
        sections.append("**Layers chosen on held-out pairs, by seed**")
        sections.append(layer_table(figures))
        sections.append("**Sentences whose language is that of the nearest language mean, by layer (%)**")
        sections.append(named_table(figures))
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
        line.append(mean_with_error(scores, model))
        lines.append(line)
    return in_markdown(lines)


def held_out_pairs_table(figures: Figures) -> str:
    """A row for each model, and a column for each measure of HELD_OUT_PAIRS."""
    ways = [Scores(figures, measure) for measure in HELD_OUT_PAIRS]
    lines = [["model", *HELD_OUT_PAIRS.values()]]
    for model in ways[0].models:
        lines.append([model, *(mean_with_error(scores, model) for scores in ways)])
    return in_markdown(lines)


def mean_with_error(scores: Scores, model: str) -> str:
    """A model's mean score over the languages and the seeds, with its error."""
    mean = np.mean([scores.mean(model, seed) for seed in scores.cells[model]])
    return with_error(f"{mean:.1f}", scores.error(model))


def difference_table(study: Study, figures: Figures) -> str:
    """A row for each difference that some measure has, and a column for each measure that has some.

    The paper's differences stand beside ours.
    """
    rows = rows_of(study)
    columns: list[tuple[str, dict[str, str]]] = []  # title, and label -> text of the cell
    for measure, title in COLUMNS.items():
        differences = Scores(figures, measure).differences(rows)
        if not differences:
            continue
        columns.append((title, {difference.label: _cell(difference) for difference in differences}))
        paper = study.paper.get(measure)  # model -> score
        if paper:
            of_paper = {}
            for difference in differences:
                total = sum(weight * paper[model] for model, weight in difference.weights.items())
                of_paper[difference.label] = f"{total:+.1f}"
            columns.append((OF_PAPER[measure], of_paper))
    lines = [["", *(title for title, _ in columns)]]
    for label in rows:
        cells = [cells_of_column.get(label, "") for _, cells_of_column in columns]
        if any(cells):
            lines.append([label, *cells])
    return in_markdown(lines)


def _cell(difference: Difference) -> str:
    """The difference with its error, in bold if it is significant."""
    text = with_error(f"{difference.mean:+.1f}", difference.error)
    return f"**{text}**" if difference.is_significant else text


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
