"""Layout and attention mask of packed sequences. Does not import Paddle.

In every mask a row is a query and a column is a key. `ernie_m/model/ernie.py` defines the symbols.
"""

from functools import cached_property

import numpy as np

# The length of each sequence in a group, as a fraction of the group's longest, is at least this. A higher
# value gives less padding but more groups.
SIMILAR = 0.7


class PackedLayout:
    """Layout of S sequences that are concatenated to N tokens, and their attention mask.

    A sequence has context tokens, then placeholders. All of its tokens attend to its context; a placeholder
    also attends to itself. Sequences do not attend to each other. MMLM, TLM and all tasks have only context;
    CAMLM and the first stage of BTMLM have placeholders. Two sequences of 5 and 3 tokens, with 3 and 3
    context tokens:

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
        lengths: int [S], number of tokens of each sequence, at least 1.
        context_lengths: int [S], number of context tokens of each sequence, at least 1; None: all tokens.

    Attributes:
        lengths, context_lengths: int64 [S].
        starts: int64 [S], the index of each sequence's first token.
        tokens: N, the total number of tokens.
        attended: number of pairs of tokens of which one attends to the other, the ones of the mask above.
    """

    def __init__(self, lengths: np.ndarray, context_lengths: np.ndarray | None = None):
        self.lengths = np.asarray(lengths, np.int64)
        if context_lengths is None:
            context_lengths = self.lengths
        self.context_lengths = np.asarray(context_lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = int(self.lengths.sum())
        placeholders = self.lengths - self.context_lengths
        self.attended = int(self.lengths @ self.context_lengths + placeholders.sum())

    def pad_to_multiple(self, multiple: int) -> "PackedLayout":
        """Return the layout with a filler sequence appended, if N is not a multiple of `multiple`."""
        # A sequence of its own, so that no other token attends to the filler.
        missing = -self.tokens % multiple  # tokens up to the next multiple
        if missing == 0:
            return self
        return PackedLayout(np.append(self.lengths, missing), np.append(self.context_lengths, missing))

    def positions_in_sequence(self) -> np.ndarray:
        """Return the index of each token in its sequence, from 0: int64 [N]."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.lengths)

    def sequence_indices(self) -> np.ndarray:
        """Return the index of each token's sequence, from 0: int64 [N]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def is_context(self) -> np.ndarray:
        """Return whether each token is context, not a placeholder: bool [N]."""
        return self.positions_in_sequence() < np.repeat(self.context_lengths, self.lengths)

    def to_dense_mask(self) -> np.ndarray:
        """Return the attention mask as a matrix, bool [N, N]: the definition, for tests and display."""
        sequence = self.sequence_indices()
        same_sequence = sequence[:, None] == sequence  # [N, N]
        # A row attends to the context of its sequence, and to itself.
        return (same_sequence & self.is_context()) | np.eye(self.tokens, dtype=bool)

    @cached_property
    def groups(self) -> list["SequenceGroup"]:
        """Divide the sequences into groups of similar length, longest first."""
        # One array padded to the longest sequence would be mostly padding, and an array for each sequence
        # many small products. Longest first: the first sequence of a group is as long as its array.
        order = np.argsort(-self.lengths, kind="stable")
        sorted_lengths = self.lengths[order]
        groups = []
        first = 0  # index into `order` of the group's first and longest sequence
        for following in range(1, len(order) + 1):
            # The group ends before a sequence that is too short, or at the end.
            if following == len(order) or sorted_lengths[following] < SIMILAR * sorted_lengths[first]:
                members = order[first:following]  # int64 [b], indices of the group's sequences
                groups.append(
                    SequenceGroup(self.starts[members], self.lengths[members], self.context_lengths[members])
                )
                first = following
        return groups

    def row_indices(self) -> np.ndarray:
        """Return the attention mask for paddle.nn.functional.flashmask_attention: int64 [N, 2].

        With causal=False, column j has (start, end): rows i > j are masked from `start` on, and rows i < j
        before `end`. All tokens of a sequence attend to a context token; only a placeholder itself attends
        to a placeholder.
        """
        column = np.arange(self.tokens)
        is_context = self.is_context()
        # The first row of each token's sequence, and the first row after that sequence: [N] each.
        first_row = np.repeat(self.starts, self.lengths)
        next_sequence = np.repeat(self.starts + self.lengths, self.lengths)
        start = np.where(is_context, next_sequence, column + 1)
        end = np.where(is_context, first_row, column)
        return np.stack([start, end], axis=-1)


class SequenceGroup:
    """A group of b sequences of similar length, to be padded to an array [b, T].

    Attributes:
        starts, lengths, context_lengths: int64 [b], as in `PackedLayout`; longest sequence first.
        longest: T, the maximum length.
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
        """Return the attention mask: bool [b, T], True for tokens, False for padding."""
        return np.arange(self.longest) < self.lengths[:, None]

    def cell_to_token(self) -> np.ndarray:
        """Return the packed index of the token in each cell of the padded array: int64 [b, T].

        Padding has the index of its sequence's first token.
        """
        # The index must exist, and the mask hides what it selects: a sequence always has a first token.
        first = self.starts[:, None]  # [b, 1]
        return np.where(self.is_real, first + np.arange(self.longest), first)
