"""A study of three models, b and c of which start from a; and the configuration of a training."""

import pytest

from experiments.study import Study, TrainedModel
from pretrain.config import PretrainConfig
from utils.command_line import load_config


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


def config_of(training):
    """The configuration of a job of run_pretrain.py, from its command line."""
    return load_config(PretrainConfig, [str(word) for word in training.command[1:]])
