"""A static model, the model without layers: its embeddings, training, resume, and its other formats."""

import json

import numpy as np
import paddle
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

import ernie_m
from ernie_m.commands import convert, export
from ernie_m.finetune import hyperparameters
from ernie_m.finetune.retrieval.contrastive_training import init_static_embeddings
from ernie_m.model import kernel_selection
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.device_transfer import upload
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.row_means import compute_row_means
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.static_embeddings import flatten_tokens
from ernie_m.vectors.static_embeddings_in_paddle import FlatTokens, compute_mean_embeddings
from tests.helpers.checkpoints import assert_same_weights, changed_copy, save_model, stored
from tests.helpers.dtypes import default_dtype
from tests.launching import as_flags, call_main, check_error, error_of
from tests.toys import SHORT_AMOUNTS, sentences, write_lines

WORDS = "embeddings.word_embeddings.weight"
SHAPE = {"hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1}
SENTENCES = [[0, 5, 7, 5, 2], [0, 2], [0, 9, 2], [0, 4, 5, 6, 7, 8, 9, 10, 2], [0, 2]]  # [CLS] S [SEP]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of 60 rows whose query and positive differ in a word; every other one has a negative."""
    lines = list(dict.fromkeys(sentences(200, seed=4)))[:60]
    negatives = [f"\t{line} gogo" * (number % 2) for number, line in enumerate(lines)]
    path = tmp_path_factory.mktemp("table") / "pairs.tsv"
    rows = [f"{line} bado\t{line} kani{negative}" for line, negative in zip(lines, negatives)]
    write_lines(path, ["query\tpositive\tnegative", *rows])
    (path.parent / "table.json").write_text(json.dumps(SHAPE))
    return path


@pytest.fixture
def train(train_on_pairs, pairs):
    """train(out, **flags) trains a table with the vocabulary of the fixture `corpus`; returns the log."""
    flags = {
        "train_set": pairs,
        "ernie_config_path": pairs.parent / "table.json",
        "loss": "in_batch_softmax",
        "learning_rate": 2e-2,
    }
    return lambda out, **changes: train_on_pairs(out, **(flags | changes))


@pytest.fixture
def table(train, tmp_path):
    """The folder of a trained table."""
    train("out", max_steps=6)
    return tmp_path / "out" / "best"


def by_hand(rows):
    """The mean of the rows of each of SENTENCES: [5, H]."""
    means = [rows[ids[1:-1]].mean(axis=0) if len(ids) > 2 else np.zeros(rows.shape[1]) for ids in SENTENCES]
    return np.stack(means)


def test_static_embedding_is_the_subword_mean_in_any_batch():
    rows = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    batch = FlatTokens.from_sentences(SENTENCES)
    embeddings = compute_row_means(rows, batch.ids, batch.lengths)
    np.testing.assert_allclose(embeddings, by_hand(rows), rtol=0, atol=1e-6)
    for sentence, embedding in zip(SENTENCES, embeddings):
        alone = FlatTokens.from_sentences([sentence])
        assert compute_row_means(rows, alone.ids, alone.lengths)[0].tobytes() == embedding.tobytes()
    assert compute_row_means(rows, *flatten_tokens([])).shape == (0, 8)


@pytest.mark.parametrize("chosen", [kernel_selection.FAST, kernel_selection.PLAIN])
def test_mean_gradient(chosen, monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", chosen)
    with default_dtype("float64"):
        model = ErnieMModel(ErnieMConfig(vocab_size=12, **SHAPE))
    assert [name for name, _ in model.named_parameters()] == [WORDS]
    weight = model.embeddings.word_embeddings.weight
    embeddings = compute_mean_embeddings(model, upload(FlatTokens.from_sentences(SENTENCES)))
    np.testing.assert_allclose(embeddings.numpy(), by_hand(weight.numpy()), rtol=0, atol=1e-12)
    factors = np.random.default_rng(1).normal(size=(len(SENTENCES), 8))
    (embeddings * paddle.to_tensor(factors)).sum().backward()
    expected = np.zeros((12, 8))
    for ids, factor in zip(SENTENCES, factors):
        for id_ in ids[1:-1]:
            expected[id_] += factor / (len(ids) - 2)
    np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=0, atol=1e-12)


def test_other_poolings_equal_those_in_other_models():
    model = ErnieMModel(ErnieMConfig(vocab_size=12, **SHAPE))
    rows = model.embeddings.word_embeddings.weight.numpy()
    embeddings = PaddleEncoder(model, "mean", 0).encode(SENTENCES)
    np.testing.assert_allclose(embeddings, [rows[ids].mean(axis=0) for ids in SENTENCES], rtol=0, atol=1e-7)
    states = model(paddle.to_tensor([[0, 5, 2, 1]])).numpy()  # 1: a pad
    np.testing.assert_array_equal(states[0, :3], rows[[0, 5, 2]])


def test_training_and_resume_bit_for_bit(train, tmp_path, pairs):
    assert "initializing all weights randomly" in train("straight", max_steps=6)
    config = json.loads((tmp_path / "straight/best/config.json").read_text())
    assert config["vocab_size"] == 202 and config["pipeline"] == stored(
        layer=0, pooling="mean_without_special"
    )
    train("resumed", max_steps=6, init_checkpoint=tmp_path / "straight" / "step_3")
    assert_same_weights(tmp_path / "resumed/step_6", tmp_path / "straight/step_6")
    train("further", max_steps=3, ernie_config_path=None, init_pretraining_params=tmp_path / "straight/best")
    assert open_checkpoint(tmp_path / "further/step_3").config.is_static
    rows = open_checkpoint(tmp_path / "straight/step_6").tensors[WORDS]
    assert [number for number, row in enumerate(rows) if not row.any()] == [0, 1, 2]  # [CLS], [PAD], [SEP]


def test_every_format_gives_the_same_embeddings(table, tmp_path, pairs):
    texts = [line.split("\t")[0] for line in pairs.read_text().splitlines()[:20]]
    model = ernie_m.load(table)
    embeddings = model.encode(texts)
    rows = open_checkpoint(table).tensors[WORDS]
    expected = [rows[model.tokenizer.encode(text)].mean(axis=0) for text in texts]
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-6)
    for engine in ("onnx", "paddle-inference"):
        call_main(export, as_flags({"model": table, "output": tmp_path / engine, "format": engine}))
        exported = ernie_m.load(tmp_path / engine, engine=engine)
        np.testing.assert_allclose(exported.encode(texts), embeddings, rtol=0, atol=1e-6)
        assert "'text': " in error_of(exported.encode, ["\u200b"])  # no token
    convert.main([str(table), str(tmp_path / "again")])
    assert ernie_m.load(tmp_path / "again").encode(texts).tobytes() == embeddings.tobytes()
    assert "'text': " in error_of(model.encode, ["\u200b"])


def test_rejects_layers_positions_and_formats_for_a_table(table, train, tmp_path):
    for target in ("xlm-roberta", "huggingface", "fluid", "paddlenlp"):
        check_error(
            error_of(convert.main, [str(table), str(tmp_path / target), "--to", target]),
            "--to sentence-transformers",
            start=f"{table}: ",
        )
    other = changed_copy(table, tmp_path / "other", pipeline=stored(layer=0, pooling="mean"))
    check_error(
        error_of(convert.main, [str(other), str(tmp_path / "x"), "--to", "sentence-transformers"]),
        "pooling",
        start=f"{other}: --to sentence-transformers: ",
    )
    assert "layer 1" in error_of(ernie_m.load(table).encode, ["bado"], layer=1)
    assert "pooling pooler" in error_of(ernie_m.load(table).encode, ["bado"], pooling="pooler")
    assert "layer 3" in error_of(train, "deep", layer=3)
    # Weights with positions are no table.
    positions = {"embeddings.position_embeddings.weight": np.zeros((514, 8), np.float32)}
    save_file(load_file(other / "model.safetensors") | positions, other / "model.safetensors")
    assert "embeddings.position_embeddings.weight" in error_of(ernie_m.load, other)


def test_an_encoder_is_no_table(corpus, tmp_path):
    config = ErnieMConfig.from_json(corpus.parent / "config.json")
    save_model(tmp_path / "deep", ErnieMModel(config), config, piece_model_path=corpus / "piece.model")
    assert error_of(
        convert.main, [str(tmp_path / "deep"), str(tmp_path / "static"), "--to", "sentence-transformers"]
    ).startswith(f"{tmp_path / 'deep'}: it has 2 layers")


@pytest.mark.parametrize("finetune", [False, True])
def test_a_classifier_of_a_static_model_is_loaded_as_it_was_fitted(
    table, tmp_path, pairs, monkeypatch, finetune
):
    monkeypatch.setattr(hyperparameters, "_AMOUNTS", SHORT_AMOUNTS)
    model = ernie_m.load(table)
    lines = [line.split("\t")[0] for line in pairs.read_text().splitlines()[:12]]
    texts = [f"{line} {word}" for line in lines for word in ("tata tata", "gogo gogo")]
    labels = ["a", "b"] * 12
    classifier = model.fit(texts, labels, tmp_path / "fitted", finetune=finetune)
    assert classifier.loaded.pipeline_config.pooling == "mean"
    assert ernie_m.load(tmp_path / "fitted").classify(texts) == classifier.classify(texts)


def test_a_frequent_subword_begins_short(train, corpus, tokenizer, tmp_path):
    """Before the first step, the rows are those of random weights times a / (a + p)."""
    train("out", max_steps=1, learning_rate=0)
    model = sentencepiece.SentencePieceProcessor(model_file=str(corpus / "piece.model"))
    rows = open_checkpoint(tmp_path / "out/step_1").tensors[WORDS]
    paddle.seed(1)
    random_rows = ErnieMModel(ErnieMConfig(vocab_size=tokenizer.vocab_size, **SHAPE))
    random_rows = random_rows.embeddings.word_embeddings.weight.numpy()
    for subword in tokenizer.list_ordinary_subwords()[:50]:
        probability = np.exp(model.GetScore(model.PieceToId(subword)))
        id_ = tokenizer.vocab[subword]
        np.testing.assert_allclose(rows[id_], random_rows[id_] * 1e-3 / (1e-3 + probability), rtol=1e-5)


def test_the_order_of_a_vocabulary_changes_no_factor(tokenizer, monkeypatch):
    """Only the ids count, not the places of the tokens."""
    table, reordered = (paddle.ones([tokenizer.vocab_size, 1]) for _ in range(2))
    init_static_embeddings(table, tokenizer)
    monkeypatch.setattr(tokenizer, "vocab", dict(reversed(tokenizer.vocab.items())))
    init_static_embeddings(reordered, tokenizer)
    np.testing.assert_array_equal(reordered, table)
