"""The estimator of scikit-learn learns and predicts as the model does, with labels of any type."""

import numpy as np
import pytest

import ernie_m
from tests.toys import sentences

# Scikit-learn is imported in the tests: every run of the suite collects this file, and few run them.
pytestmark = pytest.mark.slow


def test_the_estimator_learns_as_fit_does(models):
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    from examples.sklearn_classifier import ErnieMClassifier

    classifier = ErnieMClassifier(models / "encode")
    texts = np.array(sentences(24, seed=4))
    labels = ["a", "b", "c"] * 8
    fitted = clone(classifier).fit(texts, labels)
    assert fitted is not classifier and fitted.layer is None
    predictions = ernie_m.load(models / "encode").fit(texts, labels).classify(texts)
    np.testing.assert_allclose(fitted.predict_proba(texts).sum(axis=1), 1, atol=1e-5)
    assert fitted.predict(texts).tolist() == [prediction["label"] for prediction in predictions]
    search = GridSearchCV(classifier, {"layer": [1, 2]}, cv=2).fit(texts, labels)
    assert search.best_params_["layer"] in (1, 2)


@pytest.mark.parametrize("names", [[10, 9], [True, False], ["no label\u200b", "1.0 "]])
def test_estimators_accept_labels_in_any_type(models, names):
    """The labels are those of the first word of a text, so each score is far above chance."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    from examples.sklearn_classifier import ErnieMClassifier

    texts = [f"{'bado' if row % 2 else 'lera'} {text}" for row, text in enumerate(sentences(24, seed=4))]
    table = np.array([[text, row] for row, text in enumerate(texts)], object)
    labels = np.array(names * 12)
    model = ernie_m.load(models / "encode")
    classifier = ErnieMClassifier(models / "encode")
    one_column = ColumnTransformer([("text", "passthrough", [0])])
    embeddings = ColumnTransformer([("text", FunctionTransformer(model.encode), 0)], remainder="passthrough")
    assert GridSearchCV(classifier, {"layer": [1]}, cv=2, refit=False).fit(texts, labels).best_score_ > 0.8
    for steps in ((one_column, classifier), (embeddings, StandardScaler(), LogisticRegression())):
        assert cross_val_score(make_pipeline(*steps), table, labels, cv=2).min() > 0.8
