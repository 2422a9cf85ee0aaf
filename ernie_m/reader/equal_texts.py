"""Equality of texts, by keys that are used by all deduplication.

To a model, texts are equal if their truncated ids are. Without a maximum length, texts are equal if their
normalized forms are: no-break spaces, repeated spaces and full-width letters are ignored, but not case.
"""

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

from ernie_m.reader.tokenization import Tokenizer, normalize

_BATCH = 2048  # texts tokenized together


def normal_form(text: str) -> str:
    """Normalize a text without a tokenizer: the official rules, NFKC and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", normalize(text)).split())


def text_ids(
    texts: Iterable[str], tokenizer: Tokenizer | None = None, length: int | None = None
) -> np.ndarray:
    """Compute a key of each text, uint64 [N]. Two texts are equal if their keys are.

    Args:
        tokenizer: applies its rules and the normalizer of its SentencePiece model. None: see `normal_form`.
        length: the number of ids to compare; None: compare normalized texts.
    """
    if tokenizer is None:
        return hash_contents(normal_form(text).encode() for text in texts)
    if length is None:
        return hash_contents(
            tokenizer.processor.Normalize(tokenizer.normalize(text)).encode() for text in texts
        )
    return hash_ids(ids[:length] for ids in _encode(texts, tokenizer))


def hash_ids(sentences: Iterable[Collection[int]]) -> np.ndarray:
    """Compute a key of the ids of each sentence, uint64 [N]."""
    return hash_contents(np.asarray(ids, np.int64).tobytes() for ids in sentences)


def _encode(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the ids of each text, in bounded memory."""
    texts = iter(texts)
    while batch := list(islice(texts, _BATCH)):
        yield from tokenizer.encode_batch(batch)


def hash_contents(contents: Iterable[bytes]) -> np.ndarray:
    """Compute 64-bit hashes, uint64 [N]. The expected number of collisions of n contents is n^2 / 2^65."""
    return np.frombuffer(b"".join(blake2b(content, digest_size=8).digest() for content in contents), "<u8")
