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

from utils.errors import run
from utils.runtime import prepare


def main() -> None:
    prepare(quiet=True)
    from tests.launching import call_main
    from training.engine import Engine

    step, done, stop_at = Engine.step, {}, int(os.environ.get("STOP_AT", "0"))

    def recorded(self, micro_batches, *rest):
        if self.steps + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        # Of retrieval no samples are recorded.
        batches = [micro_batch[0] for micro_batch in micro_batches if isinstance(micro_batch, tuple)]
        samples = [int(index) for batch in batches for index in batch.indices]
        found = step(self, micro_batches, *rest)
        if found is not None:
            done.setdefault(str(self.steps), []).append([found.loss, samples])
        return found

    Engine.step = recorded
    for script, folder, line in json.loads(Path(sys.argv[1]).read_text()):
        os.chdir(folder)
        path = Path(f"steps.{os.environ.get('PADDLE_TRAINER_ID', '0')}.json")
        done.clear()
        done.update(json.loads(path.read_text()) if path.exists() else {})
        try:
            call_main(importlib.import_module(script), line)
        finally:
            path.write_text(json.dumps(done))


if __name__ == "__main__":
    run(main)
