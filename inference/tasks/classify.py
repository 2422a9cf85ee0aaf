"""Classes of texts and pairs of texts: {"text_a", "text_b"} -> {"label", "probabilities"}."""

from finetune.classification import Classification
from inference.engines import predictions
from inference.loading import Loaded
from inference.requests import text_of
from reader.classification import Example


class Classify:
    """Args: model; max_seq_len: longer pairs lose from the longer text, and are said to be cut."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int):
        self.task = Classification(model.tokenizer, model.labels, max_seq_len)
        self.engine, self.batch_tokens = model.engine(self.task.name), batch_tokens

    def parse(self, request: dict) -> Example:
        key = "text" if "text" in request else "text_a"
        return Example(text_of(request, key), text_of(request, "text_b", optional=True))

    def answer(self, examples: list[Example]) -> list[dict]:
        answers, labels = [], self.task.labels
        features = self.task.encode(examples)
        for feature, shares in zip(
            features, predictions(self.task, self.engine, features, self.batch_tokens)
        ):
            by_label = dict(zip(labels, (round(float(share), 6) for share in shares)))
            answers.append({"label": labels[int(shares.argmax())], "probabilities": by_label})
            if feature.cut:
                answers[-1]["cut"] = True
        return answers
