"""What an objective is: how it masks an example, the loss of its sequences, and their lines in the log.

Each file of `pretrain/objectives/` has one. A pair is `[CLS] S [SEP] [SEP] Y [SEP]`, a single text
`[CLS] S [SEP]`. Positions are absolute, [CLS] has 2. Everything drawn comes from the generator of its
example (`make_rng`), so a batch's content does not depend on how a step is divided.

The process that reads makes the sequences, so Paddle is imported in `loss` alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ernie_m.pretrain.masking import Example, Masking, Pair, number_chosen
from ernie_m.pretrain.objectives import OBJECTIVES, get_class
from ernie_m.pretrain.packing import HostBatch, MaskedExample, pack

_LARGEST_LOSS = 50.0  # a perplexity is cut here: the exponential of a diverged run's loss would overflow


class Objective(Masking[Example]):
    """The base of all objectives. A subclass says what it reads and makes the sequences (`mask`).

    The rest is as MMLM and TLM have it: `mask_rate` of the tokens of each side are predicted.

    Attributes:
        name: the name of its file.
        reads: `Text` or `Pair`.
        evaluated_on: `Text` or `Pair`, if held-out evaluation gives it another kind than it `reads`.
        needs: what `serves` asks of a pair, in words.
        group: the number of examples that are kept in one micro-batch, because the loss compares them.
        loss: None: the masked words are predicted with the head. Otherwise a static method, called on the
            device with the model, the states of the targets of its examples in this micro-batch, [m, H], and
            the number of the group of each, int64 [m]. It returns losses, as many as `count` counts for these
            examples, and for each whether it was solved, both [n]. The objective's loss is their mean over
            the whole step, on all devices.
        further_sums: what the log adds up besides the losses.
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

    # What an objective defines

    def mask(self, example: Example, rng: np.random.Generator) -> MaskedExample:
        """The sequences of an example.

        Args:
            example: what it `reads`; if a pair, one that it `serves`.
            rng: the generator of this example (`make_rng`).
        """
        raise NotImplementedError

    def serves(self, pair: Pair) -> bool:
        """Return whether a pair can be trained on.

        Another one serves TLM, or is left out if TLM is not active.
        """
        return True

    def tokens(self, example: Example) -> int:
        """Return the tokens that an example takes in a micro-batch, without BTMLM's first stage."""
        return sum(len(ids) + 2 for ids in self.sides(example))  # [CLS] S [SEP], or [SEP] Y [SEP]

    def count(self, example: Example) -> int:
        """Return the number of losses an example has. It depends on the example alone, not on a draw."""
        counts = [len(self.predictable(ids)) for ids in self.sides(example)]
        return sum(number_chosen(count, self.config.mask_rate) for count in counts)

    def evaluate(self, examples: Sequence[Any], model: Any, held_out: Any) -> dict[str, Any] | None:
        """Return the scores of held-out examples of a language, or of a pair of languages.

        Args:
            examples: what it is `evaluated_on`; if pairs, those that it `serves`.
            model: the `PreTrainingModel`.
            held_out: the `Evaluator` of ernie_m/pretrain/evaluate.py.

        Returns:
            Numbers by name; None: nothing can be predicted.
        """
        return held_out.scores(model, self, examples)

    # Its lines in the log

    @classmethod
    def record(cls, sums: Mapping[str, float]) -> dict[str, float]:
        """What metrics.jsonl says of some steps, whose sums are given; nothing if there were no losses."""
        count = sums[f"{cls.name}.count"]
        if not count:
            return {}
        loss = sums[f"{cls.name}.loss"] / count
        accuracy = sums[f"{cls.name}.correct"] / count
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}

    @classmethod
    def line(cls, record: Mapping[str, float]) -> str:
        """What a line of the log says of some steps, from their `record`."""
        rates = f"ppl {record['perplexity']:.1f}, acc {100 * record['accuracy']:.1f}"
        return f"{cls.name} {record['loss']:.4f} ({rates})"

    @classmethod
    def summary(cls, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the lines on a held-out evaluation.

        Args:
            results: the results of each language or pair, as `Evaluator.run` returns them.
        """
        beside = cls.beside_perplexity(results)
        mean = geometric_mean(result["perplexity"] for result in results)
        accuracy = 100 * np.mean([result["accuracy"] for result in results])
        return [f"{cls.name}: perplexity {mean:.2f} (geometric mean{beside}), accuracy {accuracy:.2f} %"]

    @classmethod
    def beside_perplexity(cls, results: Sequence[Mapping[str, Any]]) -> str:
        """What `summary` says in addition to the perplexity."""
        return ""

    @classmethod
    def plateau(cls, results: Sequence[Mapping[str, Any]], advice: str) -> str | None:
        """Return a line with `advice` if a validation shows that little was learned; otherwise None.

        Args:
            results: those of `summary`.
        """
        return None

    # What subclasses use

    def batch(self, examples: Sequence[Example], rngs: Sequence[np.random.Generator]) -> HostBatch:
        """Return a micro-batch of this objective alone, for evaluations; `StepReader` mixes objectives.

        Args:
            examples: at least one.
            rngs: one generator for each example.
        """
        masked = [self.mask(example, rng) for example, rng in zip(examples, rngs)]
        # `self.group` examples after each other form a group.
        return pack([example._replace(group=n // self.group) for n, example in enumerate(masked)])


def names_that_read(kind: type) -> list[str]:
    """Return the objectives that read `Text`, or `Pair`."""
    return [name for name in OBJECTIVES if get_class(name).reads is kind]


def perplexity(loss: float) -> float:
    """exp(loss) of a mean loss, at most exp(50)."""
    return math.exp(min(loss, _LARGEST_LOSS))


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(np.mean([math.log(value) for value in values]))
