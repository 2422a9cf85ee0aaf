"""The tables of a report are those written by hand here; the paper's results stand next to them."""

import json

import pytest

from ernie_m.finetune.classifier import Classification, Regression
from ernie_m.finetune.score_tables import (
    PaperRow,
    ScoreTable,
    get_paper_rows,
    load_recipe_scores,
    make_seed_tables,
    to_text,
    write_report,
)
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.batching import Example
from ernie_m.training.log import Evaluation
from ernie_m.utils.logging import format_markdown_table
from tests.launching import ROOT

CONLL = "conll_cross_lingual_transfer"
TWO_SEEDS = ScoreTable("acc, dev.%s.tsv", {1: {"en": 80.0, "de": 70.0}, 2: {"en": 84.0, "de": 76.0}})
ONE_SEED = ScoreTable("acc, test.%s.tsv", {7: {"de": 61.234, "fr": 60.0}})


def test_the_table_that_is_printed():
    """The deviations divide by n - 1: that of 80 and 84 is the root of (2^2 + 2^2) / 1."""
    assert to_text([TWO_SEEDS]) == (
        "acc, dev.%s.tsv\n"
        "               en      de     avg     gap\n"
        "   seed 1   80.00   70.00   75.00   10.00\n"
        "   seed 2   84.00   76.00   80.00    8.00\n"
        "     mean   82.00   73.00   77.50    9.00\n"
        "deviation  ± 2.83  ± 4.24  ± 3.54  ± 1.41"
    )


def test_one_seed_has_no_deviation_and_without_english_there_is_no_gap():
    assert format_markdown_table(ONE_SEED.format_cells()).splitlines() == [
        "|  | de | fr | avg |",
        "|---|---:|---:|---:|",
        "| seed 7 | 61.23 | 60.00 | 60.62 |",
    ]


def test_always_saying_the_most_frequent_label():
    data = [Example("", None, label) for label in (0, 0, 1, 0, 1, 0)]
    assert Classification(None, ["a", "b"], 16).compute_baseline(data) == {"acc": pytest.approx(400 / 6)}
    assert Regression(None, 16).compute_baseline(data) == {}


def load_config(size):
    return ErnieMConfig.from_json(ROOT / f"configs/{size}/ernie_config.json")


def get_conll_rows(languages, metric="f1 over subwords", recipe=CONLL):
    """The rows of the paper next to a run of base on CoNLL's data."""
    return get_paper_rows(recipe, load_config("base"), 14_041, metric, languages)


def test_the_papers_rows_stand_below():
    """The gap is English less the mean of the others: 90 - (60 + 1) / 2. The paper has no language xx."""
    scores = {1: {"en": 90.0, "de": 60.0, "xx": 1.0}}
    table = ScoreTable("f1", scores, get_conll_rows(list(scores[1])))
    assert format_markdown_table(table.format_cells()).splitlines()[2:] == [
        "| seed 1 | 90.00 | 60.00 | 1.00 | 50.33 | 59.50 |",
        "| paper, base (Table 2; avg of 2) | 92.78 | 68.08 |  | 80.43 | 24.70 |",
        "| paper, large (Table 2; avg of 2; other model or data) | 93.28 | 72.99 |  | 83.13 | 20.29 |",
    ]
    assert table.to_json()["paper"]["paper, base (Table 2; avg of 2)"]["gap"] == pytest.approx(92.78 - 68.08)


@pytest.mark.parametrize(
    "averages, last_cells, verdict",
    [
        ([79.7, 80.1, 79.9], "+0.34 ± 0.12", "difference: agrees"),
        ([80.2, 80.4, 80.0], "+0.64 ± 0.12", "difference"),  # too far
        ([79.0, 80.9, 79.5], "+0.24 ± 0.57", "difference"),  # not known well enough
        ([79.6], "+0.04", "difference"),  # one seed says nothing of the error
    ],
)
def test_when_a_run_agrees_with_the_paper(averages, last_cells, verdict):
    """CoNLL's four languages and data, in the shape of base: by the average alone."""
    languages = ("en", "nl", "es", "de")
    rows = {seed: dict.fromkeys(languages, score) for seed, score in enumerate(averages)}
    table = ScoreTable("f1", rows, get_conll_rows(languages))
    lines = [line for line in table.format_cells() if line[0].startswith("difference")]
    assert [(name, cells[4]) for name, *cells in lines] == [(verdict, last_cells)]
    ((points, _),) = [row["avg"] for row in table.to_json()["difference"].values()]
    assert points == pytest.approx(sum(averages) / len(averages) - 79.56)


@pytest.mark.parametrize("others", [(["xx"],), (["en"], "f1 over words"), (["en"], "f1 over subwords", None)])
def test_there_are_no_rows_without_a_language_a_metric_or_a_recipe_of_the_paper(others):
    assert get_conll_rows(*others) == {}


@pytest.mark.parametrize("recipe", load_recipe_scores())
def test_mark_paper_scores_if_size_or_data_differ(recipe):
    in_paper = load_recipe_scores()[recipe]
    metric, rows = next(iter(in_paper["scores"].items()))
    languages = in_paper["columns"].split()[:-1]
    count = in_paper["examples"]
    for examples in (0, round(0.98 * count), count - 3, count):
        for size in ("small", "base", "large"):
            rows_of_run = get_paper_rows(recipe, load_config(size), examples, metric, languages)
            comparable = [name for name, row in rows_of_run.items() if row.is_comparable]
            assert comparable == [name for name in rows_of_run if "other model or data" not in name]
            expected = size != "small" and size in rows and examples > 0.99 * count
            assert [name.split()[1] for name in comparable] == [size] * expected
            assert len(rows_of_run) == len(rows)


def test_report_tables():
    """The paper's results stand next to the last of three patterns."""
    scores = {f"{name}.%s.tsv": {"en": {"acc": 90.0, "em": 80.0}} for name in "abc"}
    evaluation = Evaluation(step=1, epoch=0, selected_by=90.0, scores=scores)
    baselines = [{"en": {"acc": 60.0 + location}} for location in range(3)]
    paper = {("acc", ("en",)): {"paper, base": PaperRow({"en": 85.5}, True)}}
    tables = make_seed_tables(
        {1: evaluation}, baselines, lambda metric, languages: paper.get((metric, (*languages,)), {})
    )
    assert [table.title for table in tables if table.paper] == ["acc, c.%s.tsv"]
    always = [table.comparison["majority baseline"] for table in tables]
    assert always == [{"en": 60}, {}, {"en": 61}, {}, {"en": 62}, {}]


def test_the_report_is_written_as_json_markdown_and_text(tmp_path):
    paper = {
        "paper, base": PaperRow({"en": 81.0, "avg": 81.0}, True),
        "paper, small": PaperRow({"avg": 50.0}, True),
    }
    tables = [ScoreTable("acc", TWO_SEEDS.rows, paper), ScoreTable("em", ONE_SEED.rows)]
    write_report(tmp_path, "results", tables, {"task": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md", "results.txt"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["task"], [table["title"] for table in written["tables"]]) == ("x", ["acc", "em"])
    head = "**acc**\n\n|  | en | de | avg | gap |\n|---|---:|---:|---:|---:|\n| seed 1 | 80.00 |"
    text = (tmp_path / "results.md").read_text()
    assert text.startswith(head) and all(f"{name}: " in text for name in ("deviation", "avg", "gap"))
