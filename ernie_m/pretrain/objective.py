"""Base class of pre-training objectives: masking of examples, loss, evaluation and log lines.

Each file of `pretrain/objectives/` has one objective. The input of a pair is `[CLS] S [SEP] [SEP] Y [SEP]`,
that of a text `[CLS] S [SEP]`. Positions are absolute and start at 2. All random numbers come from the
generator of the example (`make_rng`), so masks do not depend on how a step is divided. Sequences are made in
the reader process, so only `loss` may import Paddle.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ernie_m.pretrain.masking import Example, Masking, Pair, count_selected
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.pretrain.packing import HostBatch, MaskedExample, pack
from ernie_m.utils.errors import UserError

_LARGEST_LOSS = 50.0  # the exponential of a diverged run's loss would overflow


class Objective(Masking[Example]):
    """Base class of objectives. A subclass defines `reads` and `mask`.

    By default, `mask_rate` of the tokens of each side are predicted, as in MMLM and TLM.

    Attributes:
        name: name of the objective, which is the name of its file.
        reads: kind of training example, `Text` or `Pair`.
        evaluated_on: kind of evaluation example, if not `reads`.
        needs: what `accepts_pair` requires of a pair, for messages.
        group: number of examples that must be in the same micro-batch, because the loss compares them.
        loss: custom loss; None: masked-LM loss. A static method, called with the model, the last hidden
            states of the objective's targets in a micro-batch, [m, H], and the group of each target, int64
            [m]. It returns the losses, and whether each prediction is correct, [n] each; n is the sum of
            `count_losses` over the examples. The objective's loss is the mean over the whole step, on all
            devices.
        further_sums: names of additional values to sum for the log.
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
        """Make the masked sequences of an example.

        Args:
            example: an example of the kind `reads`; a pair that `accepts_pair` has accepted.
            rng: the generator of this example, from `make_rng`.
        """
        raise NotImplementedError

    def accepts_pair(self, pair: Pair) -> bool:
        """Return whether the objective can be trained on a pair.

        Rejected pairs are used for TLM, or skipped if TLM is not active.
        """
        return True

    def count_tokens(self, example: Example) -> int:
        """Return the number of tokens of an example's sequences, without BTMLM's first stage."""
        # [CLS] S [SEP], or [SEP] Y [SEP]
        return sum(len(ids) + 2 for ids in self.get_truncated_sides(example))

    def count_losses(self, example: Example) -> int:
        """Return the number of losses of an example; must not depend on random numbers."""
        counts = [len(self.maskable(ids)) for ids in self.get_truncated_sides(example)]
        return sum(count_selected(count, self.config.mask_rate) for count in counts)

    def evaluate(self, examples: Sequence[Any], model: Any, evaluator: Any) -> dict[str, Any] | None:
        """Evaluate a model on held-out examples of a language or language pair.

        Args:
            examples: examples of the kind `evaluated_on`; pairs that `accepts_pair` has accepted.
            model: the `PreTrainingModel`.
            evaluator: the `Evaluator` of ernie_m/pretrain/evaluate.py.

        Returns:
            Scores by name; None: nothing can be predicted.
        """
        return evaluator.compute_scores(model, self, examples)

    # Log lines

    @classmethod
    def compute_metrics(cls, sums: Mapping[str, float]) -> dict[str, float]:
        """Compute the objective's entries of metrics.jsonl from sums over steps; {} without losses.

        Only a masked-LM loss has a perplexity.
        """
        count = sums[f"{cls.name}.count"]
        if not count:
            return {}
        loss = sums[f"{cls.name}.loss"] / count
        perplexity = {} if cls.loss else {"perplexity": compute_perplexity(loss)}
        return {"loss": loss, **perplexity, "accuracy": sums[f"{cls.name}.correct"] / count}

    @classmethod
    def format_metrics(cls, metrics: Mapping[str, float]) -> str:
        """Format the objective's part of a log line.

        Args:
            metrics: result of `compute_metrics`.
        """
        perplexity = "" if cls.loss else f"ppl {metrics['perplexity']:.1f}, "
        return f"{cls.name} {metrics['loss']:.4f} ({perplexity}acc {100 * metrics['accuracy']:.1f})"

    @classmethod
    def format_evaluation(cls, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """Format the log lines of an evaluation of the objective.

        Args:
            results: scores of each language or language pair, from `Evaluator.run`.
        """
        accuracy = 100 * np.mean([result["accuracy"] for result in results])
        if cls.loss:
            loss = np.mean([result["loss"] for result in results])
            return [f"{cls.name}: loss {loss:.4f}, accuracy {accuracy:.2f} %"]
        note = cls.format_perplexity_note(results)
        mean = geometric_mean(result["perplexity"] for result in results)
        return [f"{cls.name}: perplexity {mean:.2f} (geometric mean{note}), accuracy {accuracy:.2f} %"]

    @classmethod
    def format_perplexity_note(cls, results: Sequence[Mapping[str, Any]]) -> str:
        """Format a note that follows the perplexity in `format_evaluation`, such as a baseline; "": none."""
        return ""

    @classmethod
    def find_plateau(cls, results: Sequence[Mapping[str, Any]], advice: str) -> str | None:
        """Return a warning if an evaluation shows that little was learned; otherwise None.

        Args:
            results: as in `format_evaluation`.
            advice: what the user can do, for the warning.
        """
        return None

    # Helpers of subclasses

    def mask_and_check(self, example: Example, rng: np.random.Generator) -> MaskedExample:
        """Make the masked sequences of an example, and check their number of losses.

        Args:
            example, rng: as in `mask`.

        Raises:
            UserError: a target is repeated, or their number is not `count_losses`, which divides the sum of
                the losses.
        """
        masked = self.mask(example, rng)
        targets = [
            (number, column)
            for number, sequence in enumerate(masked.sequences)
            for column in sequence.targets.tolist()
        ]
        if self.loss is None and not len(targets) == len(set(targets)) == self.count_losses(example):
            raise UserError(
                f"{self.name}: `mask` selects {len(targets)} positions of an example ({len(set(targets))} "
                f"different), but `count_losses` returns {self.count_losses(example)}. Return each position "
                "once, and define `count_losses` to match"
            )
        return masked

    def make_batch(self, examples: Sequence[Example], rngs: Sequence[np.random.Generator]) -> HostBatch:
        """Mask and pack examples into a micro-batch of this objective only.

        Args:
            examples: at least one.
            rngs: one generator per example.
        """
        masked = [self.mask_and_check(example, rng) for example, rng in zip(examples, rngs)]
        # `self.group` consecutive examples form a group.
        return pack([example._replace(group=n // self.group) for n, example in enumerate(masked)])


def list_names_for_input(kind: type) -> list[str]:
    """Return the names of the objectives whose training examples are of a kind, `Text` or `Pair`."""
    return [name for name in OBJECTIVES if get_objective_class(name).reads is kind]


def compute_perplexity(loss: float) -> float:
    """Compute the perplexity, exp of a mean loss, at most exp(50)."""
    return math.exp(min(loss, _LARGEST_LOSS))


def geometric_mean(values: Iterable[float]) -> float:
    """Compute the geometric mean of positive numbers."""
    return math.exp(np.mean([math.log(value) for value in values]))
