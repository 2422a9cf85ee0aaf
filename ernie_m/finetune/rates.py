"""The peak rate, layer-wise decay and epochs that suit the size of a start and a task."""

import math
from dataclasses import replace
from typing import NamedTuple

from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.logging import logger

# The largest hidden size for which a rate and a decay are taken -> (rate, decay). 256: the best of three
# rates for XNLI with 3 layers of 128. 512: what XNLI learned well with in 12 layers of 384, in one epoch of
# 39,302 pairs. Tags and answers, which belong to tokens, are learned with higher rates, those of the paper
# (Table 13 for large; the official scripts for base); 12 layers of 384 learned tags better so, too.
_BY_HIDDEN_SIZE = {
    CLASSIFICATION: {256: (5e-4, 1.0), 512: (1.5e-4, 0.9), math.inf: (5e-5, 0.8)},
    TOKEN_CLASSIFICATION: {256: (5e-4, 1.0), 512: (4e-4, 0.9), math.inf: (4e-4, 0.8)},
    QUESTION_ANSWERING: {256: (5e-4, 1.0), 512: (3e-4, 0.9), 768: (3e-4, 0.8), math.inf: (8e-5, 0.9)},
}


class _Amount(NamedTuple):
    """How much a training sees: each row `times` times, but at least `least` examples and at most `most`."""

    times: int
    least: int
    most: int
    fewest_epochs: int = 1


# 1,280 examples are 40 steps of 32. Contexts are long, so they are seen less often than texts.
_AMOUNTS = {
    CLASSIFICATION: _Amount(20, 1280, 10_000),
    TOKEN_CLASSIFICATION: _Amount(20, 1280, 6500),
    QUESTION_ANSWERING: _Amount(10, 0, 3000, fewest_epochs=2),
}


def with_rates(flags: FinetuneFlags, config: ErnieMConfig, rows: int, task: str) -> FinetuneFlags:
    """Flags with the rates that suit a start; those that were given stay.

    Args:
        config: the config of the pre-trained weights.
        rows: the number of rows of the training set. The fewer there are, the more often each is seen.
        task: one of `ernie_m.model.tasks.SUPERVISED_TASKS`.
    """
    size = min(largest for largest in _BY_HIDDEN_SIZE[task] if config.hidden_size <= largest)
    rate, decay = _BY_HIDDEN_SIZE[task][size]
    amount = _AMOUNTS[task]
    examples = min(amount.most, max(amount.least, amount.times * rows))
    epochs = max(amount.fewest_epochs, round(examples / rows))
    rates = {"learning_rate": rate, "layerwise_lr_decay": decay, "epoch": epochs}
    suited = {name: value for name, value in rates.items() if name not in flags.on_command_line}
    shape = f"{config.num_hidden_layers} layers of {config.hidden_size}"
    in_words = ", ".join(f"--{name} {value}" for name, value in suited.items())
    logger.info("for a start of %s and %d rows: %s", shape, rows, in_words)
    return replace(flags, **suited)
