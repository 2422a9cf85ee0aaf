"""Time text to shards beside Hugging Face's Rust tokenizers. DATA names the folder of real data.

The text has all lines of DATA/pretrain/mono again and again, each with a running number in front. All
contenders turn it into the ids of one vocabulary on the same number of cores and write them to disk; the
peer runs that many processes with one thread, which is faster than threads. Memory is that of the largest
process.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import LATEST, OURS, PARITY, ROOT, Contender, compare, tell
from utils.errors import UserError, run

TEXT, TOKENIZER = "text.txt", "tokenizer.json"
LINES = 20_000  # that are in memory at a time
CONTENDERS = {
    OURS: Contender("ours", OURS, options={"deduplicate": "false"}),
    "ours_deduplicated": Contender("ours, duplicates removed", OURS, options={"deduplicate": "true"}),
    "hf_latest_processes": Contender("newest tokenizers, processes", "tokenizers", environment=LATEST),
}
SAVE_TOKENIZER = (
    "import sys, transformers\n"
    "transformers.XLMRobertaTokenizerFast(sys.argv[1]).backend_tokenizer.save(sys.argv[2])"
)


def write_text(folder: Path, args) -> None:
    """Write the text, and the peer's tokenizer if its environment is there."""
    data = Path(os.environ.get("DATA", ""))
    texts = sorted(data.glob("pretrain/mono/*.txt.gz"))
    if not os.environ.get("DATA") or not texts:
        raise UserError("DATA/pretrain/mono has no *.txt.gz; set DATA to the folder of real data")
    lines = [line for file in texts for line in gzip.decompress(file.read_bytes()).splitlines()]
    with open(folder / TEXT, "wb") as file:
        for number, line in enumerate(itertools.cycle(lines)):
            if file.tell() >= args.gigabytes * 1e9:
                break
            file.write(b"%d %s\n" % (number, line))
    python, model = ROOT / PARITY / "bin/python", data / "vocab/xnli15-32k.model"
    if python.exists():
        subprocess.run([python, "-c", SAVE_TOKENIZER, model, folder / TOKENIZER], check=True)


def ours(folder: Path, args, deduplicate: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [
            sys.executable, "-m", "pretrain.build_corpus", "--mono", f"xx<={folder / TEXT}", "--output",
            f"{output}/corpus", "--piece_model_path", f"{os.environ['DATA']}/vocab/xnli15-32k.model",
            "--workers", str(args.processes), "--deduplicate", deduplicate,
        ]  # fmt: skip
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        tell_with_children(time.perf_counter() - start)


def tokenizers(folder: Path, args) -> None:
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"
    parts = [(folder, number, args.processes) for number in range(args.processes)]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        pool.starmap(write_ids, parts, chunksize=1)
        pool.close()
        pool.join()
    tell_with_children(time.perf_counter() - start)


def tell_with_children(seconds: float) -> None:
    """Tell the seconds, and the memory of the largest process that was started and has ended."""
    tell(seconds, peak=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)


def write_ids(folder: Path, number: int, processes: int) -> None:
    """Write the ids of the lines of one process, and the length of each line."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    ids_path, lengths_path = (folder / f"{number}.{kind}" for kind in ("ids", "lengths"))
    with open(folder / TEXT, "rb") as file, open(ids_path, "wb") as ids, open(lengths_path, "wb") as lengths:
        while lines := list(itertools.islice(file, LINES))[number::processes]:
            batch = [line.decode().rstrip("\n") for line in lines]
            rows = [one.ids for one in tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
            np.array([len(row) for row in rows], np.uint32).tofile(lengths)
            np.fromiter(itertools.chain.from_iterable(rows), np.uint16).tofile(ids)


def main() -> None:
    workers = {OURS: ours, "tokenizers": tokenizers}
    sizes = {"gigabytes": 1.0, "processes": len(os.sched_getaffinity(0))}
    compare(__doc__, CONTENDERS, workers, sizes, "MB/s", lambda args, _: 1000 * args.gigabytes, write_text)


if __name__ == "__main__":
    run(main)
