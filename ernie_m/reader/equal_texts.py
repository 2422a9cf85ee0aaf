"""When two texts are equal. Whatever compares texts compares the keys of this file.

A model cannot tell texts apart whose ids are equal, cut to the length of its inputs. A corpus has no length
yet: there the texts are equal that sentencepiece gets in the same normal form. So no-break spaces, several
spaces and full-width letters make no difference; capital letters do.
"""

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

from ernie_m.reader.tokenization import Tokenizer, normalize

_BATCH = 2048  # texts that are cut into ids at a time


def normal_form(text: str) -> str:
    """What equal texts share where there is no tokenizer yet: the official rules, NFKC and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", normalize(text)).split())


def text_ids(
    texts: Iterable[str], tokenizer: Tokenizer | None = None, length: int | None = None
) -> np.ndarray:
    """A key of each text, uint64 [N]. Two texts are equal if their keys are.

    Args:
        tokenizer: its rules and then the normalizer of its piece model make the normal form. None: see
            `normal_form`.
        length: how many ids of a text are read; texts are equal if these are. None: if their normal forms
            are.
    """
    if tokenizer is None:
        return hash_contents(normal_form(text).encode() for text in texts)
    if length is None:
        return hash_contents(
            tokenizer.processor.Normalize(tokenizer.normalize(text)).encode() for text in texts
        )
    return hash_ids(ids[:length] for ids in _encode(texts, tokenizer))


def hash_ids(sentences: Iterable[Collection[int]]) -> np.ndarray:
    """A key of the ids of each sentence, uint64 [N]."""
    return hash_contents(np.asarray(ids, np.int64).tobytes() for ids in sentences)


def _encode(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """The ids of each text; memory does not grow with their number."""
    texts = iter(texts)
    while batch := list(islice(texts, _BATCH)):
        yield from tokenizer.encode_batch(batch)


def hash_contents(contents: Iterable[bytes]) -> np.ndarray:
    """64-bit hashes, uint64 [N]. Of n different contents about n^2 / 2^65 share one by chance."""
    return np.frombuffer(b"".join(blake2b(content, digest_size=8).digest() for content in contents), "<u8")
