"""`Model.fit` as an estimator of scikit-learn, for pipelines, grid search and cross-validation.

To combine embeddings with other columns of a table, no class is needed:

    vectors = FunctionTransformer(model.encode)
    columns = ColumnTransformer([("text", vectors, "text")], remainder="passthrough")
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

import ernie_m


class ErnieMClassifier(ClassifierMixin, BaseEstimator):
    """Scikit-learn classifier: logistic regression on frozen embeddings of one column of texts."""

    def __init__(self, folder="configs/e5-small", layer=None):
        self.folder = folder
        self.layer = layer

    def fit(self, texts, labels):
        texts = np.asarray(texts, object).ravel()  # a table has one column
        self.model_ = ernie_m.load(self.folder).fit(texts, labels, layer=self.layer)
        self.classes_ = np.unique(labels)
        return self

    def predict_proba(self, texts):
        predictions = self.model_.classify(np.asarray(texts, object).ravel())
        return np.array([[row["probabilities"][label] for label in self.classes_] for row in predictions])

    def predict(self, texts):
        return self.classes_[self.predict_proba(texts).argmax(axis=1)]
