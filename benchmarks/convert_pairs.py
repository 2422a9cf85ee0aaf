"""Convert a model between every pair of formats: seconds, memory, and whether all bits stay.

python -m tests.helpers.official_layout /tmp/base --size base     # random weights, or any model
python -m benchmarks.convert_pairs /tmp/base

The model is turned into each format; then each of these into each other one, which must give the very files
that came straight from the model. So every way there and back is the same as staying. (For a model that all
formats can hold whole.) Each conversion is a process, with its wall time, CPU time and largest size.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.checkpoint.convert import TARGETS
from utils.files import sha256_of

CONVERT = Path(__file__).resolve().parents[1] / "convert.py"


def convert(source: Path, target: Path, form: str) -> tuple[float, float, float]:
    """Run convert.py; seconds of wall time and of CPU, and MiB of its largest size."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, CONVERT, source, target, "--to", form], stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"convert.py ended with {status}"
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def files(folder: Path) -> dict[str, str]:
    """Path within a folder -> SHA-256."""
    return {str(p.relative_to(folder)): sha256_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--folder", help="where there is room for six times the weights (a temporary folder)")
    args = parser.parse_args()
    print(f"{'from':12} {'to':12}    wall s   CPU s   MiB  same files", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        straight = {}
        for form in TARGETS:
            show("(source)", form, convert(args.source, root / form, form), "")
            straight[form] = files(root / form)
        different = 0
        for one in TARGETS:
            for other in TARGETS:
                took = convert(root / one, root / "out", other)
                same = files(root / "out") == straight[other]
                different += not same
                show(one, other, took, "yes" if same else "NO")
                shutil.rmtree(root / "out")
    print(f"{len(TARGETS) ** 2 - different} of {len(TARGETS) ** 2} pairs give the same files")
    sys.exit(1 if different else 0)


def show(one: str, other: str, took: tuple[float, float, float], same: str) -> None:
    wall, cpu, size = took
    print(f"{one:12} {other:12} {wall:9.1f} {cpu:7.1f} {size:5.0f}  {same}", flush=True)


if __name__ == "__main__":
    main()
