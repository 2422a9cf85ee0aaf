"""The speed of pre-training base in micro-batches of several sizes, for `run.micro_batch_tokens`."""

from tests.gpu import toys
from tests.gpu.test_speed import measure
from training.card import out_of_memory_is_a_user_error
from training.precision import Precision
from utils.errors import UserError

LENGTH = 512  # tokens of a row
SIZES = (8192, 16_384, 32_768)  # tokens of a micro-batch


def test_micro_batches(card, quick, fact):
    """Tokens per second with each size. FlashMask's search for masked blocks grows faster than the tokens."""
    shape = toys.SHAPE if quick else toys.BASE_SHAPE
    length = 32 if quick else LENGTH
    model = toys.make_model("float32", dropout=0.1, shape=shape)
    engine = toys.engine_for(model, Precision(card.amps[0]))
    for tokens in (64, 128) if quick else SIZES:
        try:
            with out_of_memory_is_a_user_error("take a smaller one"):
                measurement = measure(card, engine, tokens // length, length)
        except UserError:
            fact(f"{tokens:,} do not fit")
            break
        speed = measurement.tokens / measurement.seconds
        fact(f"{tokens:,}: {speed:,.0f} tokens/s, {measurement.memory / 1e9:.1f} GB")
