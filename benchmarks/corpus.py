"""Time text to shards beside Hugging Face's Rust tokenizers. DATA names the folder of real data.

The text repeats all lines of DATA/pretrain/mono, each with a running number in front, so that no line comes
twice. All contenders turn it into the ids of one vocabulary on the same number of cores and write them to
disk; the peer runs that many processes with one thread, which is faster than threads. Memory is that of the
largest process.
"""

import gzip
import itertools
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

import numpy as np

from benchmarks.contenders import PARITY, ROOT
from benchmarks.side_by_side import compare, tell
from utils.errors import UserError

MODEL = "vocab/xnli15-32k.model"
TEXT = "text.txt"
TOKENIZER = "tokenizer.json"
LINES = 20_000  # of the text, which a process has in memory at a time
SAVE_TOKENIZER = (
    "import sys, transformers\n"
    "transformers.XLMRobertaTokenizerFast(sys.argv[1]).backend_tokenizer.save(sys.argv[2])"
)


def data_folder() -> Path:
    """The folder of real data. Without DATA it is one that does not exist, and `write_text` says so."""
    return Path(os.environ.get("DATA") or "DATA")


def write_text(folder: Path, args: Namespace) -> float:
    """Write the text, and the peer's tokenizer if its environment is there. Returns the MB of text."""
    texts = sorted(data_folder().glob("pretrain/mono/*.txt.gz"))
    if not texts:
        raise UserError("DATA/pretrain/mono has no *.txt.gz; set DATA to the folder of real data")
    lines = []
    for path in texts:
        lines += gzip.decompress(path.read_bytes()).splitlines()
    with open(folder / TEXT, "wb") as file:
        for number, line in enumerate(itertools.cycle(lines)):
            if file.tell() >= args.gigabytes * 1e9:
                break
            file.write(b"%d %s\n" % (number, line))  # the number makes every line a different one
    python = ROOT / PARITY / "bin/python"
    if python.exists():
        arguments = [data_folder() / MODEL, folder / TOKENIZER]
        subprocess.run([python, "-c", SAVE_TOKENIZER, *arguments], check=True)
    return 1000 * args.gigabytes


def ours(folder: Path, args: Namespace, deduplicate: str = "false") -> None:
    """Build a corpus in a process of its own, as a user does. `deduplicate`: the flag, "true" or "false"."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [sys.executable, "-m", "pretrain.build_corpus"]
        # "language<=path" is the notation of --mono; the language has no part in the work.
        command += ["--mono", f"xx<={folder / TEXT}", "--output", f"{output}/corpus"]
        command += ["--piece_model_path", data_folder() / MODEL]
        command += ["--workers", str(args.processes), "--deduplicate", deduplicate]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        tell_with_children(time.perf_counter() - start)


def tokenizers(folder: Path, args: Namespace) -> None:
    """Hugging Face's tokenizer in --processes processes."""
    # The processes inherit these: one thread each.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    arguments = [(folder, process, args.processes) for process in range(args.processes)]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        pool.starmap(write_ids, arguments, chunksize=1)
        # The processes must have ended, because `tell_with_children` sees no others.
        pool.close()
        pool.join()
    tell_with_children(time.perf_counter() - start)


def tell_with_children(seconds: float) -> None:
    """Tell the seconds, and the memory of the largest process that was started and has ended."""
    kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    tell(seconds, peak=1024 * kib)


def write_ids(folder: Path, process: int, processes: int) -> None:
    """Write the ids of one process's lines, and the length of each line.

    The text is read in chunks of LINES lines. Of each chunk this process takes line number `process` and then
    every `processes`-th one.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    with (
        open(folder / TEXT, "rb") as file,
        open(folder / f"{process}.ids", "wb") as ids_file,
        open(folder / f"{process}.lengths", "wb") as lengths_file,
    ):
        while lines := list(itertools.islice(file, LINES)):
            texts = [line.decode().rstrip("\n") for line in lines[process::processes]]
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            rows = [encoding.ids for encoding in encodings]
            np.array([len(row) for row in rows], np.uint32).tofile(lengths_file)
            # 16 bits are enough for the 32,000 pieces of the vocabulary.
            np.fromiter(itertools.chain.from_iterable(rows), np.uint16).tofile(ids_file)


WORKS = {"ours": ours, "ours_deduplicated": ours, "hf_latest_processes": tokenizers}


def main() -> None:
    sizes = {"gigabytes": 1.0, "processes": len(os.sched_getaffinity(0))}
    compare(__doc__, WORKS, sizes, unit="MB/s", prepare=write_text)


if __name__ == "__main__":
    run(main)
