"""Held-out numbers: by hand where a hand can, the same at every evaluation, and nothing to the training."""

import math

import numpy as np
import paddle
import pytest

from evaluation.encode import encode
from evaluation.retrieval import hits
from pretrain import evaluate
from pretrain.evaluate import Evaluator
from pretrain.loss import masked_lm_loss
from pretrain.masking import Vocabulary
from pretrain.reader import TrainingText
from pretrain.task import Pretraining
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.pretrain.tiny_run import checkpoint, config, losses, records
from training.guard import StopSignal


class Held:
    """An evaluator, and an engine with a fresh model."""

    def __init__(self, folder, **changes):
        made = config(folder, **changes)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.corpus = Corpus(folder, self.tokenizer.digest)
        text = TrainingText.of(self.corpus, Vocabulary.of(self.tokenizer), made)
        task = Pretraining(made)
        self.engine = task.begin(made.run.seed, None)
        self.model = self.engine.model
        self.evaluator = Evaluator(made, text, self.tokenizer, task.pseudo_tokens)

    def run(self, stop=None):
        return self.evaluator.run(self.engine, StopSignal() if stop is None else stop)

    def always(self, token: int) -> None:
        """The model's answer is this token, whatever the question; all others are equally likely."""
        with paddle.no_grad():
            self.model.lm_head.word_embeddings.weight.zero_()
            self.model.lm_head.bias.zero_()
            self.model.lm_head.bias[token] = math.log(self.tokenizer.vocab_size - 1)  # probability 1/2


@pytest.fixture
def held(tiny_corpus):
    return Held(tiny_corpus, run__eval_sequences=100)


def test_perplexity_and_accuracy_of_a_constant_model(held, monkeypatch):
    asked = []

    def loss(model, batch, **options):
        asked.extend(batch.targets.ids.tolist())
        return masked_lm_loss(model, batch, **options)

    monkeypatch.setattr(evaluate, "masked_lm_loss", loss)
    held.run()
    held.always(max(set(asked), key=asked.count))
    result = held.run()
    pieces = held.tokenizer.vocab_size
    for kind in ("mmlm", "tlm", "camlm"):
        for name, found in result[kind].items():
            hit, miss = math.log(2), math.log(2 * (pieces - 1))
            expected = math.exp(found["accuracy"] * hit + (1 - found["accuracy"]) * miss)
            assert found["perplexity"] == pytest.approx(expected, rel=1e-5), (kind, name)
    accuracies = [found["accuracy"] for kind in ("mmlm", "tlm", "camlm") for found in result[kind].values()]
    assert any(accuracies)


def test_every_stream_has_its_numbers(held):
    result = held.run()
    assert list(result) == ["mmlm", "tlm", "camlm", "btmlm", "retrieval"]
    assert list(result["mmlm"]) == ["de", "en", "fr"]
    for kind in ("tlm", "camlm", "btmlm", "retrieval"):
        assert list(result[kind]) == ["de-en", "en-fr"]
    samples = result["btmlm"]["en-fr"]["samples"]
    assert [sample.split(": ")[0] for sample in samples] == ["en", "fr"] and " | fr: " in samples[0]
    first = sentences_of(held, ("en", "fr"))[0][0]
    assert samples[0].startswith(f"en: {held.tokenizer.decode(first)} | fr: ")
    assert held.run() == result  # the masks are the same at every evaluation
    assert {len(layers) for layers in result["retrieval"].values()} == {3}


def sentences_of(held, pair) -> tuple[list, list]:
    stream = held.corpus.held_out_parallel[pair]
    return tuple([stream[i][side] for i in range(len(stream))] for side in (0, 1))


def test_retrieval_is_of_the_mean_vectors(held):
    cls, sep = held.tokenizer.cls_id, held.tokenizer.sep_id
    sides = ([np.array([cls, *ids, sep]) for ids in side] for side in sentences_of(held, ("en", "fr")))
    a, b = (encode(held.model.ernie_m, side) for side in sides)
    expected = [(hits(x, y).mean() + hits(y, x).mean()) / 2 for x, y in zip(a, b)]
    assert held.run()["retrieval"]["en-fr"] == pytest.approx(expected)


def test_pseudo_tokens_against_the_real_translation(held, monkeypatch):
    """The longest piece of the translation is always found; every second pair is the other way round."""
    a, b = sentences_of(held, ("de", "en"))
    targets, taken = [(y, x)[i % 2] for i, (x, y) in enumerate(zip(a, b))], []
    pieces = held.tokenizer.convert_ids_to_tokens(range(held.tokenizer.vocab_size))

    def predict(model, stage1):
        rows = stage1.slot_sentences.numpy() + len(taken)
        taken.extend(range(stage1.slot_sentences.numpy().max() + 1))
        found = [max(targets[row].tolist(), key=lambda id_: len(pieces[id_])) for row in rows]
        return paddle.to_tensor(found)

    monkeypatch.setattr(held.evaluator.pseudo_tokens, "_pseudo_ids", predict)
    found = held.evaluator._btmlm(held.model, ("de", "en"))
    assert found["precision"] == 1.0 and 0.0 < found["frequent_precision"] < 1.0
    taken.clear()
    held.evaluator._piece_counts[:, held.tokenizer.special_ids] = 1 << 40  # no guess, as no pseudo-token
    again = held.evaluator._btmlm(held.model, ("de", "en"))
    assert again["frequent_precision"] == found["frequent_precision"]


def test_btmlm_is_compared_on_the_same_masked_tokens(held, monkeypatch):
    batches, totals = [], []

    def loss(model, batch, **options):
        batches.append(batch)
        totals.append(masked_lm_loss(model, batch, **options))
        return totals[-1]

    monkeypatch.setattr(evaluate, "masked_lm_loss", loss)
    found = held.evaluator._btmlm(held.model, ("de", "en"))
    seen = [number for number, batch in enumerate(batches) if batch.stage1]
    unseen = [number for number, batch in enumerate(batches) if not batch.stage1]
    masked = [np.concatenate([batches[i].targets.ids for i in part]) for part in (seen, unseen)]
    assert np.array_equal(*masked)
    mean = [sum(float(totals[i].total) for i in part) / len(masked[0]) for part in (seen, unseen)]
    assert [found["perplexity"], found["perplexity_without"]] == pytest.approx(np.exp(mean).tolist())
    assert found["perplexity"] != found["perplexity_without"]


def test_when_it_is_due(tiny_corpus):
    every = Held(tiny_corpus, run__eval_steps=5).evaluator
    assert every.steps(12) == [5, 10, 12] and every.steps(10) == [5, 10]
    end = Held(tiny_corpus).evaluator
    assert end.steps(12) == [12]
    never = Held(tiny_corpus, run__eval_steps=5, run__eval_sequences=0).evaluator
    assert never.steps(12) == []


def test_training_does_not_notice(pretrain):
    quiet = pretrain(run__eval_sequences=0, objectives__pseudo_choice="sample")
    often = pretrain("often", run__eval_steps=1, objectives__pseudo_choice="sample")
    ours, theirs = checkpoint(quiet, 12), checkpoint(often, 12)
    assert all((value == theirs[name]).all() for name, value in ours.items())
    assert losses(quiet) == losses(often)
    assert not any("held_out" in record for record in records(quiet))
    assert sum("held_out" in record for record in records(often)) == 12
