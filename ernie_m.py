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

    from inference.loading import LoadedModel

__all__ = ["Model", "__version__", "load"]


def load(folder: str | Path, engine: str = "auto", task: str | None = None, amp: str = "none") -> "Model":
    """Load a checkpoint of any supported format, or a folder that export.py wrote.

    Args:
        folder: the folder of the weights.
        engine: "auto", "dygraph", "paddle", "onnx" or "onnx-int8".
        task: the task of its classifier, if no file names it: "classify", "tag" or "answer".
        amp: "bf16": multiply in bfloat16, on a CPU with avx512_bf16 or AMX. For checkpoints.

    Raises:
        utils.errors.UserError: something is missing or does not fit together; the message says what to do.
    """
    from inference.loading import load as load_

    return Model(load_(folder, engine=engine, task=task, amp=amp))


def _several(texts: Any) -> Iterable[Any]:
    return [texts] if isinstance(texts, str) else texts


class Model:
    """A model with its tokenizer. A method raises UserError if the model is not for its task.

    Attributes:
        tokenizer: `reader.tokenization.Tokenizer`.
        labels: the labels of its head, in the order of the ids.
    """

    def __init__(self, loaded: "LoadedModel"):
        self.loaded, self.tokenizer, self.labels = loaded, loaded.tokenizer, loaded.labels
        self._tasks: dict[tuple, Any] = {}

    def classify(self, texts: str | Iterable[str | Sequence[str]]) -> list[dict]:
        """Texts, or pairs of texts -> {"label", "probabilities": {label: float}} each.

        A string is one text, here and below.
        """
        pairs = [text if isinstance(text, list | tuple) else [text] for text in _several(texts)]
        if long := [pair for pair in pairs if len(pair) > 2]:
            raise UserError(f"{long[0]}: neither a text nor a pair of texts")
        return self._ask("classify", [dict(zip(("text_a", "text_b"), pair)) for pair in pairs])

    def tag(self, texts: str | Iterable[str | Sequence[str]]) -> list[dict]:
        """Texts, or lists of words -> {"words", "tags", "entities"} each."""
        asked = [
            {"words": [*text]} if isinstance(text, list | tuple) else {"text": text}
            for text in _several(texts)
        ]
        return self._ask("tag", asked)

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
        self, texts: str | Sequence[str], others: str | Sequence[str], **options: Any
    ) -> "np.ndarray":
        """The cosine of each text and each other text: float32 [N, M]. Options: those of `encode`."""
        from evaluation.search import unit

        ours, theirs = (unit(self.encode(side, **options)) for side in (texts, others))
        return ours @ theirs.T

    def search(self, text: str, corpus: Sequence[str], top_k: int = 5, **options: Any) -> list[dict]:
        """The `top_k` texts of the corpus nearest to a text, best first: {"text", "cosine"} each."""
        (cosines,) = self.similarity(text, corpus, **options)
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
