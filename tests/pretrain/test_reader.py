"""A step's batches: the same for any number of processes, the right texts, positions that resume."""

import json
from collections import Counter

import numpy as np
import pytest

from pretrain import shares as mix
from pretrain.data_selection import Streams
from pretrain.masking import Vocabulary
from pretrain.reader import ReaderPlan, StepReader
from pretrain.schedule import learning_rate, total_steps
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.pretrain.tiny_run import STEPS, config, make_corpus
from utils.errors import UserError


class Source:
    """Readers of one corpus."""

    def __init__(self, folder):
        self.folder = folder
        self.tokenizer = Tokenizer.from_folder(folder)
        self.corpus = Corpus(folder, self.tokenizer.digest)
        self.vocabulary = Vocabulary.of(self.tokenizer)

    def config(self, **changes):
        return config(self.folder, **changes)

    def reader(self, rank=0, world_size=1, state=None, **changes):
        made = self.config(**changes)
        return StepReader(made, self.corpus, self.vocabulary, made.optimizer.steps, rank, world_size, state)

    def steps(self, **changes):
        return total_steps(self.config(**changes), self.corpus, self.vocabulary)


@pytest.fixture(scope="module")
def source(tiny_corpus):
    return Source(tiny_corpus)


def examples(reader, counts):
    return reader._examples(counts, reader._draw(counts))


def rows_of(work) -> Counter:
    """What is trained on: (objective, the real tokens, what is to be predicted) of every row."""
    found: Counter = Counter()
    for batch in work.micro_batches:
        width = batch.valid.shape[1]
        for row in range(len(batch.valid)):
            mine = batch.target_positions // width == row
            tokens = tuple(batch.input_ids[row][batch.valid[row]].tolist())
            found[batch.objective, tokens, tuple(batch.target_ids[mine].tolist())] += 1
    return found


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_processes_tile_a_step(source, world_size):
    whole = source.reader()
    parts = [source.reader(rank, world_size) for rank in range(world_size)]
    for _ in range(6):
        step, works = whole.next(), [part.next() for part in parts]
        assert sum((rows_of(work) for work in works), Counter()) == rows_of(step)
        assert [work.state for work in works] == [step.state] * world_size
        sequences = [sum(batch.sequences for batch in work.micro_batches) for work in works]
        assert sequences == [12 // world_size] * world_size
        assert np.sum([work.masked() for work in works], axis=0).tolist() == step.masked()


@pytest.mark.parametrize(
    ("changes", "multiple"), [({"run__pad_to_multiple_of": 16}, 16), ({"run__amp": "bf16"}, 8), ({}, 1)]
)
def test_lengths_in_multiples(source, changes, multiple):
    plain, rounded = source.reader(), source.reader(**changes)
    widths = set()
    for _ in range(6):
        work = rounded.next()
        assert rows_of(work) == rows_of(plain.next())
        widths |= {batch.valid.shape[1] for batch in work.micro_batches}
    assert all(width % multiple == 0 for width in widths)
    assert multiple > 1 or any(width % 8 for width in widths)


def test_micro_batches_are_of_one_objective_and_no_larger_than_asked(source):
    work = source.reader(run__micro_batch_size=2).next()
    assert all(batch.sequences <= 2 for batch in work.micro_batches)
    assert {batch.objective for batch in work.micro_batches} == {"mmlm", "tlm", "camlm"}
    assert rows_of(work) == rows_of(source.reader(run__micro_batch_size=100).next())


def test_shares_of_a_step(source):
    reader = source.reader(optimizer__batch_size=40)
    counts = []
    for _ in range(STEPS):
        count: Counter = Counter()
        for batch in reader.next().micro_batches:
            count[batch.objective] += batch.sequences
        counts.append(count)
    assert [count["btmlm"] for count in counts] == [0] * 4 + [10] * 8  # 30 % of 12 steps
    assert all(count["mmlm"] + count["btmlm"] == 20 for count in counts)
    assert all(count["tlm"] + count["camlm"] == 20 for count in counts)


def test_it_goes_on_from_a_state(source):
    straight, first = source.reader(), source.reader()
    works = [straight.next() for _ in range(8)]
    for _ in range(5):
        state = first.next().state
    # Another number of processes may go on: the positions are those of the whole step.
    parts = [source.reader(rank, 2, json.loads(json.dumps(state))) for rank in range(2)]
    for work in works[5:]:
        assert sum((rows_of(part.next()) for part in parts), Counter()) == rows_of(work)


def test_every_text_is_read_once_before_any_is_read_again(source):
    reader = source.reader(objectives__active=["mmlm"], data__languages=["en"])
    blocks = reader.blocks["en"]
    for _ in range(2):
        read = examples(reader, {"mmlm": len(blocks)})["mmlm"]
        assert Counter(text.ids.tobytes() for _, text in read) == Counter(
            blocks[i].tobytes() for i in range(len(blocks))
        )


def test_pairs_are_read_in_both_orders(source):
    reader = source.reader(objectives__active=["tlm"], data__languages=["en", "de"])
    firsts = Counter()
    known = {tuple(side.tolist()): name for pair in source.corpus.parallel[("de", "en")]
             for side, name in zip(pair, ("de", "en"))}  # fmt: skip
    for _ in range(20):
        for _, example in examples(reader, {"tlm": 12})["tlm"]:
            name = known[tuple(example.source.ids.tolist())]
            assert reader.number[name] == example.source.language
            firsts[name] += 1
    assert firsts["de"] > 60 and firsts["en"] > 60


def test_a_pair_with_a_side_of_one_token_serves_tlm(source):
    reader = source.reader()
    texts = examples(reader, {"camlm": 12, "tlm": 2})
    number, pair = texts["camlm"][0]
    short = (number, pair._replace(source=pair.source._replace(ids=pair.source.ids[:1])))
    fit = texts["camlm"][1:]
    parts = reader._by_form({"camlm": [short, *fit], "tlm": list(texts["tlm"])})
    assert [(objective, form, len(found)) for objective, form, found in parts] == [
        ("camlm", "camlm", len(fit)), ("tlm", "tlm", 3), ("camlm", "tlm", 0)
    ]  # fmt: skip
    # Where TLM is not active the pair counts as CAMLM's, or its share of the step would shrink.
    parts = reader._by_form({"camlm": [short, *fit]})
    assert parts[-1] == ("camlm", "tlm", [short])
    batches = [batch for part in parts for batch in reader._batches(*part)]
    assert {batch.objective for batch in batches} == {"camlm"}
    assert [batch.context_length is None for batch in batches] == [False] * (len(batches) - 1) + [True]


def test_a_plan_makes_the_same_batches(source, tmp_path):
    made = source.config()
    plan = ReaderPlan(made, source.tokenizer.digest, source.vocabulary, STEPS, 0, 1, None)
    assert rows_of(next(plan())) == rows_of(source.reader().next())


def test_a_corpus_that_may_not_be_written_to(source, monkeypatch):
    monkeypatch.setattr("pretrain.reader.os.access", lambda *_: False)
    assert rows_of(source.reader().next())


# Bad input


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__languages": ["en", "xx"]}, "data.languages: xx not in .*corpus, which has de, en, fr"),
        ({"data__languages": ["de", "fr"]}, "has camlm, tlm, but .* holds no parallel text of de, fr"),
        ({"objectives__active": ["tlm"], "data__languages": ["en"]}, "has tlm, but .* no parallel text"),
        ({"objectives__active": ["mmlm", "btmlm"], "data__languages": ["en"]}, "needs a second language"),
        ({"optimizer__batch_size": 1}, "optimizer.batch_size 1 is too small"),
    ],
)
def test_text_that_is_not_there(source, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        source.reader(**changes)
    assert "\n" not in str(refused.value)


def test_a_language_with_no_text(tmp_path):
    source = Source(make_corpus(tmp_path, mono_languages=("de", "en")))
    assert source.reader(data__languages=["de", "en", "fr"])  # French stands in a pair with English
    with pytest.raises(UserError, match="holds no text of fr that mmlm could read; leave"):
        source.reader(data__languages=["de", "en", "fr"], objectives__active=["mmlm"])


def test_more_processes_than_samples(source):
    with pytest.raises(UserError, match="optimizer.batch_size 12 is below the 13 processes"):
        source.reader(0, 13)


def test_another_seed_or_text_than_the_state(source, tmp_path):
    reader = source.reader()
    state = reader.next().state
    with pytest.raises(UserError, match="the checkpoint was made with seed 1, this run has 2"):
        source.reader(state=state, run__seed=2)
    with pytest.raises(UserError, match="the text has changed since the checkpoint"):
        source.reader(state=state, data__languages=["en", "de"])


# How long a run is, and its learning rate


@pytest.mark.parametrize("active", [["mmlm"], ["mmlm", "tlm"], list(mix.MONOLINGUAL + mix.PARALLEL)])
def test_a_run_of_so_many_tokens(source, active):
    changes = {"objectives__active": active, "optimizer__batch_size": 64}
    steps = source.steps(optimizer__tokens=100_000, **changes)
    reader = source.reader(optimizer__steps=steps, **changes)
    trained = sum(batch.tokens for _ in range(steps) for batch in reader.next().micro_batches)
    assert trained == pytest.approx(100_000, rel=0.02)


def test_equal_compute_divides_the_steps(source):
    assert source.steps(optimizer__steps=1000, run__compute_ratio=1.075) == 930
    tokens = {"optimizer__tokens": 200_000}
    assert source.steps(**tokens, run__compute_ratio=2.0) == pytest.approx(source.steps(**tokens) / 2, abs=1)


def test_the_head_has_a_rate_of_its_own_first(source):
    made = source.config(
        optimizer__steps=110, optimizer__warmup_steps=10, init__lm_head_warmup_steps=10,
        init__lm_head_learning_rate=5e-3,
    )  # fmt: skip
    rate = learning_rate(made, 110)
    assert [rate(step) for step in (0, 9, 10, 15, 20, 60)] == pytest.approx([0.5, 0.5, 0.0, 0.5, 0.9, 0.5])
    with pytest.raises(UserError, match="init.lm_head_warmup_steps 12 leaves nothing of the 12 steps"):
        source.steps(init__lm_head_warmup_steps=12)


def test_streams(source):
    streams = Streams.of(source.corpus, source.config(data__languages=["fr", "en"]))
    assert streams.languages == ["en", "fr"]
    assert set(streams.mono) == {"en", "fr"} and list(streams.pairs) == [("en", "fr")]
    assert streams.pairs["en", "fr"] == len(source.corpus.parallel["en", "fr"])
