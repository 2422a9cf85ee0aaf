"""ERNIE-M from Python, in a few lines. See docs/predict.md.

import ernie_m

model = ernie_m.load("checkpoints/best")
model.classify([("A man eats.", "Somebody eats.")])
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import __version__
from utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from inference.loading import Loaded
    from reader.tokenization import Tokenizer

__all__ = ["Model", "__version__", "load"]


def load(folder: str | Path, engine: str = "auto", task: str | None = None, **files: str) -> "Model":
    """Load a checkpoint of any supported format, or a folder that export.py wrote.

    Args:
        folder: the folder of the weights.
        engine: "auto", "dygraph", "paddle", "onnx" or "onnx-int8".
        task: the task of its classifier, if no file names it: "classify", "tag" or "answer".
        files: `ernie_config_path`, `vocab_path`, `piece_model_path`, `label_map_config`: files that are not
            beside the weights.

    Raises:
        utils.errors.UserError: something is missing or does not fit together; the message says what to do.
    """
    from inference.loading import Files
    from inference.loading import load as load_

    return Model(load_(folder, engine=engine, task=task, files=Files(**files)))


def _several(texts: Any) -> Iterable[Any]:
    return [texts] if isinstance(texts, str) else texts


class Model:
    """A model with its tokenizer. A method raises UserError if the model is not for its task.

    Attributes:
        tokenizer: `reader.tokenization.Tokenizer`.
        labels: the labels of its head, in the order of the ids.
    """

    def __init__(self, loaded: "Loaded"):
        self.loaded = loaded
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.labels: list[str] = loaded.labels
        self._tasks: dict[tuple, Any] = {}

    def classify(self, texts: Iterable[str | Sequence[str]]) -> list[dict]:
        """Texts, or pairs of texts -> {"label", "probabilities": {label: float}} each.

        A string is one text, here and below.
        """
        asked = []
        for text in _several(texts):
            parts = [text] if isinstance(text, str) else text
            if not isinstance(parts, list | tuple) or len(parts) not in (1, 2):
                raise UserError(f"{str(text)[:40]!r}: neither a text nor a pair of texts")
            asked.append(dict(zip(("text_a", "text_b"), parts)))
        return self._ask("classify", asked)

    def tag(self, texts: Iterable[str | Sequence[str]]) -> list[dict]:
        """Texts, or lists of words -> {"words", "tags", "entities"} each."""
        return self._ask(
            "tag",
            [
                {"words": [*text]} if isinstance(text, list | tuple) else {"text": text}
                for text in _several(texts)
            ],
        )

    def answer(self, question: str, context: str) -> dict:
        """{"answer", "start", "probability", "candidates"}."""
        return self._ask("answer", [{"question": question, "context": context}])[0]

    def encode(
        self, texts: str | Sequence[str], pooling: str | None = None, layer: str | int | None = None
    ) -> "np.ndarray":
        """A vector of each text: float32 [N, H].

        Args:
            pooling: a name of `evaluation.pooling.POOLINGS`; by default that of the training, else "mean".
            layer: a number, "middle" or "top"; by default that of the training, else "top".
        """
        task = self._task("encode", pooling=pooling, layer=layer)
        return task.vectors([task.parse({"text": text}) for text in _several(texts)])

    def similarity(
        self, texts: str | Sequence[str], others: str | Sequence[str], pooling: str | None = None,
        layer: str | int | None = None,
    ) -> "np.ndarray":  # fmt: skip
        """The cosine of the vectors of each text and each other text: float32 [N, M]."""
        from evaluation.search import unit

        ours, theirs = (unit(self.encode(side, pooling, layer)) for side in (texts, others))
        return ours @ theirs.T

    def search(
        self, text: str, corpus: Sequence[str], top_k: int = 5, pooling: str | None = None,
        layer: str | int | None = None,
    ) -> list[dict]:  # fmt: skip
        """The `top_k` texts of the corpus nearest to a text, best first: {"text", "cosine"} each."""
        (cosines,) = self.similarity(text, corpus, pooling, layer)
        best = (-cosines).argsort(kind="stable")[:top_k].tolist()
        return [{"text": corpus[number], "cosine": float(cosines[number])} for number in best]

    def fill(self, text: str, language: str | None = None, top_k: int = 5) -> list[list[dict]]:
        """For each [MASK] of the text the likeliest tokens with their probabilities."""
        return self._ask("fill", [{"text": text, "language": language}], top_k=top_k)[0]["masks"]

    def translate_probe(self, text: str, language: str, top_k: int = 5) -> list[list[dict]]:
        """For each pseudo-token that BTMLM would make, the likeliest tokens of `language`."""
        request = {"text": text, "language": language}
        return self._ask("translate-probe", [request], top_k=top_k)[0]["slots"]

    def _ask(self, name: str, requests: list[dict], **options: Any) -> list[dict]:
        task = self._task(name, **options)
        asked = [task.parse(request) for request in requests]
        return task.answer(asked) if asked else []

    def _task(self, name: str, **options: Any) -> Any:
        from inference.tasks import TaskOptions, make

        key = name, *options.items()
        if key not in self._tasks:
            self._tasks[key] = make(name, self.loaded, TaskOptions(**options))
        return self._tasks[key]
