"""Runs commands one after the other in the same processes, and records the loss of each step.

The argument is a JSON file: a list of [script, folder to run it in, flags].
"""

import importlib
import json
import os
import sys
from pathlib import Path

from ernie_m.utils.errors import run
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    prepare()
    from ernie_m.training.engine import Engine
    from tests.launching import call_main

    step = Engine.step
    losses = []

    def recorded(self, *arguments, **options):
        outcome = step(self, *arguments, **options)
        losses.append(outcome.loss)
        return outcome

    Engine.step = recorded
    for script, folder, line in json.loads(Path(sys.argv[1]).read_text()):
        os.chdir(folder)
        losses.clear()
        call_main(importlib.import_module(script), line)
        Path(f"losses.{os.environ.get('PADDLE_TRAINER_ID', '0')}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    run(main)
