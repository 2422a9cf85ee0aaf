"""Formats that are only read, and old versions of others, give the same tensors; a report names them."""

import itertools
import json
import pickle
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from ernie_m.commands import convert
from ernie_m.model.checkpoint import safetensors as safe
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.open_model import open_model
from ernie_m.reader.tokenization import Tokenizer
from tests.foreign import (
    fairseq_args,
    fairseq_state,
    make_paddlenlp,
    make_xlm_r,
)
from tests.helpers.arrays import assert_same_bits
from tests.helpers.checkpoints import save_model, stored
from tests.helpers.torch_files import write_torch_file
from tests.launching import check_error, error_of
from tests.toys import CONFIG, make_ours, train_piece_model, weights, write_piece_model


@pytest.mark.parametrize(
    "task", [None, "classification", "token-classification", "question-answering", "choice"]
)
@pytest.mark.parametrize("old_names", [False, True])
def test_open_paddlenlp_checkpoint(tmp_path, task, old_names, caplog):
    expected = make_paddlenlp(tmp_path / "pn", task, old_names=old_names)
    checkpoint = open_checkpoint(tmp_path / "pn")
    size = checkpoint.config.intermediate_size
    assert (checkpoint.format, checkpoint.task, checkpoint.unknown, size) == ("paddlenlp", task, [], 64)
    assert "using the weights' value" not in caplog.text  # the file says 3072
    assert_same_bits(checkpoint.tensors, expected)


def test_paddlenlp_old_tokenizer_names_and_a_file_by_its_name(tmp_path):
    make_paddlenlp(tmp_path / "pn", old_names=True)
    (tmp_path / "pn/piece.model").unlink()
    for name in ("ernie_m.vocab.txt", "ernie_m.sentencepiece.bpe.model"):
        (tmp_path / "pn" / name).write_text("")
    checkpoint = open_checkpoint(tmp_path / "pn/ernie_m_base.pdparams")
    assert checkpoint.files == [
        tmp_path / "pn" / name
        for name in (
            "ernie_m_base.pdparams",
            "model_config.json",
            "ernie_m.vocab.txt",
            "ernie_m.sentencepiece.bpe.model",
        )
    ]


@pytest.mark.parametrize(("other", "is_refused"), [("scheduler.pdparams", False), ("a.pdparams", True)])
def test_two_files_of_weights(tmp_path, other, is_refused):
    make_paddlenlp(tmp_path / "pd", old_names=True)
    (tmp_path / "pd" / other).write_bytes(b"x")
    if is_refused:
        check_error(
            error_of(open_checkpoint, tmp_path / "pd"), other, "ernie_m_base.pdparams", "model_state.pdparams"
        )
    else:
        assert open_checkpoint(tmp_path / "pd").files[0].name == "ernie_m_base.pdparams"


def test_bfloat16_of_safetensors(tmp_path):
    # 1, -2.5, a large number and the smallest.
    bits = np.array([[0x3F80, 0xC020], [0x7F61, 0x0001]], np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    np.testing.assert_array_equal(safe.read(tmp_path / "x")["x"], as_float32(bits))


def as_float32(bits: np.ndarray) -> np.ndarray:
    """The numbers whose bits in bfloat16 these are: the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("file_format", ["pdparams", "safetensors", "shards"])
@pytest.mark.parametrize("task", [None, "token-classification"])
def test_bfloat16_of_paddle(tmp_path, file_format, task):
    """It saves the bits as uint16, in each of its formats."""
    folder = tmp_path / "pn"
    arrays = make_paddlenlp(folder, task)
    file = folder / "model_state.pdparams"
    state = pickle.loads(file.read_bytes())
    bits = {
        name: (value.view(np.uint32) >> 16).astype(np.uint16)
        for name, value in state.items()
        if name != "StructuredToParameterName@@"
    }
    if file_format == "pdparams":
        file.write_bytes(pickle.dumps(bits, 4))
    else:
        file.unlink()
        names = (
            ["model.safetensors"]
            if file_format == "safetensors"
            else ["model-1.safetensors", "model-2.safetensors"]
        )
        file_of = dict(zip(bits, itertools.cycle(names)))
        for name in names:
            save_file({key: bits[key] for key in bits if file_of[key] == name}, folder / name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))
    expected = {
        name: as_float32((array.view(np.uint32) >> 16).astype(np.uint16)) for name, array in arrays.items()
    }
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == "paddlenlp"  # which has our names
    assert_same_bits(checkpoint.tensors, expected)


@pytest.mark.parametrize(
    ("file", "index", "wrapper"),
    [
        ("model_state.pdparams", "", ""),
        ("part.pdparams", "model_state.pdparams.index.json", ""),
        ("part.safetensors", "model.safetensors.index.json", ""),
        ("part.safetensors", "model.safetensors.index.json", "model."),
        *(
            ("model.safetensors", "", name)
            for name in ("", "module.", "_orig_mod.", "model.", "module._orig_mod.")
        ),
    ],
)
@pytest.mark.parametrize("task", ["lm", "classification"])
def test_open_xlm_r_saved_by_paddlenlp(tmp_path, file, index, wrapper, task):
    """It has the names and the config of transformers', and matrices [in, out].

    `wrapper`: what is before all names, as of a model within another module.
    """
    state = make_xlm_r(tmp_path / "torch", paddlenlp_version="3.0.0b4")
    if task == "classification":
        state = {name: array for name, array in state.items() if not name.startswith("lm_head.")}
        for name, shape in (("dense.weight", (16, 16)), ("out_proj.weight", (3, 16))):
            state[f"classifier.{name}"] = np.random.default_rng(1).random(shape, np.float32)
        state |= {"classifier.dense.bias": np.ones(16, "f4"), "classifier.out_proj.bias": np.ones(3, "f4")}
    save_file(state, tmp_path / "torch/model.safetensors", metadata={"format": "pt"})
    expected = open_checkpoint(tmp_path / "torch")
    assert expected.format == "xlm-r"

    folder = tmp_path / "paddle"
    folder.mkdir()
    config = json.loads((tmp_path / "torch/config.json").read_text())
    if "pdparams" in file:
        del config["paddlenlp_version"]  # the name of the file tells
    (folder / "config.json").write_text(json.dumps(config))
    turned = {
        wrapper + name: np.ascontiguousarray(
            array.T if array.ndim == 2 and "embeddings" not in name else array
        )
        for name, array in state.items()
    }
    if "pdparams" in file:
        (folder / file).write_bytes(pickle.dumps(turned, 4))
    else:
        save_file(turned, folder / file, metadata={"format": "np"})
    if index:
        (folder / index).write_text(json.dumps({"weight_map": dict.fromkeys(turned, file)}))
    checkpoint = open_checkpoint(folder)
    read = (checkpoint.config, checkpoint.task, checkpoint.pipeline_config)
    assert read == (expected.config, expected.task, expected.pipeline_config)
    assert_same_bits(checkpoint.tensors, dict(expected.tensors))


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    """Whether a file has torch's layout before version 1.6."""
    return request.param


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "prefix, new_norm", [("decoder.", False), ("encoder.", True), ("module.encoder.", False)]
)
def test_fairseq(tmp_path, legacy, prefix, fused, new_norm, capsys):
    """With each of the names that fairseq has used; `fused`: q, k and v are one tensor."""
    expected = weights(lm_head=True, pooler=False)
    state = fairseq_state(expected, prefix, fused, new_norm)
    (tmp_path / "xlmr").mkdir()
    write_piece_model(tmp_path / "xlmr")
    flags = fairseq_args(dropout=0.2, attention_dropout=0.3)
    file = tmp_path / "xlmr/model.pt"
    # The key "cfg" exists since 0.10, "args" before.
    said = (
        {"args": None, "cfg": {"model": vars(flags)}} if new_norm else {"args": flags, "cfg": {"model": {}}}
    )
    write_torch_file(file, state, lambda state: {**said, "model": state}, legacy)
    for source in (tmp_path / "xlmr", file):
        checkpoint = open_checkpoint(source)
        values = {**CONFIG, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}
        assert (checkpoint.format, checkpoint.unknown) == ("fairseq", [])
        assert checkpoint.config.to_dict() == values
        assert_same_bits(checkpoint.tensors, expected)

    convert.main([str(tmp_path / "xlmr"), str(tmp_path / "native"), "--to", "ernie-m"])
    assert_same_bits(open_checkpoint(tmp_path / "native").tensors, expected)
    left_out = f"skipped: {prefix.removeprefix('module.')}lm_head.weight (a copy of the word embeddings)\n"
    assert left_out in capsys.readouterr().out


def test_convert_keeps_fairseq_dict_as_vocabulary(tmp_path):
    folder = tmp_path / "xlmr"
    folder.mkdir()
    piece_model = train_piece_model(folder / "sentencepiece.bpe.model")
    tokens = Tokenizer(None, piece_model).list_ordinary_subwords()[::-1]
    (folder / "dict.txt").write_text("".join(f"{token} 7\n" for token in tokens), encoding="utf-8")
    arrays = weights(config={**CONFIG, "vocab_size": len(tokens) + 5}, lm_head=True, pooler=False)
    state = fairseq_state(arrays)
    write_torch_file(folder / "model.pt", state, lambda state: {"args": fairseq_args(), "model": state})
    checkpoint = open_checkpoint(folder)
    options = {"tokenizer": open_model(checkpoint).tokenizer.files}
    options["settings"] = {"pipeline": stored(text_rules="none")}
    save_model(tmp_path / "trained", ErnieMModel(checkpoint.config), checkpoint.config, **options)
    convert.main([str(folder), str(tmp_path / "converted"), "--to", "ernie-m"])
    for path in (folder, tmp_path / "trained", tmp_path / "converted"):
        tokenizer = open_model(open_checkpoint(path)).tokenizer
        assert tokenizer.convert_ids_to_tokens(range(4, len(tokens) + 4)) == tokens
        if path != folder:
            assert Tokenizer.from_folder(path).vocab == tokenizer.vocab


def test_the_report_names_tensors_that_are_missing(tmp_path, capsys):
    make_xlm_r(tmp_path / "x")
    write_piece_model(tmp_path / "x")
    convert.main([str(tmp_path / "x"), str(tmp_path / "hf"), "--to", "huggingface", "--allow_lossy"])
    assert f"not in {tmp_path / 'x'}: pooler.dense.weight (" in capsys.readouterr().out


def test_convert_xlm_r_pooler(tmp_path):
    """Beside a masked-LM head the pooler was never trained, so it is dropped.

    Without that head it is part of the model.
    """
    state = make_xlm_r(tmp_path / "x")
    pooler = {
        "pooler.dense.weight": np.full((16, 16), 2, np.float32),
        "pooler.dense.bias": np.ones(16, np.float32),
    }
    with_head = state | {f"roberta.{name}": array for name, array in pooler.items()}
    save_file(with_head, tmp_path / "x/model.safetensors")
    dropped = open_checkpoint(tmp_path / "x").dropped
    assert dropped["roberta.pooler.dense.bias"] == "untrained, next to a masked-LM head"
    encoder = {name.removeprefix("roberta."): state[name] for name in state if "lm_head" not in name}
    save_file(encoder | pooler, tmp_path / "x/model.safetensors")
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "x").tensors["pooler.dense.weight"], 2)


@pytest.mark.parametrize(
    ("target", "config", "location"),
    [
        ("fluid", "ernie_config.json", "base: missing config.json"),
        ("huggingface", "config.json", "base/model.safetensors: "),
        ("xlm-roberta", "config.json", "base/model.safetensors: "),
    ],
)
def test_a_folder_without_its_config(tmp_path, target, config, location):
    make_ours(tmp_path / "ours")
    convert.main([str(tmp_path / "ours"), str(tmp_path / "base"), "--to", target])
    (tmp_path / "base" / config).unlink()
    assert error_of(
        convert.main, [str(tmp_path / "base"), str(tmp_path / "out"), "--to", "paddlenlp"]
    ).startswith(f"{tmp_path}/{location}")
