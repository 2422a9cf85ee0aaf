"""Loss spikes: a step whose loss stands out is undone, and its batches are left out of the run."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from pretrain.config import RunConfig
from pretrain.reader import StepBatches
from training import distributed
from training.engine import Step
from utils.errors import UserError


@dataclass(frozen=True)
class Spike:
    """A step that the run goes back for.

    Args:
        step: its number; the first is 1.
        loss: of it.
        usual: the mean loss of the steps before.
        batches: the numbers of the batches that are left out because of it; the first of the run is 0.
        left_out: those of the run's spikes so far together.
        number: of the spike, 1 for the run's first.
    """

    step: int
    loss: float
    usual: float
    batches: list[int]
    left_out: list[int]
    number: int

    def record(self) -> dict[str, Any]:
        """For metrics.jsonl."""
        values = {"number": self.number, "from_step": self.step, "loss": self.loss, "usual": self.usual}
        return values | {"batches": self.batches}

    def __str__(self) -> str:
        first, last = self.batches[0], self.batches[-1]
        which = f"batch {last} is" if first == last else f"batches {first} to {last} are"
        return (
            f"step {self.step}: loss {self.loss:.4f}, {self.loss / self.usual:.1f} times the usual "
            f"{self.usual:.4f}: back to the newest checkpoint; {which} left out (rollback {self.number})"
        )


class SpikeWatch:
    """Compares each step's loss with the mean of the steps before it, where `run.spike_above` asks for it.

    Its state is in the checkpoints, and the loss is that of all processes: a run that is killed and goes on
    sees the same spikes at the same steps, and so does every process.

    Args:
        run: its `spike_*` values.
        state: of the checkpoint that the run goes on from.
        spike: for which the run has just gone back there; the checkpoint does not know of it.

    Attributes:
        left_out: the batches that the reader passes over, besides those that it has in its own state.
    """

    def __init__(self, run: RunConfig, state: dict[str, Any] | None = None, spike: Spike | None = None):
        self.run = run
        self.recent = deque(state["recent"] if state else (), maxlen=run.spike_window)
        self.rollbacks: int = spike.number if spike else state["rollbacks"] if state else 0
        self.left_out = spike.left_out if spike else []

    def check(self, at: int, step: Step, work: StepBatches) -> Spike | None:
        """Take in step number `at`, which trained on `work`.

        Raises:
            UserError: it is a spike, and the run has gone back `run.spike_rollbacks` times already.
        """
        if not self.run.spike_above or step.skipped:
            return None
        usual = sum(self.recent) / max(len(self.recent), 1)
        full = len(self.recent) == self.run.spike_window
        stands_out = full and step.loss > self.run.spike_above * usual
        if not distributed.all_sum([float(stands_out)])[0]:  # all processes go back, or none
            self.recent.append(step.loss)
            return None
        if self.rollbacks == self.run.spike_rollbacks:
            raise UserError(
                f"step {at}: loss {step.loss:.4f} after a usual {usual:.4f}, and the run has gone back "
                f"{self.rollbacks} times already (run.spike_rollbacks): lower the learning rate, or look at "
                "the data"
            )
        first = max(0, work.number + 1 - self.run.spike_skip)
        batches = list(range(first, work.number + 1))
        left_out = sorted({*work.state.get("left_out", ()), *batches})
        return Spike(at, step.loss, usual, batches, left_out, self.rollbacks + 1)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"recent": list(self.recent), "rollbacks": self.rollbacks}
