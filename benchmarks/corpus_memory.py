"""Does the corpus builder's memory grow with its input?

    DATA=/where/the/data/is .venv/bin/python -m benchmarks.corpus_memory --gigabytes 0.5 2

Makes text of each size from all lines of DATA/pretrain/mono, over and over, with a running number on every
line (so no two are equal), builds a corpus from it with duplicates removed, and prints the peak resident
memory of every process. The last line is JSON: {"<GB>": {"seconds": .., "main_mib": .., "workers_mib": [..]},
..}.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from utils.errors import UserError, run

_POLL = 0.5  # seconds


def make_text(folder: Path, path: Path, size: int) -> None:
    """Write at least `size` bytes of numbered lines."""
    lines = []
    for file in sorted(folder.glob("*.txt.gz")):
        with gzip.open(file) as packed:
            lines += packed.read().splitlines()
    if not lines:
        raise UserError(f"{folder}: no *.txt.gz there; set DATA to the folder of real data")
    number = written = 0
    with open(path, "wb") as file:
        while written < size:
            block = b"".join(b"%d %s\n" % (number + index, line) for index, line in enumerate(lines))
            number += len(lines)
            written += file.write(block)


def build(text: Path, output: Path, piece_model: str, workers: int) -> dict:
    """Build a corpus; seconds, and each process's largest resident memory in MiB."""
    start = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "pretrain.build_corpus",
        "--output",
        str(output),
        "--mono",
        f"xx<={text}",
    ]
    command += ["--piece_model_path", piece_model, "--deduplicate", "true", "--workers", str(workers)]
    process = subprocess.Popen(command)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in [process.pid, *_children(process.pid)]:
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
        time.sleep(_POLL)
    if process.returncode:
        sys.exit(process.returncode)
    main = peaks.pop(process.pid)
    return {
        "seconds": round(time.monotonic() - start),
        "main_mib": main >> 10,
        "workers_mib": sorted(peak >> 10 for peak in peaks.values()),
    }


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _peak(pid: int) -> int:
    """Largest resident memory of a process so far, in KiB; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of the corpus builder.")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", help="for text and corpora, deleted afterwards; default: a temporary one")
    options = parser.parse_args()
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    data = Path(os.environ["DATA"])
    results = {}
    for size in options.gigabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            text = Path(folder, "text.txt")
            make_text(data / "pretrain" / "mono", text, int(size * 1e9))
            piece_model = str(data / "vocab" / "xnli15-32k.model")
            results[f"{size:g}"] = build(text, Path(folder, "corpus"), piece_model, options.workers)
            print(f"{size:g} GB: {results[f'{size:g}']}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    run(main)
