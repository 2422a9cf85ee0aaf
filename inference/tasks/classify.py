"""Classes of texts and pairs of texts: {"text_a", "text_b"} -> {"label", "probabilities"}."""

from typing import NamedTuple

import numpy as np

from inference.loading import Loaded
from inference.requests import text_of
from inference.rows import pair_rows, run


class Pair(NamedTuple):
    """text_b may be None."""

    text_a: str
    text_b: str | None


class Classify:
    """Args: model; max_seq_len: longer pairs lose from the longer text, and are said to be cut."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int):
        self.model, self.max_seq_len, self.batch_tokens = model, max_seq_len, batch_tokens
        self.engine = model.engine("classify")

    def parse(self, request: dict) -> Pair:
        key = "text" if "text" in request else "text_a"
        return Pair(text_of(request, key), text_of(request, "text_b", optional=True))

    def answer(self, pairs: list[Pair]) -> list[dict]:
        texts_a, texts_b = zip(*pairs)
        rows, cut = pair_rows(self.model.tokenizer, texts_a, texts_b, self.max_seq_len)
        answers: list[dict] = [{} for _ in rows]
        for numbers, _, outputs in run(self.engine, rows, self.model, self.batch_tokens):
            for number, shares in zip(numbers, softmax(outputs["logits"])):
                by_label = dict(zip(self.model.labels, (round(float(share), 6) for share in shares)))
                answers[number] = {
                    "label": self.model.labels[int(shares.argmax())],
                    "probabilities": by_label,
                }
        for number in cut:
            answers[number]["cut"] = True
        return answers


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    logits = logits.astype(np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
