"""From start and end logits to ranked answers, and the files that hold them."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.question_answering import AnswerWindows
from utils.files import atomic_file


class Spans(NamedTuple):
    """The best spans of a window, best first; see `best_spans`.

    Attributes:
        first, last: int32 [K], numbers of tokens of the context.
        start_logits, end_logits: float32 [K].
    """

    first: np.ndarray
    last: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


class Answer(NamedTuple):
    """One candidate for a question.

    Attributes:
        text: characters of the context.
        start: position of the first of them.
        probability: softmax over the candidates of the question, of the sum of the two logits.
        start_logit, end_logit: logits of the first and the last token.
    """

    text: str
    start: int
    probability: float
    start_logit: float
    end_logit: float


# (number of the question, first and last token of its context) -> the text and its position
TextOf = Callable[[int, int, int], tuple[str, int]]


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, own: Sequence[int], end: int, max_length: int,
    n_best: int, shift: int = 0,
) -> Spans:  # fmt: skip
    """Return the spans with the highest sums of logits, out of all spans that are allowed.

    Args:
        start_logits, end_logits: float32 [T], for the positions of an input.
        own: (from, to), the positions at which a span may begin.
        end: the position behind the last one at which a span may end.
        max_length: longest span in tokens.
        n_best: largest number of spans.
        shift: number of a token = its position + shift.
    """
    first, behind = int(own[0]), int(own[1])
    filled = np.concatenate([end_logits[first:end], np.full(max_length - 1, -np.inf, end_logits.dtype)])
    # [starts, lengths]: the end logit of the span with this start and length
    by_length = np.lib.stride_tricks.sliding_window_view(filled, max_length)[: behind - first]
    sums = (start_logits[first:behind, None] + by_length).ravel()
    best = np.argpartition(-sums, n_best - 1)[:n_best] if n_best < len(sums) else np.arange(len(sums))
    best = best[np.isfinite(sums[best])]
    best = best[np.lexsort((best, -sums[best]))]
    starts, lengths = best // max_length, best % max_length
    starts += first
    ends = starts + lengths
    tokens = ((starts + shift).astype(np.int32), (ends + shift).astype(np.int32))
    return Spans(*tokens, start_logits[starts].astype(np.float32), end_logits[ends].astype(np.float32))


def only_the_best(logits: np.ndarray, n_best: int) -> np.ndarray:
    """Set all but the `n_best` highest logits, float32 [T], to -inf."""
    if n_best >= len(logits):
        return logits
    kept = np.full_like(logits, -np.inf)
    best = np.argpartition(-logits, n_best - 1)[:n_best]
    kept[best] = logits[best]
    return kept


def text_in_context(data: AnswerWindows, question: int, first: int, last: int) -> tuple[str, int]:
    """Return the characters of the context from token `first` to `last`, and their position."""
    context = data.file.questions[question].context
    spans, text = data.spans[context], data.file.contexts[context]
    start, end = int(spans[first, 0]), int(spans[last, 1])
    found = text[start:end]
    return found.strip(), start + len(found) - len(found.lstrip())


def rank(
    data: AnswerWindows, predictions: Sequence[Spans], n_best: int, text_of: TextOf
) -> list[list[Answer]]:
    """Return the answers to each question of a file, the best one first. No text occurs twice.

    Args:
        predictions: the spans of each window.
        n_best: largest number of answers to a question.
        text_of: returns the text of a span.
    """
    ranked = []
    for number in range(len(data.file.questions)):
        found = [predictions[i] for i in data.of_question(number)]
        if not found:
            ranked.append([])
            continue
        first, last, start_logits, end_logits = map(np.concatenate, zip(*found))
        chosen: dict[str, tuple[int, float, float]] = {}
        for i in np.argsort(-(start_logits + end_logits), kind="stable").tolist():
            text, start = text_of(number, int(first[i]), int(last[i]))
            if text and text not in chosen:
                chosen[text] = start, float(start_logits[i]), float(end_logits[i])
                if len(chosen) == n_best:
                    break
        sums = np.asarray([a + b for _, a, b in chosen.values()])
        shares = np.exp(sums - sums.max(initial=-np.inf))
        shares /= shares.sum()
        ranked.append(
            [
                Answer(text, start, float(share), a, b)
                for (text, (start, a, b)), share in zip(chosen.items(), shares)
            ]
        )
    return ranked


def best_texts(ranked: Sequence[Sequence[Answer]]) -> list[str]:
    """Return the best answer to each question, "" if there is none."""
    return [answers[0].text if answers else "" for answers in ranked]


def write_answers(path: str | os.PathLike, ids: Sequence[str], ranked: Sequence[Sequence[Answer]]) -> None:
    """Write {id: text} to `path` and {id: [candidates]} to `nbest_<name>` in its folder, each atomically."""
    path = Path(path)
    candidates = {
        id_: [
            {
                "text": answer.text, "answer_start": answer.start,
                "probability": round(answer.probability, 6),
                "start_logit": round(answer.start_logit, 4), "end_logit": round(answer.end_logit, 4),
            }
            for answer in answers
        ]
        for id_, answers in zip(ids, ranked, strict=True)
    }  # fmt: skip
    write_json(path.with_name(f"nbest_{path.name}"), candidates)
    write_json(path, dict(zip(ids, best_texts(ranked))))


def write_json(path: str | os.PathLike, value: dict) -> None:
    """Write a file of answers, atomically."""
    with atomic_file(path, "w", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")
