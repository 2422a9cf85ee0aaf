"""Vectors of texts, {"text"} -> {"vector"}, and search in a corpus, {"text"} -> {"found"}."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from evaluation.pooling import layer_number, mean_weights
from evaluation.search import nearest, unit
from inference.engines import GraphRunner
from inference.loading import Loaded
from inference.requests import check_length, text_of
from inference.tasks import TaskOptions
from model.task_names import ENCODING
from reader.bitext import Sentences
from reader.classification import Example
from reader.features import EncodePairs, padded_batches
from utils.errors import UserError
from utils.logging import Progress

_AT_ONCE = 1024  # sentences of a corpus between two progress reports


class EncodeTexts:
    """One vector for each text, by a pooling of `evaluation.pooling.POOLINGS`.

    Raises:
        UserError: there is no such layer, or "pooled" is asked of a layer that is not the top one.
    """

    def __init__(self, model: Loaded, options: TaskOptions):
        self.model, self.options = model, options
        self.max_seq_len = model.limit(options.max_seq_len, model.longest)
        self.features = EncodePairs(model.tokenizer, self.max_seq_len)
        self.pooling = options.pooling or model.reading.get("pooling", "mean")
        layer = options.layer
        if layer is None:
            layer = model.exported["layer"] if model.exported else model.reading.get("layer", "top")
        self.layer = layer_number(layer, model.num_layers)
        if self.pooling == "pooled" and self.layer != model.num_layers:
            raise UserError(f"--pooling pooled is of the top layer, {model.num_layers}, not of {self.layer}")
        self.engine = model.engine(ENCODING, self.layer)

    def at(self, layer: int | None) -> "EncodeTexts":
        """The same at another layer; None: itself. UserError: an exported folder has another layer."""
        if layer in (None, self.layer):
            return self
        return EncodeTexts(self.model, replace(self.options, layer=layer))

    def parse(self, request: dict) -> str:
        return text_of(request, "text" if "text" in request else "text_a")

    def answer(self, texts: list[str]) -> list[dict]:
        return [{"vector": [round(float(x), 6) for x in vector]} for vector in self.vectors(texts)]

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[N, H] float32."""
        rows = [feature.ids for feature in self.features([Example(text, None) for text in texts])]
        pad_id = self.model.config["pad_token_id"]
        found = np.empty([len(rows), self.model.config["hidden_size"]], np.float32)
        for numbers, ids in padded_batches(rows, pad_id, self.options.batch_tokens):
            found[numbers] = pooled(ids, self.engine(ids), self.pooling, pad_id)
        return found


def pooled(ids: np.ndarray, outputs: dict[str, np.ndarray], pooling: str, pad_id: int) -> np.ndarray:
    """One vector [H] for each row of ids [B, T]."""
    if pooling == "pooled":
        return outputs["pooled"]
    weights = mean_weights(ids, pad_id, pooling == "specials").astype(np.float32)
    return (weights[:, None] @ outputs["sequence"])[:, 0]


class CorpusSentence(NamedTuple):
    """A sentence of a corpus: its line in its file, and its language if the corpus tells it."""

    text: str
    line: int
    language: str | None


def read_corpus(corpus: str) -> list[CorpusSentence]:
    """The sentences of a text file, or of several with their languages: "de<=de.txt,fr<=fr.txt".

    Raises:
        UserError: a file cannot be read, or only some files have a language.
    """
    if "<=" not in corpus:
        return [CorpusSentence(text, line, None) for line, text in enumerate(Sentences(corpus).texts(), 1)]
    found = []
    for part in corpus.split(","):
        language, arrow, path = part.partition("<=")
        if not (language and arrow and path):
            raise UserError(f"--corpus: '{part}' is no language<=file; write it as in de<=de.txt,fr<=fr.txt")
        texts = Sentences(path).texts()
        found += [CorpusSentence(text, line, language) for line, text in enumerate(texts, 1)]
    return found


def layer_of(request: dict, num_layers: int) -> int | None:
    """The "layer" of a request. UserError: it is not a layer of the model."""
    layer = request.get("layer")
    if layer is not None and (type(layer) is not int or not 0 <= layer <= num_layers):
        raise UserError(f"'layer' is {layer!r}; this model has the layers 0 (the embeddings) to {num_layers}")
    return layer


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

    def __init__(self, model: Loaded, options: TaskOptions):
        if options.corpus is None:
            raise UserError("--corpus is needed with --task search: a text file, a sentence a line")
        self.encode, self.sentences = EncodeTexts(model, options), read_corpus(options.corpus)
        self.top_k = min(options.top_k, len(self.sentences))
        self.languages_of_corpus = list(dict.fromkeys(one.language for one in self.sentences if one.language))
        self.vectors = cache(self._vectors)
        self.vectors(self.encode.layer)

    def _vectors(self, layer: int) -> np.ndarray:
        """Unit vectors of the corpus at a layer, [N, H]."""
        encode, parts = self.encode.at(layer), []
        shown = Progress(len(self.sentences), "encoding the corpus", unit="sentences")
        for first in range(0, len(self.sentences), _AT_ONCE):
            texts = [sentence.text for sentence in self.sentences[first : first + _AT_ONCE]]
            parts.append(encode.vectors(texts))
            shown.update(len(parts[-1]))
        shown.close()
        return unit(np.concatenate(parts))

    def examples(self, most: int = 10) -> list[dict]:
        """Sentences to search for: one of each language, or some of a corpus without languages."""
        languages = list(dict.fromkeys(one.language for one in self.sentences))
        groups = [[one for one in self.sentences if one.language == language] for language in languages]
        if len(groups) == 1:
            chosen = groups[0][:: -(-len(groups[0]) // most)]
        else:  # parallel files have translations on the same line: take other lines
            chosen = [group[7 * number % len(group)] for number, group in enumerate(groups[:most], 1)]
        return [{"text": one.text} | ({"language": one.language} if one.language else {}) for one in chosen]

    def parse(self, request: dict) -> SearchInput:
        layer = layer_of(request, self.encode.model.num_layers)
        each = request.get("each", False)
        if type(each) is not bool or (each and not self.languages_of_corpus):
            raise UserError("'each' is true or false, and true needs a corpus as in de<=de.txt,fr<=fr.txt")
        return SearchInput(self.encode.parse(request), self.encode.layer if layer is None else layer, each)

    def check_length(self, text: str) -> None:
        """UserError: a query would be cut."""
        check_length(self.encode.model.tokenizer, text, "text", self.encode.max_seq_len - 2)

    def answer(self, asked: list[SearchInput]) -> list[dict]:
        answers: list[dict] = [{} for _ in asked]
        for layer, each in sorted({one[1:] for one in asked}):
            rows = [row for row, one in enumerate(asked) if one[1:] == (layer, each)]
            queries = unit(self.encode.at(layer).vectors([asked[row].text for row in rows]))
            for row, found in zip(rows, self._nearest(queries, layer, each)):
                answers[row]["found"] = found
        return answers

    def _nearest(self, queries: np.ndarray, layer: int, each: bool) -> list[list[dict]]:
        """The sentences found for each query of [N, H], the nearest first."""
        groups, vectors = [np.arange(len(self.sentences))], self.vectors(layer)
        if each:
            languages = np.array([one.language for one in self.sentences])
            groups = [np.flatnonzero(languages == language) for language in self.languages_of_corpus]
        pairs: list[list[tuple[float, int]]] = [[] for _ in queries]
        for members in groups:
            part = vectors[members] if each else vectors
            cosines, numbers = nearest(queries, part, 1 if each else self.top_k)
            for row, *found in zip(pairs, cosines.tolist(), members[numbers].tolist()):
                row += zip(*found)
        nearest_first = [sorted(row, key=lambda pair: -pair[0]) for row in pairs]
        return [[self._found(number, cosine) for cosine, number in row] for row in nearest_first]

    def _found(self, number: int, cosine: float) -> dict:
        one = self.sentences[number]
        found = {"line": one.line, "text": one.text, "cosine": round(cosine, 6)}
        return found | ({"language": one.language} if one.language else {})


class ExportedEncoder:
    """An exported encoder, used as a `PaddleEncoder` is. It has the pooled [CLS] if `is_top`."""

    def __init__(self, engine: GraphRunner, hidden_size: int, pad_id: int, is_top: bool):
        self.engine, self.hidden_size, self.pad_id, self.is_top = engine, hidden_size, pad_id, is_top

    @classmethod
    def of(cls, model: Loaded, layer: int) -> "ExportedEncoder":
        """The encoder of an exported folder. UserError: it was exported for another task or layer."""
        sizes = model.config["hidden_size"], model.config["pad_token_id"]
        return cls(model.engine(ENCODING, layer), *sizes, layer == model.num_layers)

    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        return pooled(ids, self._run(ids, pooling == "pooled"), pooling, self.pad_id)

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self._run(ids, True)
        return outputs["pooled"], outputs["sequence"]

    def _run(self, ids: np.ndarray, needs_top: bool) -> dict[str, np.ndarray]:
        if needs_top and not self.is_top:
            raise UserError(
                "the pooled [CLS] is of the top layer: export with --layer top, or --vectors mean"
            )
        return self.engine(ids)
