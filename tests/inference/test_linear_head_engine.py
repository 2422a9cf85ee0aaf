"""The head of a task on the outputs of an encoder engine."""

import numpy as np
import pytest

from ernie_m.inference.linear_head_engine import LinearHeadEngine
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import QUESTION_ANSWERING, TOKEN_CLASSIFICATION


@pytest.mark.parametrize("task", [TOKEN_CLASSIFICATION, QUESTION_ANSWERING])
def test_a_head_for_each_token_never_reads_the_mean(task):
    """Also in a model whose classifiers read the mean, as a static one."""
    weights = Weights.from_arrays({"classifier.weight": np.eye(4, 2), "classifier.bias": np.zeros(2)})
    states = np.random.default_rng(0).normal(size=[3, 5, 4])
    engine = LinearHeadEngine(
        lambda ids: {"sequence": states}, weights, ErnieMConfig(9, 4, 0, 1), task, MEAN_OF_TOKENS
    )
    parts = [*engine(np.full([3, 5], 7)).values()]
    expected = [states[:, :, :2]] if len(parts) == 1 else [states[:, :, 0], states[:, :, 1]]
    np.testing.assert_allclose(parts, expected, atol=1e-6)
