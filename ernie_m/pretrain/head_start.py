"""A head start for a new encoder: initial weights that hold what a small model would first learn, slowly.

- Word vectors by counting. A piece's row of a table counts the pieces that stand near it in a line, and those
  of its translations; as positive pointwise mutual information (Levy and Goldberg, 2014), of whose largest
  singular vectors the word vectors are made. So words with the same neighbours or translations begin alike.
- Positions are sinusoids, and the queries and keys of the first layer begin as turns of them. By positions
  alone, each head would attend to one of the places before and after. But queries and keys read the words,
  too, so that at first a head attends mostly to the token itself. With frequencies at equal distances the
  heads do attend to their places, and CAMLM and retrieval are worse: that is not what helps.

Everything is trained on as usual: only the start differs.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import paddle

from ernie_m.model.config import FIRST_POSITION
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.pretrain.training_text import TrainingText
from ernie_m.reader.batching import windows
from ernie_m.training import distributed
from ernie_m.utils.logging import logger

_WINDOW = 5  # a neighbour at distance d <= 5 counts 1 / d
_CONTEXTS = 8192  # the most columns of the table, for the most frequent pieces; it has 4 V x 8192 bytes
_SMOOTHING = 0.75  # exponent of the contexts' frequencies (Levy, Goldberg and Dagan, 2015)
_ROUNDS = 2  # rounds of the iteration for the singular vectors: two give 93 % of these, eight 99.7
_EXTRA = 32  # how many singular vectors are computed beside those that are taken
_NEIGHBOUR_SCORE = 4.0  # the score of the intended place in the first layer, by positions alone
_LINES = 1000  # how many lines are counted at a time
_TINY = 1e-9  # a divisor is at least this, because it may be 0
_PAIRS = 100  # how many pairs are counted at a time; a pair of n and m tokens has n x m counts


def give_head_start(model: PreTrainingModel, text: TrainingText, max_seq_len: int, seed: int) -> None:
    """Change the random weights of a new model as the top of this file says.

    Args:
        text: what is counted.
        max_seq_len: the sides of a pair are cut to it, as they are in training.
        seed: the seed of the directions of the word vectors.
    """
    began = time.monotonic()
    words = model.ernie_m.embeddings.word_embeddings.weight  # [V, H]
    rows = words.numpy()
    dtype = rows.dtype
    hidden_size = rows.shape[1]
    vectors = word_vectors(text, max_seq_len, hidden_size, seed)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # [V, 1]
    words.set_value((lengths * vectors).astype(dtype))  # each is as long as the random one in its place

    positions = model.ernie_m.embeddings.position_embeddings.weight  # [P, H]
    position_count = positions.shape[0]
    # Radians a position: wavelengths of 2 pi to 2 P positions, [H / 2].
    frequencies = np.geomspace(1.0, np.pi / position_count, hidden_size // 2)
    # Words and positions have the same variance; a sinusoid's is half of its squared amplitude.
    amplitude = np.sqrt(2) * np.median(lengths) / np.sqrt(hidden_size)
    table = amplitude * sinusoids(position_count, frequencies)
    with paddle.no_grad():
        positions[FIRST_POSITION:] = table[FIRST_POSITION:].astype(dtype)

    attention = model.ernie_m.encoder.layers[0].self_attn
    query = attention.q_proj.weight  # [H, H], inputs and outputs
    key = attention.k_proj.weight
    added_to_query, added_to_key = neighbour_weights(hidden_size, attention.num_heads, frequencies)
    query.set_value(query.numpy() + added_to_query.astype(dtype))
    key.set_value(key.numpy() + added_to_key.astype(dtype))
    distributed.broadcast_([words, positions, query, key])  # other machines may round otherwise
    logger.info("head start: word vectors counted in %.0f s", time.monotonic() - began)


def word_vectors(text: TrainingText, max_seq_len: int, size: int, seed: int) -> np.ndarray:
    """Vectors of length 1: float64 [V, size].

    Those of pieces that stand beside no other are 0. So a [MASK] is at first its position alone. [UNK] is
    counted like any piece.
    """
    table = count_neighbours(text, max_seq_len)  # [V, contexts]
    # Positive pointwise mutual information, in place: max(0, log(P(context | piece) / P(context))).
    piece_totals = table.sum(axis=1, keepdims=True)  # [V, 1]
    smoothed_totals = table.sum(axis=0) ** _SMOOTHING  # [contexts]
    table /= np.maximum(piece_totals, _TINY)
    table /= np.maximum(smoothed_totals / smoothed_totals.sum(), _TINY)
    np.maximum(table, 1.0, out=table)
    np.log(table, out=table)
    # Its largest singular vectors, by subspace iteration (Halko, Martinsson and Tropp, 2011).
    rng = np.random.default_rng(seed)
    width = min(size + _EXTRA, *table.shape)
    basis = rng.normal(size=(table.shape[1], width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(table.T @ (table @ basis))
    singular_vectors, values, _ = np.linalg.svd(table @ basis, full_matrices=False)
    taken = min(size, width)
    vectors = np.zeros((len(table), size))
    vectors[:, :taken] = singular_vectors[:, :taken] * np.sqrt(values[:taken])
    # Turned at random, so that no coordinate is larger than the others.
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    vectors = vectors @ turn
    vectors *= piece_totals > 0  # 0 for pieces that stand beside no other
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)


def count_neighbours(text: TrainingText, max_seq_len: int) -> np.ndarray:
    """How often, by weight, each piece stands near each of the most frequent pieces: float32 [V, contexts].

    A piece gets as much weight from its translation as from its window.
    """
    frequencies = text.piece_counts().sum(axis=0)  # [V]
    contexts = np.argsort(-frequencies, kind="stable")[:_CONTEXTS]  # the most frequent pieces
    column_of_piece = np.full(len(frequencies), -1)  # [V]; -1: the piece has no column
    column_of_piece[contexts] = np.arange(len(contexts))
    table = np.zeros((len(frequencies), len(contexts)), np.float32)

    def count(pieces: np.ndarray, neighbours: np.ndarray, weights: np.ndarray) -> None:
        """Add the weight of each two pieces that stand near each other, in both directions; all are [n]."""
        for rows, context_pieces in ((pieces, neighbours), (neighbours, pieces)):
            columns = column_of_piece[context_pieces]
            has_column = columns >= 0
            cells = rows[has_column] * len(contexts) + columns[has_column]  # places in the flat table
            np.add.at(table.reshape(-1), cells, weights[has_column])  # adds each time that a cell occurs

    for lines in _lines(text):
        ids = np.concatenate(lines)
        line_of_token = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
        for distance in range(1, _WINDOW + 1):
            # Each token with the one `distance` places later, if that is in the same line.
            in_one_line = line_of_token[:-distance] == line_of_token[distance:]
            pieces = ids[:-distance][in_one_line]
            neighbours = ids[distance:][in_one_line]
            count(pieces, neighbours, np.full(len(pieces), 1 / distance, np.float32))
    window_weight = 2 * sum(1 / distance for distance in range(1, _WINDOW + 1))
    for pairs in text.pairs.values():
        for part in windows(pairs, _PAIRS):
            # Each piece of one side with each piece of the other.
            pieces = []
            neighbours = []
            weights = []
            for first, second in part:
                a = first[:max_seq_len]
                b = second[:max_seq_len]
                pieces.append(np.repeat(a, len(b)))
                neighbours.append(np.tile(b, len(a)))
                weight = window_weight / max(len(a), len(b), 1)
                weights.append(np.full(len(a) * len(b), weight, np.float32))
            count(np.concatenate(pieces), np.concatenate(neighbours), np.concatenate(weights))
    return table


def _lines(text: TrainingText) -> Iterator[list[np.ndarray]]:
    """All lines of the text and of the pairs, up to `_LINES` of them at a time."""
    for language in text.mono:
        stream = text.corpus.mono[language]
        for first in range(0, stream.num_lines, _LINES):
            yield [stream.line(number) for number in range(first, min(first + _LINES, stream.num_lines))]
    for pairs in text.pairs.values():
        for part in windows(pairs, _LINES):
            yield list(itertools.chain.from_iterable(part))  # both sides of each pair


def sinusoids(positions: int, frequencies: np.ndarray) -> np.ndarray:
    """sin and cos of each position times each of F frequencies, in turns: [positions, 2 F]."""
    angles = np.arange(positions)[:, None] * frequencies  # [positions, F]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, -1)


def neighbour_weights(
    hidden_size: int, num_heads: int, frequencies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the query and key weights of a layer, [H, H] each (inputs, outputs).

    Each head takes every num_heads-th sinusoid. The key is the sinusoid at its token, the query that at the
    intended place: -1, 1, -2, 2, ... for head 0, 1, 2, 3, ... The places beside it score little less, because
    most wavelengths are long.
    """
    query = np.zeros((hidden_size, hidden_size))
    key = np.zeros((hidden_size, hidden_size))
    head_size = hidden_size // num_heads
    # A sinusoid of amplitude a has the variance a^2 / 2, and words have the same variance. So the variance of
    # word + sinusoid is a^2, and the layer norm divides the sum by a: the sinusoids come to this layer with
    # amplitude 1. Let D be the head size. At the intended place the query equals the key, and each of the
    # D / 2 pairs of a sine and a cosine adds gain^2 (sin^2 + cos^2) / sqrt(D) = gain^2 / sqrt(D) to the
    # score. All pairs together add gain^2 sqrt(D) / 2, which is to be _NEIGHBOUR_SCORE.
    gain = np.sqrt(2 * _NEIGHBOUR_SCORE / np.sqrt(head_size))
    for head in range(num_heads):
        distance = head // 2 + 1
        offset = -distance if head % 2 == 0 else distance
        for pair in range(head_size // 2):
            index = pair * num_heads + head  # of the frequency
            turn = frequencies[index] * offset
            # The inputs and the outputs for sine and cosine.
            sin_in = 2 * index
            cos_in = sin_in + 1
            sin_out = head * head_size + 2 * pair
            cos_out = sin_out + 1
            # sin(x + turn) = sin x cos turn + cos x sin turn
            query[sin_in, sin_out] = gain * np.cos(turn)
            query[cos_in, sin_out] = gain * np.sin(turn)
            # cos(x + turn) = cos x cos turn - sin x sin turn
            query[sin_in, cos_out] = -gain * np.sin(turn)
            query[cos_in, cos_out] = gain * np.cos(turn)
            key[sin_in, sin_out] = gain
            key[cos_in, cos_out] = gain
    return query, key
