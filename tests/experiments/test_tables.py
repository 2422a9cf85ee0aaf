"""The arithmetic of scores and their errors, and the tables of a study."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from experiments import tables
from experiments.scores import Scores
from experiments.study import TrainedModel


def made_figures(study, shares, rows=400):
    """Figures of XNLI: model -> seed -> figures. A model is right in the same rows of every language.

    Args:
        shares: model -> the share of rows in which it is right, about.
    """
    random = np.random.default_rng(3)
    figures = {}
    for model, share in shares.items():
        for seed in study.seeds:
            is_correct = (random.random(rows) < share).astype(int).tolist()
            cells = {language: [is_correct, [1] * rows] for language in ("en", "de", "fr")}
            figures.setdefault(model, {})[seed] = {"xnli": cells, "held_out": []}
    return figures


def test_the_error_over_examples_is_that_of_a_bootstrap(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6}, rows=300)
    scores = Scores(figures, "xnli")
    random = np.random.default_rng(1)
    draws = random.integers(300, size=(4000, 300))  # 4000 times, 300 rows out of 300

    def correct(model):
        """The share of a model's seeds that are right in each row, [N]."""
        return np.mean([figures[model][seed]["xnli"]["de"][0] for seed in study.seeds], axis=0)

    error = correct("a")[draws].mean(axis=1).std()  # of the means of 4000 draws
    assert math.isclose(scores.example_error({"a": 1}), 100 * error, rel_tol=0.05)
    error_of_difference = (correct("b") - correct("a"))[draws].mean(axis=1).std()
    assert math.isclose(scores.example_error({"b": 1, "a": -1}), 100 * error_of_difference, rel_tol=0.05)


@pytest.mark.parametrize("measure", ["xnli after pairs", "ntrex few", "kinds 16", "tatoeba few"])
def test_whether_languages_share_their_examples(measure):
    """If they do, equal outcomes in two languages say no more than those in one."""
    cells = {language: [[1, 0, 1, 1], [1] * 4] for language in ("de", "fr")}
    error = Scores({"a": {1: {measure: cells}}}, measure).example_error({"a": 1})
    of_one = Scores({"a": {1: {measure: {"de": cells["de"]}}}}, measure).example_error({"a": 1})
    assert math.isclose(error, of_one if measure != "tatoeba few" else of_one / math.sqrt(2))


def test_a_language_without_the_last_kind_of_texts():
    """The outcomes of the shared ones move the mean together: 100 x 1/2 x (1/2 x 1/2 + 1/4 x 1/2) a row."""
    cells = {"fr": [[1, 0], [1, 1]], "zh": [[1, 0, 1, 0], [1] * 4]}
    error = Scores({"a": {1: {"kinds 16": cells}}}, "kinds 16").example_error({"a": 1})
    assert math.isclose(error, 100 * math.sqrt(2 * (0.125 + 0.0625) ** 2 + 2 * 0.0625**2))


def test_english_alone_is_not_left_out():
    scores = Scores({"a": {1: {"ner en": {"en": [[1, 0], [1, 1]]}}}}, "ner en")
    assert scores.mean("a", 1) == 50.0
    assert tables.score_table(scores).splitlines()[0] == "| model | en | mean |"


def test_f1_is_a_quotient_of_sums():
    """100 (2 + 0 + 4) / (4 + 3 + 5) is 50. An example with a positive influence raises the score."""
    cells = {"de": [[2, 0, 4], [4, 3, 5]]}  # parts and wholes of three sentences
    scores = Scores({"a": {1: {"ner": cells}}}, "ner")
    assert scores.score("a", 1, "de") == 50.0
    influence = scores.influence({"a": 1}, "de")
    for i in range(3):
        other_cells = [values[:i] + values[i + 1 :] for values in cells["de"]]
        score_without = Scores({"a": {1: {"ner": {"de": other_cells}}}}, "ner").score("a", 1, "de")
        assert np.sign(50.0 - score_without) == np.sign(influence[i])
    assert abs(influence.sum()) < 1e-9


@pytest.mark.parametrize(
    ("share_of_b", "seeds", "begins_with"),
    [(0.8, 3, "**+"), (0.5, 3, ("+", "-")), (0.2, 3, "**-"), (0.8, 1, "+")],
)
def test_the_difference_b_minus_a_is_bold_if_it_can_be_told(study, share_of_b, seeds, begins_with):
    """Model a is right in 0.5 of the rows. With one seed there is no error, so nothing can be told."""
    study = replace(study, seeds=study.seeds[:seeds], paper={"xnli": {"a": 75.7, "b": 75.8}})
    figures = made_figures(study, {"a": 0.5, "b": share_of_b})
    table = tables.difference_table(study, figures)
    row = table.splitlines()[-1].split(" | ")
    assert row[0] == "| b - a" and row[1].startswith(begins_with) and row[2] == "+0.1 |"
    assert ("±" in table) == (seeds > 1)
    assert ("±" in tables.score_table(Scores(figures, "xnli"))) == (seeds > 1)


def test_seeds_that_differ_widen_the_error(study):
    figures = made_figures(study, {"a": 0.5, "b": 0.6})
    error_of_similar_seeds = Scores(figures, "xnli").error("b")
    for seed, share in zip(study.seeds, (0.4, 0.6, 0.8)):
        figures["b"][seed] = made_figures(study, {"b": share})["b"][seed]
    assert Scores(figures, "xnli").error("b") > 3 * error_of_similar_seeds


def figures_of_scores(**scores):
    """Figures of one example, so that errors come from the seeds alone.

    Args:
        scores: model -> the score of each seed, per cent.
    """
    return {
        model: {seed: {"ner": {"de": [[score], [100]]}} for seed, score in enumerate(of_seeds)}
        for model, of_seeds in scores.items()
    }


def test_the_deviation_between_seeds_is_that_of_the_logits():
    """By hand: the logits of 10, 20 and 50 % are -2.197, -1.386 and 0. The slope at p is p (1 - p)."""
    scores = Scores(figures_of_scores(a=[10, 20], b=[50, 50]), "ner")
    # Half of the squared difference, by one degree of freedom of a; b has none of it, but another degree.
    deviation = math.sqrt((2.197 - 1.386) ** 2 / 2 / 2)
    assert scores.logit_deviation == pytest.approx(deviation, rel=1e-3)
    assert scores.error("a") == pytest.approx(100 * deviation * 0.15 * 0.85 / math.sqrt(2), rel=1e-3)
    assert scores.error("b") == pytest.approx(100 * deviation * 0.5 * 0.5 / math.sqrt(2), rel=1e-3)
    # The difference's own seeds, 40 and 30, deviate by sqrt(50); the two models by less.
    _, error = scores.differences({"b - a": {"b": 1, "a": -1}})["b - a"]
    of_models = 100 * deviation * math.hypot(0.15 * 0.85, 0.5 * 0.5)
    assert error == pytest.approx(max(of_models, math.sqrt(50)) / math.sqrt(2), rel=1e-3)
    # Seeds that deviate alike in both models do not narrow the error.
    scores = Scores(figures_of_scores(a=[10, 20], b=[40, 50]), "ner")
    _, error = scores.differences({"b - a": {"b": 1, "a": -1}})["b - a"]
    assert error == pytest.approx(math.hypot(scores.error("a"), scores.error("b")))
    assert math.isfinite(Scores(figures_of_scores(a=[0, 1], b=[100, 99]), "ner").error("a"))


def test_tables_from_files(study, tmp_path):
    """With seeds 1, 2, 3 the perplexities are 10, 20, 30. Only model b has rates of pseudo-tokens."""
    for model, by_seed in made_figures(study, {"untrained": 0.3, "a": 0.5, "b": 0.6}).items():
        for seed, figures in by_seed.items():
            evaluation = {"step": 1, "mmlm": {"de": {"perplexity": 10.0 * seed}}}
            if model == "b":
                rates = {"precision": 0.1 * seed, "frequent_precision": 0, "copy_rate": 0.5, "repeat_rate": 1}
                evaluation["btmlm"] = {"de-en": rates}
            figures["held_out"] = [evaluation]
            (tmp_path / study.name).mkdir(exist_ok=True)
            (tmp_path / study.name / f"{model}-{seed}.json").write_text(json.dumps(figures))
    tables.write(study, tmp_path)
    text = (tmp_path / f"{study.name}.md").read_text()
    assert text.startswith("# Made up\n") and "**XNLI, accuracy (%)**" in text
    geometric_mean = (10 * 20 * 30) ** (1 / 3)
    assert text.endswith(f"| b | {geometric_mean:.1f} |  |  |  |  | 20.0 | 0.0 | 50.0 | 100.0 |\n")


# Model -> the share of the directions in which pairs are found: plain, centred, centred with the margin.
THREE_WAYS = {"a": (0.3, 0.3, 0.4), "b": (0.5, 0.3, 0.4), "c": (0.3, 0.3, 0.4), "d": (0.9, 0.31, 0.9)}


def figures_of_three_ways():
    """Random figures of 300 pairs with the shares of THREE_WAYS, for three seeds."""
    random = np.random.default_rng(5)
    figures = {}
    for model, shares in THREE_WAYS.items():
        for seed in (1, 2, 3):
            values = {"held_out": [{"step": 1, "mmlm": {"de": {"perplexity": 10.0}}}]}
            for way, share in zip(("", " centred", " centred margin"), shares):
                directions = random.binomial(2, share, size=300).tolist()
                values[f"retrieval 300{way}"] = {name: [directions, [2] * 300] for name in ("de", "fr")}
            values["layers"] = {"plain": seed, "centred": 2, "centred margin": 3}
            values["held_out_layers"] = {way: [0.1, shares[0], 0.2] for way in values["layers"]}
            # Right at layer 0: 50 and 75 %. At layer 1: 85 %, the mean of the seeds, and 100 %.
            values["named"] = {
                "de": {"right": [50, 75 + 5 * seed], "sentences": 100},
                "fr": {"right": [150, 200], "sentences": 200},
            }
            figures.setdefault(model, {})[seed] = values
    return figures


@pytest.fixture
def contrasted(study):
    """A study with the contrast (b - a) - (d - c)."""
    models = {name: TrainedModel(name) for name in THREE_WAYS}
    contrasts = {"more": [["b", "a"], ["d", "c"]]}
    compare = [["b", "a"], ["d", "c"]]
    return replace(study, models=models, compare=compare, contrasts=contrasts)


def test_a_contrast_is_a_difference_of_differences(contrasted):
    figures = figures_of_three_ways()
    scores = Scores(figures, "retrieval 300")
    rows = tables.rows_of(contrasted)
    (first, _), (second, _), (contrast, error) = scores.differences(rows).values()
    assert list(rows) == ["b - a", "d - c", "more"] and contrast < -2 * error
    assert contrast == pytest.approx(first - second)
    of_model = {model: np.array([scores.mean(model, seed) for seed in (1, 2, 3)]) for model in THREE_WAYS}
    expected = (of_model["b"] - of_model["a"]) - (of_model["d"] - of_model["c"])  # see `contrasted`
    assert contrast == pytest.approx(expected.mean())
    # The four models answer independently here, so the variances over the examples add up.
    variance = sum(scores.example_error({model: 1}) ** 2 for model in THREE_WAYS)
    assert scores.example_error(rows["more"]) == pytest.approx(math.sqrt(variance), rel=0.1)
    assert scores.example_error({"a": 1, "b": 0}) == pytest.approx(scores.example_error({"a": 1}))
    # The variances of the four models over the seeds add up, if the contrast's own is not larger.
    variance_over_seeds = error**2 - scores.example_error(rows["more"]) ** 2
    own_variance = np.var((of_model["b"] - of_model["a"]) - (of_model["d"] - of_model["c"]), ddof=1)
    of_models = sum(scores.seed_deviation(model) ** 2 for model in THREE_WAYS)
    assert variance_over_seeds == pytest.approx(max(of_models, own_variance) / 3)
    # (a - b) - (a - c) is c - b.
    twice = replace(contrasted, compare=[], contrasts={"a twice": [["a", "b"], ["a", "c"]]})
    assert tables.rows_of(twice) == {"a twice": {"a": 0, "b": -1, "c": 1}}


def test_tables_of_three_ways(contrasted, tmp_path):
    """d is above c plain and by margin, but not centred; there are no figures of XNLI and PAN-X."""
    (tmp_path / contrasted.name).mkdir()
    for model, by_seed in figures_of_three_ways().items():
        for seed, values in by_seed.items():
            (tmp_path / contrasted.name / f"{model}-{seed}.json").write_text(json.dumps(values))
    figures = tables.read_figures(contrasted, tmp_path)
    text = tables.as_text(contrasted, figures)
    summary = text.split("**Differences, paired by seed (bold: more than two standard errors)**")[1]
    (line,) = [line for line in summary.splitlines() if line.startswith("| d - c |")]
    # Without a column for XNLI and PAN-X. The held-out pairs: 0.9 - 0.3, each at its best layer.
    plain, held_out, centred, _, margin, _ = line.split("|")[2:-1]
    assert plain.startswith(" **+") and margin.startswith(" **+")
    assert held_out == " **+60.0 ± 0.0** "
    assert not centred.startswith(" **")
    assert "| d | 90.0 ± 0.0 | 90.0 ± 0.0 | 90.0 ± 0.0 |" in text
    for title in ("300 pairs (%)", "300 pairs, centred (%)", "300 pairs, centred, by margin (%)"):
        assert f"**Retrieval, {title}**" in text
    figures["a"][1]["xnli"] = {"de": [[1, 0], [1, 1]]}
    assert "XNLI, accuracy" not in tables.as_text(contrasted, figures)  # of one model: nothing to compare
    assert "| a | 1, 2, 3 | 2, 2, 2 | 3, 3, 3 |" in text  # the layers of each way, by seed
    # By hand, layer 0: (50 + 75) / 2; layer 1: (85 + 100) / 2.
    assert "| model | 0 | 1 |\n|---|---:|---:|\n| a | 62.5 | 92.5 |" in text
