"""From logits to ranked answers: against brute force, over windows, and the gold span through everything."""

import numpy as np
import pytest

from finetune.metrics import answer_scores
from finetune.question_answering import QuestionAnswering, SpanScores, best_spans
from reader.question_answering import NO_ANSWER, AnswerWindows, Cut
from reader.tokenization import Tokenizer
from tests.finetune import answering_toy as toy


def random_scores(rng: np.random.Generator, starts: int, ends: int, first_token: int) -> SpanScores:
    start_logits = rng.normal(size=starts).astype(np.float32)
    end_logits = rng.normal(size=ends).astype(np.float32)
    return SpanScores(start_logits, end_logits, first_token)


def all_spans(scores: SpanScores, max_length: int) -> list[tuple[float, int, int]]:
    """(sum of logits, first, last) of every span of a window, one by one."""
    spans = []
    for start, start_logit in enumerate(scores.start_logits):
        for end in range(start, min(start + max_length, len(scores.end_logits))):
            total = start_logit + scores.end_logits[end]
            spans.append((total, start + scores.first_token, end + scores.first_token))
    return spans


@pytest.mark.parametrize(
    "starts, ends, max_length, count", [(6, 12, 4, 5), (12, 12, 30, 20), (1, 1, 3, 20), (9, 10, 4, 1)]
)
def test_best_spans_against_brute_force(starts, ends, max_length, count):
    scores = random_scores(np.random.default_rng(starts), starts, ends, first_token=100)
    expected = sorted(all_spans(scores, max_length), reverse=True)[:count]
    spans = best_spans(scores, max_length, count)
    assert list(zip(spans.first, spans.last)) == [(first, last) for _, first, last in expected]
    assert np.array_equal(spans.start_logits, scores.start_logits[spans.first - 100])
    assert np.array_equal(spans.end_logits, scores.end_logits[spans.last - 100])


@pytest.fixture
def toy_data(tmp_path):
    """One text of "the  port" and others in several windows, with two questions, and its tokenizer."""
    folder = toy.make(tmp_path)
    tokenizer = Tokenizer(None, folder / "piece.model")
    task = QuestionAnswering(tokenizer, Cut(40, 8, 12), 100, 3)
    return task, task.read(folder / "dev.de.json", "dev")


def impossible(data: AnswerWindows) -> list[SpanScores]:
    """Logits of every window with which no span can be chosen."""
    predictions = []
    for window in data:
        begin, behind = window.start_range
        end = window.start + len(window.context_ids)
        start_logits = np.full(behind - begin, -np.inf, np.float32)
        end_logits = np.full(end - begin, -np.inf, np.float32)
        predictions.append(SpanScores(start_logits, end_logits, begin))
    return predictions


def allow(scores: SpanScores, first: int, last: int, start_logit: float, end_logit: float) -> None:
    """Make the span of two tokens possible."""
    scores.start_logits[first - scores.first_token] = start_logit
    scores.end_logits[last - scores.first_token] = end_logit


def test_windows_of_a_question_are_ranked_together(toy_data, monkeypatch):
    task, data = toy_data
    predictions = impossible(data)
    context = data.file.questions[1].context
    numbers = data.of_question(1)[:2]
    # A token with characters in each window, and the next such token.
    visible = [token for token, (start, end) in enumerate(data.spans[context]) if start < end]
    (a, b), (c, d) = (
        [token for token in visible if token >= data[number].start_range[0]][:2] for number in numbers
    )
    allow(predictions[numbers[0]], a, b, 1.0, 0.5)
    allow(predictions[numbers[0]], a, a, 1.0, 2.0)
    allow(predictions[numbers[1]], c, d, 3.0, 2.0)
    answers = task.rank(data, predictions)[1]
    assert [(answer.start_logit, answer.end_logit) for answer in answers] == [(3, 2), (1, 2), (1, 0.5)]
    exponentials = np.exp([5, 3, 1.5])
    probabilities = [answer.probability for answer in answers]
    assert np.allclose(probabilities, exponentials / exponentials.sum())
    text = data.file.contexts[context]
    for answer in answers:
        assert answer.text and text[answer.start :].startswith(answer.text)
    monkeypatch.setattr(task, "text_of", lambda *_: ("same", 0))
    assert [len(ranked) for ranked in task.rank(data, predictions)] == [0, 1, 0, 0, 0, 0]
    assert task.rank(data, predictions)[1][0].start_logit == 3  # the best of equal texts
    monkeypatch.setattr(task, "text_of", lambda *_: ("", 0))
    assert task.rank(data, predictions)[1] == []  # a lone space is no answer


@pytest.mark.parametrize("n_best", [1, 3, 20, 10_000])
def test_the_best_different_texts_are_kept(toy_data, n_best):
    """Against all spans of all windows, where the best are lone spaces and one text has many spans."""
    task, data = toy_data
    task.n_best = n_best
    rng = np.random.default_rng(1)
    predictions = []
    for window in data:
        begin, behind = window.start_range
        scores = random_scores(rng, behind - begin, window.start + len(window.context_ids) - begin, begin)
        context = data.file.questions[window_question(data, len(predictions))].context
        for place in range(behind - begin):
            start, end = data.spans[context][begin + place]
            if start == end:  # a lone space
                scores.start_logits[place] += 9
                scores.end_logits[place] += 9
        predictions.append(scores)
    for number, answers in enumerate(task.rank(data, predictions)):
        spans = []
        for index in data.of_question(number):
            spans += all_spans(predictions[index], task.max_answer_length)
        texts = {}
        for total, first, last in sorted(spans, reverse=True):
            text, _ = task.text_of(data, number, first, last)
            if text:
                texts.setdefault(text, total)
        assert [answer.text for answer in answers] == list(texts)[:n_best]
        sums = [answer.start_logit + answer.end_logit for answer in answers]
        assert np.allclose(sums, list(texts.values())[:n_best])


def window_question(data: AnswerWindows, index: int) -> int:
    """The number of the question of a window."""
    return next(n for n in range(len(data.file.questions)) if index in data.of_question(n))


def oracle(task: QuestionAnswering, data: AnswerWindows) -> list[str]:
    """The answers of a model that is sure of the gold tokens in every window that holds them."""
    predictions = []
    for window in data:
        begin, behind = window.start_range
        start_logits = np.zeros(behind - begin, np.float32)
        end_logits = np.zeros(window.start + len(window.context_ids) - begin, np.float32)
        first, last = window.answer
        if begin <= first < behind:
            start_logits[first - begin] = 10
        if first != NO_ANSWER:
            end_logits[last - begin] = 10
        predictions.append(SpanScores(start_logits, end_logits, begin))
    return task.texts(data, predictions)


@pytest.mark.data
def test_the_gold_span_survives_tokens_and_windows(data_dir):
    """With the recipe's windows, in every language of XQuAD and MLQA dev: at least 99 % exact match."""
    tokenizer = Tokenizer(None, data_dir / "vocab/xnli15-32k.model")
    files = {path: path.name.split(".")[1] for path in (data_dir / "qa").glob("xquad.*.json")}
    for language in ("en", "es", "de", "hi", "zh"):
        files[data_dir / f"qa/mlqa-dev/dev-context-{language}-question-{language}.json"] = language
    assert len(files) == 9
    task, exact_matches = QuestionAnswering(tokenizer, Cut(384, 64, 128), 100, 1), {}
    for path, language in sorted(files.items()):
        data = task.read(path, "dev")
        texts = oracle(task, data)
        for question, text in zip(data.file.questions, texts, strict=True):
            assert text and text in data.file.contexts[question.context]
        rows = [(text, question.answers) for question, text in zip(data.file.questions, texts)]
        exact_matches[path.name] = answer_scores(rows, language)["em"]
    assert {name: score for name, score in exact_matches.items() if score < 99} == {}
