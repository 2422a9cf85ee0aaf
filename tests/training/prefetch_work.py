"""Generators for the reader process, in a module that it can import."""

import os
import sys
import time

import numpy as np

from utils.errors import UserError


def count(n: int):
    for i in range(n):
        yield i, np.full([4, 4], i)


def forever():
    i = 0
    while True:
        yield i, os.getpid()
        i += 1


def large(path: str):
    """Items of 800 kB, more than a pipe holds; the file `path` has a byte for each that was made."""
    while True:
        with open(path, "ab") as file:
            file.write(b".")
        yield np.zeros(100_000)


def user_error():
    yield 1
    raise UserError("x.tsv, line 3: unknown label 'maybe'")


def bug():
    yield 1
    raise ZeroDivisionError("the bug")


def slow():
    yield os.getpid()
    time.sleep(60)


def unhurried(seconds: float, n: int):
    for i in range(n):
        time.sleep(seconds)
        yield i


def killed():
    yield 1
    os.kill(os.getpid(), 9)


def cut_short(path: str):
    np.save(path, np.zeros(100_000))
    mapped = np.load(path, mmap_mode="r")
    yield float(mapped[50_000])
    os.truncate(path, 1000)
    yield float(mapped[50_000])


def modules():
    yield sorted(sys.modules)
