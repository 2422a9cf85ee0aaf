"""A search index: a folder with a corpus and its vectors, so that a later search need not encode it.

sentences.jsonl    [text, line, language] of each sentence
vectors.npy        their vectors, not centred, float32 [N, H]
index.json         how these were made, and the vector of the first sentence alone
manifest.json      sizes and checksums of these files
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.inference.tasks.encode import EncodeTexts
from ernie_m.utils.checksums import MANIFEST, check_manifest, write_manifest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, read_json
from ernie_m.vectors.pooling import unit

# The greatest distance between two unit vectors of one text and one model.
TOLERANCE = 1e-3
_SENTENCES = "sentences.jsonl"
_VECTORS = "vectors.npy"
_INDEX = "index.json"


class CorpusSentence(NamedTuple):
    """A sentence of a corpus.

    Attributes:
        line: its number in its file, from 1.
        language: "" if the corpus does not name languages.
    """

    text: str
    line: int
    language: str


def write_index(
    folder: str | os.PathLike, encode: EncodeTexts, sentences: list[CorpusSentence], vectors: np.ndarray
) -> None:
    """Write the folder.

    Args:
        vectors: those that the encoder has made of the sentences, float32 [N, H].

    Raises:
        UserError: it cannot be written.
    """
    with atomic_dir(folder) as new:
        with open(new / _SENTENCES, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{json.dumps(sentence)}\n" for sentence in sentences)
        np.save(new / _VECTORS, vectors)
        facts = {"options": _options(encode), "first_vector": _first_vector(encode, sentences).tolist()}
        (new / _INDEX).write_text(json.dumps(facts), encoding="utf-8")
        write_manifest(new / MANIFEST)


def read_index(folder: str | os.PathLike, encode: EncodeTexts) -> tuple[list[CorpusSentence], np.ndarray]:
    """The sentences and their vectors, for searches with this encoder.

    Raises:
        UserError: a file is missing or damaged, or the encoder makes other vectors.
    """
    folder = Path(folder)
    try:
        check_manifest(folder / MANIFEST)
        with open(folder / _SENTENCES, encoding="utf-8") as file:
            sentences = [CorpusSentence(*json.loads(line)) for line in file]
        facts = read_json(folder / _INDEX)
        # Which vector a text has: these options, and the model, which is known again by the first sentence.
        of_index = facts["options"]
        first_vector = np.array(facts["first_vector"], np.float32)
        vectors = np.load(folder / _VECTORS)
    except (UserError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: no whole search index is there ({error}); make it again") from error
    options = _options(encode)
    if options != of_index:
        raise UserError(
            f"{folder}: the index has {_in_words(of_index)}, but this search {_in_words(options)}; "
            "search with the options of the index, or make another one"
        )
    vector = _first_vector(encode, sentences)
    is_same_model = (
        vector.shape == first_vector.shape
        and np.linalg.norm(unit(vector[None]) - unit(first_vector[None])) <= TOLERANCE
    )
    if not is_same_model:
        raise UserError(f"{folder}: the index is of another model; make one with this model")
    return sentences, vectors


def _options(encode: EncodeTexts) -> dict[str, Any]:
    return {"layer": encode.layer, "pooling": encode.pooling, "max_seq_len": encode.max_seq_len}


def _first_vector(encode: EncodeTexts, sentences: Sequence[CorpusSentence]) -> np.ndarray:
    (vector,) = encode.vectors([sentences[0].text])
    return vector


def _in_words(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
