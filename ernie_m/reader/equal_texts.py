"""Hashes that identify equal texts, used by all deduplication.

With a maximum length, texts are equal if their truncated token ids are. Without, texts are equal if their
normalized texts are: no-break spaces, repeated spaces and full-width letters are ignored, but not case.
"""

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

from ernie_m.reader.tokenization import Tokenizer, normalize

_BATCH = 2048  # texts tokenized together


def normalize_text(text: str) -> str:
    """Normalize a text without a tokenizer: the official rules, NFKC, and collapsed white space."""
    return " ".join(unicodedata.normalize("NFKC", normalize(text)).split())


def hash_texts(
    texts: Iterable[str], tokenizer: Tokenizer | None = None, max_length: int | None = None
) -> np.ndarray:
    """Compute a hash of each text, uint64 [N]; equal texts have equal hashes.

    Args:
        tokenizer: normalizes the texts by its rules and its SentencePiece model; None: by `normalize_text`.
        max_length: the number of token ids to hash; None: hash the normalized texts.
    """
    if tokenizer is None:
        return hash_contents(normalize_text(text).encode() for text in texts)
    if max_length is None:
        return hash_contents(
            tokenizer.processor.Normalize(tokenizer.normalize(text)).encode() for text in texts
        )
    return hash_token_ids(ids[:max_length] for ids in _iter_token_ids(texts, tokenizer))


def hash_token_ids(sentences: Iterable[Collection[int]]) -> np.ndarray:
    """Compute a hash of the token ids of each sentence, uint64 [N]."""
    return hash_contents(np.asarray(ids, np.int64).tobytes() for ids in sentences)


def _iter_token_ids(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield the token ids of each text, tokenizing a bounded number of texts at a time."""
    texts = iter(texts)
    while batch := list(islice(texts, _BATCH)):
        yield from tokenizer.encode_batch(batch)


def hash_contents(contents: Iterable[bytes]) -> np.ndarray:
    """Compute a 64-bit BLAKE2b hash of each content, uint64 [N].

    The expected number of collisions among n contents is n^2 / 2^65.
    """
    return np.frombuffer(b"".join(blake2b(content, digest_size=8).digest() for content in contents), "<u8")
