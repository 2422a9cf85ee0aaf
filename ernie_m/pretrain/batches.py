"""Makes the micro-batches of an optimizer step in a reader process: sampling, masking and packing.

The content of a step depends only on corpus, config and step. Every process draws the examples of the whole
step, divides them by tokens in the same way, and masks only its own part. So steps are the same with any
number of processes, and a run resumes from the positions of the samplers. Does not import Paddle.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.masking import Pair, Text, Vocabulary, make_rng
from ernie_m.pretrain.objective import list_names_for_input
from ernie_m.pretrain.objective_mix import Phase, allocate_examples, get_mixing_ratios
from ernie_m.pretrain.objectives import register_code
from ernie_m.pretrain.packing import HostBatch, pack
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.sampling import Sampler
from ernie_m.utils.user_code import translate_user_errors


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of an optimizer step that one process computes.

    Attributes:
        micro_batches: micro-batches with examples of all objectives; may be empty.
        share: objective -> mixing ratio in this step.
        counts: objective -> number of its losses in the whole step, over all processes.
        position: the number of the step, from 1, and the positions of the samplers after the step, as JSON
            values.
    """

    micro_batches: list[HostBatch]
    share: dict[str, float]
    counts: dict[str, int]
    position: dict[str, Any]


class StepReader:
    """Iterator over the steps of a run, which makes the micro-batches of one process.

    Args:
        text: the training data.
        phases: the mixing ratios of the objectives in each phase.
        batch_size: number of texts and pairs per step, over all processes.
        micro_batch_tokens: maximum number of tokens of a micro-batch, at least the longest example.
        seed: seed of sampling and masking.
        rank, world_size: index of this process, and number of processes.
        position: `StepBatches.position` of the last step, to resume from; None: start at `step`.
        step: the first step, from 0.
    """

    def __init__(
        self,
        text: TrainingData,
        phases: Sequence[Phase],
        batch_size: int,
        micro_batch_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: dict[str, Any] | None = None,
        step: int = 0,
    ):
        self.text = text
        self.phases = phases
        self.batch_size = batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.step = step
        self.objectives = text.objectives
        self.samplers: dict[str, Sampler] = {}  # "mono" and "parallel", if an objective reads them
        kinds = {objective.reads for objective in self.objectives.values()}
        if Text in kinds:
            # Language -> its texts for MMLM and BTMLM.
            self.blocks = {
                language: text.split_into_examples(text.corpus.mono[language]) for language in text.mono
            }
            self.samplers["mono"] = Sampler(
                items={language: len(blocks) for language, blocks in self.blocks.items()},
                amounts=text.mono,  # the tokens of each language
                alpha=text.data.language_alpha,
                seed=seed,
                purpose="mono",
            )
        if Pair in kinds:
            self.languages_of = {"-".join(pair): pair for pair in text.pairs}  # "de-en" -> ("de", "en")
            counts = {"-".join(pair): len(pairs) for pair, pairs in text.pairs.items()}
            self.samplers["parallel"] = Sampler(
                items=counts,
                amounts=counts,
                alpha=text.data.pair_alpha,
                seed=seed,
                purpose="parallel",
            )
        if position is not None:
            self.step = int(position["step"])
            # The run that this one continues may not have read text of one kind.
            for kind in self.samplers.keys() & position.keys():
                self.samplers[kind].restore(position[kind])

    def __iter__(self) -> Iterator[StepBatches]:
        while True:
            yield self.make_step_batches()

    def make_step_batches(self) -> StepBatches:
        """Make this process's micro-batches of the next step."""
        # Draw the whole step, and divide it among the processes.
        share = get_mixing_ratios(self.phases, self.step)
        counts = allocate_examples(share, self.batch_size, self.step)
        examples = self._draw_examples(counts)
        tokens = [self.objectives[name].count_tokens(example) for name, example in examples]
        groups = self._group_examples(examples)  # the indices of the examples of each
        tokens_of_groups = [sum(tokens[number] for number in group) for group in groups]
        indices_by_process = split_by_tokens(tokens_of_groups, self.micro_batch_tokens, self.world_size)

        # Mask only the examples of this process.
        micro_batches = [
            self._make_micro_batch(examples, [groups[index] for index in indices])
            for indices in indices_by_process[self.rank]  # indices into `groups` of one micro-batch
        ]

        # The loss needs the number of masked tokens of the whole step, which is known without drawing them.
        loss_counts = dict.fromkeys(share, 0)
        for name, example in examples:
            loss_counts[name] += self.objectives[name].count_losses(example)
        self.step += 1
        position = {"step": self.step} | {kind: sampler.state() for kind, sampler in self.samplers.items()}
        return StepBatches(micro_batches, share, loss_counts, position)

    def _draw_examples(self, counts: dict[str, int]) -> list[tuple[str, Text | Pair]]:
        """Draw the examples of the whole step: objective, and text or pair.

        Every process draws all examples, so that the samplers stay in the same position. The index of an
        example in the list seeds its masks.

        Args:
            counts: objective -> number of examples in this step.
        """
        examples: list[tuple[str, Text | Pair]] = []
        for name in list_names_for_input(Text):
            examples += [(name, text) for text in self._draw("mono", counts.get(name, 0))]
        for name in list_names_for_input(Pair):
            for pair in self._draw("parallel", counts.get(name, 0)):
                if self.objectives[name].accepts_pair(pair):
                    examples.append((name, pair))
                elif "tlm" in counts:
                    # A side may have one token, but CAMLM must leave one of each side unmasked. Such a pair
                    # is used for TLM instead, or dropped if TLM is not trained.
                    examples.append(("tlm", pair))
        return examples

    def _group_examples(self, examples: Sequence[tuple[str, Text | Pair]]) -> list[list[int]]:
        """Group the indices of examples that must be in the same micro-batch.

        A group has `Objective.group` consecutive examples of an objective, which is usually one.
        """
        groups: list[list[int]] = []
        last_group: dict[str, list[int]] = {}  # objective -> its latest group
        for number, (name, _) in enumerate(examples):
            if name not in last_group or len(last_group[name]) == self.objectives[name].group:
                last_group[name] = []
                groups.append(last_group[name])
            last_group[name].append(number)
        return groups

    def _draw(self, kind: str, count: int) -> list[Any]:
        """Draw the next `count` texts (`kind` "mono") or pairs ("parallel")."""
        if not count:
            return []
        sampler = self.samplers[kind]
        draws = sampler.draw(count)
        examples: list[Any] = []
        for stream_number, item, reverse in zip(draws.stream, draws.item.tolist(), draws.reverse):
            stream = sampler.names[stream_number]  # "de", or "de-en"
            if kind == "mono":
                examples.append(Text(self.blocks[stream][item], self.text.languages.index(stream)))
            else:
                languages = self.languages_of[stream]
                examples.append(self.text.make_pair(languages, self.text.pairs[languages][item], reverse))
        return examples

    def _make_micro_batch(
        self, examples: Sequence[tuple[str, Text | Pair]], groups: Sequence[Sequence[int]]
    ) -> HostBatch:
        """Mask the examples of some groups, and pack them into a micro-batch.

        Args:
            examples: objective and example, of the whole step.
            groups: indices of the examples of each group.
        """
        masked = []
        for index, group in enumerate(groups):
            for number in group:
                name, example = examples[number]
                rng = make_rng(self.seed, self.step, number)
                masked.append(self.objectives[name].mask_and_check(example, rng)._replace(group=index))
        return pack(masked)


def split_by_tokens(token_counts: Sequence[int], budget: int, num_processes: int) -> list[list[list[int]]]:
    """Divide a step's sequences into micro-batches with similar numbers of tokens.

    Every process gets the same number of micro-batches, unless there are fewer sequences than micro-batches.
    Empty micro-batches are dropped, so a process may have none.

    Args:
        token_counts: number of tokens of each sequence.
        budget: maximum number of tokens of a micro-batch, at least the longest sequence.
        num_processes: number of processes that divide the step.

    Returns:
        The micro-batches of each process, as ascending indices of sequences.
    """
    longest_first = np.argsort(-np.asarray(token_counts), kind="stable").tolist()  # indices of the sequences
    for per_process in itertools.count(max(1, -(-sum(token_counts) // (budget * num_processes)))):
        micro_batches, most_tokens = _divide_evenly(
            token_counts, longest_first, num_batches=per_process * num_processes
        )
        if most_tokens <= budget:
            break
    # Each process gets every `num_processes`-th one, from its rank.
    return [
        [sorted(numbers) for numbers in micro_batches[rank::num_processes] if numbers]
        for rank in range(num_processes)
    ]


def _divide_evenly(
    token_counts: Sequence[int], order: Sequence[int], num_batches: int
) -> tuple[list[list[int]], int]:
    """Assign each sequence, in the given order, to the micro-batch with the fewest tokens so far.

    Args:
        token_counts: number of tokens of each sequence.
        order: indices of the sequences, in the order of assignment.
        num_batches: number of micro-batches.

    Returns:
        The indices of the sequences of each micro-batch, and the maximum number of tokens.
    """
    micro_batches: list[list[int]] = [[] for _ in range(num_batches)]
    heap = [(0, index) for index in range(num_batches)]  # tokens so far, and index into `micro_batches`
    for number in order:
        fewest_tokens, index = heap[0]
        micro_batches[index].append(number)
        heapq.heapreplace(heap, (fewest_tokens + token_counts[number], index))
    most_tokens, _ = max(heap)
    return micro_batches, most_tokens


def read_steps(
    config: PretrainConfig, vocabulary: Vocabulary, phases: Sequence[Phase], **arguments: Any
) -> Iterator[StepBatches]:
    """Open the corpus, and yield the micro-batches of each step; runs in the reader process.

    Args:
        phases: the mixing ratios of the objectives in each phase.
        arguments: other keyword arguments of `StepReader`: rank, world_size, position.
    """
    register_code(config.objectives.code)
    text = TrainingData.from_corpus(Corpus(config.data.corpus), vocabulary, config)
    with translate_user_errors(config.objectives.path):
        yield from StepReader(
            text,
            phases,
            config.optimizer.batch_size,
            config.run.micro_batch_tokens,
            config.run.seed,
            **arguments,
        )
