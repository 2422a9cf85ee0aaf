"""Run the command that the variable SCRIPT names, but let it find no checkpoint: it begins from scratch."""

import importlib
import os

from utils.errors import run
from utils.runtime import prepare

if __name__ == "__main__":
    prepare(quiet=True)
    from model.checkpoint import step_folders

    step_folders.load_newest = lambda folder: None
    run(importlib.import_module(os.environ["SCRIPT"]).main)
