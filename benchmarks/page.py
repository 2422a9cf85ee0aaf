"""Run benchmarks one after another and write docs/performance.md with its chart and its JSON.

    sh scripts/benchmark.sh                      every row: hours, on a machine with nothing else to do
    sh scripts/benchmark.sh --rows mlm,search    these rows; the others keep what was measured before
    sh scripts/benchmark.sh --rows none          write the page again, without measuring

docs/performance.json holds the rows. A row that has finished is stored at once, so after an interruption name
the rows that are left. In docs/performance.md only the part between two marks is written.
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

from benchmarks.side_by_side import FLOAT32, LATEST, PARITY, ROOT, VENV
from utils.errors import UserError, run
from utils.files import atomic_file
from utils.runtime import read_cpu

BEGIN, END = "<!-- figures, written by scripts/benchmark.sh -->", "<!-- end of the figures -->"
PAGE, CHART, DATA = "performance.md", "images/performance.png", "performance.json"
PACKAGES = (
    "paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "torch", "transformers", "sentence-transformers",
    "tokenizers", "sentencepiece", "onnxruntime", "faiss-cpu", "numpy",
)  # fmt: skip


TRAINED = "float32, dropout 0.1, AdamW, clipping"
BASE = f"base shape (12 x 768, 250,002 words), {TRAINED}"
MLM = "hf_installed_sdpa,hf_best_sdpa,hf_best_eager,hf_best_latest_sdpa,hf_best_latest_eager"
ROWS = {  # name -> title, what it compares, the script with its flags
    "finetune_real": (
        "Fine-tuning step, 32 real pairs",
        f"Sequence classification of pairs of SNLI and MultiNLI, base shape (12 x 768, 128,000 words), "
        f"{TRAINED}; pads do not count as tokens. Padded: the batches of ours. Grouped: the same pairs in "
        "batches of similar length.",
        "finetune_real.py --data=$DATA/nli/train-en.tsv --vocab=128000 --steps=4 --rounds=1 "
        "--piece_model_path=$DATA/vocab/multilingual-128k-unigram.model --contenders=ours,hf_padded_sdpa,"
        "hf_padded_eager,hf_padded_pinned,hf_padded_bfloat16,paddlenlp_padded,hf_grouped_sdpa,paddlenlp_grouped",
    ),
    "finetune": (
        "Fine-tuning step, 16 x 128 tokens", f"Sequence classification, {BASE}; no token is a pad.",
        "finetune_step.py --rounds=1",
    ),
    "finetune_256": (
        "Fine-tuning step, 8 x 256 tokens", "As many tokens in longer sequences.",
        "finetune_step.py --batch=8 --length=256 --rounds=1 --contenders=ours,hf_installed_sdpa,hf_best_sdpa,"
        "hf_best_latest_sdpa,paddlenlp_best",
    ),
    "mlm": (
        "Masked-LM step, 16 x 128 tokens",
        "304 of the tokens are predicted; otherwise as above. transformers computes logits at all positions; "
        "ours computes them at the masked positions.",
        f"mlm_step.py --rounds=1 --contenders=ours,{MLM}",
    ),
    "mlm_gathered": (
        "The same, the peer's head at the masked positions",
        "With three lines of a user's own (gathered) the peer, too, computes only the needed logits.",
        "mlm_step.py --rounds=1 --contenders=ours,hf_gathered_sdpa,hf_gathered_latest_sdpa",
    ),
    "strategy": (
        "Full-strategy step",
        "What MMLM, BTMLM, TLM and CAMLM in their shares cost in comparison with MMLM and TLM alone, for "
        "each trained token. Ours alone: no peer trains this.",
        "pretrain_cost.py",
    ),
    "encoding": (
        "Sentences to vectors",
        "From a file of sentences of 1 to 120 words to a file of mean vectors of the top layer.",
        "encode.py --sentences=1000 --rounds=2",
    ),
    "tokenisation": (
        "Tokenisation",
        "50,000 sentences to ids on all cores, by one unigram model of 4,000 pieces; all get the same ids.",
        "tokenise.py",
    ),
    "corpus": (
        "Text to shards",
        "300 MB of real text (DATA names the folder) to a corpus on disk, on all cores; the peers write ids "
        "alone.",
        "corpus.py --gigabytes=0.3 --rounds=1",
    ),
    "search": (
        "Exact search",
        "The 10 nearest of 1,000,000 vectors of width 768 for each of 1,000 queries, from arrays in memory.",
        "search_vectors.py --rounds=2",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}; or none")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page")
    args = parser.parse_args()
    names = [] if args.rows == "none" else args.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"--rows: no {unknown[0]}; there are {', '.join(ROWS)}")
    data = args.docs / DATA
    records = json.loads(data.read_text(encoding="utf-8")) if data.is_file() else {}
    facts = conditions() if names else {}
    for name in names:
        print(f"{name}: {ROWS[name][0]}", flush=True)
        records[name] = measure_row(ROWS[name][2]) | facts
        write_page(args.docs, records)
    print(f"{len(records)} rows are in {write_page(args.docs, records)}")


def measure_row(row: str) -> dict[str, Any]:
    """Run a script with its flags; its output is shown.

    Raises:
        UserError: the benchmark failed.
    """
    start, last = time.monotonic(), ""
    script, *flags = row.split()
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(os.path.expandvars, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
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
    pairs = (line.partition(":") for line in reversed(cpuinfo))
    of_cpu = {name.strip(): value.strip() for name, _, value in pairs}
    exactly = ", ".join(f"{name} {of_cpu[name]}" for name in ("cpu family", "model") if name in of_cpu)
    kinds = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    machine = {
        "cpu": of_cpu.get("model name") or cpu.vendor or platform.machine(), "exactly": exactly,
        "cores": cpu.cores,
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


def write_page(docs: Path, records: Mapping[str, Mapping]) -> Path:
    """Write the page, the chart and the JSON of all rows into a folder; the path of the page."""
    records = {name: records[name] for name in ROWS if name in records}
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Speed\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    with atomic_file(page, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{to_markdown(records)}\n{END}{rest.partition(END)[2]}")
    with atomic_file(docs / DATA, "w") as file:
        json.dump(records, file, indent=1)
        file.write("\n")
    with atomic_file(docs / CHART) as file:
        draw(records, file)
    return page


def to_markdown(records: Mapping[str, Mapping]) -> str:
    """The machine and versions, a line for each row, then each row with its contenders."""
    machines, versions = {}, set()
    for record in records.values():
        machine = "Measured on {cores} cores of {cpu} ({}), {memory_gb:.0f} GB, {system}."
        machines[machine.format(", ".join(record["machine"]["instructions"]), **record["machine"])] = None
        for environment, found in record["versions"].items():
            versions.add(f"- `{environment}`: {', '.join(map(' '.join, found.items()))}")
    chart = f"![times faster than the fastest peer]({CHART})"
    heads = ["", "ours", "fastest peer", "times", "as installed", "in any precision"]
    lines = [line for name in ROWS if (line := summary(ROWS[name][0], records.get(name)))]
    parts = [" ".join(machines), "\n".join(sorted(versions)), chart, table(heads, lines)]
    for name, (title, what, script) in ROWS.items():
        parts += [f"### {title}", what]
        if name not in records:
            parts += ["Not measured yet.", f"`python benchmarks/{script}`"]
            continue
        record = records[name]
        result = record["result"]
        parts.append(contenders(result) if "contenders" in result else strategies(result))
        if "batch_16" in result:
            parts.append(f"Ours is {result['ratio_grouped']} times the fastest grouped peer. With 16 pairs:")
            parts.append(contenders(result["batch_16"]))
        if result.get("left_out"):
            parts.append(f"Not run: {'; '.join(result['left_out'])}.")
        when = f"{record['minutes']:.0f} minutes, {record['date']}, commit {record['commit']}"
        if exactly := record["machine"].get("exactly"):
            when += f", {record['machine']['cpu']}, {exactly}"
        command = " ".join(["python", f"benchmarks/{record['script']}", *record["flags"]])
        parts.append(f"`{command}` ({when})")
    return "\n\n".join(parts) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text, and the others numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(title: str, record: Mapping | None) -> list[str] | None:
    """The line of one row in the first table; None if it has no peer."""
    if record is None:
        return [title, "not measured yet", "", "", "", ""]
    result = record["result"]
    if "ratio_to_peer" not in result:
        return None
    rows, peer = result["contenders"].values(), result["contenders"][result["fastest_peer"]]
    ours, peers = ([one for one in rows if one["peer"] == side] for side in (False, True))
    single = max(one["value"] for one in ours if one["tuned"] and one["precision"] == FLOAT32)
    in_any = max(one["value"] for one in ours) / max((one["value"] for one in peers), default=single)
    installed, mixed = as_installed(result), any(one["precision"] != FLOAT32 for one in rows)
    return [
        title, f"{single:,g} {result['unit']}", f"{peer['label']}: {peer['value']:,g}",
        f"**{result['ratio']:.2f}**",
        f"{installed:.2f}" if installed else "", f"{in_any:.2f}" if mixed else "",
    ]  # fmt: skip


def as_installed(result: Mapping[str, Any]) -> float | None:
    """How many times faster ours is than the fastest peer as it is installed."""
    rows = result["contenders"]
    ratios = [ratio for name, ratio in result["ratio_to_peer"].items() if not rows[name]["tuned"]]
    return min(ratios, default=None)


def contenders(result: Mapping[str, Any]) -> str:
    """The table of a row."""
    lines = []
    for name, row in result["contenders"].items():
        label = row["label"] if row["precision"] == FLOAT32 else f"{row['label']} (another precision)"
        ratio = result.get("ratio_to_peer", {}).get(name)
        memory, times = f"{row['peak_gb']:.2f}", "" if ratio is None else f"{ratio:.2f} times"
        lines.append([label, f"{row['value']:,g}", memory, times])
    return table(["", result["unit"], "peak GB", "ours is"], lines)


def strategies(result: Mapping[str, Any]) -> str:
    """The row of benchmarks/pretrain_cost.py."""
    speeds = table(["", "tokens/s"], [[name, f"{x:,g}"] for name, x in result["tokens_per_second"].items()])
    return (
        f"{speeds}\n\nThe full strategy takes {result['ratio']:.3f} times the time for a token "
        f"(median of {result['alternations']} alternations, {result['spread'][0]:.3f} to "
        f"{result['spread'][-1]:.3f}). Peak memory {result['peak_gb']:.1f} GB."
    )


def draw(records: Mapping[str, Mapping], file) -> None:
    """Draw two bars for each row: how much faster ours is than the fastest peer, tuned and as installed."""
    from matplotlib.figure import Figure  # which needs no display

    found = {ROWS[name][0]: record["result"] for name, record in records.items()}
    shown = {title: result for title, result in found.items() if "ratio_to_peer" in result}
    figure = Figure(figsize=(8, 1.2 + 0.55 * len(shown)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(shown.values()):
        for shift, colour, ratio in (
            (-0.18, "tab:blue", result["ratio"]),
            (0.18, "tab:gray", as_installed(result)),
        ):
            bars = axes.barh([place + shift], [ratio or 0], 0.34, color=colour)
            axes.bar_label(bars, fmt=" %.2f" if ratio else "", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), list(shown), fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times faster than the fastest peer\nblue: in its best setting; grey: as installed")
    figure.savefig(file, format="png")


if __name__ == "__main__":
    run(main)
