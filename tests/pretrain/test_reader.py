"""A step's batches: the same for any number of processes, the right texts, positions that resume."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from pretrain.config import OBJECTIVES, ObjectiveConfig
from pretrain.masking import Vocabulary
from pretrain.reader import StepReader, TrainingText, cut_by_tokens, total_steps
from pretrain.shares import MONOLINGUAL, PARALLEL, allocate, examples_of_step, shares
from pretrain.task import learning_rate
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import files_of
from tests.pretrain.tiny_run import config
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
        settings = self.config(**changes)
        text = self.text(settings)
        return StepReader(settings, text, settings.optimizer.steps, rank, world_size, state)

    def text(self, settings):
        return TrainingText.of(self.corpus, self.vocabulary, settings)

    def steps(self, **changes):
        settings = self.config(**changes)
        return total_steps(settings, self.text(settings))


@pytest.fixture(scope="module")
def source(tiny_corpus):
    return Source(tiny_corpus)


def rows_of(work) -> Counter:
    """What is trained on: (objective, the tokens, what is to be predicted) of every sequence."""
    rows: Counter = Counter()
    for batch in work.micro_batches:
        ends = batch.lengths.cumsum()
        for start, end in zip(ends - batch.lengths, ends):
            in_row = (batch.targets >= start) & (batch.targets < end)
            objective = OBJECTIVES[batch.target_objectives[in_row][0]]
            rows[objective, tuple(batch.input_ids[start:end]), tuple(batch.target_ids[in_row])] += 1
    return rows


def rows_of_all(works) -> Counter:
    """`rows_of` the parts of a step."""
    return sum((rows_of(work) for work in works), Counter())


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_processes_tile_a_step(source, world_size):
    alone = source.reader()
    readers = [source.reader(rank, world_size) for rank in range(world_size)]
    for _ in range(6):
        step = alone.next()
        works = [reader.next() for reader in readers]
        assert rows_of_all(works) == rows_of(step)
        assert [work.position for work in works] == [step.position] * world_size
        masked = np.sum([batch.masked for work in works for batch in work.micro_batches], axis=0)
        assert all(work.masked == masked.tolist() for work in [step, *works])


@pytest.mark.parametrize("budget", [32, 50, 4096])
def test_micro_batches_hold_no_more_tokens_than_asked(source, budget):
    reader = source.reader(run__micro_batch_tokens=budget)
    undivided = source.reader(run__micro_batch_tokens=4096)
    for _ in range(6):
        work = reader.next()
        step = undivided.next()
        assert max(batch.tokens for batch in work.micro_batches) <= budget
        assert rows_of(work) == rows_of(step) and len(step.micro_batches) == 1
    assert (step.micro_batches[0].masked > 0).all()  # all objectives share a pass


@pytest.mark.parametrize(("processes", "budget"), [(1, 2048), (8, 2048), (8, 4096), (3, 700)])
def test_micro_batches_are_of_equal_size(processes, budget):
    """The step of a run on 8 cards: lengths as of real text, specials included."""
    rng = np.random.default_rng(1)
    tokens = np.clip(rng.lognormal(3.4, 0.6, 2048).astype(int), 5, 256).tolist()
    divided = cut_by_tokens(tokens, budget, processes)
    assert len(divided) == processes and len({len(of_process) for of_process in divided}) == 1
    parts = [part for of_process in divided for part in of_process]
    sums = [sum(tokens[number] for number in part) for part in parts]
    assert max(sums) <= min(budget, 1.05 * min(sums))
    assert len(divided[0]) <= 1 + 1.05 * sum(tokens) / budget / processes
    assert sorted(number for part in parts for number in part) == list(range(len(tokens)))


def test_fewer_sequences_than_processes():
    assert cut_by_tokens([5, 9], 16, 3) == [[[1]], [[0]], []]
    assert cut_by_tokens([16, 16, 16], 16, 2) == [[[0], [2]], [[1]]]
    assert cut_by_tokens([], 16, 2) == [[], []]


def test_it_goes_on_from_a_state(source):
    uninterrupted = source.reader()
    stopped = source.reader()
    works = [uninterrupted.next() for _ in range(8)]
    for _ in range(5):
        position = json.loads(json.dumps(stopped.next().position))
    # Another number of processes may go on: the positions are those of the whole step.
    readers = [source.reader(rank, 2, position) for rank in range(2)]
    for work in works[5:]:
        assert rows_of_all([reader.next() for reader in readers]) == rows_of(work)


def test_pairs_are_read_in_both_orders(source):
    reader = source.reader(objectives__active=["tlm"], data__languages=["en", "de"])
    firsts = Counter()
    language_of = {}
    for german, english in source.corpus.parallel[("de", "en")]:
        language_of[tuple(german.tolist())] = "de"
        language_of[tuple(english.tolist())] = "en"
    for _ in range(20):
        for _, pair in reader._examples({"tlm": 12}):
            language = language_of[tuple(pair.source.ids.tolist())]
            assert reader.text.number[language] == pair.source.language
            firsts[language] += 1
    assert firsts["de"] > 60 and firsts["en"] > 60


@pytest.mark.parametrize("active", [["mmlm", "tlm", "camlm"], ["mmlm", "camlm"]])
def test_a_pair_with_a_side_of_one_token_serves_tlm_or_is_left_out(source, monkeypatch, active):
    reader = source.reader(objectives__active=active)
    read = reader._read

    def short(kind, draws, i):
        pair = read(kind, draws, i)
        return pair._replace(source=pair.source._replace(ids=pair.source.ids[:1])) if i == 0 else pair

    monkeypatch.setattr(reader, "_read", short)
    examples = reader._examples({"camlm": 4})
    expected = ["camlm", "camlm", "camlm"]
    if "tlm" in active:
        expected = ["tlm", *expected]
    assert [objective for objective, _ in examples] == expected
    batch = reader._batch(examples, [0, 1])
    assert len(batch.lengths) == (3 if "tlm" in active else 4)  # a pair of CAMLM is two sequences
    assert batch.masked[OBJECTIVES.index(expected[0])] > 0


def test_each_drawn_pair_serves_tlm_and_camlm(source):
    reader = source.reader(objectives__active=["tlm", "camlm"], objectives__same_pairs=True)
    drawn = reader.samplers["parallel"]
    work = reader.next()
    assert drawn.draws == 12  # the batch size
    examples = reader._examples({"tlm": 5, "camlm": 5})
    assert drawn.draws == 12 + 5
    assert [objective for objective, _ in examples] == ["tlm"] * 5 + ["camlm"] * 5
    pairs = [pair for _, pair in examples]
    assert all(of_tlm is of_camlm for of_tlm, of_camlm in zip(pairs[:5], pairs[5:]))
    batch = reader._batch(examples, range(10))
    tlm, camlm = (batch.targets[batch.target_objectives == OBJECTIVES.index(name)] for name in PARALLEL)
    assert len(tlm) == len(camlm)
    assert batch.target_ids[: len(tlm)].tolist() != batch.target_ids[len(tlm) :].tolist()  # masks of its own
    assert work.masked[OBJECTIVES.index("tlm")] == work.masked[OBJECTIVES.index("camlm")] > 0


def test_a_pair_of_both_that_camlm_cannot_use_serves_tlm_once(source, monkeypatch):
    reader = source.reader(objectives__active=["tlm", "camlm"], objectives__same_pairs=True)
    monkeypatch.setattr(reader.objectives, "serves_camlm", lambda pair: False)
    examples = reader._examples({"tlm": 3, "camlm": 3})
    assert [objective for objective, _ in examples] == ["tlm"] * 3


def test_a_smaller_share_of_the_pairs_is_part_of_a_larger_one(source):
    def pairs_of(share, **changes):
        text = source.text(source.config(data__parallel_share=share, **changes))
        return {
            languages: [tuple(map(bytes, pairs[i])) for i in range(len(pairs))]
            for languages, pairs in text.pairs.items()
        }

    everything = pairs_of(1.0)
    half = pairs_of(0.5)
    quarter = pairs_of(0.25)
    assert pairs_of(0.5, run__seed=7) == half
    for languages, pairs in everything.items():
        assert len(half[languages]) == round(0.5 * len(pairs))
        assert quarter[languages] == half[languages][: round(0.25 * len(pairs))]
        assert set(half[languages]) <= set(pairs)
        assert half[languages] != pairs[: len(half[languages])]  # drawn from the whole text
    text = source.text(source.config(data__parallel_share=0.5))
    with pytest.raises(IndexError):
        text.pairs["de", "en"][len(half["de", "en"])]
    assert text.mono == source.text(source.config()).mono


def test_only_that_share_is_read_and_sampled(source):
    reader = source.reader(objectives__active=["mmlm", "tlm"], data__parallel_share=0.05)
    text = reader.text
    counts = [len(text.pairs[languages]) for languages in (("de", "en"), ("en", "fr"))]
    assert counts == [round(0.05 * len(source.corpus.parallel[pair])) for pair in text.pairs]
    assert reader.samplers["parallel"].sizes.tolist() == counts
    read = {bytes(pair.source.ids) + bytes(pair.target.ids) for _, pair in reader._examples({"tlm": 500})}
    assert len(read) <= 2 * sum(counts)  # in either order


ABLATIONS = {  # paper Tables 6 and 8
    "exp1": (["mmlm"], {"mmlm": 1.0}),
    "exp2": (["mmlm", "tlm"], {"mmlm": 0.5, "tlm": 0.5}),
    "exp3": (["mmlm", "camlm"], {"mmlm": 0.5, "camlm": 0.5}),
    "exp4": (["mmlm", "btmlm", "camlm"], {"mmlm": 0.25, "btmlm": 0.25, "camlm": 0.5}),
    "exp5": (["mmlm", "tlm", "camlm", "btmlm"], {"mmlm": 0.25, "tlm": 0.25, "camlm": 0.25, "btmlm": 0.25}),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_papers_ablations(name):
    active, expected = ABLATIONS[name]
    config = ObjectiveConfig(active=active)
    assert shares(config, 50, 100) == expected
    before = dict(expected)
    before["mmlm"] += before.pop("btmlm", 0.0)
    assert shares(config, 29, 100) == before  # 30 % of 100 steps
    assert shares(config, 30, 100) == expected


def test_shares_are_divided_by_their_sum_and_change_once():
    config = ObjectiveConfig(
        shares={"tlm": 7, "mmlm": 3},
        later_shares={"mmlm": 15, "btmlm": 15, "camlm": 70, "tlm": 0},
        later_start=0.2,
    )
    assert config.active == ["mmlm", "tlm", "camlm", "btmlm"]
    assert shares(config, 19, 100) == {"mmlm": 0.3, "tlm": 0.7}
    assert shares(config, 20, 100) == shares(config, 29, 100) == {"mmlm": 0.3, "camlm": 0.7}
    assert shares(config, 30, 100) == {"mmlm": 0.15, "camlm": 0.7, "btmlm": 0.15}


def test_pairs_that_serve_both_objectives():
    config = ObjectiveConfig(same_pairs=True, shares={"mmlm": 15, "btmlm": 15, "tlm": 35, "camlm": 35})
    share = shares(config, 9, 10)
    assert share == {"mmlm": 0.15, "tlm": 0.35, "camlm": 0.35, "btmlm": 0.15}  # the weights of the loss
    counts = examples_of_step(config, share, 64, 0)
    assert counts == {"mmlm": 10, "btmlm": 9, "tlm": 45, "camlm": 45}
    alone = examples_of_step(config, {"mmlm": 0.3, "camlm": 0.7}, 64, 0)
    assert alone == {"mmlm": 19, "camlm": 45}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 64, 2047, 2048])
def test_largest_remainder(batch_size):
    share = shares(ObjectiveConfig(monolingual_share=0.6), 9, 10)
    for step in range(8):
        counts = allocate(share, batch_size, step)
        assert sum(counts.values()) == batch_size
        assert all(abs(counts[name] - share[name] * batch_size) < 1 for name in share)


def test_equal_remainders_take_turns():
    share = shares(ObjectiveConfig(), 9, 10)
    totals = dict.fromkeys(share, 0)
    for step in range(4):
        for name, count in allocate(share, 6, step).items():
            totals[name] += count
    assert set(totals.values()) == {6}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__languages": ["en", "xx"]}, "data.languages: xx not in .*corpus, which has de, en, fr"),
        ({"data__languages": ["de", "fr"]}, "has camlm, tlm, but .* holds no parallel text of de, fr"),
        ({"objectives__active": ["tlm"], "data__languages": ["en"]}, "has tlm, but .* no parallel text"),
        ({"objectives__active": ["mmlm", "btmlm"], "data__languages": ["en"]}, "needs a second language"),
    ],
)
def test_text_that_is_not_there(source, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        source.reader(**changes)
    assert "\n" not in str(refused.value)


def test_a_batch_too_small_for_an_objective(source):
    source.steps(optimizer__batch_size=2)
    with pytest.raises(UserError, match=r"batch_size 4 is too small: tlm"):
        source.steps(optimizer__batch_size=4, objectives__monolingual_share=0.9)


@pytest.mark.parametrize(
    "changes",
    [
        {"objectives__active": ["mmlm"]},
        {"objectives__active": ["mmlm", "tlm"]},
        {"objectives__active": list(MONOLINGUAL + PARALLEL)},
        {"objectives__same_pairs": True},
        {
            "objectives__shares": {"mmlm": 9, "tlm": 1},
            "objectives__later_shares": {"mmlm": 1, "btmlm": 1, "tlm": 8},
            "objectives__later_start": 0.6,
        },
    ],
)
def test_a_run_of_so_many_tokens(source, changes):
    changes = {"optimizer__batch_size": 64, **changes}
    steps = source.steps(optimizer__tokens=100_000, **changes)
    reader = source.reader(optimizer__steps=steps, **changes)
    trained = sum(batch.tokens for _ in range(steps) for batch in reader.next().micro_batches)
    assert trained == pytest.approx(100_000, rel=0.02)


def test_equal_compute_divides_the_steps(source):
    assert source.steps(optimizer__steps=1000, run__compute_ratio=1.075) == 930
    tokens = {"optimizer__tokens": 200_000}
    assert source.steps(**tokens, run__compute_ratio=2.0) == pytest.approx(source.steps(**tokens) / 2, abs=1)


def test_the_head_has_a_rate_of_its_own_first(source):
    settings = source.config(
        optimizer__steps=110,
        optimizer__warmup_steps=10,
        init__lm_head_warmup_steps=10,
        init__lm_head_learning_rate=5e-3,
    )
    rate = learning_rate(settings, 110)
    assert [rate(step) for step in (0, 9, 10, 15, 20, 60)] == pytest.approx([0.5, 0.5, 0.0, 0.5, 1.0, 5 / 9])
    with pytest.raises(UserError, match="init.lm_head_warmup_steps 12 leaves nothing of the 12 steps"):
        source.steps(init__lm_head_warmup_steps=12)


def test_a_run_reads_and_writes_nothing_beside_the_files_of_the_manifest(tiny_corpus, tmp_path):
    """Earlier versions stored the boundaries of blocks there, and no digest covered them."""
    expected = [rows_of(Source(tiny_corpus).reader().next()) for _ in range(2)]
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    source = Source(folder)
    (folder / "blocks").mkdir()
    room = source.config().data.max_seq_len - 2
    for language, text in source.corpus.mono.items():
        for shard in text.shards:
            for kind in ("", "-lines"):
                name = f"{language}-{shard['name']}-{shard['index'][:16]}-{room}{kind}.blocks.npy"
                np.save(folder / "blocks" / name, np.array([0, 2], np.uint32))
    before = files_of(folder)
    assert [rows_of(source.reader().next()) for _ in range(2)] == expected
    assert files_of(folder) == before
