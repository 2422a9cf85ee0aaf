"""Two runs of a model over the same inputs: how far apart, how often they decide alike. No paddle here."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from inference.engines import Engine
from inference.requests import is_per_token
from model.task_names import ENCODING, QUESTION_ANSWERING
from reader.features import padded_batches

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Checked:
    """What an export is checked on.

    Attributes:
        name: for people: "64 made-up sentences".
        rows: ids with special tokens, of mixed lengths.
        labels: of a classification file, else None.
    """

    name: str
    rows: list[list[int]]
    labels: list[int] | None = None


@dataclass(frozen=True)
class Agreement:
    """What int8 changes.

    Attributes:
        decisions: share of equal decisions: classes of inputs, tags of tokens, starts and ends of answers;
            None for encoding.
        cosine: of encoding: the mean cosine of an input's mean vectors; else None.
        accuracy: (before, after) in per cent, where there are labels.
    """

    decisions: float | None
    cosine: float | None
    accuracy: tuple[float, float] | None

    def to_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}

    def line(self) -> str:
        parts = []
        if self.decisions is not None:
            parts.append(f"{100 * self.decisions:.2f} % of the decisions are the same")
        if self.cosine is not None:
            parts.append(f"mean cosine of the sentence vectors {self.cosine:.5f}")
        if self.accuracy is not None:
            before, after = self.accuracy
            parts.append(f"accuracy {before:.2f} -> {after:.2f} ({after - before:+.2f})")
        return ", ".join(parts)


def made_up_rows(
    count: int, longest: int, ordinary_ids: np.ndarray, cls_id: int, sep_id: int, seed: int = 0
) -> list[list[int]]:
    """Random ids of mixed lengths, most of them short, and one of the greatest length."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.0, 0.8, count), 1, longest - 2).astype(int)
    lengths[-1] = longest - 2
    return [[cls_id, *random.choice(ordinary_ids, length).tolist(), sep_id] for length in lengths]


def run_all(engine: Engine, rows: Sequence[Sequence[int]], pad_id: int) -> list[dict[str, np.ndarray]]:
    """Of each row its outputs, those at pads left out."""
    answer: list[dict[str, np.ndarray]] = [{} for _ in rows]
    for numbers, ids in padded_batches(rows, pad_id, BATCH_TOKENS):
        for name, values in engine(ids).items():
            per_token = is_per_token(name, values)
            for number, value in zip(numbers, values):
                answer[number][name] = value[: len(rows[number])] if per_token else value
    return answer


def largest_difference(a: Sequence[dict[str, np.ndarray]], b: Sequence[dict[str, np.ndarray]]) -> float:
    """Over all rows and outputs; nan where one of them is not a number."""
    return float(np.max([np.abs(one[name] - other[name]).max() for one, other in zip(a, b) for name in one]))


def agreement(task: str, checked: Checked, before: Sequence[dict], after: Sequence[dict]) -> Agreement:
    """What `after` decides otherwise than `before`."""
    if task == ENCODING:
        means = [[row["sequence"].mean(axis=0) for row in rows] for rows in (before, after)]
        a, b = (np.stack(side) / np.linalg.norm(side, axis=1, keepdims=True) for side in means)
        return Agreement(None, float((a * b).sum(axis=1).mean()), None)
    decided = [[_decisions(task, row) for row in rows] for rows in (before, after)]
    same = np.concatenate([a == b for a, b in zip(*decided)])
    accuracy = None
    if checked.labels is not None:
        right = [100 * float(np.mean(np.concatenate(side) == checked.labels)) for side in decided]
        accuracy = right[0], right[1]
    return Agreement(float(same.mean()), None, accuracy)


def _decisions(task: str, row: dict[str, np.ndarray]) -> np.ndarray:
    if task == QUESTION_ANSWERING:
        return np.array([row["start_logits"].argmax(), row["end_logits"].argmax()])
    return np.atleast_1d(row["logits"].argmax(axis=-1))
