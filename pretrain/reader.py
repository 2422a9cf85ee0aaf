"""An optimizer step's micro-batches: text drawn by temperature, masked, packed. It runs in its own process.

What a step holds is a function of (corpus, config, step) alone. Every process reads the whole step, divides
it in the same way by tokens, then masks its own part. So any number of processes read the same steps, and a
run goes on from the samplers' positions. No paddle here.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.batch import Batch, pack
from pretrain.config import OBJECTIVES, DataConfig, PretrainConfig
from pretrain.masking import Vocabulary, generator
from pretrain.objectives import Objectives, Pair, SecondLanguage, Text
from pretrain.shares import MONOLINGUAL, PARALLEL, allocate, check_batch_size, shares
from reader.corpus import Blocks, Corpus, read_manifest
from reader.sampling import Draws, Sampler
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.logging import logger

_PROBE_SEQUENCES = 8192  # sequences on which the mean number of tokens per step is measured


def open_corpus(config: DataConfig) -> tuple[Corpus, Tokenizer]:
    """The corpus and the tokenizer in its folder.

    UserError: the corpus is unfinished or damaged, or its shards were made with another vocabulary.
    """
    read_manifest(Path(config.corpus))  # first: it has the clearest message for an unfinished corpus
    tokenizer = Tokenizer.from_folder(config.corpus)
    return Corpus(config.corpus, tokenizer.digest, verify=config.verify), tokenizer


@dataclass(frozen=True)
class TrainingText:
    """The part of a corpus that a run trains on.

    Args:
        corpus: opened with the run's vocabulary.
        vocabulary: of the corpus.
        languages: in alphabetical order; the index in this list is the number of the language.
        mono: language -> number of tokens of monolingual text.
        pairs: (a, b) -> number of sentence pairs.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    languages: list[str]
    mono: dict[str, int]
    pairs: dict[tuple[str, str], int]

    @cached_property
    def number(self) -> dict[str, int]:
        """Language -> its number."""
        return {language: i for i, language in enumerate(self.languages)}

    @classmethod
    def of(cls, corpus: Corpus, vocabulary: Vocabulary, config: PretrainConfig) -> "TrainingText":
        """Select `data.languages`, or every language.

        UserError: the corpus lacks a language, or an objective has no text.
        """
        wanted = sorted(set(config.data.languages or corpus.languages))
        if unknown := [language for language in wanted if language not in corpus.languages]:
            raise UserError(
                f"data.languages: {', '.join(unknown)} not in {corpus.path}, which has "
                f"{', '.join(corpus.languages)}"
            )
        mono = {language: text.num_tokens for language, text in corpus.mono.items() if language in wanted}
        pairs = {pair: len(stream) for pair, stream in corpus.parallel.items() if set(pair) <= set(wanted)}
        for kind, names, found in (("monolingual", MONOLINGUAL, mono), ("parallel", PARALLEL, pairs)):
            asking = sorted(set(config.objectives.active) & set(names))
            if asking and not found:
                raise UserError(
                    f"objectives.active has {', '.join(asking)}, but {corpus.path} holds no {kind} text of "
                    f"{', '.join(wanted)}"
                )
        return cls(corpus, vocabulary, wanted, mono, pairs)


def make_objectives(config: PretrainConfig, text: TrainingText) -> Objectives:
    """The objectives of a run, for training and for evaluation."""
    second = None
    if "btmlm" in config.objectives.active:
        pairs = {(text.number[a], text.number[b]): count for (a, b), count in text.pairs.items()}
        second = SecondLanguage(text.languages, pairs, config.objectives.second_language)
    of_embedding = config.model.language_embedding
    return Objectives(config.objectives, text.vocabulary, config.data.max_seq_len, of_embedding, second)


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


class StepReader:
    """Makes the batches of step after step for process `rank` of `world_size`.

    Args:
        text: what the run trains on.
        total_steps: of the run; decides when BTMLM starts.
        state: a `StepBatches.state` to go on from.
        step: the first step, if there is no state.

    Raises:
        UserError: a state of another corpus or seed.
    """

    def __init__(
        self,
        config: PretrainConfig,
        text: TrainingText,
        total_steps: int,
        rank: int = 0,
        world_size: int = 1,
        state: dict[str, Any] | None = None,
        step: int = 0,
    ):
        self.config, self.text, self.total_steps = config, text, total_steps
        self.rank, self.world_size, self.step = rank, world_size, step
        self.objectives = make_objectives(config, text)
        self.samplers: dict[str, Sampler] = {}
        seed, data, active = config.run.seed, config.data, set(config.objectives.active)
        if active & set(MONOLINGUAL):
            room = data.max_seq_len - 2
            self.blocks = {
                name: Blocks(text.corpus.mono[name], room, not data.pack_lines) for name in text.mono
            }
            items = {name: len(blocks) for name, blocks in self.blocks.items()}
            self.samplers["mono"] = Sampler(items, text.mono, data.language_alpha, seed, "mono")
        if active & set(PARALLEL):
            self.pairs = {"-".join(pair): pair for pair in text.pairs}
            items = {"-".join(pair): count for pair, count in text.pairs.items()}
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
        share = shares(self.config.objectives, self.step, self.total_steps)
        examples = self._examples(allocate(share, self.config.optimizer.batch_size, self.step))
        tokens = [self.objectives.tokens(*example) for example in examples]
        parts = cut_by_tokens(tokens, self.config.run.micro_batch_tokens, self.world_size)
        micro_batches = [self._batch(examples, part) for part in parts[self.rank]]
        self.step += 1
        state = {"step": self.step} | {name: sampler.state() for name, sampler in self.samplers.items()}
        masked = dict.fromkeys(OBJECTIVES, 0)
        for objective, text in examples:
            masked[objective] += self.objectives.masked(objective, text)
        return StepBatches(micro_batches, share, list(masked.values()), state)

    def _examples(self, counts: dict[str, int]) -> list[tuple[str, Text | Pair]]:
        """The texts and pairs of the whole step, each with its objective.

        Every process draws all, so that the positions stay equal. An example's place in the list decides what
        is drawn for it.
        """
        examples = []
        for kind, names in (("mono", MONOLINGUAL), ("parallel", PARALLEL)):
            objectives = [name for name in names for _ in range(counts.get(name, 0))]
            draws = self.samplers[kind].draw(len(objectives)) if objectives else None
            for i, objective in enumerate(objectives):
                text = self._read(kind, draws, i)
                if objective == "camlm" and not self.objectives.serves_camlm(text):
                    # A side of one token cannot keep an unmasked one. The pair serves TLM, or is left out.
                    if "tlm" not in self.config.objectives.active:
                        continue
                    objective = "tlm"
                examples.append((objective, text))
        return examples

    def _read(self, kind: str, draws: Draws, i: int) -> Text | Pair:
        name, item = self.samplers[kind].names[draws.stream[i]], int(draws.item[i])
        number = self.text.number
        if kind == "mono":
            return Text(self.blocks[name][item], number[name])
        pair = self.pairs[name]
        sides = [Text(ids, number[side]) for ids, side in zip(self.text.corpus.parallel[pair][item], pair)]
        return Pair(*reversed(sides)) if draws.reverse[i] else Pair(*sides)

    def _batch(self, examples: Sequence[tuple[str, Text | Pair]], numbers: Sequence[int]) -> Batch:
        rngs = [generator(self.config.run.seed, self.step, number) for number in numbers]
        return pack([self.objectives.mask(*examples[number], rng) for number, rng in zip(numbers, rngs)])


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


def read_steps(
    config: PretrainConfig, digest: str, vocabulary: Vocabulary, *arguments: Any
) -> Iterator[StepBatches]:
    """The batches of a run, in the reader process. `arguments` are those of `StepReader` after `text`."""
    corpus = Corpus(config.data.corpus, digest)
    return iter(StepReader(config, TrainingText.of(corpus, vocabulary, config), *arguments))


def total_steps(config: PretrainConfig, text: TrainingText) -> int:
    """The number of steps of the run and its schedule.

    With `optimizer.tokens`, it is that number divided by the mean number of tokens per step, measured on a
    few thousand sequences before and after BTMLM starts. The result depends only on corpus and configuration,
    so a resumed run gets the same number. UserError: `init.lm_head_warmup_steps` leaves no step for the
    encoder, or the batch is too small for an objective.
    """
    optimizer, head_steps = config.optimizer, config.init.lm_head_warmup_steps
    wanted = (optimizer.tokens or optimizer.steps) / config.run.compute_ratio
    if optimizer.tokens:
        wanted /= _mean_tokens(config, text)
    steps = max(1, round(wanted))
    if head_steps >= steps:
        raise UserError(
            f"init.lm_head_warmup_steps {head_steps} leaves nothing of the {steps} steps in all: the encoder "
            "would never be trained"
        )
    check_batch_size(config.objectives, optimizer.batch_size, steps)
    if optimizer.warmup_steps >= steps - head_steps:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends, after %d steps, before the rate is at its peak",
            optimizer.warmup_steps, steps,
        )  # fmt: skip
    return steps


def _mean_tokens(config: PretrainConfig, text: TrainingText) -> float:
    """The mean number of trained tokens per step of the run."""
    late = config.objectives.btmlm_start if "btmlm" in config.objectives.active else 1.0
    probe = max(1, _PROBE_SEQUENCES // config.optimizer.batch_size)
    mean = 0.0
    for share, step in ((late, 0), (1.0 - late, 1 << 30)):  # share of the run, a step in this part
        if share:
            reader = StepReader(config, text, total_steps=(1 << 30) + probe, step=step)
            tokens = [batch.tokens for _ in range(probe) for batch in reader.next().micro_batches]
            mean += share * sum(tokens) / probe
    return mean
