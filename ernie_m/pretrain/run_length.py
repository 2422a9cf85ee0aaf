"""Plans a run: number of steps, from the config or from a number of tokens, and phases."""

from dataclasses import dataclass

from ernie_m.pretrain.batches import StepReader
from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.masking import Pair, Text, make_rng
from ernie_m.pretrain.objective_mix import Phase, check_batch_size, log_phases, make_phases
from ernie_m.reader.corpus import describe_long_pairs
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

_CHECKED_PAIRS = 200  # number of pairs per language pair that `check_pairs` samples
_MANY_SHORT_PAIRS = 0.2  # a higher fraction causes a warning
# `measure_mean_tokens` measures the tokens of a step on this many sequences of each phase. It assumes a run
# long enough for each phase to have that many.
_PROBE_SEQUENCES = 8192
_ASSUMED_STEPS = 1 << 30


@dataclass(frozen=True)
class RunPlan:
    """The length and the phases of a run.

    Attributes:
        steps: number of steps, including `head_steps`.
        head_steps: number of initial steps that train only the masked-LM head and language embeddings.
        warmup_steps: number of learning-rate warm-up steps after `head_steps`.
        phases: the mixing ratios of the objectives in each phase.
        tokens_per_epoch: number of tokens of one epoch, without special tokens.
    """

    steps: int
    head_steps: int
    warmup_steps: int
    phases: tuple[Phase, ...]
    tokens_per_epoch: int


def plan_run(config: PretrainConfig, text: TrainingData) -> RunPlan:
    """Plan a run, and log its phases.

    If `optimizer.tokens` is set, the number of steps is `optimizer.tokens` divided by the mean number of
    tokens per step. The plan depends only on corpus and config, so a resumed run gets the same plan.

    Raises:
        UserError: `init.lm_head_warmup_steps` is not below the number of steps, the batch is too small for an
            objective, a micro-batch is too small for a group of examples, or no pair is long enough for an
            objective.
    """
    optimizer = config.optimizer
    micro_batch_tokens = config.run.micro_batch_tokens
    check_groups(text, micro_batch_tokens)
    check_pairs(text)
    exact_steps = optimizer.steps / config.run.compute_ratio
    if optimizer.tokens:
        tokens_of_step = measure_mean_tokens(text, optimizer.batch_size, micro_batch_tokens, config.run.seed)
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
    # A run of one step is not training: after warm-up its learning rate is 0, and it writes the initial
    # weights.
    if optimizer.warmup_steps >= steps - head_steps and steps > 1:
        logger.warning(
            "optimizer.warmup_steps %d: the run ends after %d steps, before the peak learning "
            "rate. Reduce --optimizer.warmup_steps",
            optimizer.warmup_steps,
            steps,
        )
    log_phases(config.objectives, phases)
    if head_steps:
        logger.info("steps 1 to %s train only the head and the language embeddings", f"{head_steps:,}")
    return RunPlan(steps, head_steps, optimizer.warmup_steps, phases, count_tokens_per_epoch(text))


def check_groups(text: TrainingData, micro_batch_tokens: int) -> None:
    """Check that a group of examples of each objective fits into a micro-batch.

    Raises:
        UserError: `micro_batch_tokens` is too small.
    """
    for name, objective in text.objectives.items():
        longest = objective.group * text.data.max_seq_len
        if longest > micro_batch_tokens:
            raise UserError(
                f"run.micro_batch_tokens {micro_batch_tokens}: {name} groups {objective.group} examples "
                f"of up to {longest} tokens. Increase it, or reduce data.max_seq_len"
            )


def check_pairs(text: TrainingData) -> None:
    """Check that every objective accepts some sampled pairs, and warn if an objective rejects many.

    Raises:
        UserError: an objective rejects all sampled pairs.
    """
    rng = make_rng(seed=0, step=0, index=0)  # any fixed seed
    pairs = []
    for languages, stream in text.pairs.items():
        count = min(_CHECKED_PAIRS, len(stream))
        for index in rng.choice(len(stream), count, replace=False):
            pairs.append(text.make_pair(languages, stream[index]))
    for name, objective in text.objectives.items():
        if objective.reads is not Pair:
            continue
        served = sum(objective.accepts_pair(pair) for pair in pairs)
        if not served:
            key = "mixing_ratios" if text.setting.config.mixing_ratios else "active"
            raise UserError(
                f"{text.data.corpus}: {name} has no pair to train on: it requires {objective.needs}, "
                f"which none of {len(pairs)} sampled pairs has. Provide longer pairs, or remove "
                f"{name} from objectives.{key}"
            )
        share = 1 - served / len(pairs)
        if share > _MANY_SHORT_PAIRS:
            use = "used for tlm instead" if "tlm" in text.objectives else "skipped"
            logger.warning("%.0f %% of the pairs are too short for %s and %s", 100 * share, name, use)


def count_tokens_per_epoch(text: TrainingData) -> int:
    """Count the tokens of one epoch, without special tokens, and log the number of truncated pairs."""
    kinds = {objective.reads for objective in text.objectives.values()}
    max_seq_len = text.data.max_seq_len
    if Pair in kinds:
        logger.info("%s", describe_long_pairs(text.pairs, max_seq_len))
    in_pairs = sum(
        pairs.num_tokens - int(pairs.count_truncated(max_seq_len)[1]) for pairs in text.pairs.values()
    )
    return (Text in kinds) * sum(text.mono.values()) + (Pair in kinds) * in_pairs


def measure_mean_tokens(text: TrainingData, batch_size: int, micro_batch_tokens: int, seed: int) -> float:
    """Measure the mean number of tokens per step from sampled steps of each phase, weighted by its length."""
    steps_to_read = max(1, _PROBE_SEQUENCES // batch_size)  # steps of each phase
    phases = make_phases(text.setting.config, _ASSUMED_STEPS + steps_to_read)
    mean = 0.0
    for number, phase in enumerate(phases):
        if not phase.part:
            continue
        # All steps of a phase have the same mixing ratios. Read the first steps of the run, and the last ones
        # of every later phase.
        first_step = phase.steps.stop - steps_to_read if number else 0
        reader = StepReader(text, phases, batch_size, micro_batch_tokens, seed, step=first_step)
        steps = (reader.make_step_batches() for _ in range(steps_to_read))
        tokens = sum(batch.inputs.tokens for step in steps for batch in step.micro_batches)
        mean += phase.part * tokens / steps_to_read
    return mean
