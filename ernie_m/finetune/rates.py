"""The peak rate, layer-wise decay and epochs that suit the size of a start."""

import math
from dataclasses import replace

from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.model.config import ErnieMConfig
from ernie_m.utils.logging import logger

# The largest hidden size for which a rate and a decay are taken -> (rate, decay). 256: the best of three
# rates for XNLI with 3 layers of 128. 512: what XNLI learned well with in 12 layers of 384, in one epoch of
# 39,302 pairs.
_BY_HIDDEN_SIZE = {256: (5e-4, 1.0), 512: (1.5e-4, 0.9), math.inf: (5e-5, 0.8)}
# A training sees each row `_TIMES` times, but at least `_LEAST` examples (40 steps of 32), at most `_MOST`.
_TIMES = 20
_LEAST, _MOST = 1280, 10_000


def with_rates(flags: FinetuneFlags, config: ErnieMConfig, rows: int) -> FinetuneFlags:
    """Flags with the rates that suit a start; those that were given stay.

    Args:
        config: the config of the pre-trained weights.
        rows: the number of rows of the training set. The fewer there are, the more often each is seen.
    """
    size = min(largest for largest in _BY_HIDDEN_SIZE if config.hidden_size <= largest)
    rate, decay = _BY_HIDDEN_SIZE[size]
    examples = min(_MOST, max(_LEAST, _TIMES * rows))
    epochs = max(1, round(examples / rows))
    rates = {"learning_rate": rate, "layerwise_lr_decay": decay, "epoch": epochs}
    suited = {name: value for name, value in rates.items() if name not in flags.on_command_line}
    shape = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    in_words = ", ".join(f"--{name} {value}" for name, value in suited.items())
    logger.info("for a start of %s and %d rows: %s", shape, rows, in_words)
    return replace(flags, **suited)
