"""Fixtures of the rooms whose work the commands start."""

from tests.finetune.conftest import (
    answering_folder,
    classify,
    corpus,
    random_encoder,
    refusal,
    runner,
    tokenizer,
    toy_folder,
    train_on_pairs,
    trained,
)
from tests.inference.conftest import (
    ask,
    encode_texts,
    encoder,
    exported,
    model_folder,
    models,
    no_graph_is_compiled_twice,
    refused,
    reranker,
)
