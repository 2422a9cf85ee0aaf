"""Held-out numbers: by hand where a hand can, the same at every evaluation, and nothing to the training."""

import dataclasses
import math
import signal
import tracemalloc
from types import SimpleNamespace
from unittest import mock

import numpy as np
import paddle
import pytest

from ernie_m.pretrain import evaluate
from ernie_m.pretrain.config import OptimizerConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.evaluate import Evaluator
from ernie_m.pretrain.loss import compute_batch_loss
from ernie_m.pretrain.masking import Pair, Text, Vocabulary, make_rng
from ernie_m.pretrain.objective import Objective
from ernie_m.pretrain.packing import MaskedExample
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.reader.corpus import Blocks, Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.retrieval_accuracy import find_hits
from tests.helpers.arrays import assert_equal_arrays
from tests.pretrain.tiny_run import checkpoint, config, losses, records
from tests.toys import line_keys, make_corpus, sentences, train_piece_model, write_lines


class HeldOutRun:
    """An evaluator, and an engine with a fresh model."""

    def __init__(self, folder, **changes):
        settings = config(folder, **changes)
        self.tokenizer = Tokenizer.from_folder(folder)
        self.corpus = Corpus(folder, self.tokenizer)
        text = TrainingData.from_corpus(self.corpus, Vocabulary.from_tokenizer(self.tokenizer), settings)
        task = Pretraining(settings)
        self.engine = task.begin(settings.run.seed, None)
        self.model = self.engine.model
        self.evaluator = Evaluator(text, self.tokenizer, task.pseudo_token_generator, settings.run)

    def run(self):
        """The scores of an evaluation."""
        return self.evaluator.run(self.engine, ShutdownHandler())

    def predict_always(self, token: int) -> None:
        """Let the model predict this token everywhere with probability 1/2, all others equally likely."""
        head = self.model.lm_head
        # A token with this logit is as likely as all others together, which have a logit of 0.
        logit_of_half = math.log(self.tokenizer.vocab_size - 1)
        with paddle.no_grad():
            head.word_embeddings.weight.zero_()
            head.bias.zero_()
            head.bias[token] = logit_of_half


@pytest.fixture
def held_out(tiny_corpus):
    return HeldOutRun(tiny_corpus, run__eval_sequences=100)


def test_constant_model_perplexity_and_accuracy(held_out, monkeypatch):
    """It always predicts the most frequent masked token, so its perplexity follows from its accuracy."""
    masked_ids = []
    autocast = mock.MagicMock()
    monkeypatch.setattr(held_out.engine, "autocast", autocast)
    entered, left = autocast.return_value.__enter__, autocast.return_value.__exit__

    def loss(model, batch, **options):
        assert not (paddle.is_grad_enabled() or model.training) and entered.call_count > left.call_count
        assert batch.inputs.tokens <= held_out.evaluator.run_config.micro_batch_tokens
        masked_ids.extend(batch.target_ids.tolist())
        return compute_batch_loss(model, batch, **options)

    monkeypatch.setattr(evaluate, "compute_batch_loss", loss)
    held_out.run()  # collects the masked tokens
    held_out.predict_always(max(set(masked_ids), key=masked_ids.count))
    result = held_out.run()
    loss_of_miss = math.log(2 * (held_out.tokenizer.vocab_size - 1))
    accuracies = []
    for kind in ("mmlm", "tlm", "camlm"):
        for name, scores in result[kind].items():
            accuracy = scores["accuracy"]
            loss = accuracy * math.log(2) + (1 - accuracy) * loss_of_miss
            assert scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5), (kind, name)
            accuracies.append(accuracy)
    assert any(accuracies)


def test_unigram_perplexity(held_out, monkeypatch):
    """By hand: every held-out token of German but [UNK], packed into blocks, with the counts of the training
    text."""
    counts = np.array(held_out.corpus.count_subwords("de"))
    unknown = int(counts.argmax())  # as if the most frequent subword were [UNK]
    counts[unknown] = 0
    counts += 1
    text = held_out.evaluator.text
    vocabulary = dataclasses.replace(text.setting.vocabulary, unk_id=unknown)
    setting = dataclasses.replace(text.setting, vocabulary=vocabulary)
    monkeypatch.setattr(held_out.evaluator, "text", dataclasses.replace(text, setting=setting))
    blocks = Blocks(held_out.corpus.held_out_mono["de"], text.data.max_seq_len - 2, one_line=False)
    losses = []
    for number in range(min(len(blocks), 100)):
        losses += [
            math.log(counts.sum() / counts[subword]) for subword in blocks[number] if subword != unknown
        ]
    scores = held_out.run()["mmlm"]["de"]
    assert scores["frequency_perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)))


def test_evaluation_masks_are_never_trained_on(tiny_corpus, monkeypatch):
    """They are the same in runs of different seeds, so that these can be compared."""
    draws: dict[int, list[tuple[int, int, int]]] = {1: [], 2: []}  # seed of the run -> those of the masks
    monkeypatch.setattr(
        evaluate, "make_rng", lambda *location: draws[seed].append(location) or make_rng(*location)
    )
    for seed in draws:
        HeldOutRun(tiny_corpus, run__seed=seed).run()
    assert draws[1] == draws[2]
    assert min(step for _, step, _ in draws[1]) > OptimizerConfig().steps
    assert draws[1].count(draws[1][0]) < len(draws[1]) / 2  # nor are all examples masked alike


def test_every_stream_has_its_numbers(held_out, tiny_corpus):
    """A stream is a kind of evaluation and a language or a pair."""
    result = held_out.run()
    assert {kind: list(scores) for kind, scores in result.items()} == {
        "mmlm": ["de", "en", "fr"],
        **{kind: ["de-en", "en-fr"] for kind in ("tlm", "camlm", "btmlm", "retrieval", "candidates")},
    }
    assert held_out.run() == result  # the masks are the same at every evaluation
    in_one_batch = HeldOutRun(tiny_corpus, run__eval_sequences=100, run__micro_batch_tokens=4096).run()
    for language, scores in in_one_batch["mmlm"].items():
        assert scores == pytest.approx(result["mmlm"][language], rel=1e-5)
    assert {len(layers) for layers in result["retrieval"].values()} == {3}  # the embeddings and two layers
    pairs = held_out.corpus.held_out_parallel
    assert result["candidates"] == {"de-en": len(pairs["de", "en"]), "en-fr": len(pairs["en", "fr"])}
    for objective in held_out.evaluator.objectives.values():  # without examples there are no numbers
        assert objective.evaluate([], held_out.model, held_out.evaluator) is None


def test_a_stop_request_ends_an_evaluation_before_its_next_batch(tiny_corpus, monkeypatch):
    """At any batch, also between the two perplexities of BTMLM."""
    held_out = HeldOutRun(tiny_corpus, run__eval_sequences=4)
    held_out.evaluator.objectives = {"btmlm": held_out.evaluator.objectives["btmlm"]}
    stop = ShutdownHandler()
    batches = [0]  # of each evaluation
    last_batch = math.inf

    def loss(model, batch):
        batches[-1] += 1
        stop.received = signal.SIGTERM if batches[-1] >= last_batch else None
        return compute_batch_loss(model, batch)

    monkeypatch.setattr(evaluate, "compute_batch_loss", loss)
    held_out.run()
    for last_batch in range(1, batches[0] + 1):
        batches.append(0)
        stop.received = None
        assert held_out.evaluator.run(held_out.engine, stop) is None
        assert batches[-1] == last_batch
    # Another process has the request.
    stop.received = None
    last_batch = math.inf
    monkeypatch.setattr(stop, "is_set_on_any_process", lambda: True)
    assert held_out.evaluator.run(held_out.engine, stop) is None


def test_groups_stay_in_one_micro_batch(held_out, monkeypatch):
    """Of 8 pairs with 10 tokens 3 are a group, and 64 tokens hold two groups."""
    monkeypatch.setattr(held_out.evaluator.run_config, "micro_batch_tokens", 64)
    monkeypatch.setattr(evaluate, "pack", lambda examples: [(one.objective, one.group) for one in examples])
    masked = [MaskedExample(name, [SimpleNamespace(input_ids=[0] * 5)] * 2) for name in "abcdefgh"]
    assert [*held_out.evaluator._make_batches(masked, group=3)] == [
        [("a", 0), ("b", 0), ("c", 0), ("d", 1), ("e", 1), ("f", 1)],
        [("g", 0), ("h", 0)],
    ]


def get_sentences(held_out, pair) -> tuple[tuple, tuple]:
    """The ids of the held-out sentences of each side of a pair."""
    stream = held_out.corpus.held_out_parallel[pair]
    return tuple(zip(*(stream[number] for number in range(len(stream)))))


def test_retrieve_by_mean_embeddings(tmp_path):
    """Each French text is a part of the English one, so that random vectors find some of them."""
    lines = [line for line in sentences(800, seed=3) if 10 < len(line) < 40]
    pairs = write_lines(tmp_path / "en-fr.tsv", [f"{line}\t{line[: len(line) // 2]}" for line in lines])
    make_corpus(
        tmp_path / "corpus",
        train_piece_model(tmp_path / "piece.model"),
        mono={"en": write_lines(tmp_path / "en", lines)},
        parallel={"en-fr": pairs},
        held_out=40,
    )
    held_out = HeldOutRun(
        tmp_path / "corpus",
        run__eval_sequences=100,
        objectives__active=["mmlm", "tlm", "camlm"],
        model__initializer_range=0.15,
    )
    tokenizer = held_out.tokenizer
    encoder = PaddleEncoder(held_out.model.ernie_m)
    # [L + 1, N, H] each
    english, french = (
        encoder.encode([np.array([tokenizer.cls_id, *ids, tokenizer.sep_id]) for ids in side])
        for side in get_sentences(held_out, ("en", "fr"))
    )
    keys = line_keys(english.shape[1])
    found = [
        [find_hits(en, fr, keys).mean(), find_hits(fr, en, keys).mean()] for en, fr in zip(english, french)
    ]
    expected = np.mean(found, axis=1)  # at each layer, of both directions
    assert held_out.run()["retrieval"]["en-fr"] == pytest.approx(expected)
    assert len({*expected}) == len(expected) and all(forward != backward for forward, backward in found)


def test_every_second_pair_has_its_sides_exchanged(held_out, monkeypatch):
    seen = []
    monkeypatch.setattr(Objective, "evaluate", lambda self, examples, *_: seen.extend(examples))
    held_out.evaluator._evaluate_part("tlm", held_out.model, ("de", "en"))
    pairs = list(zip(*get_sentences(held_out, ("de", "en"))))
    assert len(pairs) > 1
    for number, (example, pair) in enumerate(zip(seen, pairs, strict=True)):
        expected = [(language, ids.tolist()) for language, ids in enumerate(pair)]  # 0 and 1 of de, en, fr
        if number % 2:
            expected.reverse()
        assert [(side.language, side.ids.tolist()) for side in example] == expected


def test_held_out_pseudo_tokens_are_in_the_other_language(held_out):
    """Of de, en and fr, en has pairs with both others, so that a sampled language could be another one."""
    calls = []
    recorder = SimpleNamespace(compute_scores=lambda *_, mask_example: calls.append(mask_example))
    ids = np.array([7, 8, 9])
    pairs = [Pair(Text(ids, a), Text(ids, b)) for a, b in ((0, 1), (1, 0), (1, 2), (2, 1)) for _ in range(9)]
    held_out.evaluator.objectives["btmlm"].evaluate(pairs, None, recorder)
    for number, pair in enumerate(pairs):
        example = calls[0](pair, make_rng(0, 0, number))
        generated = example.stage1.sequence.language_ids[len(ids) + 2 :]
        assert {*generated.tolist()} == {pair.target.language}


def test_btmlm_is_compared_on_the_same_masked_tokens(held_out, monkeypatch):
    """The perplexities with and without pseudo-tokens are of the same tokens, and follow from the losses."""
    masked_ids: dict[bool, list[int]] = {True: [], False: []}  # with pseudo-tokens, and without
    losses: dict[bool, float] = {True: 0.0, False: 0.0}  # their sums

    def loss(model, batch, **options):
        result = compute_batch_loss(model, batch, **options)
        has_pseudo_tokens = batch.stage1 is not None
        if has_pseudo_tokens:
            in_slots = batch.inputs.input_ids.numpy()[batch.stage1.slots.numpy()]
            assert held_out.tokenizer.mask_id not in in_slots
        masked_ids[has_pseudo_tokens] += batch.target_ids.tolist()
        losses[has_pseudo_tokens] += float(result[0])
        return result

    monkeypatch.setattr(evaluate, "compute_batch_loss", loss)
    scores = held_out.evaluator._evaluate_part("btmlm", held_out.model, ("de", "en"))
    assert masked_ids[True] == masked_ids[False]
    perplexities = [math.exp(loss / len(masked_ids[True])) for loss in losses.values()]
    assert [scores["perplexity"], scores["perplexity_without"]] == pytest.approx(perplexities)
    assert perplexities[0] != perplexities[1]


@pytest.mark.parametrize(
    ("every", "sequences", "arguments", "due"),
    [
        (5, 6, (12, 0), [5, 10, 12]),
        (5, 6, (10, 0), [5, 10]),
        (5, 6, (12, 3), [3, 5, 10, 12]),
        (0, 6, (12, 0), [12]),
        (5, 0, (12, 3), []),
    ],
)
def test_when_it_is_due(held_out, every, sequences, arguments, due):
    settings = held_out.evaluator.run_config
    held_out.evaluator.run_config = dataclasses.replace(settings, eval_steps=every, eval_sequences=sequences)
    steps = held_out.evaluator.choose_steps(*arguments)
    assert [step for step in range(20) if step in steps] == due
    assert [steps.count_from(step) for step in range(20)] == [
        sum(d >= step for d in due) for step in range(20)
    ]


def test_steps_by_the_billion_take_no_memory(held_out):
    """A billion would have taken 12 GB; this number of them 100 MB."""
    evaluator = held_out.evaluator
    evaluator.run_config = dataclasses.replace(evaluator.run_config, eval_steps=8, eval_sequences=6)
    tracemalloc.start()
    assert evaluator.choose_steps(8_000_000, 0).count_from(9) == 999_999
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_processes_evaluate_each_part_once(held_out, monkeypatch):
    """Also those of a last round that has fewer parts than processes."""
    expected = held_out.run()
    shares = []

    def gather(items):
        shares.extend(items)
        return shares

    monkeypatch.setattr(ShutdownHandler, "is_set_on_any_process", lambda self: False)
    monkeypatch.setattr(evaluate.distributed, "world_size", lambda: 4)
    monkeypatch.setattr(evaluate.distributed, "gather_items", gather)
    for rank in range(4):
        monkeypatch.setattr(evaluate.distributed, "rank", lambda rank=rank: rank)
        scores = held_out.run()
    assert scores == expected and len(shares) % 4


def test_training_does_not_notice(pretrain):
    """A run that is evaluated after every step ends with the bits of one that is never evaluated.

    Pseudo-tokens are sampled, so evaluations draw random numbers.
    """
    steps = 4
    options = {
        "optimizer__steps": steps,
        "objectives__pseudo_temperature": 1.0,
        "model__num_hidden_layers": 1,
        "data__languages": ["de", "en"],
    }
    never = pretrain(run__eval_sequences=0, **options)
    often = pretrain("often", run__eval_steps=1, **options)
    assert_equal_arrays(checkpoint(often, steps), checkpoint(never, steps))
    assert losses(never) == losses(often)
    counts = [sum("held_out" in record for record in records(output)) for output in (never, often)]
    assert counts == [0, steps]
