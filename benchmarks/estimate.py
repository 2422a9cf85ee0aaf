"""How long a step takes on a card, from counts: operations, bytes and kernel calls. Nothing is measured.

A part of a step takes its operations divided by what the card's products reach, plus its bytes divided by
what its memory reaches. Meanwhile the host starts one kernel after the other, so a step takes the longer of
the two times. Only fine-tuning waits for the host: pre-training gives each kernel enough to do.
"""

from typing import NamedTuple

FLOAT = 4  # bytes
HALF = 2
MASKED = 0.15  # share of the tokens
REACHED_BANDWIDTH = 0.8  # of the data sheet
CALL = 20e-6  # seconds of the host for one kernel call
RECIPE_TOKENS = 2048 * 512 // 8  # of a step on one of eight cards (paper, Table 11)


class Card(NamedTuple):
    """A GPU: its data sheet, and what share of the peak is assumed to be reached.

    Attributes:
        tflops: dense products in half precision.
        bandwidth: of its memory, GB/s.
        memory: GB.
        link: to another card of the machine, GB/s each way.
        products: the share of `tflops` of large products.
        attention: the share of `tflops` of FlashMask; without it, of the products of padded groups.
        fused: whether it has FlashMask.
    """

    tflops: float
    bandwidth: float
    memory: float
    link: float
    products: float
    attention: float
    fused: bool = True


CARDS = {
    "V100": Card(125, 900, 32, 150, products=0.70, attention=0.40, fused=False),
    "4090": Card(165, 1008, 24, 32, products=0.80, attention=0.50),
    "A100": Card(312, 2039, 80, 300, products=0.75, attention=0.40),
    "H100": Card(989, 3350, 80, 450, products=0.55, attention=0.25),
    "H200": Card(989, 4800, 141, 450, products=0.55, attention=0.25),
    "L4": Card(121, 300, 24, 32, products=0.60, attention=0.40),
}


class ModelShape(NamedTuple):
    """The sizes of a model."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    languages: int = 96
    positions: int = 514

    @property
    def table(self) -> int:
        """Weights of the word table, the largest parameter."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Weights of the layers' products: 4 H^2 of attention, 8 H^2 of the feed-forward pair."""
        return self.layers * 12 * self.hidden**2

    @property
    def trained(self) -> int:
        """Parameters that are trained. Layers have biases and norms (13 H); the pooler is not used."""
        hidden = self.hidden
        tables = self.table + (self.positions + self.languages) * hidden + 2 * hidden
        head = hidden**2 + 3 * hidden + self.vocabulary
        return self.matrices + self.layers * 13 * hidden + tables + head


# Numbers of H that the operations between the products of a layer read and write for one token.
FORWARD_NUMBERS = {
    "biases of q, k, v and the output": 4 * 2,
    "biases of the feed-forward pair": 4 * 2 + 2,
    "dropout with its mask, and the sum": 2 * 5.5,
    "layer norms": 2 * 2,
    "gelu": 4 * 2,
}
BACKWARD_NUMBERS = {
    "biases": 5 + 4,
    "dropout": 2 * 2.5,
    "sums of gradients at the residuals": 2 * 3,
    "sum of the gradients of q, k and v": 2 * 3,
    "layer norms": 2 * 3,
    "gelu": 4 * 3,
}
LAYER_NUMBERS = sum(FORWARD_NUMBERS.values()) + sum(BACKWARD_NUMBERS.values())
# Bytes that are read and written for one score without FlashMask, in half precision.
SCORE_BYTES = sum({
    "forward: product": 2, "bias": 4, "softmax": 4, "dropout with its mask": 5, "product with the values": 2,
    "backward: gradient of the weights": 2, "that of the values": 2, "dropout of it": 5, "softmax of it": 6,
    "those of queries and keys": 4,
}.values())  # fmt: skip
# Bytes of one logit: model/fused_loss.py names them, and tests/model/test_fused_loss.py counts them.
LOGIT_BYTES = 24
# Bytes of one weight of the word table in a micro-batch.
TABLE_BYTES = sum({
    "copy in half precision": 6, "its padding": 4, "gradient by the loss": 2, "without padding": 4,
    "in float32, times the factor from above": 14, "gradient by the look-up": 4, "sum of the two": 12,
    "sum over micro-batches": 12,
}.values())  # fmt: skip
# Bytes of one parameter in an update.
UPDATE_BYTES = sum({"norm": 4, "clipping": 8, "AdamW reads": 16, "and writes": 12}.values())

# Kernel calls of an XNLI step of 12 layers with FlashMask, counted on a CPU.
COUNTED_CALLS = {"forward": 308, "backward": 302}
LINEAR_LAYERS = 12 * 6 + 2
# On a GPU a product and its bias are one call (`linear_v2`). But autocast casts the weight and the bias
# before it, and their gradients after it: `linear_v2` is on the white list of paddle/amp/amp_lists.py.
PASS_CALLS = {name: count - LINEAR_LAYERS + 2 * LINEAR_LAYERS for name, count in COUNTED_CALLS.items()}
UPDATE_CALLS = 240  # norm, clipping and update: at most (tests/training/test_grouped_adam.py)
XNLI_ROWS = 32
XNLI_LENGTH = 37  # tokens, in the mean


def products(shape: ModelShape) -> float:
    """Operations of the layers' products for one token in a forward pass.

    In the last layer, 18 of the 24 H^2 are needed only at masked positions.
    """
    return 2 * shape.matrices - 18 * shape.hidden**2 * (1 - MASKED)


def scores(shape: ModelShape, length: float) -> float:
    """Operations of attention for one token in a forward pass: 4 H per score of a head's size."""
    return 4 * shape.layers * shape.hidden * length


def head(shape: ModelShape) -> float:
    """Operations of the masked-LM head for one token in a forward pass."""
    return 2 * MASKED * shape.hidden * (shape.hidden + shape.vocabulary)


def operations(shape: ModelShape, length: int, recompute: bool = False) -> float:
    """Operations of pre-training for one token: forward pass, and the backward pass with twice as many.

    Recompute adds a forward pass. Stage 1 of BTMLM adds one over a quarter of the sequences, with a head over
    a seventh of the words.
    """
    encoder = products(shape) + scores(shape, length)
    passes = 4 if recompute else 3
    return passes * encoder + 3 * head(shape) + (encoder + head(shape) / 7) / 4


class Work(NamedTuple):
    """What one part of a step does."""

    products: float = 0.0  # operations
    attention: float = 0.0  # operations
    moved: float = 0.0  # bytes

    def seconds(self, card: Card) -> float:
        """The time on a card."""
        peak = card.tflops * 1e12
        return (
            self.products / (card.products * peak)
            + self.attention / (card.attention * peak)
            + self.moved / (REACHED_BANDWIDTH * card.bandwidth * 1e9)
        )

    def times(self, count: float) -> "Work":
        """The work of so many."""
        return Work(*(count * amount for amount in self))


def pretraining_parts(
    shape: ModelShape, length: int, micro_batch: int, tokens: float, fused: bool, recompute: bool = False
) -> dict[str, Work]:
    """The work of a card in one step of pre-training, by part.

    Args:
        length: tokens of a sequence.
        micro_batch: tokens of a micro-batch.
        tokens: of the step on this card.
        fused: whether attention is FlashMask.
    """
    forward_again = (1 if recompute else 0) + 0.25  # for recompute, and for stage 1 of BTMLM
    passes = 3 + forward_again
    # The backward pass of FlashMask computes the scores again: five products for two.
    attention_passes = 3.5 + forward_again if fused else passes
    scores_moved = 0.0 if fused else SCORE_BYTES * shape.layers * shape.heads * length
    logits = MASKED * shape.vocabulary
    between = HALF * LAYER_NUMBERS * shape.layers * shape.hidden * passes / 3
    micro_batches = max(1.0, tokens / micro_batch)
    return {
        "products": Work(products=passes * products(shape)).times(tokens),
        "attention": Work(attention=attention_passes * scores(shape, length), moved=scores_moved).times(
            tokens
        ),
        "between products": Work(moved=between).times(tokens),
        "loss": Work(products=3 * head(shape), moved=LOGIT_BYTES * logits).times(tokens),
        "word table": Work(moved=TABLE_BYTES * shape.table).times(micro_batches),
        "update": Work(moved=UPDATE_BYTES * shape.trained),
    }


class Speed(NamedTuple):
    """An estimate of pre-training on one card of eight."""

    tokens_per_second: float
    share_of_peak: float
    shares: dict[str, float]  # of the time, by part


def pretraining_speed(shape: ModelShape, length: int, micro_batch: int, card: Card) -> Speed:
    """The speed of a card in the recipe, where eight cards share a step; without their sums."""
    parts = pretraining_parts(shape, length, micro_batch, RECIPE_TOKENS, card.fused)
    seconds = {name: work.seconds(card) for name, work in parts.items()}
    total = sum(seconds.values())
    share = operations(shape, length) * RECIPE_TOKENS / total / (card.tflops * 1e12)
    shares = {name: part / total for name, part in seconds.items()}
    return Speed(RECIPE_TOKENS / total, share, shares)


def fine_tuning_seconds(
    shape: ModelShape, tokens: float, length: float, card: Card, micro_batches: int = 1
) -> float:
    """Seconds of a fine-tuning step: of the host or of the card, whichever takes longer.

    The word table moves by rows, at most a few per cent of it, which are left out.

    Args:
        tokens: of the step, without pads.
        length: tokens of a sequence in the mean.
        micro_batches: of the step, one after the other.
    """
    passes = micro_batches * (PASS_CALLS["forward"] + PASS_CALLS["backward"])
    host = CALL * (passes + UPDATE_CALLS) * shape.layers / 12
    layers = Work(
        products=3 * 2 * shape.matrices,
        attention=3.5 * scores(shape, length),
        moved=HALF * LAYER_NUMBERS * shape.layers * shape.hidden,
    )
    update = Work(moved=UPDATE_BYTES * shape.matrices)
    return max(host, layers.times(tokens).seconds(card) + update.seconds(card))
