"""The official procedure (--official_compat true, the default): losses and scores of the official code.

The numbers are those of a second version of the official code, which revision 9efc752f had here and which
has no line in common with ours: sentencepiece alone, padded arrays, and a plain encoder in float64.
"""

import json

import numpy as np
import paddle
import pytest

from ernie_m.commands import run_mrc, run_sequence_labeling
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.heads import make_model_with_head
from ernie_m.training.engine import Engine
from tests import toys
from tests.helpers.checkpoints import save_model
from tests.launching import as_flags, call_main, read_log

LOSSES_OF_TAGS = [
    1.433423156705, 1.176608412515, 1.049847898469, 1.021934058697, 0.788799900009, 1.010698910633,
    0.953838426243, 1.149581714791, 0.755650033537, 0.710915119742, 0.639088190134, 0.797195431462,
    0.631792679481, 0.762139038858, 0.721169836647, 0.823358668812, 0.578566733935, 0.584430264371,
    0.495534665023, 0.692779316973, 0.519769203737, 0.679956418995, 0.646957612146, 0.753566077219,
]  # fmt: skip
LOSSES_OF_ANSWERS = [
    3.733532905333, 4.001324021945, 3.089919340195, 2.632654591429, 2.397794454974, 1.739755404869,
    1.447178902460, 1.618942308087, 1.284121166509, 1.337414490799, 1.202644715861, 1.373008365647,
    1.139840979639, 1.228453301617, 1.171840071583, 1.116020041145, 1.019833493705, 1.101417760937,
    0.929049585935, 0.956421336892, 0.934534821805, 1.087541217793, 0.976963869220, 1.000666930473,
]  # fmt: skip
# By measure, in per cent.
SCORES_OF_TAGS = {"f1 over subwords": 11.583011583011583, "f1 over words": 60.46511627906976}
SCORES_OF_ANSWERS = {"f1 of subwords": 42.5, "em of subwords": 35.0, "f1 of text": 50.0, "em of text": 50.0}

ENDINGS = ["", "ness", "\u200bing", "-by", "’s"]  # which make several subwords of a word
SMALL = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tagged_rows(count: int, seed: int) -> list[toys.TaggedWords]:
    """Sentences whose words have several subwords; some words have none, and some sentences are long."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in toys.tagged_words(count, seed, parts=(2, 12)):
        words = [word + str(rng.choice(ENDINGS)) for word in row.words]
        for location in np.flatnonzero(rng.random(len(words)) < 0.05):
            words[location] = "\u200b"
        rows.append(toys.TaggedWords(words, row.tags))
    return rows


def questions(count: int, seed: int) -> dict:
    """SQuAD JSON whose answers are parts of words, as in (rome) and rome, and have spaces."""
    squad = toys.squad(count // 2, seed)
    rng = np.random.default_rng(seed)
    for paragraph in squad["data"][0]["paragraphs"]:
        for qa in paragraph["qas"]:
            location = qa["answers"][0]["text"]
            before, after = (["(", ")"], ["", ","], ["", ""])[rng.integers(3)]
            paragraph["context"] = paragraph["context"].replace(
                f"{location} .", f"{before}{location}{after} .", 1
            )
        for qa in paragraph["qas"]:
            (gold,) = qa["answers"]
            gold["answer_start"] = paragraph["context"].index(gold["text"])
    return squad


@pytest.fixture
def trained(tmp_path, in_tmp_path, monkeypatch):
    """trained(script, task, outputs, **flags) -> the losses of a run in float64, its tables, and its start.

    The start is a checkpoint with random weights and the head of the task.
    """
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
        start = make_model_with_head(task, config, outputs)
        save_model(tmp_path / "initial", start, config, piece_model_path=tmp_path / "piece.model")
        values = {
            "init_checkpoint": "initial",
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
        assert open_checkpoint("out/best").pipeline_config.official_compat
        results = json.loads((tmp_path / "out/results.json").read_text())
        scores = {table["title"].split(",")[0]: table["mean"]["avg"] for table in results["tables"]}
        return losses, results["metric"], scores

    return run


def test_conll_losses_and_scores_are_those_of_the_official_code(trained, tmp_path):
    """60 sentences in 24 steps: the losses, F1 over subwords, which selects, and F1 over words."""
    rows = tagged_rows(60, seed=1)
    texts = [" ".join(row.words) for row in rows]
    labels = {tag: number for number, tag in enumerate(toys.TAGS)}
    toys.write_task(tmp_path, texts, [], labels, toys.TASK_CONFIG | SMALL, vocab_size=50)
    toys.write_tagged_words(tmp_path / "train", rows)
    toys.write_tagged_words(tmp_path / "dev", tagged_rows(60, seed=2))
    flags = {
        "max_seq_len": 24,
        "batch_size": 8,
        "epoch": 3,
        "shuffle": "false",
        "num_labels": len(labels),
        "learning_rate": 2e-2,
        "weight_decay": 0.01,
        "label_map_config": "label_map.json",
    }
    losses, metric, scores = trained(run_sequence_labeling, "token-classification", len(labels), **flags)
    assert (losses, metric) == (pytest.approx(LOSSES_OF_TAGS, abs=1e-9), "f1 over subwords")
    log = read_log(tmp_path)
    for measure, score in SCORES_OF_TAGS.items():
        assert scores[measure] == pytest.approx(score, rel=1e-14)
        assert f" {measure}: {score / 100:f}, " in log


def test_mlqa_losses_and_scores_are_those_of_the_official_code(trained, tmp_path):
    """20 questions in 24 steps: the losses, and F1 and exact match of joined subwords and of the text."""
    texts = [text for text, _ in toys.questions(questions(200, seed=9))]
    options = {"vocab_size": 80, "user_defined_symbols": toys.PEOPLE}
    toys.write_task(tmp_path, texts, [], [], toys.ANSWERING_CONFIG | SMALL | {"vocab_size": 90}, **options)
    (tmp_path / "train").write_text(json.dumps(questions(20, seed=1)))
    (tmp_path / "dev").write_text(json.dumps(questions(20, seed=2)))
    flags = {
        "max_seq_len": 40,
        "max_query_length": 8,
        "doc_stride": 12,
        "batch_size": 8,
        "epoch": 4,
        "learning_rate": 2e-2,
        "weight_decay": 0.0,
        "n_best_size": 5,
        "max_answer_length": 12,
    }
    losses, metric, scores = trained(run_mrc, "question-answering", 2, **flags)
    assert (losses, metric) == (pytest.approx(LOSSES_OF_ANSWERS, abs=1e-9), "f1 of subwords")
    assert scores == pytest.approx(SCORES_OF_ANSWERS, rel=1e-14)
