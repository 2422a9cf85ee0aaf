"""The length of a run: its steps, from passes over the corpus or from tokens."""

from ernie_m.pretrain.batches import StepReader
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingText, make_objectives
from ernie_m.pretrain.masking import Pair, Text, rng_of
from ernie_m.pretrain.objective import class_of
from ernie_m.pretrain.objective_mix import check_batch_size, parts_of_run
from ernie_m.reader.corpus import long_pairs
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

_CHECKED_PAIRS = 200  # how many pairs of each two languages `check_pairs` looks at
_MANY_SHORT_PAIRS = 0.2  # a warning names a larger share
# `mean_tokens` measures the tokens of a step on this many sequences of each part of the run. It assumes a run
# of so many steps that each part is long enough for them.
_PROBE_SEQUENCES = 8192
_ASSUMED_STEPS = 1 << 30


def total_steps(config: PretrainConfig, text: TrainingText) -> int:
    """The number of steps of the run and its schedule.

    With `optimizer.tokens`, it is that number divided by the mean number of tokens per step. The result
    depends only on corpus and configuration, so a resumed run gets the same number.

    Raises:
        UserError: `init.lm_head_warmup_steps` leaves no step for the encoder, the batch is too small for an
            objective, or no pair is long enough for CAMLM.
    """
    optimizer = config.optimizer
    # A group of an objective must not be longer than a micro-batch.
    for name in config.objectives.names:
        group = class_of(name).group
        longest = group * config.data.max_seq_len
        if longest > config.run.micro_batch_tokens:
            raise UserError(
                f"run.micro_batch_tokens {config.run.micro_batch_tokens}: {name} keeps {group} examples "
                f"together, of up to {longest} tokens; raise it, or shorten data.max_seq_len"
            )
    check_pairs(config, text)
    if optimizer.tokens:
        exact_steps = optimizer.tokens / config.run.compute_ratio / mean_tokens(config, text)
    else:
        exact_steps = optimizer.steps / config.run.compute_ratio
    steps = max(1, round(exact_steps))
    head_steps = config.init.lm_head_warmup_steps
    if head_steps >= steps:
        raise UserError(
            f"init.lm_head_warmup_steps {head_steps} leaves nothing of the {steps} steps in all: the encoder "
            "would never be trained"
        )
    check_batch_size(config.objectives, optimizer.batch_size, steps)
    # A run of one step is no training: with a warm-up its rate is 0, and it writes the initial weights.
    if optimizer.warmup_steps >= steps - head_steps and steps > 1:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends, after %d steps, before the rate is at its peak; give "
            "--optimizer.warmup_steps a lower number",
            optimizer.warmup_steps,
            steps,
        )
    return steps


def check_pairs(config: PretrainConfig, text: TrainingText) -> None:
    """Warn if many pairs do not serve an objective (`Objective.serves`), and refuse it if none does.

    Some pairs of each two languages, drawn at random, are looked at.
    """
    rng = rng_of(seed=0, step=0, index=0)  # any fixed one
    pairs = []
    for languages, stream in text.pairs.items():
        count = min(_CHECKED_PAIRS, len(stream))
        for place in rng.choice(len(stream), count, replace=False):
            pairs.append(text.pair(languages, stream[place]))
    for name, objective in make_objectives(config, text).items():
        if objective.reads is not Pair:
            continue
        served = sum(objective.serves(pair) for pair in pairs)
        if not served:
            key = "shares" if config.objectives.shares else "active"
            raise UserError(
                f"{config.data.corpus}: {name} has no pair to train on: it needs {objective.needs}, and none "
                f"of {len(pairs)} pairs has that; give longer pairs, or take {name} out of objectives.{key}"
            )
        share = 1 - served / len(pairs)
        if share > _MANY_SHORT_PAIRS:
            use = "serve tlm instead" if "tlm" in config.objectives.names else "are left out"
            logger.warning("%.0f %% of the pairs are too short for %s and %s", 100 * share, name, use)


def tokens_of_pass(config: PretrainConfig, text: TrainingText) -> int:
    """How many tokens one pass reads, without special tokens. It logs how many pairs are read in part."""
    kinds = {class_of(name).reads for name in config.objectives.names}
    max_seq_len = config.data.max_seq_len
    if Pair in kinds:
        logger.info("%s", long_pairs(text.pairs, max_seq_len))
    in_pairs = sum(pairs.num_tokens - int(pairs.beyond(max_seq_len)[1]) for pairs in text.pairs.values())
    return (Text in kinds) * sum(text.mono.values()) + (Pair in kinds) * in_pairs


def mean_tokens(config: PretrainConfig, text: TrainingText) -> float:
    """The mean number of trained tokens per step of the run, measured in each part with its own shares."""
    steps_to_read = max(1, _PROBE_SEQUENCES // config.optimizer.batch_size)  # steps of each part
    assumed_steps = _ASSUMED_STEPS + steps_to_read
    mean = 0.0
    for number, (start, end) in enumerate(parts_of_run(config.objectives)):
        if start == end:
            continue
        # All steps of a part have the same shares. Read the first ones of the run, and the last ones of every
        # later part.
        first_step = 0 if number == 0 else round(end * assumed_steps) - steps_to_read
        reader = StepReader(config, text, total_steps=assumed_steps, step=first_step)
        tokens = 0
        for _ in range(steps_to_read):
            tokens += sum(batch.tokens for batch in reader.next().micro_batches)
        mean += (end - start) * tokens / steps_to_read
    return mean
