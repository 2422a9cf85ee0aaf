"""The tables of a report are those written by hand here; the paper's figures stand beside them."""

import json

import pytest

from ernie_m.finetune.metrics import MACRO_F1
from ernie_m.finetune.paper import figures, recipes
from ernie_m.finetune.score_tables import (
    LabelTable,
    Table,
    faults_of_labels,
    macro_f1_of_seeds,
    tables_of_seeds,
    to_text,
    write_report,
)
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.finetune.tasks.regression import Regression
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.batching import Example
from ernie_m.training.log.evaluation import Evaluation
from ernie_m.utils.text_tables import in_markdown
from tests.launching import ROOT

CONLL = "conll_cross_lingual_transfer"
TWO_SEEDS = Table("acc, dev.%s.tsv", {1: {"en": 80.0, "de": 70.0}, 2: {"en": 84.0, "de": 76.0}})
ONE_SEED = Table("acc, test.%s.tsv", {7: {"de": 61.234, "fr": 60.0}})


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
    assert in_markdown(ONE_SEED.cells()).splitlines() == [
        "|  | de | fr | avg |",
        "|---|---:|---:|---:|",
        "| seed 7 | 61.23 | 60.00 | 60.62 |",
    ]


# 4 rows of a, 3 right and 1 taken for b; 2 rows of b, 1 right and 1 taken for c; no row of c.
CONFUSION = {"a": {"a": 3, "b": 1}, "b": {"b": 1, "c": 1}}
RIGHT = {"a": {"a": 4}, "b": {"b": 2}}


def test_the_table_of_labels():
    """Worked by hand: F1 of a is 2 x 1 x 0.75 / 1.75, of b 0.5. Macro F1 is their mean with the 0 of c."""
    table = LabelTable("labels, dev", CONFUSION)
    assert to_text([table]) == (
        "labels, dev\n"
        "   precision  recall     f1  rows  as a  as b  as c\n"
        "a     100.00   75.00  85.71     4     3     1     0\n"
        "b      50.00   50.00  50.00     2     0     1     1\n"
        "c       0.00    0.00   0.00     0     0     0     0"
    )
    values = table.to_json()
    assert values["macro f1"] == pytest.approx((600 / 7 + 50 + 0) / 3)
    assert values["labels"]["a"] == {
        "precision": 100.0,
        "recall": 75.0,
        "f1": pytest.approx(600 / 7),
        "rows": 4,
    }
    assert values["confusion"] == CONFUSION


def test_many_labels_have_no_columns_for_what_is_predicted():
    table = LabelTable("", {f"label {i}": {f"label {i}": 1} for i in range(13)})
    assert {len(line) for line in table.cells()} == {5}


def test_the_rows_beside_the_accuracy():
    """Macro F1 of both seeds: 45.24 and 100."""
    beside = {"macro f1": macro_f1_of_seeds({1: {"en": CONFUSION}, 2: {"en": RIGHT}})}
    lines = to_text([Table("acc", {1: {"en": 66.67}, 2: {"en": 100.0}}, beside=beside)]).splitlines()
    assert lines[6:] == [" macro f1    72.62    72.62"]


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        # a in 4 of 6 rows: F1 of a is 2 x 4 / (6 + 4), that of b is 0.
        (
            Classification(None, ["a", "b"], 16, metric=MACRO_F1),
            [0, 0, 1, 0, 1, 0],
            {"acc": 400 / 6, "macro f1": 40.0},
        ),
        # b in 3 of 4 texts, alone in 1, and a in 1: F1 of b is 2 x 3 / (4 + 3), and of all 2 x 3 / (4 + 4).
        (Regression(None, 16), [0.5, 1.0], {}),
    ],
)
def test_always_saying_the_most_frequent_label(task, labels, expected):
    """It is scored as the model is, in each measure of the task."""
    data = [Example("", None, label) for label in labels]
    assert task.baseline(data) == pytest.approx(expected)


def config_of(size):
    return ErnieMConfig.from_json(ROOT / f"configs/{size}/ernie_config.json")


def figures_of_conll(languages, metric="f1 over pieces", recipe=CONLL):
    """The figures beside a run of base on CoNLL's data."""
    return figures(recipe, config_of("base"), 14_041, metric, languages)


def test_the_papers_rows_stand_below():
    """The gap is English less the mean of the others: 90 - (60 + 1) / 2. The paper has no language xx."""
    scores = {1: {"en": 90.0, "de": 60.0, "xx": 1.0}}
    table = Table("f1", scores, figures_of_conll(list(scores[1])))
    assert in_markdown(table.cells()).splitlines()[2:] == [
        "| seed 1 | 90.00 | 60.00 | 1.00 | 50.33 | 59.50 |",
        "| paper, base (Table 2; avg of 2) | 92.78 | 68.08 |  | 80.43 | 24.70 |",
        "| paper, large (Table 2; avg of 2; other data or size) | 93.28 | 72.99 |  | 83.13 | 20.29 |",
    ]
    assert table.to_json()["paper"]["paper, base (Table 2; avg of 2)"]["gap"] == pytest.approx(92.78 - 68.08)


def test_the_average_is_as_printed_where_all_languages_are_there():
    all_languages = figures_of_conll(["de", "es", "nl", "en"])
    assert all_languages["paper, base (Table 2)"]["avg"] == 79.56
    assert all_languages["paper, small (Table 8; other data or size)"] == {
        "avg": 69.8
    }  # it has no more of it
    # There are no rows without a language, a metric or a recipe of the paper.
    assert figures_of_conll(["xx"]) == {}
    assert figures_of_conll(["en"], metric="f1 over words") == {}
    assert figures_of_conll(["en"], recipe=None) == {}


@pytest.mark.parametrize("recipe", recipes())
def test_a_row_of_the_paper_is_marked_unless_size_and_data_are_the_same(recipe):
    recipe_figures = recipes()[recipe]
    metric, rows = next(iter(recipe_figures["figures"].items()))
    languages = recipe_figures["columns"].split()[:-1]
    count = recipe_figures["examples"]
    for examples in (0, round(0.98 * count), count - 3, count):
        for size in ("small", "base", "large"):
            names = figures(recipe, config_of(size), examples, metric, languages)
            comparable = [name for name in names if "other data or size" not in name]
            expected = size in rows and examples > 0.99 * count
            assert [name.split()[1] for name in comparable] == [size] * expected
            assert len(names) == len(rows)


def test_the_tables_of_a_run():
    """The paper's figures stand beside the last of three patterns. A metric does not stand beside itself."""
    scores = {"en": {"acc": 90.0, "macro f1": 80.0}}
    patterns = ("a.%s.tsv", "b.%s.tsv", "c.%s.tsv")
    evaluation = Evaluation(
        step=1,
        epoch=0,
        selected_by=90.0,
        scores=dict.fromkeys(patterns, scores),
        confusion={pattern: {"en": CONFUSION} for pattern in patterns},
    )
    baselines = [{"en": {"acc": 60.0 + place, "macro f1": 30.0}} for place in range(3)]
    paper = {("acc", ("en",)): {"paper, base": {"en": 85.5}}}
    tables, label_tables = tables_of_seeds(
        {1: evaluation}, baselines, lambda metric, languages: paper.get((metric, (*languages,)), {})
    )
    assert [table.title for table in tables if table.paper] == ["acc, c.%s.tsv"]
    assert [table.beside["most frequent label"]["en"] for table in tables] == [60, 30, 61, 30, 62, 30]
    assert [[*table.beside] for table in tables[:2]] == [
        ["macro f1", "most frequent label"],
        ["most frequent label"],
    ]
    assert len(label_tables) == 3


@pytest.mark.parametrize(("right", "is_fault"), [(50, True), (59, True), (61, False), (100, False)])
def test_a_model_that_has_learned_nothing(right, is_fault):
    """Of two labels with 50 rows each; two standard errors of 50 % are 10 %."""
    confusion = {"a": {"a": 50}, "b": {"a": 100 - right, "b": right - 50}}
    faults = faults_of_labels([LabelTable("labels, dev, en, seed 1", confusion)])
    assert [fault.startswith("labels, dev, en, seed 1: ") for fault in faults] == [True] * is_fault
    assert faults_of_labels([LabelTable("of few rows", {"a": {"b": 5}})]) == []


@pytest.mark.parametrize("recipe", recipes())
def test_averages_of_the_paper_agree_with_its_rows(recipe):
    """To the rounding of the figures: a slip of the typist would show."""
    recipe_figures = recipes()[recipe]
    columns = recipe_figures["columns"].split()
    assert columns[-1] == "avg" and len(set(columns)) == len(columns)
    for rows in recipe_figures["figures"].values():
        for size, cells in rows.items():
            if isinstance(cells, str):  # a whole row, and not an average alone
                *values, printed_average = map(float, cells.split())
                assert len(values) + 1 == len(columns)
                # The paper prints one or two decimals. One unit of the last is allowed, and a bit more.
                has_one_decimal = printed_average == round(printed_average, 1)
                tolerance = 0.101 if has_one_decimal else 0.011
                assert abs(sum(values) / len(values) - printed_average) < tolerance, (recipe, size)


def test_the_report_is_written_as_json_markdown_and_text(tmp_path):
    paper = {"paper, base": {"en": 81.0, "avg": 81.0}, "paper, small": {"avg": 50.0}}
    tables = [Table("acc", TWO_SEEDS.rows, paper), Table("em", ONE_SEED.rows)]
    write_report(tmp_path, "results", tables, {"task": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.md", "results.txt"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["task"], [table["title"] for table in written["tables"]]) == ("x", ["acc", "em"])
    head = "**acc**\n\n|  | en | de | avg | gap |\n|---|---:|---:|---:|---:|\n| seed 1 | 80.00 |"
    assert (tmp_path / "results.md").read_text().startswith(head)
