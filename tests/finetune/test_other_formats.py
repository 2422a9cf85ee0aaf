"""Training, vectors and pre-training start from any format, with its config and its tokenizer."""

import argparse

import numpy as np
import pytest

import convert
from finetune.setup import open_encoder
from model.checkpoint.convert import TARGETS
from model.checkpoint.folder import model_weights, read_weights
from model.heads import PreTrainingModel
from pretrain.config import InitConfig
from pretrain.initialise import initialise
from reader.tokenization import Tokenizer
from tests.finetune import toy
from tests.helpers.toy_models import CONFIG, make_ours


@pytest.fixture(scope="module", params=TARGETS)
def start(request, toy_folder, tmp_path_factory):
    """Pre-trained weights, and the folder that holds them in one of the formats."""
    folder = tmp_path_factory.mktemp("start")
    rows = Tokenizer(piece_model_path=toy_folder / "piece.model").vocab_size
    config = {**CONFIG, **toy.CONFIG, "intermediate_size": 64, "vocab_size": rows}
    made = make_ours(folder / "ours", config=config, lm_head=True)
    pieces = ["--piece_model_path", str(toy_folder / "piece.model")]
    convert.main([str(folder / "ours"), str(folder / "out"), "--to", request.param, *pieces])
    return request.param, made, folder / "out"


def assert_same(found: dict[str, np.ndarray], made: dict[str, np.ndarray], target: str) -> None:
    """The encoder's numbers; the pooler where the format has one beside a masked-LM head."""
    for name, array in made.items():
        carried = target != "xlm-roberta" or not name.startswith("pooler.")
        if carried and not name.startswith("lm_head."):
            assert np.array_equal(found[name], array), name


def test_fine_tuning(start, classify, tmp_path):
    target, made, folder = start
    options = {"piece_model_path": None, "ernie_config_path": None, "learning_rate": 0, "max_steps": 1}
    classify(init_pretraining_params=folder, do_val="false", **options)
    assert_same(read_weights(tmp_path / "out/step_1").weights, made, target)


def test_an_encoder_for_vectors_and_retrieval(start, toy_folder):
    target, made, folder = start
    flags = argparse.Namespace(
        ernie_config_path=None, init_pretraining_params=str(folder), init_checkpoint=None, vocab_path=None,
        piece_model_path=None, max_seq_len=64,
    )  # fmt: skip
    model, tokenizer = open_encoder(flags)
    assert_same(model_weights(model), made, target)
    assert tokenizer.vocab == Tokenizer(piece_model_path=toy_folder / "piece.model").vocab


def test_pre_training(start, toy_folder):
    target, made, folder = start
    model = PreTrainingModel(read_weights(folder).config, ["en"])
    head = "encoder" if target in ("ernie-m", "fluid", "xlm-roberta") else "fresh"
    tokenizer = Tokenizer(piece_model_path=toy_folder / "piece.model")
    initialise(model, InitConfig(encoder=str(folder), lm_head=head), tokenizer)
    found = model_weights(model)
    assert_same(found, made, target)
    if head == "encoder":
        for name in (name for name in made if name.startswith("lm_head.")):
            assert np.array_equal(found[name], made[name]), name
