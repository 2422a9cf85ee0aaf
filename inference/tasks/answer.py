"""Answers in a text: {"question", "context"} -> {"answer", "start", "probability", "candidates"}.

Long contexts are read in overlapping windows, cut as in training.
"""

from finetune.question_answering import QuestionAnswering
from finetune.span_decoding import Answer
from inference.engines import predictions
from inference.loading import Loaded
from inference.requests import text_of
from reader.question_answering import make_windows
from reader.squad import Question, QuestionFile


class AnswerQuestions:
    """Args: model; max_seq_len: of a window; top_k: most candidates of a question."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int, top_k: int = 5):
        self.task = QuestionAnswering.from_reading(model.reading, model.tokenizer, max_seq_len, top_k)
        self.engine, self.batch_tokens = model.engine(self.task.name), batch_tokens

    def parse(self, request: dict) -> tuple[str, str]:
        """The question and the context."""
        return text_of(request, "question"), text_of(request, "context")

    def answer(self, asked: list[tuple[str, str]]) -> list[dict]:
        questions = [Question(str(i), question, i, (), None) for i, (question, _) in enumerate(asked)]
        file = QuestionFile(None, [context for _, context in asked], questions)
        windows = make_windows(file, self.task.tokenizer, self.task.cut)
        features = self.task.encode(windows)
        spans = predictions(self.task, self.engine, features, self.batch_tokens)
        return [self._answer(ranked) for ranked in self.task.rank(windows, spans)]

    def _answer(self, ranked: list[Answer]) -> dict:
        found = [
            {
                "text": one.text, "start": one.start, "end": one.start + len(one.text),
                "probability": round(one.probability, 6),
            }
            for one in ranked
        ]  # fmt: skip
        best = found[0] if found else {"text": "", "start": None, "probability": 0.0}
        return {
            "answer": best["text"], "start": best["start"], "probability": best["probability"],
            "candidates": found,
        }  # fmt: skip
