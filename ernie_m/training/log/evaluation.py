"""The result of an evaluation, which runs, checkpoints and reports share."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Evaluation:
    """The result of an evaluation; checkpoints, selected.json and metrics.jsonl store it.

    Attributes:
        step: the number of optimizer steps before it.
        epoch: the epoch of that step.
        selected_by: the score that selects the best step, larger is better; None if the task selects none.
        scores: JSON values, whose form the task decides.
        confusion: the confusion matrices of a classification: pattern -> language -> label of a row ->
            predicted label -> number of rows. Numbers of 0 are left out.
    """

    step: int
    epoch: int
    selected_by: float | None
    scores: dict[str, Any]
    confusion: dict[str, Any] = field(default_factory=dict)
