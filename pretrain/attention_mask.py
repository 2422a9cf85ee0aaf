"""Who may attend to whom. Rows are queries, columns are keys, True = may attend.

These dense matrices are the definition. Training computes the compact form of CAMLM and BTMLM stage 1
(`compact`), which tests hold equal to them. In every matrix a row sees at least itself, and a pad is visible
to its own row only.
"""

from collections.abc import Sequence

import numpy as np


def full(length: int) -> np.ndarray:
    """MMLM, TLM and BTMLM stage 2: all tokens see all tokens (paper Figure 2 a, b). bool [T, T].

    MMLM, x2 masked:

                 x1 M2 x3
            x1    1  1  1
            M2    1  1  1
            x3    1  1  1

    TLM, x2, y5 and y6 masked:

                 x1 M2 x3 | y4 M5 M6 y7
            x1    1  1  1 |  1  1  1  1
            M2    1  1  1 |  1  1  1  1
            x3    1  1  1 |  1  1  1  1
            y4    1  1  1 |  1  1  1  1
            M5    1  1  1 |  1  1  1  1
            M6    1  1  1 |  1  1  1  1
            y7    1  1  1 |  1  1  1  1
    """
    return np.ones((length, length), dtype=bool)


def camlm(side: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """CAMLM (paper section 3, Figure 2 c): a masked token sees itself and the other side's unmasked tokens.

    Unmasked tokens see the unmasked tokens of their own side only: had they seen the other side, they would
    carry a masked token's neighbours into its view one layer later.

                 x1 M2 x3 | y4 M5 M6 y7
            x1    1  .  1 |  .  .  .  .
            M2    .  1  . |  1  .  .  1
            x3    1  .  1 |  .  .  .  .
            y4    .  .  . |  1  .  .  1
            M5    1  .  1 |  .  1  .  .
            M6    1  .  1 |  .  .  1  .
            y7    .  .  . |  1  .  .  1

    Args:
        side: [T], 0 for the source ([CLS] and the first [SEP] with it), 1 for the target.
        masked: bool [T].

    Returns:
        bool [T, T].
    """
    same_side = side[:, None] == side[None, :]  # [T, T]
    visible = ~masked[None, :] & (same_side ^ masked[:, None])
    return visible | np.eye(len(side), dtype=bool)


def btmlm_stage1(context_length: int, placeholders: int, separators: int = 2) -> np.ndarray:
    """BTMLM stage 1 (paper Figure 4): a placeholder sees the sentence and itself, the sentence sees itself.

    It is CAMLM's matrix with nothing masked in the source and placeholders as the target's masked tokens:

                 x1 x2 x3 x4 | M5 M6 M7
            x1    1  1  1  1 |  .  .  .
            x2    1  1  1  1 |  .  .  .
            x3    1  1  1  1 |  .  .  .
            x4    1  1  1  1 |  .  .  .
            M5    1  1  1  1 |  1  .  .
            M6    1  1  1  1 |  .  1  .
            M7    1  1  1  1 |  .  .  1

    Args:
        context_length: C, tokens of [CLS] X [SEP].
        placeholders: P.
        separators: 2 for the order [CLS] X [SEP] [SEP] M_1 .. M_P [SEP]: the second and third [SEP] see only
            each other, and nothing sees them. 0 leaves them out, as the compact form does.

    Returns:
        bool [T, T], T = C + P + separators.
    """
    masked = np.zeros(context_length + placeholders + separators, dtype=bool)
    first = context_length + separators // 2
    masked[first : first + placeholders] = True
    side = (np.arange(len(masked)) >= context_length).astype(np.int64)
    return camlm(side, masked)


def compact(context_length: int, placeholders: int) -> np.ndarray:
    """One row of the compact form: C context tokens, then P placeholders. bool [C+P, C+P].

    A CAMLM pair is two such rows: (unmasked source, masks of the target) and (unmasked target, masks
    of the source).

                 x1 x3 | M5 M6
            x1    1  1 |  .  .
            x3    1  1 |  .  .
            M5    1  1 |  1  .
            M6    1  1 |  .  1

                 y4 y7 | M2
            y4    1  1 |  .
            y7    1  1 |  .
            M2    1  1 |  1
    """
    return btmlm_stage1(context_length, placeholders, separators=0)


def pad(matrices: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Matrices of different sizes in one array; pads see only themselves. bool [B, 1, T, T], T = `length`."""
    padded = np.zeros((len(matrices), 1, length, length), dtype=bool)
    padded[:, 0, np.arange(length), np.arange(length)] = True
    for row, matrix in enumerate(matrices):
        padded[row, 0, : len(matrix), : len(matrix)] = matrix
    return padded


def from_key_mask(valid: np.ndarray) -> np.ndarray:
    """All real tokens see all real tokens. valid bool [B, T] -> bool [B, 1, T, T]."""
    return _with_diagonal(valid[:, None, :, None] & valid[:, None, None, :])


def from_compact(context_length: int, valid: np.ndarray) -> np.ndarray:
    """C context columns, then placeholders, written out. valid bool [B, T] -> bool [B, 1, T, T]."""
    in_context = np.arange(valid.shape[1]) < context_length
    return _with_diagonal(valid[:, None, :, None] & (valid & in_context)[:, None, None, :])


def _with_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix | np.eye(matrix.shape[-1], dtype=bool)
