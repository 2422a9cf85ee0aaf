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


class HeldOutRun:
    """An evaluator, and an engine with a fresh model."""

    def __init__(self, folder, **changes):
        settings = config(folder, **changes)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.corpus = Corpus(folder, self.tokenizer.digest)
        text = TrainingText.of(self.corpus, Vocabulary.of(self.tokenizer), settings)
        task = Pretraining(settings)
        self.engine = task.begin(settings.run.seed, None)
        self.model = self.engine.model
        self.evaluator = Evaluator(settings, text, self.tokenizer, task.pseudo_tokens)

    def run(self, stop=None):
        return self.evaluator.run(self.engine, StopSignal() if stop is None else stop)

    def always(self, token: int) -> None:
        """The model's answer is this token, whatever the question; all others are equally likely."""
        with paddle.no_grad():
            self.model.lm_head.word_embeddings.weight.zero_()
            self.model.lm_head.bias.zero_()
            self.model.lm_head.bias[token] = math.log(self.tokenizer.vocab_size - 1)  # probability 1/2


@pytest.fixture
def held_out(tiny_corpus):
    return HeldOutRun(tiny_corpus, run__eval_sequences=100)


def test_perplexity_and_accuracy_of_a_constant_model(held_out, monkeypatch):
    masked_ids = []

    def loss(model, batch, **options):
        masked_ids.extend(batch.targets.ids.tolist())
        return masked_lm_loss(model, batch, **options)

    monkeypatch.setattr(evaluate, "masked_lm_loss", loss)
    held_out.run()
    held_out.always(max(set(masked_ids), key=masked_ids.count))
    result = held_out.run()
    pieces = held_out.tokenizer.vocab_size
    for kind in ("mmlm", "tlm", "camlm"):
        for name, scores in result[kind].items():
            loss_of_hit = math.log(2)
            loss_of_miss = math.log(2 * (pieces - 1))
            loss = scores["accuracy"] * loss_of_hit + (1 - scores["accuracy"]) * loss_of_miss
            assert scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5), (kind, name)
    kinds = ("mmlm", "tlm", "camlm")
    assert any(scores["accuracy"] for kind in kinds for scores in result[kind].values())


def test_the_masks_are_those_of_no_run(tiny_corpus, monkeypatch):
    """Runs of different seeds are compared on the same masked tokens."""
    masked: dict[int, list[list[int]]] = {1: [], 2: []}

    def loss(model, batch, **options):
        masked[seed].append(batch.targets.positions.tolist())
        return masked_lm_loss(model, batch, **options)

    monkeypatch.setattr(evaluate, "masked_lm_loss", loss)
    for seed in masked:
        HeldOutRun(tiny_corpus, run__seed=seed).run()
    assert masked[1] and masked[1] == masked[2]


def test_every_stream_has_its_numbers(held_out):
    result = held_out.run()
    assert list(result) == ["mmlm", "tlm", "camlm", "btmlm", "retrieval"]
    assert list(result["mmlm"]) == ["de", "en", "fr"]
    for kind in ("tlm", "camlm", "btmlm", "retrieval"):
        assert list(result[kind]) == ["de-en", "en-fr"]
    samples = result["btmlm"]["en-fr"]["samples"]
    assert [sample.split(": ")[0] for sample in samples] == ["en", "fr"] and " | fr: " in samples[0]
    first = sentences_of(held_out, ("en", "fr"))[0][0]
    assert samples[0].startswith(f"en: {held_out.tokenizer.decode(first)} | fr: ")
    assert held_out.run() == result  # the masks are the same at every evaluation
    assert {len(layers) for layers in result["retrieval"].values()} == {3}


def sentences_of(held_out, pair) -> tuple[list, list]:
    stream = held_out.corpus.held_out_parallel[pair]
    return tuple([stream[i][side] for i in range(len(stream))] for side in (0, 1))


def test_retrieval_is_of_the_mean_vectors(held_out):
    cls_id = held_out.tokenizer.cls_id
    sep_id = held_out.tokenizer.sep_id
    vectors = []
    for side in sentences_of(held_out, ("en", "fr")):
        vectors.append(encode(held_out.model.ernie_m, [np.array([cls_id, *ids, sep_id]) for ids in side]))
    a, b = vectors  # [L + 1, N, H]
    expected = [(hits(x, y).mean() + hits(y, x).mean()) / 2 for x, y in zip(a, b)]
    assert held_out.run()["retrieval"]["en-fr"] == pytest.approx(expected)


def test_pseudo_tokens_against_the_real_translation(held_out, monkeypatch):
    """The longest piece of the translation is always found; every second pair is the other way round."""
    a, b = sentences_of(held_out, ("de", "en"))
    targets = [x if i % 2 else y for i, (x, y) in enumerate(zip(a, b))]
    earlier: list[int] = []  # one for each sentence of the earlier batches
    pieces = held_out.tokenizer.convert_ids_to_tokens(range(held_out.tokenizer.vocab_size))

    def predict(model, stage1):
        sentences = stage1.slot_sentences.numpy()
        rows = sentences + len(earlier)
        earlier.extend(range(sentences.max() + 1))
        longest = [max(targets[row].tolist(), key=lambda number: len(pieces[number])) for row in rows]
        return paddle.to_tensor(longest)

    monkeypatch.setattr(held_out.evaluator.pseudo_tokens, "_pseudo_ids", predict)
    scores = held_out.evaluator._btmlm(held_out.model, ("de", "en"))
    assert scores["precision"] == 1.0 and 0.0 < scores["frequent_precision"] < 1.0
    earlier.clear()
    # Special tokens are no guesses, because no pseudo-token is one.
    held_out.evaluator._piece_counts[:, held_out.tokenizer.special_ids] = 1 << 40
    again = held_out.evaluator._btmlm(held_out.model, ("de", "en"))
    assert again["frequent_precision"] == scores["frequent_precision"]


def test_btmlm_is_compared_on_the_same_masked_tokens(held_out, monkeypatch):
    batches = []
    totals = []

    def loss(model, batch, **options):
        batches.append(batch)
        totals.append(masked_lm_loss(model, batch, **options))
        return totals[-1]

    monkeypatch.setattr(evaluate, "masked_lm_loss", loss)
    scores = held_out.evaluator._btmlm(held_out.model, ("de", "en"))
    with_pseudo = [number for number, batch in enumerate(batches) if batch.stage1]
    without = [number for number, batch in enumerate(batches) if not batch.stage1]
    masked = [np.concatenate([batches[i].targets.ids for i in part]) for part in (with_pseudo, without)]
    assert np.array_equal(*masked)
    mean = [sum(float(totals[i].total) for i in part) / len(masked[0]) for part in (with_pseudo, without)]
    assert [scores["perplexity"], scores["perplexity_without"]] == pytest.approx(np.exp(mean).tolist())
    assert scores["perplexity"] != scores["perplexity_without"]


def test_when_it_is_due(tiny_corpus):
    every = HeldOutRun(tiny_corpus, run__eval_steps=5).evaluator
    assert every.steps(12) == [5, 10, 12] and every.steps(10) == [5, 10]
    end = HeldOutRun(tiny_corpus).evaluator
    assert end.steps(12) == [12]
    never = HeldOutRun(tiny_corpus, run__eval_steps=5, run__eval_sequences=0).evaluator
    assert never.steps(12) == []


def test_training_does_not_notice(pretrain):
    quiet = pretrain(run__eval_sequences=0, objectives__pseudo_choice="sample")
    often = pretrain("often", run__eval_steps=1, objectives__pseudo_choice="sample")
    of_often = checkpoint(often, 12)
    for name, value in checkpoint(quiet, 12).items():
        assert (value == of_often[name]).all(), name
    assert losses(quiet) == losses(often)
    assert not any("held_out" in record for record in records(quiet))
    assert sum("held_out" in record for record in records(often)) == 12
