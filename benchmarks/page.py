"""Run benchmarks, store each in docs/performance.json, and write docs/performance.md from that.

A row of the JSON has a title, what it compares, the script with its flags, and what was measured. In the page
only the part between two marks is written. `--rows none` writes it again without measuring.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.environment import run

from benchmarks.contenders import FLOAT32, LATEST, PARITY, ROOT, VENV
from benchmarks.figures import contenders_table
from utils.errors import UserError
from utils.files import atomic_file, read_json
from utils.runtime import read_cpu, read_fields
from utils.tables import in_markdown

DOCS = ROOT / "docs"
PAGE = "performance.md"
DATA = "performance.json"
# The figures stand between these lines of the page.
BEGIN = "<!-- figures, written by scripts/benchmark.sh -->"
END = "<!-- end of the figures -->"
PACKAGES = (
    "paddlepaddle",
    "paddlenlp",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "sentencepiece",
    "onnxruntime",
    "numpy",
)
# The instruction sets on which the speed of matrix products depends, by their names in /proc/cpuinfo.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="names from the JSON, with commas between; default: all; or none")
    args = parser.parse_args()
    rows = read_json(DOCS / DATA)
    names = list(rows)
    if args.rows:
        names = [] if args.rows == "none" else args.rows.split(",")
    for name in names:
        if name not in rows:
            raise UserError(f"--rows: no {name}; there are {', '.join(rows)}")
    # Now, because `write_page` changes files under version control, and the commit would be "with changes".
    conditions = describe_conditions() if names else ""
    for name in names:
        print(f"{name}: {rows[name]['title']}", flush=True)
        rows[name] |= measure(rows[name]["command"])
        rows[name]["conditions"] = conditions
        write_page(rows)  # after each row, so that an interruption loses none
    write_page(rows)


def measure(command: str) -> dict[str, Any]:
    """Run a script of benchmarks/ with its flags, and show its output. Its last line is JSON: the result."""
    line = f"{sys.executable} benchmarks/{command}"
    start = time.monotonic()
    last_line = ""
    # The shell gives $DATA its value.
    with subprocess.Popen(line, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for last_line in process.stdout:
            print(f"    {last_line}", end="", flush=True)
    if process.returncode:
        raise UserError(f"{command} ended with {process.returncode}; see above")
    return {"minutes": round((time.monotonic() - start) / 60, 1), "result": json.loads(last_line)}


def describe_conditions() -> str:
    """When and on what is measured: the day, the commit, the machine, and a line for each environment."""
    command = ["git", "describe", "--always", "--dirty= with changes", "--exclude=*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cpu = read_cpu()
    cpuinfo = read_fields(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    numbers = [
        f", {name} {cpuinfo[name]}" for name in ("cpu family", "model") if name in cpuinfo
    ]  # x86 alone
    instructions = [name for name in INSTRUCTIONS if name in cpu.flags]
    lines = [
        f"Measured on {datetime.date.today()}, commit {commit}, on {cpu.cores} cores of "
        f"{cpuinfo.get('model name') or cpu.vendor}{''.join(numbers)} ({', '.join(instructions)}), "
        f"{cpu.memory / 1e9:.0f} GB, {platform.platform()}.\n"
    ]
    for environment in (LATEST, PARITY, VENV):
        python = ROOT / environment / "bin/python"
        if python.exists():
            output = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
            installed = {package["name"].lower(): package["version"] for package in json.loads(output)}
            versions = [f"{name} {installed[name]}" for name in PACKAGES if name in installed]
            lines.append(f"- `{environment}`: {', '.join(versions)}")
    return "\n".join(lines)


def write_page(rows: Mapping[str, Mapping]) -> None:
    """Write the JSON and the page."""
    with atomic_file(DOCS / DATA, "w") as file:
        file.write(json.dumps(rows, indent=1) + "\n")
    before, _, rest = (DOCS / PAGE).read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_file(DOCS / PAGE, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{to_markdown(rows)}\n{END}{after}")


def to_markdown(rows: Mapping[str, Mapping]) -> str:
    """A table of the rows for each day, commit and machine, then each row with its contenders."""
    heads = ["", "ours", "peak GB", "fastest peer", "peak GB", "times", "grouped", "in any precision"]
    tables: dict[str, list[list[str]]] = {}  # conditions -> lines
    sections = []
    for name, row in rows.items():
        if "result" not in row:
            continue
        tables.setdefault(row["conditions"], [heads]).append(summary(row))
        minutes = max(1, round(row["minutes"]))
        sections += [f"### {row['title']}", f"{row['what']} `--rows {name}`: {minutes} min."]
        sections.append(contenders_table(row["result"]))
    parts = [f"{conditions}\n\n{in_markdown(lines)}" for conditions, lines in tables.items()]
    return "\n\n".join([*parts, *sections]) + "\n"


def summary(row: Mapping[str, Any]) -> list[str]:
    """The line of a row in the first table.

    Rows are compared by their ratios, which were measured in turns; the speeds are of different times.
    """
    result = row["result"]
    contenders = result["contenders"]
    peers = [each for each in contenders.values() if "times" in each]
    ours = [each for each in contenders.values() if "times" not in each]
    best = max((each for each in ours if each["precision"] == FLOAT32), key=lambda each: each["value"])
    peer = contenders[result["fastest_peer"]]
    grouped = [f"{each['times']:.2f}" for each in peers if each["grouped"]]
    # The ratios are those of ours in float32; in its fastest precision ours is `gain` times as fast.
    gain = max(each["value"] for each in ours) / best["value"]
    return [
        row["title"],
        f"{best['value']:,g} {result['unit']}",
        f"{best['peak_gb']:.2f}",
        peer["label"],
        f"{peer['peak_gb']:.2f}",
        f"**{peer['times']:.2f}**",
        *(grouped or [""]),
        f"{min(each['times'] for each in peers) * gain:.2f}",
    ]


if __name__ == "__main__":
    run(main)
