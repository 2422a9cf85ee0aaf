"""CPU settings that must stand in the environment before paddle is imported. See docs/cpu.md."""

import os
import sys


def prepare(quiet: bool = False) -> str:
    """Set what makes Paddle fast on this CPU, never over a value the user has set, and say so in one line."""
    settings = {"FLAGS_use_stride_kernel": "0"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    line = "cpu: " + " ".join(f"{name}={os.environ[name]}" for name in settings)
    if "paddle" in sys.modules:
        line += " (paddle was imported before, so these have no effect)"
    if not quiet:
        print(line, flush=True)
    return line
