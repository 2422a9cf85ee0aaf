"""Fixtures of fine-tuning and of predictions."""

from tests.finetune.conftest import random_encoder, toy_folder, trained
from tests.inference.conftest import (
    ask,
    encoder,
    exported,
    models,
    no_graph_is_compiled_twice,
    refused,
)
