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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

from benchmarks.contenders import FLOAT32, LATEST, PARITY, ROOT, VENV
from benchmarks.figures import contenders_table
from utils.errors import UserError
from utils.files import atomic_file
from utils.runtime import read_cpu, read_fields
from utils.tables import in_markdown

PAGE = "performance.md"
DATA = "performance.json"
# The figures stand between these lines of the page.
BEGIN = "<!-- figures, written by scripts/benchmark.sh -->"
END = "<!-- end of the figures -->"
PACKAGES = (
    "paddlepaddle",
    "paddlepaddle-gpu",
    "paddlenlp",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "sentencepiece",
    "onnxruntime",
    "faiss-cpu",
    "numpy",
)
GROUPED = ", grouped"  # ends the label of a peer with pairs of similar length in a batch
# The instruction sets on which the speed of matrix products depends, by their names in /proc/cpuinfo.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="names from the JSON, with commas between; default: all; or none")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page and the JSON")
    args = parser.parse_args()
    rows = json.loads((args.docs / DATA).read_text(encoding="utf-8"))
    names = list(rows)
    if args.rows:
        names = [] if args.rows == "none" else args.rows.split(",")
    for name in names:
        if name not in rows:
            raise UserError(f"--rows: no {name}; there are {', '.join(rows)}")
    # Now, because `write_page` changes files under version control, and the commit would be "with changes".
    facts = conditions() if names else {}
    for name in names:
        print(f"{name}: {rows[name]['title']}", flush=True)
        rows[name] |= measure(rows[name]["command"])
        rows[name] |= facts
        write_page(args.docs, rows)  # after each row, so that an interruption loses none
    if not names:
        write_page(args.docs, rows)


def measure(command: str) -> dict[str, Any]:
    """Run a script of benchmarks/ with its flags, and show its output. Its last line is JSON: the result."""
    script, *flags = command.split()
    expanded = [os.path.expandvars(flag) for flag in flags]  # $DATA has its value
    line = [sys.executable, str(ROOT / "benchmarks" / script), *expanded]
    start = time.monotonic()
    last_line = ""
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for last_line in process.stdout:
            print(f"    {last_line}", end="", flush=True)
    if process.returncode:
        raise UserError(f"{script} ended with {process.returncode}; see above")
    if os.environ.get("DATA"):  # a path of this machine says nothing to a reader of the page
        last_line = last_line.replace(os.environ["DATA"], "$DATA")
    return {
        "date": datetime.date.today().isoformat(),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "result": json.loads(last_line),
    }


def conditions() -> dict[str, Any]:
    """What the figures depend on: the commit, the machine, and the versions in each environment."""
    command = ["git", "describe", "--always", "--dirty= with changes", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    cpu = read_cpu()
    cpuinfo = read_fields(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    numbers = [f"{name} {cpuinfo[name]}" for name in ("cpu family", "model") if name in cpuinfo]  # x86 alone
    machine = {
        "cpu": cpuinfo.get("model name") or cpu.vendor,
        "cores": cpu.cores,
        "cpu_model": ", ".join(numbers),
        "instructions": [name for name in INSTRUCTIONS if name in cpu.flags],
        "memory_gb": round(cpu.memory / 1e9, 1),
        "system": platform.platform(),
    }

    versions = {}
    for environment in (VENV, PARITY, LATEST):
        python = ROOT / environment / "bin/python"
        if python.exists():
            output = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
            installed = {package["name"].lower(): package["version"] for package in json.loads(output)}
            versions[environment] = {name: installed[name] for name in PACKAGES if name in installed}
    return {"commit": commit, "machine": machine, "versions": versions}


def write_page(docs: Path, rows: Mapping[str, Mapping]) -> None:
    """Write the JSON and the page into a folder."""
    with atomic_file(docs / DATA, "w") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    before, _, rest = (docs / PAGE).read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_file(docs / PAGE, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{to_markdown(rows)}\n{END}{after}")


def to_markdown(rows: Mapping[str, Mapping]) -> str:
    """A table of the rows with a peer for each machine, commit and day, then each row with its contenders."""
    measured = {name: row for name, row in rows.items() if "result" in row}
    by_conditions: dict[str, list[Mapping]] = {}
    for row in measured.values():
        by_conditions.setdefault(conditions_of(row), []).append(row)
    parts = []
    for line, rows_of_line in by_conditions.items():
        parts += [line, versions_of(rows_of_line)]
        heads = ["", "ours", "fastest peer", "times", "grouped", "as installed", "in any precision"]
        lines = [summary(row) for row in rows_of_line if "ratio_to_peer" in row["result"]]
        parts.append(in_markdown([heads, *lines]))
    for name, row in measured.items():
        result = row["result"]
        minutes = max(1, round(row["minutes"]))
        parts += [f"### {row['title']}", f"{row['what']} `--rows {name}`: {minutes} min."]
        parts.append(contenders_table(result) if "contenders" in result else strategies(result))
        if result.get("left_out"):
            parts.append(f"Not run: {'; '.join(result['left_out'])}.")
    return "\n\n".join(parts) + "\n"


def conditions_of(row: Mapping[str, Any]) -> str:
    """A sentence that says when a row was measured, and on which machine."""
    machine = row["machine"]
    # Its family and model, if they were recorded.
    cpu = ", ".join(machine[key] for key in ("cpu", "cpu_model") if machine.get(key))
    return (
        f"Measured on {row['date']}, commit {row['commit']}, on {machine['cores']} cores of {cpu} "
        f"({', '.join(machine['instructions'])}), {machine['memory_gb']:.0f} GB, {machine['system']}."
    )


def versions_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each environment."""
    lines = set()
    for row in rows:
        for environment, packages in row["versions"].items():
            listed = ", ".join(f"{name} {version}" for name, version in packages.items())
            lines.add(f"- `{environment}`: {listed}")
    return "\n".join(sorted(lines))


def summary(row: Mapping[str, Any]) -> list[str]:
    """The line of a row in the first table.

    Rows are compared by their ratios, which were measured in turns; the speeds are of different times.
    """
    result = row["result"]
    contenders = result["contenders"]
    ratios = result["ratio_to_peer"]
    peer = contenders[result["fastest_peer"]]
    ours = [each for each in contenders.values() if each["tuned"] and not each["peer"]]
    fastest = max(each["value"] for each in ours)
    fastest_in_float32 = max(each["value"] for each in ours if each["precision"] == FLOAT32)
    grouped = [ratio for name, ratio in ratios.items() if contenders[name]["label"].endswith(GROUPED)]
    as_installed = [ratio for name, ratio in ratios.items() if not contenders[name]["tuned"]]
    in_any_precision = ""
    if any(each["precision"] != FLOAT32 for each in contenders.values()):
        # The ratios are those of ours in float32; in its fastest precision ours is `gain` times as fast.
        gain = fastest / fastest_in_float32
        in_any_precision = f"{min(ratios.values()) * gain:.2f}"
    return [
        row["title"],
        f"{fastest_in_float32:,g} {result['unit']}",
        peer["label"],
        f"**{result['ratio']:.2f}**",
        f"{min(grouped):.2f}" if grouped else "",
        f"{min(as_installed):.2f}" if as_installed else "",
        in_any_precision,
    ]


def strategies(result: Mapping[str, Any]) -> str:
    """What benchmarks/pretrain_cost.py measured: a table of the strategies, and their ratio."""
    lines = [["", "tokens/s"]]
    lines += [[name, f"{speed:,g}"] for name, speed in result["tokens_per_second"].items()]
    least, *_quartiles, most = result["spread"]
    return (
        f"{in_markdown(lines)}\n\nThe full strategy takes {result['ratio']:.3f} times the time for a token "
        f"(median of {result['alternations']} alternations, {least:.3f} to {most:.3f}). "
        f"Peak memory {result['peak_gb']:.1f} GB."
    )


if __name__ == "__main__":
    run(main)
