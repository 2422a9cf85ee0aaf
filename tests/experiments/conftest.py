"""A study of three models: b and c start from a."""

import pytest

from experiments.study import Study, TrainedModel


@pytest.fixture
def study():
    models = {name: TrainedModel(name, {}, start) for name, start in (("a", ""), ("b", "a"), ("c", "a"))}
    return Study("made-up", "Made up", "none", "none.yaml", [1, 2, 3], models, ["xnli"], [["b", "a"]])
