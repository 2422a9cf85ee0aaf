"""Generators for the worker process of `test_prefetch.py`, in a module that it can import."""

import os
import sys
import time

import numpy as np

from ernie_m.utils.errors import UserError


def count(n: int):
    yield from range(n)


def pids():
    """The number of the worker process, again and again."""
    while True:
        yield os.getpid()


def large(path: str):
    """Items of 800 kB, more than a pipe holds. The file `path` has one byte for each item made."""
    while True:
        with open(path, "ab") as file:
            file.write(b".")
        yield np.zeros(100_000)


def one_then_wait():
    """One item, and no second one within a minute."""
    yield os.getpid()
    time.sleep(60)


def one_then(event: str, path: str = ""):
    """One item, then an event that ends the worker: one of those below, or "truncate".

    Args:
        path: of a file that is cut short while it is mapped into memory, which ends the process with SIGBUS.
    """
    yield 1
    if event == "user error":
        raise UserError("x.tsv, line 3: unknown label 'maybe'")
    if event == "error":
        raise ZeroDivisionError("the error")
    if event == "kill":
        os.kill(os.getpid(), 9)
    if event == "exit":
        os._exit(3)
    np.save(path, np.zeros(100_000))  # "truncate"
    mapped = np.load(path, mmap_mode="r")
    os.truncate(path, 1000)
    yield float(mapped[50_000])  # the file has no such page any more


def modules():
    """The names of all modules that the worker has imported."""
    yield sorted(sys.modules)
