"""The figures of a comparison: speeds, memory, and how many times as fast ours is."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.contenders import FLOAT32, PREVIOUS, Contender
from utils.tables import in_markdown


def figures(
    results: Mapping[str, Mapping[str, Any]], contenders: Mapping[str, Contender], amount: float, unit: str
) -> dict[str, Any]:
    """The figures of all contenders, for the last line of a benchmark and for docs/performance.json.

    Args:
        results: name -> what the contender told: "seconds", "peak", "beside" (see `run_all`).
        amount: the work that was done in each of the "seconds", in the unit of the speed without "/s".

    Returns:
        "contenders": the row of each, with the speed at its median time as "value". The row of a peer or of
        another checkout has "times": how many times as fast the fastest of ours in float32 is, the quotient
        of the median times; if both took turns, ours are those "beside" the other. And "fastest_peer": the
        name of the fastest in the same precision, with the batches of ours.
    """
    rows = {}
    for name, result in results.items():
        rows[name] = {
            "label": contenders[name].label,
            "precision": contenders[name].precision,
            "grouped": contenders[name].grouped,
            "value": float(f"{amount / median(result['seconds']):.4g}"),
            "peak_gb": round(result["peak"] / 1e9, 2),
        }
    speeds = {"unit": unit, "contenders": rows}
    ours = [name for name in results if contenders[name].is_ours and name != PREVIOUS]
    rivals = [name for name in results if name not in ours]
    if not ours:
        return speeds
    best = max(ours, key=lambda name: (rows[name]["precision"] == FLOAT32, rows[name]["value"]))
    for name in rivals:
        our_seconds = results[name].get("beside", results[best]["seconds"])
        rows[name]["times"] = round(median(results[name]["seconds"]) / median(our_seconds), 3)
    precision = rows[best]["precision"]
    equal = [name for name in rivals if rows[name]["precision"] == precision and not rows[name]["grouped"]]
    if not equal:
        return speeds
    # Another checkout is no peer, but alone it is what ours is compared with. The smaller the ratio, the
    # faster the rival.
    fastest = min(equal, key=lambda name: (name == PREVIOUS, rows[name]["times"]))
    return speeds | {"fastest_peer": fastest}


def contenders_table(result: Mapping[str, Any]) -> str:
    """What `figures` returned: the contenders with their speed, memory and ratio, in Markdown."""
    lines = [["", result["unit"], "peak GB", "ours is"]]
    for row in result["contenders"].values():
        label = row["label"]
        if row["precision"] != FLOAT32:
            label += " (another precision)"
        our_factor = f"{row['times']:.2f} times" if "times" in row else ""
        lines.append([label, f"{row['value']:,g}", f"{row['peak_gb']:.2f}", our_factor])
    return in_markdown(lines)
