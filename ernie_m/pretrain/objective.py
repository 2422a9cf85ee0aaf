"""Base class of objectives: masking of examples, the loss of their sequences, and their log lines.
Each file of `pretrain/objectives/` has one objective. A pair is `[CLS] S [SEP] [SEP] Y [SEP]`, a single text
`[CLS] S [SEP]`. Positions are absolute and start at 2. All random numbers come from the generator of the
example (`make_rng`), so the content of a batch does not depend on how a step is divided.
Sequences are made in the reader process, so only `loss` imports Paddle.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ernie_m.pretrain.masking import Example, Masking, Pair, number_chosen
from ernie_m.pretrain.objectives import OBJECTIVES, get_class
from ernie_m.pretrain.packing import HostBatch, MaskedExample, pack

_LARGEST_LOSS = 50.0  # the exponential of a diverged run's loss would overflow


class Objective(Masking[Example]):
    """Base class of all objectives. A subclass defines its input and makes the sequences (`mask`).

    The defaults are those of MMLM and TLM: `mask_rate` of the tokens of each side are predicted.

    Attributes:
        name: the name of its file.
        reads: `Text` or `Pair`.
        evaluated_on: `Text` or `Pair`, if the evaluation uses another kind than it `reads`.
        needs: description of what `accepts` requires of a pair.
        group: number of examples that stay in one micro-batch, because the loss compares them.
        loss: None: masked tokens are predicted with the head. Otherwise a static method, called on the device
            with the model, the states of the targets of its examples in this micro-batch, [m, H], and the
            group number of each, int64 [m]. It returns `count` losses of these examples, and whether each
            prediction is correct, both [n]. The objective's loss is their mean over the whole step, on all
            devices.
        further_sums: values besides the losses that are summed for the log.
    """

    name: ClassVar[str]
    reads: ClassVar[type]
    evaluated_on: ClassVar[type | None] = None
    needs: ClassVar[str] = ""
    group: ClassVar[int] = 1
    loss: ClassVar[Callable[..., Any] | None] = None
    further_sums: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

    # Methods that each objective defines

    def mask(self, example: Example, rng: np.random.Generator) -> MaskedExample:
        """Return the masked sequences of an example.

        Args:
            example: what it `reads`; a pair must be one that it `accepts`.
            rng: the generator of this example (`make_rng`).
        """
        raise NotImplementedError

    def accepts(self, pair: Pair) -> bool:
        """Return whether a pair can be trained on.

        Other pairs are used for TLM, or dropped if TLM is not active.
        """
        return True

    def tokens(self, example: Example) -> int:
        """Return the number of tokens of an example in a micro-batch, without BTMLM's first stage."""
        return sum(len(ids) + 2 for ids in self.sides(example))  # [CLS] S [SEP], or [SEP] Y [SEP]

    def count(self, example: Example) -> int:
        """Return the number of losses of an example, which does not depend on random numbers."""
        counts = [len(self.predictable(ids)) for ids in self.sides(example)]
        return sum(number_chosen(count, self.config.mask_rate) for count in counts)

    def evaluate(self, examples: Sequence[Any], model: Any, evaluator: Any) -> dict[str, Any] | None:
        """Return the scores of held-out examples of a language or language pair.

        Args:
            examples: what it is `evaluated_on`; pairs are those that it `accepts`.
            model: the `PreTrainingModel`.
            evaluator: the `Evaluator` of ernie_m/pretrain/evaluate.py.

        Returns:
            Numbers by name; None if nothing can be predicted.
        """
        return evaluator.scores(model, self, examples)

    # Log lines

    @classmethod
    def record(cls, sums: Mapping[str, float]) -> dict[str, float]:
        """Return its entries of metrics.jsonl from the sums over some steps; empty without losses."""
        count = sums[f"{cls.name}.count"]
        if not count:
            return {}
        loss = sums[f"{cls.name}.loss"] / count
        accuracy = sums[f"{cls.name}.correct"] / count
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}

    @classmethod
    def line(cls, record: Mapping[str, float]) -> str:
        """Return its part of a log line from its `record` of some steps."""
        scores = f"ppl {record['perplexity']:.1f}, acc {100 * record['accuracy']:.1f}"
        return f"{cls.name} {record['loss']:.4f} ({scores})"

    @classmethod
    def summary(cls, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the log lines of an evaluation.

        Args:
            results: results of each language or pair, from `Evaluator.run`.
        """
        note = cls.perplexity_note(results)
        mean = geometric_mean(result["perplexity"] for result in results)
        accuracy = 100 * np.mean([result["accuracy"] for result in results])
        return [f"{cls.name}: perplexity {mean:.2f} (geometric mean{note}), accuracy {accuracy:.2f} %"]

    @classmethod
    def perplexity_note(cls, results: Sequence[Mapping[str, Any]]) -> str:
        """Return an addition to the perplexity in `summary`."""
        return ""

    @classmethod
    def plateau(cls, results: Sequence[Mapping[str, Any]], advice: str) -> str | None:
        """Return a line with `advice` if a validation shows that little was learned; otherwise None.

        Args:
            results: as in `summary`.
        """
        return None

    # Helpers of subclasses

    def batch(self, examples: Sequence[Example], rngs: Sequence[np.random.Generator]) -> HostBatch:
        """Make a micro-batch of only this objective, for evaluation; `StepReader` mixes objectives.

        Args:
            examples: at least one.
            rngs: one generator per example.
        """
        masked = [self.mask(example, rng) for example, rng in zip(examples, rngs)]
        # `self.group` consecutive examples form a group.
        return pack([example._replace(group=n // self.group) for n, example in enumerate(masked)])


def names_that_read(kind: type) -> list[str]:
    """Return the names of the objectives that read `Text` or `Pair`."""
    return [name for name in OBJECTIVES if get_class(name).reads is kind]


def perplexity(loss: float) -> float:
    """Return exp(loss) of a mean loss, at most exp(50)."""
    return math.exp(min(loss, _LARGEST_LOSS))


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(np.mean([math.log(value) for value in values]))
