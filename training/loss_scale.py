"""The factor on the loss that keeps float16 gradients away from zero: the official rule."""

from dataclasses import dataclass


@dataclass
class LossScale:
    """Grows after a run of good steps, shrinks after overflows (the flags of the official fp16 training).

    Args:
        scale: the factor now.
        dynamic: False keeps it as it is.
        incr_every: consecutive good steps before it grows.
        decr_every: overflowing steps, with no good one between them, before it shrinks.
        incr_ratio, decr_ratio: the factors on it; it never falls below 1.
    """

    scale: float = 102400.0
    dynamic: bool = True
    incr_every: int = 100
    decr_every: int = 2
    incr_ratio: float = 2.0
    decr_ratio: float = 0.8
    good: int = 0
    bad: int = 0

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may still be the scale's fault."""
        return self.dynamic and self.scale > 1.0

    def update(self, finite: bool) -> None:
        """Take note of a step whose gradients were all finite, or not."""
        if not self.dynamic:
            return
        if finite:
            self.good, self.bad = self.good + 1, 0
            if self.good == self.incr_every:
                self.scale, self.good = self.scale * self.incr_ratio, 0
        else:
            self.good, self.bad = 0, self.bad + 1
            if self.bad == self.decr_every:
                self.scale, self.bad = max(self.scale * self.decr_ratio, 1.0), 0

    def state_dict(self) -> dict[str, float]:
        """What changes during training."""
        return {"scale": self.scale, "good": self.good, "bad": self.bad}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up `state_dict()` again."""
        self.scale, self.good, self.bad = (
            float(state["scale"]),
            int(state["good"]),
            int(state["bad"]),
        )
