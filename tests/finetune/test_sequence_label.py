"""Loss, predictions and scores of a batch, worked by hand from given logits."""

import argparse
import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.finetune import sequence_label
from ernie_m.finetune.sequence_label import OfficialTagging, Tagging
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.reader.files.official_tags import JOINT, Sentence
from tests.helpers.letters import Letters

TAGS = ["B-A", "I-A", "B-B", "I-B", "O"]


class ModelOfLogits:
    """A model that returns these logits, [R, T, 5], whatever its input is."""

    def __init__(self, logits):
        self.logits = paddle.to_tensor(logits, dtype="float64", stop_gradient=False)
        # The task asks its config for the id of the pad.
        config = ErnieMConfig(
            vocab_size=10,
            hidden_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            pad_token_id=Letters.pad_id,
        )
        self.ernie_m = ErnieMModel(config)

    def __call__(self, batch):
        assert batch.cell_to_token.shape == self.logits.shape[:2]
        return self.logits


@pytest.fixture
def make(tmp_path):
    """make(task_class, label_pieces, max_seq_len) -> a task whose subwords are single letters."""
    (tmp_path / "labels.json").write_text(json.dumps({tag: i for i, tag in enumerate(TAGS)}))

    def make(task_class=Tagging, label_pieces="first", max_seq_len=64):
        flags = argparse.Namespace(
            label_map_config=tmp_path / "labels.json",
            num_labels=len(TAGS),
            chunk_scheme="IOB",
            label_pieces=label_pieces,
            max_seq_len=max_seq_len,
        )
        return task_class.from_flags(flags, Letters())

    return make


def sentence(text: str, *tags: str) -> Sentence:
    """A sentence of words with these tags; without tags it has no labels."""
    return Sentence(text.replace(" ", JOINT), tuple(map(TAGS.index, tags)) or None)


def make_batch(task, *sentences):
    """The windows of sentences as one batch, which is the whole step."""
    features = task.encode(sentences)
    return task.encode.collate(features, np.arange(len(features)), task.encode.count_targets(features))


# With [CLS] and [SEP] the columns of their subwords are: abc 1-3, d 4; efgh 1-4, ijk 5-7, lm 8-9.
SENTENCES = [sentence("abc d", "B-A", "O"), sentence("efgh ijk lm", "O", "B-B", "I-B")]


def random_model(batch):
    """A model of random logits for the windows of a batch."""
    return ModelOfLogits(np.random.default_rng(0).normal(size=[*batch.input_ids.shape, len(TAGS)]))


def test_warn_about_shifted_tags(make, tmp_path, caplog):
    words = ["Rome", ",", "said", "Ann", "."]
    tags = ["B-A", "O", "O", "B-B", "O"]
    shifted, right = ("\t".join(map(JOINT.join, (words, row))) for row in (["O", *tags[:-1]], tags))
    for count in (9, 29):  # of right rows next to one that is shifted
        (tmp_path / f"{count}.tsv").write_text("\n".join(["text_a\tlabel", shifted, *[right] * count, ""]))
        make().read(tmp_path / f"{count}.tsv", "train")
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/9.tsv: 10 % of the entities ")


@pytest.mark.parametrize(("subwords", "labeled"), [("first", 5), ("all", 13)])
def test_only_words_have_a_loss(make, subwords, labeled):
    """The gradient is 0 at special tokens, pads and, with "first", all subwords of a word but the first.

    Args:
        labeled: the number of labeled subwords of the 5 words, which have 3 + 1 and 4 + 3 + 2 subwords.
    """
    task = make(label_pieces=subwords)
    batch = make_batch(task, *SENTENCES)
    assert batch.count == labeled
    model = random_model(batch)
    loss, sums = task.loss(model, *task.send_batches(model, [batch]))
    loss.backward()
    is_labeled = batch.labels >= 0  # [R, T]
    assert is_labeled.sum() == labeled == sums["count"]
    gradient = np.abs(model.logits.grad.numpy()).sum(-1)  # [R, T]
    assert (gradient[is_labeled] > 0).all() and (gradient[~is_labeled] == 0).all()
    log_probabilities = F.log_softmax(model.logits).numpy()[is_labeled]  # [labeled, 5]
    of_labels = log_probabilities[np.arange(labeled), batch.labels[is_labeled]]  # [labeled]
    assert loss.item() == pytest.approx(-of_labels.mean(), abs=1e-12)


def model_for(batch, *entries):
    """A model with the logits of these entries, each (window, column, tag, logit), and 0 elsewhere."""
    logits = np.zeros([*batch.input_ids.shape, len(TAGS)])
    for window, column, tag, logit in entries:
        logits[window, column, TAGS.index(tag)] = logit
    return ModelOfLogits(logits)


def test_first_subword_decides_the_tag(make):
    task = make()
    batch = make_batch(task, *SENTENCES)
    model = model_for(
        batch,
        (0, 1, "B-A", 5),
        (0, 2, "B-B", 9),  # the second subword of abc
        (0, 4, "O", 1),
        (1, 1, "I-B", 5),
        (1, 5, "O", 5),
        (1, 8, "B-A", 5),
    )
    predictions, loss = task.predict(model, batch, labeled=True)
    assert [task.convert_ids_to_tags(tags) for tags in predictions] == [["B-A", "O"], ["I-B", "O", "B-A"]]
    log_probabilities = F.log_softmax(model.logits).numpy()  # [window, column, tag]
    b_a, _, b_b, i_b, outside = range(len(TAGS))
    # Those of the gold tags, at the first subwords of the words of each sentence.
    first = log_probabilities[0, [1, 4], [b_a, outside]]
    second = log_probabilities[1, [1, 5, 8], [outside, b_b, i_b]]
    # The mean over the words of each sentence, summed over the sentences.
    assert loss == pytest.approx(-first.mean() - second.mean(), abs=1e-12)


def test_a_word_has_the_tag_that_all_its_subwords_find_likeliest(make):
    """The first subword of abc says B-B, and B-A is only a little less likely; the others say I-A.

    So abc is B-A.
    """
    task = make(label_pieces="all")
    batch = make_batch(task, *SENTENCES)
    logits_of_abc = [(0, 1, "B-B", 1.5), (0, 1, "B-A", 1), (0, 2, "I-A", 2), (0, 3, "I-A", 2)]
    logits_of_others = [(0, 4, "O", 1), (1, 1, "O", 9), (1, 5, "B-B", 9), (1, 8, "I-B", 9)]
    predictions, _ = task.predict(model_for(batch, *logits_of_abc, *logits_of_others), batch, labeled=False)
    assert [task.convert_ids_to_tags(tags) for tags in predictions] == [["B-A", "O"], ["O", "B-B", "I-B"]]


def test_predict_words_in_a_split_sentence(make):
    """10 tokens hold 8 words: the windows are a-h, g-n and m-p. z is a sentence of its own, in window 3.

    Of the words in two windows g has its tag from the first one, and h from the second.
    """
    task = make(max_seq_len=10)
    batch = make_batch(task, sentence("a b c d e f g h i j k l m n o p"), sentence("z"))
    # g is in column 7 of the first window and column 1 of the second, h in columns 8 and 2.
    tags_of_g_and_h = [(0, 7, "B-A", 5), (0, 8, "B-B", 5), (1, 1, "I-B", 5), (1, 2, "I-A", 5)]
    tag_of_z = (3, 1, "I-B", 5)
    outside = [(window, column, "O", 1) for window in range(4) for column in range(10)]
    model = model_for(batch, *tags_of_g_and_h, tag_of_z, *outside)
    predictions, loss = task.predict(model, batch, labeled=False)
    tags = [*map(task.convert_ids_to_tags, predictions)]
    assert (tags, loss) == ([[*"OOOOOO", "B-A", "I-A", *"OOOOOOOO"], ["I-B"]], 0.0)


def test_official_scores_count_subwords_after_truncation(make, tmp_path, caplog, monkeypatch):
    """6 subwords fit: "ij" and "kl" are cut off, and their tags count neither way."""
    task = make(OfficialTagging, max_seq_len=8)
    data = [sentence("ab - cdef ij kl", "B-A", "O", "B-B", "I-B", "B-A")]
    batch = make_batch(task, *data)
    # [CLS] a b c d e f [SEP]; "-" has no subword.
    gold_tags = ["O", "B-A", "I-A", "B-B", "I-B", "I-B", "I-B", "O"]
    knows_all = model_for(batch, *((0, column, tag, 9) for column, tag in enumerate(gold_tags)))
    predictions, _ = task.predict(knows_all, batch, labeled=True)
    scores = task.score(data, predictions, "en")
    # Of the words, "-", "ij" and "kl" are O: the entity of "kl" is not found, that of "cdef" is too short.
    assert scores == {
        "f1 over subwords": 100.0,
        "precision over subwords": 100.0,
        "recall over subwords": 100.0,
        "f1 over words": pytest.approx(40),
        "precision over words": 50.0,
        "recall over words": pytest.approx(100 / 3),
    }
    monkeypatch.setattr(sequence_label, "WINDOW_EXAMPLES", 1)
    task.write(tmp_path / "x.txt", 2 * data, 2 * predictions)
    lines = (tmp_path / "x.txt").read_text().splitlines()
    assert lines == 2 * ["ab B-A B-A", "- O O", "cdef B-B B-B", "ij I-B O", "kl B-A O", ""]
    assert caplog.messages == [f"{tmp_path / 'x.txt'}: 4 of 10 words are truncated to 8 tokens (max_seq_len)"]
    # [CLS] is taken for an entity, and the second of the two gold entities is too short. So 1 of 3 predicted
    # entities is correct, and 1 of 2 gold ones is found.
    wrong_tags = ["I-A", "B-A", "I-A", "B-B", "I-B", "I-B", "O", "O"]
    errs_twice = model_for(batch, *((0, column, tag, 9) for column, tag in enumerate(wrong_tags)))
    predictions, _ = task.predict(errs_twice, batch, labeled=True)
    scores = task.score(data, predictions, "en")
    found = (scores["precision over subwords"], scores["recall over subwords"])
    assert found == (pytest.approx(100 / 3), 50.0)
    # A word without subwords, or that is cut off, has not the tag of [CLS].
    assert task.convert_ids_to_tags(predictions[0].words) == ["B-A", "O", "B-B", "O", "O"]
