"""Fixtures for the tests of the network."""

import numpy as np
import paddle
import pytest

from ernie_m.model.device_transfer import upload
from ernie_m.model.packed_batch import PackedBatch
from tests.finetune.conftest import answering_folder, corpus, random_encoder, toy_folder
from tests.helpers.dtypes import default_dtype


@pytest.fixture
def float64():
    """New weights and tensors are float64, from the same random numbers in each test."""
    with default_dtype("float64"):
        paddle.seed(0)
        yield


@pytest.fixture
def batch() -> PackedBatch:
    """Four sequences of 12, 7, 12 and 3 tokens; a pad is 1."""
    ids = np.random.default_rng(0).integers(4, 300, [4, 12])
    ids[1, 7:] = 1
    ids[3, 3:] = 1
    return upload(PackedBatch.from_padded(ids, 1))
