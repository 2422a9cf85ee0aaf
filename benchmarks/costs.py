"""What pre-training costs in memory, operations and communication, worked out on paper.

All formulae of benchmarks/plan.py are here. Bytes, operations (multiplications and additions), seconds.
Symbols: H hidden size, L layers, N heads, V vocabulary, B rows of a micro-batch, T tokens of a row, M masked
positions of a micro-batch, n cards, P parameters.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

FLOAT, HALF = 4, 2
OBJECTIVES = 4
POSITIONS = 514
MASKED = 0.15  # of the tokens
# CAMLM's compact form of a pair: two rows, each with one side as context, its placeholders beside it.
COMPACT_TOKENS = 1 + MASKED
MOST_LOGITS = (
    1 << 27
)  # model/word_table.py: kept on a CPU; of the accuracy, at the lines of the log, on a GPU
WIDE_SLICE = 1 << 14  # model/word_table.py: words whose logits exist at a time on a GPU


@dataclass(frozen=True)
class Size:
    """A model's shape."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    languages: int = 96

    @property
    def table(self) -> int:
        """The word table, the largest parameter by far: V H."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Weights of the layers' products: 4 H^2 of attention, 8 H^2 of the feed-forward pair."""
        return self.layers * 12 * self.hidden**2

    @property
    def encoder(self) -> int:
        """All layers: the products' weights, 9 H of their biases, 4 H of two layer norms."""
        return self.matrices + self.layers * 13 * self.hidden

    @property
    def trained(self) -> int:
        """Layers, tables, the embeddings' layer norm, the head (H^2 + 3 H + V), language embeddings."""
        hidden = self.hidden
        tables = self.table + (POSITIONS + self.languages) * hidden + 2 * hidden
        return self.encoder + tables + hidden**2 + 3 * hidden + self.vocabulary

    @property
    def parameters(self) -> int:
        """With the pooler (H^2 + H), which pre-training does not use: no gradient, no moments."""
        return self.trained + self.hidden**2 + self.hidden


# On a CPU, in float32. What model/layers.py and model/word_table.py keep for the backward pass, per token in
# units of H floats, and per score in floats:
#   input of q, k and v 1; q, k, v 3
CPU_QKV = 1 + 3
#   behind attention, in the last layer of the masked positions alone: attention's output 1; two layer norms'
#   normed input 1 each; input of linear1 1; gelu's derivative 4; its output 4; two dropouts, a byte an
#   element, 1/4 each
CPU_BEHIND = 1 + 2 + 1 + 4 + 4 + 2 * 0.25
#   softmax 1; dropout's byte 1/4; its output 1
CPU_SCORE = 1 + 0.25 + 1
#   the embeddings' layer norm 1 and dropout 1/4
CPU_EMBEDDINGS = 1 + 0.25


def cpu_memory(
    size: Size, rows: int, length: int, masked: int, recompute: bool, base: float
) -> dict[str, float]:
    """Peak memory of masked-LM steps in one process on a CPU (float32, AdamW), by part, in bytes.

    The peak is at the beginning of the backward pass. Gradients count in full there, although most come into
    being later: malloc keeps what a step frees (utils/runtime.py), and they have places of their own.

    Args:
        base: the process without a model: Python, Paddle, what malloc holds.
    """
    token = FLOAT * rows * length * size.hidden
    score = FLOAT * rows * size.heads * length**2
    layer = (CPU_QKV + CPU_BEHIND) * token + CPU_SCORE * score
    last = CPU_QKV * token + CPU_SCORE * score + CPU_BEHIND * FLOAT * masked * size.hidden
    logits = FLOAT * masked * size.vocabulary
    return {
        "base": base,
        "weights": FLOAT * size.parameters,
        "gradients": FLOAT * size.trained,
        "optimizer": 2 * FLOAT * size.trained,
        "activations": (size.layers * token + layer if recompute else (size.layers - 1) * layer + last)
        + CPU_EMBEDDINGS * token
        + score,  # the mask, laid out for each head
        "logits": logits if masked * size.vocabulary <= MOST_LOGITS else 0.0,
        # In the backward pass of a layer: of the feed-forward pair, or of the scores.
        "in flight": max(9 * token, 3 * score + 3 * token),
    }


class Precision(NamedTuple):
    """Bytes of a number.

    product: what the matrix products take and give. norm: what a layer norm takes. weight: in the model.
    master: the float32 copy that the optimizer holds. cast: the copy of a weight that a product takes.
    """

    product: int
    norm: int
    weight: int
    master: int
    cast: int


PRECISIONS = {
    "float32": Precision(FLOAT, FLOAT, FLOAT, 0, 0),
    "O1": Precision(HALF, FLOAT, FLOAT, 0, HALF),  # weights in float32, products in half precision
    "O2": Precision(HALF, HALF, HALF, FLOAT, 0),  # weights in half precision, master weights in float32
}


def gpu_layer(size: Size, precision: Precision, columns: float, fused: bool, behind: float = 1.0) -> float:
    """Bytes that a layer keeps of a token for the backward pass.

    With all in half precision and plain attention this is 34 H + 5 N T, as in Korthikanti et al. 2022,
    "Reducing Activation Recomputation in Large Transformer Models", equation 1.

    Args:
        columns: of scores per token: T, or C + 1 of a placeholder in the compact form.
        fused: flash or memory-efficient attention: no scores, a float32 log-sum-exp per head.
        behind: share of the tokens for which the layer is computed behind its attention.
    """
    product, hidden = precision.product, size.hidden
    # As on a CPU, with gelu's input; layer norms' inputs, two dropouts
    kept = product * (1 + 3) + behind * (product * (1 + 1 + 4 + 4) + 2 * precision.norm + 2 * 1)
    scores = FLOAT * size.heads if fused else size.heads * columns * (2 * product + 1)
    return hidden * kept + scores


@dataclass(frozen=True)
class Run:
    """A run as its configuration has it.

    Args:
        batch: sequences of a step, on all cards.
        micro_batch: most of one objective at a time on a card.
        steps: of the run.
        precision: a key of `PRECISIONS`.
    """

    batch: int
    length: int
    micro_batch: int
    steps: int
    precision: str
    recompute: bool
    fused: bool = True

    def sequences(self, cards: int) -> float:
        """Of a step, on one card."""
        return self.batch / cards

    def rows(self, cards: int) -> int:
        """Sequences of the largest micro-batch: a card has its part of each objective."""
        return max(1, min(self.micro_batch, math.ceil(self.sequences(cards) / OBJECTIVES)))


def held(size: Size, stage: int, cards: int) -> float:
    """Parameters whose moments the fullest card has.

    Stage 1 divides whole parameters, and the word table is one.
    """
    return size.trained if stage == 0 else max(size.table, size.trained / cards)


def gpu_memory(size: Size, run: Run, stage: int, cards: int, runtime: float) -> dict[str, float]:
    """Memory of the fullest card, by part, in bytes.

    Args:
        stage: of sharding, 0 or 1.
        runtime: what CUDA, NCCL and Paddle take.
    """
    precision = PRECISIONS[run.precision]
    tokens = run.rows(cards) * run.length * COMPACT_TOKENS  # CAMLM's are the most
    layer = tokens * gpu_layer(size, precision, run.length, run.fused)
    last = tokens * gpu_layer(size, precision, run.length, run.fused, behind=MASKED / COMPACT_TOKENS)
    kept = tokens * size.hidden * precision.norm  # a layer's input
    masked = run.rows(cards) * run.length * MASKED
    own = held(size, stage, cards)
    activations = size.layers * kept + layer if run.recompute else (size.layers - 1) * layer + last
    # Slices of logits, of their exponentials and of their gradient; and the two gradients of the word table,
    # as input and as output, before they are added to the parameter's own.
    logits = 3 * FLOAT * masked * WIDE_SLICE + 2 * FLOAT * size.table
    return {
        "runtime": runtime,
        "weights": precision.weight * size.trained + precision.cast * size.matrices,
        "gradients": FLOAT * size.trained,
        "optimizer": (2 * FLOAT + precision.master) * own,
        "activations": activations,
        "logits": logits,
    }


def operations(size: Size, run: Run) -> float:
    """Of a whole step on all cards: matrix products, forward and backward.

    A layer: 24 H^2 a token and 4 H a score, 18 of the 24 in the last layer of the masked positions alone; the
    head: 2 H (H + V) a masked position; the backward pass twice that; recompute adds a forward pass of the
    layers, the loss one of the logits. BTMLM's first stage, a quarter of the sequences, is one more forward
    pass of the layers, and a head of a seventh of the words.
    """
    hidden, length = size.hidden, run.length
    encoder = size.layers * (24 * hidden**2 * length + 4 * hidden * length**2)  # of a sequence
    encoder -= 18 * hidden**2 * length * (1 - MASKED)
    logits = 2 * length * MASKED * hidden * size.vocabulary
    head = 2 * length * MASKED * hidden**2 + logits
    compact = (OBJECTIVES - 1 + COMPACT_TOKENS) / OBJECTIVES
    passes = 4 if run.recompute else 3
    stage1 = (encoder + logits / 7) / OBJECTIVES
    return run.batch * (passes * encoder * compact + 3 * head + logits + stage1)


def communication(size: Size, cards: int) -> float:
    """Bytes that a card sends in a step; collectives in rings, each of P numbers sends P (n - 1) / n.

    Stage 0: gradients are summed once a step: a reduce-scatter and an all-gather of P floats. Stage 1: the
    same volume, to the owners and back.
    """
    return (cards - 1) / cards * 2 * FLOAT * size.trained


@dataclass(frozen=True)
class Card:
    """What is assumed of a card.

    Args:
        flops: at its peak, in the precision of the run's products.
        utilisation: part of it that the products reach, with all that is no product.
        inner, outer: bytes a second that a card sends to its neighbour within a machine, and to another one.
        per_machine: cards of a machine.
    """

    flops: float
    utilisation: float
    inner: float
    outer: float
    per_machine: int


def seconds(size: Size, run: Run, cards: int, card: Card) -> tuple[float, float]:
    """Of a step: computing, and communicating. They are added up: no overlap is counted on."""
    speed = card.inner if cards <= card.per_machine else card.outer
    compute = operations(size, run) / (cards * card.flops * card.utilisation)
    return compute, communication(size, cards) / speed
