"""The peer of benchmarks/corpus.py: Hugging Face's tokenizers, from a text file to a file of ids.

Runs in the peer's environment, where nothing of ours is:

    corpus_peer.py convert MODEL JSON                 an XLM-R tokenizer of a sentencepiece model
    corpus_peer.py encode JSON < lines > lines        the tokens and ids of each line, as JSON
    corpus_peer.py build JSON TEXT FOLDER PROCESSES   each process takes its part of the lines
"""

import itertools
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np

BATCH = 1 << 20  # bytes of text


def convert(model: str, path: str) -> None:
    import transformers

    tokenizer = transformers.XLMRobertaTokenizerFast(model)
    tokenizer.backend_tokenizer.save(path)


def encode(path: str) -> None:
    tokenizer = open_tokenizer(path)
    for encoding in tokenizer.encode_batch(sys.stdin.read().split("\n")[:-1], add_special_tokens=False):
        print(json.dumps([encoding.tokens, encoding.ids]))


def build(path: str, text: str, folder: str, processes: str) -> None:
    size, count = os.path.getsize(text), int(processes)
    parts = [
        (path, text, folder, number, size * number // count, size * (number + 1) // count)
        for number in range(count)
    ]
    if count == 1:
        write_ids(*parts[0])
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_ids, args=part) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


def write_ids(path: str, text: str, folder: str, number: int, start: int, end: int) -> None:
    """The ids of the lines that begin within [start, end), and how many each has."""
    tokenizer = open_tokenizer(path)
    ids_path, lengths_path = (Path(folder, f"{number}.{kind}") for kind in ("ids", "lengths"))
    with open(text, "rb") as file, open(ids_path, "wb") as ids, open(lengths_path, "wb") as lengths:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < end and (lines := file.readlines(min(BATCH, end - file.tell()))):
            batch = [line.decode().rstrip("\n") for line in lines]
            # Without offsets, which nobody needs here.
            encodings = tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            rows = [encoding.ids for encoding in encodings]
            np.array([len(row) for row in rows], np.uint32).tofile(lengths)
            np.fromiter(itertools.chain.from_iterable(rows), np.uint16).tofile(ids)


def open_tokenizer(path: str):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)


if __name__ == "__main__":
    {"convert": convert, "encode": encode, "build": build}[sys.argv[1]](*sys.argv[2:])
