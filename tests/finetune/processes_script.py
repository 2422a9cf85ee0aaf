"""Runs commands one after the other in the same processes; records the loss and the samples of each step.

The argument is a JSON file: a list of [script, folder to run it in, flags]. STOP_AT=n sends SIGTERM in step n
on every process; the step is given up.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path

from ernie_m.utils.errors import run
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    prepare()
    from ernie_m.training.engine import Engine
    from tests.launching import call_main

    step = Engine.step
    records = {}  # step -> [[loss, samples], ...], of each time that the step was done
    stop_at = int(os.environ.get("STOP_AT", "0"))

    def recorded(self, micro_batches, **options):
        if self.steps + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        samples = []
        for micro_batch in micro_batches:
            # (batch, its tensors on the device); but a training for retrieval has no tuples, and no samples.
            if isinstance(micro_batch, tuple):
                batch, _ = micro_batch
                samples += batch.indices.tolist()
        outcome = step(self, micro_batches, **options)
        if outcome is not None:  # else the step was given up
            records.setdefault(str(self.steps), []).append([outcome.loss, samples])
        return outcome

    Engine.step = recorded
    for script, folder, line in json.loads(Path(sys.argv[1]).read_text()):
        os.chdir(folder)
        path = Path(f"steps.{os.environ.get('PADDLE_TRAINER_ID', '0')}.json")
        records.clear()
        if path.exists():  # a command that goes on adds to what an earlier one recorded in the same folder
            records.update(json.loads(path.read_text()))
        try:
            call_main(importlib.import_module(script), line)
        finally:
            path.write_text(json.dumps(records))


if __name__ == "__main__":
    run(main)
