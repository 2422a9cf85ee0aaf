"""An optimiser step's batches: text drawn by temperature, masked, padded. Runs in a process of its own; no
paddle here.

What a step holds is a function of (corpus, config, step) alone. A process takes its share of every
objective's
sequences, so any number of processes read the same steps, and a run goes on from the samplers' positions.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain import mix, pseudo
from pretrain.batch import Batch
from pretrain.config import OBJECTIVES, PretrainConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from reader.corpus import Corpus
from reader.packing import Blocks
from reader.sampling import Draws, Sampler
from utils.errors import UserError

_PROBE_SEQUENCES = 8192  # how many sequences the mean number of tokens per step is measured on


@dataclass(frozen=True)
class StepBatches:
    """One process's part of one optimiser step.

    Args:
        step: completed steps before it.
        micro_batches: each of one objective.
        share: objective -> its weight in the step's loss.
        state: the samplers' positions after the step.
    """

    step: int
    micro_batches: list[Batch]
    share: dict[str, float]
    state: dict[str, Any]


@dataclass(frozen=True)
class Streams:
    """The part of a corpus that a run trains on.

    Args:
        languages: in alphabetical order; a language's number is its place here.
        mono: language -> tokens of monolingual text.
        pairs: (a, b) -> sentence pairs.
    """

    languages: list[str]
    mono: dict[str, int]
    pairs: dict[tuple[str, str], int]

    @classmethod
    def of(cls, corpus: Corpus, config: PretrainConfig) -> "Streams":
        """Select `data.languages`.

        Raises:
            UserError: a language that the corpus lacks, or no text for an active objective.
        """
        wanted = config.data.languages or corpus.languages
        unknown = [language for language in wanted if language not in corpus.languages]
        if unknown:
            raise UserError(
                f"data.languages: {', '.join(unknown)} not in {corpus.path}, which has "
                f"{', '.join(corpus.languages)}"
            )
        mono = {language: text.num_tokens for language, text in corpus.mono.items() if language in wanted}
        pairs = {pair: len(stream) for pair, stream in corpus.parallel.items() if set(pair) <= set(wanted)}
        active = set(config.objectives.active)
        for kind, names, has in (
            ("monolingual text", mix.MONOLINGUAL, mono),
            ("parallel text", mix.PARALLEL, pairs),
        ):
            if active & set(names) and not has:
                raise UserError(
                    f"objectives.active has {', '.join(sorted(active & set(names)))}, "
                    f"but {corpus.path} holds no {kind}"
                )
        if "mmlm" in active and (empty := sorted(set(config.data.languages) - set(mono))):
            raise UserError(f"data.languages: {', '.join(empty)} has no monolingual text in {corpus.path}")
        return cls(sorted(wanted), mono, pairs)


def make_objectives(config: PretrainConfig, vocabulary: Vocabulary, streams: Streams) -> Objectives:
    """The batch maker of a run; evaluation uses the same."""
    number = {language: i for i, language in enumerate(streams.languages)}
    second = None
    if "btmlm" in config.objectives.active:
        pairs = {(number[a], number[b]): count for (a, b), count in streams.pairs.items()}
        second = pseudo.SecondLanguage(streams.languages, pairs, config.objectives.second_language)
    return Objectives(
        config.objectives,
        vocabulary,
        config.data.max_seq_len,
        config.model.language_embedding,
        second,
        length_multiple=1 if config.run.amp == "none" else 8,  # tensor cores want multiples of 8
    )


class StepReader:
    """Makes the batches of step after step for one of `world_size` processes.

    Args:
        corpus: opened with the run's vocabulary.
        total_steps: of the schedule; decides when BTMLM starts.
        state: a `StepBatches.state` to go on from.

    Raises:
        UserError: more processes than sequences in a step, or a state of another corpus or seed.
    """

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        vocabulary: Vocabulary,
        total_steps: int,
        rank: int = 0,
        world_size: int = 1,
        state: dict[str, Any] | None = None,
    ):
        if config.optimizer.batch_size < world_size:
            raise UserError(
                f"optimizer.batch_size {config.optimizer.batch_size} is below the {world_size} processes: "
                "raise it, or start fewer"
            )
        mix.check_batch_size(config.objectives, config.optimizer.batch_size, total_steps)
        streams = Streams.of(corpus, config)
        self.config, self.corpus, self.total_steps, self.rank, self.world_size = (
            config,
            corpus,
            total_steps,
            rank,
            world_size,
        )
        self.objectives = make_objectives(config, vocabulary, streams)
        self.number = {language: i for i, language in enumerate(streams.languages)}
        data, seed = config.data, config.run.seed
        self.step = 0
        self.samplers: dict[str, Sampler] = {}
        if set(config.objectives.active) & set(mix.MONOLINGUAL):
            self.blocks = [
                Blocks(
                    corpus.mono[language], data.max_seq_len - 2, not data.pack_lines, corpus.path / "blocks"
                )
                for language in streams.mono
            ]
            items = {language: len(blocks) for language, blocks in zip(streams.mono, self.blocks)}
            self.samplers["mono"] = Sampler(items, streams.mono, data.language_alpha, seed, "mono")
        if set(config.objectives.active) & set(mix.PARALLEL):
            self.pairs = list(streams.pairs)
            items = {"-".join(pair): count for pair, count in streams.pairs.items()}
            self.samplers["parallel"] = Sampler(items, items, data.pair_alpha, seed, "parallel")
        if state is not None:
            self.step = int(state["step"])
            for name, sampler in self.samplers.items():
                sampler.restore(state[name])

    def __iter__(self) -> Iterator[StepBatches]:
        while True:
            yield self.next()

    def next(self) -> StepBatches:
        """The next step's batches."""
        step = self.step
        share = mix.shares(self.config.objectives, step, self.total_steps)
        counts = mix.allocate(share, self.config.optimizer.batch_size, step)
        examples = self._examples(counts)
        micro_batches = [
            batch
            for objective in share
            for batch in self._batches(objective, examples.get(objective, []), share)
        ]
        self.step += 1
        state = {"step": self.step} | {name: sampler.state() for name, sampler in self.samplers.items()}
        return StepBatches(step, micro_batches, share, state)

    def _examples(self, counts: dict[str, int]) -> dict[str, list[tuple[int, Text | Pair]]]:
        """objective -> this process's (index in the whole step, example)."""
        mine: dict[str, list[tuple[int, Text | Pair]]] = {}
        first = 0
        for kind, names in (("mono", mix.MONOLINGUAL), ("parallel", mix.PARALLEL)):
            sizes = {name: counts.get(name, 0) for name in names}
            if not sum(sizes.values()):
                continue
            draws = self.samplers[kind].draw(
                sum(sizes.values())
            )  # every process draws all, to keep the positions
            start = 0
            for name, size in sizes.items():
                own = range(
                    start + size * self.rank // self.world_size,
                    start + size * (self.rank + 1) // self.world_size,
                )
                mine[name] = [(first + i, self._read(kind, draws, i)) for i in own]
                start += size
            first += len(draws)
        return mine

    def _read(self, kind: str, draws: Draws, i: int) -> Text | Pair:
        stream, item = int(draws.stream[i]), int(draws.item[i])
        if kind == "mono":
            return Text(self.blocks[stream][item], self.number[self.samplers["mono"].names[stream]])
        pair = self.pairs[stream]
        sides = [Text(ids, self.number[name]) for ids, name in zip(self.corpus.parallel[pair][item], pair)]
        return Pair(*reversed(sides)) if draws.reverse[i] else Pair(*sides)

    def _batches(self, objective: str, examples: list, share: dict[str, float]) -> Iterator[Batch]:
        if objective == "camlm":
            fit = [self.objectives.serves_camlm(example) for _, example in examples]
            unfit = [one for one, ok in zip(examples, fit) if not ok]
            examples = [one for one, ok in zip(examples, fit) if ok]
            # A side of one token cannot keep an unmasked one: the pair serves TLM, in TLM's part where it
            # has one.
            for batch in self._chunks("tlm", unfit):
                yield dataclasses.replace(batch, objective="tlm" if "tlm" in share else "camlm")
        yield from self._chunks(objective, examples)

    def _chunks(self, form: str, examples: list) -> Iterator[Batch]:
        # Similar lengths together: fewer pads, and the sum over the step stays what it is.
        examples = sorted(examples, key=lambda one: _length(one[1]))
        size = self.config.run.micro_batch_size
        for start in range(0, len(examples), size):
            indices, texts = zip(*examples[start : start + size])
            rngs = [generator(self.config.run.seed, self.step, index) for index in indices]
            yield self.objectives.batch(form, texts, rngs)


@dataclass(frozen=True)
class ReaderPlan:
    """What the reader process needs to make its `StepReader`; calling it does so."""

    config: PretrainConfig
    digest: str
    vocabulary: Vocabulary
    total_steps: int
    rank: int
    world_size: int
    state: dict[str, Any] | None

    def __call__(self) -> Iterator[StepBatches]:
        corpus = Corpus(self.config.data.corpus, self.digest)
        return iter(
            StepReader(
                self.config, corpus, self.vocabulary, self.total_steps, self.rank, self.world_size, self.state
            )
        )


def total_steps(config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary) -> int:
    """How many steps the run and its schedule have.

    With `optimizer.tokens` it is that number over the mean tokens of a step, measured on a few thousand
    sequences of
    each phase of the mix: a function of corpus and config, so a resumed run finds the same.
    """
    if not config.optimizer.tokens:
        return max(1, round(config.optimizer.steps / config.run.compute_ratio))
    late = config.objectives.btmlm_start if "btmlm" in config.objectives.active else 1.0
    mean = late * _mean_tokens(config, corpus, vocabulary, at_end=False)
    if late < 1.0:
        mean += (1.0 - late) * _mean_tokens(config, corpus, vocabulary, at_end=True)
    return max(1, round(config.optimizer.tokens / config.run.compute_ratio / mean))


def _mean_tokens(config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary, at_end: bool) -> float:
    steps = max(1, _PROBE_SEQUENCES // config.optimizer.batch_size)
    far = 1 << 30  # so many steps that the probe stays within one phase
    reader = StepReader(config, corpus, vocabulary, far)
    reader.step = far - steps if at_end else 0
    return float(np.mean([sum(b.tokens for b in reader.next().micro_batches) for _ in range(steps)]))


def counts(batches: list[Batch]) -> list[float]:
    """Masked tokens of each objective, in the order of `OBJECTIVES`."""
    return [float(sum(b.masked for b in batches if b.objective == name)) for name in OBJECTIVES]


def _length(example: Text | Pair) -> int:
    return (
        len(example.ids) if isinstance(example, Text) else len(example.source.ids) + len(example.target.ids)
    )
