"""Model inputs of a text or a pair of texts, and warnings about texts that are cut, empty or not covered."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ernie_m.reader.batching import iter_chunks, pad
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import warn_about_written_tokens, warn_if_not_covered
from ernie_m.utils.logging import logger

T = TypeVar("T")
UNKNOWN = -1  # an unknown label
_MOST_MEASURED = 10_000  # maximum number of rows to check


class Example(NamedTuple):
    """A text or a pair of texts with its label. `text_b` and `qid` (query id) are None if missing.

    `label` is a label id, or `UNKNOWN` without labels. For regression it is the target, a float. For
    multi-label classification it is a tuple with 1, 0 or `UNKNOWN` for each label id.
    """

    text_a: str
    text_b: str | None = None
    label: int | float | tuple[int, ...] = UNKNOWN
    qid: str | None = None

    @property
    def has_blank_text(self) -> bool:
        """Whether one of the texts is blank."""
        return not (self.text_a.strip() and (self.text_b is None or self.text_b.strip()))


class Feature(NamedTuple):
    """A tokenized example."""

    ids: list[int]  # with special tokens
    label: int | float | tuple[int, ...]  # `Example.label`
    cut: bool = False  # whether the texts were truncated


@dataclass(frozen=True)
class ExampleBatch:
    """A micro-batch of B classification or regression examples of one process."""

    input_ids: np.ndarray  # int64 [B, T], padded on the right to the longest input
    labels: np.ndarray  # int64 [B]; for regression float32 [B], for multi-label float32 [B, labels]
    indices: np.ndarray  # int64 [B], the index of each row in the data set
    count: int  # the divisor of the loss: examples of the step, over all processes


class TextFeaturizer:
    """Tokenizes examples, `[CLS] A [SEP] [SEP] B [SEP]` or without text_b `[CLS] A [SEP]`, and collates them.

    Args:
        label_type: the dtype of `ExampleBatch.labels`.
        prompt: the prompt to prepend to each text_a.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, label_type: type = np.int64, prompt: str = ""):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_seq_len = max_seq_len
        self._label_type = label_type

    def __call__(self, examples: Sequence[Example]) -> list[Feature]:
        """Tokenize examples; each distinct text is tokenized once."""
        warn_about_repeated_prompt(self.prompt, [example.text_a for example in examples])
        first_texts = [self.prompt + example.text_a for example in examples]
        second_texts = [example.text_b or "" for example in examples]
        distinct = list(dict.fromkeys(first_texts + second_texts))  # the query of many documents only once
        ids_of = dict(zip(distinct, self.tokenizer.encode_batch(distinct)))
        features = []
        for example, text_a, text_b in zip(examples, first_texts, second_texts):
            ids_a = ids_of[text_a]
            ids_b = ids_of[text_b]
            input_ids = self.tokenizer.build_inputs_from_ids(ids_a, ids_b, self.max_seq_len)
            special_tokens = 4 if ids_b else 2
            is_cut = len(input_ids) < len(ids_a) + len(ids_b) + special_tokens
            features.append(Feature(input_ids, example.label, is_cut))
        return features

    def count_targets(self, features: Sequence[Feature]) -> int:
        """Return the divisor of the loss: the number of examples."""
        return len(features)

    def collate(self, features: Sequence[Feature], indices: np.ndarray, count: int) -> ExampleBatch:
        """Collate features into a padded batch; see `Featurizer`."""
        input_ids = pad([feature.ids for feature in features], self.tokenizer.pad_id)
        labels: np.ndarray = np.asarray([feature.label for feature in features], self._label_type)
        return ExampleBatch(input_ids, labels, np.asarray(indices, np.int64), count)


def warn_about_repeated_prompt(prompt: str, texts: Sequence[str], name: str | os.PathLike = "") -> None:
    """Log a warning, once per process, if most texts already begin with the prompt.

    Args:
        prompt: the prompt that will be prepended to the texts.
        name: the file of the texts, for the warning; "" without a file.
    """
    if prompt.strip() and 2 * sum(text.lstrip().startswith(prompt.strip()) for text in texts) > len(texts):
        _warn_prompt(prompt, f"{name}: " if name else "")


@cache
def _warn_prompt(prompt: str, location: str) -> None:
    logger.warning(
        "%smost texts already begin with the prompt %r, which is prepended to each text, so it occurs twice. "
        "Remove it from the texts",
        location,
        prompt,
    )


def sample_evenly(items: Sequence[T]) -> list[T]:
    """Return up to `_MOST_MEASURED` items, evenly spaced from the first to the last."""
    indices = np.linspace(0, len(items) - 1, min(len(items), _MOST_MEASURED))
    return [items[round(index)] for index in indices.tolist()]


def log_truncation(
    name: object, count: int, total: int, noun: str, max_length: int, option: str = "max_seq_len"
) -> None:
    """Log a warning with the number of truncated texts, if there are any.

    Args:
        name: the source of the texts.
        count: the number of truncated texts, out of `total`.
        noun: a plural noun for the texts, such as "questions".
        max_length: the maximum length in tokens, set by `option`.
    """
    if count:
        logger.warning(
            "%s: %d of %d %s are truncated to %d tokens (%s)", name, count, total, noun, max_length, option
        )


def warn_if_truncated(name: object, items: Sequence[Any], encode: Any, noun: str = "texts") -> None:
    """Log warnings if sampled texts are truncated, empty, or not covered by the vocabulary.

    Args:
        name: the source of the texts.
        items: the items of the data set, of which a sample is checked.
        encode: tokenizes the items, such as `TextFeaturizer`.
        noun: a plural noun for the items, such as "rows".
    """
    items = sample_evenly(items)
    features = encode(items)
    cut = sum(bool(feature.cut) for feature in features)
    log_truncation(name, cut, len(items), f"sampled {noun}", encode.max_seq_len)
    empty = sum(isinstance(item, Example) and item.has_blank_text for item in items)
    if empty:
        logger.warning("%s: %d of %d %s have an empty text", name, empty, len(items), noun)
    warn_if_not_covered(name, encode.tokenizer, [feature.ids for feature in features])
    warn_about_written_tokens(name, items)


def encode_in_chunks(
    texts: Sequence, encode: Callable[[list], list], chunk_size: int
) -> Iterator[list[Feature]]:
    """Tokenize texts in order, `chunk_size` at a time, so that memory does not grow with their number.

    Args:
        encode: tokenizes a list of texts, such as a `Featurizer`.

    Yields:
        The features of `chunk_size` texts, with ids as int32 [n].
    """
    for window in iter_chunks(texts, chunk_size):
        yield [feature._replace(ids=np.asarray(feature.ids, np.int32)) for feature in encode(window)]
