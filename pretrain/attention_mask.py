"""Who may attend to whom. Rows are queries, columns are keys, True = may attend.

These matrices are the definition. Training computes CAMLM and the first stage of BTMLM as sequences of
context and placeholders (`compact`); tests compare the two. In every matrix a row sees at least itself. In
MMLM, TLM and the second stage of BTMLM all tokens see all tokens (paper Figure 2 a, b).
"""

import numpy as np


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
    # A masked row sees the other side, an unmasked row its own side, and both only the unmasked tokens there.
    seen_side = np.where(masked[:, None], ~same_side, same_side)  # [T, T]
    visible = seen_side & ~masked[None, :]
    return visible | np.eye(len(side), dtype=bool)  # every row sees itself


def compact(context_length: int, placeholders: int) -> np.ndarray:
    """C context tokens, then P placeholders, each of which sees the context and itself. bool [C+P, C+P].

    This is CAMLM's matrix with nothing masked in the source and placeholders as the target. BTMLM stage 1
    (paper Figure 4) is one such sequence:

                 x1 x2 x3 x4 | M5 M6 M7
            x1    1  1  1  1 |  .  .  .
            x2    1  1  1  1 |  .  .  .
            x3    1  1  1  1 |  .  .  .
            x4    1  1  1  1 |  .  .  .
            M5    1  1  1  1 |  1  .  .
            M6    1  1  1  1 |  .  1  .
            M7    1  1  1  1 |  .  .  1

    A CAMLM pair is two: (unmasked source, masks of the target) and (unmasked target, masks of the source).

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
    is_placeholder = np.arange(context_length + placeholders) >= context_length
    # The context is the source, and the placeholders are the target, in which every token is masked.
    return camlm(side=is_placeholder.astype(np.int64), masked=is_placeholder)
