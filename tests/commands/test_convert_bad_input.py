"""A model that cannot be converted is refused by one line that names it, and nothing is written."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ernie_m.commands import convert
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.foreign import fairseq_state, make_paddlenlp, make_xlm_r
from tests.helpers.checkpoints import change_config
from tests.helpers.torch_files import write_torch_file
from tests.launching import check_error, error_of
from tests.toys import CONFIG, make_ours, weights, write_piece_model


@pytest.fixture
def refused(tmp_path):
    """refused(source, to): convert `source`, which must fail and leave no files; return the message."""

    def run(source, to: str = "huggingface") -> str:
        line = error_of(convert.main, [str(source), str(tmp_path / "out"), "--to", to])
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))
        return line

    return run


def set_tensor(folder, name: str, array: np.ndarray | None) -> None:
    """Replace a tensor in a folder's weights; None: remove it."""
    tensors = {**load_file(folder / "model.safetensors"), name: array}
    if array is None:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def full(*shape: int, value: float = 1.0, dtype: type = np.float32) -> np.ndarray:
    """An array that has the same value everywhere."""
    return np.full(shape, value, dtype)


# The name of a tensor, its new value (None: it is removed), and the message. The model has the layers 0 and
# 1.
CHANGES = [
    ("encoder.layers.1.norm2.bias", None, "1 tensors missing: encoder.layers.1.norm2.bias"),
    ("classifier.bias", None, "1 tensors missing: classifier.bias"),
    ("lm_head.bias", full(60), "4 tensors missing: lm_head.dense.weight, "),
    ("strange", full(3), "1 unknown tensors: strange"),
    ("encoder.layers.1.linear1.weight", full(16, 32), "encoder.layers.1.linear1.weight has shape [16, 32]"),
    # 16 of each of the layers 2 to 98, and 15 of layer 99: 16 x 97 + 15.
    ("encoder.layers.99.norm1.bias", full(16), "1567 tensors missing: "),
    ("pooler.dense.bias", full(1, 16), "pooler.dense.bias has shape [1, 16]"),
    ("pooler.dense.bias", full(16, value=np.nan), "pooler.dense.bias "),
    ("pooler.dense.bias", full(16, dtype=np.int64), "pooler.dense.bias has dtype int64"),
    ("pooler.dense.bias", full(16, dtype=np.bool_), "pooler.dense.bias has dtype bool"),
    # No model has so many layers.
    (
        "encoder.layers.99999.norm1.bias",
        full(16),
        "1 unknown tensors inside the encoder: encoder.layers.99999.norm1.bias",
    ),
]


@pytest.mark.parametrize(("name", "array", "message"), CHANGES)
def test_names_invalid_tensors(tmp_path, refused, name, array, message):
    make_ours(tmp_path / "in", head="classification")
    set_tensor(tmp_path / "in", name, array)
    check_error(refused(tmp_path / "in"), message, start=str(tmp_path / "in"))


@pytest.mark.parametrize("shape", [(2, 8), (16,), (0, 16)])
def test_token_types_that_cannot_be_added(tmp_path, refused, shape):
    """Those of XLM-R are added to the position embeddings, so they must have one row."""
    make_xlm_r(tmp_path / "in")
    write_piece_model(tmp_path / "in")
    name = "roberta.embeddings.token_type_embeddings.weight"
    set_tensor(tmp_path / "in", name, np.ones(shape, np.float32))
    check_error(refused(tmp_path / "in"), f"{name} has shape {list(shape)}", "[40, 16]")


@pytest.mark.parametrize("shape", [(50, 16), ()])
def test_reject_fused_qkv_not_divisible_by_three(tmp_path, refused, shape):
    """q, k and v of 16 rows each would be 48 rows."""
    state = fairseq_state(weights(lm_head=True, pooler=False), fused=True)
    name = "decoder.sentence_encoder.layers.1.self_attn.in_proj_weight"
    state[name] = np.ones(shape, np.float32)
    (tmp_path / "in").mkdir()
    write_piece_model(tmp_path / "in")
    write_torch_file(tmp_path / "in/model.pt", state)
    assert f"{name} has shape {list(shape)}" in refused(tmp_path / "in")


def test_drops_and_reports_unknown_entries_on_request(tmp_path, capsys):
    """Also what is not a tensor."""
    make_paddlenlp(tmp_path / "in")
    file = tmp_path / "in/model_state.pdparams"
    file.write_bytes(pickle.dumps({**pickle.loads(file.read_bytes()), "strange": 3}, 4))
    convert.main([str(tmp_path / "in"), str(tmp_path / "out"), "--to", "paddlenlp", "--drop_unknown"])
    assert "skipped: strange (" in capsys.readouterr().out


def test_a_config_that_contradicts_the_weights_loses_and_is_named(tmp_path, caplog):
    weights_before = make_paddlenlp(tmp_path / "in")
    change_config(tmp_path / "in", num_hidden_layers=7, vocab_size=99, hidden_size="x")
    convert.main([str(tmp_path / "in"), str(tmp_path / "out"), "--to", "huggingface"])
    assert caplog.messages == [
        *(
            f"{tmp_path}/in/config.json: {key} is {values}; using the weights' value"
            for key, values in (
                ("num_hidden_layers", "7, but the weights have 2"),
                ("vocab_size", "99, but the weights have 60"),
                ("hidden_size", "x, but the weights have 16"),
            )
        ),
        f"{tmp_path}/in: 54 unused embedding rows beyond the vocabulary",
    ]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"], config["hidden_size"]) == (2, 60, 16)
    assert set(open_checkpoint(tmp_path / "out").tensors) == set(weights_before)


# XLM-R's positions begin after pad_token_id, ours at 2; and BERT has its names.
@pytest.mark.parametrize(
    "make, change, message",
    [
        (make_paddlenlp, {"num_attention_heads": None}, "num_attention_heads"),
        (
            make_paddlenlp,
            {"num_attention_heads": "four"},
            "config.json: invalid num_attention_heads 'four'",
        ),
        (
            make_paddlenlp,
            {"model_type": "xlm-roberta"},
            "config.json has model_type",
        ),
        (
            make_paddlenlp,
            {"pad_token_id": 0},
            "pad_token_id 0 ",
        ),
        (
            make_paddlenlp,
            {"hidden_dropout_prob": "x"},
            "hidden_dropout_prob 'x'",
        ),
        (
            make_paddlenlp,
            {"hidden_dropout_prob": 10},
            "hidden_dropout_prob 10",
        ),
        (make_xlm_r, {"model_type": "bert"}, "unsupported BERT vocabulary"),
        (make_xlm_r, {"model_type": "roberta"}, "config.json has model_type"),
        (make_xlm_r, {"model_type": None}, "config.json has model_type"),
        (make_xlm_r, {"pad_token_id": 0}, "config.json: invalid pad_token_id 0"),
    ],
)
def test_names_invalid_config_keys(tmp_path, refused, make, change, message):
    make(tmp_path / "in")
    change_config(tmp_path / "in", **change)
    assert message in refused(tmp_path / "in", "xlm-roberta" if "pad_token_id" in change else "huggingface")


@pytest.mark.parametrize("key, value", [("intermediate_size", 32), ("layer_norm_eps", 1e-12)])
@pytest.mark.parametrize("target", ["fluid", "paddlenlp"])
def test_a_size_that_a_format_has_no_key_for(tmp_path, refused, key, value, target):
    make_ours(tmp_path / "in", config={**CONFIG, key: value})
    assert f"{key} {value}" in refused(tmp_path / "in", to=target)


def test_ask_for_head_if_task_is_unknown(tmp_path, refused):
    make_ours(tmp_path / "in", head="classification")
    (tmp_path / "in/config.json").write_text(json.dumps(CONFIG))
    advice = "--head classification|token-classification|question-answering|choice"
    assert advice in refused(tmp_path / "in")
    make_ours(tmp_path / "encoder")
    line = [str(tmp_path / "encoder"), str(tmp_path / "out"), "--head", "token-classification"]
    assert "--head token-classification: " in error_of(convert.main, line)
    change_config(tmp_path / "encoder", head="classification", task="classification")
    convert.main([str(tmp_path / "encoder"), str(tmp_path / "plain"), "--to", "huggingface"])
    assert json.loads((tmp_path / "plain/config.json").read_text())["architectures"] == ["ErnieMModel"]
    convert.main(
        [
            str(tmp_path / "in"),
            str(tmp_path / "hf"),
            "--to",
            "huggingface",
            "--head",
            "token-classification",
            "--allow_lossy",
        ]
    )
    assert open_checkpoint(tmp_path / "hf").task == "token-classification"


def test_paddlenlp_head_name_needs_the_task(tmp_path, refused):
    make_paddlenlp(tmp_path / "pn", "token-classification")
    change_config(tmp_path / "pn", architectures=None)
    assert "--head" in refused(tmp_path / "pn")
    convert.main(
        [str(tmp_path / "pn"), str(tmp_path / "tagger"), "--to", "ernie-m", "--head", "token-classification"]
    )
    assert open_checkpoint(tmp_path / "tagger").settings["architecture"] == "TokenClassifier"


@pytest.mark.parametrize("line", [["convert", "in", "out", "--to", "fluid"], ["train", "--help"]])
def test_a_report_that_nobody_reads(tmp_path, line):
    """`ernie-m convert in out | head -n 0` ends without a traceback."""
    make_ours(tmp_path / "in")
    command = [sys.executable, "-m", "ernie_m", *line]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(60) == 0
    assert "--help" in line or open_checkpoint(tmp_path / "out").format == "official"


@pytest.mark.parametrize(
    "line, location",
    [
        (["in"], "missing required option TARGET "),
        (["in", "out", "--to", "keras"], "--to keras: "),
        (["in", "out", "--head", "poet"], "--head poet: "),
    ],
)
def test_a_wrong_command_line_names_its_flag(line, location):
    assert error_of(convert.main, line).startswith(f"{location}")
