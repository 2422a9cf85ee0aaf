"""A study of three models: b and c start from a."""

import pytest

from experiments.study import Study, TrainedModel


@pytest.fixture
def study():
    return Study(
        name="made-up",
        title="Made up",
        corpus="none",
        pretrain="none.yaml",
        seeds=[1, 2, 3],
        models={"a": TrainedModel("a"), "b": TrainedModel("b", start="a"), "c": TrainedModel("c", start="a")},
        measures=["xnli"],
        compare=[["b", "a"]],
    )
