"""What a run trains: the loop asks a `Trainable` for its data, model, loss and evaluation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from paddle import Tensor, nn

from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training.engine import Engine
from ernie_m.training.log.evaluation import Evaluation
from ernie_m.training.log.meter import Interval
from ernie_m.training.stop_requests import StopSignal


class StepData(Protocol):
    """What one process reads for one step.

    Attributes:
        micro_batches: this process's share of the step; there may be none.
        position: a JSON value with which `Trainable.batches` goes on after this step.
    """

    micro_batches: Sequence[Any]
    position: Any


class Trainable(Protocol):
    """Pre-training, or a fine-tuning task.

    It keeps no model: that of a seed lives as long as the `Trainer` that runs it.

    Attributes:
        identity: the settings and the digests that decide what is learned, as JSON values.
        divisible: whether a process that is asked to stop may abandon a step between two micro-batches. False
            if the processes exchange values within the loss: the others would wait for this one.
        total_steps: the number of optimizer steps of the seed that `begin` was given.
        evaluation_steps: the steps after which that seed is evaluated, in ascending order.
        memory_advice: what a user can change so that a step needs less memory of the card.
        record: makes the record of some steps for metrics.jsonl; None: the run keeps no records.
    """

    identity: dict[str, Any]
    divisible: bool
    total_steps: int
    evaluation_steps: Sequence[int]
    memory_advice: str
    record: Callable[[Interval], dict[str, Any]] | None = None

    def begin(self, seed: int, checkpoint: Path | None) -> Engine:
        """Choose a seed, and make its model and its optimizer.

        Args:
            checkpoint: the folder of the weights with which a run goes on; None: the initial weights.
        """

    def batches(self, position: Any) -> Callable[[], Iterator[StepData]]:
        """Return a function that yields the data of one step after the other, for `prefetch`.

        Args:
            position: the `StepData.position` of the last step; None: begin with the first one.
        """

    def send(self, model: nn.Layer, data: StepData) -> Sequence[Any]:
        """Send the micro-batches of a step to the device, in one copy. It is called within autocast."""

    def loss(self, model: nn.Layer, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of one of the micro-batches from `send`, and the values that the engine sums up.

        The loss is divided by the count of the whole step, over all processes and micro-batches.
        """

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Evaluate the model on held-out data, and log the scores.

        Returns:
            The same on all processes; None if any of them was asked to stop.
        """

    def line(self, interval: Interval) -> str:
        """The line of the log on some steps."""

    def files(
        self, engine: Engine, masters: Mapping[str, Tensor], evaluation: Evaluation | None
    ) -> ModelFiles:
        """What a checkpoint holds of the model: weights, configuration, tokenizer, model card.

        Args:
            masters: from `Engine.masters`.
            evaluation: the evaluation of the present step, if there was one.
        """
