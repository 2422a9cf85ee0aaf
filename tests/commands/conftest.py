"""Fixtures of the rooms whose work the commands start."""

from tests.finetune.conftest import (
    answering_folder,
    classify,
    random_encoder,
    refusal,
    runner,
    toy_folder,
    trained,
)
from tests.inference.conftest import (
    encoder,
    models,
    no_graph_is_compiled_twice,
    refused,
)
