"""From logits to ranked answers: the best spans are those of brute force; gold spans become gold answers."""

import json
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_m.finetune.eval_mlqa import score_answers
from ernie_m.finetune.mrc import Answer, OfficialAnswering, QuestionAnswering, SpanScores, find_best_spans
from ernie_m.reader.mrc_reader import NO_ANSWER, ContextWindow, ContextWindows, WindowConfig
from ernie_m.reader.tokenization import Tokenizer


def random_scores(rng: np.random.Generator, starts: int, ends: int, first_token: int) -> SpanScores:
    logits = (rng.normal(size=size).astype(np.float32) for size in (starts, ends))
    return SpanScores(*logits, first_token)


def all_spans(scores: SpanScores, max_length: int) -> list[tuple[float, int, int, float]]:
    """Sum of logits, first token, last token and logit of the first one, of every span of a window.

    It has at most `max_length` tokens.
    """
    spans = []
    for start, start_logit in enumerate(scores.start_logits):
        for end, end_logit in enumerate(scores.end_logits[start : start + max_length], start):
            first, last = start + scores.first_token, end + scores.first_token
            spans.append((start_logit + end_logit, first, last, start_logit))
    return spans


@pytest.mark.parametrize(
    "starts, ends, max_length, count",
    [(6, 12, 4, 5), (12, 12, 30, 20), (1, 1, 3, 20), (9, 10, 4, 1), (5, 7, 10**12, 50)],
)
def test_best_spans_against_brute_force(starts, ends, max_length, count):
    """`count` spans of at most `max_length` tokens, in a window of so many starts and ends."""
    scores = random_scores(np.random.default_rng(starts), starts, ends, first_token=100)
    expected = sorted(all_spans(scores, max_length), reverse=True)[:count]
    spans = find_best_spans(scores, max_length, count)
    assert list(zip(spans.first, spans.last)) == [(first, last) for _, first, last, _ in expected]
    # The logits of token t are at index t - 100.
    assert np.array_equal(spans.start_logits, scores.start_logits[spans.first - 100])
    assert np.array_equal(spans.end_logits, scores.end_logits[spans.last - 100])


@pytest.fixture
def toy_data(answering_folder):
    """A task, and 6 questions on 3 texts, each in several windows. Some tokens are lone spaces."""
    tokenizer = Tokenizer(None, answering_folder / "piece.model")
    cut = WindowConfig(max_seq_len=40, max_query_length=8, doc_stride=12)
    task = QuestionAnswering(tokenizer, cut, max_answer_length=100, n_best=3)
    return task, task.read(answering_folder / "dev.de.json", "dev")


def get_window_sizes(window: ContextWindow) -> tuple[int, int, int]:
    """The `first_token` of a window's `SpanScores`, the number of start logits, the number of end logits."""
    first_start, behind_starts = window.start_range
    return (
        first_start,
        behind_starts - first_start,
        window.start + len(window.context_ids) - first_start,
    )


@pytest.mark.parametrize(("n_best", "characters"), [(1, 99), (3, 99), (20, 1), (20, 99), (10_000, 99)])
def test_the_best_different_texts_are_kept(toy_data, tmp_path, monkeypatch, n_best, characters):
    """Compared with all spans of all windows. The best spans are lone spaces; a text can have many spans.

    With only the first of the `characters` of a text, most of the best spans have the same one.
    """
    task, data = toy_data
    whole = task.get_text
    monkeypatch.setattr(task, "get_text", lambda *span: (whole(*span)[0][:characters], 0))
    task.n_best = n_best
    rng = np.random.default_rng(1)
    predictions = []
    for number, window in enumerate(data):
        first_start, start_count, end_count = get_window_sizes(window)
        scores = random_scores(rng, start_count, end_count, first_start)
        context = data.file.questions[find_question(data, number)].context
        for offset in range(start_count):  # both logits begin at the token `first_start`
            start, end = data.spans[context][first_start + offset]
            if start == end:  # a lone space
                scores.start_logits[offset] += 9
                scores.end_logits[offset] += 9
        predictions.append(scores)
    for number, answers in enumerate(task.rank(data, predictions)):
        windows = data.get_question_windows(number)
        spans = chain.from_iterable(all_spans(predictions[n], task.max_answer_length) for n in windows)
        texts = {}  # text -> the largest sum of logits of its spans, and the logit of the first token
        for total, first, last, start_logit in sorted(spans, reverse=True):
            text, _ = task.get_text(data, number, first, last)
            if text:
                texts.setdefault(text, (total, start_logit))
        assert [answer.text for answer in answers] == list(texts)[:n_best]
        logits = np.array([(answer.start_logit + answer.end_logit, answer.start_logit) for answer in answers])
        np.testing.assert_allclose(logits, list(texts.values())[:n_best], rtol=1e-6)
        exponentials = np.exp(logits[:, 0])
        probabilities = [answer.probability for answer in answers]
        np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(), rtol=1e-6)
    task.write(tmp_path / "answers.json", data, predictions)
    written = json.loads((tmp_path / "nbest_answers.json").read_text())
    assert written[data.file.questions[-1].id] == [
        {
            "text": answer.text,
            "answer_start": answer.start,
            "probability": pytest.approx(answer.probability, abs=1e-6),
            "start_logit": pytest.approx(answer.start_logit, abs=1e-4),
            "end_logit": pytest.approx(answer.end_logit, abs=1e-4),
        }
        for answer in answers
    ]
    # A lone space is not an answer.
    monkeypatch.setattr(task, "get_text", lambda *_: ("", 0))
    assert task.rank(data, predictions) == [[]] * len(data.file.questions)
    task.write(tmp_path / "answers.json", data, predictions)
    no_answers = dict.fromkeys((question.id for question in data.file.questions), "")
    assert json.loads((tmp_path / "answers.json").read_text()) == no_answers


def find_question(data: ContextWindows, window: int) -> int:
    """The number of the question of window number `window`."""
    (question,) = [n for n in range(len(data.file.questions)) if window in data.get_question_windows(n)]
    return question


def test_official_spans_by_hand():
    """[CLS], a question, a context from 2 to 4, [SEP] and padding: the [SEP] is ranked, and never answers."""
    task = OfficialAnswering(
        SimpleNamespace(cls_id=0, sep_id=2, pad_id=1), WindowConfig(9, 1, 4), 2, n_best=4
    )
    batch = SimpleNamespace(start_ranges=np.array([[2, 4]]), ends=np.array([5]), shift=np.array([7]))
    rows = {"start_logits": [9, 0, 5, 4, 3, 8, 99], "end_logits": [0, 7, 1, 6, 5, 8, 99]}
    logits = {name: np.array([row], np.float32) for name, row in rows.items()}
    (scores,) = task.decode(batch, logits)
    # Starts 0, 5, 2, 3 and ends 5, 1, 3, 4 are ranked; an answer has at most two tokens.
    assert list(zip(*scores.spans)) == [(9, 10, 5, 6), (10, 10, 4, 6), (10, 11, 4, 5)]
    assert (scores.scores.first_token, *map(list, scores.scores[:2])) == (9, [5, 4], [1, 6, 5])
    batch.start_ranges = np.array([[4, 4]])  # another window has all of its starts
    (answer,) = task._rank_question(None, 0, task.decode(batch, logits))
    assert answer == Answer("empty", start=0, probability=1.0, start_logit=0.0, end_logit=0.0)


def oracle(task: QuestionAnswering, data: ContextWindows) -> list[str]:
    """The answers of a model that is sure of the gold tokens in every window that holds them."""
    predictions = []
    for window in data:
        first_start, start_count, end_count = get_window_sizes(window)
        start_logits = np.zeros(start_count, np.float32)
        end_logits = np.zeros(end_count, np.float32)
        first, last = window.answer
        if first != NO_ANSWER:
            # An answer can begin or end outside the tokens that this window has logits of; another has them.
            if first_start <= first < first_start + start_count:
                start_logits[first - first_start] = 10
            if first_start <= last:
                end_logits[last - first_start] = 10
        predictions.append(SpanScores(start_logits, end_logits, first_start))
    return task.get_predicted_values(data, predictions)


@pytest.mark.data
@pytest.mark.parametrize("language", ["de", "hi", "zh"])
def test_the_gold_span_survives_tokens_and_windows(data_dir, language):
    """With the recipe's windows, in a language of MLQA dev: at least 99 % exact match."""
    tokenizer = Tokenizer(None, data_dir / "vocab/xnli15-32k.model")
    cut = WindowConfig(max_seq_len=384, max_query_length=64, doc_stride=128)
    task = QuestionAnswering(tokenizer, cut, max_answer_length=100, n_best=1)
    name = f"dev-context-{language}-question-{language}.json"
    data = task.read(data_dir / "qa/mlqa-dev" / name, "dev")
    answered = [*zip(oracle(task, data), data.file.questions, strict=True)]
    assert all(text and text in data.file.contexts[question.context] for text, question in answered)
    rows = [(text, question.answers) for text, question in answered]
    assert score_answers(rows, language)["em"] >= 99, language
