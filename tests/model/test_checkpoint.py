"""Checkpoint folders: what is written is read, damage is one clear line, a failed save harms nothing."""

import json
import re

import numpy as np
import paddle
import pytest

from model.checkpoint.folder import model_weights, save_model
from model.checkpoint.formats import fluid, tables
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.formats.fluid import write_fluid
from model.checkpoint.load import load_from
from model.checkpoint.read import open_checkpoint
from model.checkpoint.step_folders import load_newest
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel, SequenceClassifier, SpanClassifier, TokenClassifier
from tests.helpers.full_disk import disk_full_after
from tests.helpers.official_layout import make_official_weights, official_config
from utils.errors import UserError

CONFIG = official_config("tiny")
SHAPE = ErnieMConfig.from_dict(CONFIG)


def classifier(labels=3):
    return SequenceClassifier(SHAPE, labels)


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_our_folder_there_and_back(tmp_path, dtype):
    paddle.set_default_dtype(dtype)
    try:
        model, other = classifier(), classifier()
    finally:
        paddle.set_default_dtype("float32")
    (tmp_path / "v").write_text("[CLS]\n")
    (tmp_path / "p").write_bytes(b"pieces")
    extra = {"task": "classify", "labels": ["a", "b", "c"]}
    save_model(
        tmp_path / "c", model, SHAPE, vocab_path=tmp_path / "v", piece_model_path=tmp_path / "p",
        settings=extra, facts={"languages": ["en"], "steps": 7},
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors", "piece.model", "vocab.txt",
    ]  # fmt: skip
    assert load_from(other, open_checkpoint(tmp_path / "c"), optional=()) == []
    found = open_checkpoint(tmp_path / "c")
    assert found.config == SHAPE and set(found.tensors) == set(model_weights(model))
    assert found.settings == {"model_type": "ernie_m", "architecture": "SequenceClassifier", **extra}
    assert found.vocab_path.read_text() == "[CLS]\n" and found.piece_model_path.name == "piece.model"
    assert same(model_weights(model), model_weights(other))
    assert model_weights(other)["classifier.weight"].dtype == dtype
    assert "- Steps: 7" in (tmp_path / "c" / "README.md").read_text()


def test_names_have_no_encoder_prefix_and_a_tied_table_is_written_once(tmp_path):
    model = PreTrainingModel(SHAPE, ["en", "fr"])
    save_model(tmp_path / "full", model, SHAPE)
    save_model(tmp_path / "encoder", model, SHAPE, leave_out=("lm_head.", "language_embeddings."))
    table = {row.canonical for row in tables.rows_of(tables.OFFICIAL, 2)}
    assert set(open_checkpoint(tmp_path / "full").tensors) == table | {"language_embeddings.weight"}
    encoder = {name for name in table if not name.startswith("lm_head.")}
    assert set(open_checkpoint(tmp_path / "encoder").tensors) == encoder


def test_half_precision_is_saved_as_float32(tmp_path):
    model = classifier()
    arrays = model_weights(model)
    rounded = {name: paddle.to_tensor(array).astype("bfloat16") for name, array in arrays.items()}
    model.to(dtype="bfloat16")
    save_model(tmp_path / "c", model, SHAPE)
    read = open_checkpoint(tmp_path / "c").tensors
    assert {array.dtype for array in read.values()} == {np.dtype("float32")}
    assert all(np.array_equal(read[name], rounded[name].astype("float32").numpy()) for name in read)
    again = classifier()
    again.to(dtype="bfloat16")
    load_from(again, open_checkpoint(tmp_path / "c"))
    assert same(model_weights(model), model_weights(again))


@pytest.mark.parametrize(
    ("head", "labels", "build"),
    [
        ("classification", 3, classifier),
        ("tagging", 5, lambda: TokenClassifier(SHAPE, 5)),
        ("question_answering", 2, lambda: SpanClassifier(SHAPE)),
    ],
)
def test_official_directory_there_and_back(tmp_path, head, labels, build):
    params = make_official_weights(tmp_path / "theirs", CONFIG, seed=3, heads={head: labels})
    model = build()
    assert load_from(model, open_checkpoint(params), optional=()) == []
    found = open_checkpoint(params)
    assert found.task == head and found.config == SHAPE
    assert write_fluid(tmp_path / "ours", model_weights(model), SHAPE.to_dict(), head) == []
    assert json.loads((tmp_path / "ours/ernie_config.json").read_text()) == CONFIG
    theirs = {path.name: path.read_bytes() for path in params.iterdir()}
    ours = {path.name: path.read_bytes() for path in (tmp_path / "ours/params").iterdir()}
    assert ours == theirs and len(ours) == 4 + 2 * 16 + 2 + 2


def test_values_land_under_the_right_names(tmp_path):
    params = make_official_weights(tmp_path, CONFIG, seed=3, heads={"classification": 3})
    model = classifier()
    load_from(model, open_checkpoint(params))
    layer = model.ernie_m.encoder.layers[1]
    for parameter, file in [
        (model.ernie_m.embeddings.word_embeddings.weight, "word_embedding"),
        (model.ernie_m.embeddings.position_embeddings.weight, "pos_embedding"),
        (model.ernie_m.embeddings.layer_norm.weight, "pre_encoder_layer_norm_scale"),
        (layer.norm1.bias, "encoder_layer_1_post_att_layer_norm_bias"),
        (layer.norm2.weight, "encoder_layer_1_post_ffn_layer_norm_scale"),
        (layer.linear1.weight, "encoder_layer_1_ffn_fc_0.w_0"),
        (layer.linear2.bias, "encoder_layer_1_ffn_fc_1.b_0"),
        (model.ernie_m.pooler.dense.weight, "pooled_fc.w_0"),
        (model.classifier.weight, "cls_out_w"),
    ]:
        assert np.array_equal(parameter.numpy(), fluid.read(params / file)), file
    weights = open_checkpoint(params).tensors
    for ours, theirs in [("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output")]:
        for part, suffix in [("weight", "w_0"), ("bias", "b_0")]:
            file = params / f"encoder_layer_0_multi_head_att_{theirs}_fc.{suffix}"
            assert np.array_equal(weights[f"encoder.layers.0.self_attn.{ours}.{part}"], fluid.read(file))


@pytest.mark.parametrize("point_at", ["params", "."])
def test_config_is_found_beside_params(tmp_path, point_at):
    make_official_weights(tmp_path, CONFIG, seed=0)
    found = open_checkpoint(tmp_path / point_at)
    assert found.config == SHAPE and found.format == "official"
    assert found.config_path.resolve() == (tmp_path / "ernie_config.json").resolve()
    (tmp_path / "ernie_config.json").unlink()
    assert open_checkpoint(tmp_path / point_at).config is None


def test_adam_state_and_other_files_are_passed_over(tmp_path):
    params = make_official_weights(tmp_path, CONFIG, seed=0)
    expected = set(open_checkpoint(params).tensors)
    state = ["word_embedding_moment1_0", "scheduled_learning_rate", "pooled_fc.w_0.master", "notes"]
    for name in state:
        (params / name).write_bytes(b"not even a LoDTensor")
    found = open_checkpoint(params)
    assert set(found.tensors) == expected and set(found.dropped) == set(state) and not found.unknown


def test_lm_head_goes_out_under_the_family_names_and_comes_back(tmp_path):
    model, other = (PreTrainingModel(SHAPE, ["en", "fr"]) for _ in range(2))
    assert write_fluid(tmp_path, model_weights(model)) == ["language_embeddings.weight"]
    assert {p.name for p in (tmp_path / "params").iterdir() if p.name.startswith("mask_lm")} == {
        "mask_lm_trans_fc.w_0", "mask_lm_trans_fc.b_0", "mask_lm_trans_layer_norm_scale",
        "mask_lm_trans_layer_norm_bias", "mask_lm_out_fc.b_0",
    }  # fmt: skip
    fresh = load_from(other, open_checkpoint(tmp_path), optional=("language_embeddings.",))
    assert fresh == ["language_embeddings.weight"]
    assert same(model_weights(model), model_weights(other))  # the language table is zero in both


@pytest.mark.parametrize("step", ["step_1", "step_2"])
@pytest.mark.parametrize("size", [100, 20_000])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, step, size):
    model, newer = classifier(), classifier()
    (tmp_path / "v").write_text("words" * 5000)
    save_model(tmp_path / "run/step_1", model, SHAPE, training_state={"step": 1})
    options = {"vocab_path": tmp_path / "v", "training_state": {"step": 2}}
    with disk_full_after(size), pytest.raises(UserError, match=f"{tmp_path / 'run' / step}: no space left"):
        save_model(tmp_path / "run" / step, newer, SHAPE, **options)
    assert load_newest(tmp_path / "run") == (tmp_path / "run/step_1", {"step": 1}, [])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_1"]
    load_from(newer, open_checkpoint(tmp_path / "run/step_1"))
    assert same(model_weights(model), model_weights(newer))


def test_a_full_disk_leaves_the_previous_official_directory(tmp_path):
    write_fluid(tmp_path, model_weights(classifier()), CONFIG)
    before = {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()}
    with disk_full_after(1000), pytest.raises(UserError, match="params: no space left"):
        write_fluid(tmp_path, model_weights(classifier()))
    assert {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ernie_config.json", "params"]


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "v").write_text("[CLS]\n")
    save_model(tmp_path / "best", classifier(), SHAPE, vocab_path=tmp_path / "v")
    return tmp_path / "best"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", flip, "damaged, its checksum differs"),
        ("vocab.txt", lambda path: path.write_bytes(b"["), "damaged, 1 bytes instead of"),
        ("config.json", lambda path: path.unlink(), "missing"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(saved, name, damage, message):
    damage(saved / name)
    with pytest.raises(UserError, match=f"{re.escape(str(saved / name))}: {message}") as told:
        open_checkpoint(saved)
    assert f"delete {saved / 'manifest.json'}" in str(told.value)
    (saved / "manifest.json").unlink()  # a change of one's own is declared
    assert open_checkpoint(saved).tensors


@pytest.mark.parametrize("content", ["", '{"version": 1, "name": "an app"}', "\x00"])
def test_the_card_may_be_edited_and_the_manifest_of_another_program_is_not_ours(saved, content):
    (saved / "README.md").write_text("my words")
    assert open_checkpoint(saved).config
    (saved / "manifest.json").write_text(content)
    assert open_checkpoint(saved).config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 9}, "version 9 of the format"),
        ({"files": {"../../x": {"bytes": 1, "sha256": ""}}}, "files of other folders"),
        ({"files": {"config.json": {"sha256": ""}}}, "manifest.json: damaged"),
    ],
)
def test_a_damaged_manifest(saved, change, message):
    told = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(told | change))
    with pytest.raises(UserError, match=message):
        open_checkpoint(saved)


def test_a_damaged_file_without_a_manifest_is_named(saved):
    (saved / "manifest.json").unlink()
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{file}: damaged, cut short or not a safetensors file"):
        open_checkpoint(saved)
    safe.write(file, {"bert.encoder.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=f"{file}: no names of ERNIE-M or XLM-R: .* but bert.encoder.weight"):
        open_checkpoint(saved)
    file.write_bytes(whole)
    (saved / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json, line 1, column 2: not JSON"):
        open_checkpoint(saved)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(UserError, match="absent: no such folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="no checkpoint here: .* name its best or step_N folder"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="vocab.txt: no such file"):
        save_model(tmp_path / "c", classifier(), SHAPE, vocab_path=tmp_path / "vocab.txt")
    assert not (tmp_path / "c").exists()
