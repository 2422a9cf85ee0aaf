"""Learning-rate schedules: functions of the step, 0 for the first update, that return a share of the peak."""

from collections.abc import Callable

Schedule = Callable[[int], float]
# The shapes of the linear decay; the names are values of --lr_schedule_style and of optimizer.schedule.
WITH_DROP = "official"
WITHOUT_DROP = "paddlenlp"


def linear_warmup_decay(warmup_steps: int, total_steps: int, shape: str = WITH_DROP) -> Schedule:
    """Linear warm-up over w = warmup_steps, then linear decay to 0 at T = total_steps. w = 0: constant rate.

    Args:
        shape: WITH_DROP, as the official code: from step w on the rate is 1 - t/T, so it drops from 1 to
            1 - w/T at step w. WITHOUT_DROP, as PaddleNLP: it falls in a straight line from 1 at step w to 0
            at step T.
    """

    def share(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        if step < warmup_steps:
            return step / warmup_steps
        if shape == WITH_DROP:
            return max(0.0, 1.0 - step / total_steps)
        decay_steps = max(1, total_steps - warmup_steps)
        return max(0.0, (total_steps - step) / decay_steps)

    return share


def noam_decay(warmup_steps: int) -> Schedule:
    """Linear warm-up to 1 at update w = warmup_steps, then sqrt(w / update). w = 0: constant rate."""

    def share(step: int) -> float:
        if warmup_steps == 0:
            return 1.0
        update = step + 1
        return min((warmup_steps / update) ** 0.5, update / warmup_steps)

    return share
