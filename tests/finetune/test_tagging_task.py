"""Loss, prediction and score of a batch, with logits that are given: worked by hand."""

import argparse
import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from finetune.tagging import OfficialTagging, Tagging
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.tagging import JOINT, Sentence
from tests.helpers.letters import Letters

TAGS = ["B-A", "I-A", "B-B", "I-B", "O"]


class Given:
    """A model whose logits are drawn from a seed, or set."""

    def __init__(self, shape=None, values=None):
        logits = np.random.default_rng(0).normal(size=(*shape, 5)) if values is None else values
        self.logits = paddle.to_tensor(logits, dtype="float64", stop_gradient=False)
        self.ernie_m = ErnieMModel(ErnieMConfig(5, 2, 1, 1, pad_token_id=Letters.pad_id))

    def __call__(self, batch):
        assert batch.cells.shape == self.logits.shape[:2]
        return self.logits


@pytest.fixture
def make(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({tag: i for i, tag in enumerate(TAGS)}))

    def make(kind=Tagging, pieces="first", size=64):
        flags = {"label_map_config": tmp_path / "labels.json", "num_labels": 5, "chunk_scheme": "IOB"}
        args = argparse.Namespace(**flags, label_pieces=pieces, max_seq_len=size)
        return kind.from_flags(args, Letters())

    return make


def sentence(text: str, *tags: str) -> Sentence:
    return Sentence(text.replace(" ", JOINT), tuple(map(TAGS.index, tags)) or None)


def batch_of(task, *sentences, count=None):
    features = task.encode(sentences)
    return task.encode.collate(features, np.arange(len(features)), count or task.encode.count(features))


SENTENCES = sentence("abc d", "B-A", "O"), sentence("efgh ijk lm", "O", "B-B", "I-B")


@pytest.mark.parametrize(("pieces", "labelled"), [("first", 5), ("all", 13)])
def test_only_words_have_a_loss(make, pieces, labelled):
    """Not the special tokens, not the pads, and with "first" no further pieces: their gradient is 0."""
    task = make(pieces=pieces)
    batch = batch_of(task, *SENTENCES)
    assert batch.count == labelled
    model = Given(batch.input_ids.shape)
    loss, sums = task.loss(model, *task.send_batches(model, [batch]))
    loss.backward()
    learned = batch.labels >= 0
    assert learned.sum() == labelled == sums["count"]
    gradient = np.abs(model.logits.grad.numpy()).sum(-1)
    assert (gradient[learned] > 0).all() and (gradient[~learned] == 0).all()
    logs = F.log_softmax(model.logits).numpy()[learned]
    by_hand = -logs[np.arange(labelled), batch.labels[learned]].mean()
    assert loss.item() == pytest.approx(by_hand, abs=1e-12)


def logits_for(batch, *places):
    """10 for (row, column, tag), 0 elsewhere."""
    values = np.zeros([*batch.input_ids.shape, 5])
    for row, column, tag, value in places:
        values[row, column, TAGS.index(tag)] = value
    return Given(values=values)


def test_a_word_has_the_tag_of_its_first_piece(make):
    task = make()
    batch = batch_of(task, *SENTENCES)
    model = logits_for(
        batch,
        (0, 1, "B-A", 5),
        (0, 2, "B-B", 9),
        (0, 4, "O", 1),
        (1, 1, "I-B", 5),
        (1, 5, "O", 5),
        (1, 8, "B-A", 5),
    )
    predictions, loss = task.predict(model, batch, labelled=True)
    assert [task.tags(tags) for tags in predictions] == [["B-A", "O"], ["I-B", "O", "B-A"]]
    logs = F.log_softmax(model.logits).numpy()
    first = -(logs[0, 1, 0] + logs[0, 4, 4]) / 2
    second = -(logs[1, 1, 4] + logs[1, 5, 2] + logs[1, 8, 3]) / 3
    assert loss == pytest.approx(first + second, abs=1e-12)


def test_a_word_has_the_tag_that_all_its_pieces_find_likeliest(make):
    """abc: the first piece says B-B, but only a little, and the others say I-A."""
    task = make(pieces="all")
    batch = batch_of(task, *SENTENCES)
    model = logits_for(
        batch,
        (0, 1, "B-B", 1.5),
        (0, 1, "B-A", 1),
        (0, 2, "I-A", 2),
        (0, 3, "I-A", 2),
        (0, 4, "O", 1),
        (1, 1, "O", 9),
        (1, 5, "B-B", 9),
        (1, 8, "I-B", 9),
    )
    predictions, _ = task.predict(model, batch, labelled=False)
    assert [task.tags(tags) for tags in predictions] == [["B-A", "O"], ["O", "B-B", "I-B"]]


def test_words_of_a_split_sentence_are_predicted_where_they_belong(make):
    """Windows a-h, g-n, m-p: in the overlap g counts in the first, h in the second window."""
    task = make(size=10)
    batch = batch_of(task, sentence("a b c d e f g h i j k l m n o p"), sentence("z"))
    everywhere = [(0, 7, "B-A", 5), (0, 8, "B-B", 5), (1, 1, "I-B", 5), (1, 2, "I-A", 5), (3, 1, "I-B", 5)]
    model = logits_for(
        batch, *everywhere, *((row, column, "O", 1) for row in range(4) for column in range(10))
    )
    predictions, loss = task.predict(model, batch, labelled=False)
    assert task.tags(predictions[0]) == [*"OOOOOO", "B-A", "I-A", *"OOOOOOOO"] and loss == 0.0
    assert task.tags(predictions[1]) == ["I-B"]


def test_official_loss_is_a_mean_over_all_of_the_batch(make):
    """Pads count in the divisor and add nothing; [CLS] and [SEP] are learned as O."""
    task = make(OfficialTagging)
    batch = batch_of(task, *SENTENCES)
    assert batch.labels[0].tolist()[:6] == [4, 0, 1, 1, 4, 4]
    model = Given(batch.input_ids.shape)
    loss, _ = task.loss(model, *task.send_batches(model, [batch]))
    mask = (batch.input_ids != Letters.pad_id).astype("float64")
    labels = paddle.to_tensor(np.maximum(batch.labels, 0))
    losses = F.cross_entropy(model.logits, labels, reduction="none")  # [R, T]
    assert loss.item() == pytest.approx((losses * paddle.to_tensor(mask)).mean().item(), abs=1e-12)


def test_official_scores_are_those_of_pieces_of_cut_text(make, tmp_path):
    """Room for 6 pieces: "ij" and the entity after it are gone, for the recall as well."""
    task = make(OfficialTagging, size=8)
    data = [sentence("ab - cdef ij kl", "B-A", "O", "B-B", "I-B", "B-A")]
    batch = batch_of(task, *data)
    pieces = ["O", "B-A", "I-A", "B-B", "I-B", "I-B", "I-B", "O"]
    truth = logits_for(batch, *((0, column, tag, 9) for column, tag in enumerate(pieces)))
    predictions, _ = task.predict(truth, batch, labelled=True)
    assert task.score(data, predictions, "en") == {"f1": 100.0, "precision": 100.0, "recall": 100.0}
    task.write(tmp_path / "x.txt", data, predictions)
    lines = (tmp_path / "x.txt").read_text().splitlines()
    assert lines == ["ab B-A B-A", "- O O", "cdef B-B B-B", "ij I-B O", "kl B-A O", ""]
    pieces = ["I-A", "B-A", "I-A", "B-B", "I-B", "I-B", "O", "O"]
    specials = logits_for(batch, *((0, column, tag, 9) for column, tag in enumerate(pieces)))
    predictions, _ = task.predict(specials, batch, labelled=True)
    scores = task.score(data, predictions, "en")  # [CLS] is an entity, and one of two is too short
    assert (scores["precision"], scores["recall"]) == (pytest.approx(100 / 3), 50.0)
