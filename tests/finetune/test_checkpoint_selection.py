"""Which score selects the best checkpoint, and which files it needs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ernie_m.finetune.checkpoint_selection import check_selection, compute_selection_score
from ernie_m.finetune.evaluate import LanguageFile
from tests.launching import error_of

# Of the second pattern no score selects. The metric of the task is the second one.
SCORES = {
    "a.%s": {"en": {"f1": 1.0, "em": 40.0}, "de": {"f1": 2.0, "em": 80.0}},
    "b.%s": {"en": {"f1": 3.0, "em": 0.0}, "de": {"f1": 4.0, "em": 0.0}},
}
WITHOUT_GERMAN = {"a.%s": {"en": {"em": 40.0}, "de": {"em": None}}}


@pytest.mark.parametrize(
    ("scores", "select_on", "expected"),
    [
        (SCORES, "mean", 60.0),
        (SCORES, "last", 60.0),
        (SCORES, "de", 80.0),
        (WITHOUT_GERMAN, "mean", None),
        (WITHOUT_GERMAN, "en", 40.0),
        (WITHOUT_GERMAN, "de", None),
    ],
)
def test_the_first_pattern_selects(scores, select_on, expected):
    assert compute_selection_score(scores, "em", select_on) == expected


@pytest.mark.parametrize(
    ("select_on", "unscored"), [("mean", "a.de, a.fr"), ("last", "a.de, a.fr"), ("de", "a.de"), ("en", "")]
)
def test_a_file_without_gold_values_cannot_select(select_on, unscored):
    """Files of the second pattern, and of other languages than the selecting one, may be without."""
    task = SimpleNamespace(has_score=lambda data: data, gold="labels", custom_metric=None)
    files = [
        LanguageFile(f"{name}.%s", language, Path(f"{name}.{language}"), (name, language) == ("a", "en"))
        for name in "ab"
        for language in ("en", "de", "fr")
    ]
    if unscored:
        assert error_of(check_selection, task, files, select_on).startswith(f"{unscored}: no labels")
        task.custom_metric = print  # it may have a score of its own
    check_selection(task, files, select_on)
