"""The tables and charts of a study, from the figures of its finished models.

    python -m experiments.tables table6
    python -m experiments.tables table6 output/ablation    # of scripts/base/ablation.sh

It writes docs/results/<study>.md and docs/images/<study>.png. An error (±) is a standard error over examples
and seeds; with one seed none is given. The deviation between seeds is pooled over the rows of a table, which
assumes that it is the same for all models. Models are compared example by example and seed by seed.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from experiments.study import UNTRAINED, Study
from utils.errors import UserError, run
from utils.files import atomic_file, read_json
from utils.tables import in_markdown

RESULTS, IMAGES = Path("docs/results"), Path("docs/images")
TITLES = {
    "retrieval 300": "Retrieval, 300 pairs (%)", "retrieval 1000": "Retrieval, 1,000 pairs (%)",
    "xnli": "XNLI, accuracy (%)", "ner": "PAN-X, F1 (%)",
}  # fmt: skip
HELD_OUT = {
    **{name: (name, "perplexity") for name in ("mmlm", "tlm", "camlm", "btmlm")},
    "btmlm without pseudo-tokens": ("btmlm", "perplexity_without"),
    "in the translation": ("btmlm", "precision"),
    "the most frequent words instead": ("btmlm", "frequent_precision"),
    "copied from the sentence": ("btmlm", "copy_rate"), "repeated": ("btmlm", "repeat_rate"),
}  # fmt: skip
OF_PAPER = {"xnli": "paper (XNLI)", "ner": "paper (CoNLL)"}
SHARED_ROWS = ("xnli",)  # row i is the same sentence in every language
Figures = Mapping[str, Mapping[int, Mapping]]  # model -> seed -> what experiments.measure wrote


class Scores:
    """One measure of all models and seeds; English, which is trained on, is left out of the mean.

    Args:
        figures: of the models that have the measure.
        measure: its key.
    """

    def __init__(self, figures: Figures, measure: str):
        self.measure = measure
        self.cells = {
            model: {seed: found[measure] for seed, found in by_seed.items() if measure in found}
            for model, by_seed in figures.items()
        }
        self.cells = {model: by_seed for model, by_seed in self.cells.items() if by_seed}
        self.models = list(self.cells)
        cells = next(iter(self.cells[self.models[0]].values())) if self.models else []
        self.languages = sorted(cells, key=lambda language: (language != "en", language))
        self.others = [language for language in self.languages if language != "en"]

    def score(self, model: str, seed: int, language: str) -> float:
        """Per cent."""
        parts, wholes = self.cells[model][seed][language]
        return 100 * sum(parts) / max(sum(wholes), 1)

    def mean(self, model: str, seed: int) -> float:
        return float(np.mean([self.score(model, seed, language) for language in self.others]))

    def influence(self, model: str, language: str, other: str | None = None) -> np.ndarray:
        """How far each example moves a score: [N], in per cent, the mean over the seeds that `other` has too.

        The sum of its squares is the variance of the score over draws of the examples (delta method).
        """
        rows = []
        for seed, cells in self.cells[model].items():
            if seed in self.cells[other or model]:
                parts, wholes = (np.array(values, float) for values in cells[language])
                ratio = self.score(model, seed, language) / 100
                rows.append(100 * (parts - ratio * wholes) / max(wholes.sum(), 1))
        return np.mean(rows, axis=0)

    def example_error(self, model: str, minus: str | None = None) -> float:
        """Standard error of a model's mean score, or of the difference of two, over the examples."""
        of_language = [
            self.influence(model, language, minus)
            - (self.influence(minus, language, model) if minus else 0.0)
            for language in self.others
        ]
        if self.measure in SHARED_ROWS:
            of_language = [np.sum(of_language, axis=0)]
        return math.sqrt(sum(float((row**2).sum()) for row in of_language)) / len(self.others)

    @cached_property
    def seed_deviation(self) -> float:
        """The deviation of a mean score between seeds, pooled over the models; nan with one seed."""
        rows = [[self.mean(model, seed) for seed in by_seed] for model, by_seed in self.cells.items()]
        return pooled_deviation(rows)

    def error(self, model: str) -> float:
        return math.hypot(self.example_error(model), self.seed_deviation / math.sqrt(len(self.cells[model])))

    def table(self) -> str:
        """A row for each model: the mean over the seeds in every language, then over the languages."""
        lines = [["model", *self.languages, "mean" if self.others == self.languages else "mean without en"]]
        for model, by_seed in self.cells.items():
            cells = [
                f"{np.mean([self.score(model, seed, language) for seed in by_seed]):.1f}"
                for language in self.languages
            ]
            mean = np.mean([self.mean(model, seed) for seed in by_seed])
            lines.append([model, *cells, with_error(f"{mean:.1f}", self.error(model))])
        return in_markdown(lines)

    def comparisons(self, pairs: Sequence[Sequence[str]], paper: Mapping[str, float]) -> str:
        """A row for each pair (a, b): a - b, its error, the verdict, and the paper's difference."""
        found = {  # over the seeds that both have
            (a, b): [self.mean(a, seed) - self.mean(b, seed) for seed in seeds]
            for a, b in pairs
            if (seeds := [seed for seed in self.cells.get(a, ()) if seed in self.cells.get(b, ())])
        }
        deviation = pooled_deviation(list(found.values()))
        lines = [["", "difference", "verdict", *([OF_PAPER[self.measure]] if paper else [])]]
        for (a, b), values in found.items():
            error = math.hypot(self.example_error(a, b), deviation / math.sqrt(len(values)))
            mean = float(np.mean(values))
            line = [f"{a} - {b}", with_error(f"{mean:+.1f}", error), verdict(mean, error)]
            lines.append([*line, f"{paper[a] - paper[b]:+.1f}"] if paper else line)
        return in_markdown(lines)


def pooled_deviation(rows: Sequence[Sequence[float]]) -> float:
    """The standard deviation within the rows, whose means differ; nan if no row has two values."""
    squares = sum(float(np.sum((np.array(row) - np.mean(row)) ** 2)) for row in rows if len(row) > 1)
    freedom = sum(len(row) - 1 for row in rows if len(row) > 1)
    return math.sqrt(squares / freedom) if freedom else math.nan


def with_error(mean: str, error: float) -> str:
    return mean if math.isnan(error) else f"{mean} ± {error:.1f}"


def verdict(difference: float, error: float) -> str:
    if not abs(difference) > 2 * error:  # also if the error is nan: one seed
        return "cannot tell"
    return "higher" if difference > 0 else "lower"


def read_figures(study: Study, results: Path) -> Figures:
    """The figures of the finished models, the untrained one first. UserError: none has finished."""
    found: dict[str, dict[int, Mapping]] = {}
    for name in (UNTRAINED, *study.models):
        for seed in study.seeds:
            path = results / study.name / f"{name.replace(' ', '-')}-{seed}.json"
            if path.is_file():
                found.setdefault(name, {})[seed] = read_json(path)
    if not found:
        raise UserError(f"{results / study.name}: no figures; run python -m experiments.run {study.name}")
    return found


def as_text(study: Study, figures: Figures) -> str:
    """All tables of a study in Markdown."""
    counts = {model: len(by_seed) for model, by_seed in figures.items()}
    parts = [f"Seeds: {', '.join(f'{model} {count}' for model, count in counts.items())}."]
    for measure, title in TITLES.items():
        if not (scores := Scores(figures, measure)).models:
            continue
        parts += [f"**{title}**", scores.table()]
        compared = scores.comparisons(study.compare, study.paper.get(measure, {}))
        parts += [compared] if compared.count("\n") > 1 else []
    if any("half" in found for by_seed in figures.values() for found in by_seed.values()):
        parts += ["**Retrieval, 300 pairs, the layer chosen on one half (%)**", half_table(figures)]
    title = "Held-out text, at the end: perplexity by objective, and shares of BTMLM's pseudo-tokens (%)"
    parts += [f"**{title}**", held_out_table(figures)]
    return "\n\n".join(parts) + "\n"


def half_table(figures: Figures) -> str:
    """A row for each model and seed: 150 candidates in the half that was not used to choose the layer."""
    lines = []
    for model, by_seed in figures.items():
        for seed, found in by_seed.items():
            if cells := found.get("half"):
                error = math.sqrt(sum(error**2 for _, error in cells.values())) / len(cells)
                mean = np.mean([value for value, _ in cells.values()])
                values = [f"{value:.1f} ± {one:.1f}" for value, one in (*cells.values(), (mean, error))]
                lines.append([f"{model}, seed {seed}", *values, str(found["layer"])])
                languages = list(cells)
    return in_markdown([["model", *languages, "mean", "layer of the tables above"], *lines])


def perplexity(evaluation: Mapping, objective: str, key: str = "perplexity") -> float:
    """The geometric mean over languages or pairs; nan if the evaluation has none."""
    values = [math.log(one[key]) for one in evaluation.get(objective, {}).values() if key in one]
    return math.exp(np.mean(values)) if values else math.nan


def held_out_table(figures: Figures) -> str:
    """A row for each model: perplexities (geometric means over seeds) and what BTMLM's pseudo-tokens are."""
    lines = [["model", *HELD_OUT]]
    for model, by_seed in figures.items():
        if last := [found["held_out"][-1] for found in by_seed.values() if found.get("held_out")]:
            cells = [model]
            for objective, key in HELD_OUT.values():
                if "perplexity" in key:
                    value = math.exp(np.mean([math.log(perplexity(one, objective, key)) for one in last]))
                else:
                    rates = [pair[key] for one in last for pair in one.get(objective, {}).values()]
                    value = 100 * np.mean(rates) if rates else math.nan
                cells.append("" if math.isnan(value) else f"{value:.1f}")
            lines.append(cells)
    return in_markdown(lines)


def draw(study: Study, figures: Figures, path: Path) -> None:
    """Draw the mean scores with their errors or, for a study of curves, BTMLM's perplexity over the steps."""
    from matplotlib.figure import Figure

    if study.curves:
        panels = {"perplexity": "BTMLM perplexity by step", "perplexity_without": "without pseudo-tokens"}
    else:
        of_measure = {measure: Scores(figures, measure) for measure in TITLES}
        found = {measure: scores for measure, scores in of_measure.items() if scores.models}
        panels = {one: TITLES[one] + ", without en" * ("en" in found[one].languages) for one in found}
    figure = Figure(figsize=(4 * len(panels), 3.2), layout="constrained")
    for axis, (panel, title) in zip(np.ravel(figure.subplots(1, len(panels))), panels.items()):
        axis.set_title(title, fontsize=9)
        for number, (model, by_seed) in enumerate(figures.items()):
            if study.curves:
                for seed, found in by_seed.items():
                    points = [(one["step"], perplexity(one, "btmlm", panel)) for one in found["held_out"]]
                    label = model if points[-1][1] > 0 and seed == min(by_seed) else None  # nan: no BTMLM
                    axis.plot(*zip(*points), color=f"C{number}", label=label)
            elif model in (scores := of_measure[panel]).cells:
                mean = np.mean([scores.mean(model, seed) for seed in by_seed])
                axis.bar(model, mean, yerr=scores.error(model), capsize=3, color=f"C{number}")
        axis.tick_params(axis="x", rotation=45, labelsize=8)
        if study.curves:
            axis.legend(fontsize=8)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)


def write(study: Study, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Print the tables, and write them and the chart."""
    figures = read_figures(study, results)
    text = as_text(study, figures)
    print(text)
    with atomic_file(results / f"{study.name}.md", "w") as file:
        file.write(f"# {study.title}\n\n{text}")
    draw(study, figures, images / f"{study.name}.png")


def at_paper_size(study: Study, runs: Path) -> str:
    """Mean and deviation over the seeds of the average over the test languages, beside the paper's figures.

    Args:
        runs: folder with <model>/<task>/results.json, as scripts/base/ablation.sh leaves it. A missing one
            leaves its cell empty.
    """
    lines = [["", "XNLI (accuracy)", "paper", "CoNLL (F1)", "paper"]]
    for model in study.models:
        cells = [model]
        for task, measure in (("xnli", "xnli"), ("conll", "ner")):
            path = runs / model / task / "results.json"
            tables = read_json(path)["tables"] if path.is_file() else []
            test = [one for one in tables if "test" in one["title"]]
            cells.append(f"{test[0]['mean']['avg']:.2f} ± {test[0]['deviation']['avg']:.2f}" if test else "")
            cells.append(f"{study.paper.get(measure, {}).get(model, math.nan):.1f}")
        lines.append(cells)
    return in_markdown(lines)


def main() -> None:
    if len(sys.argv) not in (2, 3):
        raise UserError("usage: python -m experiments.tables STUDY [OUTPUT of scripts/base/ablation.sh]")
    study = Study.read(sys.argv[1])
    if len(sys.argv) == 2:
        write(study)
    else:
        print(at_paper_size(study, Path(sys.argv[2])))


if __name__ == "__main__":
    run(main)
