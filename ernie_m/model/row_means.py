"""Means of rows of an embedding matrix, in NumPy. Does not import Paddle."""

import numpy as np


def compute_row_means(embedding_matrix: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Compute the mean token embedding of each text: [S, H].

    Args:
        embedding_matrix: word embeddings, [V, H].
        ids, lengths: token ids of all texts, int64 [N], and the number of tokens of each, int64 [S].
    """
    by_length = np.argsort(-lengths, kind="stable")  # texts, longest first
    lengths_in_order = lengths[by_length]
    starts = (np.cumsum(lengths) - lengths)[by_length]  # the index of the first token of each text
    # [S, H], in this order
    sums = np.zeros((len(lengths), embedding_matrix.shape[1]), embedding_matrix.dtype)
    # The number of texts with a token at position 0, 1, ...: the first ones of the order. `searchsorted`
    # requires ascending numbers, so lengths are negated.
    longest = int(lengths.max(initial=0))
    counts = np.searchsorted(-lengths_in_order, -np.arange(longest), side="left")
    for index, count in enumerate(counts.tolist()):
        tokens = ids[starts[:count] + index]  # the token of each of these texts at this position
        sums[:count] += embedding_matrix[tokens]
    divisors = np.maximum(lengths_in_order, 1)[:, None]  # [S, 1]; the sum of a text without tokens is 0
    means = np.empty_like(sums)
    means[by_length] = sums / divisors.astype(embedding_matrix.dtype)  # back in the order of the texts
    return means
