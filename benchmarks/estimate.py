"""How long a step takes on a card, from counts: operations, bytes and kernel calls. Nothing is measured.

A part of a step takes its operations divided by what the card's products reach, plus its bytes divided by
what its memory reaches. Meanwhile the host starts one kernel after the other, so a step takes the longer of
the two times. Only fine-tuning waits for the host: pre-training gives each kernel enough to do.
"""

from typing import NamedTuple

# Bytes of a number.
FLOAT = 4
HALF = 2
MASKED = 0.15  # share of the tokens that are predicted
REACHED_BANDWIDTH = 0.8  # share of the data sheet's bandwidth; an assumption
CALL_SECONDS = 20e-6  # of the host, to start one kernel; an assumption
RECIPE_TOKENS = 2048 * 512 // 8  # of a step on one of eight cards (paper, Table 11)


class Card(NamedTuple):
    """A GPU: its data sheet, and what share of the peak is assumed to be reached.

    Attributes:
        tflops: the peak of dense products in half precision.
        bandwidth: of its memory, GB/s.
        memory: GB.
        link: to another card of the machine, GB/s each way.
        product_share: the share of `tflops` that large products reach.
        attention_share: the share of `tflops` that attention reaches: FlashMask or, without it, products over
            padded groups of sequences.
        fused: whether it has FlashMask.
    """

    tflops: float
    bandwidth: float
    memory: float
    link: float
    product_share: float
    attention_share: float
    fused: bool = True


# Name -> card; the numbers are its tflops, bandwidth, memory and link.
CARDS = {
    "V100": Card(125, 900, 32, 150, product_share=0.70, attention_share=0.40, fused=False),
    "4090": Card(165, 1008, 24, 32, product_share=0.80, attention_share=0.50),
    "A100": Card(312, 2039, 80, 300, product_share=0.75, attention_share=0.40),
    "H100": Card(989, 3350, 80, 450, product_share=0.55, attention_share=0.25),
    "H200": Card(989, 4800, 141, 450, product_share=0.55, attention_share=0.25),
    "L4": Card(121, 300, 24, 32, product_share=0.60, attention_share=0.40),
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
        """The number of weights of the word table, which is the largest parameter."""
        return self.vocabulary * self.hidden

    @property
    def matrices(self) -> int:
        """Weights in the layers' products: in each, 4 H^2 of attention and 8 H^2 of the feed-forward pair."""
        return self.layers * (4 + 8) * self.hidden**2

    @property
    def trained(self) -> int:
        """The number of weights that pre-training trains. The pooler is not among them."""
        hidden = self.hidden
        norm = 2 * hidden
        embeddings = self.table + (self.positions + self.languages) * hidden + norm
        # Biases of q, k, v and the output, of the feed-forward pair (4 H and H), and two norms.
        biases_and_norms = self.layers * ((4 + 4 + 1) * hidden + 2 * norm)
        # A dense layer, a norm, and a bias for each word; the products with the words take the word table.
        head = hidden**2 + hidden + norm + self.vocabulary
        return embeddings + self.matrices + biases_and_norms + head


# What the operations between the products of a layer read and write for one token, as multiples of H numbers
# in half precision. A dropout mask has one byte for each number, which counts as half a number.
FORWARD_NUMBERS = {
    "biases of q, k, v and the output": 4 * 2,
    "biases of the feed-forward pair, 4 H and H wide": 4 * 2 + 2,
    "dropout with its mask, and the sum, twice": 2 * (2.5 + 3),
    "two layer norms": 2 * 2,
    "gelu, 4 H wide": 4 * 2,
}
BACKWARD_NUMBERS = {
    "biases, which are only read, five of H and one of 4 H": 5 + 4,
    "dropout with its mask, twice": 2 * 2.5,
    "sums of gradients at the two residuals": 2 * 3,
    "two sums for the gradients of q, k and v": 2 * 3,
    "two layer norms": 2 * 3,
    "gelu, 4 H wide": 4 * 3,
}
LAYER_NUMBERS = sum(FORWARD_NUMBERS.values()) + sum(BACKWARD_NUMBERS.values())
# Bytes that are read and written for one score without FlashMask, in half precision.
SCORE_BYTES = sum({
    "forward: product": 2, "bias": 4, "softmax": 4, "dropout with its mask": 5, "product with the values": 2,
    "backward: gradient of the weights": 2, "that of the values": 2, "dropout of it": 5, "softmax of it": 6,
    "those of queries and keys": 4,
}.values())  # fmt: skip
# Bytes of one logit: model/loss_on_gpu.py names them, and tests/model/test_loss_on_gpu.py counts them.
LOGIT_BYTES = 14
# Bytes of one weight of the word table in a micro-batch.
TABLE_BYTES = sum({
    "copy in half precision": 6, "its padding": 4, "gradient by the loss": 2, "without padding": 4,
    "in float32, times the factor from above": 14, "gradient by the look-up": 4, "sum of the two": 12,
    "sum over micro-batches": 12,
}.values())  # fmt: skip
# Bytes of one parameter in an update.
UPDATE_BYTES = sum({"norm": 4, "clipping": 8, "AdamW reads": 16, "and writes": 12}.values())

# Kernel calls of an XNLI step of 12 layers with FlashMask and autocast, counted on a CPU, views of memory
# included (tests/helpers/kernel_calls.py). The update has the norm and clipping, too.
CALLS = {"forward": 255, "backward": 249, "update": 163}
COUNTED_LAYERS = 12
# In a micro-batch with a larger N x H^2 autocast makes the casts (model/half_weights.py): one call for each
# of 144 weights and biases, instead of 15 for all, and as many for the gradients.
SMALL_BATCH = 1 << 30
FURTHER_CALLS = 2 * (144 - 15)
# The calls that cast together take and return 576 tensors. Seconds that the host needs for this and for the
# grouping, beyond the calls; measured on a CPU.
CASTING_TOGETHER = 0.7e-3
# Bytes that are read and written to cast one weight and its gradient.
AUTOCAST_BYTES = 6 + 6
TOGETHER_BYTES = AUTOCAST_BYTES + sum({"stack": 8, "stack of gradients": 4, "their division": 8}.values())
XNLI_ROWS = 32  # of a step: two devices with 16
XNLI_LENGTH = 37  # tokens, in the mean


def product_operations(shape: ModelShape) -> float:
    """Operations of the layers' products for one token in a forward pass.

    Each weight takes part in a multiplication and an addition. In the last layer, the output projection of
    attention and the feed-forward pair (2 + 16 of the 24 H^2 operations) are computed at masked positions
    only.
    """
    left_out = (2 + 16) * shape.hidden**2 * (1 - MASKED)
    return 2 * shape.matrices - left_out


def attention_operations(shape: ModelShape, length: float) -> float:
    """Operations of attention for one token, which sees `length` tokens, in a forward pass.

    In each layer the scores take 2 H operations for each token that is seen, and the weighted sum of the
    values as many.
    """
    return (2 + 2) * shape.layers * shape.hidden * length


def head_operations(shape: ModelShape) -> float:
    """Operations of the masked-LM head for one token in a forward pass: a dense layer, and the logits."""
    return 2 * MASKED * shape.hidden * (shape.hidden + shape.vocabulary)


def pretraining_operations(shape: ModelShape, length: int, recompute: bool = False) -> float:
    """Operations of pre-training for one token: forward pass, and the backward pass with twice as many.

    Recompute adds a forward pass of the encoder. Stage 1 of BTMLM adds a forward pass over a quarter of the
    sequences, with a head over the words of one language, a seventh of all.
    """
    encoder = product_operations(shape) + attention_operations(shape, length)
    head = head_operations(shape)
    passes = 4 if recompute else 3
    stage_1 = (encoder + head / 7) / 4
    return passes * encoder + 3 * head + stage_1


class Work(NamedTuple):
    """What one part of a step does."""

    products: float = 0.0  # operations
    attention: float = 0.0  # operations
    moved: float = 0.0  # bytes that are read and written

    def seconds(self, card: Card) -> float:
        """The time on a card."""
        peak = card.tflops * 1e12
        return (
            self.products / (card.product_share * peak)
            + self.attention / (card.attention_share * peak)
            + self.moved / (REACHED_BANDWIDTH * card.bandwidth * 1e9)
        )

    def times(self, count: float) -> "Work":
        """This work, done `count` times."""
        return Work(count * self.products, count * self.attention, count * self.moved)


def pretraining_parts(
    shape: ModelShape, length: int, micro_batch: int, tokens: float, fused: bool, recompute: bool = False
) -> dict[str, Work]:
    """The work of a card in one step of pre-training, by part.

    A pass has the operations of a forward pass, so the backward pass counts as two passes.

    Args:
        length: tokens of a sequence.
        micro_batch: tokens of a micro-batch.
        tokens: of the step on this card.
        fused: whether attention is FlashMask.
        recompute: whether the backward pass computes the layers again.
    """
    stage_1 = 0.25  # BTMLM's stage 1 is a forward pass over a quarter of the sequences
    forward_again = stage_1 + (1 if recompute else 0)
    passes = 3 + forward_again
    if fused:
        # FlashMask's backward pass also computes the scores again, so it has five products where a forward
        # pass has two.
        attention_passes = 1 + 5 / 2 + forward_again
        scores_moved = 0.0
    else:
        attention_passes = passes
        scores_moved = SCORE_BYTES * shape.layers * shape.heads * length
    # The next three are for one token.
    attention = Work(
        attention=attention_passes * attention_operations(shape, length),
        moved=scores_moved,
    )
    logits = MASKED * shape.vocabulary
    # LAYER_NUMBERS are those of three passes, forward and backward.
    between = HALF * LAYER_NUMBERS * shape.layers * shape.hidden * passes / 3
    # This is for one micro-batch.
    casts = AUTOCAST_BYTES * shape.matrices
    micro_batches = max(1.0, tokens / micro_batch)
    return {
        "products": Work(products=passes * product_operations(shape) * tokens, moved=casts * micro_batches),
        "attention": attention.times(tokens),
        "between products": Work(moved=between).times(tokens),
        "loss": Work(products=3 * head_operations(shape), moved=LOGIT_BYTES * logits).times(tokens),
        "word table": Work(moved=TABLE_BYTES * shape.table).times(micro_batches),
        "update": Work(moved=UPDATE_BYTES * shape.trained),
    }


class Speed(NamedTuple):
    """An estimate of pre-training on one card of eight."""

    tokens_per_second: float
    share_of_peak: float  # of the operations that the card could do
    shares: dict[str, float]  # part of a step -> its share of the time


def pretraining_speed(shape: ModelShape, length: int, micro_batch: int, card: Card) -> Speed:
    """The speed of a card in the recipe, where eight cards share a step.

    The time in which the cards sum their gradients is left out.
    """
    parts = pretraining_parts(shape, length, micro_batch, tokens=RECIPE_TOKENS, fused=card.fused)
    seconds = {name: work.seconds(card) for name, work in parts.items()}
    total = sum(seconds.values())
    operations_per_second = pretraining_operations(shape, length) * RECIPE_TOKENS / total
    share_of_peak = operations_per_second / (card.tflops * 1e12)
    shares = {name: part / total for name, part in seconds.items()}
    return Speed(RECIPE_TOKENS / total, share_of_peak, shares)


def fine_tuning_seconds(
    shape: ModelShape, tokens: float, length: float, card: Card, micro_batches: int = 1
) -> float:
    """Seconds of a fine-tuning step: of the host or of the card, whichever takes longer.

    Of the word table only the rows of the step's words are read and updated. They are at most a few per cent
    of the table, and are left out.

    Args:
        tokens: of the step, without pads.
        length: tokens of a sequence in the mean.
        micro_batches: of the step, one after the other.
    """
    calls = CALLS["forward"] + CALLS["backward"]
    tokens_of_micro_batch = tokens / micro_batches
    if tokens_of_micro_batch * shape.hidden**2 <= SMALL_BATCH:
        seconds_of_passes = CALL_SECONDS * calls + CASTING_TOGETHER
        cast_bytes = TOGETHER_BYTES
    else:
        seconds_of_passes = CALL_SECONDS * (calls + FURTHER_CALLS)
        cast_bytes = AUTOCAST_BYTES
    seconds_of_host = micro_batches * seconds_of_passes + CALL_SECONDS * CALLS["update"]
    # For one token, with the passes of `pretraining_parts` without stage 1 and recompute.
    layers = Work(
        products=3 * 2 * shape.matrices,
        attention=(1 + 5 / 2) * attention_operations(shape, length),  # with FlashMask
        moved=HALF * LAYER_NUMBERS * shape.layers * shape.hidden,
    )
    casts = Work(moved=cast_bytes * shape.matrices).times(micro_batches)
    update = Work(moved=UPDATE_BYTES * shape.matrices)
    seconds_of_card = sum(work.seconds(card) for work in (layers.times(tokens), casts, update))
    return max(seconds_of_host * shape.layers / COUNTED_LAYERS, seconds_of_card)
