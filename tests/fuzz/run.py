"""Start the reading processes, watch them, and keep what they found."""

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.attempt import ROOT
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import BEAT
from tests.launching import clean_environment

PATIENCE = 20.0  # seconds that one input may take
START_PATIENCE = 180.0  # before the first input: imports, and what lies beside the inputs
MOST_ENDS = 10  # of one reader's process, then it is left alone


class Fault(NamedTuple):
    """kind: the exception, or what else was wrong. file: the input that was kept."""

    target: str
    kind: str
    file: Path
    report: str


@dataclass
class Result:
    """Of one reader."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, inputs: int, seconds: float, accepted: int, refused: int) -> None:
        """What one process did."""
        self.inputs, self.seconds = self.inputs + inputs, self.seconds + seconds
        self.accepted, self.refused = self.accepted + accepted, self.refused + refused


def fuzz(
    names: list[str],
    seed: int,
    limit: str,
    keep: Path,
    patience: float = PATIENCE,
    worker: str = "tests.fuzz.worker",
) -> list[Result]:
    """Give inputs to readers, one reader after the other, in a process beside this one.

    Args:
        limit: "300 inputs" or "20 seconds" for each.
        keep: inputs that show a fault are written to `keep/<target>/`.
        patience: seconds an input may take before that is a fault.
        worker: the module that reads.
    """
    results = [Result(name) for name in names]
    number = first = ends = 0  # the reader whose turn it is, its next input, processes that it ended
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        while number < len(results):
            waiting = names[number:] if first == 0 else names[number : number + 1]
            left = _left(limit, results[number])
            said, ended, at = _one_process(Path(place), worker, seed, first, left, waiting, patience)
            for line in said:
                result = results[number]
                if "fault" in line:
                    report = f"{' > '.join(line['place'])}\n{line['report']}"
                    data = bytes.fromhex(line["data"])
                    result.faults.append(_keep(keep, result.target, line["kind"], data, report))
                else:
                    result.add(line["inputs"], line["seconds"], line["accepted"], line["refused"])
                    number, first, ends = number + 1, 0, 0
            if ended is None:
                continue
            result, ends = results[number], ends + 1
            path = Path(place, result.target, TARGETS[result.target].file)
            data = path.read_bytes() if path.exists() else b""
            result.faults.append(_keep(keep, result.target, ended.split("\n")[0], data, ended))
            _, index, accepted, refused, milliseconds = at
            if index >= 0:
                result.add(index + 1 - first, milliseconds / 1000, accepted, refused)
                first = index + 1
            if index < 0 or ends == MOST_ENDS:
                number, first, ends = number + 1, 0, 0
    return results


def _left(limit: str, result: Result) -> str:
    count, unit = limit.split()
    return limit if unit == "inputs" else f"{max(1, int(count) - int(result.seconds))} seconds"


def _one_process(
    folder: Path, worker: str, seed: int, first: int, limit: str, names: list[str], patience: float
) -> tuple[list[dict], str | None, tuple[int, ...]]:
    """What a process said, how it ended before its time (None: it did not), and where it was then."""
    (folder / "beat").write_bytes(BEAT.pack(0, -1, 0, 0, 0))
    (folder / "said.jsonl").write_bytes(b"")
    with open(folder / "stderr", "w+b") as stderr:
        command = [sys.executable, "-m", worker, str(folder), str(seed), str(first), limit, *names]
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean_environment(PYTHONPATH=str(ROOT)), stdout=stderr, stderr=stderr
        )
        hung = False
        try:
            before, since = None, time.monotonic()
            while process.poll() is None:
                time.sleep(0.05)
                now = (folder / "beat").read_bytes()
                if now != before:
                    before, since = now, time.monotonic()
                    if stderr.seek(0, 2) > 1 << 20:  # sentencepiece has a line for each refusal
                        stderr.truncate(0)
                reading = BEAT.unpack(now)[1] >= 0
                hung = time.monotonic() - since > (patience if reading else START_PATIENCE)
                if hung:
                    process.send_signal(signal.SIGUSR1)  # it prints where it is
                    time.sleep(0.5)
                    break
        finally:
            process.kill()
            code = process.wait()
        said = [json.loads(line) for line in (folder / "said.jsonl").read_text().splitlines()]
        if code == 0 and not hung:
            return said, None, ()
        stderr.seek(0)
        tail = stderr.read().decode("utf-8", "replace")[-4000:]
    how = f"no answer in {patience:g} s" if hung else f"the process ended with {code}"
    return said, f"{how}\n{tail}", BEAT.unpack((folder / "beat").read_bytes())


def _keep(keep: Path, target: str, kind: str, data: bytes, report: str) -> Fault:
    folder = keep / target
    folder.mkdir(parents=True, exist_ok=True)
    words = "-".join("".join(c if c.isalnum() else " " for c in kind).split())
    file = folder / f"{words}-{hashlib.sha256(data).hexdigest()[:8]}"
    file.write_bytes(data)
    again = f"sh scripts/fuzz.sh --targets {target} --again {file}"
    file.with_name(f"{file.name}.txt").write_text(f"{kind}\n{report}\n\n{again}\n", encoding="utf-8")
    return Fault(target, kind, file, report)
