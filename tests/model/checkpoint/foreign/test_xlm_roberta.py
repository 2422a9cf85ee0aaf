"""XLM-R's files are read: tensors get our names and orientation, and may be in several files."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.lm_head import PreTrainingModel
from tests.foreign import make_bert, make_xlm_r
from tests.helpers.files import write_file
from tests.launching import error_of


def test_map_every_tensor(tmp_path):
    state = make_xlm_r(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    # A masked-LM head is of no task, and the token types are added to the positions.
    assert (checkpoint.unknown, checkpoint.task, len(checkpoint.tensors)) == ([], None, len(state) - 1)
    model = PreTrainingModel(checkpoint.config, ["en"])
    fresh = load_weights(model, checkpoint, optional=("pooler.", "language_embeddings."))
    assert {name.split(".")[0] for name in fresh} == {"pooler", "language_embeddings"}
    layer = "roberta.encoder.layer.1"
    for name, value in {
        "encoder.layers.1.linear1.weight": state[f"{layer}.intermediate.dense.weight"].T,
        "encoder.layers.1.linear2.weight": state[f"{layer}.output.dense.weight"].T,
        "encoder.layers.1.self_attn.k_proj.weight": state[f"{layer}.attention.self.key.weight"].T,
        "encoder.layers.1.norm1.weight": state[f"{layer}.attention.output.LayerNorm.weight"],
        "encoder.layers.1.norm2.bias": state[f"{layer}.output.LayerNorm.bias"],
        "embeddings.word_embeddings.weight": state["roberta.embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": state["roberta.embeddings.position_embeddings.weight"]
        + state["roberta.embeddings.token_type_embeddings.weight"],
        "lm_head.dense.weight": state["lm_head.dense.weight"].T,
        "lm_head.bias": state["lm_head.bias"],
    }.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], value, err_msg=name)


def test_the_heads_bias_under_its_other_name_and_unknown_tensors(tmp_path):
    state = make_xlm_r(tmp_path)
    state["lm_head.decoder.bias"] = state.pop("lm_head.bias")
    state["lm_head.decoder.weight"] = state["roberta.embeddings.word_embeddings.weight"].copy()
    state["roberta.embeddings.position_ids"] = np.arange(40)[None]
    state["strange.weight"] = np.ones(3, np.float32)
    del state["roberta.embeddings.token_type_embeddings.weight"]  # they may be missing
    save_file(state, tmp_path / "model.safetensors")
    assert "strange.weight" in error_of(open_checkpoint, tmp_path)
    checkpoint = open_checkpoint(tmp_path, drop_unknown=True)
    for name, other_name in (
        ("lm_head.bias", "lm_head.decoder.bias"),
        ("embeddings.position_embeddings.weight", "roberta.embeddings.position_embeddings.weight"),
    ):
        np.testing.assert_array_equal(checkpoint.tensors[name], state[other_name])
    assert checkpoint.unknown == ["strange.weight"]


@pytest.mark.parametrize(
    "name", ["roberta.encoder.layer_norm.bias", "embeddings.scale", "roberta.gate.weight"]
)
def test_encoder_tensors_cannot_be_dropped(tmp_path, name):
    save_file(make_xlm_r(tmp_path) | {name: np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    line = error_of(open_checkpoint, tmp_path, True)
    assert name in line and "--drop_unknown" not in line


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("lm_head.decoder.bias", "lm_head.bias"),
        ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        ("roberta.embeddings.position_ids", np.arange(40)[None]),
        ("roberta.embeddings.token_type_ids", np.zeros((1, 40), np.int64)),
    ],
)
def test_a_tensor_under_a_second_name_must_be_the_same(tmp_path, name, original):
    state = make_xlm_r(tmp_path)
    for more in (0, 1):
        state[name] = (state[original] if isinstance(original, str) else original) + more
        save_file(state, tmp_path / "model.safetensors")
        if more:
            assert f"1 unknown tensors: {name}" in error_of(open_checkpoint, tmp_path)
        else:
            assert [*open_checkpoint(tmp_path).dropped] == [name]


def test_the_vocabulary_derives_from_the_piece_model(tmp_path):
    """XLM-R has no vocab.txt, so one next to its files is not taken."""
    make_xlm_r(tmp_path)
    make_bert(tmp_path / "bert")
    for folder in (tmp_path, tmp_path / "bert"):
        (folder / "vocab.txt").write_text("<s>\n▁a\n", encoding="utf-8")
        (folder / "sentencepiece.bpe.model").write_text("")
        checkpoint = open_checkpoint(folder)
        assert (
            checkpoint.vocab_path is None
            and checkpoint.piece_model_path == folder / "sentencepiece.bpe.model"
        )


def test_parts_and_their_index(tmp_path):
    folder = tmp_path / "model"
    arrays = make_xlm_r(folder)
    (folder / "model.safetensors").unlink()
    file_of = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(arrays)}
    for file in ("model-0.safetensors", "model-1.safetensors"):
        save_file({name: arrays[name] for name in arrays if file_of[name] == file}, folder / file)
    index = write_file(folder / "model.safetensors.index.json", json.dumps({"weight_map": file_of}))
    np.testing.assert_array_equal(open_checkpoint(folder).tensors["lm_head.bias"], arrays["lm_head.bias"])
    save_file({"lm_head.bias": arrays["lm_head.bias"]}, tmp_path / "outside.safetensors")
    os.mkfifo(folder / "pipe.safetensors")  # nobody writes into it
    for wrong in (
        file_of | {"missing": "model-0.safetensors"},
        file_of | {"lm_head.bias": "../outside.safetensors"},
        file_of | {"lm_head.bias": "pipe.safetensors"},
        None,
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        assert "index.json: " in error_of(open_checkpoint, folder)
