"""The head of a task on the outputs of an encoder engine."""

import numpy as np
import pytest

from ernie_m.inference.linear_head_engine import LinearHeadEngine
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION

WEIGHTS = Weights.from_arrays({"classifier.weight": np.eye(4, 2), "classifier.bias": np.zeros(2)})
STATES = np.random.default_rng(0).normal(size=[3, 5, 4])


def make_engine(task, pooling) -> LinearHeadEngine:
    """A head on `STATES` of a static model with pads of the id 3."""
    config = ErnieMConfig(9, 4, 0, 1, pad_token_id=3)
    return LinearHeadEngine(lambda ids: {"sequence": STATES}, WEIGHTS, config, task, pooling)


@pytest.mark.parametrize("task", [TOKEN_CLASSIFICATION, QUESTION_ANSWERING])
def test_a_head_for_each_token_never_reads_the_mean(task):
    """Also in a model whose classifiers read the mean, as a static one."""
    parts = [*make_engine(task, MEAN_OF_TOKENS)(np.full([3, 5], 7)).values()]
    expected = [STATES[:, :, :2]] if len(parts) == 1 else [STATES[:, :, 0], STATES[:, :, 1]]
    np.testing.assert_allclose(parts, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", [MEAN_OF_TOKENS, None])
def test_a_classifier_of_a_static_model_reads_the_mean_without_pads(pooling):
    ids = np.array([[0, 7, 2, 3, 3], [0, 7, 1, 2, 3], [0, 7, 1, 7, 2]])
    logits = make_engine(CLASSIFICATION, pooling)(ids)["logits"]
    expected = [states[: length + 2].mean(axis=0)[:2] for states, length in zip(STATES, (1, 2, 3))]
    np.testing.assert_allclose(logits, expected, atol=1e-6)
