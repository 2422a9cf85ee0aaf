"""run_classifier.py, killed as often as KILLS says, then run to its end.

KILLS is like "step 2,best 1": the first run is killed in its second step, the next one at its first best
model; see `arm`. Each run is a fork of this process, so that Paddle is imported once. Each evaluation is
better than the one before.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from ernie_m.commands import run_classifier
from ernie_m.utils.errors import run
from ernie_m.utils.paddle_settings import prepare


def arm(event: str, number: int) -> None:
    """Prepare the kill of this process.

    Args:
        event: "step"; "evaluation", of one batch; "checkpoint", when it is written but not yet renamed; or
            "best", when the old best model is renamed but not the new one.
        number: at which of these events, from 1.
    """
    from ernie_m.finetune.classifier import Classification
    from ernie_m.training.engine import Engine
    from ernie_m.utils import files

    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function):
        def call(*arguments, **options):
            count()
            return function(*arguments, **options)

        return call

    def is_the_event(source: Path, target: Path) -> bool:
        """Whether the event is there just before `source` is renamed to `target`."""
        if event == "checkpoint":
            return source.name.startswith(".step_") and ".tmp-" in source.name
        # The new best model is to take the place of the old one, which is already renamed.
        if ".best.tmp" not in str(source) or target.exists():
            return False
        return any(path.name.startswith(".best.old") for path in target.parent.iterdir())

    replace = os.replace

    def replace_after_count(source, target) -> None:
        if is_the_event(Path(source), Path(target)):
            count()
        replace(source, target)

    if event == "step":
        Engine.step = counted(Engine.step)
    elif event == "evaluation":
        Classification.predict = counted(Classification.predict)
    else:
        files.os.replace = replace_after_count


def main() -> None:
    prepare(quiet=True)
    from ernie_m.finetune.finetuning import FineTuning

    evaluate = FineTuning.evaluate

    def evaluate_as_better(self, engine, stop):
        """Evaluate, and let the score that selects be the number of the step, so that it always rises."""
        return dataclasses.replace(evaluate(self, engine, stop), selected_by=float(engine.steps))

    FineTuning.evaluate = evaluate_as_better
    kills = [kill for kill in os.environ["KILLS"].split(",") if kill]
    for kill in [*kills, ""]:  # the last run is not killed
        child = os.fork()
        if child == 0:
            if kill:
                event, number = kill.split()
                arm(event, int(number))
            run_classifier.main()
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(f"{kill}: {'killed' if is_killed else os.waitstatus_to_exitcode(status)}", flush=True)
        if is_killed != bool(kill):
            sys.exit(1)


if __name__ == "__main__":
    run(main)
