"""An optimiser step's batches: text drawn by temperature, masked, padded. Runs in a process of its own; no
paddle here.

What a step holds is a function of (corpus, config, step) alone. Each process takes its share of the step's
sequences, so any number of processes read the same steps, and a run goes on from the samplers' positions.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pretrain import pseudo
from pretrain import shares as mix
from pretrain.batch import Batch
from pretrain.config import OBJECTIVES, PretrainConfig
from pretrain.data_selection import Streams
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from reader.blocks import Blocks
from reader.corpus import Corpus
from reader.sampling import Draws, Sampler
from utils.errors import UserError
from utils.runtime import length_multiple

Example = tuple[int, Text | Pair]  # its number within the whole step, and the text
Drawn = tuple[str, list[str], Draws]  # monolingual or parallel text, the objective of each draw, the draws


@dataclass(frozen=True)
class StepBatches:
    """One process's part of one optimiser step.

    Args:
        micro_batches: each of one objective; there may be none.
        share: objective -> its weight in the step's loss.
        state: the step's number, from 1, and the samplers' positions after it.
    """

    micro_batches: list[Batch]
    share: dict[str, float]
    state: dict[str, Any]

    def masked(self) -> list[float]:
        """Masked tokens of each objective, in the order of `OBJECTIVES`."""
        batches = self.micro_batches
        return [float(sum(b.masked for b in batches if b.objective == name)) for name in OBJECTIVES]


NOTHING = StepBatches([], {}, {})


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
        length_multiple=config.run.pad_to_multiple_of or length_multiple(config.run.amp),
    )


class StepReader:
    """Makes the batches of step after step for process `rank` of `world_size`.

    Args:
        corpus: opened with the run's vocabulary.
        total_steps: of the run; decides when BTMLM starts.
        state: a `StepBatches.state` to go on from.

    Raises:
        UserError: more processes than sequences in a step, a batch too small for an objective, or a state of
            another corpus or seed.
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
        batch_size, active = config.optimizer.batch_size, set(config.objectives.active)
        if batch_size < world_size:
            raise UserError(
                f"optimizer.batch_size {batch_size} is below the {world_size} processes: raise it, or start "
                "fewer processes"
            )
        mix.check_batch_size(config.objectives, batch_size, total_steps)
        streams = Streams.of(corpus, config)
        self.config, self.corpus, self.total_steps = config, corpus, total_steps
        self.rank, self.world_size, self.step = rank, world_size, 0
        self.objectives = make_objectives(config, vocabulary, streams)
        self.number = {language: i for i, language in enumerate(streams.languages)}
        self.samplers: dict[str, Sampler] = {}
        seed, data = config.run.seed, config.data
        if active & set(mix.MONOLINGUAL):
            cache = corpus.path / "blocks" if os.access(corpus.path, os.W_OK) else None
            room = data.max_seq_len - 2
            self.blocks = {
                name: Blocks(corpus.mono[name], room, not data.pack_lines, cache) for name in streams.mono
            }
            items = {name: len(blocks) for name, blocks in self.blocks.items()}
            self.samplers["mono"] = Sampler(items, streams.mono, data.language_alpha, seed, "mono")
        if active & set(mix.PARALLEL):
            self.pairs = {"-".join(pair): pair for pair in streams.pairs}
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
        share, counts = self._counts()
        micro_batches = [
            batch
            for objective, form, examples in self._by_form(self._examples(counts, self._draw(counts)))
            for batch in self._batches(objective, form, examples)
        ]
        self.step += 1
        state = {"step": self.step} | {name: sampler.state() for name, sampler in self.samplers.items()}
        return StepBatches(micro_batches, share, state)

    def _counts(self) -> tuple[dict[str, float], dict[str, int]]:
        """Objective -> its share in batch number `step`, and its sequences."""
        share = mix.shares(self.config.objectives, self.step, self.total_steps)
        return share, mix.allocate(share, self.config.optimizer.batch_size, self.step)

    def _draw(self, counts: dict[str, int]) -> list[Drawn]:
        """What the whole step reads. Every process draws all, so that the positions stay equal."""
        drawn = []
        for kind, names in (("mono", mix.MONOLINGUAL), ("parallel", mix.PARALLEL)):
            objectives = [name for name in names for _ in range(counts.get(name, 0))]
            if objectives:
                drawn.append((kind, objectives, self.samplers[kind].draw(len(objectives))))
        return drawn

    def _examples(self, counts: dict[str, int], drawn: list[Drawn]) -> dict[str, list[Example]]:
        """objective -> this process's examples.

        In turn: each process gets its part of every objective, and of every step as many as others.
        """
        examples: dict[str, list[Example]] = {name: [] for name in counts}
        numbers = itertools.count()
        for kind, objectives, draws in drawn:
            for i, name in enumerate(objectives):
                number = next(numbers)
                if number % self.world_size == self.rank:
                    examples[name].append((number, self._read(kind, draws, i)))
        return examples

    def _read(self, kind: str, draws: Draws, i: int) -> Text | Pair:
        name, item = self.samplers[kind].names[draws.stream[i]], int(draws.item[i])
        if kind == "mono":
            return Text(self.blocks[name][item], self.number[name])
        pair = self.pairs[name]
        sides = [Text(ids, self.number[side]) for ids, side in zip(self.corpus.parallel[pair][item], pair)]
        return Pair(*reversed(sides)) if draws.reverse[i] else Pair(*sides)

    def _by_form(self, examples: dict[str, list[Example]]) -> list[tuple[str, str, list[Example]]]:
        """(objective whose loss it is, form of its batches, examples)."""
        camlm = examples.get("camlm", [])
        serves = [self.objectives.serves_camlm(pair) for _, pair in camlm]
        examples["camlm"] = [example for example, fit in zip(camlm, serves) if fit]
        # A side of one token cannot keep an unmasked one: such a pair serves TLM.
        unfit = [example for example, fit in zip(camlm, serves) if not fit]
        if "tlm" in examples:
            examples["tlm"] += unfit
            unfit = []
        return [*((name, name, texts) for name, texts in examples.items()), ("camlm", "tlm", unfit)]

    def _batches(self, objective: str, form: str, examples: list[Example]) -> Iterator[Batch]:
        # Similar lengths together: fewer pads, and the sum over the step stays what it is.
        examples = sorted(examples, key=lambda example: _length(example[1]))
        size = self.config.run.micro_batch_size
        for start in range(0, len(examples), size):
            numbers, texts = zip(*examples[start : start + size])
            rngs = [generator(self.config.run.seed, self.step, number) for number in numbers]
            yield replace(self.objectives.batch(form, texts, rngs), objective=objective)


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
        reader = StepReader(
            self.config, corpus, self.vocabulary, self.total_steps, self.rank, self.world_size, self.state
        )
        return iter(reader)


def _length(example: Text | Pair) -> int:
    if isinstance(example, Text):
        return len(example.ids)
    return len(example.source.ids) + len(example.target.ids)
