"""The tables of a report are those written by hand here; the paper's results stand next to them."""

import json
import shlex
from types import SimpleNamespace

import pytest

from ernie_m.finetune.classifier import Classification, Regression
from ernie_m.finetune.evaluate import LanguageFile
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.run_seeds import report_seeds
from ernie_m.finetune.score_tables import (
    _LEGEND,
    ScoreTable,
    get_paper_rows,
    load_recipe_scores,
    to_text,
)
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import TOKEN_CLASSIFICATION
from ernie_m.reader.text_featurizer import Example
from ernie_m.training.log import Evaluation
from ernie_m.utils.errors import get_command_line
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
    data = [Example("", None, label) for label in (1, 0, 0, 0, 1, 0)]
    assert Classification(None, ["a", "b"], 16).compute_baseline(data) == {"acc": pytest.approx(400 / 6)}
    assert Regression(None, 16).compute_baseline(data) == {}


def load_config(size):
    return ErnieMConfig.from_json(ROOT / f"configs/{size}/ernie_config.json")


def get_conll_rows(languages, metric="f1 over subwords", recipe=CONLL):
    """The rows of the paper next to a run of base on CoNLL's data."""
    return get_paper_rows(recipe, load_config("base"), 14_041, metric, languages)


def test_the_papers_rows_stand_below():
    """The gap is English less the mean of the others: 90 - (70 + 70 + 60 + 1) / 4. The paper has no xx."""
    scores = {1: {"en": 90.0, "nl": 70.0, "es": 70.0, "de": 60.0, "xx": 1.0}}
    table = ScoreTable("f1", scores, get_conll_rows(list(scores[1])))
    other = "other model or data"
    assert format_markdown_table(table.format_cells()).splitlines()[2:] == [
        "| seed 1 | 90.00 | 70.00 | 70.00 | 60.00 | 1.00 | 58.20 | 39.75 |",
        "| paper, base (Table 2; avg of 4) | 92.78 | 78.01 | 79.37 | 68.08 |  | 79.56 | 17.63 |",
        f"| paper, large (Table 2; avg of 4; {other}) | 93.28 | 81.45 | 78.83 | 72.99 |  | 81.64 | 15.52 |",
    ]


@pytest.mark.parametrize(
    "averages, last_cells, verdict",
    [
        ([79.7, 80.1, 79.9], "+0.34 ± 0.12", "difference: agrees"),
        ([80.2, 80.4, 80.0], "+0.64 ± 0.12", "difference"),  # too far
        ([78.9, 79.1, 78.7], "-0.66 ± 0.12", "difference"),
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


# Of two seeds and two patterns, of which the paper reports the last. The second seed is at the baseline.
REPORT = """\
**f1 over subwords, dev.%s.tsv**

|  | en | de | avg | gap |
|---|---:|---:|---:|---:|
| seed 3 | 90.00 | 60.00 | 75.00 | 30.00 |
| seed 7 | 80.00 | 55.00 | 67.50 | 25.00 |
| mean | 85.00 | 57.50 | 71.25 | 27.50 |
| deviation | ± 7.07 | ± 3.54 | ± 5.30 | ± 3.54 |
| majority baseline | 79.50 | 55.00 | 67.25 |  |

**f1 over subwords, test.%s.tsv**

|  | en | de | avg | gap |
|---|---:|---:|---:|---:|
| seed 3 | 91.00 | 61.00 | 76.00 | 30.00 |
| seed 7 | 82.00 | 56.00 | 69.00 | 26.00 |
| mean | 86.50 | 58.50 | 72.50 | 28.00 |
| deviation | ± 6.36 | ± 3.54 | ± 4.95 | ± 2.83 |
| majority baseline | 10.00 | 20.00 | 15.00 |  |
| paper, base (Table 2; avg of 2{other}) | 92.78 | 68.08 | 80.43 | 24.70 |
| paper, large (Table 2; avg of 2; other model or data) | 93.28 | 72.99 | 83.13 | 20.29 |

"""


SUBWORDS = "f1 over subwords"
# Pattern -> language -> score, of each seed, and of a model that always says the same.
SCORES = {
    3: {"dev.%s.tsv": {"en": 90.0, "de": 60.0}, "test.%s.tsv": {"en": 91.0, "de": 61.0}},
    7: {"dev.%s.tsv": {"en": 80.0, "de": 55.0}, "test.%s.tsv": {"en": 82.0, "de": 56.0}},
}
BASELINES = {"dev.%s.tsv": {"en": 79.5, "de": 55.0}, "test.%s.tsv": {"en": 10.0, "de": 20.0}}


def with_metric(scores):
    """pattern -> language -> metric -> score"""
    return {
        pattern: {language: {SUBWORDS: score} for language, score in row.items()}
        for pattern, row in scores.items()
    }


@pytest.mark.parametrize(
    ("flags", "name", "other"),
    [
        ({"init_pretraining_params": "initial"}, "results", ""),
        ({}, "results", "; other model or data"),  # random weights
        ({"init_checkpoint": "initial", "do_train": False}, "evaluation", "; other model or data"),
    ],
)
def test_all_that_is_written_of_two_seeds(tmp_path, caplog, info_log, flags, name, other):
    """The training data have as many sentences as CoNLL's, in two windows each."""
    run = SimpleNamespace(
        task=SimpleNamespace(
            name=TOKEN_CLASSIFICATION,
            metric=SUBWORDS,
            compute_baseline=lambda data: data,
            hash_inputs=lambda windows: windows[::2],
        ),
        flags=FinetuneFlags(checkpoints=str(tmp_path), paper=CONLL, select_on="en", **flags),
        config=load_config("base"),
        train_set=range(2 * 14_041),
        dev_files=[
            LanguageFile(pattern, language, None, score)
            for pattern, row in with_metric(BASELINES).items()
            for language, score in row.items()
        ],
    )
    report_seeds(run, {seed: Evaluation(8, seed, 90, with_metric(of)) for seed, of in SCORES.items()})
    texts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert texts.keys() == {f"{name}.{ending}" for ending in ("txt", "md", "json")}
    assert texts[f"{name}.md"] == REPORT.replace("{other}", other) + f"{_LEGEND}\n"
    assert [f"{message}\n" for message in caplog.messages] == [
        f"{SUBWORDS}, dev.%s.tsv: not above the majority baseline: de (55.00)\n",
        f"results\n{texts[f'{name}.txt']}",
        f"wrote {tmp_path / name}.{{txt,md,json}}\n",
    ]
    written = json.loads(texts[f"{name}.json"])
    assert texts[f"{name}.json"] == json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    dev, test = written.pop("tables")
    assert dev == {
        "title": f"{SUBWORDS}, dev.%s.tsv",
        "seeds": {
            "3": {"en": 90, "de": 60, "avg": 75, "gap": 30},
            "7": {"en": 80, "de": 55, "avg": 67.5, "gap": 25},
        },
        "mean": {"en": 85, "de": 57.5, "avg": 71.25, "gap": 27.5},
        "deviation": {
            column: pytest.approx(size / 2**0.5)  # of two values it is their distance over the root of 2
            for column, size in {"en": 10, "de": 5, "avg": 7.5, "gap": 5}.items()
        },
        "majority baseline": BASELINES["dev.%s.tsv"],
    }
    assert test["title"] == f"{SUBWORDS}, test.%s.tsv"
    selected = {str(seed): {"step": 8, "epoch": seed, "selected_by": 90} for seed in SCORES}
    facts = {
        "task": "tagging",
        "metric": SUBWORDS,
        "select_on": "en",
        "command": shlex.join(get_command_line()),
    }
    assert written == facts | ({"selected": selected} if name == "results" else {})
