"""Which process of a run this is, as `fleetrun` tells it in the environment. No Paddle here."""

import os


def rank() -> int:
    """This process's number, 0 .. world_size() - 1."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    """The number of processes of this run."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def is_main() -> bool:
    """True on the process that writes files and talks to the console."""
    return rank() == 0
