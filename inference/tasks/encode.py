"""Vectors of texts, {"text"} -> {"vector"}, and search in a corpus, {"text"} -> {"found"}."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from evaluation.pooling import layer_number, mean_weights
from evaluation.search import nearest, unit
from inference.engines import GraphRunner
from inference.loading import LoadedModel
from inference.tasks import TaskOptions, check_length, text_of
from model.task_names import ENCODING
from reader.batching import EncodePairs, padded_batches
from reader.bitext import Sentences
from reader.classification import Example
from utils.errors import UserError
from utils.logging import progress

_AT_ONCE = 1024  # sentences of a corpus between two progress reports


class EncodeTexts:
    """One vector for each text, by a pooling of `evaluation.pooling.POOLINGS`. UserError: no such layer."""

    def __init__(self, model: LoadedModel, options: TaskOptions):
        self.model, self.options = model, options
        self.max_seq_len = model.limit(options.max_seq_len, model.longest)
        self.features = EncodePairs(model.tokenizer, self.max_seq_len)
        self.pooling = options.pooling or model.reading.get("pooling", "mean")
        end = model.exported_layer
        usual = model.reading.get("layer", "top") if end is None else end
        self.layer = layer_number(usual if options.layer is None else options.layer, model.num_layers)
        if self.pooling == "pooled" and self.layer != model.num_layers:
            raise UserError(f"--pooling pooled is of the top layer, {model.num_layers}, not of {self.layer}")
        self.engine = model.engine(ENCODING, self.layer)

    def at(self, layer: int | None) -> "EncodeTexts":
        """The same at another layer; None: itself. UserError: an exported folder has another layer."""
        if layer in (None, self.layer):
            return self
        return EncodeTexts(self.model, replace(self.options, layer=layer))

    def parse(self, request: dict) -> str:
        return text_of(request, "text")

    def layer_of(self, request: dict) -> int:
        """The "layer" of a request, or the encoder's. UserError: the model cannot search at this layer."""
        layer = request.get("layer", self.layer)
        if type(layer) is not int or not 0 <= layer <= self.model.num_layers:
            raise UserError(f"'layer' is {layer!r}; this model has the layers 0 to {self.model.num_layers}")
        return self.at(layer).layer

    def answer(self, texts: list[str]) -> list[dict]:
        return [{"vector": [round(float(x), 6) for x in vector]} for vector in self.vectors(texts)]

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[N, H] float32."""
        rows = [feature.ids for feature in self.features([Example(text, None) for text in texts])]
        pad_id = self.model.config["pad_token_id"]
        found = np.empty([len(rows), self.model.config["hidden_size"]], np.float32)
        for numbers, ids in padded_batches(rows, pad_id):
            found[numbers] = pooled(ids, self.engine(ids), self.pooling, pad_id)
        return found


def pooled(ids: np.ndarray, outputs: dict[str, np.ndarray], pooling: str, pad_id: int) -> np.ndarray:
    """One vector [H] for each row of ids [B, T]."""
    if pooling == "pooled":
        return outputs["pooled"]
    weights = mean_weights(ids, pad_id, pooling == "specials").astype(np.float32)
    return (weights[:, None] @ outputs["sequence"])[:, 0]


class ExportedEncoder:
    """An exported encoder, used as `evaluation.encode.PaddleEncoder` is."""

    def __init__(self, engine: GraphRunner, hidden_size: int, pad_id: int):
        self.engine, self.hidden_size, self.pad_id = engine, hidden_size, pad_id

    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        return pooled(ids, self.engine(ids), pooling, self.pad_id)

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self.engine(ids)
        return outputs["pooled"], outputs["sequence"]


class CorpusSentence(NamedTuple):
    """A sentence of a corpus: its line in its file, and its language, "" if the corpus does not tell it."""

    text: str
    line: int
    language: str


def read_corpus(corpus: str) -> list[CorpusSentence]:
    """Read a text file, or several ("de<=de.txt,fr<=fr.txt"), without their blank lines."""
    found = []
    for part in corpus.split(","):
        language, _, path = part.rpartition("<=")
        texts = enumerate(Sentences(path).texts(), 1)
        found += [CorpusSentence(text, line, language) for line, text in texts if text.strip()]
    if not found:
        raise UserError(f"--corpus {corpus}: all lines are blank; it needs one sentence per line")
    return found


class SearchInput(NamedTuple):
    """A text, the layer to search at, and whether to find the best sentence of each language."""

    text: str
    layer: int
    each: bool


class SearchCorpus:
    """The sentences nearest to a text by cosine, in any language: {"text", "layer", "each"} -> {"found"}.

    It finds the `top_k` best of all, or with "each" the best of each language of the corpus. The corpus is
    encoded when a layer is used for the first time, and its vectors are kept.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        if options.corpus is None:
            raise UserError("--corpus is needed with --task search: a text file, a sentence a line")
        self.encode, self.sentences = EncodeTexts(model, options), read_corpus(options.corpus)
        self.top_k = min(options.top_k, len(self.sentences))
        languages = np.array([one.language for one in self.sentences])
        named = dict.fromkeys(languages.tolist())
        self.members = {language: np.flatnonzero(languages == language) for language in named}
        self.vectors = cache(self._vectors)
        self.vectors(self.encode.layer)

    def _vectors(self, layer: int) -> np.ndarray:
        """Unit vectors of the corpus at a layer, [N, H]."""
        encode, texts = self.encode.at(layer), [one.text for one in self.sentences]
        parts = [texts[first : first + _AT_ONCE] for first in range(0, len(texts), _AT_ONCE)]
        shown = progress(parts, "encoding the corpus", "sentences", size=len)
        return unit(np.concatenate([encode.vectors(part) for part in shown]))

    def parse(self, request: dict) -> SearchInput:
        each = request.get("each", False)
        if type(each) is not bool or (each and not any(self.members)):
            raise UserError("'each' is true or false, and true needs a corpus as in de<=de.txt,fr<=fr.txt")
        return SearchInput(self.encode.parse(request), self.encode.layer_of(request), each)

    def check_length(self, asked: SearchInput) -> None:
        """UserError: the text would be cut."""
        encode = self.encode
        check_length("text", len(encode.model.tokenizer.encode(asked.text)), encode.max_seq_len - 2)

    def answer(self, asked: list[SearchInput]) -> list[dict]:
        answers: list[dict] = [{} for _ in asked]
        for layer, each in sorted({one[1:] for one in asked}):
            rows = [row for row, one in enumerate(asked) if one[1:] == (layer, each)]
            queries = unit(self.encode.at(layer).vectors([asked[row].text for row in rows]))
            for row, pairs in zip(rows, self._nearest(queries, layer, each)):
                answers[row]["found"] = [self._found(number, cosine) for cosine, number in pairs]
        return answers

    def _nearest(self, queries: np.ndarray, layer: int, each: bool) -> list[list[tuple[float, int]]]:
        """(cosine, number of the sentence) found for each query of [N, H], the nearest first."""
        vectors = self.vectors(layer)
        pairs: list[list[tuple[float, int]]] = [[] for _ in queries]
        for members in self.members.values() if each else [np.arange(len(vectors))]:
            part, most = (vectors[members], 1) if each else (vectors, self.top_k)
            cosines, numbers = nearest(queries, part, most)
            for row, *found in zip(pairs, cosines.tolist(), members[numbers].tolist()):
                row += zip(*found)
        return [sorted(row, key=lambda pair: -pair[0]) for row in pairs]

    def _found(self, number: int, cosine: float) -> dict:
        text, line, language = self.sentences[number]
        found = {"line": line, "text": text, "cosine": round(cosine, 6)}
        return found | ({"language": language} if language else {})
