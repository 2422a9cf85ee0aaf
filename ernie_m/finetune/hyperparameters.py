"""Learning rate, decay and epochs of a fine-tuning, chosen by the sizes of model and training set."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.logging import logger

# Largest hidden size -> (learning rate, layer-wise decay). 256: the best of three learning rates for XNLI
# with 3 layers of 128. 512: worked well for XNLI with 12 layers of 384, in one epoch of 39,302 pairs. Tagging
# and question answering, which predict tokens, use the higher learning rates of the paper (Table 13 for
# large; the official scripts for base); tagging with 12 layers of 384 also improved with them.
_BY_HIDDEN_SIZE = {
    CLASSIFICATION: {256: (5e-4, 1.0), 512: (1.5e-4, 0.9), math.inf: (5e-5, 0.8)},
    TOKEN_CLASSIFICATION: {256: (5e-4, 1.0), 512: (4e-4, 0.9), math.inf: (4e-4, 0.8)},
    QUESTION_ANSWERING: {256: (5e-4, 1.0), 512: (3e-4, 0.9), 768: (3e-4, 0.8), math.inf: (8e-5, 0.9)},
}


class _TrainingAmount(NamedTuple):
    """Amount of training: `times` epochs, but between `least` and `most` examples in total."""

    times: int
    least: int
    most: int
    fewest_epochs: int = 1


# 1,280 examples are 40 steps of 32. Contexts are long, so they get fewer epochs than texts.
_AMOUNTS = {
    CLASSIFICATION: _TrainingAmount(20, 1280, 10_000),
    TOKEN_CLASSIFICATION: _TrainingAmount(20, 1280, 6500),
    QUESTION_ANSWERING: _TrainingAmount(10, 0, 3000, fewest_epochs=2),
}


def choose_hyperparameters(flags: FinetuneFlags, config: ErnieMConfig, rows: int, task: str) -> FinetuneFlags:
    """Choose learning rate, layer-wise decay and epochs from the sizes of model and training set.

    Args:
        flags: the flags; values on the command line are kept.
        config: the configuration of the initial checkpoint.
        rows: the number of training rows; fewer rows result in more epochs.
        task: one of `ernie_m.model.tasks.SUPERVISED_TASKS`.
    """
    size = min(largest for largest in _BY_HIDDEN_SIZE[task] if config.hidden_size <= largest)
    learning_rate, decay = _BY_HIDDEN_SIZE[task][size]
    amount = _AMOUNTS[task]
    examples = min(amount.most, max(amount.least, amount.times * rows))
    epochs = max(amount.fewest_epochs, round(examples / rows))
    chosen = {"learning_rate": learning_rate, "layerwise_lr_decay": decay, "epoch": epochs}
    suited: dict[str, Any] = {
        name: value for name, value in chosen.items() if name not in flags.on_command_line
    }
    shape = f"{config.num_hidden_layers}-layer, {config.hidden_size}-wide"
    in_words = ", ".join(f"--{name} {value}" for name, value in suited.items()) or "as given"
    logger.info("hyperparameters for a %s model and %d examples: %s", shape, rows, in_words)
    return replace(flags, **suited)
