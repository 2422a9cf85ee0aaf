"""From logits to ranked answers: against brute force, over windows, and the gold span through everything."""

import numpy as np
import pytest

from finetune.metrics import answer_scores
from finetune.question_answering import QuestionAnswering, Spans, best_spans
from reader.question_answering import NO_ANSWER, AnswerWindows, Cut
from reader.tokenization import Tokenizer
from tests.finetune import answering_toy as toy


def test_best_spans_against_brute_force():
    rng = np.random.default_rng(0)
    inputs = (20, (3, 9), 15, 4, 5), (12, (0, 12), 12, 30, 20), (9, (4, 5), 5, 3, 20)
    for length, own, end, longest, n_best in inputs:
        starts, ends = rng.normal(size=(2, length)).astype(np.float32)
        allowed = [(i, j) for i in range(*own) for j in range(i, min(i + longest, end))]
        allowed.sort(key=lambda span: -(starts[span[0]] + ends[span[1]]))
        found = best_spans(starts, ends, own, end, longest, n_best, shift=100)
        expected = allowed[:n_best]
        assert list(zip(found.first - 100, found.last - 100)) == expected
        assert np.array_equal(found.start_logits, [starts[i] for i, _ in expected])
        assert np.array_equal(found.end_logits, [ends[j] for _, j in expected])


@pytest.fixture
def toy_data(tmp_path):
    """One text of "the  port" and others in several windows, with two questions, and its tokenizer."""
    folder = toy.make(tmp_path)
    tokenizer = Tokenizer(None, folder / "piece.model")
    task = QuestionAnswering(tokenizer, Cut(40, 8, 12), 100, 3)
    return task, task.read(folder / "dev.de.json", "dev")


def spans(*rows: tuple[int, int, float, float]) -> Spans:
    first, last, start_logits, end_logits = zip(*rows)
    numbers = np.asarray(first, np.int32), np.asarray(last, np.int32)
    return Spans(*numbers, np.asarray(start_logits, np.float32), np.asarray(end_logits, np.float32))


def test_windows_of_a_question_are_ranked_together(toy_data, monkeypatch):
    task, data = toy_data
    nothing = spans((0, 0, -50.0, 0.0))
    predictions = [nothing] * len(data)
    first, second, *_ = data.of_question(1)
    of_context = data.spans[data.file.questions[1].context]
    a, b, c, d = [token for token, (start, end) in enumerate(of_context) if start < end][2:6]
    predictions[first] = spans((a, c, 2.0, 1.0), (a, b, 1.0, 0.5))
    predictions[second] = spans((b, d, 3.0, 2.0))
    answers = task.rank(data, predictions)[1]
    assert [(answer.start_logit, answer.end_logit) for answer in answers] == [(3, 2), (2, 1), (1, 0.5)]
    shares = np.exp([5, 3, 1.5]) / np.exp([5, 3, 1.5]).sum()
    assert np.allclose([answer.probability for answer in answers], shares)
    context = data.file.contexts[data.file.questions[1].context]
    for answer in answers:
        assert answer.text and context[answer.start :].startswith(answer.text)
    monkeypatch.setattr(task, "text_of", lambda *_: ("same", 0))
    assert task.rank(data, predictions)[1][0].start_logit == 3  # no text twice
    assert [len(found) for found in task.rank(data, predictions)] == [1] * 6
    monkeypatch.setattr(task, "text_of", lambda *_: ("", 0))
    assert task.rank(data, predictions)[1] == []  # a lone space is no answer


def oracle(task: QuestionAnswering, data: AnswerWindows) -> list[str]:
    """The answers of a model that is sure of the gold tokens in every window that holds them."""
    predictions = []
    for window in data:
        starts, ends = np.zeros((2, len(window.context_ids)), np.float32)
        if window.answer[0] != NO_ANSWER:
            starts[window.answer[0] - window.start] = ends[window.answer[1] - window.start] = 10
        own = [number - window.start for number in window.own]
        predictions.append(best_spans(starts, ends, own, len(starts), 100, 1, window.start))
    return task.texts(data, predictions)


@pytest.mark.data
def test_the_gold_span_survives_tokens_and_windows(data_dir):
    """With the recipe's windows, in every language of XQuAD and MLQA dev: at least 99 % exact match."""
    tokenizer = Tokenizer(None, data_dir / "vocab/xnli15-32k.model")
    files = {path: path.name.split(".")[1] for path in (data_dir / "qa").glob("xquad.*.json")}
    for language in ("en", "es", "de", "hi", "zh"):
        files[data_dir / f"qa/mlqa-dev/dev-context-{language}-question-{language}.json"] = language
    assert len(files) == 9
    task, found = QuestionAnswering(tokenizer, Cut(384, 64, 128), 100, 1), {}
    for path, language in sorted(files.items()):
        data = task.read(path, "dev")
        texts = oracle(task, data)
        for question, text in zip(data.file.questions, texts, strict=True):
            assert text and text in data.file.contexts[question.context]
        rows = [(text, question.answers) for question, text in zip(data.file.questions, texts)]
        found[path.name] = answer_scores(rows, language)["em"]
    assert {name: score for name, score in found.items() if score < 99} == {}
