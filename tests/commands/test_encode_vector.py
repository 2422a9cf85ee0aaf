"""encode_vector.py: the two official files and other embeddings are those of the model itself; bad input."""

import dataclasses
import errno
import os

import numpy as np
import pytest

from ernie_m.commands import encode_vector
from ernie_m.inference.encode_vector import open_growing_array, write_embeddings, write_official_embeddings
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.text_featurizer import TextFeaturizer
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.checksums import MANIFEST, check_manifest
from ernie_m.vectors.encode import PaddleEncoder
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.batches import padded_batch
from tests.helpers.checkpoints import changed_copy, remove_pooler, save_model, stored
from tests.launching import as_flags, call_main, check_error, error_of


@pytest.fixture
def run_encode(random_encoder, tmp_path):
    """run_encode(data, output="out", **flags) -> the arrays that were written: name of the file -> array."""

    def call(data, output="out", **flags):
        flags = {
            "data_set": data,
            "output_dir": tmp_path / output,
            "init_pretraining_params": random_encoder,
            "use_cuda": "false",
            "max_seq_len": 64,
        } | flags
        call_main(encode_vector, as_flags(flags))
        paths = list((tmp_path / output).glob("*.npy"))
        assert 1 <= len(paths) <= 2
        assert check_manifest(tmp_path / output / MANIFEST)["files"].keys() == {path.name for path in paths}
        return {path.stem: np.load(path) for path in paths}

    return call


def expected(weights, inputs):
    """Yield for each input what the model itself returns: pooled [H], and L + 1 hidden states [T, H]."""
    model = ErnieMModel(ErnieMConfig.from_json(weights / "config.json"))
    load_weights(model, open_checkpoint(weights))
    model.eval()
    for ids in inputs:
        output = model.encode(padded_batch([ids]), output_hidden_states=True)
        pooled = model.pooler(output.sequence[:1])
        yield pooled.numpy()[0], [states.numpy() for states in output.hidden_states]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_the_official_two_files(run_encode, random_encoder, toy_folder, dtype, tolerance):
    """cls_emb has the pooled first token of each row, and top_layer_emb all tokens of all rows."""
    path = toy_folder / "dev.en.tsv"
    # An empty value counts as not given.
    arrays = run_encode(path, batch_size=2, use_cuda=0, vocab_path="", piece_model_path="", dtype=dtype)
    tokenizer = Tokenizer.from_folder(random_encoder)
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]  # after the header
    inputs = [tokenizer.build_inputs(text_a, text_b, 64) for _, text_a, text_b, _ in rows]
    pooled, states = zip(*expected(random_encoder, inputs))  # one of each for each row
    # The tokens of all rows have the states of the last layer.
    tokens = np.concatenate([layers[-1] for layers in states])
    assert_equal_arrays(arrays, {"cls_emb": np.stack(pooled), "top_layer_emb": tokens}, tolerance)
    assert {array.dtype.name for array in arrays.values()} == {dtype}


def test_encoding_in_parts_gives_the_same_embeddings(random_encoder, toy_folder, tmp_path):
    """31 texts are encoded at once, and 7 at a time, so that the last part has only 3."""
    model = ErnieMModel(ErnieMConfig.from_json(random_encoder / "config.json"))
    encoder = PaddleEncoder(model, "mean_without_special", layer=1)
    encode = TextFeaturizer(Tokenizer.from_folder(random_encoder), 64)
    texts = read_classification(toy_folder / "dev.en.tsv", labels=False)
    for folder, window in (("whole", 1000), ("parts", 7)):
        (tmp_path / folder).mkdir()
        for write in (write_official_embeddings, write_embeddings):
            write(tmp_path / folder, encoder, texts, encode, window=window)
    for path in (tmp_path / "whole").iterdir():
        parts = np.load(tmp_path / "parts" / path.name)
        np.testing.assert_allclose(parts, np.load(path), atol=1e-5, err_msg=path.name)


def test_a_full_disk_is_an_error_before_the_rows_are_written(tmp_path, monkeypatch):
    """Not a signal while the memory map is written. A system without reservations writes the same file."""
    monkeypatch.setattr(os, "posix_fallocate", full_disk, raising=False)
    with (
        pytest.raises(OSError, match="No space"),
        open_growing_array(tmp_path / "a.npy", 3, "float32") as grow,
    ):
        grow(2)
    monkeypatch.delattr(os, "posix_fallocate")
    with open_growing_array(tmp_path / "b.npy", 3, "float32") as grow:
        for rows in (2, 0, 1):
            grow(rows)[:] = rows
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [[2] * 3, [2] * 3, [1] * 3])


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The tokens of a sentence over which the mean is taken.
WITHOUT_SPECIAL = slice(1, -1)
ALL_TOKENS = slice(None)


@pytest.mark.parametrize(
    ("flags", "layer", "tokens"),
    [
        ({"vectors": "mean_without_special", "layer": "middle"}, 1, WITHOUT_SPECIAL),
        ({"vectors": "mean_without_special", "layer": 0}, 0, WITHOUT_SPECIAL),
        ({"vectors": "mean"}, 2, ALL_TOKENS),
        ({"vectors": "mean_without_special", "dtype": "float16"}, 2, WITHOUT_SPECIAL),
    ],
)
def test_encode_plain_text_by_mean_at_any_layer(run_encode, random_encoder, tmp_path, flags, layer, tokens):
    """The embedding of a text without tokens is the mean over the special ones."""
    lines = ["the old cat is here", "a dog", "now the red hen was there then is here and there"] * 3
    lines.append("\u200b")
    (tmp_path / "in.txt").write_text("\n".join(lines))
    arrays = run_encode(tmp_path / "in.txt", data_format="text", **flags)
    inputs = map(Tokenizer.from_folder(random_encoder).build_inputs, lines)
    states_of_texts = [states[layer] for _, states in expected(random_encoder, inputs)]
    means = [states[tokens if len(states) > 2 else ALL_TOKENS].mean(axis=0) for states in states_of_texts]
    dtype = flags.get("dtype", "float32")
    assert list(arrays) == ["vectors"] and arrays["vectors"].dtype == dtype
    tolerance = {"float16": 2e-3, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(arrays["vectors"], np.stack(means), atol=tolerance)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"text_a\na\n", {"vectors": "mean_without_special", "layer": 3}, "layer 3 "),
        (b"text_a\nthe cat\n", {"layer": 1}, "--layer 1: --vectors official"),
        (b"text_a\nthe cat\n", {"layer": 1, "vectors": "pooler"}, "--layer 1: --vectors pooler"),
        (b"text_a\nthe cat\n", {"output_dir": "."}, "--output_dir . "),
        (b"text_a\nthe cat\n", {"batch_size": 0}, "--batch_size 0: "),
        (b"text_a\nthe cat\n", {"init_pretraining_params": "absent"}, "absent: "),
        (b"text_a\nthe cat\n", {"init_pretraining_params": ""}, "--init_pretraining_params "),
        (b"words\tothers\nthe cat\tthe dog\n", {}, "in.tsv, line 1: "),
        (b"", {}, "in.tsv: "),
        (b"text_a\nthe cat\n", {"data_format": "text"}, "in.tsv: "),
    ],
)
def test_reject_bad_input_and_write_nothing(run_encode, tmp_path, content, flags, message):
    (tmp_path / "in.tsv").write_bytes(content)
    assert message in error_of(run_encode, tmp_path / "in.tsv", **flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tsv"]  # nothing half done is left


def test_the_default_length_is_the_models_room(run_encode, random_encoder, tmp_path, capsys):
    """A text longer than the model's maximum length is truncated without --max_seq_len, with a warning."""
    config = ErnieMConfig.from_json(random_encoder / "config.json")
    short = dataclasses.replace(config, max_position_embeddings=10)  # two positions are never used
    weights = tmp_path / "short"
    save_model(weights, ErnieMModel(short), short, piece_model_path=random_encoder / "piece.model")
    (tmp_path / "in.txt").write_text("the old cat is here and there and now\n")
    options = {"data_format": "text", "vectors": "mean_without_special", "init_pretraining_params": weights}
    by_default = run_encode(tmp_path / "in.txt", max_seq_len="", **options)  # "" counts as not given
    cut = run_encode(tmp_path / "in.txt", max_seq_len=8, output="cut", **options)
    np.testing.assert_array_equal(by_default["vectors"], cut["vectors"])
    said = f"{tmp_path / 'in.txt'}: 1 of 1 sampled texts are truncated to 8 tokens (max_seq_len)\n"
    assert capsys.readouterr().out.count(said) == 2
    check_error(
        error_of(run_encode, tmp_path / "in.txt", max_seq_len=9, output="refused", **options),
        f"{weights} is 8 tokens",
        start="--max_seq_len 9: ",
    )


def test_retrieval_model_is_encoded_at_its_trained_layer(run_encode, random_encoder, tmp_path):
    """The official files stay those of the last layer."""
    pipeline = stored(layer=1, pooling="mean")
    weights = changed_copy(random_encoder, tmp_path / "trained", task="retrieval", pipeline=pipeline)
    (tmp_path / "in.txt").write_text("the cat is here\nhere is a dog\n")
    options = {"data_format": "text", "init_pretraining_params": weights}
    by_default, named, top = (
        run_encode(tmp_path / "in.txt", f"layer {layer}", vectors="mean", layer=layer, **options)["vectors"]
        for layer in (None, 1, "last")
    )
    np.testing.assert_array_equal(by_default, named)
    assert not np.allclose(by_default, top)
    assert len(run_encode(tmp_path / "in.txt", output="official", **options)) == 2


def test_weights_without_a_pooler_give_mean_embeddings_only(random_encoder, run_encode, toy_folder, tmp_path):
    """cls_emb.npy would need the pooler."""
    folder = changed_copy(random_encoder, tmp_path / "copy")
    remove_pooler(folder)
    options = {"data": toy_folder / "dev.en.tsv", "init_pretraining_params": folder}
    assert error_of(run_encode, **options).startswith(f"{folder}: ")
    assert run_encode(**options, vectors="mean_without_special")["vectors"].size
