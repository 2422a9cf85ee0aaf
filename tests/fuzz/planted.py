"""Readers that are wrong, each in a way of its own, to see that the harness tells of them all."""

import os
import signal
import sys
import time
from pathlib import Path

from tests.fuzz import worker
from tests.fuzz.attempt import Target
from utils.errors import UserError

SEEDS = [b"a plain line\n", b"42"]


def _wrong(how):
    """A reader that is wrong about inputs with a "\\0" or a "{" in them, and refuses others."""

    def read(path: Path) -> None:
        data = path.read_bytes()
        if b"\0" in data or b"{" in data:
            how(data)
        elif data not in SEEDS:
            raise UserError(f"{path}: none of ours")

    return Target("input", lambda folder: list(SEEDS), read, mib=32)


def _raise(data: bytes) -> None:
    raise KeyError(data[:10])


def _mute(data: bytes) -> None:
    raise UserError("something is wrong somewhere")


PLANTED = {
    "raises": _wrong(_raise),
    "hangs": _wrong(lambda data: time.sleep(1000)),
    "dies": _wrong(lambda data: os.kill(os.getpid(), signal.SIGKILL)),
    "grows": _wrong(lambda data: bytes(bytearray(b"x") * (200 << 20))),
    "names_no_file": _wrong(_mute),
    "sound": _wrong(lambda data: None),
}

if __name__ == "__main__":
    worker.main(sys.argv[1:], PLANTED)
