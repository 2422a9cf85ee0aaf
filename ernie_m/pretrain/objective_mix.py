"""Mixing ratios of the objectives, for sequences and loss, in each phase of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import attrgetter

from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.masking import Pair, Text
from ernie_m.pretrain.objective import list_names_for_input
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger


@dataclass(frozen=True)
class Phase:
    """A phase of a run, with constant mixing ratios.

    Attributes:
        steps: the steps of the phase, from 0; may be empty.
        part: length of the phase as a fraction of the run, before rounding to steps.
        mixing_ratios: objective -> fraction of a step's sequences, which is also its weight in the loss. The
            ratios sum to 1.
    """

    steps: range
    part: float
    mixing_ratios: dict[str, float]


def make_phases(config: ObjectiveConfig, total_steps: int) -> tuple[Phase, ...]:
    """Divide a run into phases, in order.

    The mixing ratios are `config.mixing_ratios` and, after a fraction `later_start` of the steps,
    `later_mixing_ratios`; by default `default_mixing_ratios`. Before a fraction `btmlm_start` of the steps,
    BTMLM's ratio is added to MMLM's.
    """
    starts = [0.0]
    if "btmlm" in config.names:
        starts.append(config.btmlm_start)
    if config.later_mixing_ratios:
        starts.append(config.later_start)
    phases = []
    for start, end in pairwise([*sorted(starts), 1.0]):
        mix = config.mixing_ratios
        if config.later_mixing_ratios and start >= config.later_start:
            mix = config.later_mixing_ratios
        total = sum(mix.values())
        mixing_ratios = {name: share / total for name, share in mix.items()} or default_mixing_ratios(config)
        if "btmlm" in mixing_ratios and start < config.btmlm_start:
            mixing_ratios["mmlm"] = mixing_ratios.get("mmlm", 0.0) + mixing_ratios.pop("btmlm")
        # In the order of `OBJECTIVES`, without ratios of 0.
        mixing_ratios = {
            name: mixing_ratios[name] for name in OBJECTIVES if mixing_ratios.get(name, 0.0) > 0.0
        }
        steps = range(round(start * total_steps), round(end * total_steps))
        phases.append(Phase(steps, end - start, mixing_ratios))
    return tuple(phases)


def get_mixing_ratios(phases: Sequence[Phase], step: int) -> dict[str, float]:
    """Return the mixing ratios at a step, from 0; after the end of the run, those of the last phase."""
    return next(phase.mixing_ratios for phase in reversed(phases) if step >= phase.steps.start)


def default_mixing_ratios(config: ObjectiveConfig) -> dict[str, float]:
    """Return the default mixing ratios: half for monolingual text, half for pairs; all, if only one is used.

    Each half is divided equally among its active objectives, so that ablations are comparable.
    """
    kinds = [[name for name in list_names_for_input(kind) if name in config.names] for kind in (Text, Pair)]
    used = [names for names in kinds if names]
    return {name: 1.0 / len(used) / len(names) for names in used for name in names}


def drop_objectives_without_text(
    config: ObjectiveConfig, monolingual: bool, parallel: bool
) -> ObjectiveConfig:
    """Return the config without objectives for which a corpus has no text; other ratios stay proportional.

    Without pairs BTMLM is also removed, because only CAMLM trains the generation of pseudo-tokens. If the
    first phase loses all objectives, `later_mixing_ratios` apply from the beginning. If no objective would
    remain, the config is returned unchanged.

    Args:
        monolingual, parallel: whether the corpus has text of this kind.
    """
    without_text: set[str] = set()
    if not monolingual:
        without_text |= set(list_names_for_input(Text))
    if not parallel:
        without_text |= {*list_names_for_input(Pair), "btmlm"}
    if not without_text:
        return config
    active = [name for name in config.names if name not in without_text]
    start_mixing_ratios = {
        name: share for name, share in config.mixing_ratios.items() if share and name in active
    }
    later_mixing_ratios = {
        name: share for name, share in config.later_mixing_ratios.items() if share and name in active
    }
    if later_mixing_ratios and not start_mixing_ratios:
        start_mixing_ratios = later_mixing_ratios
        later_mixing_ratios = {}
    if not active or (config.mixing_ratios and not start_mixing_ratios):  # no objective would remain
        return config
    return replace(
        config, active=active, mixing_ratios=start_mixing_ratios, later_mixing_ratios=later_mixing_ratios
    )


def log_phases(config: ObjectiveConfig, phases: Sequence[Phase]) -> None:
    """Log the mixing ratios of each phase, and warn about objectives that are never trained."""
    never_trained = {*config.names, *config.mixing_ratios, *config.later_mixing_ratios}
    with_steps = [phase for phase in phases if phase.steps]
    for mixing_ratios, equal_phases in groupby(with_steps, key=attrgetter("mixing_ratios")):
        parts = [phase.steps for phase in equal_phases]
        first, last = parts[0].start + 1, parts[-1].stop
        listed = ", ".join(f"{name} {100 * share:.3g} %" for name, share in mixing_ratios.items())
        logger.info("steps %s to %s: %s", f"{first:,}", f"{last:,}", listed)
        never_trained -= mixing_ratios.keys()
    for name in sorted(never_trained):
        logger.warning(
            "%s is never trained: objectives.mixing_ratios, later_mixing_ratios, later_start and btmlm_start "
            "give it none of the %s steps",
            name,
            f"{phases[-1].steps.stop:,}",
        )


def allocate_examples(mixing_ratios: Mapping[str, float], batch_size: int, step: int = 0) -> dict[str, int]:
    """Divide a step's sequences among the objectives by the largest-remainder method.

    Ties are broken in an order that rotates with `step`, so that a small batch does not always favor the same
    objective.

    Args:
        mixing_ratios: objective -> mixing ratio.
        batch_size: number of texts and pairs of the step.

    Returns:
        objective -> number of texts or pairs; the numbers sum to `batch_size`.
    """
    # Rounded, so that integer quotas stay integers and equal remainders are equal: in floating point 0.29 *
    # 100 is below 29, and 1.6 - 1 is above 0.6.
    quotas = {name: round(value * batch_size, 9) for name, value in mixing_ratios.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    remainders = {name: round(quotas[name] - counts[name], 9) for name in mixing_ratios}
    names = list(mixing_ratios)
    first = step % len(names)
    by_turn = names[first:] + names[:first]
    # `sorted` keeps the order of `by_turn` for ties.
    largest_remainder_first = sorted(by_turn, key=lambda name: remainders[name], reverse=True)
    missing = batch_size - sum(counts.values())
    for name in largest_remainder_first[:missing]:
        counts[name] += 1
    return counts


def check_batch_size(config: ObjectiveConfig, phases: Sequence[Phase], batch_size: int) -> None:
    """Check that the batch is large enough for every active objective to get a sequence in some step.

    Raises:
        UserError: an objective would never get a sequence.
    """
    for phase in phases:
        # Tied objectives rotate, so after as many steps as objectives each had its turn.
        counts_of_steps = [
            allocate_examples(phase.mixing_ratios, batch_size, step)
            for step in range(len(phase.mixing_ratios))
        ]
        for name, share in phase.mixing_ratios.items():
            if phase.steps and not any(counts[name] for counts in counts_of_steps):
                key = "objectives.mixing_ratios" if config.mixing_ratios else "objectives.active"
                raise UserError(
                    f"optimizer.batch_size {batch_size} is too small: {name} (ratio {share:.3f}) would never "
                    f"get a sequence. Increase it, or remove the objective from {key}"
                )
