"""Rows with labels of one's own: what is read, what is held out together, and how answers are "
"scored."""

import csv

import numpy as np
import pytest

from ernie_m.fit.labeled_rows import LabeledDataset, build_dataset, load_dataset
from ernie_m.fit.scores import EvaluationResult
from ernie_m.fit.split_rows import estimate_near_duplicate_share, group_translations, split_rows
from ernie_m.model.pipeline_config import COLUMNS
from ernie_m.model.tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.row_errors import MOST_ERRORS
from ernie_m.reader.files.table_options import LabelOptions
from tests.launching import error_of

TEXTS = [f"text {number}" for number in range(12)]


def rows(labels, kind=CLASSIFICATION, texts=None, languages=None, groups=None, like=None) -> LabeledDataset:
    texts = [[text] if isinstance(text, str) else text for text in texts or TEXTS[: len(labels)]]
    locations = [f"line {number}" for number in range(1, len(labels) + 1)]
    none = [""] * len(labels)
    return build_dataset(kind, texts, labels, locations, languages or none, groups or none, like)


@pytest.fixture
def read(tmp_path):
    """read(*lines, kind=None, like=None, **flags) -> the rows of a table with these lines."""

    def read(*lines, kind=None, like=None, name="my.csv", **flags):
        path = tmp_path / name
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
        return load_dataset([NamedFile(path, "train", "all")], LabelOptions(**flags), kind, like)

    return read


def table(header, *cells, count=12):
    """Lines of a table. `cells`: those after the text of row i are row i of them, again and again."""
    return [header, *([f"text {number}", *cells[number % len(cells)]] for number in range(count))]


@pytest.mark.parametrize(
    ("lines", "options", "kind", "targets"),
    [
        (table(("text", "label"), ("b",), ("a",)), {}, CLASSIFICATION, [1, 0]),
        (table(("text", "Score"), ("0.5",), ("2",)), {}, REGRESSION, [0.5, 2]),
        (
            table(("text", "Note"), ("1.5",), ("-2",)),
            {"label": "Note", "kind": REGRESSION},
            REGRESSION,
            [1.5, -2],
        ),
        (table(("text", "a", "b"), (1, 0), (1, 1)), {"label": "a,b"}, MULTI_LABEL, [(1, 0), (1, 1)]),
        (
            table(("text", "labels"), ("b,a",), ("[]",)),
            {"label_separator": ","},
            MULTI_LABEL,
            [(1, 1), (0, 0)],
        ),
        (table(("text", "labels"), ('["b", "a"]',), (" []",)), {}, MULTI_LABEL, [(1, 1), (0, 0)]),
        (
            table(("text", "a", "b"), (1, 0), (0, 1), ("nan", 1)),
            {"label": "a,b"},
            MULTI_LABEL,
            [(1, 0), (0, 1), (-1, 1)],
        ),
        (table(("text", "label"), (1,), (0,)), {}, CLASSIFICATION, [1, 0]),
        (table(("text", "label"), ("a,b",), ("a",)), {"kind": CLASSIFICATION}, CLASSIFICATION, [1, 0]),
        (table(("text", "label"), ("new york",), ("new",)), {}, CLASSIFICATION, [1, 0]),
        (table(("text", "label"), ("room",), ("101",)), {}, CLASSIFICATION, [1, 0]),
    ],
)
def test_labels_decide_the_kind_of_task(read, lines, options, kind, targets):
    found = read(*lines, **options)
    assert found.kind == kind
    np.testing.assert_array_equal(found.targets, np.array(targets * (12 // len(targets))))
    assert found.columns["text"] == "text" and found.locations[3].endswith("my.csv, line 5")
    assert found.to_settings() == {COLUMNS: found.columns}  # labels are texts, as they were given


@pytest.mark.parametrize(
    ("lines", "options", "location"),
    [
        (table(("text", "label"), ("a",)), {}, "line 2: all 12 rows have the label 'a'"),
        (table(("text", "score"), ("3",)), {}, "line 2: all 12 rows have equal labels"),
        (table(("text", "score"), ("3",), ("tall",)), {}, "line 3: invalid label 'tall'"),
        (table(("text", "score"), ("tall",)), {"on_error": "skip"}, "line 2: invalid label 'tall'"),
        (table(("text", "score"), ("500",), ("1.000",)), {}, "line 3: ambiguous number '1.000' (1,000 or 1)"),
        (table(("text", "label"), ("a",), ("b,a",)), {}, "line 3: ambiguous label 'b,a'"),
        (table(("text", "label"), ("a,c",), ("b,a",)), {}, "line 2: ambiguous label 'a,c'"),
        (table(("text", "label"), ("a",), ("a / b",), ("b",)), {}, "line 3: ambiguous label 'a / b'"),
        (table(("text", "label"), ("0 0 1",), ("1 0 1",)), {}, "line 2: ambiguous label '0 0 1'"),
        (table(("text", "label"), ("001",), ("101",)), {}, "line 2: ambiguous label '001'"),
        (table(("text", "label"), ("0.5",), ("2",)), {}, "line 2: ambiguous label '0.5'"),
        (table(("text", "text_b", "label"), ("b", "0"), ("c", "1")), {}, "line 2: ambiguous label '0'"),
        (table(("text", "label"), *([number] for number in range(11))), {}, "line 2: ambiguous label '0'"),
        (
            table(("text", "a", "b"), (1, 0), (0, 0)),
            {"label": "a,b"},
            "line 1: label column 'b' is missing or has no 1",
        ),
        (
            table(("text", "a", "b"), (1, 0), (0, 1)),
            {"label": "a,b,c"},
            "line 1: label column 'c' is missing or has no 1",
        ),
        (
            table(("text", "a", "b"), (1, ""), ("", 1)),
            {"label": "a,b"},
            "line 1: label column 'a' is missing or has no 0",
        ),
        (table(("text", "a", "b"), ("", "")), {"label": "a,b"}, "line 2: no known label"),
        (table(("text", "labels"), ('["a", ""]',)), {}, "line 2: invalid label ''"),
    ],
)
def test_untrainable_labels_name_the_line(read, lines, options, location):
    assert f"my.csv, {location}" in error_of(read, *lines, **options)


@pytest.mark.parametrize(
    ("lines", "options", "location"),
    [
        (table(("text", "label"), ("a",), ("c",)), {}, "line 3: unknown label 'c'"),
        (table(("text", "text_b", "label"), ("x", "a"), ("x", "b")), {}, "line 2: invalid row of 2 texts"),
        (
            table(("text", "a", "c"), (1, 0), (1, 1)),
            {"label": "a,c", "kind": MULTI_LABEL},
            "line 3: unknown label 'c'",
        ),
    ],
)
def test_test_file_must_have_the_trained_labels(read, lines, options, location):
    """All rows with another label are named."""
    training = rows([["a"], ["b"]] if options else ["a", "b"], options.get("kind", CLASSIFICATION))
    line = error_of(read, *lines, like=training, **options)
    assert f"my.csv, {location}" in line
    assert line.count("unknown label") == 6 * ("unknown label" in location)


def test_labels_without_a_column_are_unknown(read, tmp_path):
    """In one of two files; a test may have more columns."""
    training = read(*table(("text", "a", "b"), (1, 0), (0, 1), count=2), name="first.csv", label="a,b")
    read(*table(("text", "a", "b", "c"), (1, 0, 0)), like=training, label="a,b,c")
    read(*table(("text", "c", "a", "b"), (1, 1, 0), (0, 0, 1), count=2), name="second.csv", label="a,b,c")
    both = [NamedFile(tmp_path / name, "train", "all") for name in ("first.csv", "second.csv")]
    dataset = load_dataset(both, LabelOptions(label="a,b,c"))
    assert dataset.targets.tolist() == [[1, 0, -1], [0, 1, -1], [1, 0, 1], [0, 1, 0]]
    (issue,) = dataset.find_issues()  # equal texts have no other labels
    assert issue.startswith("2 of 12 labels are unknown")


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (table(("text", "labels"), ("a;b",), ("",), ("[]",)), {"label_separator": ";"}),
        (table(("text", "a", "b"), (1, 1), ("NA", " "), (0, 0)), {"label": "a,b"}),
    ],
)
def test_unlabeled_rows_are_dropped(read, caplog, lines, options):
    training = read(*lines, **options)
    assert training.targets.tolist() == [[1, 1], [0, 0]] * 4
    assert training.locations[1].endswith("line 4") and [*training.find_issues()] == []
    assert "line 3: no known label, in 4 of 12 rows" in caplog.text
    assert "line 2: no known label" in error_of(read, *lines[:1], lines[2], like=training, **options)


def test_columns_of_the_first_file_are_kept(read, tmp_path):
    (tmp_path / "first.csv").write_text("sentence,label\nx,a\ny,b\n")
    read(("text", "Label"), ("z", "a"), ("v", "b"), name="second.csv")
    files = [NamedFile(tmp_path / name, "train", "all") for name in ("first.csv", "second.csv")]
    dataset = load_dataset(files, LabelOptions(text=None))
    assert dataset.columns == {"text": "sentence", "label": "label"}
    assert dataset.make_task(None, 16, "q: ").prompt == "q: "


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([[1, 0], [0, 1]], MULTI_LABEL, "line 1: invalid labels [1, 0]"),
        ([[True, False], [False]], MULTI_LABEL, "line 1: invalid labels [True, False]"),
        ([["0.0", "1.0"], []], MULTI_LABEL, "line 1: invalid labels ['0.0', '1.0']"),
        ([[0.7, 0.3], [0.2, 0.8]], MULTI_LABEL, "line 1: invalid labels [0.7, 0.3]"),
        ([["a", True], ["b", False]], MULTI_LABEL, "line 1: ['a', True] mixes"),
        ([["a", "b"], ["b", 2]], MULTI_LABEL, "line 2: ['b', 2] mixes"),
        ([0.1, 0.35, 0.5, "0,8"], CLASSIFICATION, "line 4: invalid label '0,8'"),
        ([1, 2, 0.5, "n/a"], CLASSIFICATION, "line 4: invalid label 'n/a'"),
        (["a", "['a']"], CLASSIFICATION, "line 2: invalid label \"['a']\""),
        ([*range(11), -1] * 11 + [*range(11)] * 100, CLASSIFICATION, "line 12: invalid label -1"),
        (["500", "1.000"], REGRESSION, "line 2: ambiguous number '1.000' (1,000 or 1)"),
    ],
)
def test_rejects_ambiguous_and_invalid_labels(labels, kind, said):
    """From Python as in tables; a number that is not text has no thousands separator."""
    rows([500, 1.125], REGRESSION, texts=["a", "b"])
    assert error_of(rows, labels, kind, texts=[f"t {n}" for n in range(len(labels))]).startswith(said)


def test_splits_and_languages(read, tmp_path):
    """A column of splits says what is trained on; the language is that of the row, or of the file."""
    lines = table(
        ("text", "label", "split", "language"), ("a", "train", "de"), ("b", "train", "NaN"), ("a", "dev", "")
    )
    training = read(*lines, name="train.en.csv")
    assert [len(training.examples), *training.languages[:2]] == [8, "de", ""]
    assert len(read(*lines, like=training).examples) == 4
    lines[3][1] = "c"  # of the split dev: that row is dropped
    skipped = read(*lines, like=training, on_error="skip")
    assert skipped.names == training.names and skipped.targets.tolist() == [0, 0, 0]
    file = NamedFile(tmp_path / "train.en.csv", "train", "en")
    assert load_dataset([file], LabelOptions()).languages.tolist() == ["de", "en"] * 4


@pytest.mark.parametrize(
    ("texts", "groups", "expected"),
    [
        (["a b", "c", "\uff41\u00a0b", "d"], ["", "", "", ""], [0, 1, 0, 2]),  # equal as the model reads them
        (["a", "b", "c", "d"], ["x", "", "", "x"], [0, 1, 2, 0]),
        (["a", "b", "a", "d"], ["", "y", "x", "x"], [0, 1, 0, 0]),  # by way of a third
        (["a", "b", "c", "d"], [0, 2, 0, None], [0, 1, 0, 2]),
        (["a", "b", "c", "d"], ["NA", " nan", "NA", " nan"], [0, 1, 2, 3]),
        ([("a", "b"), ("a", "c"), ("a", "b"), ("c", "b")], [""] * 4, [0, 1, 0, 2]),
    ],
)
def test_find_groups(texts, groups, expected):
    assert rows(["x", "y", "x", "y"], texts=texts, groups=groups).groups.tolist() == expected


def test_group_translations(caplog):
    """The embeddings of 40 sentences and of their translations differ by the means of the languages.

    Ten of the translations are free: their cosine is low.
    """
    random = np.random.default_rng(1)
    sentences = random.normal(size=(40, 256))
    freedom = np.repeat([0.2, 2.0], [30, 10])[:, None]
    embeddings = np.concatenate([sentences, sentences + freedom * random.normal(size=(40, 256)) + 9]).astype(
        "f"
    )
    many = rows(["x", "y"] * 40, texts=[f"t {n}" for n in range(80)], languages=["en"] * 40 + ["de"] * 40)
    groups = group_translations(many.groups, many.languages, embeddings)
    assert (groups[:40] == groups[40:]).all() and len(set(groups)) == 40
    # 22 translations, of which 6 are free; one language has other sentences.
    for some in (np.r_[:40, 54:76], np.r_[14:36, 40:80]):
        groups = group_translations(np.arange(62), many.languages[some], embeddings[some])
        both = [np.isin(some, np.r_[first : first + 22]) for first in (14, 54)]
        assert (groups[both[0]] == groups[both[1]]).all() and len(set(groups)) == 22
    for count in (44, 45):
        groups = group_translations(np.arange(count), many.languages[:count], embeddings[:count])
        assert (len(set(groups)) == len(groups)) == (count == 44)
    assert caplog.messages == ["4 rows: too few rows in their languages to detect translations"]
    embeddings[40:] = random.normal(size=(40, 256))
    assert len(set(group_translations(many.groups, many.languages, embeddings))) > 70


@pytest.mark.parametrize(
    ("copies", "are_equal", "share"),
    [([2], False, 1.0), ([1], False, 0.0), ([2], True, 0.0), ([1, 2], False, 0.6)],
)
def test_near_twins_are_counted(monkeypatch, copies, are_equal, share):
    """Of 30 sentences without a language, each once, with a translation next to it, or with itself.

    Of a sample that is spread over them; in the last case the first ones have no translation.
    """
    monkeypatch.setattr("ernie_m.fit.split_rows._SAMPLE", 5)
    random = np.random.default_rng(1)
    numbers = np.repeat(np.arange(30), np.repeat(copies, 30 // len(copies)))
    embeddings = random.normal(size=(30, 300))[numbers]
    embeddings += 0.1 * random.normal(size=embeddings.shape)
    groups = numbers if are_equal else np.arange(len(numbers))
    assert estimate_near_duplicate_share(groups, embeddings) == share


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a"] * 40 + ["b"] * 20, CLASSIFICATION),
        ([["a"], ["a", "b"], []] * 20, MULTI_LABEL),
        ([["a"]] * 40 + [["a", "b"]] * 20, MULTI_LABEL),
        ([[str(number)] for number in range(60)], MULTI_LABEL),  # each label is rare
        ([{"a": n < 20, "b": None if 20 <= n < 40 else n > 20} for n in range(60)], MULTI_LABEL),
        ([number / 7 for number in range(60)], REGRESSION),
    ],
)
def test_groups_stay_in_one_part_and_labels_are_spread(labels, kind):
    """Each row is in one of five parts, and a group in one; labels are spread."""
    groups = [number // 2 for number in range(60)]
    many = rows(labels, kind, texts=[f"t {number}" for number in range(60)], groups=groups)
    parts = split_rows(kind, many.targets, many.groups)
    assert len(parts) == 5 and sorted(np.concatenate(parts)) == list(range(60))
    for part in parts:
        assert set(many.groups[part]).isdisjoint(np.delete(many.groups, part)) and len(part) >= 10
        assert len({*map(str, labels[40:])}) > 1 or (part >= 40).sum() == 4  # the rows of a rare label
    again = split_rows(kind, many.targets, many.groups)
    assert [part.tolist() for part in again] == [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("labels", "groups", "errors"),
    [
        (["a", "a", "b"], None, ["line 3: the label 'b' has only one text or group"]),
        (
            ["a", "a", "b", "b", "c"],
            ["", "", "x", "x", ""],
            [
                f"line {n}: the label '{label}' has only one text or group"
                for n, label in ((3, "b"), (5, "c"))
            ],
        ),
        (["a", "b"], ["x", "x"], ["line 1: all rows have the same text or group"]),
        (
            ["a a", "a a", "b", "b", "A a"],
            None,
            ["line 5: the label 'A a' has only one text or group (did you mean 'a a'?)"],
        ),
        (["a", "a", "b", "b"], None, []),
    ],
)
def test_name_why_rows_cannot_be_split(labels, groups, errors):
    assert rows(labels, groups=groups).find_split_errors() == errors


def test_warn_about_equal_texts_and_nearly_equal_labels():
    training = rows(["Sport", "sp ort", "news", "news"], texts=["a", "b", "c", "c "])
    assert [*training.find_issues()] == ["the labels 'Sport', 'sp ort' differ only in case or white space"]
    assert [*rows(["Sport"], texts=["new"], like=training).find_issues(training)] == []
    training = rows(["x", "y", "x", "x"], texts=["a", "\uff41", "c", "c"])
    assert [*training.find_issues()] == ["1 text has two labels, as in line 1 and line 2"]
    test = rows(["x", "y"], texts=["c", "new"], like=training)
    assert [*test.find_issues(training)] == [
        "1 of 2 rows have a text of the training data; scores on them are inflated"
    ]
    assert [*rows([0.5, 0.7], REGRESSION, texts=["a", "a"]).find_issues()] == []


def test_all_wrong_labels_are_named():
    texts = [f"t {number}" for number in range(14)]
    first, *_, last = error_of(rows, ["a", *["nan"] * 12, None], texts=texts).splitlines()
    assert first.startswith("line 2: invalid label 'nan'") and last.strip() == "and 3 more"
    assert len(error_of(rows, ["a", *["nan"] * MOST_ERRORS]).splitlines()) == MOST_ERRORS


# Probabilities, and what they are by hand.
def scored(labels, outcomes, kind=CLASSIFICATION, **more) -> EvaluationResult:
    return EvaluationResult(rows(labels, kind, **more), np.array(outcomes, float))


def test_scores_and_their_table_equal_hand_computed_ones():
    """Of three a and one b, two a are found; b is given twice."""
    found = scored(["a", "a", "a", "b"], [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.1, 0.9]])
    assert found.to_dict() == {
        "rows": 4,
        "standard_error": pytest.approx(25),
        "accuracy": 75,
        "macro_f1": pytest.approx(100 * (0.8 + 2 / 3) / 2),
        "most_frequent": {"accuracy": 75, "macro_f1": pytest.approx(100 * (6 / 7) / 2)},
        "by_label": {
            "a": {"rows": 3, "precision": 100, "recall": pytest.approx(200 / 3), "f1": pytest.approx(80)},
            "b": {"rows": 1, "precision": 50, "recall": 100, "f1": pytest.approx(200 / 3)},
        },
    }
    assert found.format_tables("t").splitlines() == [
        "Test set",
        "                      accuracy  macro F1",
        "       t (4 rows)  75.0 ± 25.0      73.3",
        "majority baseline         75.0      42.9",
        "",
        "label  rows  precision  recall    F1",
        "    a     3      100.0    66.7  80.0",
        "    b     1       50.0   100.0  66.7",
    ]


def test_several_labels_are_right_if_all_are():
    found = scored([["a"], ["a", "b"], []], [[0.9, 0.6], [0.9, 0.6], [0.4, 0.5]], MULTI_LABEL)
    assert found.compute_metrics()["accuracy"] == pytest.approx(200 / 3)
    assert found.compute_label_scores()["b"]["precision"] == 50


def test_unknown_labels_are_not_scored():
    """Neither right nor wrong; c is not known of any row."""
    like = rows([["a"], ["b", "c"]], MULTI_LABEL)
    only_b, not_a = {"a": False, "b": True}, {"a": False, "c": None}
    labels = [{"a": True, "b": False}, only_b, only_b, not_a, not_a]
    outcomes = [[0.9, 0.1, 1], [0.1, 0.9, 1], [0.1, 0.2, 1], [0.9, 0.9, 1], [0.1, 0.9, 1]]
    found = scored(labels, outcomes, MULTI_LABEL, like=like).to_dict()
    assert found["accuracy"] == 60 and found["macro_f1"] == pytest.approx(200 / 3)
    by_label = {name: (row["rows"], row["recall"]) for name, row in found["by_label"].items()}
    assert by_label == {"a": (1, 100), "b": (2, 50)}
    assert found["most_frequent"]["accuracy"] == 80  # always b


def test_numbers_are_scored_by_correlations():
    found = scored([1.0, 2.0, 3.0, 4.0], [1, 3, 2, 4], REGRESSION)
    assert found.compute_metrics() == pytest.approx({"pearson": 80, "spearman": 80})
    error = found.compute_standard_error()
    assert found._replace(title="T").format_tables("t").splitlines() == [
        "T",
        "                Pearson  Spearman",
        f"t (4 rows)  80.0 ± {error:.1f}      80.0",
    ]
    assert found.to_dict() == {**found.compute_metrics(), "standard_error": error, "rows": 4}


@pytest.mark.parametrize("languages", [["de", "en", "de", "en", ""], ["deu", "en_US", "German", "EN", ""]])
def test_scores_by_language(languages):
    found = scored(["a", "a", "b", "b", "b"], [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]], languages=languages)
    assert [*found.to_dict()["by_language"]] == ["", "de", "en"]
    assert found.format_tables("t").split("\n\n")[1].splitlines() == [
        "language  rows  accuracy  macro F1  majority baseline",
        "  (none)     1     100.0     100.0              100.0",
        "      de     2     100.0     100.0               50.0",
        "      en     2       0.0       0.0               50.0",
    ]


def test_unknown_languages_are_separate_groups():
    found = rows(["a", "b", "a", "b", "a"], languages=["zho_Hant", "zh-TW", "elvish", "Elvish", ""])
    assert found.languages.tolist() == ["zh-hant", "zh-hant", "elvish", "Elvish", ""]
    (said,) = found.find_issues()
    assert said.partition(": ")[2] == "Elvish, elvish"


def test_the_standard_error():
    """Of rows alone it is s / sqrt(n), with n - 1 in s; rows of a group are right or wrong together."""
    right = np.random.default_rng(1).random(60) < 0.7
    outcomes = np.stack([right, ~right], axis=1)
    labels, texts = ["a"] * 60, [f"t {number}" for number in range(60)]
    like = rows(["a", "b"])
    alone = EvaluationResult(rows(labels, texts=texts, like=like), outcomes)
    assert alone.compute_standard_error() == pytest.approx(100 * right.std(ddof=1) / np.sqrt(60))
    twice = rows(
        labels * 2,
        texts=[*texts, *(f"u {number}" for number in range(60))],
        groups=[*range(60)] * 2,
        like=like,
    )
    doubled = EvaluationResult(twice, np.concatenate([outcomes, outcomes]))
    assert doubled.compute_standard_error() == pytest.approx(alone.compute_standard_error())
    one = rows(["a", "a"], groups=["x", "x"], like=like)
    assert np.isnan(EvaluationResult(one, outcomes[:2]).compute_standard_error())


def test_correlation_standard_error():
    """Of numbers with a normal distribution it is (1 - r^2) / sqrt(n)."""
    x, noise = np.random.default_rng(1).normal(size=(2, 4000))
    y = 0.6 * x + 0.8 * noise
    found = scored(list(x), y, REGRESSION, texts=[f"t {number}" for number in range(4000)])
    r = np.corrcoef(x, y)[0, 1]
    assert found.compute_standard_error() == pytest.approx(100 * (1 - r**2) / 4000**0.5, rel=0.05)
