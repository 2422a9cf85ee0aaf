"""A step's batches: the same for any number of processes, the right texts, positions that resume."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest

from ernie_m.pretrain.batches import StepBatches, split_by_tokens
from ernie_m.pretrain.btmlm_pseudo_tokens import make_pseudo_token_generator
from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.corpus_selection import TrainingData, drop_unsupported_objectives, select_languages
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.objective_mix import (
    Phase,
    allocate_examples,
    get_mixing_ratios,
    log_phases,
    make_phases,
)
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.pretrain.run_length import count_tokens_per_epoch, plan_run
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.tokenization import Tokenizer
from tests.launching import check_error, error_of
from tests.pretrain.examples import masked_counts, target_objectives
from tests.pretrain.tiny_run import config, make_reader


class Source:
    """A corpus, and readers of it with the configuration of `tiny_run`.

    `changes` of the methods are changes of the configuration, as section__key=value.
    """

    def __init__(self, folder):
        self.folder = folder
        self.tokenizer = Tokenizer.from_folder(folder)
        self.corpus = Corpus(folder, self.tokenizer)
        self.vocabulary = Vocabulary.from_tokenizer(self.tokenizer)

    def config(self, **changes):
        return config(self.folder, **changes)

    def reader(self, rank=0, world_size=1, position=None, **changes):
        settings = self.config(**changes)
        phases = make_phases(settings.objectives, settings.optimizer.steps)
        return make_reader(settings, self.text(settings), phases, rank, world_size, position)

    def text(self, settings):
        return TrainingData.from_corpus(self.corpus, self.vocabulary, settings)

    def steps(self, **changes):
        """The number of steps of a run."""
        settings = self.config(**changes)
        return plan_run(settings, self.text(settings)).steps


@pytest.fixture(scope="module")
def source(tiny_corpus):
    return Source(tiny_corpus)


def count_sequences(*parts: StepBatches) -> Counter:
    """What the parts of a step train on: (objective, tokens, what is to be predicted) -> how often."""
    sequences: Counter = Counter()
    for part in parts:
        for batch in part.micro_batches:
            ends = batch.inputs.lengths.cumsum()
            for start, end in zip(ends - batch.inputs.lengths, ends):
                is_inside = (batch.targets >= start) & (batch.targets < end)
                objective = OF_THE_PAPER[target_objectives(batch)[is_inside][0]]
                tokens = tuple(batch.inputs.input_ids[start:end])
                sequences[objective, tokens, tuple(batch.target_ids[is_inside])] += 1
    return sequences


@pytest.mark.parametrize("world_size, camlm_context", [(2, "unmasked"), (3, "with_masks"), (12, "unmasked")])
def test_processes_tile_a_step(source, world_size, camlm_context):
    """Together they train on what one process would. All have its position and the whole step's counts."""
    choice = {"objectives__camlm_context": camlm_context}
    single = source.reader(**choice)
    readers = [source.reader(rank, world_size, **choice) for rank in range(world_size)]
    for _ in range(6):
        step = single.make_step_batches()
        parts = [reader.make_step_batches() for reader in readers]
        assert count_sequences(*parts) == count_sequences(step)
        counts = (Counter(masked_counts(batch)) for part in parts for batch in part.micro_batches)
        assert step.counts == sum(counts, Counter())
        assert [(part.position, part.counts) for part in parts] == [(step.position, step.counts)] * world_size
    resumed = source.reader(position=json.loads(json.dumps(step.position)), **choice)
    assert count_sequences(resumed.make_step_batches()) == count_sequences(single.make_step_batches())


@pytest.mark.parametrize(
    "budget, camlm_context",
    [(32, "unmasked"), (50, "unmasked"), (4096, "unmasked"), (38, "with_masks"), (50, "with_masks")],
)
def test_micro_batches_hold_no_more_tokens_than_asked(source, budget, camlm_context):
    """4096 tokens hold a whole step. With a smaller budget the same sequences are divided."""
    choice = {"objectives__camlm_context": camlm_context}
    reader = source.reader(run__micro_batch_tokens=budget, **choice)
    undivided = source.reader(run__micro_batch_tokens=4096, **choice)
    for _ in range(6):
        divided_step = reader.make_step_batches()
        step = undivided.make_step_batches()
        assert max(batch.inputs.tokens for batch in divided_step.micro_batches) <= budget
        assert count_sequences(divided_step) == count_sequences(step)
        (whole_step,) = step.micro_batches
    assert {*masked_counts(whole_step)} == {*OF_THE_PAPER}  # after BTMLM has begun, all share a pass


@pytest.mark.parametrize(("language_alpha", "pair_alpha"), [(0.0, 1.0), (1.0, 0.5)])
def test_languages_and_pairs_have_their_own_exponents(source, language_alpha, pair_alpha):
    """A language counts by its tokens, a pair of languages by its sentences."""
    exponents = {"data__language_alpha": language_alpha, "data__pair_alpha": pair_alpha}
    reader = source.reader(**exponents)
    other_seed = source.reader(**exponents, run__seed=2)
    tokens = {
        name: sum(len(block) for block in itertools.islice(blocks, len(blocks)))
        for name, blocks in reader.blocks.items()
    }
    counts = {"-".join(languages): len(pairs) for languages, pairs in source.corpus.parallel.items()}
    assert len(set(tokens.values())) > 1 and len(set(counts.values())) > 1
    for kind, amounts, alpha in (("mono", tokens, language_alpha), ("parallel", counts, pair_alpha)):
        sampler = reader.samplers[kind]
        weights = np.array([amounts[name] ** alpha for name in sampler.names])
        np.testing.assert_allclose(sampler.probabilities, weights / weights.sum())
        assert (sampler.draw(20).item != other_seed.samplers[kind].draw(20).item).any()


@pytest.mark.parametrize(("processes", "budget"), [(1, 2048), (8, 2048), (8, 4096), (3, 700)])
def test_micro_batches_have_equal_size(processes, budget):
    """A step of 2048 sequences, with lengths spread as in real text: 30 tokens is the median."""
    tokens = np.clip(np.random.default_rng(1).lognormal(3.4, 0.6, 2048).astype(int), 5, 256).tolist()
    divided = split_by_tokens(tokens, budget, processes)
    # All processes have equally many micro-batches, of about equally many tokens, and no more than needed.
    assert [len(of_process) for of_process in divided] == [len(divided[0])] * processes
    micro_batches = list(itertools.chain.from_iterable(divided))
    sums = [sum(tokens[number] for number in numbers) for numbers in micro_batches]
    assert max(sums) <= min(budget, 1.05 * min(sums))
    assert len(divided[0]) <= 1 + 1.05 * sum(tokens) / budget / processes
    # Each sequence is in one of them.
    assert sorted(itertools.chain.from_iterable(micro_batches)) == list(range(len(tokens)))


def test_fewer_sequences_than_processes():
    """Arguments: tokens of each sequence, budget, processes. The result: [process][micro-batch][sequence]."""
    divided = [split_by_tokens(*sizes) for sizes in (([5, 9], 16, 3), ([16] * 3, 16, 2), ([], 16, 2))]
    assert divided == [[[[1]], [[0]], []], [[[0], [2]], [[1]]], [[], []]]
    # Not 2, nor 3 and 2.
    assert [len(of_process) for of_process in split_by_tokens([4] * 10, 10, 2)] == [3, 3]


@pytest.mark.parametrize(
    ("active", "use"), [(["tlm", "camlm"], "used for tlm instead"), (["camlm"], "skipped")]
)
def test_pairs_that_are_too_short_for_camlm_are_noticed(source, caplog, active, use):
    """With 90 % masked, no side of up to 9 tokens keeps one."""
    changes = {"objectives__active": active, "objectives__mask_rate": 0.9, "optimizer__batch_size": 8}
    caplog.set_level("WARNING", logger="ernie_m")
    source.steps(objectives__active=active)
    assert "too short" not in caplog.text
    source.steps(**changes)
    assert f"% of the pairs are too short for camlm and {use}" in caplog.text
    # A phase without TLM leaves them out.
    phases = {"objectives__mixing_ratios": {"camlm": 1}, "objectives__later_mixing_ratios": {"tlm": 1}}
    changes |= {"objectives__active": None, "optimizer__batch_size": 64}
    assert [*source.reader(**changes | phases).make_step_batches().counts] == ["camlm"]
    error = error_of(source.steps, **changes, data__max_seq_len=8)
    check_error(error, "camlm has no pair to train on: it requires ", "objectives.mask_rate")


def test_a_pass_counts_what_is_read(source, caplog, info_log):
    """Text of a kind that no objective reads is none of it, nor what is cut off a pair that is too long."""
    in_text = sum(text.num_tokens for text in source.corpus.mono.values())
    in_pairs = sum(
        min(sum(map(len, pairs[number])), 32 - 4)
        for pairs in source.corpus.parallel.values()
        for number in range(len(pairs))
    )
    for active, tokens in (
        (["mmlm"], in_text),
        (["mmlm", "btmlm"], in_text),  # btmlm is evaluated on pairs
        (["tlm"], in_pairs),
        (["tlm", "mmlm"], in_text + in_pairs),
    ):
        assert count_tokens_per_epoch(source.text(source.config(objectives__active=active))) == tokens
    assert [line.split(";")[0] for line in caplog.messages] == [
        "60 of 171 pairs exceed data.max_seq_len 32"
    ] * 2


def test_make_phases():
    """Together they are the run, and every step has the ratios of its phase, also where one has no step."""
    config = ObjectiveConfig(
        mixing_ratios={"tlm": 7, "mmlm": 3},
        later_mixing_ratios={"mmlm": 15, "btmlm": 15, "camlm": 70, "tlm": 0},
        later_start=0.34,
        btmlm_start=0.5,
    )
    assert config.names == ["mmlm", "tlm", "camlm", "btmlm"]
    for total, second, third in ((1, 0, 0), (2, 1, 1), (50, 17, 25)):
        phases = (
            Phase(range(second), pytest.approx(0.34), {"mmlm": 0.3, "tlm": 0.7}),
            Phase(range(second, third), pytest.approx(0.16), {"mmlm": 0.3, "camlm": 0.7}),
            Phase(range(third, total), pytest.approx(0.5), {"mmlm": 0.15, "camlm": 0.7, "btmlm": 0.15}),
        )
        assert make_phases(config, total) == phases
        assert [get_mixing_ratios(phases, step) for step in range(total)] == [
            phase.mixing_ratios for phase in phases for _ in phase.steps
        ]
    assert get_mixing_ratios(phases, 50) == phases[-1].mixing_ratios


def test_log_phases_with_equal_ratios_once(caplog, info_log):
    config = ObjectiveConfig(
        mixing_ratios={"mmlm": 2},
        later_mixing_ratios={"mmlm": 1, "btmlm": 1, "tlm": 0},
        later_start=0.5,
        btmlm_start=0.2,
    )
    log_phases(config, make_phases(config, 10))
    assert [line.partition(": objectives.")[0] for line in caplog.messages] == [
        "steps 1 to 5: mmlm 100 %",
        "steps 6 to 10: mmlm 50 %, btmlm 50 %",
        "tlm is never trained",
    ]


# `start` is that of the later mixing ratios.
@pytest.mark.parametrize("start, without_steps", [(0, ["mmlm", "tlm"]), (0.5, []), (1, ["camlm"])])
def test_warn_about_untrained_objective(source, caplog, info_log, start, without_steps):
    mixing_ratios = {
        "objectives__mixing_ratios": {"mmlm": 1, "tlm": 1},
        "objectives__later_mixing_ratios": {"camlm": 1},
    }
    Pretraining(source.config(**mixing_ratios, objectives__later_start=start))
    assert [message.split()[0] for message in caplog.messages if "never trained" in message] == without_steps
    assert ("steps 1 to 6: mmlm 50 %, tlm 50 %" in caplog.messages) == (start == 0.5)


def last_mixing_ratios(**options):
    """The mixing ratios of the last phase of a run with these objectives."""
    return make_phases(ObjectiveConfig(**options), 10)[-1].mixing_ratios


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 64, 2047, 2048])
def test_largest_remainder(batch_size):
    """The counts add up to the batch, and each is its share, rounded up or down."""
    share = last_mixing_ratios(mixing_ratios={"mmlm": 30, "btmlm": 30, "tlm": 20, "camlm": 20})
    for step in range(8):
        counts = allocate_examples(share, batch_size, step)
        assert sum(counts.values()) == batch_size
        assert all(abs(counts[name] - share[name] * batch_size) < 1 for name in share)


def test_equal_remainders_take_turns():
    """Four objectives of equal mixing ratios divide 6 sequences: after four steps each had 6.

    Of 4 sequences 0.6, 1.8 and 1.6, mmlm and camlm have the same remainder but for rounding.
    """
    counts = [allocate_examples(last_mixing_ratios(), 6, step) for step in range(4)]  # when BTMLM has begun
    assert {sum(of_step[name] for of_step in counts) for name in OF_THE_PAPER} == {6}
    share = last_mixing_ratios(mixing_ratios={"mmlm": 15, "tlm": 45, "camlm": 40})
    assert {allocate_examples(share, 4, step)["mmlm"] for step in range(3)} == {0, 1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__languages": ["en", "xx"]}, "data.languages: unknown xx .*corpus: de, en, fr"),
        (
            {"data__languages": ["de", "fr"]},
            "has camlm, tlm, but .* has no parallel text of de, fr; objectives.skip_unsupported",
        ),
        (
            {"objectives__active": ["tlm"], "data__languages": ["en"]},
            "active has tlm, but .* no parallel text of en$",
        ),
        ({"objectives__mixing_ratios": {"tlm": 1}, "data__languages": ["en"]}, "mixing_ratios has tlm, but"),
        ({"objectives__active": ["mmlm", "btmlm"], "data__languages": ["en"]}, "requires two languages"),
    ],
)
def test_text_that_is_not_there(source, changes, message):
    error = error_of(source.reader, **changes)
    assert re.search(message, error) and "\n" not in error


def test_a_batch_too_small_for_an_objective(source):
    source.steps(optimizer__batch_size=2)  # four objectives of equal mixing ratios take turns
    later = {"objectives__later_mixing_ratios": {"mmlm": 99, "tlm": 1}, "objectives__later_start": 1}
    source.steps(optimizer__batch_size=2, objectives__mixing_ratios={"mmlm": 1}, **later)  # in no step
    ratios_of_few_pairs = {"mmlm": 45, "btmlm": 45, "tlm": 5, "camlm": 5}
    line = error_of(source.steps, optimizer__batch_size=4, objectives__mixing_ratios=ratios_of_few_pairs)
    assert "batch_size 4 is too small: tlm" in line and line.endswith(" from objectives.mixing_ratios")
    # BTMLM begins after a part of the run.
    assert "batch_size 8 is too small: btmlm" in error_of(
        source.steps, optimizer__batch_size=8, objectives__mixing_ratios={"mmlm": 48, "btmlm": 2, "camlm": 50}
    )


def test_languages_decide_the_objectives(source, monkeypatch, caplog, info_log):
    """The corpus has pairs of English, but none of English with itself."""
    config = source.config(objectives__skip_unsupported=True, data__languages=["en", "en"])
    assert drop_unsupported_objectives(config, source.corpus).objectives.names == ["mmlm"]
    assert select_languages(config.data, source.corpus) == ["en"]
    config = source.config(objectives__skip_unsupported=True, data__languages=["en", "fr"])
    monkeypatch.setattr(source.corpus, "mono", {"de": source.corpus.mono["de"]})
    assert drop_unsupported_objectives(config, source.corpus).objectives.names == ["tlm", "camlm"]
    assert caplog.messages == [
        f"{source.folder}: no text for tlm, camlm, btmlm; training mmlm",
        f"{source.folder}: no text for mmlm, btmlm; training tlm, camlm",
    ]
    config = source.config(objectives__skip_unsupported=True, data__languages=["en", "xx"])
    assert "data.languages: unknown xx " in error_of(drop_unsupported_objectives, config, source.corpus)


def test_warn_about_btmlm_without_camlm(source, caplog):
    for names, warnings in ((["mmlm", "btmlm"], 1), (["mmlm", "btmlm", "camlm"], 0)):
        caplog.clear()
        make_pseudo_token_generator(source.text(source.config(objectives__active=names)))
        assert sum("btmlm without camlm" in message for message in caplog.messages) == warnings


@pytest.mark.parametrize(
    "changes",
    [
        {"objectives__active": list(OF_THE_PAPER)},
        {
            "objectives__mixing_ratios": {"mmlm": 9, "tlm": 1},
            "objectives__later_mixing_ratios": {"mmlm": 1, "btmlm": 1, "tlm": 8},
            "objectives__later_start": 0.6,
        },
    ],
)
def test_steps_from_tokens(source, changes, monkeypatch):
    """The steps that are computed for optimizer.tokens train about as many tokens."""
    monkeypatch.setattr("ernie_m.pretrain.run_length._PROBE_SEQUENCES", 2048)  # instead of 8192, to be quick
    changes = {"optimizer__batch_size": 64, **changes}
    steps = source.steps(optimizer__tokens=50_000, **changes)
    reader = source.reader(optimizer__steps=steps, **changes)
    batches = itertools.chain.from_iterable(reader.make_step_batches().micro_batches for _ in range(steps))
    assert sum(batch.inputs.tokens for batch in batches) == pytest.approx(50_000, rel=0.03)


def test_equal_compute_divides_the_steps(source, monkeypatch):
    # The same sample for both numbers of steps.
    monkeypatch.setattr("ernie_m.pretrain.run_length._PROBE_SEQUENCES", 400)
    assert source.steps(optimizer__steps=1000, run__compute_ratio=1.075) == 930  # 1000 / 1.075
    head = source.config(optimizer__steps=100, run__compute_ratio=2.0, init__lm_head_warmup_steps=20)
    assert plan_run(head, source.text(head)).head_steps == 20
    steps, at_twice_the_cost = (
        source.steps(optimizer__tokens=200_000, run__compute_ratio=ratio) for ratio in (1.0, 2.0)
    )
    assert at_twice_the_cost == pytest.approx(steps / 2, abs=1)
    assert source.steps(optimizer__tokens=1) == 1


def test_warn_if_warm_up_does_not_end(source, caplog):
    with caplog.at_level("WARNING", logger="ernie_m"):
        # The last run keeps its initial weights.
        for steps, warmup, head in ((10, 10, 0), (10, 6, 4), (10, 5, 4), (1, 10, 0)):
            source.steps(
                optimizer__steps=steps, optimizer__warmup_steps=warmup, init__lm_head_warmup_steps=head
            )
    assert [message.split(":")[0] for message in caplog.messages] == [
        "optimizer.warmup_steps 10",
        "optimizer.warmup_steps 6",
    ]


def test_head_warm_up_must_leave_steps(source):
    assert "init.lm_head_warmup_steps 12 leaves no step of 12" in error_of(
        source.steps, init__lm_head_warmup_steps=12
    )
