"""Predictions read as the model's files say: embeddings, searches, tags, answers; also after an export."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

import ernie_m
from ernie_m.commands import convert
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.vectors.pooling import normalize_vectors
from tests.foreign import make_xlm_r
from tests.helpers.checkpoints import change_config, changed_copy, stored
from tests.helpers.files import write_file
from tests.inference.conftest import run_export
from tests.launching import error_of

TEXTS = ["bada gan", "“kofo” lera, 12, bin", "nor 10,5 tan"]
PROMPTS = {"query": "kofo: ", "passage": "tan: "}
OF_E5 = {"layer": 1, "pooling": "cls", "normalize": True, "prompts": PROMPTS, "default_prompt": "query"}


def with_pipeline(models, kind, folder, **pipeline_config):
    """A copy of a toy model that reads in another way."""
    change_config(changed_copy(models / kind, folder), pipeline=stored(**pipeline_config))
    return folder


def compute_cls_states(models, texts):
    """The states of [CLS] at layer 1, from the outputs of the encoder itself."""
    loaded = load(models / "encode")
    engine = loaded.get_engine("embedding", 1)
    rows = [np.array([loaded.tokenizer.build_inputs(text)]) for text in texts]
    return np.concatenate([engine(ids)["sequence"][:, 0] for ids in rows])


def test_embeddings_follow_the_stored_settings(models, tmp_path):
    """The state of [CLS] at layer 1, of length 1, after the default prompt; also from each export."""
    folder = with_pipeline(models, "encode", tmp_path / "e5", **OF_E5)
    expected = normalize_vectors(compute_cls_states(models, [f"kofo: {text}" for text in TEXTS]))
    for export_format in ("onnx", "paddle-inference"):
        assert run_export(folder, tmp_path / export_format, format=export_format)["export"]["layer"] == 1
    for path in (folder, tmp_path / "onnx", tmp_path / "paddle-inference"):
        model = ernie_m.load(path)
        np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-5)
        other = normalize_vectors(compute_cls_states(models, [f"tan: {text}" for text in TEXTS]))
        np.testing.assert_allclose(model.encode(TEXTS, prompt="passage"), other, atol=1e-5)
        plain = compute_cls_states(models, TEXTS)
        embeddings = model.encode(TEXTS, prompt="", normalize=False)
        np.testing.assert_allclose(embeddings, plain, atol=1e-4)
        assert f"{path}: " in error_of(model.encode, TEXTS, prompt="document")
    others = {"layer": "last", "pooling": "mean_without_special", "normalize": False, "prompt": ""}
    embeddings = ernie_m.load(folder).encode(TEXTS, **others)
    np.testing.assert_array_equal(embeddings, ernie_m.load(models / "encode").encode(TEXTS))


def test_encode_vector_equals_encode(models, tmp_path, encode_texts):
    folder = with_pipeline(models, "encode", tmp_path / "e5", **OF_E5)
    run_export(folder, tmp_path / "exported")
    for prompt in (None, "passage"):
        expected = ernie_m.load(folder).encode(TEXTS, prompt=prompt)
        for path in (folder, tmp_path / "exported"):
            arrays = encode_texts(TEXTS, path, f"{path.name}-{prompt}", vectors="model", prompt=prompt)
            np.testing.assert_allclose(arrays["vectors"], expected, atol=1e-4)


def test_a_pooling_that_is_not_here_is_refused_until_another_is_named(models, tmp_path):
    loaded = load(models / "encode")
    loaded.pipeline_errors = ["x/1_Pooling/config.json: the pooling max"]
    assert "x/1_Pooling/config.json: the pooling max" in error_of(make_predictor, "embedding", loaded)
    make_predictor("embedding", loaded, PredictionOptions(pooling="mean"))


def test_a_pooling_that_is_not_here_is_not_exported(models, tmp_path):
    """What ernie-m convert writes of it can be."""
    make_xlm_r(tmp_path / "x", models / "piece.model")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "x/modules.json").write_text(json.dumps(modules))
    write_file(tmp_path / "x/1_Pooling/config.json", json.dumps({"pooling_mode": "max"}))
    assert "the pooling max" in error_of(run_export, tmp_path / "x", tmp_path / "exported")
    convert.main([str(tmp_path / "x"), str(tmp_path / "native"), "--allow_lossy"])
    run_export(tmp_path / "native", tmp_path / "exported")


def test_an_added_token_has_one_id(models, tmp_path):
    """It needs a row of the embedding matrix."""
    tokenizer = Tokenizer(None, models / "piece.model")
    size = tokenizer.vocab_size
    folder = with_pipeline(models, "encode", tmp_path / "added", added_tokens={"<e1>": size})
    assert "vocab_size" in error_of(load, folder)
    weights = load_file(folder / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"]
    weights["embeddings.word_embeddings.weight"] = np.concatenate([words, words[:1] + 1])
    save_file(weights, folder / "model.safetensors")
    change_config(folder, vocab_size=size + 1)
    ids = load(folder).tokenizer.build_inputs("bada <e1> gan")
    assert ids.count(size) == 1
    assert [id_ for id_ in ids if id_ != size] == tokenizer.build_inputs("bada gan")
    run_export(folder, tmp_path / "exported")
    assert load(tmp_path / "exported").tokenizer.build_inputs("bada <e1> gan") == ids
