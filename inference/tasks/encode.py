"""Vectors of texts: {"text"} -> {"vector"}; and the nearest sentences of a file: {"text"} -> {"found"}."""

from collections.abc import Sequence

import numpy as np

from evaluation.pooling import layer_number, mean_weights
from evaluation.search import nearest, unit
from inference.loading import Loaded
from inference.requests import text_of
from model.task_names import ENCODING
from reader.classification import Example
from reader.features import EncodePairs, padded_batches
from utils.errors import UserError
from utils.logging import Progress

_AT_ONCE = 1024  # sentences of a corpus between two signs of life


class Encode:
    """One vector a text, by a pooling of `evaluation.pooling.POOLINGS`.

    Args:
        pooling: None: as in training, where the folder says so (run_retrieval.py), else "mean".
        layer: a number, "middle" or "top"; None: what an exported folder has, else as in training, else top.

    Raises:
        UserError: no such layer, or "pooled" of another than the top.
    """

    def __init__(
        self, model: Loaded, max_seq_len: int, batch_tokens: int, pooling: str | None = None,
        layer: str | int | None = None,
    ):  # fmt: skip
        self.model, self.batch_tokens = model, batch_tokens
        self.features = EncodePairs(model.tokenizer, max_seq_len)
        self.pooling = pooling = pooling or model.reading.get("pooling", "mean")
        if layer is None:
            layer = model.exported["layer"] if model.exported else model.reading.get("layer", "top")
        self.layer = layer_number(layer, model.num_layers)
        if pooling == "pooled" and self.layer != model.num_layers:
            raise UserError(f"--pooling pooled is of the top layer, {model.num_layers}, not of {self.layer}")
        self.engine = model.engine(ENCODING, self.layer)

    def parse(self, request: dict) -> str:
        return text_of(request, "text" if "text" in request else "text_a")

    def answer(self, texts: list[str]) -> list[dict]:
        return [{"vector": [round(float(x), 6) for x in vector]} for vector in self.vectors(texts)]

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[N, H] float32."""
        rows = [feature.ids for feature in self.features([Example(text, None) for text in texts])]
        pad_id = self.model.config["pad_token_id"]
        found = np.empty([len(rows), self.model.config["hidden_size"]], np.float32)
        for numbers, ids in padded_batches(rows, pad_id, self.batch_tokens):
            found[numbers] = pooled(ids, self.engine(ids), self.pooling, pad_id)
        return found


def pooled(ids: np.ndarray, outputs: dict[str, np.ndarray], pooling: str, pad_id: int) -> np.ndarray:
    """One vector a row of ids [B, T]: [B, H]."""
    if pooling == "pooled":
        return outputs["pooled"]
    weights = mean_weights(ids, pad_id, pooling == "specials").astype(np.float32)
    return (weights[:, None] @ outputs["sequence"])[:, 0]


class Search:
    """The nearest of some sentences by cosine, in whatever language.

    Args:
        sentences: that are searched.
        top_k: most that are found.
    """

    def __init__(self, encode: Encode, sentences: Sequence[str], top_k: int = 5):
        self.encode, self.top_k = encode, min(top_k, len(sentences))
        self.sentences = list(sentences)
        parts, shown = [], Progress(len(self.sentences), "encoding the corpus", unit="sentences")
        for first in range(0, len(self.sentences), _AT_ONCE):
            parts.append(encode.vectors(self.sentences[first : first + _AT_ONCE]))
            shown.update(len(parts[-1]))
        shown.close()
        self.targets = unit(np.concatenate(parts))  # [N, H]
        self.parse = encode.parse

    def answer(self, texts: list[str]) -> list[dict]:
        cosines, numbers = nearest(unit(self.encode.vectors(texts)), self.targets, self.top_k)
        return [
            {
                "found": [
                    {"line": number + 1, "text": self.sentences[number], "cosine": round(cosine, 6)}
                    for number, cosine in zip(*row)
                ]
            }
            for row in zip(numbers.tolist(), cosines.tolist())
        ]
