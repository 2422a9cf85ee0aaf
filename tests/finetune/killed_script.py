"""run_classifier.py, killed as often as KILLS says (what and at which call), then run to its end.

Each run is a fork of this process, so that Paddle is imported once. Each evaluation is better than the last.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import run_classifier
from utils.errors import run
from utils.runtime import prepare


def arm(event: str, number: int) -> None:
    """Kill this process with call `number` (from 1) of a step, a prediction, a checkpoint or a best model."""
    from finetune.classification import Classification
    from training.engine import Engine
    from utils import files

    calls = []

    def count(matches: bool = True) -> None:
        calls.extend([event] * matches)
        if matches and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if event in ("step", "evaluation"):
        owner, name = (Engine, "step") if event == "step" else (Classification, "predict")
        original = getattr(owner, name)
        setattr(owner, name, lambda *arguments: (count(), original(*arguments))[1])
    else:  # a checkpoint is written but not yet renamed; or the old best is renamed, the new one is not
        replace = os.replace

        def is_next(a, b) -> bool:
            if event == "checkpoint":
                return a.name.startswith(".step_") and ".tmp-" in a.name
            away = not b.exists() and any(path.name.startswith(".best.old") for path in b.parent.iterdir())
            return ".best.tmp" in str(a) and away

        files.os.replace = lambda a, b: (count(is_next(Path(a), Path(b))), replace(a, b))[1]


def main() -> None:
    prepare(quiet=True)
    from finetune.task import SupervisedTask

    evaluate = SupervisedTask.evaluate

    def better(self, engine, stop):
        return dataclasses.replace(evaluate(self, engine, stop), selected_by=float(engine.steps))

    SupervisedTask.evaluate = better
    for kill in [*filter(None, os.environ["KILLS"].split(",")), ""]:
        if process := os.fork():
            _, status = os.waitpid(process, 0)
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            print(f"{kill}: {'killed' if killed else os.waitstatus_to_exitcode(status)}", flush=True)
            if bool(kill) != killed:
                sys.exit(1)
        else:
            if kill:
                event, number = kill.split()
                arm(event, int(number))
            run_classifier.main()
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    run(main)
