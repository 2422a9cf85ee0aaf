"""The scores of a study's models, and what can be told of their differences.

An error is a standard error over examples and seeds; with one seed there is none. Three seeds are too few to
estimate the deviation of each model, so all models of a table share one: that of the logits of their scores,
because a score near 50 % deviates more between seeds than one near 0 %. Differences are taken example by
example and seed by seed, but their errors do not assume that the models of a seed deviate alike.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

# Example i of measures that begin so is the same sentence in every language; of kinds of texts many are.
SHARED_ROWS = ("xnli", "ntrex", "kinds")
Figures = Mapping[str, Mapping[int, Mapping]]  # model -> seed -> what experiments.measure wrote
Weights = Mapping[str, float]  # model -> how its score counts in a sum: {"a": 1, "b": -1} is a - b


class Scores:
    """One measure of all models and seeds. English, which is trained on, is left out of the mean of several.

    Args:
        figures: of all models; those without the measure are left out.
        measure: its key in the figures.

    Attributes:
        cells: model -> seed -> language -> (parts, wholes) of every example; see experiments/measure.py.
        languages: English first, then in alphabetical order.
        averaged: the languages without English, if there are others.
    """

    def __init__(self, figures: Figures, measure: str):
        self.measure = measure
        self.cells: dict[str, dict[int, Mapping[str, Sequence]]] = {}
        languages: set[str] = set()
        for model, by_seed in figures.items():
            of_model = {seed: values[measure] for seed, values in by_seed.items() if measure in values}
            if of_model:
                self.cells[model] = of_model
                languages.update(*of_model.values())
        self.averaged = sorted(languages - {"en"}) or sorted(languages)
        self.languages = sorted(languages, key=lambda language: (language != "en", language))

    def score(self, model: str, seed: int, language: str) -> float:
        """The score of one language in per cent."""
        parts, wholes = self.cells[model][seed][language]
        return 100 * sum(parts) / max(sum(wholes), 1)

    def mean(self, model: str, seed: int) -> float:
        """The mean over the languages without English, per cent."""
        return float(np.mean([self.score(model, seed, language) for language in self.averaged]))

    def common_seeds(self, models: Sequence[str]) -> list[int]:
        """The seeds that all models have."""
        seeds_of_models = [self.cells.get(model, {}) for model in models]
        return [seed for seed in seeds_of_models[0] if all(seed in seeds for seeds in seeds_of_models)]

    def influence(self, weights: Weights, language: str) -> np.ndarray:
        """How far each example moves the weighted sum: [N], in per cent, the mean over the common seeds.

        The sum of its squares is the variance over draws of the examples (delta method).
        """
        seeds = self.common_seeds(list(weights))
        total = np.zeros(1)  # becomes [N] with the first summand
        for model, weight in weights.items():
            for seed in seeds:
                cells = self.cells[model][seed][language]
                parts = np.array(cells[0], float)  # [N]
                wholes = np.array(cells[1], float)  # [N]
                # The score is the ratio sum(parts) / sum(wholes). An example whose part is ratio * its whole
                # leaves it as it is; another one moves it by how far its part is above or below that.
                ratio = self.score(model, seed, language) / 100
                of_seed = 100 * (parts - ratio * wholes) / max(wholes.sum(), 1)  # [N]
                total = total + weight * of_seed / len(seeds)
        return total

    def example_error(self, weights: Weights) -> float:
        """Standard error over the examples of a weighted sum of mean scores."""
        influences = [self.influence(weights, language) for language in self.averaged]
        if self.measure.startswith(SHARED_ROWS):
            # The same sentence is drawn in all languages at once, so they do not vary independently.
            most = max(map(len, influences))  # of kinds of texts a language may lack the last ones
            influences = [np.sum([np.pad(array, (0, most - len(array))) for array in influences], axis=0)]
        # The variance of the sum over the languages, and from it the error of the mean over them.
        variance = sum(float((influence**2).sum()) for influence in influences)
        return math.sqrt(variance) / len(self.averaged)

    @cached_property
    def logit_deviation(self) -> float:
        """The deviation of a mean score's logit between seeds, pooled over the models; nan with one seed."""
        rows = []
        for model, by_seed in self.cells.items():
            shares = np.array([self.mean(model, seed) / 100 for seed in by_seed])
            shares = shares.clip(1e-4, 1 - 1e-4)  # 0 and 1 have no logit
            rows.append(np.log(shares / (1 - shares)))
        return pooled_deviation(rows)

    def seed_deviation(self, model: str) -> float:
        """The deviation of a model's mean score between seeds, in percentage points."""
        share = np.mean([self.mean(model, seed) for seed in self.cells[model]]) / 100
        return 100 * self.logit_deviation * share * (1 - share)  # share (1 - share) is d share / d logit

    def error(self, model: str) -> float:
        """Standard error of a model's mean score over examples and seeds."""
        seed_error = self.seed_deviation(model) / math.sqrt(len(self.cells[model]))
        return math.hypot(self.example_error({model: 1}), seed_error)

    def differences(self, rows: Mapping[str, Weights]) -> dict[str, tuple[float, float]]:
        """Label -> the mean over the seeds of a row's weighted sum of scores, and the standard error of that.

        Both are in percentage points; the error is nan with one seed. Rows whose models have no seed in
        common are left out. The deviation between seeds is that of the models or, if it is larger, that of
        the row's own seeds.

        Args:
            rows: label -> weights.
        """
        differences = {}
        for label, weights in rows.items():
            seeds = self.common_seeds(list(weights))
            if not seeds:
                continue
            sums = [
                sum(weight * self.mean(model, seed) for model, weight in weights.items()) for seed in seeds
            ]
            of_models = math.hypot(
                *(weight * self.seed_deviation(model) for model, weight in weights.items())
            )
            deviation = np.fmax(of_models, pooled_deviation([sums]))  # the other one if one is nan
            error = math.hypot(self.example_error(weights), deviation / math.sqrt(len(seeds)))
            differences[label] = (float(np.mean(sums)), error)
        return differences


def pooled_deviation(rows: Sequence[Sequence[float]]) -> float:
    """The standard deviation of values from the mean of their row, over all rows; nan if no row has two."""
    repeated = [np.array(row) for row in rows if len(row) > 1]
    squares = sum(float(np.sum((row - row.mean()) ** 2)) for row in repeated)
    degrees_of_freedom = sum(len(row) - 1 for row in repeated)
    return math.sqrt(squares / degrees_of_freedom) if degrees_of_freedom else math.nan
