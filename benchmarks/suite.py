"""Run the benchmarks one after the other and write docs/performance.md, with a chart and JSON.

    sh scripts/benchmark.sh                      every row, hours; interrupted, the same command goes on
    sh scripts/benchmark.sh --rows mlm,search    these alone, the others of the page as they were measured
    sh scripts/benchmark.sh --quick              tiny shapes: does every row run?

Each row runs in processes of its own, and its contenders in rounds (benchmarks/side_by_side.py). A finished
row's JSON stays in the output folder; it is run again where the commit or its flags are others, or with
--again. A row that fails is left for the next time. The page has all rows that the output folder holds.

The last line is JSON: {"rows": {name: what the benchmark printed}}.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import ROWS, Row
from benchmarks.side_by_side import LATEST, OURS, PINNED, ROOT
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.runtime import read_cpu

FOLDER, QUICK_FOLDER = ROOT / "output/benchmark", ROOT / "output/benchmark-quick"
PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "torch", "transformers", "sentence-transformers",
    "tokenizers", "sentencepiece", "onnxruntime", "faiss-cpu", "numpy",
)  # fmt: skip
BUSY = 0.5  # of the cores: a load above it is told of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [name for name, row in ROWS.items() if not row.asked]
    parser.add_argument("--rows", default=",".join(default), help=f"of {', '.join(ROWS)}")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes; the page goes to the output folder"
    )
    parser.add_argument("--again", action="store_true", help="run rows that are finished, too")
    parser.add_argument("--folder", type=Path, help="for finished rows and logs; default: output/benchmark")
    args = parser.parse_args()
    names = args.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"--rows: no {unknown[0]}; there are {', '.join(ROWS)}")
    folder = args.folder or (QUICK_FOLDER if args.quick else FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    failed = run_rows({name: ROWS[name] for name in names}, folder, args.quick, args.again)

    from benchmarks.page import write_page  # it draws

    records = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in finished(folder).items()}
    page = write_page(folder if args.quick else ROOT / "docs", records)
    print(f"{len(records)} rows are in {page}")
    print(json.dumps({"rows": {name: record["result"] for name, record in records.items()}}))
    if failed:
        raise UserError(f"not finished: {', '.join(failed)}; the logs are in {folder}")


def finished(folder: Path) -> dict[str, Path]:
    """The file of each row that the folder holds."""
    files = {name: folder / f"{name}.json" for name in ROWS}
    return {name: path for name, path in files.items() if path.exists()}


def run_rows(rows: dict[str, Row], folder: Path, quick: bool, again: bool) -> list[str]:
    """Run the rows that are not finished and keep what they found; the names of those that failed."""
    commit = current_commit()
    facts = {"machine": machine(), "versions": versions()}
    failed = []
    for number, (name, row) in enumerate(rows.items(), 1):
        flags = row.quick if quick else row.flags
        stamp = {"commit": commit, "script": row.script, "flags": list(flags)}
        path = folder / f"{name}.json"
        if not again and path.exists() and is_of(path, stamp):
            print(f"[{number}/{len(rows)}] {name}: finished before", flush=True)
            continue
        if row.data and not os.environ.get("DATA"):
            print(f"[{number}/{len(rows)}] {name}: left out; set DATA to the folder of real data", flush=True)
            continue
        load = os.getloadavg()[0]
        busy = f"; the machine is busy, load {load:.1f}" if load > BUSY * read_cpu().cores else ""
        print(f"[{number}/{len(rows)}] {name}: {row.title}{busy}", flush=True)
        start = time.monotonic()
        result = run_row(row.script, flags, folder / f"{name}.log")
        if result is None:
            failed.append(name)
            continue
        when = {
            "date": datetime.date.today().isoformat(),
            "minutes": round((time.monotonic() - start) / 60, 1),
            "load": round(load, 2),
        }
        with atomic_file(path, "w") as file:
            json.dump(stamp | when | facts | {"result": result}, file, indent=1)
    return failed


def run_row(script: str, flags: tuple[str, ...], log: Path) -> dict[str, Any] | None:
    """The last line of a benchmark's output, all of which is shown and kept; None where it failed."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    last = ""
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            for line in process.stdout:
                file.write(line)
                if last:
                    print(f"    {last}", flush=True)  # all but the JSON
                last = line.rstrip()
            code = process.wait()
        finally:
            if process.poll() is None:  # interrupted: the benchmark and its workers end too
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    try:
        result = json.loads(last) if not code else None
    except json.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        print(f"    {last}\n    {script} failed; all it said is in {log}", flush=True)
        return None
    return result


def is_of(path: Path, stamp: dict[str, Any]) -> bool:
    """Whether a finished row is of this commit and these flags."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return all(kept.get(key) == value for key, value in stamp.items())


def current_commit() -> str:
    """The commit's name, with a digest of what has been changed since in the code."""
    head = _git("rev-parse", "--short", "HEAD").strip()
    changed = _git("diff", "HEAD", "--", "*.py", "*.sh")
    return f"{head} with changes {hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else head


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def machine() -> dict[str, Any]:
    """What the figures hang on."""
    cpu = read_cpu()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    kinds = [kind for kind in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
             if kind in cpu.flags]  # fmt: skip
    return {
        "cpu": models[0] if models else cpu.vendor or platform.machine(),
        "cores": cpu.cores,
        "instructions": kinds,
        "memory_gb": round(cpu.memory / 1e9, 1),
        "system": platform.platform(),
    }


def versions() -> dict[str, dict[str, str]]:
    """Environment -> package -> version, of those that are there."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()}"
        " | {name: found[name] for name in sys.argv[1:] if name in found}))"
    )
    found = {}
    for environment in (OURS, PINNED, LATEST):
        python = ROOT / environment / "bin/python"
        if python.exists():
            done = subprocess.run([python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
            found[environment] = json.loads(done.stdout)
    return found


def _stop(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    run(main)
