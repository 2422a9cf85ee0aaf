"""The length of a run: its steps, from passes over the corpus or from tokens, and its phases."""

from dataclasses import dataclass

from ernie_m.pretrain.batches import StepReader
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.masking import Pair, Text, make_rng
from ernie_m.pretrain.objective_mix import Phase, check_batch_size, log_phases, make_phases
from ernie_m.reader.corpus import long_pairs
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

_CHECKED_PAIRS = 200  # how many pairs of each two languages `check_pairs` looks at
_MANY_SHORT_PAIRS = 0.2  # a warning names a larger share
# `mean_tokens` measures the tokens of a step on this many sequences of each phase of the run. It assumes a
# run of so many steps that each phase is long enough for them.
_PROBE_SEQUENCES = 8192
_ASSUMED_STEPS = 1 << 30


@dataclass(frozen=True)
class RunPlan:
    """How long a run is, and what changes on its way.

    Attributes:
        steps: the number of steps of the run and its schedule.
        head_steps: the first of them, which train the head and the language embeddings alone.
        warmup_steps: those in which the rate rises, after `head_steps`.
        phases: the mixing ratios of the objectives, in one part of the run after the other.
        tokens_per_epoch: how many tokens one pass over the text reads, without special tokens.
    """

    steps: int
    head_steps: int
    warmup_steps: int
    phases: tuple[Phase, ...]
    tokens_per_epoch: int


def plan_run(config: PretrainConfig, text: TrainingData) -> RunPlan:
    """Plan a run, and log its phases.

    With `optimizer.tokens`, the steps are that number divided by the mean number of tokens per step. The
    result depends only on corpus and configuration, so a resumed run gets the same plan.

    Raises:
        UserError: `init.lm_head_warmup_steps` leaves no step for the encoder, the batch is too small for
            an objective, a micro-batch for a group, or no pair is long enough for an objective.
    """
    optimizer = config.optimizer
    micro_batch_tokens = config.run.micro_batch_tokens
    check_groups(text, micro_batch_tokens)
    check_pairs(text)
    exact_steps = optimizer.steps / config.run.compute_ratio
    if optimizer.tokens:
        tokens_of_step = mean_tokens(text, optimizer.batch_size, micro_batch_tokens, config.run.seed)
        exact_steps = optimizer.tokens / config.run.compute_ratio / tokens_of_step
    steps = max(1, round(exact_steps))
    head_steps = config.init.lm_head_warmup_steps
    if head_steps >= steps:
        raise UserError(
            f"init.lm_head_warmup_steps {head_steps} leaves no step of {steps}: the "
            "encoder would never be trained"
        )
    phases = make_phases(config.objectives, steps)
    check_batch_size(config.objectives, phases, optimizer.batch_size)
    # A run of one step is no training: with a warm-up its rate is 0, and it writes the initial weights.
    if optimizer.warmup_steps >= steps - head_steps and steps > 1:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends, after %d steps, before the learning rate reaches its "
            "peak. Reduce --optimizer.warmup_steps",
            optimizer.warmup_steps,
            steps,
        )
    log_phases(config.objectives, phases)
    if head_steps:
        logger.info("steps 1 to %s train only the new head and the language embeddings", f"{head_steps:,}")
    return RunPlan(steps, head_steps, optimizer.warmup_steps, phases, tokens_per_epoch(text))


def check_groups(text: TrainingData, micro_batch_tokens: int) -> None:
    """Refuse micro-batches that are shorter than a group of an objective may be."""
    for name, objective in text.objectives.items():
        longest = objective.group * text.data.max_seq_len
        if longest > micro_batch_tokens:
            raise UserError(
                f"run.micro_batch_tokens {micro_batch_tokens}: {name} keeps {objective.group} examples "
                f"together, of up to {longest} tokens. Increase it, or reduce data.max_seq_len"
            )


def check_pairs(text: TrainingData) -> None:
    """Warn if many pairs do not serve an objective (`Objective.serves`), and refuse it if none does.

    Some pairs of each two languages, drawn at random, are looked at.
    """
    rng = make_rng(seed=0, step=0, index=0)  # any fixed one
    pairs = []
    for languages, stream in text.pairs.items():
        count = min(_CHECKED_PAIRS, len(stream))
        for index in rng.choice(len(stream), count, replace=False):
            pairs.append(text.pair(languages, stream[index]))
    for name, objective in text.objectives.items():
        if objective.reads is not Pair:
            continue
        served = sum(objective.serves(pair) for pair in pairs)
        if not served:
            key = "mixing_ratios" if text.setting.config.mixing_ratios else "active"
            raise UserError(
                f"{text.data.corpus}: {name} has no pair to train on: it requires {objective.needs}, but "
                f"none of {len(pairs)} pairs has it. Provide longer pairs, or remove {name} from "
                f"objectives.{key}"
            )
        share = 1 - served / len(pairs)
        if share > _MANY_SHORT_PAIRS:
            use = "serve tlm instead" if "tlm" in text.objectives else "are left out"
            logger.warning("%.0f %% of the pairs are too short for %s and %s", 100 * share, name, use)


def tokens_per_epoch(text: TrainingData) -> int:
    """Return the number of tokens one pass reads, without special tokens.

    It logs how many pairs are read in part.
    """
    kinds = {objective.reads for objective in text.objectives.values()}
    max_seq_len = text.data.max_seq_len
    if Pair in kinds:
        logger.info("%s", long_pairs(text.pairs, max_seq_len))
    in_pairs = sum(pairs.num_tokens - int(pairs.beyond(max_seq_len)[1]) for pairs in text.pairs.values())
    return (Text in kinds) * sum(text.mono.values()) + (Pair in kinds) * in_pairs


def mean_tokens(text: TrainingData, batch_size: int, micro_batch_tokens: int, seed: int) -> float:
    """Return the mean number of trained tokens per step of the run, measured in each phase by its ratios."""
    steps_to_read = max(1, _PROBE_SEQUENCES // batch_size)  # steps of each phase
    phases = make_phases(text.setting.config, _ASSUMED_STEPS + steps_to_read)
    mean = 0.0
    for number, phase in enumerate(phases):
        if not phase.part:
            continue
        # All steps of a phase have the same mixing ratios. Read the first ones of the run, and the last ones
        # of every later phase.
        first_step = phase.steps.stop - steps_to_read if number else 0
        reader = StepReader(text, phases, batch_size, micro_batch_tokens, seed, step=first_step)
        tokens = 0
        for _ in range(steps_to_read):
            tokens += sum(batch.inputs.tokens for batch in reader.next().micro_batches)
        mean += phase.part * tokens / steps_to_read
    return mean
