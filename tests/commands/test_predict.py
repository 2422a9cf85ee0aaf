"""ernie-m predict: the answers of every task and engine are those of the model itself; wrong requests."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import ernie_m
from ernie_m.commands import predict, run_retrieval
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.sequence_label import OfficialTagging, Tagging
from ernie_m.inference import predict_files as answering
from ernie_m.inference.load import load
from ernie_m.inference.predict_files import JsonLines
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import Request, fill_mask, finetuned
from ernie_m.inference.tasks.fill_mask import encode_masked_text
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.reader.files.official_tags import JOINT, Sentence
from ernie_m.reader.mrc_reader import WindowConfig
from ernie_m.utils import files
from ernie_m.utils.args import parse_options
from ernie_m.utils.errors import UserError
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.helpers.batches import packed_batch, padded_batch
from tests.helpers.checkpoints import change_config, changed_copy, remove_pooler, stored
from tests.helpers.files import write_file, write_files
from tests.inference.conftest import run_export
from tests.launching import ROOT, as_flags, call_main, check_refusal, error_of, give_input
from tests.toys import sentences, write_lines

ENGINES = ("openvino", "onnx")  # tests/inference/test_export.py compares the others with the model itself
TEXTS = sentences(9, seed=4)
# The folder of a model follows.
CLASSIFY = [sys.executable, "-m", "ernie_m", "predict", "--task", "classification", "--model"]


@pytest.fixture
def out(tmp_path):
    """A file of answers."""
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_are_those_of_the_model(models, model_folder, ask, engine):
    requests = [
        {"id": 7, "text_a": TEXTS[0], "text_b": TEXTS[1]},
        {"text_a": TEXTS[2]},
        {"text_a": "bado " * 90},  # too long, so it is truncated
    ]
    predictions = ask(requests, model=model_folder("classify", engine), engine=engine)
    model = load(models / "classify", engine="paddle-eager")
    tokenizer = model.tokenizer
    rows = [
        tokenizer.build_inputs(TEXTS[0], TEXTS[1]),
        tokenizer.build_inputs(TEXTS[2]),
        tokenizer.build_inputs("bado " * 90, None, toys.LONGEST),
    ]
    for prediction, row, others in zip(predictions, rows, ({"id": 7}, {}, {"truncated": True}), strict=True):
        expected = dict(zip(toys.LABELS, F.softmax(model.model(padded_batch([row]))[0]).numpy()))
        label = max(expected, key=expected.get)
        assert prediction == {"label": label, "probabilities": pytest.approx(expected, abs=2e-5), **others}


@pytest.mark.parametrize(
    ("kind", "regression", "is_logit"),
    [("classification", True, False), ("choice", False, False), ("classification", False, True)],
)
def test_a_classifier_with_one_output(models, tmp_path, ask, caplog, kind, regression, is_logit):
    """It is the score after training with the squared error and in multiple choice, otherwise a logit."""
    settings = {"task": kind, "pipeline": stored(regression=regression)}
    model = toys.make_model(tmp_path / "one", "score", models / "piece.model", settings)
    (prediction,) = ask([{"text": TEXTS[0]}], task="regression", model=tmp_path / "one")
    assert "no label names" not in caplog.text
    tokenizer = load(models / "encode").tokenizer
    output = model(padded_batch([tokenizer.build_inputs(TEXTS[0])])).item()
    score = 1 / (1 + np.exp(-output)) if is_logit else output
    assert prediction == {"score": pytest.approx(score, abs=1e-5)}
    settings["pipeline"] = stored(multi_label=True)
    toys.make_model(tmp_path / "several", "score", models / "piece.model", settings)
    (prediction,) = ask([{"text": TEXTS[0]}], task="multi-label", model=tmp_path / "several")
    assert prediction.keys() >= {"labels", "probabilities"}
    assert "several is multi-label" in error_of(ask, [], task="classification", model=tmp_path / "several")


@pytest.mark.parametrize(
    ("task", "kind", "request_"),
    [
        ("classification", "classify", {"text": "bado " * 9}),
        ("zero-shot", "classify", {"text": "bado " * 9, "labels": "kani"}),
        ("token-classification", "tag", {"words": ["bado" * 9]}),
        ("question-answering", "answer", {"question": "bado " * 9, "context": "kani"}),
    ],
)
def test_a_head_reads_as_much_as_in_its_training(models, tmp_path, ask, task, kind, request_):
    weights = changed_copy(models / kind, tmp_path / "short", pipeline=stored(max_seq_len=8))
    (cut,) = ask([request_], task=task, model=weights)
    (whole,) = ask([request_], task=task, model=weights, max_seq_len=60)
    assert cut["truncated"] and "truncated" not in whole


@pytest.mark.parametrize(
    "pipeline_config",
    [
        *({"label_pieces": value} for value in ("first", "leading", "all")),
        {"label_pieces": "first", "official_compat": True},
    ],
)
def test_tags_as_in_training(models, tmp_path, pipeline_config):
    """The decisions of the trainer's own code, from a checkpoint and from what is exported of it."""
    word_lists = [text.split() for text in TEXTS]
    word_lists.append([f"漢{word}" for word in word_lists[0]])  # their first subword is a "▁" alone
    extra = toys.SETTINGS["tag"] | {"pipeline": stored(max_seq_len=62, **pipeline_config)}
    model = toys.make_model(tmp_path / "tag", "tag", models / "piece.model", extra)
    expected = tags_by_training(model, load(models / "tag").tokenizer, tmp_path, word_lists, pipeline_config)
    run_export(tmp_path / "tag", tmp_path / "exported")
    for folder in ("tag", "exported"):
        assert (
            predict_tags(make_predictor("token-classification", load(tmp_path / folder)), word_lists)
            == expected
        )
    # The same weights without a "pipeline" in config.json decide by the default, "first".
    tags_by_default = predict_tags(make_predictor("token-classification", load(models / "tag")), word_lists)
    assert (tags_by_default == expected) is (pipeline_config == {"label_pieces": "first"})


def predict_tags(task, word_lists):
    """The tags of sentences, each a list of words."""
    predictions = task.predict([task.parse({"words": words}) for words in word_lists])
    return [prediction["tags"] for prediction in predictions]


def tags_by_training(model, tokenizer, folder, word_lists, pipeline_config):
    """The tags of sentences, each a list of words, by the trainer's own code."""
    (folder / "tags.json").write_text(json.dumps({tag: i for i, tag in enumerate(toys.TAGS)}))
    line = ["--label_map_config", str(folder / "tags.json"), "--num_labels", "5", "--max_seq_len", "62"]
    args = parse_options(FinetuneFlags, [*line, "--label_pieces", pipeline_config["label_pieces"]])
    task_class = OfficialTagging if pipeline_config.get("official_compat") else Tagging
    task = task_class.from_flags(args, tokenizer)
    data = [Sentence(JOINT.join(words), None) for words in word_lists]
    batch = task.encode.collate(task.encode(data), np.arange(len(data)), 1)  # 1: divides the loss
    predictions, _ = task.predict(model, batch, labeled=False)
    return [sentence.predicted for sentence in task.iter_tagged_sentences(data, predictions)]


def test_windows_as_in_training(models):
    """The lengths are those of the settings next to the weights, else the defaults."""
    loaded = load(models / "answer")
    task = make_predictor("question-answering", loaded).task
    assert (task.window_config, task.max_answer_length) == (
        WindowConfig(max_seq_len=62, max_query_length=29, doc_stride=128, split_han=True),
        100,
    )
    loaded.config = replace(loaded.config, max_position_embeddings=602)
    assert (
        make_predictor("question-answering", loaded).task.window_config.max_seq_len == finetuned.ANSWER_WINDOW
    )
    loaded.pipeline_config = PipelineConfig(
        max_seq_len=40, max_query_length=9, doc_stride=7, split_han=False, separators=2, max_answer_length=3
    )
    predictor = make_predictor("question-answering", loaded)
    task = predictor.task
    assert (task.window_config, task.max_answer_length) == (
        WindowConfig(max_seq_len=40, max_query_length=9, doc_stride=7, split_han=False, separators=2),
        3,
    )
    request = predictor.parse({"question": TEXTS[0], "context": " ".join(TEXTS)})
    assert predictor.predict([request])[0]["answer"]
    assert (
        make_predictor(
            "question-answering", loaded, PredictionOptions(max_seq_len=50)
        ).task.window_config.max_seq_len
        == 50
    )


@pytest.mark.parametrize(
    ("task", "request_of"),
    [
        ("token-classification", lambda text: {"words": [text.replace(" ", ""), "bado"]}),
        ("question-answering", lambda text: {"question": text, "context": "kani"}),
        ("search", lambda text: {"text": text}),
        ("zero-shot", lambda text: {"text": "kani", "labels": ["lera", text]}),
    ],
)
def test_prediction_marks_truncated_text(models, ask, tmp_path, task, request_of):
    write_lines(tmp_path / "corpus", TEXTS)
    kinds = {"token-classification": "tag", "question-answering": "answer", "zero-shot": "classify"}
    model = kinds.get(task, "encode")
    requests = [request_of("bado " * count) for count in (8, 90)]
    flags = {"corpus": tmp_path / "corpus"} if task == "search" else {}
    predictions = ask(requests, task=task, model=models / model, **flags)
    assert [prediction.get("truncated") for prediction in predictions] == [None, True]


def test_answer_with_empty_context_and_unknown_words(models):
    """A context of characters that the tokenizer leaves out has no answer; other requests are answered.

    Unknown words of a question and of its context are counted.
    """
    task = make_predictor("question-answering", load(models / "answer"))
    requests = [("bado", "\u200b"), ("qqq bado", "kani"), ("bado", "kani qqq www"), ("bado", "kani")]
    no_answer = {"answer": "", "start": None, "probability": 0.0, "candidates": []}
    assert task.predict(requests[:1]) == [no_answer]
    predictions = task.predict(requests)
    assert predictions == [no_answer, *task.predict(requests[1:])]
    assert [prediction.get("unknown_words") for prediction in predictions] == [None, 1, 2, None]


# A request, the ids of its labels, B-PER I-PER B-LOC I-LOC O, and the entities of the answer. The word "last"
# is the one after an entity. I-LOC after O begins one. By default marks are words.
ENTITIES = [
    (
        {"words": [*"abcde"]},
        [0, 1, 4, 3, 2],
        [
            {"type": "PER", "first": 0, "last": 2},
            {"type": "LOC", "first": 3, "last": 4},
            {"type": "LOC", "first": 4, "last": 5},
        ],
    ),
    (
        {"words": [*"abcdefgh"]},  # entities are in the order of the words
        [0, 2] * 4,
        [{"type": ("PER", "LOC")[word % 2], "first": word, "last": word + 1} for word in range(8)],
    ),
    (
        {"text": " Anna  Stone lives in Rome"},
        [0, 1, 4, 4, 2],
        [
            {"type": "PER", "text": "Anna  Stone", "start": 1, "end": 12},
            {"type": "LOC", "text": "Rome", "start": 22, "end": 26},
        ],
    ),
    (
        {"text": "Anna lives in Rome."},
        [4, 4, 4, 2, 4],
        [{"type": "LOC", "text": "Rome", "start": 14, "end": 18}],
    ),
]


@pytest.mark.parametrize(("request_", "ids", "entities"), ENTITIES)
def test_entities_follow_the_scheme_of_the_tags(models, request_, ids, entities):
    model = load(models / "tag")
    # A model without a label map has ids as labels.
    for labels, expected in ((model.labels, entities), ([*"01234"], [])):
        task = make_predictor("token-classification", replace(model, labels=labels))
        task.predict_features = lambda features: [ids]
        (prediction,) = task.predict([task.parse(request_)])
        # An entity of words may say more than its position.
        found = zip(prediction["entities"], expected, strict=True)
        assert [entity | wanted for entity, wanted in found] == prediction["entities"]


def test_split_words_as_in_training(models, tmp_path):
    """By default marks are words. A no-break space that is given as a word is one, as in training."""
    task = make_predictor("token-classification", load(models / "tag"))
    text = "Anna lives in Rome."
    assert task.parse({"text": text}).words == ["Anna", "lives", "in", "Rome", "."]
    for key in ("words", "tokens"):
        assert task.parse({key: ["\xa0", "Rome"]}).words == ["\xa0", "Rome"]
    folder = changed_copy(models / "tag", tmp_path / "copy", pipeline=stored(marks_apart=False))
    assert make_predictor("token-classification", load(folder)).parse({"text": text}).words == text.split()


def test_split_characters_as_in_training(models, tmp_path):
    """Several characters of a script without spaces are words only if they were in training."""
    stored_scripts = stored(character_scripts=["Han", "Lao"])
    folder = changed_copy(models / "tag", tmp_path / "copy", pipeline=stored_scripts)
    task = make_predictor("token-classification", load(folder))
    request_ = task.parse({"text": "Anna住在Rome，ລາວ"})
    assert request_.words == ["Anna", "住", "在", "Rome", "，", "ລ", "າ", "ວ"]
    assert [request_.text[start:end] for start, end in request_.spans] == request_.words
    assert task.parse({"text": "王 の"}).words == ["王", "の"]  # a single character is one word in any case
    run_export(folder, tmp_path / "export")
    exported = make_predictor("token-classification", load(tmp_path / "export"))
    assert exported.parse({"text": "Anna住在Rome，ລາວ"}) == request_
    without = make_predictor("token-classification", load(models / "tag"))  # saved without the setting
    assert without.parse({"words": ["住在"]}).words == ["住在"]
    for predictor, text in ((task, "พ้น"), (task, "タワー"), (without, "Anna 住在 Rome"), (without, "អា")):
        with pytest.raises(UserError, match="^'text'.*words"):
            predictor.parse({"text": text})


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_are_those_of_the_model(models, model_folder, ask, engine):
    context = "  ".join(TEXTS).replace("a", "ä")  # several windows
    requests = [{"question": TEXTS[3], "context": context}, {"question": TEXTS[4], "context": TEXTS[5]}]
    flags = {"task": "question-answering", "model": model_folder("answer", engine), "engine": engine}
    few = ask(requests, top_k=3, **flags)
    for prediction, request in zip(few, requests, strict=True):
        best, *_ = candidates = prediction["candidates"][:3]
        spans = [request["context"][candidate["start"] : candidate["end"]] for candidate in candidates]
        assert spans == [candidate["text"] for candidate in candidates]
        unknown = sum("ä" in word for word in request["context"].split())
        assert prediction == {
            "answer": best["text"],
            "start": best["start"],
            "probability": best["probability"],
            "candidates": candidates,
            **({"unknown_words": unknown} if unknown else {}),
        }
    (one, _), (many, _) = (ask(requests, top_k=top_k, **flags) for top_k in (1, 25))
    assert one == few[0] | {"candidates": few[0]["candidates"][:1]} and len(many["candidates"]) == 25
    assert one["probability"] < 1  # the softmax is over more candidates than are answered


@pytest.mark.parametrize(
    ("layer", "pooling"), [("last", "mean_without_special"), (1, "mean_without_special"), ("last", "mean")]
)
def test_embeddings_are_those_of_the_layer_and_pooling(models, ask, layer, pooling):
    requests = [{"text": text} for text in TEXTS]
    predictions = ask(requests, task="embedding", model=models / "classify", layer=layer, pooling=pooling)
    model = load(models / "classify", engine="paddle-eager")
    inputs = [np.array(model.tokenizer.build_inputs(text)) for text in TEXTS]
    expected = PaddleEncoder(model.model.ernie_m, pooling).encode(inputs)[2 if layer == "last" else layer]
    np.testing.assert_allclose([prediction["embedding"] for prediction in predictions], expected, atol=1e-5)


def test_classifier_embeddings_use_the_full_length(models, tmp_path):
    """Its settings are those of the head's inputs; an encoder's are those of its embeddings."""
    longest = {}
    for kind in ("classify", "encode"):
        folder = changed_copy(models / kind, tmp_path / kind, pipeline=stored(max_seq_len=8))
        longest[kind] = make_predictor("embedding", load(folder)).max_seq_len
    assert longest == {"classify": toys.LONGEST, "encode": 8}
    change_config(folder, pipeline=stored(layer=0))
    assert make_predictor("embedding", load(folder)).layer == 0


def test_mark_truncated_texts(models, ask, caplog):
    """ernie-m predict marks them, and in Python warnings count them."""
    texts = [*TEXTS, "bado " * 90]
    predictions = ask([{"text": text} for text in texts], task="embedding", model=models / "encode")
    assert [prediction.get("truncated") for prediction in predictions] == [None] * len(TEXTS) + [True]
    ernie_m.load(models / "encode").index(texts).search([*TEXTS, *texts[-2:]])
    counts = ("the corpus: 1 of 10 sampled texts", "search: 1 of 11 texts")
    said = [f"{name} are truncated to 62 tokens (max_seq_len)" for name in counts]
    assert [line for line in caplog.messages if "truncated" in line] == said


def test_weights_without_a_pooler_have_no_pooler_output(models, tmp_path):
    folder = changed_copy(models / "encode", tmp_path / "weights")
    remove_pooler(folder)
    make_predictor("embedding", load(folder), PredictionOptions(pooling="mean"))
    assert run_export(folder, tmp_path / "exported")["export"]["outputs"] == ["sequence"]
    assert b"pooler" not in (tmp_path / "exported/model.onnx").read_bytes()
    for path in (folder, tmp_path / "exported"):
        assert f"{path}: " in error_of(
            make_predictor, "embedding", load(path), PredictionOptions(pooling="pooler")
        )
    flags = {"init_pretraining_params": folder, "checkpoints": tmp_path / "out", "pairs": tmp_path / "pairs"}
    for name in ("de-en.de", "de-en.en"):
        write_lines(tmp_path / "pairs" / name, TEXTS)
    assert "pooler" in error_of(call_main, run_retrieval, as_flags(flags | {"pooling": "pooler"}))


@pytest.mark.parametrize("engine", ENGINES)
def test_hits_are_the_nearest_lines(models, model_folder, ask, tmp_path, engine):
    lines = [" ", *sentences(40, seed=5), *TEXTS]  # line 1 is blank
    corpus = write_lines(tmp_path / "corpus.txt", lines)
    flags = {"task": "search", "model": model_folder("encode", engine), "corpus": corpus}
    predictor = make_predictor("embedding", load(models / "encode"))
    query, *embeddings = normalize_vectors(predictor.encode_texts([TEXTS[2], *lines[1:]]))
    cosines = np.array(embeddings) @ query
    hits = [
        {"line": 2 + index, "index": index, "text": text, "score": pytest.approx(cosines[index], abs=1e-4)}
        for index, text in enumerate(lines[1:])
    ]
    best_first = [hits[index] for index in np.argsort(-cosines, kind="stable")]
    assert best_first[0]["line"] == 44
    assert ask([{"text": TEXTS[2]}], top_k=4, **flags) == [{"hits": best_first[:4]}]
    # Not more than there are.
    (prediction,) = ask([{"text": TEXTS[2]}], top_k=60, **flags)
    assert sorted(prediction["hits"], key=itemgetter("line")) == hits


@pytest.mark.parametrize("language", [None, "de", "fr"])
def test_mask_candidates_are_the_likeliest_tokens(models, ask, monkeypatch, language):
    monkeypatch.setattr(fill_mask, "_AT_ONCE", 1)
    request = {"text": f"{TEXTS[0]} [MASK] {TEXTS[1]}[MASK]"}
    if language:
        request["language"] = language
    (prediction,) = ask([request], task="fill-mask", model=models / "full", top_k=3)
    loaded = load(models / "full", engine="paddle-eager")
    tokenizer = loaded.tokenizer
    model = loaded.model
    from_python = ernie_m.load(models / "full")
    assert from_python.fill(request["text"], language, 3) == prediction["masks"]
    (all_tokens,) = from_python.fill("[MASK] qqq", top_k=10_000)
    assert len(all_tokens) == tokenizer.vocab_size - len(tokenizer.special_ids)
    assert len(from_python.fill("[MASK]" * (toys.LONGEST - 2), top_k=1)) == toys.LONGEST - 2
    assert ask([{"text": "[MASK] qqq"}], task="fill-mask", model=models / "full")[0]["unknown_words"] == 1
    ids = [tokenizer.cls_id, *tokenizer.encode(TEXTS[0]), tokenizer.mask_id]
    ids += [*tokenizer.encode(TEXTS[1]), tokenizer.mask_id, tokenizer.sep_id]
    masks = [i for i, id_ in enumerate(ids) if id_ == tokenizer.mask_id]
    # What is added to the input of each token: [T, H].
    bias = np.zeros([len(ids), toys.HIDDEN_SIZE], np.float32)
    if language:
        bias[masks] = model.language_embeddings.weight.numpy()[toys.MODEL_LANGUAGES.index(language)]
    inputs = packed_batch(ids, PackedLayout([len(ids)]))
    hidden = model.ernie_m.encode(inputs, input_bias=paddle.to_tensor(bias)).sequence
    check_likeliest(loaded, hidden.numpy()[masks], prediction["masks"], 3)


def check_likeliest(loaded, hidden, candidates, top_k):
    """The candidates of each state are the likeliest tokens of the head, by its softmax over ordinary tokens.

    Args:
        hidden: states of the encoder, [K, H].
        candidates: K lists of `top_k` candidates.
    """
    logits = loaded.model.lm_head(paddle.to_tensor(hidden)).numpy().astype(np.float64)
    logits[:, list(loaded.tokenizer.special_ids)] = -np.inf
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    for expected, candidates_of_state in zip(probabilities, candidates, strict=True):
        best = np.argsort(-expected)[:top_k]
        tokens = [candidate["token"] for candidate in candidates_of_state]
        assert tokens == loaded.tokenizer.convert_ids_to_tokens(best)
        values = [candidate["probability"] for candidate in candidates_of_state]
        np.testing.assert_allclose(values, expected[best], atol=1e-5)


def test_masks_join_what_follows_them(models):
    tokenizer = load(models / "full").tokenizer

    def tokens(text):
        """The tokens of a text, between [CLS] and [SEP]."""
        return tokenizer.convert_ids_to_tokens(encode_masked_text(tokenizer, text))[1:-1]

    apart = tokens("[MASK] bado")
    joined = tokens("[MASK]bado")
    assert apart[0] == joined[0] == "[MASK]"
    assert apart[1].startswith("▁") and not joined[1].startswith("▁")
    assert "".join(joined[1:]) == "".join(apart[1:]).lstrip("▁")
    assert tokens("[MASK][MASK]") == ["[MASK]"] * 2
    # A subword that exists only with the ▁ keeps it after a mask.
    beginnings = [token for token in tokenizer.vocab if token.startswith("▁") and len(token) > 1]
    only_beginning = next(token for token in beginnings if token[1:] not in tokenizer.vocab)
    assert tokens(f"[MASK]{only_beginning[1:]}") == ["[MASK]", only_beginning]


def test_files_and_order(models, tmp_path, out, ask):
    """A file of Windows, with a byte order mark and blank lines at its end, is answered in its order."""
    lines = [{"id": i, "text": text} for i, text in enumerate(sentences(300, seed=8))]
    source = write_file(tmp_path / "in.jsonl", "\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\r\n\r\n")
    assert ask([], task="classification", model=models / "classify", input=source, output=out) == []
    predictions = [json.loads(line) for line in out.read_text().splitlines()]
    assert [prediction["id"] for prediction in predictions] == list(range(300))
    assert predictions[7] == ask(lines[7:8], task="classification", model=models / "classify")[0]


@pytest.mark.parametrize(
    ("answers", "summary"),
    [
        # One of two answers to the first question is right.
        ([["kani ga", None], ["none of it"], ["neither"]], "3 questions: F1 33.3 %, exact match 33.3 %"),
        ([[], [], []], "3 questions"),
    ],
)
def test_predict_questions_of_a_file(models, tmp_path, capsys, answers, summary):
    """Whatever its name is. None: the answer of the model."""
    model = ernie_m.load(models / "answer")
    questions = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[1]), (TEXTS[3], TEXTS[4])]
    predictions = [model.answer(*question) for question in questions]
    paragraphs = []
    for (question, context), prediction, texts in zip(questions, predictions, answers):
        given = [{"text": text or prediction["answer"]} for text in texts]
        qa = {"id": f"q{len(paragraphs)}", "question": question} | ({"answers": given} if given else {})
        paragraphs.append({"context": context, "qas": [qa]})
    path = write_lines(tmp_path / "questions", [json.dumps({"data": [{"paragraphs": paragraphs}]})])
    call_main(predict, as_flags({"input": path, "output": tmp_path / "out", "model": models / "answer"}))
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert written == [{"id": f"q{number}", **one} for number, one in enumerate(predictions)]
    assert capsys.readouterr().err.splitlines()[-1] == summary  # after a warning about answers


@pytest.mark.parametrize("ending", ["tsv", "tsv.gz", "tsv.bz2", "tsv.xz"])
def test_predict_tsv_as_tsv(models, tmp_path, ask, ending):
    """A quotation mark is a character there. The name of the output says how it is packed."""
    opened = {"tsv": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[ending.split(".")[-1]]
    with opened(tmp_path / f"in.{ending}", "wt", encoding="utf-8") as file:
        file.write(f'text\tNr\n{TEXTS[0]}\tsay "1"\n')
    flags = {"input": tmp_path / f"in.{ending}", "output": tmp_path / f"out.{ending}"}
    ask([], task="classification", model=models / "classify", **flags)
    with opened(flags["output"], "rt", encoding="utf-8") as file:
        header, row = file.read().splitlines()
    assert header.startswith("text\tNr\tpredicted_label\t") and row.startswith(f'{TEXTS[0]}\tsay "1"\t')


def test_output_name_selects_the_format(models, tmp_path, ask):
    """The name of the input does, too; a blank line is skipped, with a message."""
    write_lines(tmp_path / "in.txt", [f'{TEXTS[0]}, "so"', "", TEXTS[1]])
    flags = {"input": tmp_path / "in.txt", "output": tmp_path / "out.jsonl"}
    ask([], task="classification", model=models / "classify", **flags)
    rows = [json.loads(line) for line in flags["output"].read_text().splitlines()]
    assert [row["text"] for row in rows] == [f'{TEXTS[0]}, "so"', TEXTS[1]]
    assert all(row["predicted_label"] in toys.LABELS for row in rows)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "task", "added"),
    [
        ("classify", "classification", ["label", "probability"]),
        ("encode", "embedding", ["embedding"]),
        ("tag", "token-classification", ["words", "tags", "entities"]),
    ],
)
def test_prediction_columns_do_not_depend_on_rows(models, tmp_path, ask, kind, task, added, first):
    """Texts without issue, with unknown words, and cut with unknown words, each once in the first row."""
    texts = [TEXTS[0], "bado qqß", "bado xyx " * 90]
    path = write_lines(tmp_path / "in.csv", ["text", *texts[first:], *texts[:first]])
    ask([], task=task, model=models / kind, input=path, output=tmp_path / "out.csv")
    written = (tmp_path / "out.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(written.splitlines())
    assert "\\u" not in written
    assert header == ["text", *(f"predicted_{key}" for key in [*added, "truncated", "unknown_words"])]
    marks = {row[0]: row[-2:] for row in rows}
    cut = "" if kind == "tag" else "True"  # which reads windows
    assert [marks[text] for text in texts] == [["", ""], ["", "1"], [cut, "90"]]


def test_a_table_can_be_answered_again(models, tmp_path, ask):
    """The columns of the earlier answer are replaced; other columns stay, whatever they are called."""
    flags = {"task": "classification", "model": models / "classify"}
    rows = [f"5,{TEXTS[0]},old", f"6,{TEXTS[1]},old"]
    write_lines(tmp_path / "0.csv", ["predicted_sales,text,predicted_label", *rows])
    for number in (0, 1):
        ask([], input=tmp_path / f"{number}.csv", output=tmp_path / f"{number + 1}.csv", **flags)
    first, second = ((tmp_path / name).read_text() for name in ("1.csv", "2.csv"))
    assert first == second
    header, *rows = csv.reader(first.splitlines())
    assert len({*header}) == len(header) == 6 and [row[0] for row in rows] == ["5", "6"]
    assert {row[header.index("predicted_label")] for row in rows} <= {*toys.LABELS}


@pytest.mark.parametrize("lines", [b"\n", b'{"text": 3}\n'])
def test_warn_about_empty_input(models, monkeypatch, capsys, lines):
    """In standard input, or none without an error."""
    give_input(monkeypatch, lines)
    call_main(predict, as_flags({"task": "fill-mask", "model": models / "full", "on_error": "skip"}))
    assert "--input -: " in capsys.readouterr().err


def test_skip_invalid_requests_and_keep_predictions(models, tmp_path, out, ask, monkeypatch):
    """Answers that were written before an interruption stay in out.jsonl.part."""
    lines = [json.dumps({"text": text}) for text in TEXTS[:4]]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines[:2], "no JSON", lines[2], '{"txt": 1}', lines[3]]))
    flags = {"task": "classification", "model": models / "classify", "input": tmp_path / "in.jsonl"}
    part = tmp_path / "out.jsonl.part"
    assert "in.jsonl, line 3: " in error_of(ask, [], output=out, **flags)
    assert not out.exists() and not part.exists()
    ask([], output=out, on_error="skip", **flags)
    assert len(out.read_text().splitlines()) == 4 and not part.exists()
    out.unlink()

    def write_one_answer(self, rows, file):
        file.write("answered\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(JsonLines, "write", write_one_answer)
    with pytest.raises(KeyboardInterrupt):
        ask([], output=out, on_error="skip", **flags)
    assert not out.exists() and part.read_text() == "answered\n"
    monkeypatch.undo()
    ask([], output=out, on_error="skip", **flags)  # the same command answers all
    assert len(out.read_text().splitlines()) == 4 and not part.exists()


def test_two_commands_with_one_output(models, out, ask):
    """The second one is refused while the first one writes, and changes nothing."""
    with files.lock_for_writing(out, "--output"):
        line = error_of(
            ask, [{"text": TEXTS[1]}], task="classification", model=models / "classify", output=out
        )
    assert line.startswith(f"{out}: locked by another command") and not out.exists()


class Echo:
    """Answers each request with itself, and notes what is in the unfinished file before each part."""

    def __init__(self, part: Path):
        self.part = part
        self.seen: list[str] = []

    def predict(self, contents: list) -> list[dict]:
        self.seen.append(self.part.read_text(encoding="utf-8") if self.part.exists() else "")
        return [{"text": content} for content in contents]


LINES = SimpleNamespace(write=partial(JsonLines.write, None), formats=())


def test_predictions_are_written_part_by_part(tmp_path, monkeypatch):
    """A killed command loses no more than the requests that are answered together."""
    echo = Echo(tmp_path / "out.part")
    monkeypatch.setattr(answering, "AT_ONCE", 1)
    answering.write_predictions(echo, [Request({}, "a"), Request({}, "b")], LINES, str(tmp_path / "out"))
    assert echo.seen == ["", '{"text": "a"}\n']


def test_a_skipped_request_stays_in_its_place(tmp_path):
    """The others have predictions of their own. JSON lines leave it out; a table writes its row."""
    requests = [Request(number, content) for number, content in enumerate(["a", None, "b", "c"])]
    rows = []
    file = SimpleNamespace(write=lambda predicted, _: rows.extend(predicted), formats=())
    answering.write_predictions(Echo(tmp_path / "none"), requests, file, str(tmp_path / "out"))
    assert rows == [*zip(requests, [{"text": "a"}, {}, {"text": "b"}, {"text": "c"}])]


def test_standard_output_is_utf_8_in_any_locale(tmp_path, monkeypatch):
    bytes_ = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(bytes_, encoding="latin-1", errors="backslashreplace")
    )
    answering.write_predictions(Echo(tmp_path / "none"), [Request({}, "für 我")], LINES, "-")
    assert json.loads(bytes_.getvalue().decode("utf-8")) == {"text": "für 我"}


def test_an_output_that_is_a_link_or_a_device(models, tmp_path, ask):
    """A link stays, and what it leads to is written. A device, as /dev/null is one, is refused."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "out.jsonl")
    flags = {"task": "classification", "model": models / "classify"}
    ask([{"text": TEXTS[0]}], output=link, **flags)
    assert link.is_symlink() and (tmp_path / "out.jsonl").is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert error_of(ask, [{"text": TEXTS[0]}], output=pipe, **flags).startswith(f"--output {pipe} ")
    assert pipe.is_fifo()


def test_a_workbook_is_not_read_as_text(tmp_path):
    """By its name, or its first byte, a file has objects."""
    contents = {"a.xlsx": b"PK\x03\x04\x8b", "b.ndjson": b"", "c.txt": b'{"text": "a"}', "d.txt": b"a"}
    write_files(tmp_path, contents)
    assert [name for name in contents if answering.has_objects(str(tmp_path / name))] == ["b.ndjson", "c.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'["a"]', "standard input, line 1: "),
        (
            b'\n\n{"text": "\xff"}',
            "standard input, line 3: ",
        ),
        (b'{"text": 3}', "standard input, line 1: 'text': invalid value 3"),
        (b'{"Satz": "a"}', "standard input, line 1: missing or ambiguous column of the text."),
        (b'{"text": "a"}\n{"id": 7}', "standard input, line 2: missing key 'text_a'"),
        (b'{"text": "a", "id": "\\ud800"}', "surrogates not allowed"),
    ],
)
def test_reject_bad_requests_before_the_first_answer(models, ask, refused, out, text, message):
    """A wrong request is found before the first one is answered, and nothing is written."""
    assert message in refused(lambda: ask(text, task="classification", model=models / "classify", output=out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content", "location"),
    [
        ("-", b"no JSON", "standard input, line 1: "),
        ("in.jsonl", b'{"text": "a"}\n["b"]', "in.jsonl, line 2: "),
        ("absent.csv", b"", "absent.csv: "),
    ],
)
def test_requests_are_read_before_a_model_is_opened(ask, tmp_path, in_tmp_path, name, content, location):
    if name != "-" and content:
        Path(name).write_bytes(content)
    flags = {"task": "classification", "model": tmp_path / "no model", "input": name}
    assert error_of(ask, content, **flags).startswith(location)


@pytest.mark.parametrize(
    ("task", "kind", "request_", "message"),
    [
        ("classify", "tag", {"text": "a"}, "--task classify: "),
        ("classification", "tag", {"text": "a"}, "its head is for token-classification"),
        ("token-classification", "encode", {"text": "a"}, "has no head"),
        ("fill-mask", "classify", {"text": "[MASK]"}, "fill-mask requires a checkpoint"),
        ("fill-mask", "full", {"text": "a"}, "line 1: 'text' has no [MASK]"),
        ("fill-mask", "full", {"text": "[MASK]" * 61}, "'text' has 63 tokens (maximum: 62)"),
        ("fill-mask", "full", {"text": "[MASK]", "language": "xx"}, "'xx' (choose from de, en, fr)"),
        ("fill-mask", "full", {"text": "[MASK]", "language": ""}, "'language': invalid value"),
        ("token-classification", "tag", {"words": ["a", ""]}, "'words': invalid word 2 of 2"),
        ("token-classification", "tag", {"text": "a b\x02c"}, "'text': invalid word 2 of 2"),
        ("token-classification", "tag", {"Word": "a", "Tag": "O"}, "--columns WORD,TAG"),
        ("fill-mask", "exported", {"text": "a"}, "fill-mask requires a checkpoint"),
        ("search", "encode", {"text": "a"}, "--task search requires --corpus"),
    ],
)
def test_models_and_requests_that_do_not_fit(models, exported, ask, task, kind, request_, message):
    folder = exported / "encode" if kind == "exported" else models / kind
    assert message in error_of(ask, [request_], task=task, model=folder)


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, ["language_embeddings."]),  # there is no table in the checkpoint
        # The table was trained, but not to say in which language a mask is predicted.
        (toys.SETTINGS["full"] | {"pipeline": stored(language_embedding="none")}, []),
        (toys.SETTINGS["full"] | {"pipeline": stored(language_embedding="all")}, []),
    ],
)
def test_without_a_trained_language_table(models, tmp_path, settings, left_out):
    options = {"settings": settings, "omitted_prefixes": tuple(left_out)}
    toys.make_model(tmp_path / "head", "full", models / "piece.model", **options)
    task = make_predictor("fill-mask", load(tmp_path / "head"))
    assert len(task.predict([task.parse({"text": "bado [MASK]"})])[0]["masks"]) == 1
    assert "'language' requires" in error_of(task.parse, {"text": "[MASK]", "language": "de"})


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("encode", {"pad_token_id": 0}, "copy: invalid pad_token_id 0"),
        ("classify", {"labels": ["0", "1"]}, "copy: config.json has 2 label names, but the head has 3"),
        (
            "classify",
            {"labels": ["0", "1", "2", "3"]},
            "copy: config.json has 4 label names, but the head has 3",
        ),
    ],
)
def test_a_config_that_does_not_go_with_the_other_files(models, tmp_path, kind, changes, message):
    assert message in error_of(load, changed_copy(models / kind, tmp_path / "copy", **changes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"port": 80}, "--port: unknown option; "),
        ({"task": "embedding", "sort": "uncertain"}, "--sort uncertain "),
        ({"task": "classification", "output": "."}, "--output . "),
        ({"task": "classification", "output": "run.trec"}, "--output run.trec: "),
        ({"task": "classification", "output": "run.csv"}, "JSON lines (.jsonl), lines (.txt)"),
        ({"task": "classification", "columns": "text"}, "--columns"),
        ({"task": "classification", "filter": "label=x"}, "--filter"),
        ({"task": "classification", "top_k": 0}, "--top_k 0: "),
        ({"task": "classification", "max_seq_len": 63}, "max_seq_len 63 "),
        ({"task": "classification", "max_seq_len": 7}, "max_seq_len 7 "),
        ({"task": "embedding", "max_seq_len": 0}, "max_seq_len 0 "),
        ({"task": "embedding", "layer": 3}, "layer 3 "),
        ({"task": "embedding", "layer": 1, "pooling": "pooler"}, "pooling pooler "),
        ({"task": "classification", "input": "nowhere.jsonl"}, "nowhere.jsonl: "),
        ({"task": "classification", "pooling": "cls"}, "--pooling "),
        ({"task": "embedding", "corpus": "a.txt"}, "--corpus "),
        ({"task": "search", "corpus": "."}, "--corpus . "),
        ({"task": "classification", "labels": "a,b"}, "--labels "),
        ({"task": "embedding", "target_accuracy": 0.9}, "requires task classification"),
        ({"task": "classification", "target_accuracy": 0.9}, "--label COLUMN"),
    ],
)
def test_reject_bad_flags(models, ask, refused, flags, message):
    assert message in refused(lambda: ask([{"text": "a"}], model=models / "classify", **flags))


def test_a_model_is_asked_for_what_its_head_is_for(models, ask, refused):
    predictions = ask([{"text_a": TEXTS[0]}], model=models / "classify", task="classification")
    assert ask([{"text_a": TEXTS[0]}], model=models / "classify") == predictions
    assert "encode has no head" in refused(lambda: ask([], model=models / "encode"))


@pytest.mark.parametrize("languages", [False, True])
def test_write_run_file(models, ask, tmp_path, capsys, languages):
    corpus = str(write_lines(tmp_path / "a.txt", TEXTS))
    if languages:
        corpus = f"de<={corpus},fr<={corpus}"
    flags = {"task": "search", "model": models / "encode", "corpus": corpus, "top_k": 3}
    requests = [{"text": TEXTS[0]}, {"text": TEXTS[1], "id": 0}]
    expected = [
        f"{query} Q0 {hit['language'] + ':' if languages else ''}{hit['line']} {rank} {hit['score']} ernie-m"
        for query, prediction in zip(["1", "0"], ask(requests, **flags), strict=True)
        for rank, hit in enumerate(prediction["hits"], 1)
    ]
    ask(requests, output=tmp_path / "run.trec", **flags)
    assert (tmp_path / "run.trec").read_text().splitlines() == expected
    table = write_lines(tmp_path / "queries.csv", ["id,text,layer", f"1,{TEXTS[0]},2", f"0,{TEXTS[1]},2"])
    call_main(predict, as_flags(flags | {"input": table, "output": tmp_path / "table.trec"}))
    assert (tmp_path / "table.trec").read_text().splitlines() == expected and not capsys.readouterr().err
    blank = write_lines(tmp_path / "blank.txt", ["", TEXTS[0], " ", TEXTS[1]])
    ask([], input=blank, output=tmp_path / "lines.trec", **flags)
    of_lines = [line.split()[0] for line in (tmp_path / "lines.trec").read_text().splitlines()]
    assert [*dict.fromkeys(of_lines)] == ["2", "4"]


@pytest.mark.parametrize("ids", [["a b"], [""], ["a", "a"], [2, None]])
def test_a_run_file_names_each_query_in_one_word(models, ask, tmp_path, refused, ids):
    requests = [{"text": TEXTS[0]} | ({"id": id_} if id_ is not None else {}) for id_ in ids]
    flags = {"task": "search", "model": models / "encode", "corpus": write_lines(tmp_path / "a.txt", TEXTS)}
    line = refused(lambda: ask(requests, output=tmp_path / "run.trec", **flags))
    assert f"request {len(ids)}: " in line and not (tmp_path / "run.trec").exists()


def test_rejects_output_over_files_that_are_read(models, ask, refused, tmp_path):
    model = shutil.copytree(models / "encode", tmp_path / "model")
    for name in ("a.txt", "b.txt", "out.part"):
        write_lines(tmp_path / name, TEXTS)
    index = tmp_path / "index"
    flags = {"task": "search", "model": model, "corpus": f"de<={tmp_path}/a.txt,en<={tmp_path}/b.txt"}
    ask([{"text": TEXTS[0]}], index=index, output=tmp_path / "answers", **flags)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, more in [  # --output, more flags
        ("a.txt", {"corpus": tmp_path / "a.txt"}),
        ("b.txt", {}),
        ("out", {"input": tmp_path / "out.part"}),
        ("out", {"corpus": f"de<={tmp_path}/a.txt,en<={tmp_path}/out.part"}),
        ("model/config.json", {}),
        ("index/manifest.json", {"index": index}),
        ("answers", {}),  # of an earlier command
    ]:
        call = partial(ask, [], output=tmp_path / name, **{**flags, **more})
        assert f"--output {tmp_path / name}" in refused(call)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_onnx_needs_no_paddle(exported):
    """It needs neither what trains nor what serves; their imports would cost a second of every start."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from ernie_m.commands import predict
sys.argv = ["predict.py", "--task", "classification", "--model", {str(exported / "classify")!r}]
predict.main()
heavy = {{"paddle", "torch", "faiss", "fastapi", "onnx", "matplotlib", "pretrain", "training"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], input=b'{"text": "bado"}\n', capture_output=True, check=False
    )
    assert (completed.returncode, completed.stderr) == (0, b"")
    assert json.loads(completed.stdout)["label"] in toys.LABELS


def test_a_long_text_is_run_in_parts(models, monkeypatch):
    """Its windows are one item of the task, but the engine is never given more than BATCH_TOKENS."""
    task = make_predictor("token-classification", load(models / "tag"))
    requests = [task.parse({"text": text}) for text in (" ".join(TEXTS * 9), TEXTS[0])]
    predictions = task.predict(requests)
    task.engine = mock.Mock(side_effect=task.engine)
    monkeypatch.setattr(finetuned, "BATCH_TOKENS", 150)
    assert task.predict(requests) == predictions
    sizes = [ids.size for (ids,), _ in task.engine.call_args_list]  # tokens of each call, with pads
    assert len(sizes) > 5 and max(sizes) <= 150


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk(exported):
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [*CLASSIFY, exported / "classify"],
            input='{"text": "bado"}\n',
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert check_refusal(process).startswith("error: standard output: no space left")


def test_a_reader_that_has_had_enough(exported):
    """`ernie-m predict ... | head -n 1` ends without a traceback."""
    process = subprocess.Popen(
        [*CLASSIFY, exported / "classify"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b'{"text": "bado"}\n')
    process.stdin.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 0)
