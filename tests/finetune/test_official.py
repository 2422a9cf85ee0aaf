"""The official procedure (--official_compat true, the default): losses and scores of the official code.

They are compared with tests/finetune/official.py, which computes them in another way.
"""

import json

import numpy as np
import paddle
import pytest

from ernie_m.commands import run_mrc, run_sequence_labeling
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import model_with_head
from ernie_m.training.engine import Engine
from tests import toys
from tests.finetune import official
from tests.helpers.checkpoints import save_model
from tests.launching import as_flags, call_main, read_log

ENDINGS = ["", "ness", "\u200bing", "-by", "’s"]  # which make several pieces of a word
SMALL = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tagged_rows(count: int, seed: int) -> list[toys.TaggedWords]:
    """Sentences whose words have several pieces; some words have none, and some sentences are long."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in toys.tagged_words(count, seed, parts=(2, 12)):
        words = [word + str(rng.choice(ENDINGS)) for word in row.words]
        for place in np.flatnonzero(rng.random(len(words)) < 0.05):
            words[place] = "\u200b"
        rows.append(toys.TaggedWords(words, row.tags))
    return rows


def questions(count: int, seed: int) -> dict:
    """SQuAD JSON whose answers are parts of words, as in (rome) and rome, and have spaces."""
    squad = toys.squad(count // 2, seed)
    rng = np.random.default_rng(seed)
    for paragraph in squad["data"][0]["paragraphs"]:
        for qa in paragraph["qas"]:
            place = qa["answers"][0]["text"]
            before, after = (["(", ")"], ["", ","], ["", ""])[rng.integers(3)]
            paragraph["context"] = paragraph["context"].replace(f"{place} .", f"{before}{place}{after} .", 1)
        for qa in paragraph["qas"]:
            (gold,) = qa["answers"]
            gold["answer_start"] = paragraph["context"].index(gold["text"])
    return squad


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """trained(script, task, outputs, **flags) -> the losses of a run in float64, its tables, and its start.

    The start is a checkpoint with random weights and the head of the task.
    """
    monkeypatch.chdir(tmp_path)
    losses = []
    step_of = Engine.step

    def step(self, *arguments, **options):
        result = step_of(self, *arguments, **options)
        losses.append(result.loss)
        return result

    monkeypatch.setattr(Engine, "step", step)

    def run(script, task, outputs, **flags):
        paddle.seed(7)
        config = ErnieMConfig.from_json(tmp_path / "ernie_config.json")
        start = model_with_head(task, config, outputs)
        save_model(tmp_path / "start", start, config, piece_model_path=tmp_path / "piece.model")
        values = {
            "init_checkpoint": "start",
            "train_set": "train",
            "dev_set": "dev",
            "do_test": "false",
            "checkpoints": "out",
            "warmup_proportion": 0.1,
            "layerwise_lr_decay": 0.8,
            "select_on": "last",
            "dtype": "float64",
            "use_cuda": "false",
        }
        call_main(script, as_flags(values | flags))
        results = json.loads((tmp_path / "out/results.json").read_text())
        scores = {table["title"].split(",")[0]: table["mean"]["avg"] for table in results["tables"]}
        return losses, results["metric"], scores

    return run


@pytest.fixture
def restated(tmp_path):
    """restated(outputs) -> the second form of the model with the weights of `trained`, in float64."""

    def make(outputs):
        paddle.set_default_dtype("float64")
        config = ErnieMConfig.from_json(tmp_path / "ernie_config.json")
        model = official.Model(config, outputs)
        tensors = open_checkpoint(tmp_path / "start").tensors
        for name, parameter in model.named_parameters():
            parameter.set_value(tensors[name.removeprefix("ernie_m.")].astype("float64"))
        return model

    yield make
    paddle.set_default_dtype("float32")


def test_conll(trained, restated, tmp_path):
    """60 sentences in 24 steps: the losses, F1 over pieces, which selects, and F1 over words."""
    rows = tagged_rows(60, seed=1)
    texts = [" ".join(row.words) for row in rows]
    labels = {tag: number for number, tag in enumerate(toys.TAGS)}
    toys.write_task(tmp_path, texts, [], labels, toys.TASK_CONFIG | SMALL, vocab_size=50)
    toys.write_tagged_words(tmp_path / "train", rows)
    toys.write_tagged_words(tmp_path / "dev", tagged_rows(60, seed=2))
    flags = {"max_seq_len": 24, "batch_size": 8, "epoch": 3, "shuffle": "false", "num_labels": len(labels)}
    flags |= {"learning_rate": 2e-2, "weight_decay": 0.01, "label_map_config": "label_map.json"}
    losses, metric, scores = trained(run_sequence_labeling, "token-classification", len(labels), **flags)

    model = restated(len(labels))
    pieces = official.Pieces(tmp_path / "piece.model")
    train = official.read_tagged(tmp_path / "train", pieces, labels, 24)
    dev = official.read_tagged(tmp_path / "dev", pieces, labels, 24)
    places = [place for sentence in dev for place in sentence.places]
    assert max(len(sentence.ids) for sentence in dev) == 24 and 0 in places
    assert sum(len(sentence.ids) - 2 for sentence in train) > 1.5 * sum(len(row.words) for row in rows)
    outside = labels["O"]
    inputs = [sentence.ids for sentence in train], [sentence.labels for sentence in train]
    steps = official.batches(*inputs, size=8, epochs=3, fill=outside)
    recipe = official.Recipe(rate=2e-2, weight_decay=0.01, layer_decay=0.8, steps=3 * 60 // 8)
    expected = official.train(model, steps, official.tagging_loss, recipe)
    assert len(losses) == len(expected) == 24
    assert np.abs(np.subtract(losses, expected)).max() < 1e-9 and expected[-1] < 0.6 * expected[0]

    predicted = official.predict_tags(model, dev)
    over_pieces = official.chunk_f1([sentence.labels for sentence in dev], predicted, outside)
    words = official.word_tags(dev, predicted, outside)
    over_words = official.chunk_f1([sentence.word_labels for sentence in dev], words, outside)
    assert metric == "f1 over pieces" and 0 < over_pieces != over_words > 0
    assert scores["f1 over pieces"] == pytest.approx(100 * over_pieces, rel=1e-14)
    assert scores["f1 over words"] == pytest.approx(100 * over_words, rel=1e-14)
    log = read_log(tmp_path)
    assert f" f1 over pieces: {over_pieces:f}, " in log and f" f1 over words: {over_words:f}, " in log


def test_mlqa(trained, restated, tmp_path):
    """20 questions in over 20 steps: the losses, and F1 and exact match of joined pieces and of the text."""
    texts = [text for text, _ in toys.questions(questions(200, seed=9))]
    options = {"vocab_size": 80, "user_defined_symbols": toys.PEOPLE}
    toys.write_task(tmp_path, texts, [], [], toys.ANSWERING_CONFIG | SMALL | {"vocab_size": 90}, **options)
    (tmp_path / "train").write_text(json.dumps(questions(20, seed=1)))
    (tmp_path / "dev").write_text(json.dumps(questions(20, seed=2)))
    flags = {"max_seq_len": 40, "max_query_length": 8, "doc_stride": 12, "batch_size": 8, "epoch": 4}
    flags |= {"learning_rate": 2e-2, "weight_decay": 0.0, "n_best_size": 5, "max_answer_length": 12}
    losses, metric, scores = trained(run_mrc, "question-answering", 2, **flags)

    model = restated(2)
    pieces = official.Pieces(tmp_path / "piece.model")
    _, train = official.read_answers(tmp_path / "train", pieces, (40, 8, 12))
    asked, dev = official.read_answers(tmp_path / "dev", pieces, (40, 8, 12))
    targets = [window.target for window in train]
    assert (0, 0) in targets and len(train) > 2 * 20
    steps = official.batches([window.ids for window in train], targets, size=8, epochs=4, fill=None)
    recipe = official.Recipe(rate=2e-2, weight_decay=0.0, layer_decay=0.8, steps=4 * len(train) // 8)
    expected = official.train(model, steps, official.answering_loss, recipe)
    assert len(losses) == len(expected) >= 20
    assert np.abs(np.subtract(losses, expected)).max() < 1e-9 and expected[-1] < 0.8 * expected[0]

    assert metric == "f1 of pieces"
    texts = official.answer(model, asked, dev, n_best=5, longest=12)
    assert texts[0] != texts[1]
    for kind, answers in zip(("pieces", "text"), texts, strict=True):
        f1, exact = official.english_scores(answers, asked)
        assert f1 > 0
        assert scores[f"f1 of {kind}"] == pytest.approx(100 * f1, rel=1e-14)
        assert scores[f"em of {kind}"] == pytest.approx(100 * exact, rel=1e-14)
