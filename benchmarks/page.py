"""The rows of the suite as docs/performance.md, docs/images/performance.png and docs/performance.json.

The page keeps what people wrote outside the two marks; what stands between them is written anew.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rows import ROWS
from utils.files import atomic_file

BEGIN = "<!-- the suite's figures, written by scripts/benchmark.sh -->"
END = "<!-- end of the suite's figures -->"
EMPTY = f"# Speed\n\n{BEGIN}\n{END}\n"
PAGE, CHART, DATA = "performance.md", "images/performance.png", "performance.json"

Record = Mapping[str, Any]  # what benchmarks/suite.py keeps of a row


def write_page(docs: Path, records: Mapping[str, Record]) -> Path:
    """Write the three files into a folder.

    Args:
        records: in any order; the page has that of `ROWS`.

    Returns:
        The page.
    """
    records = {name: records[name] for name in ROWS if name in records}
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.exists() else EMPTY
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_file(page, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{to_markdown(records)}\n{END}{after}")
    with atomic_file(docs / DATA, "w") as file:
        json.dump(records, file, indent=1)
        file.write("\n")
    with atomic_file(docs / CHART) as file:
        draw(records, file)
    return page


def to_markdown(records: Mapping[str, Record]) -> str:
    """Where it was measured, a line for each row, then each row by itself."""
    parts = [*_conditions(records), f"![times faster than the fastest peer]({CHART})", _summary(records)]
    for name, record in records.items():
        row, result = ROWS[name], record["result"]
        parts += [f"### {row.title}", row.what]
        parts.append(_cost_table(result) if "operations" in result else _table(result))
        if result.get("ratio", 1) < 1:
            parts.append(f"**A peer is faster.** {row.why or 'The reason has not been found.'}")
        if result.get("left_out"):
            parts.append(f"Not run: {'; '.join(result['left_out'])}.")
        command = " ".join(["python", f"benchmarks/{record['script']}", *record["flags"]])
        parts.append(f"`{command}` ({record['minutes']:.0f} minutes, {_when(record)})")
    return "\n\n".join(parts) + "\n"


def _conditions(records: Mapping[str, Record]) -> Iterable[str]:
    """The machines and versions of all rows; usually one of each."""
    seen = []
    for record in records.values():
        machine = record["machine"]
        where = (
            f"Measured on {machine['cores']} cores of {machine['cpu']} "
            f"({', '.join(machine['instructions'])}), {machine['memory_gb']:.0f} GB, {machine['system']}."
        )
        if where not in seen:
            seen.append(where)
    yield " ".join(seen)
    lines = []
    for record in records.values():
        for environment, found in record["versions"].items():
            line = f"- `{environment}`: " + ", ".join(f"{name} {version}" for name, version in found.items())
            if line not in lines:
                lines.append(line)
    yield "\n".join(sorted(lines))


def _summary(records: Mapping[str, Record]) -> str:
    lines = [
        "| | ours | fastest peer | times | in each round | as installed | in any precision |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, record in records.items():
        result = record["result"]
        if "ratio_to" not in result:
            continue
        rows = result["contenders"]
        ours = rows[max((n for n in result["ratios"] if comparable(rows[n])), key=result["ratios"].get)]
        peer = rows[result["fastest_peer"]]
        installed = _installed(result)
        cells = (
            ROWS[name].title,
            f"{ours['value']:,g} {result['unit']}",
            f"{peer['label']}: {peer['value']:,g}",
            f"**{result['ratio']:.2f}**",
            " to ".join(f"{ratio:.2f}" for ratio in result["ratio_spread"]),
            "" if installed is None else f"{installed:.2f}",
            _in_any_precision(result),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comparable(row: Mapping[str, Any]) -> bool:
    """Whether a contender's speed may stand for its side."""
    return row["tuned"] and row["precision"] == "float32"


def _in_any_precision(result: Mapping[str, Any]) -> str:
    """Times faster the fastest of ours is than the fastest peer, int8 and bfloat16 too; "" without them."""
    rows = list(result["contenders"].values())
    if {row["precision"] for row in rows} == {"float32"}:
        return ""
    speeds = [1 / row["value"] if result["unit"] == "s" else row["value"] for row in rows]
    ours = max(speed for speed, row in zip(speeds, rows) if not row["peer"])
    peers = max(speed for speed, row in zip(speeds, rows) if row["peer"])
    return f"{ours / peers:.2f}"


def _installed(result: Mapping[str, Any]) -> float | None:
    """Times faster than the fastest peer as it is installed."""
    ratios = [ratio for kind, ratio in result["ratio_to"].items() if kind.endswith("as installed")]
    return min(ratios, default=None)


def _table(result: Mapping[str, Any]) -> str:
    rows = result["contenders"]
    columns = [result["unit"], "slowest", "fastest", "peak GB"]
    optional = {"beyond_gb": "beyond, GB", "gemm_share": "of GEMM peak"}
    optional = {key: title for key, title in optional.items() if any(key in row for row in rows.values())}
    columns += [*optional.values(), "ours is"]
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        label = row["label"] if row["precision"] == "float32" else f"{row['label']} (another precision)"
        cells = [
            label,
            f"{row['value']:,g}",
            f"{row['least']:,g}",
            f"{row['most']:,g}",
            f"{row['peak_gb']:.2f}",
        ]
        for key in optional:
            shown = "{:.0%}" if key == "gemm_share" else "{:.2f}"
            cells.append(shown.format(row[key]) if key in row else "")
        ratio = result.get("ratio_to_peer", {}).get(name)
        times = "" if ratio is None else f"{ratio:.2f} times"
        lines.append(f"| {' | '.join([*cells, times])} |")
    notes = []
    if "gemm_peak_gflops" in result:
        notes.append(f"Peak of Paddle's matrix products, in ours: {result['gemm_peak_gflops']:.0f} GFLOP/s.")
    if "memory_ratio" in result:
        notes.append(f"Our memory to that of the leanest peer: {result['memory_ratio']:.2f}.")
    return "\n".join(lines) + ("\n\n" + " ".join(notes) if notes else "")


def _cost_table(result: Mapping[str, Any]) -> str:
    """benchmarks/pretrain_cost.py."""
    lines = ["| | tokens/s |", "|---|---:|"]
    lines += [f"| {name} | {speed:,g} |" for name, speed in result["tokens_per_second"].items()]
    least, _, _, _, most = result["spread"]
    return (
        "\n".join(lines) + f"\n\nThe full strategy takes {result['ratio']:.3f} times the time for a token "
        f"(median of {result['alternations']} alternations, {least:.3f} to {most:.3f}); by the count of "
        f"operations {result['operations']:.3f}, in the naive form {result['operations_naive']:.3f}. "
        f"Peak memory {result['peak_gb']:.1f} GB."
    )


def _when(record: Record) -> str:
    return f"{record['date']}, commit {record['commit']}, load before {record['load']:.1f}"


def draw(records: Mapping[str, Record], file) -> None:
    """Two bars for each row: over the fastest peer in its best setting, and as installed."""
    from matplotlib.figure import Figure  # which needs no display

    shown = {name: record["result"] for name, record in records.items() if "ratio_to" in record["result"]}
    figure = Figure(figsize=(8, 1.2 + 0.55 * len(shown)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for place, result in enumerate(shown.values()):
        bars = [(result["ratio"], "tab:blue", -0.18)]
        if (installed := _installed(result)) is not None:
            bars.append((installed, "tab:gray", 0.18))
        for ratio, colour, shift in bars:
            axes.barh(place + shift, ratio, 0.34, color=colour)
            axes.text(ratio, place + shift, f" {ratio:.2f}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [ROWS[name].title for name in shown], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times faster than the fastest peer: blue, in its best setting; grey, as installed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png")
