"""XLM-R's files: names, transposes and folds; parts of a file; tensors in a file of torch."""

import collections
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from model.checkpoint.formats import torch as torch_file
from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.heads import PreTrainingModel
from tests.helpers.xlm_r_layout import make_xlm_r, write_torch_file
from utils.errors import UserError


def test_every_tensor_has_its_place(tmp_path):
    theirs = make_xlm_r(tmp_path)
    found = open_checkpoint(tmp_path)
    model = PreTrainingModel(found.config, ["en"])
    fresh = load_from(model, open_checkpoint(tmp_path), optional=("pooler.", "language_embeddings."))
    assert {name.split(".")[0] for name in fresh} == {"pooler", "language_embeddings"} and not found.unknown
    assert len(found.tensors) == len(theirs) - 1  # the token types are folded into the positions
    ours = found.tensors
    layer = "roberta.encoder.layer.1"
    expected = {
        "encoder.layers.1.linear1.weight": theirs[f"{layer}.intermediate.dense.weight"].T,
        "encoder.layers.1.linear2.weight": theirs[f"{layer}.output.dense.weight"].T,
        "encoder.layers.1.self_attn.k_proj.weight": theirs[f"{layer}.attention.self.key.weight"].T,
        "encoder.layers.1.norm1.weight": theirs[f"{layer}.attention.output.LayerNorm.weight"],
        "encoder.layers.1.norm2.bias": theirs[f"{layer}.output.LayerNorm.bias"],
        "embeddings.word_embeddings.weight": theirs["roberta.embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": theirs["roberta.embeddings.position_embeddings.weight"]
        + theirs["roberta.embeddings.token_type_embeddings.weight"],
        "lm_head.dense.weight": theirs["lm_head.dense.weight"].T,
        "lm_head.bias": theirs["lm_head.bias"],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_the_heads_bias_under_its_other_name_and_what_is_dropped(tmp_path):
    theirs = make_xlm_r(tmp_path)
    theirs["lm_head.decoder.bias"] = theirs.pop("lm_head.bias")
    theirs["lm_head.decoder.weight"] = theirs["roberta.embeddings.word_embeddings.weight"].copy()
    theirs["roberta.embeddings.position_ids"] = np.arange(40)[None]
    theirs["strange.weight"] = np.ones(3, np.float32)
    save_file(theirs, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(found.tensors["lm_head.bias"], theirs["lm_head.decoder.bias"])
    assert found.unknown == ["strange.weight"]


def test_tensors_and_plain_containers_of_torch(tmp_path):
    array = np.arange(16, dtype=np.float32)
    more = {"step": 3, "notes": [1.5, ("a", None)], "order": collections.OrderedDict(a=True)}
    write_torch_file(tmp_path / "x.bin", {"long": array}, **more)
    found = torch_file.read(tmp_path / "x.bin")
    assert list(found) == ["long"] and found.others == [*more]
    np.testing.assert_array_equal(found["long"], array)
    write_torch_file(tmp_path / "x.bin", {"lying": array[::2], "long": array})
    with pytest.raises(UserError, match="x.bin: damaged"):  # 8 elements, each second one: more than is there
        torch_file.read(tmp_path / "x.bin")


def test_parts_and_their_index(tmp_path):
    arrays = make_xlm_r(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    place = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(arrays)}
    for file in set(place.values()):
        save_file({name: arrays[name] for name in arrays if place[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    found = open_checkpoint(tmp_path).tensors
    np.testing.assert_array_equal(found["lm_head.bias"], arrays["lm_head.bias"])
    for wrong in (place | {"missing": "model-0.safetensors"}, place | {"x": "../model-0.safetensors"}, None):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(UserError, match="index.json: damaged, or not of the files beside it"):
            open_checkpoint(tmp_path)
