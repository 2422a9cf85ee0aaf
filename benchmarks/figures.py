"""The figures of a comparison: speeds, memory, and how many times as fast ours is."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.contenders import FLOAT32, PREVIOUS, Contender
from utils.tables import in_markdown


def figures(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    contenders: Mapping[str, Contender],
    amount: float,
    unit: str,
) -> dict[str, Any]:
    """The figures of all contenders, for the last line of a benchmark and for docs/performance.json.

    Args:
        runs: name -> what the contender told in each round: "seconds", "peak", "beside" (see `run_rounds`).
        amount: the work that was done in each of the "seconds", in the unit of the speed without "/s".

    Returns:
        "contenders": the row of each. With a peer or another checkout also "ratio_to_peer": how many times as
        fast as each of them the fastest of ours in float32 is (with --amp: of ours); and "ratio", that of
        "fastest_peer".
    """
    rows = {name: row_of(contenders[name], results, amount) for name, results in runs.items()}
    speeds = {"unit": unit, "contenders": rows}
    in_float32 = {name for name in runs if contenders[name].precision == FLOAT32}
    variants = [name for name in runs if contenders[name].is_ours and name != PREVIOUS]
    rivals = [name for name in runs if name not in variants]
    if not variants or not rivals:
        return speeds
    # With --amp no variant of ours is in float32.
    comparable = [name for name in variants if name in in_float32] or variants
    best = max(comparable, key=lambda name: rows[name]["value"])
    ratios = {name: round(ratio(runs[name], runs[best]), 3) for name in rivals}
    peers = [name for name in rivals if name in in_float32 and name != PREVIOUS and contenders[name].counts]
    # Another checkout counts if it is the only rival. The smaller the ratio, the faster the rival.
    fastest = min(peers or rivals, key=ratios.get)
    return speeds | {"ratio": ratios[fastest], "fastest_peer": fastest, "ratio_to_peer": ratios}


def row_of(contender: Contender, results: Sequence[Mapping[str, Any]], amount: float) -> dict[str, Any]:
    """The figures of a contender. "value" belongs to its median time, "least" to the slowest one."""
    seconds = [time for result in results for time in result["seconds"]]
    return {
        "label": contender.label,
        "peer": not contender.is_ours,
        "tuned": contender.tuned,
        "precision": contender.precision,
        "value": four_digits(amount / median(seconds)),
        "least": four_digits(amount / max(seconds)),
        "most": four_digits(amount / min(seconds)),
        "peak_gb": round(max(result["peak"] for result in results) / 1e9, 2),
    }


def four_digits(value: float) -> float:
    """The value rounded to four significant digits."""
    return float(f"{value:.4g}")


def ratio(results: Sequence[Mapping[str, Any]], our_results: Sequence[Mapping[str, Any]]) -> float:
    """How many times as fast ours is: the median over the rounds.

    The ratio of a round is the median time of the other divided by that of ours. If they took turns, the
    times of ours are those "beside" the other.
    """
    ratios = []
    for result, our_result in zip(results, our_results):
        our_seconds = result.get("beside", our_result["seconds"])
        ratios.append(median(result["seconds"]) / median(our_seconds))
    return median(ratios)


def contenders_table(result: Mapping[str, Any]) -> str:
    """What `figures` returned: the contenders with their speed, memory and ratio, in Markdown."""
    lines = [["", result["unit"], "peak GB", "ours is"]]
    for name, row in result["contenders"].items():
        label = row["label"]
        if row["precision"] != FLOAT32:
            label += " (another precision)"
        our_factor = ""
        if name in result.get("ratio_to_peer", {}):
            our_factor = f"{result['ratio_to_peer'][name]:.2f} times"
        lines.append([label, f"{row['value']:,g}", f"{row['peak_gb']:.2f}", our_factor])
    return in_markdown(lines)
