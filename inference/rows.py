"""Texts as rows of ids, and rows through an engine. No paddle here."""

from collections.abc import Iterator, Sequence

import numpy as np

from inference.engines import Engine, in_batches
from inference.loading import Loaded
from reader.tokenization import Tokenizer
from utils.errors import UserError


def pair_rows(
    tokenizer: Tokenizer, texts_a: Sequence[str], texts_b: Sequence[str | None], max_seq_len: int
) -> tuple[list[list[int]], list[int]]:
    """The ids of each pair (or text alone) with special tokens, and the numbers of those that were cut."""
    ids = tokenizer.encode_batch([*texts_a, *(text or "" for text in texts_b)])
    rows, cut = [], []
    for number, (a, b, text_b) in enumerate(zip(ids, ids[len(texts_a) :], texts_b)):
        pair = None if text_b is None else b
        rows.append(tokenizer.build_from_ids(a, pair, max_seq_len))
        if len(a) + len(b) + (2 if pair is None else 4) > max_seq_len:
            cut.append(number)
    return rows, cut


def run(
    engine: Engine, rows: Sequence[Sequence[int]], model: Loaded, batch_tokens: int
) -> Iterator[tuple[list[int], np.ndarray, dict[str, np.ndarray]]]:
    """`inference.engines.in_batches` with the pad id of the model.

    Raises:
        UserError: a row is longer than the model's position table.
    """
    longest = max(map(len, rows), default=0)
    if longest > model.longest:
        raise UserError(f"{longest} tokens; the model takes at most {model.longest}")
    return in_batches(engine, rows, model.config["pad_token_id"], batch_tokens)
