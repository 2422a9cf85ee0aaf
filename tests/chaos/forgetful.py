"""Run the command that the variable SCRIPT names, but let it find no checkpoint: it begins from scratch."""

import importlib
import os

from ernie_m.utils.errors import run
from ernie_m.utils.paddle_settings import prepare

if __name__ == "__main__":
    prepare(quiet=True)
    from ernie_m.training import run_folder

    run_folder.newest_step = lambda folder: None
    run(importlib.import_module(os.environ["SCRIPT"]).main)
