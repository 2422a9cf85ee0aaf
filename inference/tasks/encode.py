"""Vectors of texts, {"text"} -> {"vector"}, and search in a corpus, {"text"} -> {"found"}."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np

from evaluation.centring import LayerMeans
from evaluation.pooling import layer_number, mean_weights
from evaluation.search import nearest, unit
from inference.engines import GraphRunner
from inference.loading import LoadedModel
from inference.tasks import REQUIRED_TEXT, Fields, TaskOptions, check_length, flag_of, is_whole, text_of
from model.tasks import ENCODING
from reader.batching import EncodePairs, padded_batches
from reader.bitext import Sentences
from reader.classification import Example
from utils.errors import UserError
from utils.logging import progress

LAYER = (int | None, None)  # as a key of a request
CENTRE = (bool | None, None)
MEANS_POOLING = "mean"  # with which the means of languages are made
EXAMPLES = 5  # sentences of the corpus that the page offers
_AT_ONCE = 1024  # sentences of a corpus between two progress reports


class EncodeTexts:
    """Makes one vector of each text.

    Args:
        options: of them `max_seq_len`, `pooling`, `layer` and `centre`.

    Attributes:
        means: of the languages, which are subtracted from vectors; None: vectors are plain.

    Raises:
        UserError: the model has no such layer, the pooling is of another layer, or there are no means.
    """

    fields: ClassVar[Fields | None] = None

    def __init__(self, model: LoadedModel, options: TaskOptions):
        self.model = model
        self.options = options
        self.max_seq_len = model.limit(options.max_seq_len, model.longest)
        self.features = EncodePairs(model.tokenizer, self.max_seq_len)
        self.pooling = options.pooling or model.reading.get("pooling", "mean")
        layer = options.layer
        if layer is None:
            layer = model.exported_layer
        if layer is None:
            layer = model.reading.get("layer", "top")
        self.layer = layer_number(layer, model.num_layers)
        if self.pooling == "pooled" and self.layer != model.num_layers:
            raise UserError(
                f"pooling pooled is that of the top layer, {model.num_layers}; layer {self.layer} has none"
            )
        self.means = self.means_of_languages() if options.centre else None
        self.engine = model.engine(ENCODING, self.layer)

    def means_of_languages(self) -> LayerMeans:
        """The means of the languages at this layer.

        Raises:
            UserError: the model has none, or they are of another pooling.
        """
        if self.pooling != MEANS_POOLING:
            raise UserError(
                f"pooling {self.pooling}: centred vectors need pooling {MEANS_POOLING}, with which the means "
                "of the languages were made"
            )
        return self.model.language_means.at(self.layer)

    def at(self, layer: int | None) -> "EncodeTexts":
        """The same at another layer; None: at its own.

        Raises:
            UserError: an exported folder ends at another layer.
        """
        if layer in (None, self.layer):
            return self
        return EncodeTexts(self.model, replace(self.options, layer=layer))

    def parse(self, request: dict) -> str:
        return text_of(request, "text")

    def layer_of(self, request: dict) -> int:
        """The "layer" of a request, or the encoder's.

        Raises:
            UserError: the model has no such layer, or an exported folder ends at another one.
        """
        layer = request.get("layer", self.layer)
        if not is_whole(layer) or not 0 <= layer <= self.model.num_layers:
            raise UserError(f"'layer' is {layer!r}; this model has the layers 0 to {self.model.num_layers}")
        return self.at(layer).layer

    def answer(self, texts: list[str]) -> list[dict]:
        return [{"vector": [round(float(x), 6) for x in vector]} for vector in self.vectors(texts)]

    def vectors(self, texts: Sequence[str], languages: Sequence[str] | None = None) -> np.ndarray:
        """The vectors of texts, float32 [N, H].

        Args:
            languages: of each text, if vectors are centred; None: the language of the nearest mean.
        """
        features = self.features([Example(text, None) for text in texts])
        rows = [feature.ids for feature in features]
        pad_id = self.model.config["pad_token_id"]
        vectors = np.empty([len(rows), self.model.config["hidden_size"]], np.float32)
        for numbers, ids in padded_batches(rows, pad_id):
            vectors[numbers] = pooled(ids, self.engine(ids), self.pooling, pad_id)
        return vectors if self.means is None else self.means.centred(vectors, languages)


def centres_by_default(model: LoadedModel, options: TaskOptions) -> bool:
    """Whether searches are centred if nobody says it: if the model has means, and they fit its pooling."""
    pooling = options.pooling or model.reading.get("pooling", MEANS_POOLING)
    return model.language_means_path is not None and pooling == MEANS_POOLING


def pooled(ids: np.ndarray, outputs: dict[str, np.ndarray], pooling: str, pad_id: int) -> np.ndarray:
    """Pool the outputs of an encoder for ids [B, T] to one vector for each row, [B, H]."""
    if pooling == "pooled":
        return outputs["pooled"]
    weights = mean_weights(ids, pad_id, pooling == "specials").astype(np.float32)  # [B, T]
    return (weights[:, None] @ outputs["sequence"])[:, 0]


class ExportedEncoder:
    """An exported encoder, used as `evaluation.encode.PaddleEncoder` is."""

    def __init__(self, engine: GraphRunner, hidden_size: int, pad_id: int):
        self.engine = engine
        self.hidden_size = hidden_size
        self.pad_id = pad_id

    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        """[B, H]; the layer is that of the export."""
        return pooled(ids, self.engine(ids), pooling, self.pad_id)

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top layer: pooled [B, H], all tokens [B, T, H]."""
        outputs = self.engine(ids)
        return outputs["pooled"], outputs["sequence"]


class CorpusSentence(NamedTuple):
    """A sentence of a corpus.

    Attributes:
        line: its number in its file, from 1.
        language: "" if the corpus does not name languages.
    """

    text: str
    line: int
    language: str


def read_corpus(corpus: str) -> list[CorpusSentence]:
    """Read a text file, or several ("de<=de.txt,fr<=fr.txt"), without their blank lines.

    Raises:
        UserError: a file cannot be read, or all lines are blank.
    """
    sentences = []
    for item in corpus.split(","):
        language, _, path = item.rpartition("<=")
        for line, text in enumerate(Sentences(path).texts(), 1):
            if text.strip():
                sentences.append(CorpusSentence(text, line, language))
    if not sentences:
        raise UserError(f"--corpus {corpus}: all lines are blank; it needs one sentence per line")
    return sentences


class SearchInput(NamedTuple):
    """A request.

    Attributes:
        layer: the layer to search at.
        each: whether to find the best sentence of each language.
        centre: whether to compare centred vectors.
    """

    text: str
    layer: int
    each: bool
    centre: bool


class Hit(NamedTuple):
    """A sentence that a search found: its number in the corpus, and its cosine with the query."""

    number: int
    cosine: float


class SearchCorpus:
    """The sentences nearest to a text by cosine: {"text", "layer", "each", "centre"} -> {"found", "centred"}.

    It finds the `top_k` best of all, or with "each" the best of each language of the corpus. The corpus is
    encoded when a layer is used for the first time, and its vectors are kept.

    Raises:
        UserError: there is no corpus, or it cannot be read.
    """

    fields: ClassVar[Fields] = {
        "text": REQUIRED_TEXT,
        "each": (bool, False),
        "layer": LAYER,
        "centre": CENTRE,
    }

    def __init__(self, model: LoadedModel, options: TaskOptions):
        if options.corpus is None:
            raise UserError("--task search needs --corpus: a text file with a sentence on each line")
        self.encode = EncodeTexts(model, replace(options, centre=False))
        self.centre = centres_by_default(model, options) if options.centre is None else options.centre
        self.sentences = read_corpus(options.corpus)
        self.top_k = min(options.top_k, len(self.sentences))
        # language -> the numbers of its sentences
        languages = np.array([sentence.language for sentence in self.sentences])
        in_order = dict.fromkeys(languages.tolist())
        self.members = {language: np.flatnonzero(languages == language) for language in in_order}
        self.plain_vectors_at = cache(self._encode_corpus)
        self.unit_vectors_at = cache(self._unit_vectors)
        self.unit_vectors_at(self.encode.layer, self.centre)

    @property
    def corpus_languages(self) -> list[str]:
        """The languages that the corpus names."""
        return [language for language in self.members if language]

    def examples(self) -> list[str]:
        """The first sentence of each language, of at most EXAMPLES."""
        firsts = [self.sentences[members[0]].text for members in self.members.values()]
        return firsts[:EXAMPLES]

    def _encode_corpus(self, layer: int) -> np.ndarray:
        """The plain vectors of the corpus at a layer, [N, H]."""
        encode = self.encode.at(layer)
        texts = [sentence.text for sentence in self.sentences]
        parts = [texts[first : first + _AT_ONCE] for first in range(0, len(texts), _AT_ONCE)]
        parts_with_bar = progress(parts, "encoding the corpus", "sentences", size=len)
        return np.concatenate([encode.vectors(part) for part in parts_with_bar])

    def _unit_vectors(self, layer: int, centre: bool) -> np.ndarray:
        """The vectors of the corpus with length 1, [N, H]; centred ones with the languages that it names."""
        vectors = self.plain_vectors_at(layer)
        if centre:
            means = self.encode.at(layer).means_of_languages()
            vectors = vectors.copy()
            for language, members in self.members.items():
                languages = [language] * len(members) if language in means.languages else None
                vectors[members] = means.centred(vectors[members], languages)
        return unit(vectors)

    def parse(self, request: dict) -> SearchInput:
        each = flag_of(request, "each", False)
        if each and not self.corpus_languages:
            raise UserError("'each' needs a corpus that names languages, as in de<=de.txt,fr<=fr.txt")
        centre = flag_of(request, "centre", self.centre)
        if centre:
            self.encode.means_of_languages()
        return SearchInput(self.encode.parse(request), self.encode.layer_of(request), each, centre)

    def check_length(self, request: SearchInput) -> None:
        """Refuse a text that would be cut.

        Raises:
            UserError: it would be.
        """
        count = len(self.encode.model.tokenizer.encode(request.text))
        check_length("text", count, self.encode.max_seq_len - 2)

    def answer(self, requests: list[SearchInput]) -> list[dict]:
        answers: list[dict] = [{} for _ in requests]
        # Requests of one kind are searched at once.
        kinds = {(request.layer, request.each, request.centre) for request in requests}
        for kind in sorted(kinds):
            layer, each, centre = kind
            rows = [row for row, request in enumerate(requests) if request[1:] == kind]
            queries = self._queries([requests[row].text for row in rows], layer, centre)
            for row, hits in zip(rows, self._search(queries, self.unit_vectors_at(layer, centre), each)):
                answers[row]["found"] = [self._as_json(hit) for hit in hits]
                if centre:
                    answers[row]["centred"] = True
        return answers

    def _queries(self, texts: list[str], layer: int, centre: bool) -> np.ndarray:
        """The vectors of texts with length 1, [N, H]. Their languages are those of the nearest means."""
        encode = self.encode.at(layer)
        vectors = encode.vectors(texts)
        if centre:
            vectors = encode.means_of_languages().centred(vectors)
        return unit(vectors)

    def _search(self, queries: np.ndarray, vectors: np.ndarray, each: bool) -> list[list[Hit]]:
        """The sentences found for each query of [N, H], the nearest first."""
        hits: list[list[Hit]] = [[] for _ in queries]
        if each:
            for members in self.members.values():
                _add_nearest(hits, queries, vectors, members, 1)
        else:
            _add_nearest(hits, queries, vectors, np.arange(len(vectors)), self.top_k)
        return [sorted(hits_of_query, key=lambda hit: -hit.cosine) for hits_of_query in hits]

    def _as_json(self, hit: Hit) -> dict:
        sentence = self.sentences[hit.number]
        answer = {"line": sentence.line, "text": sentence.text, "cosine": round(hit.cosine, 6)}
        if sentence.language:
            answer["language"] = sentence.language
        return answer


def _add_nearest(
    hits: list[list[Hit]], queries: np.ndarray, vectors: np.ndarray, members: np.ndarray, count: int
) -> None:
    """Add the `count` nearest of the sentences `members` to the hits of each query."""
    cosines, places = nearest(queries, vectors[members], count)  # [N, count] each
    for hits_of_query, cosines_of_query, numbers in zip(hits, cosines.tolist(), members[places].tolist()):
        for number, cosine in zip(numbers, cosines_of_query):
            hits_of_query.append(Hit(number, cosine))
