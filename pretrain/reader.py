"""An optimizer step's micro-batches: text drawn by temperature, masked, packed. It runs in its own process.

What a step holds is a function of (corpus, config, step) alone. Every process reads the whole step, divides
it in the same way by tokens, then masks its own part. So any number of processes read the same steps, and a
run goes on from the samplers' positions. No paddle here.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pretrain import pseudo
from pretrain import shares as mix
from pretrain.batch import Batch, pack
from pretrain.config import OBJECTIVES, PretrainConfig
from pretrain.data_selection import Streams
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, Text
from reader.blocks import Blocks
from reader.corpus import Corpus
from reader.sampling import Draws, Sampler
from utils.errors import UserError

Drawn = tuple[str, list[str], Draws]  # monolingual or parallel text, the objective of each draw, the draws


class DrawnExample(NamedTuple):
    """A text or pair of a step, and the objective that it serves."""

    objective: str
    text: Text | Pair


@dataclass(frozen=True)
class StepBatches:
    """One process's part of one optimizer step.

    Attributes:
        micro_batches: of all the step's objectives; there may be none.
        share: objective -> its weight in the step's loss.
        masked: tokens to predict of each objective, in the order of `OBJECTIVES`, in the whole step, over all
            processes.
        state: the step's number, from 1, and the samplers' positions after it.
    """

    micro_batches: list[Batch]
    share: dict[str, float]
    masked: list[int]
    state: dict[str, Any]


NOTHING = StepBatches([], {}, [0] * len(OBJECTIVES), {})


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

    def go_to(self, step: int) -> None:
        """Let `next` make the batches of this step, with the draws that come next."""
        self.step = step

    def __iter__(self) -> Iterator[StepBatches]:
        while True:
            yield self.next()

    def next(self) -> StepBatches:
        """The next step's batches."""
        share, counts = self._counts()
        examples = self._examples(self._draw(counts))
        tokens = [self.objectives.tokens(one.objective, one.text) for one in examples]
        parts = cut_by_tokens(tokens, self.config.run.micro_batch_tokens, self.world_size)
        micro_batches = [self._batch(examples, part) for part in parts[self.rank]]
        self.step += 1
        state = {"step": self.step} | {name: sampler.state() for name, sampler in self.samplers.items()}
        masked = dict.fromkeys(OBJECTIVES, 0)
        for one in examples:
            masked[one.objective] += self.objectives.masked(one.objective, one.text)
        return StepBatches(micro_batches, share, list(masked.values()), state)

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

    def _examples(self, drawn: list[Drawn]) -> list[DrawnExample]:
        """The whole step. An example's place in it decides what is drawn for it."""
        examples = []
        for kind, objectives, draws in drawn:
            for i, objective in enumerate(objectives):
                text = self._read(kind, draws, i)
                if objective == "camlm" and not self.objectives.serves_camlm(text):
                    # A side of one token cannot keep an unmasked one. The pair serves TLM, or is left out.
                    if "tlm" not in self.config.objectives.active:
                        continue
                    objective = "tlm"
                examples.append(DrawnExample(objective, text))
        return examples

    def _read(self, kind: str, draws: Draws, i: int) -> Text | Pair:
        name, item = self.samplers[kind].names[draws.stream[i]], int(draws.item[i])
        if kind == "mono":
            return Text(self.blocks[name][item], self.number[name])
        pair = self.pairs[name]
        sides = [Text(ids, self.number[side]) for ids, side in zip(self.corpus.parallel[pair][item], pair)]
        return Pair(*reversed(sides)) if draws.reverse[i] else Pair(*sides)

    def _batch(self, examples: Sequence[DrawnExample], numbers: Sequence[int]) -> Batch:
        made = []
        for number in numbers:
            rng = generator(self.config.run.seed, self.step, number)
            made.append(self.objectives.mask(*examples[number], rng))
        return pack(made)


def cut_by_tokens(tokens: Sequence[int], budget: int, processes: int) -> list[list[list[int]]]:
    """Divide a step's sequences into micro-batches with about equal sums of tokens.

    Every process gets the same number of micro-batches, unless there are fewer sequences than micro-batches.

    Args:
        tokens: of each sequence.
        budget: most tokens of a micro-batch; no sequence has more.
        processes: among which the step is divided.

    Returns:
        for each process its micro-batches, each the numbers of its sequences in ascending order.
    """
    order = np.argsort(-np.asarray(tokens), kind="stable").tolist()
    rounds = max(1, -(-sum(tokens) // (budget * processes)))
    while True:
        # The longest first, each to the micro-batch that has the fewest tokens so far.
        sums = [(0, part) for part in range(rounds * processes)]
        parts: list[list[int]] = [[] for _ in sums]
        for number in order:
            total, part = sums[0]
            parts[part].append(number)
            heapq.heapreplace(sums, (total + tokens[number], part))
        if max(sums)[0] <= budget:
            break
        rounds += 1
    return [[sorted(part) for part in parts[rank::processes] if part] for rank in range(processes)]


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
