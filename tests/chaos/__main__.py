"""Strike small trainings with random faults, and compare their ends with undisturbed ones.

    sh scripts/chaos.sh --rounds 50 --seed 1

A line per fault, a table by kind of fault, and at last one line of JSON. Ends with 1 where a training lost or
repeated a sample, or ended with other weights; its folder is then kept. See docs/reliability.md.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.rounds import Chaos, summary, table
from tests.pretrain.tiny_run import make_corpus


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=50, help="faults in all")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their moments")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, _interrupt)
    folder, began = Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    try:
        (folder / "texts").mkdir()
        corpus = make_corpus(folder / "texts")
        chaos = Chaos(folder, corpus, args.seed, lambda line: print(line, flush=True))
        ends = list(chaos.run(args.rounds))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    bad = [end for end in ends if not end.good]
    print("\n" + "\n".join(table(ends)) + "\n")
    if bad:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(summary(ends, time.monotonic() - began), flush=True)
    return 1 if bad else 0


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
