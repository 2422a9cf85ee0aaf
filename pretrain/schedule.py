"""How many steps a run has, and the learning rate of each."""

from pretrain.config import PretrainConfig
from pretrain.masking import Vocabulary
from pretrain.reader import StepReader
from reader.corpus import Corpus
from training.optimizer import Schedule, linear_warmup_decay
from utils.errors import UserError
from utils.logging import logger

_PROBE_SEQUENCES = 8192  # how many sequences the mean number of tokens per step is measured on


def total_steps(config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary) -> int:
    """How many steps the run and its schedule have.

    With `optimizer.tokens` it is that number over the mean tokens of a step, measured on a few thousand
    sequences of each phase of the mix: a function of corpus and config, so a resumed run finds the same.

    Raises:
        UserError: no step is left after those of `init.lm_head_warmup_steps`.
    """
    ratio, tokens, head_steps = (
        config.run.compute_ratio, config.optimizer.tokens, config.init.lm_head_warmup_steps,
    )  # fmt: skip
    if tokens:
        steps = max(1, round(tokens / ratio / _mean_tokens(config, corpus, vocabulary)))
    else:
        steps = max(1, round(config.optimizer.steps / ratio))
    if head_steps >= steps:
        raise UserError(
            f"init.lm_head_warmup_steps {head_steps} leaves nothing of the {steps} steps in all: the encoder "
            "would never be trained"
        )
    if config.optimizer.warmup_steps >= steps - head_steps:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends, after %d steps, before the rate is at its peak",
            config.optimizer.warmup_steps, steps,
        )  # fmt: skip
    return steps


def learning_rate(config: PretrainConfig, steps: int) -> Schedule:
    """Step -> share of `optimizer.learning_rate`: the head's own rate while it is trained alone, then the
    schedule."""
    optimizer, head_steps = config.optimizer, config.init.lm_head_warmup_steps
    main = linear_warmup_decay(optimizer.warmup_steps, steps - head_steps, optimizer.schedule)
    of_head = config.init.lm_head_learning_rate / optimizer.learning_rate
    return lambda step: of_head if step < head_steps else main(step - head_steps)


def _mean_tokens(config: PretrainConfig, corpus: Corpus, vocabulary: Vocabulary) -> float:
    """Tokens trained on in a step, over the run."""
    late = config.objectives.btmlm_start if "btmlm" in config.objectives.active else 1.0
    phases = [(late, 0), (1.0 - late, 1 << 30)]  # share of the run, a step so far into it
    probe = max(1, _PROBE_SEQUENCES // config.optimizer.batch_size)
    mean = 0.0
    for share, step in phases:
        if share:
            reader = StepReader(config, corpus, vocabulary, total_steps=(1 << 30) + probe)
            reader.step = step
            tokens = [batch.tokens for _ in range(probe) for batch in reader.next().micro_batches]
            mean += share * sum(tokens) / probe
    return mean
