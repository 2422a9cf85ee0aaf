"""How a step's sequences and its loss are divided among the objectives: functions of the step's number."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from ernie_m.pretrain.config import ObjectiveConfig
from ernie_m.pretrain.masking import Pair, Text
from ernie_m.pretrain.objective import names_that_read
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger


def shares(config: ObjectiveConfig, step: int, total_steps: int) -> dict[str, float]:
    """Each objective's share of the step's sequences, and its weight in the step's loss. They add up to 1.

    They are `config.shares` and, from `later_start` of all steps on, `later_shares`; without these,
    `default_shares`. Until `btmlm_start` of all steps BTMLM's share goes to MMLM.

    Args:
        step: completed steps, 0 .. total_steps - 1.
    """
    if config.later_shares and step >= round(config.later_start * total_steps):
        result = _normalised(config.later_shares)
    elif config.shares:
        result = _normalised(config.shares)
    else:
        result = default_shares(config)
    if "btmlm" in result and step < round(config.btmlm_start * total_steps):
        result["mmlm"] = result.get("mmlm", 0.0) + result.pop("btmlm")
    # In the order of `OBJECTIVES`, without those whose share is 0.
    return {name: result[name] for name in OBJECTIVES if result.get(name, 0.0) > 0.0}


def default_shares(config: ObjectiveConfig) -> dict[str, float]:
    """Half for monolingual text and half for pairs, or all for the only kind that is used.

    Each part is divided equally among its active objectives, so that ablations compare like with like.
    """
    kinds = [[name for name in names_that_read(kind) if name in config.names] for kind in (Text, Pair)]
    used = [names for names in kinds if names]
    return {name: 1.0 / len(used) / len(names) for names in used for name in names}


def with_text(config: ObjectiveConfig, monolingual: bool, parallel: bool) -> ObjectiveConfig:
    """Leave out the objectives for which a corpus has no text. The others keep their proportions.

    Without pairs BTMLM is left out, too, because its pseudo-tokens come from what CAMLM learns. Where the
    first part of the run loses all of its objectives, `later_shares` hold from the start. If nothing would
    remain, the configuration stays as it is.

    Args:
        monolingual, parallel: whether the corpus has text of this kind.
    """
    without_text: set[str] = set()
    if not monolingual:
        without_text |= set(names_that_read(Text))
    if not parallel:
        without_text |= {*names_that_read(Pair), "btmlm"}
    if not without_text:
        return config
    active = [name for name in config.names if name not in without_text]
    start_shares = {name: share for name, share in config.shares.items() if share and name in active}
    later_shares = {name: share for name, share in config.later_shares.items() if share and name in active}
    if later_shares and not start_shares:
        start_shares = later_shares
        later_shares = {}
    if not active or (config.shares and not start_shares):  # nothing would remain
        return config
    return replace(config, active=active, shares=start_shares, later_shares=later_shares)


def parts_of_run(config: ObjectiveConfig) -> list[tuple[float, float]]:
    """The parts of a run within which the shares stay the same: (start, end), as fractions of all steps.

    A part is empty where two changes fall together, or where BTMLM begins with the run.
    """
    starts = [0.0]
    if "btmlm" in config.names:
        starts.append(config.btmlm_start)
    if config.later_shares:
        starts.append(config.later_start)
    return list(pairwise([*sorted(starts), 1.0]))


def steps_of_parts(config: ObjectiveConfig, total_steps: int) -> list[tuple[range, dict[str, float]]]:
    """The parts of a run that have a step: their steps, from 0, and the shares in them."""
    parts = []
    for start, end in parts_of_run(config):
        steps = range(round(start * total_steps), round(end * total_steps))
        if steps:
            parts.append((steps, shares(config, steps.start, total_steps)))
    return parts


def log_parts(config: ObjectiveConfig, total_steps: int) -> None:
    """Log the shares in each part of a run, and warn of objectives that are named but never trained."""
    named = {*config.names, *config.shares, *config.later_shares}
    for steps, share_of in steps_of_parts(config, total_steps):
        listed = ", ".join(f"{name} {100 * share:.3g} %" for name, share in share_of.items())
        logger.info("steps %s to %s: %s", f"{steps.start + 1:,}", f"{steps.stop:,}", listed)
        named -= share_of.keys()
    for name in sorted(named):
        logger.warning(
            "%s is never trained: objectives.shares, later_shares, later_start and btmlm_start leave it none "
            "of the %s steps",
            name,
            f"{total_steps:,}",
        )


def allocate(share: Mapping[str, float], batch_size: int, step: int = 0) -> dict[str, int]:
    """The number of texts or pairs of each objective in a step, by largest remainder.

    The counts add up to `batch_size`.

    Equal remainders are served in an order that turns with `step`, so that a small batch does not always
    favour the same objective.
    """
    # Rounded, so that a quota which is a whole number stays one, and equal remainders are equal: in floating
    # point 0.29 * 100 is below 29, and 1.6 - 1 is above 0.6.
    quotas = {name: round(value * batch_size, 9) for name, value in share.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    remainders = {name: round(quotas[name] - counts[name], 9) for name in share}
    names = list(share)
    first = step % len(names)
    by_turn = names[first:] + names[:first]
    # Among equal remainders `sorted` keeps the order of `by_turn`.
    largest_remainder_first = sorted(by_turn, key=lambda name: remainders[name], reverse=True)
    missing = batch_size - sum(counts.values())
    for name in largest_remainder_first[:missing]:
        counts[name] += 1
    return counts


def check_batch_size(config: ObjectiveConfig, batch_size: int, total_steps: int) -> None:
    """Raise a UserError if the batch is so small that an active objective would never get a sequence."""
    for _, share in steps_of_parts(config, total_steps):
        # Objectives of equal remainders take turns, so after as many steps as objectives each had its turn.
        counts_of_steps = [allocate(share, batch_size, step) for step in range(len(share))]
        for name in share:
            if not any(counts[name] for counts in counts_of_steps):
                key = "objectives.shares" if config.shares else "objectives.active"
                raise UserError(
                    f"optimizer.batch_size {batch_size} is too small: {name} (share {share[name]:.3f}) "
                    f"would never get a sequence; raise it, or take the objective out of {key}"
                )


def _normalised(mix: Mapping[str, float]) -> dict[str, float]:
    """Shares in the same proportions that add up to 1."""
    total = sum(mix.values())
    return {name: value / total for name, value in mix.items()}
