"""Where packed sequences lie, and who attends to whom. No Paddle here.

Symbols: see `model/ernie_m.py`. In every mask a row is a query and a column is a key.
"""

from functools import cached_property

import numpy as np

# The length of each sequence in a group, as a share of the group's longest, is at least this. A greater share
# makes fewer pads, but more groups.
SIMILAR = 0.7


class Layout:
    """Where each of S sequences lies among N tokens, and who attends to whom.

    A sequence is some context tokens, then placeholders. All of its tokens attend to its context; a
    placeholder attends to itself as well. Nothing attends to another sequence. MMLM, TLM and every task are
    "all context"; CAMLM and the first stage of BTMLM have placeholders. With lengths 5, 3 and contexts 3, 3:

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
        contexts: int [S], how many of them are context, at least 1; None: all.

    Attributes:
        lengths, contexts: int64 [S].
        starts: int64 [S], the index of each sequence's first token.
        tokens: N.
    """

    def __init__(self, lengths: np.ndarray, contexts: np.ndarray | None = None):
        self.lengths = np.asarray(lengths, np.int64)
        self.contexts = self.lengths if contexts is None else np.asarray(contexts, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = int(self.lengths.sum())

    def padded_to(self, multiple: int) -> "Layout":
        """The layout with a further sequence at the end, if one is needed to make N a multiple."""
        missing = -self.tokens % multiple
        if missing == 0:
            return self
        return Layout(np.append(self.lengths, missing), np.append(self.contexts, missing))

    def columns(self) -> np.ndarray:
        """The place of each token in its own sequence, from 0: int64 [N]."""
        return np.arange(self.tokens) - np.repeat(self.starts, self.lengths)

    def sequence_numbers(self) -> np.ndarray:
        """The number of each token's sequence, from 0: int64 [N]."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def is_context(self) -> np.ndarray:
        """Whether each token is context: bool [N]."""
        return self.columns() < np.repeat(self.contexts, self.lengths)

    def dense(self) -> np.ndarray:
        """The mask as a matrix, bool [N, N]: the definition, for tests and pictures."""
        number = self.sequence_numbers()
        same_sequence = number[:, None] == number
        return (same_sequence & self.is_context()) | np.eye(self.tokens, dtype=bool)

    @cached_property
    def groups(self) -> list["Group"]:
        """The sequences in groups of similar length, the longest first."""
        order = np.argsort(-self.lengths, kind="stable")  # of the sequences, by descending length
        lengths = self.lengths[order]
        groups = []
        first = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or lengths[end] < SIMILAR * lengths[first]:
                numbers = order[first:end]
                groups.append(Group(self.starts[numbers], self.lengths[numbers], self.contexts[numbers]))
                first = end
        return groups

    def as_one_group(self) -> "Group":
        """All sequences as one group, however long they are."""
        order = np.argsort(-self.lengths, kind="stable")  # by descending length
        return Group(self.starts[order], self.lengths[order], self.contexts[order])

    def row_indices(self) -> np.ndarray:
        """The mask for paddle.nn.functional.flashmask_attention with causal=False, int64 [N, 2].

        Column j has (start, end): rows i > j are masked from `start` on, rows i < j are masked before `end`.
        The rows of its sequence see a context column; only its own row sees a placeholder's column.
        """
        column = np.arange(self.tokens)
        is_context = self.is_context()
        first_row = np.repeat(self.starts, self.lengths)  # of each token's sequence, [N]
        next_sequence = np.repeat(self.starts + self.lengths, self.lengths)  # its first row, [N]
        start = np.where(is_context, next_sequence, column + 1)
        end = np.where(is_context, first_row, column)
        return np.stack([start, end], axis=-1)


class Group:
    """b sequences, which can be padded to an array [b, T].

    Attributes:
        starts, lengths, contexts: int64 [b], as in `Layout`; the longest sequence comes first.
        shape: b, and T, the greatest length.
    """

    def __init__(self, starts: np.ndarray, lengths: np.ndarray, contexts: np.ndarray):
        self.starts = starts
        self.lengths = lengths
        self.contexts = contexts
        self.shape = (len(lengths), int(lengths[0]))

    @cached_property
    def is_real(self) -> np.ndarray:
        """Which cells of the array are tokens and not pads: bool [b, T]."""
        return np.arange(self.shape[1]) < self.lengths[:, None]

    @cached_property
    def masked(self) -> np.ndarray | None:
        """The columns that a row must not attend to: bool [b, 1, T, T], or [b, 1, 1, T] for all rows alike.

        None: every row attends to every column.
        """
        column = np.arange(self.shape[1])
        if self.contexts.min() == self.shape[1]:  # neither pads nor placeholders
            return None
        behind_context = (column >= self.contexts[:, None])[:, None, None]  # [b, 1, 1, T]
        if (self.contexts == self.lengths).all():  # pads, which may attend to anything, but no placeholders
            return behind_context
        return behind_context & ~np.eye(len(column), dtype=bool)  # a placeholder attends to itself

    @cached_property
    def tokens(self) -> np.ndarray:
        """The tokens in the order of the array's real cells, int64 [sum of lengths]."""
        column = np.arange(self.shape[1])
        return (self.starts[:, None] + column)[self.is_real]

    def cells(self) -> np.ndarray:
        """The token in each cell of the array; in a pad's cell the sequence's first. int64 [b, T]."""
        column = np.arange(self.shape[1])
        return np.where(self.is_real, self.starts[:, None] + column, self.starts[:, None])
