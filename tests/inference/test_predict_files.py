"""The lines at the end of ernie-m predict for a table, against counts by hand."""

import csv
import io
import json
from pathlib import Path

import pytest

import ernie_m
from ernie_m.commands import predict
from ernie_m.inference.predict_files import TableFile, compute_confidence
from ernie_m.inference.tasks import Request
from ernie_m.reader.files.labeled_tables import UnlabeledTable
from ernie_m.reader.files.tables import Dialect, Table
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.launching import as_flags, call_main, error_of


def single_label(*labels, probabilities=()):
    return [
        {"label": label, "probabilities": {"a": 0.3, "b": 0.3, "1": 0.3, label: probability}}
        for label, probability in zip(labels, probabilities or [0.3] * len(labels))
    ]


def several_labels(*label_lists):
    return [
        {"labels": labels, "probabilities": dict.fromkeys(["a", "b", "1"], 0.3)} for labels in label_lists
    ]


def regression(*scores):
    return [{"score": score} for score in scores]


NUMBERS = [("7", "0"), ("7", "0.5"), ("7", "1"), ("7", "5")]
# The ranks are 1 2 3 4 and 1 2 4 3. Means 1.625 and 0.25, products 0.375, squares 15.6875 and 0.05.
CORRELATION = "Pearson 42.3 %, Spearman 80.0 % (4 rows with a number in 'score')"
SEVERAL = [["b", "a"], ["a", "b"], ["a", "b"], [], ["1"]]
SURE = single_label(*"aaabaaa", probabilities=[0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.99])
SOME_RIGHT = [(label,) for label in ("a", "a", "a", "a", "a", "b", "")]
# The columns, the rows, their predictions, the columns with labels, the lines, and possibly the separator and
# --target_accuracy.
SUMMARIES = {
    "rows without a label do not count": (
        ("id", "Art"),
        [("1", label) for label in ("a", " a\u200b", "1.0", "", "nan", "b", "a")],
        single_label("a", "a", "1", "b", "b", "a", "b"),
        ["Art"],
        ["7 rows: a 3, b 3, 1 1", "accuracy 60.0 %: 3 of 5 labeled rows ('Art')"],
    ),
    "several labels, all of which must be right, also none; no prediction does not count": (
        ("tags",),
        [("a, b",), ("b",), ('["b", " a"]',), ("[]",), ("NaN",), ("a",)],
        [*several_labels(*SEVERAL), {}],
        ["tags"],
        [
            "5 rows: b 3, a 3, 1 1, no label 1",
            "accuracy 75.0 %: 3 of 4 labeled rows ('tags')",
        ],
    ),
    "several labels, all unknown": (
        ("tags",),
        [("",), ("\u200b",)],
        several_labels([], ["a"]),
        ["tags"],
        ["2 rows: a 1, no label 1", "no accuracy: no labels in 'tags'"],
    ),
    "several labels in a column that is not divided": (
        ("tags",),
        [("a, b",), ("b",)],
        several_labels(["a", "b"], ["b"]),
        ["tags"],
        ["2 rows: b 2, a 1", "no accuracy: unknown label 'a, b' in 'tags' (trained on: 1, a, b)"],
        None,
    ),
    "a column for each label": (
        ("a", "b", "1", "c"),
        [("1", "0", "0", "1"), ("0", "True", "1", "0")],
        several_labels(["a"], ["b"]),
        ["a", "b", "1"],
        ["2 rows: a 1, b 1", "accuracy 50.0 %: 1 of 2 labeled rows ('a', 'b', '1')"],
    ),
    "unknown labels are neither right nor wrong": (
        ("a", "b", "1", "c"),
        [("1", "0", "", "0"), ("", "1", "0", ""), ("", "NA", "", ""), ("?", "0", "true", "")],
        several_labels(*[["a"]] * 4),
        ["a", "b", "1", "c"],
        ["4 rows: a 4", "accuracy 33.3 %: 1 of 3 labeled rows ('a', 'b', '1', 'c')"],
    ),
    "no label of the model": (
        ("label",),
        [("x",), ("y",)],
        single_label("a", "b"),
        ["label"],
        ["2 rows: a 1, b 1", "no accuracy: unknown label 'x' in 'label' (trained on: 1, a, b)"],
    ),
    "one label of the model, in the wrong case": (
        ("label",),
        [("a",), ("B",)],
        single_label("a", "b"),
        ["label"],
        ["2 rows: a 1, b 1", "no accuracy: unknown label 'B' in 'label' (trained on: 1, a, b)"],
    ),
    "a model with a label that means none": (
        ("label",),
        [("none",), ("a",)],
        [{"label": "none", "probabilities": {"none": 0.6, "a": 0.4}}] * 2,
        ["label"],
        ["2 rows: none 2", "accuracy 50.0 %: 1 of 2 labeled rows ('label')"],
    ),
    # Of the most probable 1, 4, 5 and 6 labeled rows 1, 3, 4 and 4 are right.
    **{
        f"a probability for {target}": (
            ("label",),
            SOME_RIGHT,
            SURE,
            ["label"],
            ["7 rows: a 6, b 1", "accuracy 66.7 %: 4 of 6 labeled rows ('label')", line],
            ",",
            target,
        )
        for target, line in (
            (1, "probability >= 0.9: accuracy 100.0 % on 1 rows"),
            (0.8, "probability >= 0.7: accuracy 80.0 % on 5 rows"),
            (0.1, "probability >= 0.6: accuracy 66.7 % on 6 rows"),
        )
    },
    "no probability for an accuracy": (
        ("label",),
        [("b",), ("a",)],
        single_label("a", "a"),
        ["label"],
        [
            "2 rows: a 2",
            "accuracy 50.0 %: 1 of 2 labeled rows ('label')",
            "no probability reaches an accuracy of 95 %",
        ],
        ",",
        0.95,
    ),
    "no column with labels": (("topic",), [("x",), ("a",)], single_label("a", "b"), [], ["2 rows: a 1, b 1"]),
    "numbers": (
        ("id", "score"),
        NUMBERS,
        regression(0.1, 0.2, 0.4, 0.3),
        ["score"],
        ["4 rows", CORRELATION],
    ),
    "numbers, one of which is missing": (
        ("id", "score"),
        [*NUMBERS, ("8", "")],
        regression(0.1, 0.2, 0.4, 0.3, 0.9),
        ["score"],
        ["5 rows", CORRELATION],
    ),
    "numbers without a column": (("a",), [("",)] * 2, regression(0.5, 0.1), [], ["2 rows"]),
    "numbers beside words": (
        ("score",),
        [("good",)] * 4,
        regression(*[0.5] * 4),
        ["score"],
        ["4 rows"],
    ),
    "two numbers": (
        ("score",),
        [("0",), ("1",)],
        regression(0.5, 0.1),
        ["score"],
        ["2 rows", "Pearson -100.0 %, Spearman -100.0 % (2 rows with a number in 'score')"],
    ),
    "equal numbers": (
        ("score", "id"),
        [("1", "a"), ("1.0", "b")],
        regression(0.5, 0.1),
        ["score"],
        ["2 rows", "no score: equal numbers in 'score'"],
    ),
    "one number, of which there is no correlation": (
        ("score",),
        [("0",), ("good",)],
        regression(0.5, 0.1),
        ["score"],
        ["2 rows"],
    ),
}


@pytest.mark.parametrize("case", SUMMARIES)
def test_summary_equals_hand_counted_rows(case):
    names, rows, predictions, labels, lines, *rest = SUMMARIES[case]
    separator, target = rest + [",", None][len(rest) :]
    table = Table(Path("rows.csv"), names, 1, Dialect(), [], iter(()))
    label_columns = [names.index(name) for name in labels]
    labeled = TableFile(
        UnlabeledTable(table, {}, label_columns, [], separator), False, target_accuracy=target
    )
    for row, prediction in zip(rows, predictions, strict=True):
        labeled.record_prediction([*row], prediction)
    assert labeled.format_summary() == lines


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        # A row is right if all are: three decisions of 0.7 are less sure than one of 0.6 beside two of 0.99.
        ({"labels": [], "probabilities": {"a": 0.3, "b": 0.3, "c": 0.3}}, 0.343),
        ({"labels": [], "probabilities": {"a": 0.4, "b": 0.01, "c": 0.01}}, 0.6 * 0.99**2),
        ({"label": "b", "probabilities": {"a": 0.3, "b": 0.7}}, 0.7),
        ({"answer": "a", "probability": 0.2}, 0.2),
    ],
)
def test_confidence_is_the_probability_that_a_row_is_right(prediction, expected):
    assert compute_confidence(prediction) == pytest.approx(expected)


# Rows of the columns id, a, a, (no name) and predicted_label, and their predictions.
TABLE = [
    (["0", "x", "é\t", "", "old"], {"labels": ["a", "ß"], "probabilities": {"a": 0.9, "ß": 0.6}}),
    (["1", "y", "\n", "z", "old"], {}),
    (["2", "", "", "", ""], {"labels": [], "probabilities": {"a": 0.1, "b": 0.2}, "unknown_words": 3}),
]
HEADER = ["id", "a", "a", "", "predicted_label"]
SEVERAL_LABELS = ["labels", "probabilities", "truncated", "unknown_words"]
IN_CSV = [
    [*HEADER, *(f"predicted_{key}" for key in SEVERAL_LABELS)],
    ["1", "y", "\n", "z", "old", "", "", "", ""],
    ["0", "x", "é\t", "", "old", '["a", "ß"]', '{"a": 0.9, "ß": 0.6}', "", ""],
    ["2", "", "", "", "", "[]", '{"a": 0.1, "b": 0.2}', "", "3"],
]
IN_JSON = [
    {"id": "1", "2": "y", "3": "\n", "4": "z", "predicted_label": "old"},
    {"id": "0", "2": "x", "3": "é\t", "4": "", "predicted_label": "old"}
    | {"predicted_labels": ["a", "ß"], "predicted_probabilities": {"a": 0.9, "ß": 0.6}},
    {"id": "2", "2": "", "3": "", "4": "", "predicted_label": "", "predicted_labels": []}
    | {"predicted_probabilities": {"a": 0.1, "b": 0.2}, "predicted_unknown_words": 3},
]


def written(output, rows):
    """What is written of rows to an output of this name, the least sure first."""
    table = Table(Path("rows.csv"), HEADER, 1, Dialect(byte_order_mark=""), [], iter(()))
    labeled = TableFile(UnlabeledTable(table, {}, [], [], ","), is_sorted=True, output=output)
    file = io.StringIO(newline="")
    labeled.write([(Request(cells, prediction or None), prediction) for cells, prediction in rows], file)
    return file.getvalue()


def test_write_labeled_table(caplog):
    """A row without a prediction comes first; a column without a name of its own is its number in JSON."""
    assert list(csv.reader(io.StringIO(written("out.csv", TABLE), newline=""))) == IN_CSV
    assert [json.loads(line) for line in written("out.jsonl", TABLE).splitlines()] == IN_JSON
    assert "é" in written("out.jsonl", TABLE) and not caplog.messages
    of_one = [(cells, {"label": "ä", "probabilities": {"ä": 0.9, "b": 0.1}}) for cells, _ in TABLE]
    assert written("out.tsv", of_one).splitlines() == [
        "id\ta\ta\t\tpredicted_label\tpredicted_probability\tpredicted_truncated\tpredicted_unknown_words",
        "0\tx\té \t\tä\t0.9\t\t",
        "1\ty\t \tz\tä\t0.9\t\t",
        "2\t\t\t\tä\t0.9\t\t",
    ]
    assert "predicted_label" in caplog.messages[0] and caplog.messages[1].startswith("2 cells ")
    assert written("out.csv", [(cells, {}) for cells, _ in TABLE]) == ""


@pytest.fixture
def pair_table(tmp_path, in_tmp_path):
    """A table with the columns Frage, Absatz and Wertung, in the current folder."""
    texts = toys.sentences(16, seed=2)
    lines = [f"{texts[n % 4]};{texts[4 + n]};{n / 12}" for n in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["Frage;Absatz;Wertung", *lines]) + "\n")
    return "pairs.csv"


def reads(models, folder, pairs, **more):
    """A model that gives a number to pairs of texts, or to single ones."""
    pipeline_config = stored(regression=True, pairs=pairs)
    settings = {"task": "classification", "labels": ["score"], "pipeline": pipeline_config, **more}
    toys.make_model(folder, "score", models / "piece.model", settings)
    return folder


def label(model, **flags):
    flags = {"model": model, "input": "pairs.csv", "output": "out.csv", **flags}
    call_main(predict, as_flags(flags))
    with open(flags["output"], newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


PAIR = {"text": "Frage", "text_b": "Absatz"}


@pytest.mark.parametrize("columns", [PAIR, {**PAIR, "label": "Wertung"}])
@pytest.mark.parametrize("pairs", [True, None])
def test_pair_model_reads_two_columns(models, pair_table, tmp_path, capsys, columns, pairs):
    """As those do whose files do not say what they read."""
    model = reads(models, tmp_path / "model", pairs=pairs)
    rows = label(model, task="regression", **columns)
    predictions = ernie_m.load(model).classify([(row["Frage"], row["Absatz"]) for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in predictions])
    assert ("'Wertung'" in capsys.readouterr().err) == ("label" in columns)
    texts = [row["Absatz"] for row in rows[::4]]  # of one question
    ranked = [{"index": i, "text": text, **predictions[4 * i]} for i, text in enumerate(texts)]
    ranked.sort(key=lambda one: -one["score"])
    assert ernie_m.load(model).rank(rows[0]["Frage"], texts) == ranked


@pytest.mark.parametrize("columns", [{}, {"text": "Frage"}])
def test_pair_model_rejects_single_texts(models, pair_table, tmp_path, refused, columns):
    model = reads(models, tmp_path / "model", pairs=True)
    assert "pairs.csv, line 1: " in refused(lambda: label(model, **columns))
    assert "text_b" in error_of(ernie_m.load(model).classify, ["Wie?"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_least_sure_rows_first(models, pair_table, tmp_path, multi_label):
    """If --sort says so."""
    model = changed_copy(models / "classify", tmp_path / "model", pipeline=stored(multi_label=multi_label))
    texts = [row["Absatz"] for row in label(model, text="Absatz", output="table.csv")]
    predictions = ernie_m.load(model).classify(texts)
    by_confidence = sorted(range(len(texts)), key=lambda number: compute_confidence(predictions[number]))
    rows = label(model, text="Absatz", sort="uncertain")
    assert [row["Absatz"] for row in rows] == [texts[number] for number in by_confidence] != texts


def test_label_with_question_and_context_columns(models, pair_table):
    rows = label(models / "answer", columns="Frage,Absatz", task="question-answering")
    model = ernie_m.load(models / "answer")
    predictions = [model.answer(row["Frage"], row["Absatz"])["answer"] for row in rows]
    assert [row["predicted_answer"] for row in rows] == predictions


def test_single_text_model_reads_one_column(models, pair_table, tmp_path, refused):
    model = reads(models, tmp_path / "model", pairs=False)
    rows = label(model, text="Absatz")
    predictions = ernie_m.load(model).classify([row["Absatz"] for row in rows])
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx([a["score"] for a in predictions])
    (tmp_path / "out.csv").unlink()
    assert "'Frage' and 'Absatz'" in refused(lambda: label(model, **PAIR))
    assert "text_b" in error_of(ernie_m.load(model).classify, [("Wie?", "So.")])
    assert "rank" in error_of(ernie_m.load(model).rank, "Wie?", ["So."])


def test_training_columns_are_read_again(models, pair_table, tmp_path, capsys):
    """Also those of a file with JSON lines; without a flag."""
    model = reads(
        models, tmp_path / "model", pairs=False, columns={"text": "Frage+Absatz", "label": "Wertung"}
    )
    rows = label(model)
    texts = [f"{row['Frage']}\n{row['Absatz']}" for row in rows]
    scores = [prediction["score"] for prediction in ernie_m.load(model).classify(texts)]
    assert [float(row["predicted_score"]) for row in rows] == pytest.approx(scores)
    assert "'Wertung'" in capsys.readouterr().err
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call_main(predict, as_flags({"model": model, "input": "rows.jsonl", "output": "out.jsonl"}))
    predictions = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [prediction["score"] for prediction in predictions] == pytest.approx(scores)


def test_a_table_is_looked_at_before_the_model_is_loaded(models, pair_table, tmp_path, refused):
    model = reads(models, tmp_path / "model", pairs=False)
    (model / "model.safetensors").unlink()
    assert "pairs.csv, line 1: " in refused(lambda: label(model))
    assert "pairs.csv, line 1: --text Frag: " in refused(lambda: label(model, text="Frag"))
