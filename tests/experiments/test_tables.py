"""The arithmetic of scores and their errors, and the tables and charts of a study."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from experiments import charts, tables
from experiments.scores import Scores, contrast_of
from experiments.study import TrainedModel


def made_figures(study, shares, rows=400):
    """Figures in which a model is right in a share of the rows."""
    random = np.random.default_rng(3)
    figures = {}
    for model, share in shares.items():
        for seed in study.seeds:
            answers = (random.random(rows) < share).astype(int).tolist()
            cells = {language: [answers, [1] * rows] for language in ("en", "de", "fr")}
            figures.setdefault(model, {})[seed] = {"xnli": cells, "held_out": []}
    return figures


def test_the_error_over_examples_is_that_of_a_bootstrap(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6}, rows=300)
    scores = Scores(figures, "xnli")
    random = np.random.default_rng(1)
    draws = random.integers(300, size=(4000, 300))
    right = {m: np.mean([figures[m][s]["xnli"]["de"][0] for s in study.seeds], axis=0) for m in "ab"}
    assert math.isclose(scores.example_error({"a": 1}), 100 * right["a"][draws].mean(1).std(), rel_tol=0.05)
    difference = (right["b"] - right["a"])[draws].mean(1).std()
    assert math.isclose(scores.example_error({"b": 1, "a": -1}), 100 * difference, rel_tol=0.05)


def test_f1_is_a_quotient_of_sums(study):
    cells = {"de": [[2, 0, 4], [4, 3, 5]]}
    scores = Scores({"a": {1: {"ner": cells}}}, "ner")
    assert scores.score("a", 1, "de") == 50.0
    # The influence of an example is, to first order, how far the score moves without it.
    influence = scores.influence({"a": 1}, "de")
    for i in range(3):
        without = [values[:i] + values[i + 1 :] for values in cells["de"]]
        score = Scores({"a": {1: {"ner": {"de": without}}}}, "ner").score("a", 1, "de")
        assert np.sign(50.0 - score) == np.sign(influence[i])
    assert abs(influence.sum()) < 1e-9


@pytest.mark.parametrize(
    ("b", "seeds", "word"),
    [(0.8, 3, "higher"), (0.5, 3, "cannot tell"), (0.2, 3, "lower"), (0.8, 1, "cannot tell")],
)
def test_a_comparison_says_what_can_be_told(study, b, seeds, word):
    study.seeds[seeds:] = []
    scores = Scores(made_figures(study, {"a": 0.5, "b": b}), "xnli")
    (difference,) = scores.differences(tables.rows_of(study))
    table = tables.difference_table([difference], "xnli", {"a": 75.7, "b": 75.8})
    assert f"| {word} | +0.1 |" in table
    assert ("±" in table) == ("±" in tables.score_table(scores)) == (seeds > 1)


def test_seeds_that_differ_widen_the_error(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6})
    alike = Scores(figures, "xnli").error("b")
    for seed, share in zip(study.seeds, (0.4, 0.6, 0.8)):
        figures["b"][seed] = made_figures(study, {"b": share})["b"][seed]
    assert Scores(figures, "xnli").error("b") > 3 * alike


def test_tables_and_chart_from_files(study, tmp_path):
    for model, by_seed in made_figures(study, {"untrained": 0.3, "a": 0.5, "b": 0.6}).items():
        for seed, figures in by_seed.items():
            evaluation = {"step": 1, "mmlm": {"de": {"perplexity": 10.0 * seed}}}
            if model == "b":
                rates = {"precision": 0.1 * seed, "frequent_precision": 0, "copy_rate": 0.5, "repeat_rate": 1}
                evaluation["btmlm"] = {"de-en": rates}
            figures["held_out"] = [evaluation]
            (tmp_path / study.name).mkdir(exist_ok=True)
            (tmp_path / study.name / f"{model}-{seed}.json").write_text(json.dumps(figures))
    tables.write(study, tmp_path, tmp_path)
    text = (tmp_path / f"{study.name}.md").read_text()
    assert text.startswith("# Made up\n") and "**XNLI, accuracy (%)**" in text
    assert text.endswith(f"| b | {(10 * 20 * 30) ** (1 / 3):.1f} |  |  |  |  | 20.0 | 0.0 | 50.0 | 100.0 |\n")
    assert (tmp_path / f"{study.name}.png").read_bytes().startswith(b"\x89PNG")


def measured_three_ways(shares):
    """Figures in which these shares of 300 pairs are found plain, centred and by margin."""
    random = np.random.default_rng(5)
    figures = {}
    for model, of_ways in shares.items():
        for seed in (1, 2, 3):
            values = {"held_out": [{"step": 1, "mmlm": {"de": {"perplexity": 10.0}}}]}
            for way, share in zip(("", " centred", " centred margin"), of_ways):
                directions = random.binomial(2, share, size=300).tolist()
                values[f"retrieval 300{way}"] = {name: [directions, [2] * 300] for name in ("de", "fr")}
            values["layers"] = {"plain": seed, "centred": 2, "centred margin": 3}
            values["half"] = {"de": [1.0, 1.0]}
            values["named"] = {
                "de": {"right": [50, 75 + 5 * seed], "sentences": 100},
                "fr": {"right": [150, 200], "sentences": 200},
            }
            figures.setdefault(model, {})[seed] = values
    return figures


THREE_WAYS = {"a": (0.3, 0.3, 0.4), "b": (0.5, 0.3, 0.4), "c": (0.3, 0.3, 0.4), "d": (0.9, 0.31, 0.9)}


@pytest.fixture
def contrasted(study):
    """A study with the contrast (b - a) - (d - c)."""
    models = {name: TrainedModel(name) for name in THREE_WAYS}
    lines = {"low": {"1/4": "a", "all": "b"}, "high": {"1/4": "c", "all": "d"}}
    contrasts = {"more": [["b", "a"], ["d", "c"]]}
    compare = [["b", "a"], ["d", "c"]]
    return replace(study, models=models, compare=compare, contrasts=contrasts, lines=lines)


def test_a_contrast_is_a_difference_of_differences(contrasted):
    figures = measured_three_ways(THREE_WAYS)
    scores = Scores(figures, "retrieval 300")
    first, second, contrast = scores.differences(tables.rows_of(contrasted))
    assert contrast.label == "more" and contrast.verdict == "lower"
    assert contrast.mean == pytest.approx(first.mean - second.mean)
    values = [[scores.mean(model, seed) for seed in (1, 2, 3)] for model in "badc"]
    of_seeds = values[0] - np.array(values[1]) - values[2] + values[3]
    assert contrast.mean == pytest.approx(of_seeds.mean())
    # The four models answer independently here, so the variances over the examples add up.
    squares = sum(scores.example_error({model: 1}) ** 2 for model in THREE_WAYS)
    assert scores.example_error(contrast.weights) == pytest.approx(math.sqrt(squares), rel=0.1)
    assert scores.example_error({"a": 1, "b": 0}) == pytest.approx(scores.example_error({"a": 1}))
    same = contrast_of("none", ["a", "b"], ["a", "b"])
    assert [row.mean for row in scores.differences(same)] == [0.0]


def test_tables_of_three_ways(contrasted):
    figures = measured_three_ways(THREE_WAYS)
    text = tables.as_text(contrasted, figures)
    summary = text.split("**Differences, paired by seed (bold: more than two standard errors)**")[1]
    (line,) = [line for line in summary.split("**Retrieval")[0].splitlines() if line.startswith("| d - c |")]
    _, _, plain, centred, margin, xnli, ner, _ = line.split("|")
    assert plain.startswith(" **+") and margin.startswith(" **+") and not centred.startswith(" **")
    assert xnli == ner == "  "
    for title in ("300 pairs (%)", "300 pairs, centred (%)", "300 pairs, centred, by margin (%)"):
        assert f"**Retrieval, {title}**" in text
    assert "| a | 1, 2, 3 | 2, 2, 2 | 3, 3, 3 |" in text
    assert "| model | 0 | 1 |\n|---|---:|---:|\n| a | 62.5 | 92.5 |" in text
    assert "chosen on one half" not in text


@pytest.mark.parametrize("lines", [True, False])
def test_charts_of_three_ways(contrasted, lines, tmp_path):
    if not lines:
        contrasted = replace(contrasted, lines={})
    charts.draw(contrasted, measured_three_ways(THREE_WAYS), tables.TITLES, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
