"""How a step's sequences and its loss are divided among the objectives: functions of the step's number."""

from collections.abc import Mapping

from pretrain.config import OBJECTIVES, ObjectiveConfig
from utils.errors import UserError

MONOLINGUAL = ("mmlm", "btmlm")
PARALLEL = ("tlm", "camlm")


def shares(config: ObjectiveConfig, step: int, total_steps: int) -> dict[str, float]:
    """Each objective's share of the step's sequences, and its weight in the step's loss. They add up to 1.

    `monolingual_share` goes to monolingual text and the rest to pairs, each part divided equally among its
    active objectives, so that ablations compare like with like; where only one kind is active, it gets all.
    Until `btmlm_start` of all steps BTMLM's share goes to MMLM.

    Args:
        step: completed steps, 0 .. total_steps - 1.
    """
    monolingual = [name for name in MONOLINGUAL if name in config.active]
    parallel = [name for name in PARALLEL if name in config.active]
    part = config.monolingual_share if monolingual and parallel else float(bool(monolingual))
    result = {name: part / len(monolingual) for name in monolingual}
    result |= {name: (1.0 - part) / len(parallel) for name in parallel}
    if "btmlm" in result and step < round(config.btmlm_start * total_steps):
        result["mmlm"] = result.get("mmlm", 0.0) + result.pop("btmlm")
    return {name: result[name] for name in OBJECTIVES if result.get(name, 0.0) > 0.0}


def allocate(share: Mapping[str, float], batch_size: int, step: int = 0) -> dict[str, int]:
    """Divide `batch_size` sequences by largest remainder. The counts add up to `batch_size`.

    Equal remainders are served in an order that turns with `step`, so that a small batch does not always
    favour the same objective.
    """
    quotas = {name: round(value * batch_size, 9) for name, value in share.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    names = list(share)
    turned = names[step % len(names) :] + names[: step % len(names)]
    by_remainder = sorted(turned, key=lambda name: counts[name] - quotas[name])
    for name in by_remainder[: batch_size - sum(counts.values())]:
        counts[name] += 1
    return counts


def check_batch_size(config: ObjectiveConfig, batch_size: int, total_steps: int) -> None:
    """Raise a UserError if the batch is so small that an active objective would never get a sequence."""
    for step in (0, total_steps - 1):
        share = shares(config, step, total_steps)
        turns = [allocate(share, batch_size, turn) for turn in range(len(share))]
        for name in share:
            if not any(counts[name] for counts in turns):
                raise UserError(
                    f"optimizer.batch_size {batch_size} is too small: {name} (share {share[name]:.3f}) "
                    "would never get a sequence; raise it, or take the objective out of objectives.active"
                )
