"""Search in a corpus: {"text"} -> {"found"}."""

import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from ernie_m.inference.arguments import as_list, parsed
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    PredictionOptions,
    check_length,
    flag_of,
    remarks,
    text_of,
)
from ernie_m.inference.tasks.encode import EncodeTexts, centres_by_default
from ernie_m.inference.tasks.search_index import CorpusSentence, Index
from ernie_m.model.conventions import DOCUMENT, QUERY
from ernie_m.reader.batching import Example, warn_if_cut, warn_of_texts
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.find_pairs import named_files
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import only_writer_of
from ernie_m.utils.logging import progress
from ernie_m.vectors.centring import FEWEST_SENTENCES, LanguageMeans
from ernie_m.vectors.nearest import load_faiss, nearest
from ernie_m.vectors.pooling import unit

EXAMPLES = 5  # sentences of the corpus that the page offers
_AS_QUERIES = 64  # how many sentences of a language are encoded as queries, for the mean of its queries
# The share of letters in a text of a language. Of 2,000 sentences of news in ten languages 99 % have more.
_FEWEST_LETTERS = 0.75
_AT_ONCE = 256  # sentences of a corpus between two progress reports


def read_corpus(corpus: str | Sequence[str]) -> list[CorpusSentence]:
    """Read a text file, or several ("de<=de.txt,fr<=fr.txt"), without their blank lines.

    Args:
        corpus: the files, or the sentences themselves.

    Raises:
        UserError: a file cannot be read, or all lines are blank.
    """
    if not isinstance(corpus, str):
        return [CorpusSentence(text, line, language="") for line, text in enumerate(corpus, 1)]
    sentences = []
    for language, path in named_files(corpus):
        for line, text in enumerate(Sentences(path).texts(), 1):
            if text.strip():
                sentences.append(CorpusSentence(text, line, language))
    if not sentences:
        raise UserError(f"--corpus {corpus}: all lines are blank; it needs one sentence per line")
    return sentences


def _is_prose(text: str) -> bool:
    """Whether enough of a text are letters for it to be of a language."""
    characters = "".join(text.split())
    letters = sum(unicodedata.category(character)[0] in "LM" for character in characters)  # and their marks
    return letters >= _FEWEST_LETTERS * len(characters)


class SearchInput(NamedTuple):
    """A request.

    Attributes:
        layer: the layer to search at.
        each: whether to find the best sentence of each language.
        centre: whether to compare centred vectors.
        language: the language of the text, if vectors are centred; None: the language of the nearest mean.
    """

    text: str
    layer: int
    each: bool
    centre: bool
    language: str | None

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """What requests that are searched at once have in common."""
        return self.layer, self.each, self.centre


class Hit(NamedTuple):
    """A sentence that a search found: its number in the corpus, and its cosine with the query."""

    number: int
    cosine: float


class SearchCorpus:
    """The sentences nearest to a text by cosine: {"text", "layer", ...} -> {"found", "centred", "language"},
    "cut" if the text was too long, and "unknown_words".

    It finds the `top_k` best of all, or with "each" the best of each language of the corpus. The corpus is
    encoded when a layer is used for the first time, and its vectors are kept; those of an index are read.

    With "centre" vectors lose the mean of their language. The means are the model's, or else those of the
    corpus if it names at least two languages and has FEWEST_SENTENCES of each. The "language" of a text is
    the one in the request, else that of its line in the corpus, else that of the nearest mean. It is None in
    the answer if no mean is clearly the nearest, or the text is of figures and signs, as program code is.

    Raises:
        UserError: there is neither a corpus nor an index, one of them cannot be read, or the index is of
            another model, layer or corpus.
    """

    fields: ClassVar[Fields] = {
        "text": REQUIRED_TEXT,
        "each": (bool, False),
        "layer": (int | None, None),
        "centre": (bool | None, None),
        "language": OPTIONAL_TEXT,
    }

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        if options.corpus is None and options.index is None:
            raise UserError(
                "--task search needs --corpus, a text file with a sentence on each line, or an --index of one"
            )
        load_faiss()
        plain = replace(options, centre=False, normalize=False)
        self.encode = EncodeTexts(model, replace(plain, kind=DOCUMENT, prompt=None))
        self.encode_query = EncodeTexts(model, replace(plain, kind=QUERY))
        self.sentences, self.index = self._read(options)
        self.top_k = options.top_k
        languages = np.array([sentence.language for sentence in self.sentences])
        # Language, in the order of the corpus -> the numbers of its sentences.
        self.numbers_of_language = {
            language: np.flatnonzero(languages == language) for language in dict.fromkeys(languages.tolist())
        }
        self.language_of_line = {line.text: line.language for line in self.sentences if line.language}
        counts = [len(numbers) for numbers in self.numbers_of_language.values()]
        has_own_means = len(self.corpus_languages) > 1 and min(counts) >= FEWEST_SENTENCES
        # centre=None: what the model itself has, whatever the option says.
        self.has_means_of_model = centres_by_default(model, replace(options, centre=None))
        self.takes_own_means = has_own_means and not self.has_means_of_model
        self.centre = options.centre
        if self.centre is None:
            self.centre = self.has_means_of_model or has_own_means
        # Each is computed when it is asked for the first time, and kept.
        self.means_at = cache(self._means_of_languages)
        self.query_means_at = cache(self._means_of_queries)
        self.plain_vectors_at = cache(self._encode_corpus)
        self.unit_vectors_at = cache(self._unit_vectors)
        makes_index = options.index is not None and self.index is None
        with only_writer_of(options.index) if makes_index else nullcontext():
            self.unit_vectors_at(self.encode.layer, self.centre)  # encodes the corpus, before any request
            if self.centre:
                self.query_means_at(self.encode.layer)
            if makes_index:
                vectors = self.plain_vectors_at(self.encode.layer)
                Index.of(self.encode, self.sentences, vectors).write(options.index)

    def _read(self, options: PredictionOptions) -> tuple[list[CorpusSentence], Index | None]:
        """The sentences, and the index if there is one; see the class."""
        sentences = [] if options.corpus is None else read_corpus(options.corpus)
        if options.index is None or (sentences and not Path(options.index).exists()):
            return sentences, None
        index = Index.read(options.index, self.encode)
        if sentences and sentences != index.sentences:
            raise UserError(
                f"{options.index}: the index is of another corpus; name another folder for this one"
            )
        return index.sentences, index

    @property
    def corpus_languages(self) -> list[str]:
        """The languages that the corpus names."""
        return [language for language in self.numbers_of_language if language]

    def examples(self) -> list[str]:
        """The shortest sentence of each of the first EXAMPLES languages."""
        shortest = []
        for numbers in self.numbers_of_language.values():
            texts = [self.sentences[number].text for number in numbers]
            shortest.append(min(texts, key=len))
        return shortest[:EXAMPLES]

    def _encode_corpus(self, layer: int) -> np.ndarray:
        """The plain vectors of the corpus at a layer, [N, H]."""
        encode = self.encode.at(layer)
        if self.index is not None and encode is self.encode:
            return self.index.vectors
        texts = [sentence.text for sentence in self.sentences]
        parts = [texts[first : first + _AT_ONCE] for first in range(0, len(texts), _AT_ONCE)]
        warn_of_texts("the corpus", [Example(text) for text in texts], encode.encode)
        parts_with_bar = progress(parts, "encoding the corpus", "sentences", size=len)
        return np.concatenate([encode.vectors(part) for part in parts_with_bar])

    def _unit_vectors(self, layer: int, centre: bool) -> np.ndarray:
        """The vectors of the corpus with length 1, [N, H].

        Args:
            centre: whether the mean of its language, as the corpus names it, is subtracted from each vector.
        """
        vectors = self.plain_vectors_at(layer)
        if centre:
            means = self.means_at(layer)
            vectors = vectors.copy()
            for language, numbers in self.numbers_of_language.items():
                # None: the nearest mean is subtracted from each vector.
                languages = [language] * len(numbers) if language in means.languages else None
                vectors[numbers] = means.centred(vectors[numbers], languages)
        return unit(vectors)

    def _means_of_languages(self, layer: int) -> LanguageMeans:
        """The means of the model, or else of the corpus.

        Raises:
            UserError: neither has them.
        """
        if not self.takes_own_means:
            return self.encode.at(layer).means_of_languages()
        vectors = self.plain_vectors_at(layer)
        return LanguageMeans.of({code: vectors[rows] for code, rows in self.numbers_of_language.items()})

    def _means_of_queries(self, layer: int) -> LanguageMeans:
        """The means to take from queries: with a prompt of their own, they lie apart from the corpus."""
        if self.has_means_of_model or self.encode_query.prompt == self.encode.prompt:
            return self.means_at(layer)
        encode = self.encode_query.at(layer)
        vectors = {}
        numbers_of_languages = list(self.numbers_of_language.items())
        for language, numbers in progress(numbers_of_languages, "encoding lines as queries", "languages"):
            texts = [self.sentences[number].text for number in numbers[:_AS_QUERIES]]
            vectors[language] = encode.vectors(texts)
        return LanguageMeans.of(vectors)

    def _unit_queries(
        self, texts: Sequence[str], layer: int, languages: Sequence[str | None]
    ) -> tuple[np.ndarray, list[str | None]]:
        """The centred vectors of texts, with length 1, [N, H], and the language of each or None."""
        means = self.query_means_at(layer)
        vectors = self.encode_query.at(layer).vectors(texts)
        subtracted: list[str] = []  # the language whose mean is subtracted from each vector
        named: list[str | None] = []  # the language that the answer names
        for text, language, place, is_clear in zip(texts, languages, *means.nearest(vectors)):
            known = language or self.language_of_line.get(text)
            if known in means.languages:
                subtracted.append(known)
                named.append(known)
            else:
                nearest = means.languages[place]
                subtracted.append(nearest)
                named.append(nearest if is_clear and _is_prose(text) else None)
        return unit(means.centred(vectors, subtracted)), named

    def parse(self, request: dict) -> SearchInput:
        each = flag_of(request, "each", default=False)
        if each and not self.corpus_languages:
            raise UserError("'each' needs a corpus that names languages, as in de<=de.txt,fr<=fr.txt")
        centre = flag_of(request, "centre", self.centre)
        layer = self.encode.layer_of(request)
        language = None
        if request.get("language") and not centre:
            raise UserError("'language' is for centred vectors; leave it out, or give \"centre\": true")
        if centre:
            if self.takes_own_means:  # known before the corpus is encoded at this layer, which takes long
                languages = sorted(self.corpus_languages)
            else:
                languages = self.means_at(layer).languages  # raises the error if there are none
            language = text_of(request, "language", optional=True, choices=languages)
        return SearchInput(self.encode.parse(request), layer, each, centre, language)

    def search(self, text: str | Iterable[str], top_k: int = 5) -> list[dict] | list[list[dict]]:
        """The `top_k` sentences nearest to a text, best first, as `ernie_m.interface.Model.search` has them.

        Of several texts a list for each.
        """
        PredictionOptions(top_k=top_k)  # checks its value
        requests = parsed(self, [{"text": one} for one in as_list(text, "text")])
        answers = self.answer(requests, top_k)
        cut_count = sum(answer.get("cut", 0) for answer in answers)
        warn_if_cut("search", cut_count, len(answers), "texts", self.encode_query.max_seq_len)
        found = [answer["found"] for answer in answers]
        return found[0] if isinstance(text, str) else found

    def check_length(self, request: SearchInput) -> None:
        """Refuse a text that would be cut.

        Raises:
            UserError: it would be.
        """
        text = self.encode_query.prompt + request.text
        count = len(self.encode.model.tokenizer.encode(text))
        check_length("text", count, most=self.encode.max_seq_len - 2)  # without [CLS] and [SEP]

    def answer(self, requests: list[SearchInput], top_k: int | None = None) -> list[dict]:
        """Return an answer for each request; `top_k` is that of the options unless it is given."""
        answers: list[dict] = [{} for _ in requests]
        for kind in sorted({request.kind for request in requests}):
            layer, each, centre = kind
            rows = [row for row, request in enumerate(requests) if request.kind == kind]
            texts = [requests[row].text for row in rows]
            if centre:
                queries, languages = self._unit_queries(
                    texts, layer, [requests[row].language for row in rows]
                )
            else:
                queries = unit(self.encode_query.at(layer).vectors(texts))
            vectors = self.unit_vectors_at(layer, centre)
            hits_of_rows = self._search(queries, vectors, top_k or self.top_k, each)
            for place, (row, hits) in enumerate(zip(rows, hits_of_rows)):
                answers[row]["found"] = [self._as_json(hit) for hit in hits]
                if centre:
                    answers[row] |= {"centred": True, "language": languages[place]}
                cut = self.encode_query.features([texts[place]])[0].cut
                answers[row] |= remarks(self.encode.model.tokenizer, texts[place], cut=cut)
        return answers

    def _search(
        self, queries: np.ndarray, vectors: np.ndarray, top_k: int, each: bool = False
    ) -> list[list[Hit]]:
        """The sentences found for each query of [N, H], the nearest first.

        Args:
            each: whether to find the best sentence of each language, instead of the `top_k` best of all.
        """
        if not each:
            cosines, numbers = nearest(queries, vectors, min(top_k, len(vectors)))  # [N, top_k] each
            hits = []
            for numbers_of_query, cosines_of_query in zip(numbers.tolist(), cosines.tolist()):
                hits.append([Hit(*hit) for hit in zip(numbers_of_query, cosines_of_query)])
            return hits
        hits = [[] for _ in queries]
        for numbers in self.numbers_of_language.values():  # the numbers of sentences of the corpus
            cosines, places = nearest(queries, vectors[numbers], k=1)  # [N, 1] each
            for hits_of_query, cosine, place in zip(hits, cosines[:, 0].tolist(), places[:, 0].tolist()):
                hits_of_query.append(Hit(int(numbers[place]), cosine))
        return [sorted(hits_of_query, key=lambda hit: -hit.cosine) for hits_of_query in hits]

    def _as_json(self, hit: Hit) -> dict:
        sentence = self.sentences[hit.number]
        answer = {
            "line": sentence.line,
            "index": hit.number,
            "text": sentence.text,
            "cosine": round(hit.cosine, 6),
        }
        if sentence.language:
            answer["language"] = sentence.language
        return answer
