"""Every block of docs/recipes.md does what the page says, with a tiny model in the place of the real one."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ernie_m
from tests import toys
from tests.helpers.checkpoints import stored
from tests.helpers.pages import PYTHON
from tests.launching import ROOT
from tests.toys import sentences

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
SECTIONS = [text.split("\n", 1) for text in PAGE.split("\n## ")[1:]]
BLOCKS = {heading: PYTHON.search(text)[1] for heading, text in SECTIONS if PYTHON.search(text)}


@pytest.fixture(scope="module")
def recipes(models, tmp_path_factory):
    """run(heading) -> the names of a block, which goes on with those of the first one."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "configs").mkdir()
    (folder / "configs/e5-small").symlink_to(models / "encode")
    settings = {"task": "classification", "labels": ["score"], "reading": stored(regression=True)}
    toys.make_model(folder / "reranker", "score", models / "piece.model", settings)
    names: dict = {}

    def run(heading: str) -> dict:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            exec(compile(BLOCKS[heading], heading, "exec"), names)
        return names

    run("Near-duplicates")
    return run


def test_every_block_has_a_test():
    assert len(BLOCKS) == len(PYTHON.findall(PAGE))
    with_tests = [
        "Near-duplicates",
        "Clusters",
        "Reranking",
        "Hybrid search",
        "As an estimator of scikit-learn",
    ]
    assert [*BLOCKS] == [*with_tests, "In mteb"]  # tests/latest/test_mteb.py


def test_near_duplicates(recipes, capsys):
    names = recipes("Near-duplicates")
    texts, vectors = names["texts"], names["vectors"]
    expected = []
    for first in range(len(texts)):
        for second in range(first + 1, len(texts)):
            if vectors[first] @ vectors[second] > 0.91:
                expected.append(f"{texts[first]} = {texts[second]}")
    assert [line.rpartition(" ")[0] for line in capsys.readouterr().out.splitlines()] == expected


def test_clusters(recipes, capsys):
    """Each text is printed once, in the cluster whose center is nearest to it."""
    names = recipes("Clusters")
    lines = capsys.readouterr().out.splitlines()
    assert sorted(text for line in lines for text in eval(line)) == sorted(names["texts"])
    centers = names["kmeans"].centroids
    np.testing.assert_array_equal(names["cluster"][:, 0], (names["vectors"] @ centers.T).argmax(axis=1))


def test_reranking(recipes):
    names = recipes("Reranking")
    numbers = [names["reranker"].classify((names["query"], text))[0]["score"] for text in names["reranked"]]
    assert len(numbers) == 4 and numbers == sorted(numbers, reverse=True)


def test_hybrid_search(recipes):
    """A text is nearest to itself by its words, and by its vector."""
    names = recipes("Hybrid search")
    for text in names["texts"]:
        assert names["hybrid"](text)[0] == text


def test_the_estimator(recipes, models):
    classifier = recipes("As an estimator of scikit-learn")["ErnieMClassifier"](models / "encode")
    texts = np.array(sentences(24, seed=4))
    labels = ["a", "b", "c"] * 8
    fitted = clone(classifier).fit(texts, labels)
    assert fitted is not classifier and fitted.layer is None
    answers = ernie_m.load(models / "encode").fit(texts, labels).classify(texts)
    probabilities = fitted.predict_proba(texts)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert fitted.predict(texts).tolist() == [answer["label"] for answer in answers]
    search = GridSearchCV(classifier, {"layer": [1, 2]}, cv=2).fit(texts, labels)
    assert search.best_params_["layer"] in (1, 2)


@pytest.mark.parametrize("names", [[10, 9], [True, False], ["no label\u200b", "1.0 "]])
def test_estimators_with_labels_of_any_type(recipes, models, names):
    """The labels are those of the first word of a text, so each score is far above chance."""
    recipe = recipes("As an estimator of scikit-learn")
    texts = [f"{'bado' if row % 2 else 'lera'} {text}" for row, text in enumerate(sentences(24, seed=4))]
    table = np.array([[text, row] for row, text in enumerate(texts)], object)
    labels = np.array(names * 12)
    classifier = recipe["ErnieMClassifier"](models / "encode")
    one_column = ColumnTransformer([("text", "passthrough", [0])])
    ((_, vectors, _),) = recipe["columns"].transformers
    vectors = ColumnTransformer([("text", vectors, 0)], remainder="passthrough")
    search = GridSearchCV(classifier, {"layer": [1]}, cv=2, refit=False).fit(texts, labels)
    assert search.best_score_ > 0.8
    for steps in ((one_column, classifier), (vectors, StandardScaler(), LogisticRegression())):
        assert cross_val_score(make_pipeline(*steps), table, labels, cv=2).min() > 0.8
