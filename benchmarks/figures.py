"""From what the workers of a comparison found to its figures, the same for every benchmark.

    {"unit": "tokens/s", "ratio": 1.7, "ratio_spread": [1.65, 1.74], "fastest_peer": "hf_best_sdpa",
     "ratio_to": {"torch, tuned": 1.7, ..}, "ratio_to_peer": {"hf_best_sdpa": 1.7, ..},
     "ratios": {"ours": 1.7, ..}, "memory_ratio": 0.3,
     "contenders": {"ours": {"label": .., "peer": .., "tuned": .., "precision": .., "value": 581.0,
                             "least": 575.0, "most": 583.0, "peak_gb": 7.2, ..}, ..}}

"value" is that of the median time, in `unit`, "least" and "most" those of the slowest and the fastest; where
the unit is seconds, less is better. A ratio says how many times faster ours is than the fastest of a kind,
both in float32; "ratio" is that of ours at its best to the fastest of all peers, and its spread the ratios of
the rounds' medians. Where a peer took turns with ours ("beside"), its ratios are to ours of those turns.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.side_by_side import Contender

GIGABYTE = 1e9


def figures(
    runs: Mapping[str, list[dict]],
    contenders: Mapping[str, "Contender"],
    amount: float,
    unit: str,
    operations: float | None = None,
) -> dict[str, Any]:
    """What the last line of a benchmark holds.

    Args:
        runs: name -> what its worker told in each round (`side_by_side.tell`).
        amount: units of work in each of the "seconds"; not used where `unit` is "s".
        operations: of the matrix products in each of the "seconds".
    """
    found: dict[str, Any] = {"unit": unit}
    gflops = max((one.get("gflops", 0.0) for of_one in runs.values() for one in of_one), default=0.0)
    if gflops:
        found["gemm_peak_gflops"] = round(gflops, 1)
    rows = {name: _row(of_one, contenders[name], amount, unit) for name, of_one in runs.items()}
    if gflops and operations:
        for name, row in rows.items():
            if row["precision"] == "float32":  # whose peak was measured
                shares = [
                    operations / _median([one]) / (one.get("gflops", gflops) * 1e9) for one in runs[name]
                ]
                row["gemm_share"] = round(statistics.median(shares), 3)
    found["contenders"] = rows
    return found | _ratios(runs, contenders) | _memory_ratio(rows)


def _row(of_one: list[dict], contender: "Contender", amount: float, unit: str) -> dict[str, Any]:
    times = sorted(_times(of_one), reverse=True)  # the slowest first
    slowest, median, fastest = (
        seconds if unit == "s" else amount / seconds
        for seconds in (times[0], statistics.median(times), times[-1])
    )
    row = {
        "label": contender.label,
        "peer": contender.kind != "ours",
        "tuned": contender.tuned,
        "precision": contender.precision,
        "value": _rounded(median),
        "least": _rounded(slowest),
        "most": _rounded(fastest),
        "peak_gb": round(max(one["peak"] for one in of_one) / GIGABYTE, 2),
    }
    if "kept" in of_one[0]:
        row["beyond_gb"] = round(max(one["peak"] - one["kept"] for one in of_one) / GIGABYTE, 2)
    if "batch_tokens" in of_one[0]:
        row["batch_tokens"] = [one["batch_tokens"] for one in of_one]
    return row


def _ratios(runs: Mapping[str, list[dict]], contenders: Mapping[str, "Contender"]) -> dict[str, Any]:
    comparable = {name: contenders[name] for name in runs if contenders[name].precision == "float32"}
    peers = [name for name, one in comparable.items() if one.kind != "ours"]
    ours = [name for name, one in comparable.items() if one.kind == "ours" and one.tuned]
    if not ours or not peers:
        return {}
    best = _fastest(runs, ours)
    fastest = min(peers, key=lambda name: _ratio(runs, best, name))
    kinds: dict[str, list[str]] = {}
    for name in peers:
        one = comparable[name]
        kinds.setdefault(f"{one.kind}, {'tuned' if one.tuned else 'as installed'}", []).append(name)
    mine = _ours_beside(runs, best, fastest)
    of_rounds = [_median([b]) / _median([a]) for a, b in zip(mine, runs[fastest], strict=True)]
    everything_of_ours = [name for name in runs if contenders[name].kind == "ours"]
    return {
        "ratio": _ratio(runs, best, fastest),
        "ratio_spread": [round(min(of_rounds), 2), round(max(of_rounds), 2)],
        "fastest_peer": fastest,
        "ratio_to": {kind: min(_ratio(runs, best, name) for name in names) for kind, names in kinds.items()},
        "ratio_to_peer": {name: _ratio(runs, best, name) for name in runs if contenders[name].kind != "ours"},
        "ratios": {name: _ratio(runs, name, fastest) for name in everything_of_ours},
    }


def _memory_ratio(rows: Mapping[str, dict]) -> dict[str, float]:
    """Ours to the leanest peer in float32: what is held beyond what all must hold, or else all."""
    key = "beyond_gb" if any("beyond_gb" in row for row in rows.values()) else "peak_gb"
    peers = [row[key] for row in rows.values() if row["peer"] and row["precision"] == "float32"]
    if "ours" not in rows or not peers:
        return {}
    return {"memory_ratio": round(rows["ours"][key] / min(peers), 3)}


def report(found: dict[str, Any]) -> None:
    """The table, for people."""
    unit = found["unit"]
    print(f"\n{unit + ': median, slowest, fastest':>74}   peak GB   beyond   of GEMM peak")
    for row in found["contenders"].values():
        values = "".join(f"{row[key]:10.1f}" for key in ("value", "least", "most"))
        beyond = f"{row['beyond_gb']:9.2f}" if "beyond_gb" in row else " " * 9
        share = f"{row['gemm_share']:15.0%}" if "gemm_share" in row else ""
        print(f"{row['label']:<44}{values}{row['peak_gb']:10.2f}{beyond}{share}")
    if "ratio" in found:
        least, most = found["ratio_spread"]
        peer = found["contenders"][found["fastest_peer"]]["label"]
        print(f"{found['ratio']:.2f} times the fastest peer, {peer} (rounds: {least:.2f} to {most:.2f})")


def _ratio(runs: Mapping[str, list[dict]], ours: str, peer: str) -> float:
    return round(_median(runs[peer]) / _median(_ours_beside(runs, ours, peer)), 2)


def _ours_beside(runs: Mapping[str, list[dict]], ours: str, peer: str) -> list[dict]:
    """The rounds of ours to compare a peer's with: those beside it, if it is this one that stood there."""
    if "beside" in runs[peer][0] and "beside" not in runs[ours][0]:
        return [{"seconds": one["beside"]} for one in runs[peer]]
    return runs[ours]


def _fastest(runs: Mapping[str, list[dict]], names: Iterable[str]) -> str:
    return min(names, key=lambda name: _median(runs[name]))


def _median(of_one: list[dict]) -> float:
    return statistics.median(_times(of_one))


def _times(of_one: list[dict]) -> list[float]:
    """All seconds of some rounds."""
    times: list[float] = []
    for one in of_one:
        times += one["seconds"] if isinstance(one["seconds"], list) else [one["seconds"]]
    return times


def _rounded(value: float) -> float:
    """Four digits are more than a measurement holds."""
    return float(f"{value:.4g}")
