"""Checkpoint folders: what is written is read, damage is one clear line, a failed save harms nothing."""

import json

import numpy as np
import paddle
import pytest

from ernie_m.model.checkpoint import lod_tensors
from ernie_m.model.checkpoint import safetensors as safe
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.official import OfficialFormat
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.model.ernie import ErnieMConfig
from ernie_m.model.heads import SequenceClassifier, SpanClassifier, TokenClassifier
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.utils.errors import UserError
from tests.foreign import make_official, official_config, write_as_official
from tests.helpers.checkpoints import change_config, save_model, stored
from tests.helpers.dtypes import default_dtype
from tests.helpers.files import disk_full_after, flip_last_bit, read_files, write_file
from tests.launching import check_error, error_of

CONFIG = official_config()
SHAPE = ErnieMConfig.from_dict(CONFIG)


def classifier(labels=3):
    """A classifier with new random weights."""
    return SequenceClassifier(SHAPE, labels)


def same_weights(model, loaded_model):
    """Whether two models have the same parameters, with the same types and bits."""
    arrays = get_weight_arrays(model)
    loaded_arrays = get_weight_arrays(loaded_model)
    return arrays.keys() == loaded_arrays.keys() and all(
        array.dtype == loaded_arrays[name].dtype and np.array_equal(array, loaded_arrays[name])
        for name, array in arrays.items()
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_our_folder_there_and_back(tmp_path, dtype):
    with default_dtype(dtype):
        model = classifier()
        loaded_model = classifier()
    settings = {"task": "classification", "labels": ["a", "b", "c"]}
    save_model(
        tmp_path / "saved",
        model,
        SHAPE,
        tokenizer={"vocab.txt": b"[CLS]\n", "piece.model": b"pieces"},
        settings=settings | {"pipeline": stored()},
    )
    files = ["README.md", "config.json", "manifest.json", "model.safetensors", "piece.model", "vocab.txt"]
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == files
    checkpoint = open_checkpoint(tmp_path / "saved")
    assert (checkpoint.config, checkpoint.task, checkpoint.labels, checkpoint.settings) == (
        SHAPE,
        "classification",
        ["a", "b", "c"],
        {"model_type": "ernie_m", "architecture": "SequenceClassifier", **settings},
    )
    assert checkpoint.vocab_path.read_text() == "[CLS]\n"
    assert load_weights(loaded_model, checkpoint, optional=()) == []
    assert same_weights(model, loaded_model)
    assert get_weight_arrays(loaded_model)["classifier.weight"].dtype == dtype


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({}, "classification"),  # by its class
        ({"task": "tagging"}, "token-classification"),
        ({"task": "retrieval"}, "search"),
        ({"task": "tagging", "head": "choice"}, "choice"),  # as --head of ernie-m convert said
        ({"task": "sorting"}, "classification"),  # an unknown word, which is said: by its class again
        ({"task": ["tagging"]}, "classification"),
        ({"architecture": "ErnieMModel"}, None),
    ],
)
def test_one_rule_says_what_a_model_is_for(tmp_path, caplog, settings, task):
    folder = tmp_path / "saved"
    save_model(folder, classifier(), SHAPE)
    change_config(folder, **settings)
    (folder / "manifest.json").unlink()  # it has the checksum of the other config
    assert open_checkpoint(folder).task == task
    is_unknown = settings.get("task") == "sorting"
    assert caplog.messages == [f"{folder}/config.json: ignoring unknown task sorting"] * is_unknown


@pytest.mark.parametrize("labels", [{"a": 0, "b": 1}, ["a", None], "a,b"])
def test_reject_invalid_labels(tmp_path, labels):
    save_model(tmp_path / "saved", classifier(), SHAPE, settings={"labels": labels})
    assert f"config.json: invalid labels {labels}" in error_of(open_checkpoint, tmp_path / "saved")


def test_names_have_no_encoder_prefix_and_a_tied_table_is_written_once(tmp_path):
    model = PreTrainingModel(SHAPE, ["en", "fr"])
    save_model(tmp_path / "full", model, SHAPE)
    save_model(tmp_path / "encoder", model, SHAPE, omitted_prefixes=("lm_head.", "language_embeddings."))
    official_names = {row.canonical for row in OfficialFormat().list_tensors(2)}
    encoder_names = {name for name in official_names if not name.startswith("lm_head.")}
    assert set(open_checkpoint(tmp_path / "full").tensors) == official_names | {"language_embeddings.weight"}
    assert set(open_checkpoint(tmp_path / "encoder").tensors) == encoder_names


def test_half_precision_is_saved_as_float32(tmp_path):
    model = classifier()
    rounded = {
        name: paddle.to_tensor(array).astype("bfloat16").astype("float32").numpy()
        for name, array in get_weight_arrays(model).items()
    }
    model.to(dtype="bfloat16")
    save_model(tmp_path / "saved", model, SHAPE)
    checkpoint = open_checkpoint(tmp_path / "saved")
    for name, array in checkpoint.tensors.items():
        np.testing.assert_array_equal(array, rounded[name], strict=True)
    loaded_model = classifier()
    loaded_model.to(dtype="bfloat16")
    load_weights(loaded_model, checkpoint)
    assert same_weights(model, loaded_model)


@pytest.mark.parametrize(
    ("head", "labels", "build"),
    [
        ("classification", 3, classifier),
        ("token-classification", 5, lambda: TokenClassifier(SHAPE, 5)),
        ("question-answering", 2, lambda: SpanClassifier(SHAPE)),
    ],
)
def test_official_directory_there_and_back(tmp_path, head, labels, build):
    params = make_official(tmp_path / "first", CONFIG, seed=3, head=head)
    checkpoint = open_checkpoint(params)
    assert (checkpoint.task, checkpoint.config) == (head, SHAPE)
    model = build()
    assert load_weights(model, checkpoint, optional=()) == []
    assert write_as_official(tmp_path / "second", get_weight_arrays(model), SHAPE, head) == []
    assert json.loads((tmp_path / "second/ernie_config.json").read_text()) == CONFIG
    assert read_files(tmp_path / "second/params") == read_files(params)


def test_values_land_under_the_right_names(tmp_path):
    params = make_official(tmp_path, CONFIG, seed=3, head="classification")
    tensors = open_checkpoint(params).tensors
    attention = "encoder_layer_0_multi_head_att"
    for name, file in {
        "embeddings.word_embeddings.weight": "word_embedding",
        "embeddings.position_embeddings.weight": "pos_embedding",
        "embeddings.layer_norm.weight": "pre_encoder_layer_norm_scale",
        "encoder.layers.0.self_attn.q_proj.weight": f"{attention}_query_fc.w_0",
        "encoder.layers.0.self_attn.k_proj.bias": f"{attention}_key_fc.b_0",
        "encoder.layers.0.self_attn.v_proj.weight": f"{attention}_value_fc.w_0",
        "encoder.layers.0.self_attn.out_proj.bias": f"{attention}_output_fc.b_0",
        "encoder.layers.1.norm1.bias": "encoder_layer_1_post_att_layer_norm_bias",
        "encoder.layers.1.norm2.weight": "encoder_layer_1_post_ffn_layer_norm_scale",
        "encoder.layers.1.linear1.weight": "encoder_layer_1_ffn_fc_0.w_0",
        "encoder.layers.1.linear2.bias": "encoder_layer_1_ffn_fc_1.b_0",
        "pooler.dense.weight": "pooled_fc.w_0",
        "classifier.weight": "cls_out_w",
    }.items():
        assert np.array_equal(tensors[name], lod_tensors.read(params / file)), file


@pytest.mark.parametrize(("current", "folder"), [(".", "params"), (".", "."), ("params", ".")])
def test_find_config_next_to_params(tmp_path, monkeypatch, current, folder):
    """Whether the user names `params` or the folder above it, or is there."""
    make_official(tmp_path, CONFIG, seed=0)
    monkeypatch.chdir(tmp_path / current)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.format, checkpoint.config) == ("official", SHAPE)
    checkpoint.config_path.unlink()
    assert not (tmp_path / "ernie_config.json").exists()
    assert open_checkpoint(folder).config is None


def test_two_sizes_share_the_tokenizer_in_the_parent_folder(tmp_path):
    """As configs/base and configs/large do, if both of its files are there."""
    for size in ("base", "large"):
        make_official(tmp_path / size, CONFIG, seed=0)
    (tmp_path / "piece.model").write_text("")
    assert open_checkpoint(tmp_path / "base").piece_model_path is None
    (tmp_path / "vocab.txt").write_text("")
    for path in ("base", "base/params", "large"):
        checkpoint = open_checkpoint(tmp_path / path)
        tokenizer = [checkpoint.piece_model_path.resolve(), checkpoint.vocab_path.resolve()]
        assert tokenizer == [tmp_path.resolve() / name for name in ("piece.model", "vocab.txt")], path


@pytest.mark.parametrize(("folder", "is_found"), [("params", True), ("step_5", False)])
def test_find_tokenizer_next_to_params_only(tmp_path, folder, is_found):
    """Any other folder of official files may lie next to files that do not belong to it."""
    make_official(tmp_path, CONFIG, seed=0).rename(tmp_path / folder)
    (tmp_path / "piece.model").write_text("")
    assert (open_checkpoint(tmp_path / folder).piece_model_path is not None) == is_found


def test_adam_state_and_other_files_are_passed_over(tmp_path):
    params = make_official(tmp_path, CONFIG, seed=0)
    names = set(open_checkpoint(params).tensors)
    other_files = {"word_embedding_moment1_0", "scheduled_learning_rate", "pooled_fc.w_0.master", "notes"}
    for name in other_files:
        (params / name).write_bytes(b"not even a LoDTensor")
    for name in ("piece.model", "vocab.txt"):  # of the model
        (params / name).write_text("")
    (tmp_path / "ernie_config.json").rename(params / "ernie_config.json")
    half_a_head = "cls_out_b"
    lod_tensors.write(params / half_a_head, np.zeros(3, "f4"))
    checkpoint = open_checkpoint(params)
    assert (set(checkpoint.tensors), checkpoint.config, set(checkpoint.dropped), checkpoint.unknown) == (
        names,
        SHAPE,
        other_files | {half_a_head},
        [],
    )


def test_lm_head_goes_out_under_the_family_names_and_comes_back(tmp_path):
    """ERNIE-M's released files have no such head; other models of the ERNIE family call it mask_lm."""
    model = PreTrainingModel(SHAPE, ["en", "fr"])
    assert write_as_official(tmp_path, get_weight_arrays(model), SHAPE) == ["language_embeddings.weight"]
    assert {path.name for path in (tmp_path / "params").glob("mask_lm*")} == {
        "mask_lm_trans_fc.w_0",
        "mask_lm_trans_fc.b_0",
        "mask_lm_trans_layer_norm_scale",
        "mask_lm_trans_layer_norm_bias",
        "mask_lm_out_fc.b_0",
    }
    loaded_model = PreTrainingModel(SHAPE, ["en", "fr"])
    load_weights(loaded_model, open_checkpoint(tmp_path), optional=("language_embeddings.",))
    assert same_weights(model, loaded_model)  # the language table is zero in both


@pytest.mark.parametrize("step", ["step_1", "step_2"])
@pytest.mark.parametrize("size", [100, 20_000])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, step, size):
    """The disk is full when step_2 is saved, or step_1 once more.

    The largest file may have `size` bytes: 100 are too few for config.json, 20,000 for the weights.
    """
    model = classifier()
    newer_model = classifier()
    save_model(tmp_path / "run/step_1", model, SHAPE)
    with disk_full_after(size), pytest.raises(UserError, match=f"{tmp_path / 'run' / step}: no space left"):
        save_model(tmp_path / "run" / step, newer_model, SHAPE, tokenizer={"vocab.txt": b"words" * 5000})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_1"]
    load_weights(newer_model, open_checkpoint(tmp_path / "run/step_1"))
    assert same_weights(model, newer_model)


@pytest.fixture
def saved(tmp_path):
    """The folder of a classifier."""
    save_model(tmp_path / "best", classifier(), SHAPE, tokenizer={"vocab.txt": b"[CLS]\n"})
    return tmp_path / "best"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", flip_last_bit, "corrupt"),
        ("vocab.txt", lambda path: path.write_bytes(b"["), "corrupt"),
        ("config.json", lambda path: path.unlink(), "missing"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(saved, name, damage, message):
    damage(saved / name)
    check_error(
        error_of(open_checkpoint, saved),
        f"delete {saved / 'manifest.json'}",
        start=f"{saved / name}: {message}",
    )
    (saved / "manifest.json").unlink()  # the user says that the change is theirs
    assert open_checkpoint(saved).tensors


def test_git_lfs_pointer_is_not_called_corrupt(saved):
    """It has another size than the manifest says, and weights without a manifest another format."""
    file = write_file(
        saved / "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    )
    for _ in range(2):
        line = error_of(open_checkpoint, saved)
        assert line.startswith(f"{file}: ") and "git lfs pull" in line and "corrupt" not in line
        (saved / "manifest.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "is_damage"),  # None: neither corrupt nor of another revision
    [
        *((content, True) for content in ("", "\x00", '{"version": 1, "fil')),
        *((content, False) for content in ("{}", {"version": 9}, {"version": None})),
        *((content, None) for content in ('["a"]', '{"version": 1, "name": "an app"}', {})),
        ({"files": {"../../x": {"bytes": 1, "sha256": ""}}}, True),
        ({"files": {"config.json": {"sha256": ""}}}, True),
        ({"files": {"sha256": 3}}, True),
        ({"files": ["sha256"]}, True),
    ],
)
def test_a_changed_manifest(saved, change, is_damage):
    """Those of other programs are not read, and the card may be edited."""
    path = saved / "manifest.json"
    (saved / "README.md").write_text("my words")
    path.write_text(json.dumps(json.loads(path.read_text()) | change) if type(change) is dict else change)
    if is_damage is None:
        assert open_checkpoint(saved).config
    else:
        line = error_of(open_checkpoint, saved)
        assert line.startswith(str(path)) and (f"delete {path}" in line) is is_damage


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ('{"model_type": "deberta-v2"}', "config.json has model_type deberta-v2; "),
        ("{}", "config.json has model_type None; "),
        (None, "config.json is missing; "),
    ],
)
def test_reject_unknown_model_families(tmp_path, config, what):
    """The line names the families that can be read."""
    file = tmp_path / "model.safetensors"
    safe.write(file, {"deberta.encoder.rel_embeddings.weight": np.zeros(3, np.float32)})
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    line = error_of(open_checkpoint, tmp_path)
    assert line.startswith(f"{file}: ") and f"deberta.encoder.rel_embeddings.weight, and {what}" in line
    assert all(family in line for family in ("ERNIE-M", "XLM-R", "BERT"))
