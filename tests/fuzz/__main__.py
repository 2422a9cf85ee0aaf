"""Give readers of foreign bytes inputs that are wrong in every way, and see that each is refused in one line.

sh scripts/fuzz.sh --minutes 10
sh scripts/fuzz.sh --minutes 1 --targets squad,safetensors --seed 2
sh scripts/fuzz.sh --targets squad --again output/fuzz/squad/ValueError-0123abcd
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import attempt
from tests.fuzz.run import Result, fuzz
from tests.fuzz.targets import TARGETS
from utils.errors import UserError, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="for each reader (default: 1)")
    parser.add_argument(
        "--targets", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)} (default: all)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="readers at a time")
    parser.add_argument(
        "--keep", type=Path, default=Path("output/fuzz"), help="folder for inputs that show a fault"
    )
    parser.add_argument("--again", type=Path, help="read this input alone, and tell what comes of it")
    options = parser.parse_args()
    names = [name.strip() for name in options.targets.split(",")]
    if unknown := [name for name in names if name not in TARGETS]:
        raise UserError(f"--targets {unknown[0]}: no such reader; there are {', '.join(TARGETS)}")
    if options.again:
        sys.exit(read_again(names, options.again))
    limit = f"{max(1, round(60 * options.minutes))} seconds"
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(fuzz, [name], options.seed, limit, options.keep) for name in names]
        results = []
        for future in running:
            (result,) = future.result()
            print(as_line(result), flush=True)
            results.append(result)
    faults = sum(len(result.faults) for result in results)
    totals = {"readers": len(results), "inputs": sum(result.inputs for result in results), "faults": faults}
    print(json.dumps({**totals, "seed": options.seed, "minutes": options.minutes}))
    sys.exit(1 if faults else 0)


def as_line(result: Result) -> str:
    speed = result.inputs / max(result.seconds, 1e-9)
    line = (
        f"{result.target:24} {result.inputs:9,} inputs {speed:8,.0f}/s {result.refused:9,} refused "
        f"{result.accepted:9,} accepted {len(result.faults):3} faults"
    )
    return "\n".join([line, *(f"    {fault.kind}: {fault.file}" for fault in result.faults)])


def read_again(names: list[str], file: Path) -> int:
    """Read one input in this process; 1 if that is a fault."""
    if len(names) != 1:
        raise UserError("--again: name the one reader with --targets")
    import tempfile

    target = TARGETS[names[0]]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        path = folder / target.file
        path.parent.mkdir(parents=True, exist_ok=True)
        target.seeds(folder)
        path.write_bytes(file.read_bytes())
        outcome = attempt.attempt(target, path, folder)
    print(f"{outcome.kind}\n{' > '.join(outcome.place)}\n{outcome.report}")
    return int(outcome.is_fault)


if __name__ == "__main__":
    run(main)
