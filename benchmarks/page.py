"""Run benchmarks, store each in docs/performance.json, and write docs/performance.md from that.

A row of the JSON has a title, what it compares, the script with its flags, and what was measured. In the page
only the part between two marks is written. `--rows none` writes it again without measuring.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.side_by_side import FLOAT32, LATEST, PARITY, ROOT, VENV, contenders_table
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.runtime import read_cpu
from utils.tables import in_markdown

BEGIN, END = "<!-- figures, written by scripts/benchmark.sh -->", "<!-- end of the figures -->"
PAGE, DATA = "performance.md", "performance.json"
PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "torch", "transformers", "sentence-transformers",
    "tokenizers", "sentencepiece", "onnxruntime", "faiss-cpu", "numpy",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="names from the JSON, with commas between; default: all")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page and the JSON")
    args = parser.parse_args()
    rows = json.loads((args.docs / DATA).read_text(encoding="utf-8"))
    names = [] if args.rows == "none" else args.rows.split(",") if args.rows else list(rows)
    if unknown := [name for name in names if name not in rows]:
        raise UserError(f"--rows: no {unknown[0]}; there are {', '.join(rows)}")
    facts = conditions() if names else {}  # before write_page changes files under version control
    for name in names:
        print(f"{name}: {rows[name]['title']}", flush=True)
        rows[name] |= measure(rows[name]["command"]) | facts
        write_page(args.docs, rows)
    write_page(args.docs, rows)


def measure(command: str) -> dict[str, Any]:
    """Run a script with its flags; its output is shown."""
    start, last = time.monotonic(), ""
    script, *flags = command.split()
    line = [sys.executable, str(ROOT / "benchmarks" / script), *map(os.path.expandvars, flags)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for last in process.stdout:
            print(f"    {last}", end="", flush=True)
    if process.returncode:
        raise UserError(f"{script} ended with {process.returncode}; see above")
    return {
        "script": script, "flags": flags, "date": datetime.date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1), "result": json.loads(last),
    }  # fmt: skip


def conditions() -> dict[str, Any]:
    """What the figures depend on: the commit, the machine, and the versions in each environment."""
    command = ["git", "describe", "--always", "--dirty= with changes", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cpu, cpuinfo = read_cpu(), Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    of_cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in cpuinfo)}
    kinds = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    machine = {
        "cpu": of_cpu.get("model name") or cpu.vendor, "cores": cpu.cores,
        "exactly": ", ".join(f"{name} {of_cpu[name]}" for name in ("cpu family", "model") if name in of_cpu),
        "instructions": [kind for kind in kinds if kind in cpu.flags],
        "memory_gb": round(cpu.memory / 1e9, 1), "system": platform.platform(),
    }  # fmt: skip
    versions = {}
    for name in (VENV, PARITY, LATEST):
        if (python := ROOT / name / "bin/python").exists():
            listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
            found = {one["name"].lower(): one["version"] for one in json.loads(listed)}
            versions[name] = {package: found[package] for package in PACKAGES if package in found}
    return {"commit": commit, "machine": machine, "versions": versions}


def write_page(docs: Path, rows: Mapping[str, Mapping]) -> None:
    """Write the JSON and the page into a folder."""
    with atomic_file(docs / DATA, "w") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    before, _, rest = (docs / PAGE).read_text(encoding="utf-8").partition(BEGIN)
    with atomic_file(docs / PAGE, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{to_markdown(rows)}\n{END}{rest.partition(END)[2]}")


def to_markdown(rows: Mapping[str, Mapping]) -> str:
    """The machines and versions, a line for each row, then each row with its contenders."""
    measured = [row for row in rows.values() if "result" in row]
    machines, versions = {}, set()
    for row in measured:
        machine = "Measured on {cores} cores of {cpu} ({}), {memory_gb:.0f} GB, {system}."
        machines[machine.format(", ".join(row["machine"]["instructions"]), **row["machine"])] = None
        for environment, found in row["versions"].items():
            versions.add(f"- `{environment}`: {', '.join(map(' '.join, found.items()))}")
    heads = ["", "ours", "fastest peer", "times", "as installed", "in any precision"]
    lines = [summary(row["title"], row["result"]) for row in measured if "ratio_to_peer" in row["result"]]
    parts = [" ".join(machines), "\n".join(sorted(versions)), in_markdown([heads, *lines])]
    for row in measured:
        result, machine = row["result"], row["machine"]
        found = contenders_table(result) if "contenders" in result else strategies(result)
        parts += [f"### {row['title']}", row["what"], found]
        if result.get("left_out"):
            parts.append(f"Not run: {'; '.join(result['left_out'])}.")
        when = f"{row['minutes']:.0f} minutes, {row['date']}, commit {row['commit']}"
        if "exactly" in machine:
            when += f", {machine['cpu']}, {machine['exactly']}"
        parts.append(f"`python benchmarks/{row['command']}` ({when})")
    return "\n\n".join(parts) + "\n"


def summary(title: str, result: Mapping[str, Any]) -> list[str]:
    """The line of one row in the first table."""
    rows, peer = result["contenders"].values(), result["contenders"][result["fastest_peer"]]
    ours = [one for one in rows if one["tuned"] and not one["peer"]]
    single = max(one["value"] for one in ours if one["precision"] == FLOAT32)
    # From ratios measured in turns: speeds measured at different times cannot be compared.
    in_any = min(result["ratio_to_peer"].values()) * max(one["value"] for one in ours) / single
    untuned = [x for name, x in result["ratio_to_peer"].items() if not result["contenders"][name]["tuned"]]
    mixed = any(one["precision"] != FLOAT32 for one in rows)
    return [
        title, f"{single:,g} {result['unit']}", f"{peer['label']}: {peer['value']:,g}",
        f"**{result['ratio']:.2f}**",
        f"{min(untuned):.2f}" if untuned else "", f"{in_any:.2f}" if mixed else "",
    ]  # fmt: skip


def strategies(result: Mapping[str, Any]) -> str:
    """The row of benchmarks/pretrain_cost.py."""
    lines = [[name, f"{speed:,g}"] for name, speed in result["tokens_per_second"].items()]
    speeds = in_markdown([["", "tokens/s"], *lines])
    return (
        f"{speeds}\n\nThe full strategy takes {result['ratio']:.3f} times the time for a token "
        f"(median of {result['alternations']} alternations, {result['spread'][0]:.3f} to "
        f"{result['spread'][-1]:.3f}). Peak memory {result['peak_gb']:.1f} GB."
    )


if __name__ == "__main__":
    run(main)
