"""The result of an evaluation, which runs, checkpoints and reports share."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass
class Evaluation:
    """The result of an evaluation; checkpoints, selected.json and metrics.jsonl store it.

    Attributes:
        step: the number of optimizer steps before it.
        epoch: the epoch of that step.
        selected_by: the score that selects the best step, larger is better; None if the task selects none.
        scores: JSON values, whose form the task decides. They may be given as numbers of NumPy or Paddle.
    """

    step: int
    epoch: int
    selected_by: float | None
    scores: dict[str, Any]

    def __post_init__(self):
        self.selected_by = as_json_values(self.selected_by)
        self.scores = as_json_values(self.scores)


def as_json_values(values: Any) -> Any:
    """The same values, where those of NumPy and Paddle become numbers and lists, and tuples become lists."""
    return json.loads(json.dumps(values, default=lambda array: array.tolist()))
