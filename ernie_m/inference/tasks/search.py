"""Semantic search in a corpus, and its index: {"text"} -> {"hits"}."""

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, overload

import numpy as np

from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions, parse_requests, to_list
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    SearchHit,
    check_length,
    get_caveats,
    get_flag,
    read_text_key,
)
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.model.checkpoint.weights import check_finite
from ernie_m.model.pipeline_config import DOCUMENT, QUERY
from ernie_m.reader.files.aligned_lines import Sentences
from ernie_m.reader.files.find_files import check_languages, split_file_list
from ernie_m.reader.text_featurizer import Example, log_truncation, warn_if_truncated
from ernie_m.utils.checksums import MANIFEST, UnsupportedFormatError, check_manifest, write_manifest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, is_blank, is_valid_unicode, lock_for_writing, read_json
from ernie_m.utils.logging import show_progress
from ernie_m.vectors.language_centering import FEWEST_SENTENCES, MEANS_POOLING, LanguageCentering
from ernie_m.vectors.nearest import find_neighbors, load_faiss
from ernie_m.vectors.pooling import compute_norms, encode_in_parts, normalize_vectors

EXAMPLES = 5  # example sentences of the web UI
_PART_ROWS = 65_536  # embeddings centered at a time
_AS_QUERIES = 64  # sentences per language encoded as queries, for the mean of queries
# Minimum share of letters in prose, exceeded by 99 % of 2,000 news sentences in ten languages.
_FEWEST_LETTERS = 0.75


class CorpusSentence(NamedTuple):
    """A sentence of a corpus.

    Attributes:
        line: the line number in the file, from 1.
        language: the language of the file; "" if not specified.
    """

    text: str
    line: int
    language: str


def read_corpus(corpus: str | Sequence[str]) -> list[CorpusSentence]:
    """Read the sentences of a corpus, without blank lines.

    Args:
        corpus: text files, as in "de<=de.txt,fr<=fr.txt", or a list of sentences.

    Raises:
        UserError: a file cannot be read, or all lines are blank; see also `check_languages`.
    """
    if not isinstance(corpus, str):
        return [CorpusSentence(text, line, language="") for line, text in enumerate(corpus, 1)]
    sentences = []
    files = split_file_list(corpus)
    check_languages(language for language, _ in files if language)
    for language, path in files:
        for line, text in enumerate(Sentences(path).read_texts(), 1):
            if not is_blank(text):
                sentences.append(CorpusSentence(text, line, language))
    if not sentences:
        raise UserError(f"--corpus {corpus}: all lines are blank (expected one sentence per line)")
    return sentences


def _is_prose(text: str) -> bool:
    """Return whether a text consists mostly of letters, so that its language can be detected."""
    characters = "".join(text.split())
    # Letters (L) and combining marks (M).
    letters = sum(unicodedata.category(character)[0] in "LM" for character in characters)
    return letters >= _FEWEST_LETTERS * len(characters)


class SearchInput(NamedTuple):
    """A search request.

    Attributes:
        each: whether to return the best hit of each language.
        center_by_language: whether to compare centered embeddings.
        language: the language of the text for centering; None: the language of the nearest mean.
    """

    text: str
    each: bool
    center_by_language: bool
    language: str | None


class SearchPredictor:
    """Search a corpus by cosine similarity: {"text", "each", ...} -> {"hits", "centered", "language"}.

    The hits are the `top_k` most similar sentences, or with "each" the most similar one of each language,
    with a score of at least `min_score`. The caveats "truncated" and "unknown_words" are added.

    With "center_by_language", the mean embedding of the language is subtracted from each embedding. The means
    are the model's, otherwise those of the corpus if it specifies at least two languages with
    FEWEST_SENTENCES each. The "language" of a text is the one in the request, otherwise that of an equal line
    of the corpus, otherwise that of the nearest mean. The returned "language" is None if no mean is clearly
    the nearest, or if the text is not prose.

    Attributes:
        unit_vectors: the normalized embeddings of the corpus, [N, H], computed or read from the index.
        lengths: the norms of the embeddings before normalization, [N, 1].

    Raises:
        UserError: both corpus and index are missing, one of them cannot be read, or the index was built with
            another model, layer or corpus.
    """

    fields: ClassVar[Fields] = {
        "text": REQUIRED_TEXT,
        "each": (bool, False),
        "center_by_language": (bool | None, None),
        "language": OPTIONAL_TEXT,
    }

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        if options.corpus is None and options.index is None:
            raise UserError(
                "--task search requires --corpus (a text file with one sentence per line) or "
                "--index (its search index)"
            )
        load_faiss()
        plain = replace(options, center_by_language=False, normalize=False)
        self.encode = EmbeddingPredictor(model, replace(plain, kind=DOCUMENT, prompt=None))
        self.encode_query = EmbeddingPredictor(model, replace(plain, kind=QUERY))
        self.sentences, embeddings = self._read_sentences(options)
        self.options = options
        languages = np.array([sentence.language for sentence in self.sentences])
        # Language, in the order of the corpus -> the indices of its sentences.
        self.numbers_of_language = {
            language: np.flatnonzero(languages == language) for language in dict.fromkeys(languages.tolist())
        }
        self.language_of_line = {line.text: line.language for line in self.sentences if line.language}
        counts = [len(numbers) for numbers in self.numbers_of_language.values()]
        has_own_means = len(self.corpus_languages) > 1 and min(counts) >= FEWEST_SENTENCES
        is_pooled_so = self.encode.pooling == MEANS_POOLING
        self.has_means_of_model = model.language_means_path is not None and is_pooled_so
        self.takes_own_means = has_own_means and not self.has_means_of_model
        self.center_by_language = options.center_by_language
        if self.center_by_language is None:
            self.center_by_language = self.has_means_of_model or has_own_means
        makes_index = options.index is not None and embeddings is None
        with lock_for_writing(options.index) if makes_index else nullcontext():
            if embeddings is None:
                embeddings = self._encode_corpus()
            if makes_index:
                write_index(options.index, self.encode, self.sentences, embeddings)
        # In place, because the corpus may exceed half the memory.
        self.lengths = compute_norms(embeddings)
        self.unit_vectors = np.divide(embeddings, self.lengths, out=embeddings)
        if self.center_by_language:  # computed before the first request
            _ = self.centered_vectors, self.query_means

    def _read_sentences(self, options: PredictionOptions) -> tuple[list[CorpusSentence], np.ndarray | None]:
        """Read the sentences of the corpus or index, and the embeddings of the index (None without an index).

        Raises:
            UserError: a file cannot be read, or the index was built from another corpus.
        """
        sentences = [] if options.corpus is None else read_corpus(options.corpus)
        if options.index is None or (sentences and not Path(options.index).exists()):
            return sentences, None
        kept_sentences, embeddings = read_index(options.index, self.encode)
        if sentences and sentences != kept_sentences:
            raise UserError(
                f"{options.index}: the index was built from another corpus. Set --index to another folder"
            )
        return kept_sentences, embeddings

    @property
    def corpus_languages(self) -> list[str]:
        """The languages that the corpus specifies."""
        return [language for language in self.numbers_of_language if language]

    def choose_examples(self) -> list[str]:
        """Return example sentences for the web UI: the shortest of each of the first EXAMPLES languages."""
        first_languages = islice(self.numbers_of_language.values(), EXAMPLES)
        return [min((self.sentences[row].text for row in rows), key=len) for rows in first_languages]

    def _encode_corpus(self) -> np.ndarray:
        """Compute the embeddings of the corpus, float32 [N, H]."""
        texts = [sentence.text for sentence in self.sentences]
        warn_if_truncated("the corpus", [Example(text) for text in texts], self.encode.encode)
        return encode_in_parts(self.encode.encode_texts, texts, "encoding the corpus")

    def _get_raw_embeddings(self, indices: np.ndarray) -> np.ndarray:
        """Return the unnormalized embeddings of the sentences at these indices, [n, H]."""
        return self.unit_vectors[indices] * self.lengths[indices]

    @cached_property
    def centered_vectors(self) -> np.ndarray:
        """The centered, normalized embeddings of the corpus, [N, H]."""
        embeddings = np.empty_like(self.unit_vectors)
        for language, numbers in self.numbers_of_language.items():
            for part in np.split(numbers, range(_PART_ROWS, len(numbers), _PART_ROWS)):
                # None: subtract the nearest mean from each embedding.
                languages = [language] * len(part) if language in self.means.languages else None
                embeddings[part] = normalize_vectors(
                    self.means.center(self._get_raw_embeddings(part), languages)
                )
        return embeddings

    @cached_property
    def means(self) -> LanguageCentering:
        """The language means of the model, or, if it has none, those of the corpus.

        Raises:
            UserError: neither the model nor the corpus has means.
        """
        if not self.takes_own_means:
            return self.encode.get_language_means()
        return LanguageCentering.from_embeddings(
            {code: self._get_raw_embeddings(rows) for code, rows in self.numbers_of_language.items()}
        )

    @cached_property
    def query_means(self) -> LanguageCentering:
        """The language means of queries, computed separately if their prompt differs."""
        if self.has_means_of_model or self.encode_query.prompt == self.encode.prompt:
            return self.means
        embeddings = {}
        numbers_of_languages = list(self.numbers_of_language.items())
        for language, numbers in show_progress(
            numbers_of_languages, "encoding lines as queries", "languages"
        ):
            texts = [self.sentences[number].text for number in numbers[:_AS_QUERIES]]
            embeddings[language] = self.encode_query.encode_texts(texts)
        return LanguageCentering.from_embeddings(embeddings)

    def _encode_queries(
        self, texts: Sequence[str], languages: Sequence[str | None]
    ) -> tuple[np.ndarray, list[str | None]]:
        """Return the centered, normalized embeddings of queries, [N, H], and the languages (None if unclear).

        Args:
            languages: the language of each query in its request; None: not specified.
        """
        means = self.query_means
        embeddings = self.encode_query.encode_texts(texts)
        subtracted: list[str] = []  # the language whose mean is subtracted
        named: list[str | None] = []  # the language in the response
        for text, language, index, is_clear in zip(texts, languages, *means.detect_languages(embeddings)):
            known = language or self.language_of_line.get(text)
            is_known = known in means.languages
            taken = known if is_known else means.languages[index]
            subtracted.append(taken)
            named.append(taken if is_known or (is_clear and _is_prose(text)) else None)
        return normalize_vectors(means.center(embeddings, subtracted)), named

    def parse(self, request: dict) -> SearchInput:
        each = get_flag(request, "each", default=False)
        if each and not self.corpus_languages:
            raise UserError("'each' requires a corpus with languages, as in --corpus de<=de.txt,fr<=fr.txt")
        is_centered = get_flag(request, "center_by_language", self.center_by_language)
        language = None
        if request.get("language") and not is_centered:
            raise UserError("'language' requires \"center_by_language\": true. Add it, or remove 'language'")
        if is_centered:
            language = read_text_key(request, "language", optional=True, choices=self.means.languages)
        return SearchInput(self.encode.parse(request), each, is_centered, language)

    @overload
    def search(  # type: ignore[overload-overlap]  # one text
        self, text: str, top_k: int = 5, min_score: float = -1.0
    ) -> list[SearchHit]: ...

    @overload
    def search(
        self, text: Iterable[str], top_k: int = 5, min_score: float = -1.0
    ) -> list[list[SearchHit]]: ...

    def search(
        self, text: str | Iterable[str], top_k: int = 5, min_score: float = -1.0
    ) -> list[SearchHit] | list[list[SearchHit]]:
        """Return the `top_k` sentences most similar to a text, like `ernie_m.api.Model.search`.

        For several texts, return a list for each text.
        """
        options = PredictionOptions(top_k=top_k, min_score=min_score)
        requests = parse_requests(self, [{"text": one} for one in to_list(text, "text")])
        predictions = self.predict(requests, options)
        cut_count = sum(prediction.get("truncated", 0) for prediction in predictions)
        log_truncation("search", cut_count, len(predictions), "texts", self.encode_query.max_seq_len)
        found = [prediction["hits"] for prediction in predictions]
        return found[0] if isinstance(text, str) else found

    def check_length(self, request: SearchInput) -> None:
        """Check that the text of a request does not exceed the maximum length.

        Raises:
            UserError: the text would be truncated.
        """
        text = self.encode_query.prompt + request.text
        count = len(self.encode.model.tokenizer.encode(text))
        check_length(count, max_tokens=self.encode.max_seq_len - 2)  # without [CLS] and [SEP]

    def predict(self, requests: list[SearchInput], options: PredictionOptions | None = None) -> list[dict]:
        """Return the prediction for each request, with its hits.

        Args:
            options: `top_k` and `min_score` of the hits; None: those of the predictor.
        """
        options = options or self.options
        predictions: list[dict] = [{} for _ in requests]
        for each, is_centered in sorted({(request.each, request.center_by_language) for request in requests}):
            rows = [
                row
                for row, asked in enumerate(requests)
                if (asked.each, asked.center_by_language) == (each, is_centered)
            ]
            texts = [requests[row].text for row in rows]
            embeddings = self.centered_vectors if is_centered else self.unit_vectors
            if is_centered:
                queries, languages = self._encode_queries(texts, [requests[row].language for row in rows])
            else:
                queries = normalize_vectors(self.encode_query.encode_texts(texts))
            hits_of_rows = self._search(queries, embeddings, options.top_k, each)
            for index, (row, hits) in enumerate(zip(rows, hits_of_rows)):
                predictions[row]["hits"] = [
                    self._hit_to_json(*hit) for hit in hits if round(hit[1], 6) >= options.min_score
                ]
                if is_centered:
                    predictions[row] |= {"centered": True, "language": languages[index]}
                cut = self.encode_query.tokenize_texts([texts[index]])[0].cut
                predictions[row] |= get_caveats(self.encode.model.tokenizer, texts[index], is_truncated=cut)
        return predictions

    def _search(
        self, queries: np.ndarray, vectors: np.ndarray, top_k: int, each: bool
    ) -> list[list[tuple[int, float]]]:
        """Return the (index, cosine) of the hits of each query, best first.

        Args:
            queries: the normalized embeddings of the queries, [n, H].
            vectors: the normalized embeddings of the corpus, [N, H].
            each: whether to return the best hit of each language, instead of the `top_k` best.
        """
        if not each:
            cosines, numbers = find_neighbors(queries, vectors, min(top_k, len(vectors)))  # [N, top_k] each
            return [list(zip(*hits)) for hits in zip(numbers.tolist(), cosines.tolist())]
        hits = [[] for _ in queries]
        for numbers in self.numbers_of_language.values():  # indices of sentences of one language
            cosines, indices = find_neighbors(queries, vectors[numbers], k=1)  # [N, 1] each
            for hits_of_query, cosine, index in zip(hits, cosines[:, 0].tolist(), indices[:, 0].tolist()):
                hits_of_query.append((int(numbers[index]), cosine))
        return [sorted(hits_of_query, key=lambda hit: -hit[1]) for hits_of_query in hits]

    def _hit_to_json(self, index: int, cosine: float) -> dict:
        """Return a hit as JSON values, given the index of its sentence."""
        text, line, language = self.sentences[index]
        hit = {"line": line, "index": index, "text": text, "score": round(cosine, 6)}
        return hit | ({"language": language} if language else {})


# Maximum distance between two normalized embeddings of one text by one model.
TOLERANCE = 1e-3
_SENTENCES = "sentences.jsonl"
_VECTORS = "vectors.npy"
_INDEX = "index.json"


def write_index(
    folder: str | os.PathLike,
    encode: EmbeddingPredictor,
    sentences: list[CorpusSentence],
    vectors: np.ndarray,
) -> None:
    """Write a search index.

    Args:
        encode: the encoder of the sentences, whose options are stored.
        vectors: the embeddings of the sentences, float32 [N, H].

    Raises:
        UserError: the directory cannot be written.
    """
    with atomic_dir(folder) as new:
        with open(new / _SENTENCES, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{json.dumps(sentence)}\n" for sentence in sentences)
        np.save(new / _VECTORS, vectors)
        facts = {
            "options": _get_embedding_options(encode),
            "first_vector": _embed_first_sentence(encode, sentences).tolist(),
        }
        (new / _INDEX).write_text(json.dumps(facts), encoding="utf-8")
        write_manifest(new / MANIFEST)


def read_index(
    folder: str | os.PathLike, encode: EmbeddingPredictor
) -> tuple[list[CorpusSentence], np.ndarray]:
    """Read the sentences and embeddings, float32 [N, H], of a search index.

    Args:
        encode: the encoder of the queries.

    Raises:
        UserError: a file is missing or corrupt, or the index was built with another encoder.
    """
    folder = Path(folder)
    try:
        check_manifest(folder / MANIFEST)
        with open(folder / _SENTENCES, encoding="utf-8") as file:
            sentences = [CorpusSentence(*json.loads(line)) for line in file]
        facts = read_json(folder / _INDEX)
        # Embeddings depend on these options and the model, which is identified by the first sentence.
        of_index = dict(facts["options"])
        first_vector = np.array(facts["first_vector"], np.float32)
        with open(folder / _VECTORS, "rb") as file:
            embeddings = np.lib.format.read_array(file)  # unlike np.load, it rejects archives
        _check_index(sentences, embeddings)
    except UnsupportedFormatError:
        raise
    except (UserError, OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{folder}: missing or corrupt search index ({error}). Delete it, and build "
            "it again from --corpus"
        ) from error
    options = _get_embedding_options(encode)
    if options != of_index:
        raise UserError(
            f"{folder}: the options of the index ({_format_options(of_index)}) differ from this search "
            f"({_format_options(options)}). Search with the options of the index, or build another one"
        )
    embedding = _embed_first_sentence(encode, sentences)
    is_same_model = (
        embedding.shape == first_vector.shape == embeddings.shape[1:]
        and np.linalg.norm(normalize_vectors(embedding[None]) - normalize_vectors(first_vector[None]))
        <= TOLERANCE
    )
    if not is_same_model:
        raise UserError(f"{folder}: the index was built with another model. Build one with this model")
    return sentences, embeddings


def _check_index(sentences: list[CorpusSentence], vectors: np.ndarray) -> None:
    """Check the contents of a search index.

    Raises:
        UserError: a sentence is invalid, or there is not one embedding per sentence.
    """
    kinds = [str, int, str]
    if not sentences or any(
        list(map(type, line)) != kinds or not line.text.strip() or not is_valid_unicode("".join(line[::2]))
        for line in sentences
    ):
        raise UserError(f"{_SENTENCES}: invalid line (expected a text, its line number and its language)")
    is_one_of_each = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(sentences)
    if not is_one_of_each:
        raise UserError(f"{_VECTORS}: invalid embeddings (expected one float32 vector per sentence)")
    check_finite("an embedding", compute_norms(vectors), _VECTORS)


def _get_embedding_options(predictor: EmbeddingPredictor) -> dict[str, Any]:
    """Return the options of an encoder that determine its embeddings."""
    return {
        "layer": predictor.layer,
        "pooling": predictor.pooling,
        "max_seq_len": predictor.max_seq_len,
    }


def _embed_first_sentence(predictor: EmbeddingPredictor, sentences: Sequence[CorpusSentence]) -> np.ndarray:
    """Compute the embedding of the first sentence, [H], which identifies the model."""
    return predictor.encode_texts([sentences[0].text])[0]


def _format_options(options: dict[str, Any]) -> str:
    """Format the options of an encoder for an error."""
    return ", ".join(f"{name} {value}" for name, value in options.items())
