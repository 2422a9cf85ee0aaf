"""What a training step keeps, computes and moves on a card, and how long it takes. Nothing is measured.

A part of a step takes its operations divided by what the card's products reach, plus its bytes divided by
what its memory reaches. Meanwhile the host starts one kernel after the other, so a step takes the longer of
the two times. Only fine-tuning waits for the host: pre-training gives each kernel enough to do.
"""

import math
from typing import NamedTuple

GB = 1e9
# Bytes of a number.
FLOAT = 4
HALF = 2
MASKED = 0.15  # share of the tokens that are predicted
STAGE_1 = 0.25  # share of the sequences that BTMLM's stage 1 passes forward a first time
RUNTIME = 2 * GB  # of CUDA, NCCL and Paddle
# The constants of these names in model/masked_loss.py, which needs Paddle; a test compares them. There the
# memory is what a card of 40 GB reports, here it is what the card is sold with.
LOGITS_BYTES = 1 << 29
MANY_LOGITS_BYTES = 1 << 31
MUCH_MEMORY = 40  # GB

# Assumptions.
REACHED_BANDWIDTH = 0.8  # share of the data sheet's bandwidth
CALL_SECONDS = 20e-6  # of the host, to start one kernel
SKIP_CYCLES = 80  # of a multiprocessor, in which FlashMask finds that a block is masked


class Card(NamedTuple):
    """A GPU: its data sheet, and what share of the peak is assumed to be reached.

    Attributes:
        tflops: the peak of dense products in half precision.
        bandwidth: of its memory, GB/s.
        memory: GB.
        link: to another card of the machine, GB/s each way.
        multiprocessors: how many there are.
        clock: GHz.
        product_share: the share of `tflops` that large products reach.
        attention_share: the share of `tflops` that attention reaches with dropout and heads of 64 numbers:
            FlashMask or, without it, products over padded groups of sequences.
        micro_batch: tokens; a value of `run.micro_batch_tokens` for base and large (large on 32 GB and below
            with `run.recompute true`).
        fused: whether it has FlashMask.
    """

    tflops: float
    bandwidth: float
    memory: float
    link: float
    multiprocessors: int
    clock: float
    product_share: float
    attention_share: float
    micro_batch: int
    fused: bool = True


# Name -> card; the numbers are its tflops, bandwidth, memory, link, multiprocessors and clock.
CARDS = {
    "V100": Card(
        125, 900, 32, 150, 80, 1.53, product_share=0.70, attention_share=0.40, micro_batch=8192, fused=False
    ),
    "4090": Card(165, 1008, 24, 32, 128, 2.52, product_share=0.80, attention_share=0.41, micro_batch=8192),
    "A100": Card(312, 2039, 80, 300, 108, 1.41, product_share=0.70, attention_share=0.33, micro_batch=16384),
    "H100": Card(989, 3350, 80, 450, 132, 1.83, product_share=0.55, attention_share=0.21, micro_batch=16384),
    "H200": Card(989, 4800, 141, 450, 132, 1.83, product_share=0.55, attention_share=0.21, micro_batch=16384),
    "L4": Card(121, 300, 24, 32, 58, 2.04, product_share=0.60, attention_share=0.33, micro_batch=8192),
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


BASE = ModelShape(hidden=768, layers=12, heads=12, vocabulary=250_002)
LARGE = ModelShape(hidden=1024, layers=24, heads=16, vocabulary=250_002)


class PlannedRun(NamedTuple):
    """A pre-training run in half precision, as its configuration describes it."""

    batch: int  # sequences of a step, on all cards
    length: int  # tokens of a sequence
    micro_batch: int  # most tokens of a micro-batch on a card
    steps: int
    half_weights: bool  # `run.amp_level` O2 instead of O1
    recompute: bool
    fused: bool = True  # FlashMask: no scores are kept
    logits: int = MANY_LOGITS_BYTES  # most bytes of a chunk of logits
    stage_1: float = STAGE_1  # share of the sequences


# Memory


def layer_memory(shape: ModelShape, length: float, fused: bool, after_share: float = 1.0) -> float:
    """Bytes that a layer keeps for each token for the backward pass.

    With plain attention this is 34 H + 5 heads T, as in Korthikanti et al. 2022, "Reducing Activation
    Recomputation in Large Transformer Models", equation 1.

    Args:
        length: T, the number of tokens that a token sees.
        fused: whether attention is FlashMask, which keeps one number for each head instead of the scores.
        after_share: the share of the tokens for which the part after attention is computed.
    """
    # the input of q, k and v, and these three
    before_attention = HALF * (1 + 3)
    # attention's output, the input of the feed-forward pair, the input and output of gelu (4 H wide), the
    # inputs of two norms, two dropout masks
    after_attention = HALF * (1 + 1 + 4 + 4 + 2) + 2 * 1
    # what softmax returns, dropout's mask, the input of the product with the values
    scores = FLOAT * shape.heads if fused else shape.heads * length * (HALF + 1 + HALF)
    return shape.hidden * (before_attention + after_share * after_attention) + scores


def memory(shape: ModelShape, run: PlannedRun, stage: int, cards: int) -> dict[str, float]:
    """Memory of the fullest card, by part, in bytes, without CUDA and its libraries.

    `stage` is that of sharding, 0 or 1. Stage 1 divides the optimizer's state by whole parameters, so the
    owner of the word table is fullest.
    """
    tokens = min(run.micro_batch, run.batch * run.length / cards)  # of a micro-batch on a card
    layer = tokens * layer_memory(shape, run.length, run.fused)
    last_layer = tokens * layer_memory(shape, run.length, run.fused, after_share=MASKED)
    activations = (shape.layers - 1) * layer + last_layer
    if run.recompute:  # the inputs of all layers, and one layer that is computed again
        activations = shape.layers * tokens * shape.hidden * HALF + layer
    # Weights in float32, of which products take copies in half precision; or weights in half precision, of
    # which the optimizer has copies in float32.
    copied = 0 if run.half_weights else shape.matrices
    master = FLOAT if run.half_weights else 0
    # The number of weights whose moments are on this card.
    in_optimizer = shape.trained if stage == 0 else max(shape.table, shape.trained / cards)
    chunk = min(run.logits, HALF * MASKED * tokens * shape.vocabulary)
    return {
        "weights": (HALF if run.half_weights else FLOAT) * shape.trained + HALF * copied,
        "gradients": FLOAT * shape.trained,
        "optimizer": (2 * FLOAT + master) * in_optimizer,  # two moments
        "activations": activations,
        # A chunk, in which the softmax takes the place of the logits; and at the peak, in the backward pass,
        # three arrays like the word table: its gradients by the loss and by the look-up, and their sum.
        "logits": chunk + 3 * FLOAT * shape.table,
    }


def fine_tuning_memory(shape: ModelShape, tokens: int) -> float:
    """Bytes that fine-tuning with --amp bf16 needs; `tokens` are those of a micro-batch.

    The gradient of the word table has only the rows of the step's words, which are left out.
    """
    weights = FLOAT * shape.trained + HALF * shape.matrices
    gradients = FLOAT * (shape.trained - shape.table)
    moments = 2 * FLOAT * shape.trained
    activations = tokens * shape.layers * layer_memory(shape, length=0, fused=True)
    return weights + gradients + moments + activations + RUNTIME


# Time

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
    # Three kernels: sums of parts of the gradients of scale and bias, the sums of these sums, which are
    # small, and the gradient of the input.
    "two layer norms": 2 * (2 + 3),
    "gelu, 4 H wide": 4 * 3,
}
LAYER_NUMBERS = sum(FORWARD_NUMBERS.values()) + sum(BACKWARD_NUMBERS.values())
# Bytes that are read and written for one score without FlashMask, in half precision.
SCORE_BYTES = sum({
    "forward: product": 2, "bias": 4, "softmax": 4, "dropout with its mask": 5, "product with the values": 2,
    "backward: gradient of the weights": 2, "that of the values": 2, "dropout of it": 5, "softmax of it": 6,
    "those of queries and keys": 4,
}.values())  # fmt: skip
SKIP_BLOCK = 128  # tokens: FlashMask looks at each block of so many keys for each block of so many rows
# Bytes of one logit: model/loss_on_gpu.py names them, and tests/model/test_loss_on_gpu.py counts them.
LOGIT_BYTES = 14
# Bytes of one weight of the word table in a micro-batch, and in each chunk of logits after the first one.
TABLE_BYTES = sum({
    "copy in half precision": 6, "its padding": 4, "with the columns of the bias": 4,
    "gradient by the loss": 2, "without padding": 4, "in float32": 6, "times the factor from above": 8,
    "gradient by the look-up": 4, "sum of the two": 12, "sum over micro-batches": 12,
}.values())  # fmt: skip
CHUNK_BYTES = sum({"gradient by the loss": 2, "both in float32": 6 + 6, "their sum": 12}.values())
# Bytes of one parameter in an update.
UPDATE_BYTES = sum({"norm": 4, "clipping": 8, "AdamW reads": 16, "and writes": 12}.values())

# Kernel calls of an XNLI step of 12 layers with FlashMask and autocast, counted on a CPU, views of memory
# included (tests/helpers/kernel_calls.py). The update has the norm and clipping, too.
CALLS = {"forward": 255, "backward": 251, "update": 142}
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


class Work(NamedTuple):
    """What one part of a step does."""

    products: float = 0.0  # operations
    attention: float = 0.0  # operations
    moved: float = 0.0  # bytes that are read and written
    cycles: float = 0.0  # of one multiprocessor; all of them work at the same time

    def seconds(self, card: Card) -> float:
        """The time on a card."""
        peak = card.tflops * 1e12
        return (
            self.products / (card.product_share * peak)
            + self.attention / (card.attention_share * peak)
            + self.moved / (REACHED_BANDWIDTH * card.bandwidth * 1e9)
            + self.cycles / (card.multiprocessors * card.clock * 1e9)
        )


def seconds_of(parts: dict[str, Work], card: Card) -> dict[str, float]:
    """The time of each part on a card."""
    return {name: work.seconds(card) for name, work in parts.items()}


def layer_parts(
    shape: ModelShape,
    tokens: float,
    length: float,
    micro_batches: float,
    forward_again: float = 0.0,
    last_share: float = 1.0,
    fused: bool = True,
) -> dict[str, Work]:
    """The work of the layers in one step on a card, by part.

    A pass has the operations of a forward pass, so a forward and a backward pass count as three.

    Args:
        tokens: of the step on this card.
        length: tokens that a token sees.
        forward_again: further forward passes.
        last_share: the share of the tokens for which the last layer computes what follows its attention.
        fused: whether attention is FlashMask.
    """
    passes = 3 + forward_again
    # The output projection of attention and the feed-forward pair have 9 of a layer's 12 H^2 weights.
    weights = shape.matrices - (1 - last_share) * 9 * shape.hidden**2
    # In each layer the scores take 2 H operations for each token that is seen, and the weighted sum of the
    # values as many.
    operations = (2 + 2) * shape.layers * shape.hidden * length * tokens
    if fused:
        # FlashMask's backward pass also computes the scores again, so it has five products where a forward
        # pass has two.
        attention = Work(attention=(1 + 5 / 2 + forward_again) * operations)
    else:
        scores = shape.layers * shape.heads * length * tokens
        attention = Work(attention=passes * operations, moved=SCORE_BYTES * scores)
    # All sequences of a micro-batch are one row for FlashMask, so the blocks grow with its square.
    blocks = (tokens / micro_batches / SKIP_BLOCK) ** 2 * micro_batches if fused else 0.0
    scanned = (2 + forward_again) * shape.layers * shape.heads * blocks  # forward and backward: 2
    return {
        "products": Work(products=passes * 2 * weights * tokens),
        "attention": attention,
        "skipped blocks": Work(cycles=SKIP_CYCLES * scanned),
        # LAYER_NUMBERS are those of three passes.
        "between products": Work(
            moved=HALF * LAYER_NUMBERS * shape.layers * shape.hidden * tokens * passes / 3
        ),
    }


def pretraining_parts(shape: ModelShape, run: PlannedRun, cards: int) -> dict[str, Work]:
    """The work of one of so many cards in one step of pre-training, by part."""
    tokens = run.batch * run.length / cards
    micro_batches = max(1.0, tokens / run.micro_batch)
    forward_again = run.stage_1 + (1 if run.recompute else 0)
    layers = layer_parts(
        shape, tokens, run.length, micro_batches, forward_again, last_share=MASKED, fused=run.fused
    )
    masked = MASKED * tokens
    # In the head a dense layer and the logits. Stage 1 has the words of one language, about a seventh of all.
    head = 2 * masked * shape.hidden * (shape.hidden + shape.vocabulary)
    chunks = math.ceil(masked / micro_batches * shape.vocabulary * HALF / run.logits)
    table_bytes = TABLE_BYTES + CHUNK_BYTES * (chunks - 1)
    return {
        **layers,
        "loss": Work(products=(3 + run.stage_1 / 7) * head, moved=LOGIT_BYTES * masked * shape.vocabulary),
        "word table": Work(moved=table_bytes * shape.table * micro_batches),
        "casts, update": Work(
            moved=AUTOCAST_BYTES * shape.matrices * micro_batches + UPDATE_BYTES * shape.trained
        ),
    }


def fine_tuning_step(
    shape: ModelShape, tokens: float, length: float, card: Card, micro_batches: int = 1
) -> tuple[float, dict[str, float]]:
    """The seconds of the host and those of the card, by part, in a fine-tuning step with --amp bf16.

    The card works while the host starts the next kernels, so the step takes the longer time. Only the rows of
    the step's words are read and updated, at most a few per cent of the word table; they are left out.

    Args:
        tokens: of the step, without pads.
        length: tokens of a sequence in the mean.
        micro_batches: of the step, one after the other.
    """
    seconds = CALL_SECONDS * (CALLS["forward"] + CALLS["backward"])
    if tokens / micro_batches * shape.hidden**2 <= SMALL_BATCH:
        seconds += CASTING_TOGETHER
        cast_bytes = TOGETHER_BYTES
    else:
        seconds += CALL_SECONDS * FURTHER_CALLS
        cast_bytes = AUTOCAST_BYTES
    host = micro_batches * seconds + CALL_SECONDS * CALLS["update"]
    moved = (cast_bytes * micro_batches + UPDATE_BYTES) * shape.matrices
    parts = layer_parts(shape, tokens, length, micro_batches) | {"casts, update": Work(moved=moved)}
    return host * shape.layers / COUNTED_LAYERS, seconds_of(parts, card)
