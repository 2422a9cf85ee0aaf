"""Text to shards: tokens per second beside Hugging Face's Rust tokenizers, and the memory of every process.

    DATA=/where/the/data/is .venv/bin/python -m benchmarks.corpus
    DATA=... .venv/bin/python -m benchmarks.corpus --gigabytes 10 --rounds 1 --contenders ours_deduplicated

The text is all lines of DATA/pretrain/mono, over and over, with a running number on every line, so that no
two are equal. All contenders cut it into the same vocabulary's ids on the same number of cores and write them
to disk: ours with build_corpus (no duplicates looked for, or looked for and removed), the peer either in one
process with that many threads or in that many processes of one thread. Its tokenizer is made from the same
sentencepiece model, and a sample of its ids is compared with ours first: but for the official tokenizer's
rule for a comma behind a digit, at most one line in a hundred may differ.

A round runs all contenders, one after the other, from start to end of their command. Speeds are in tokens of
ours, the same text for all; memory is that of all processes of a contender together. The last line is JSON
(benchmarks/figures.py).
"""

import argparse
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import figures, report
from benchmarks.side_by_side import LATEST, PINNED, ROOT, Contender
from reader.corpus import Corpus
from reader.tokenization import Tokenizer, normalize
from utils.errors import UserError, run

PEER = ROOT / "benchmarks" / "corpus_peer.py"
SAMPLE = 3000  # lines whose ids are compared
MOST_DIFFERENT = 0.01  # of them, in other ways than by a comma; its own form of NFKC may explain so many
_POLL = 0.2  # seconds

THREADS = {"threads": True}
CONTENDERS = {
    "ours": Contender("ours", "ours", True, {"deduplicate": False}),
    "ours_deduplicated": Contender("ours, duplicates removed", "ours", True, {"deduplicate": True}),
    "hf_processes": Contender("tokenizers, processes", "tokenizers", True, environment=PINNED),
    "hf_threads": Contender("tokenizers, threads", "tokenizers", True, THREADS, PINNED),
    "hf_latest_processes": Contender("newest tokenizers, processes", "tokenizers", True, environment=LATEST),
    "hf_latest_threads": Contender("newest tokenizers, threads", "tokenizers", True, THREADS, LATEST),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas")
    parser.add_argument("--folder", help="for text and results, deleted afterwards; default: a temporary one")
    options = parser.parse_args()
    chosen = choose(options.contenders.split(","))
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    data = Path(os.environ["DATA"])
    model = data / "vocab" / "xnli15-32k.model"
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        text = folder / "text.txt"
        with open(text, "wb") as file:
            for block in numbered(read_lines(data / "pretrain" / "mono"), int(options.gigabytes * 1e9)):
                file.write(block)
        found = {"gigabytes": options.gigabytes, "processes": options.processes}
        if any(contender.environment for contender in chosen.values()):
            found["ids"] = compare_ids(text, model, chosen)
            print(f"ids of a sample: {found['ids']}", flush=True)
        runs: dict[str, list[dict]] = {name: [] for name in chosen}
        for number in range(options.rounds):
            for name, contender in chosen.items():
                with tempfile.TemporaryDirectory(dir=folder) as output:
                    runs[name].append(
                        measure(*command(text, model, contender, options.processes, Path(output)))
                    )
                    if contender.environment is None:
                        runs[name][-1]["tokens"] = tokens_of(Path(output, "corpus"))
                print(f"round {number + 1} {name:<20} {runs[name][-1]}", flush=True)
    figures_ = result(runs)
    report(figures_)
    print(json.dumps(found | figures_))


def choose(names: list[str]) -> dict[str, Contender]:
    """The contenders whose environment is there; of the others it is said."""
    chosen = {}
    for name in names:
        if name not in CONTENDERS:
            raise UserError(f"--contenders: no {name}; there are {', '.join(CONTENDERS)}")
        environment = CONTENDERS[name].environment
        if environment is None or all(python_of(part).exists() for part in (environment, PINNED)):
            chosen[name] = CONTENDERS[name]
        else:
            print(f"{name} is left out: sh scripts/setup.sh makes {environment} and {PINNED}")
    return chosen


def python_of(environment: str) -> Path:
    """The interpreter of an environment."""
    return ROOT / environment / "bin/python"


def read_lines(folder: Path) -> list[bytes]:
    """All lines of the packed files of a folder."""
    lines = []
    for file in sorted(folder.glob("*.txt.gz")):
        with gzip.open(file) as packed:
            lines += packed.read().splitlines()
    if not lines:
        raise UserError(f"{folder}: no *.txt.gz there; set DATA to the folder of real data")
    return lines


def numbered(lines: list[bytes], size: int) -> Iterator[bytes]:
    """At least `size` bytes of the lines in turn with a running number in front, in blocks."""
    numbers, written = itertools.count(), 0
    endless = itertools.cycle(lines)
    while written < size:
        block = b"".join(b"%d %s\n" % (next(numbers), line) for line in itertools.islice(endless, 10_000))
        written += len(block)
        yield block


def command(
    text: Path, model: Path, contender: Contender, processes: int, output: Path
) -> tuple[list[str], dict[str, str]]:
    """A contender's command line, and the variables it is run with."""
    if contender.environment is None:
        words = [sys.executable, "-m", "pretrain.build_corpus", "--output", str(output / "corpus")]
        words += ["--mono", f"xx<={text}", "--piece_model_path", str(model), "--workers", str(processes)]
        return [*words, "--deduplicate", str(contender.options["deduplicate"]).lower()], {}
    threads = processes if contender.options else 1
    words = [str(contender.python), str(PEER), "build", str(tokenizer_beside(text))]
    settings = {
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if contender.options else "false",
    }
    return [*words, str(text), str(output), str(processes // threads)], settings


def tokenizer_beside(text: Path) -> Path:
    """The peer's tokenizer, made by `compare_ids`."""
    return text.with_name("tokenizer.json")


def measure(words: list[str], settings: dict[str, str]) -> dict:
    """Run a command; its seconds, and the largest resident memory of each of its processes, and their sum."""
    start = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | settings, stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            peaks[pid] = max(peaks.get(pid, 0), peak(pid))
        time.sleep(_POLL)
    if process.returncode:
        sys.exit(process.returncode)
    seconds = time.monotonic() - start
    mib = sorted(kib >> 10 for kib in peaks.values())[::-1]
    return {"seconds": round(seconds, 2), "mib": mib, "peak": sum(peaks.values()) << 10}


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one for child in map(int, children) for one in (child, *descendants(child))]


def peak(pid: int) -> int:
    """Largest resident memory of a process so far, in KiB; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def tokens_of(folder: Path) -> int:
    """All tokens of a corpus."""
    corpus = Corpus(folder)
    return sum(text.num_tokens for texts in (corpus.mono, corpus.held_out_mono) for text in texts.values())


def compare_ids(text: Path, model: Path, chosen: dict[str, Contender]) -> dict[str, int]:
    """Make the peer's tokenizer and compare its ids with ours on a sample of the text.

    Raises:
        UserError: ids differ where they should not; comparing speeds would then say nothing.
    """
    path = str(tokenizer_beside(text))
    run_peer(PINNED, "convert", str(model), path)
    with open(text, encoding="utf-8", newline="\n") as file:
        step = max(1, sum(1 for _ in file) // SAMPLE)
    with open(text, encoding="utf-8", newline="\n") as file:
        lines = [normalize(line.rstrip("\n")) for line in itertools.islice(file, 0, None, step)]
    ours = Tokenizer(None, model).encode_batch(lines)
    counts = {}
    for environment in {contender.environment for contender in chosen.values()} - {None}:
        said = run_peer(environment, "encode", path, text="".join(f"{line}\n" for line in lines))
        counts = sort_out(ours, [json.loads(line) for line in said.splitlines()])
        if counts["different"] > MOST_DIFFERENT * len(lines):
            raise UserError(f"{environment}: its ids are not ours: {counts}")
    return counts


def sort_out(ours: list[list[int]], theirs: list[tuple[list[str], list[int]]]) -> dict[str, int]:
    """Lines with equal ids, with a comma behind a digit in a piece of theirs, and with another difference."""
    counts = {"equal": 0, "digit_comma": 0, "different": 0}
    for ids, (tokens, their_ids) in zip(ours, theirs, strict=True):
        cut = any(len(token) > 1 and token[-1] == "," and token[-2].isdigit() for token in tokens)
        counts["equal" if ids == their_ids else "digit_comma" if cut else "different"] += 1
    return counts


def run_peer(environment: str, *words: str, text: str = "") -> str:
    """What the peer's script prints, given a text."""
    command = [str(python_of(environment)), str(PEER), *words]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{environment}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def result(runs: dict[str, list[dict]]) -> dict:
    """What the last line holds; without ours the number of tokens is not known."""
    tokens = max(of_one[0].get("tokens", 0) for of_one in runs.values())
    found = figures(runs, CONTENDERS, tokens, "tokens/s" if tokens else "s")
    for name, of_one in runs.items():
        found["contenders"][name]["mib"] = max(of_one, key=lambda one: one["peak"])["mib"]
    return found | {"tokens": tokens}


if __name__ == "__main__":
    run(main)
