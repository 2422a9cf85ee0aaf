"""The number of steps of a run, and the learning rate of each step."""

from pretrain.config import PretrainConfig
from pretrain.data_selection import TrainingText
from pretrain.reader import StepReader
from training.optimizer import Schedule, linear_warmup_decay
from utils.errors import UserError
from utils.logging import logger

_PROBE_SEQUENCES = 8192  # sequences on which the mean number of tokens per step is measured


def total_steps(config: PretrainConfig, text: TrainingText) -> int:
    """The number of steps of the run and its schedule.

    With `optimizer.tokens`, it is that number divided by the mean number of tokens per step, measured on a
    few thousand sequences before and after BTMLM starts. The result depends only on corpus and configuration,
    so a resumed run gets the same number.

    Raises:
        UserError: `init.lm_head_warmup_steps` leaves no step for the encoder.
    """
    optimizer, head_steps = config.optimizer, config.init.lm_head_warmup_steps
    wanted = (optimizer.tokens or optimizer.steps) / config.run.compute_ratio
    if optimizer.tokens:
        wanted /= _mean_tokens(config, text)
    steps = max(1, round(wanted))
    if head_steps >= steps:
        raise UserError(
            f"init.lm_head_warmup_steps {head_steps} leaves nothing of the {steps} steps in all: the encoder "
            "would never be trained"
        )
    if optimizer.warmup_steps >= steps - head_steps:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends, after %d steps, before the rate is at its peak",
            optimizer.warmup_steps, steps,
        )  # fmt: skip
    return steps


def learning_rate(config: PretrainConfig, steps: int) -> Schedule:
    """Step -> share of `optimizer.learning_rate`. While the head is trained alone it has its own rate."""
    optimizer, head_steps = config.optimizer, config.init.lm_head_warmup_steps
    main = linear_warmup_decay(optimizer.warmup_steps, steps - head_steps, optimizer.schedule)
    of_head = config.init.lm_head_learning_rate / optimizer.learning_rate
    return lambda step: of_head if step < head_steps else main(step - head_steps)


def _mean_tokens(config: PretrainConfig, text: TrainingText) -> float:
    """The mean number of trained tokens per step of the run."""
    late = config.objectives.btmlm_start if "btmlm" in config.objectives.active else 1.0
    probe = max(1, _PROBE_SEQUENCES // config.optimizer.batch_size)
    mean = 0.0
    for share, step in ((late, 0), (1.0 - late, 1 << 30)):  # share of the run, a step in this part
        if share:
            reader = StepReader(config, text, total_steps=(1 << 30) + probe, step=step)
            tokens = [batch.tokens for _ in range(probe) for batch in reader.next().micro_batches]
            mean += share * sum(tokens) / probe
    return mean
