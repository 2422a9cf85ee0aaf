"""Accuracy, macro F1 or correlation on labeled rows: overall, by language and label, and of the baseline."""

from typing import Any, NamedTuple

import numpy as np

from ernie_m.finetune.metrics import format_score, pearson, spearman
from ernie_m.fit.labeled_rows import LabeledDataset
from ernie_m.model.tasks import MULTI_LABEL, REGRESSION
from ernie_m.reader.text_featurizer import UNKNOWN
from ernie_m.utils.logging import format_columns

_NAMES = {"accuracy": "accuracy", "macro_f1": "macro F1", "pearson": "Pearson", "spearman": "Spearman"}


class EvaluationResult(NamedTuple):
    """Predictions for a labeled dataset, and their metrics.

    Attributes:
        rows: the N labeled rows.
        outcomes: the predicted probabilities [N, C], or for regression the predicted numbers [N].
        title: the evaluation method, such as "Test set".
    """

    rows: LabeledDataset
    outcomes: np.ndarray
    title: str = "Test set"

    @property
    def predicted_targets(self) -> np.ndarray:
        """The predicted targets, in the format of `LabeledDataset.targets`."""
        if self.rows.kind == REGRESSION:
            return self.outcomes
        return (
            (self.outcomes > 0.5) & (self.rows.targets != UNKNOWN)
            if self.rows.kind == MULTI_LABEL
            else self.outcomes.argmax(axis=1)
        )

    @property
    def gold_targets(self) -> np.ndarray:
        """The gold targets, where unknown labels are 0 as in `predicted_targets`, which no metric counts."""
        return np.maximum(self.rows.targets, 0) if self.rows.kind == MULTI_LABEL else self.rows.targets

    @property
    def scored_labels(self) -> np.ndarray:
        """The ids of the labels that are known for a row, int64 [n]; for a single label all of them."""
        # `any` of a single label per row is one True.
        return np.flatnonzero(
            np.broadcast_to((self.rows.targets != UNKNOWN).any(axis=0), len(self.rows.names))
        )

    def make_majority_baseline(self) -> "EvaluationResult":
        """Return the result of the majority baseline, which always predicts the most frequent label."""
        targets = self.rows.targets
        counts = (
            (targets == 1).sum(axis=0)
            if targets.ndim > 1
            else np.bincount(targets, minlength=len(self.rows.names))
        )
        always = (np.arange(len(counts)) == counts.argmax()).astype(float)
        return self._replace(outcomes=np.tile(always, (len(targets), 1)))

    def compute_metrics(self) -> dict[str, float | None]:
        """Compute the metrics in %, the main one first: accuracy and macro F1, or Pearson and Spearman.

        Of equal numbers there is no correlation: None. Multi-label accuracy is the exact match ratio, of the
        known labels.
        """
        targets = self.gold_targets
        if self.rows.kind == REGRESSION:
            return {"pearson": pearson(self.outcomes, targets), "spearman": spearman(self.outcomes, targets)}
        from sklearn.metrics import accuracy_score, f1_score  # imported here, because it takes a second

        macro_f1 = f1_score(
            targets,
            self.predicted_targets,
            labels=self.scored_labels if self.rows.kind == MULTI_LABEL else None,  # None: those that occur
            average="macro",
            zero_division=0,
        )
        return {"accuracy": 100 * accuracy_score(targets, self.predicted_targets), "macro_f1": 100 * macro_f1}

    def compute_standard_error(self) -> float:
        """Compute the standard error of the main metric in %, clustered by group; nan with a single group.

        Errors within a group are correlated, so the contributions of rows are summed by group first.
        """
        targets, predicted = self.gold_targets, self.predicted_targets
        if self.rows.kind == REGRESSION:  # the influence of a row on a correlation r: xy - r (x^2 + y^2) / 2
            x, y = ((values - values.mean()) / (values.std() or 1) for values in (predicted, targets))
            added = x * y - (x @ y) / len(x) * (x**2 + y**2) / 2
        else:
            right = (predicted == targets).reshape(len(targets), -1).all(axis=1)
            added = right - right.mean()
        of_groups = np.bincount(np.unique(self.rows.groups, return_inverse=True)[1], added)
        count = len(of_groups)
        if count < 2:
            return float("nan")
        return 100 * float(np.sqrt(count / (count - 1) * (of_groups**2).sum())) / len(added)

    def split_by_language(self) -> dict[str, "EvaluationResult"]:
        """Return language -> the result on its rows; {} if there is only one language."""
        names = np.unique(self.rows.languages).tolist()
        numbers = {name: np.flatnonzero(self.rows.languages == name) for name in names}
        parts = {
            name: EvaluationResult(self.rows.select_rows(rows), self.outcomes[rows])
            for name, rows in numbers.items()
        }
        return parts if len(parts) > 1 else {}

    def compute_label_scores(self) -> dict[Any, dict[str, float]]:
        """Compute label -> number of rows, and precision, recall and F1 in %."""
        from sklearn.metrics import precision_recall_fscore_support

        scored = self.scored_labels
        names = [self.rows.names[id_] for id_ in scored]
        columns = precision_recall_fscore_support(
            self.gold_targets, self.predicted_targets, labels=scored, zero_division=0
        )
        return {
            self.rows.given.get(name, name): {
                "rows": int(rows),
                "precision": 100 * precision,
                "recall": 100 * recall,
                "f1": 100 * f1,
            }
            for name, precision, recall, f1, rows in zip(names, *map(np.ndarray.tolist, columns))
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics as the dict of `ernie_m.Model.scores`."""
        of_languages = {name: part.compute_metrics() for name, part in self.split_by_language().items()}
        summary = {
            **self.compute_metrics(),
            "standard_error": self.compute_standard_error(),
            "rows": len(self.outcomes),
        }
        summary |= {"by_language": of_languages} if of_languages else {}
        if self.rows.kind == REGRESSION:
            return summary
        return summary | {
            "most_frequent": self.make_majority_baseline().compute_metrics(),
            "by_label": self.compute_label_scores(),
        }

    def format_tables(self, name: str) -> str:
        """Format all metrics in % as tables, below the title.

        Args:
            name: the source of the rows.
        """
        has_labels = self.rows.kind != REGRESSION
        names = [_NAMES[measure] for measure in self.compute_metrics()]
        main, other = self._format_cells()
        of_all = [["", *names]]
        of_all.append(
            [f"{name} ({len(self.outcomes):,} rows)", f"{main} ± {self.compute_standard_error():.1f}", other]
        )
        of_languages = [["language", "rows", *names, *(["majority baseline"] * has_labels)]]
        for language, part in self.split_by_language().items():
            baseline = part.make_majority_baseline()._format_cells()[:1] if has_labels else []
            of_languages.append(
                [language or "(none)", f"{len(part.outcomes):,}", *part._format_cells(), *baseline]
            )
        of_labels = [["label", "rows", "precision", "recall", "F1"]]
        if has_labels:
            of_all.append(["majority baseline", *self.make_majority_baseline()._format_cells()])
            for label, (rows, *scores) in (
                (label, row.values()) for label, row in self.compute_label_scores().items()
            ):
                of_labels.append([str(label), f"{rows:,}", *(f"{score:.1f}" for score in scores)])
        tables = [format_columns(lines) for lines in (of_all, of_languages, of_labels) if lines[1:]]
        return f"{self.title}\n" + "\n\n".join(tables)

    def _format_cells(self) -> list[str]:
        """Format the metrics as cells of a table."""
        return list(map(format_score, self.compute_metrics().values()))
