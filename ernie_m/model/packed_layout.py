"""Where packed sequences lie, and who attends to whom. No Paddle here.

Symbols: see `ernie_m/model/ernie.py`. In every mask a row is a query and a column is a key.
"""

from functools import cached_property

import numpy as np

# The length of each sequence in a group, as a share of the group's longest, is at least this. A greater share
# makes fewer pads, but more groups.
SIMILAR = 0.7


class PackedLayout:
    """Where each of S sequences lies among N tokens, and who attends to whom.

    A sequence is some context tokens, then placeholders. All of its tokens attend to its context; a
    placeholder attends to itself as well. Nothing attends to another sequence. MMLM, TLM and every task are
    "all context"; CAMLM and the first stage of BTMLM have placeholders. With two sequences of 5 and 3 tokens,
    of which 3 and 3 are context:

                x1 x2 x3 M4 M5 | y1 y2 y3
        x1       1  1  1  .  . |  .  .  .
        x2       1  1  1  .  . |  .  .  .
        x3       1  1  1  .  . |  .  .  .
        M4       1  1  1  1  . |  .  .  .
        M5       1  1  1  .  1 |  .  .  .
        y1       .  .  .  .  . |  1  1  1
        y2       .  .  .  .  . |  1  1  1
        y3       .  .  .  .  . |  1  1  1

    Args:
        lengths: int [S], tokens of each sequence, at least 1.
        context_lengths: int [S], context tokens of each sequence, at least 1; None: all tokens are context.

    Attributes:
        lengths, context_lengths: int64 [S].
        starts: int64 [S], the index of each sequence's first token.
        tokens: N, the number of all tokens.
    """

    def __init__(self, lengths: np.ndarray, context_lengths: np.ndarray | None = None):
        self.lengths = np.asarray(lengths, np.int64)
        if context_lengths is None:
            context_lengths = self.lengths
        self.context_lengths = np.asarray(context_lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = int(self.lengths.sum())

    def padded_to(self, multiple: int) -> "PackedLayout":
        """Return the layout with one more sequence, if needed to make N a multiple of `multiple`."""
        missing = -self.tokens % multiple  # up to the next multiple
        if missing == 0:
            return self
        return PackedLayout(np.append(self.lengths, missing), np.append(self.context_lengths, missing))

    def places_in_sequence(self) -> np.ndarray:
        """Return the place of each token in its own sequence, from 0: int64 [N]."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.lengths)

    def sequence_numbers(self) -> np.ndarray:
        """Return the index of each token's sequence, from 0: int64 [N]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def is_context(self) -> np.ndarray:
        """Return whether each token is context: bool [N]."""
        return self.places_in_sequence() < np.repeat(self.context_lengths, self.lengths)

    def dense(self) -> np.ndarray:
        """Return the mask as a matrix, bool [N, N]: the definition, for tests and pictures."""
        sequence = self.sequence_numbers()
        same_sequence = sequence[:, None] == sequence  # [N, N]
        # A row sees the context of its own sequence, and itself.
        return (same_sequence & self.is_context()) | np.eye(self.tokens, dtype=bool)

    @cached_property
    def groups(self) -> list["Group"]:
        """Return the sequences in groups of similar length, the longest first."""
        order = np.argsort(-self.lengths, kind="stable")  # the sequences by descending length
        sorted_lengths = self.lengths[order]
        groups = []
        first = 0  # the place in `order` of the group's first and longest sequence
        for following in range(1, len(order) + 1):
            # The group ends where the following sequence is too short for it, or where there is none.
            if following == len(order) or sorted_lengths[following] < SIMILAR * sorted_lengths[first]:
                members = order[first:following]  # int64 [b], the indices of the group's sequences
                groups.append(
                    Group(self.starts[members], self.lengths[members], self.context_lengths[members])
                )
                first = following
        return groups

    def row_indices(self) -> np.ndarray:
        """Return the mask for paddle.nn.functional.flashmask_attention with causal=False, int64 [N, 2].

        Column j has (start, end): rows i > j are masked from `start` on, rows i < j are masked before `end`.
        The rows of its sequence see a context column; only its own row sees a placeholder's column.
        """
        column = np.arange(self.tokens)
        is_context = self.is_context()
        # The first row of each token's sequence, and the first row after that sequence: [N] each.
        first_row = np.repeat(self.starts, self.lengths)
        next_sequence = np.repeat(self.starts + self.lengths, self.lengths)
        start = np.where(is_context, next_sequence, column + 1)
        end = np.where(is_context, first_row, column)
        return np.stack([start, end], axis=-1)


class Group:
    """b sequences, which can be padded to an array [b, T].

    Attributes:
        starts, lengths, context_lengths: int64 [b], as in `PackedLayout`; the longest sequence comes first.
        longest: T, the greatest length.
        shape: b, T.
    """

    def __init__(self, starts: np.ndarray, lengths: np.ndarray, context_lengths: np.ndarray):
        self.starts = starts
        self.lengths = lengths
        self.context_lengths = context_lengths
        self.longest = int(lengths[0])
        self.shape = (len(lengths), self.longest)

    @cached_property
    def is_real(self) -> np.ndarray:
        """Which cells of the array are tokens and not pads: bool [b, T]."""
        return np.arange(self.longest) < self.lengths[:, None]

    @cached_property
    def token_indices(self) -> np.ndarray:
        """Return the indices of the group's tokens among the N tokens, row by row: int64 [sum of lengths]."""
        return (self.starts[:, None] + np.arange(self.longest))[self.is_real]

    def cell_to_token(self) -> np.ndarray:
        """Return the index of the token in each cell, among the N tokens: int64 [b, T].

        A pad's cell has the index of the first token of its sequence.
        """
        first = self.starts[:, None]  # [b, 1]
        return np.where(self.is_real, first + np.arange(self.longest), first)
