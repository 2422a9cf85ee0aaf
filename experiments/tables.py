"""The tables of a study, from the figures of its finished models.

    python -m experiments.tables table6

It writes docs/results/<study>.md. experiments/scores.py says what the errors are.
"""

from utils.environment import run

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.scores import Figures, Scores
from experiments.study import UNTRAINED, Study
from experiments.three_ways import WAYS
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.tables import in_markdown

RESULTS = Path("docs/results")
FEWER_PAIRS = (3754, 1002, 3979)  # of a last training that has not all pairs
# Measure -> title of its table.
TITLES = {
    "retrieval 300": "Retrieval, 300 pairs (%)",
    "retrieval 300 centred": "Retrieval, 300 pairs, centred (%)",
    "retrieval 300 centred margin": "Retrieval, 300 pairs, centred, by margin (%)",
    "retrieval 1000": "Retrieval, 1,000 pairs (%)",
    "retrieval 1000 centred": "Retrieval, 1,000 pairs, centred (%)",
    "retrieval 1000 centred margin": "Retrieval, 1,000 pairs, centred, by margin (%)",
    "tatoeba all": "Tatoeba, 1,000 pairs, after training on all pairs (%)",
    "tatoeba margin all": "Tatoeba after all pairs, by margin (%)",
    "ntrex all": "NTREX, 1,997 pairs, after all pairs (%)",
    "ntrex margin all": "NTREX after all pairs, by margin (%)",
    **{
        f"{test}{way} {count}": f"{name} after {count:,} pairs{by} (%)"
        for count in FEWER_PAIRS
        for test, name in (("tatoeba", "Tatoeba"), ("ntrex", "NTREX"))
        for way, by in (("", ""), (" margin", ", by margin"))
    },
    "xnli": "XNLI, accuracy (%)",
    "xnli en": "XNLI in English (%)",
    "xnli after pairs": "XNLI, after training on all pairs (%)",
    "xnli after pairs en": "XNLI in English, after all pairs (%)",
    "ner": "PAN-X, F1 (%)",
    "ner en": "PAN-X in English, F1 (%)",
    **{f"kinds {count}": f"Kinds of texts, {count} labels of a kind (%)" for count in (16, 64, 256)},
    **{f"kinds {count} en": f"Kinds of texts in English, {count} labels (%)" for count in (16, 64, 256)},
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
    "tatoeba all": "Tatoeba: all pairs",
    **{f"tatoeba {count}": f"Tatoeba: {count:,} pairs" for count in FEWER_PAIRS},
    "ntrex all": "NTREX: all pairs",
    **{f"ntrex {count}": f"NTREX: {count:,} pairs" for count in FEWER_PAIRS},
    "xnli": "XNLI",
    "xnli en": "XNLI in English",
    "xnli after pairs": "XNLI after all pairs",
    "ner": "PAN-X",
    "ner en": "PAN-X in English",
    "kinds 64": "kinds, 64 labels",
    "kinds 64 en": "kinds in English",
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
                # One value of weight 1 for all pairs. Its error comes from the seeds alone.
                values[f"held out {way}"] = {"pairs": [[max(of_layers)], [1]]}
            figures.setdefault(name, {})[seed] = values
    if not figures:
        raise UserError(f"{results / study.name}: no figures; docs/results.md says how they are made")
    return figures


def as_text(study: Study, figures: Figures) -> str:
    """All tables of a study in Markdown."""
    counts = ", ".join(f"{model} {len(by_seed)}" for model, by_seed in figures.items())
    sections = []
    about = [f"- {model.name}: {model.about}" for model in study.models.values() if model.about]
    if about:
        sections.append("\n".join(about))
    sections.append(f"Seeds: {counts}.")
    fewest_models = min(2, len(figures))  # a measure that fewer models have gets no table
    if study.compare or study.contrasts:
        sections.append("**Differences, paired by seed (bold: more than two standard errors)**")
        sections.append(difference_table(study, figures))
    for measure, title in TITLES.items():
        scores = Scores(figures, measure)
        if len(scores.cells) >= fewest_models:
            sections += [f"**{title}**", score_table(scores)]
    of_layers = [values for by_seed in figures.values() for values in by_seed.values() if "layers" in values]
    if of_layers:  # measured as in three_ways.py
        sections.append("**Retrieval, some 1,000 held-out pairs, at the layer that finds most of them (%)**")
        pairs = {title: Scores(figures, measure) for measure, title in HELD_OUT_PAIRS.items()}
        sections.append(model_table(figures, pairs, score_cell))
        sections.append("**Layers chosen on held-out pairs, by seed**")
        sections.append(model_table(figures, dict(zip(WAYS, WAYS)), layers_cell))
        sections.append("**Sentences whose language is that of the nearest language mean, by layer (%)**")
        first_language = next(iter(of_layers[0]["named"].values()))
        layers = {str(layer): layer for layer, _ in enumerate(first_language["right"])}
        sections.append(model_table(figures, layers, named_cell))
    held_out = "Held-out text, at the end: perplexity by objective, and shares of BTMLM's pseudo-tokens (%)"
    sections += [f"**{held_out}**", model_table(figures, PERPLEXITIES | RATES, held_out_cell)]
    return "\n\n".join(sections) + "\n"


def model_table(
    figures: Figures, columns: Mapping[str, Any], cell: Callable[[Figures, str, Any], str]
) -> str:
    """A row for each model that has some cell.

    Args:
        columns: title -> what `cell` is called with.
        cell: the text of a cell, of (figures, model, column).
    """
    lines = [["model", *columns]]
    for model in figures:
        cells = [cell(figures, model, column) for column in columns.values()]
        if any(cells):
            lines.append([model, *cells])
    return in_markdown(lines)


def score_cell(figures: Figures, model: str, scores: Scores) -> str:
    """The mean of a model's scores over the languages and the seeds, with its error."""
    if model not in scores.cells:
        return ""
    mean = np.mean([scores.mean(model, seed) for seed in scores.cells[model]])
    return with_error(f"{mean:.1f}", scores.error(model))


def layers_cell(figures: Figures, model: str, way: str) -> str:
    """The layer of a way of measuring, seed by seed."""
    return ", ".join(str(values["layers"][way]) for values in figures[model].values() if "layers" in values)


def named_cell(figures: Figures, model: str, layer: int) -> str:
    """The share of sentences that are nearest to the mean of their language at a layer.

    It is averaged over languages and seeds; see `three_ways.named_languages`.
    """
    shares = []
    for values in figures[model].values():
        for of_language in values.get("named", {}).values():
            shares.append(of_language["right"][layer] / of_language["sentences"])
    return f"{100 * np.mean(shares):.1f}" if shares else ""


def held_out_cell(figures: Figures, model: str, column: tuple[str, str]) -> str:
    """A perplexity (its geometric mean over seeds), or a rate of BTMLM's pseudo-tokens."""
    objective, key = column
    numbers = []  # of each seed, and of each language or pair
    for values in figures[model].values():
        for evaluation in values.get("held_out", [])[-1:]:  # the last one, if there is any
            of_texts = evaluation.get(objective, {}).values()
            numbers += [of_text[key] for of_text in of_texts if key in of_text]
    if not numbers:
        return ""
    value = math.exp(np.mean(np.log(numbers))) if key.startswith("perplexity") else 100 * np.mean(numbers)
    return f"{value:.1f}"


def score_table(scores: Scores) -> str:
    """A row for each model: the mean over the seeds in every language, then over the languages."""
    last_column = "mean" if scores.averaged == scores.languages else "mean without en"
    lines = [["model", *scores.languages, last_column]]
    for model, by_seed in scores.cells.items():
        line = [model]
        for language in scores.languages:
            line.append(f"{np.mean([scores.score(model, seed, language) for seed in by_seed]):.1f}")
        lines.append([*line, score_cell({}, model, scores)])  # which looks at the scores alone
    return in_markdown(lines)


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
        cells = {}
        for label, (mean, error) in differences.items():
            text = with_error(f"{mean:+.1f}", error)
            cells[label] = f"**{text}**" if abs(mean) > 2 * error else text  # False if the error is nan
        columns.append((title, cells))
        paper = study.paper.get(measure)  # model -> score
        if paper:
            of_paper = {}
            for label in differences:
                total = sum(weight * paper[model] for model, weight in rows[label].items())
                of_paper[label] = f"{total:+.1f}"
            columns.append((OF_PAPER[measure], of_paper))
    lines = [["", *(title for title, _ in columns)]]
    for label in rows:
        cells_of_row = [cells.get(label, "") for _, cells in columns]
        if any(cells_of_row):
            lines.append([label, *cells_of_row])
    return in_markdown(lines)


def rows_of(study: Study) -> dict[str, dict[str, int]]:
    """The differences and contrasts of a study, as `Scores.differences` takes them: label -> weights."""
    rows = {f"{a} - {b}": {a: 1, b: -1} for a, b in study.compare}
    for label, ((a, b), (c, d)) in study.contrasts.items():
        weights: Counter[str] = Counter()  # (a - b) - (c - d); a model may be in both pairs
        for model, weight in ((a, 1), (b, -1), (c, -1), (d, 1)):
            weights[model] += weight
        rows[label] = weights
    return rows


def with_error(mean: str, error: float) -> str:
    """The mean with its error, such as "12.3 ± 0.4", or the mean alone if the error is nan."""
    return mean if math.isnan(error) else f"{mean} ± {error:.1f}"


def write(study: Study, results: Path) -> None:
    """Print the tables, and write them."""
    figures = read_figures(study, results)
    text = as_text(study, figures)
    print(text)
    with atomic_file(results / f"{study.name}.md", "w") as file:
        file.write(f"# {study.title}\n\n{text}")


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python -m experiments.tables STUDY")
    write(Study.read(sys.argv[1]), RESULTS)


if __name__ == "__main__":
    run(main)
