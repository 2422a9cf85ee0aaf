"""Strike small trainings with random faults, and compare their ends with undisturbed ones.

    sh scripts/chaos.sh --rounds 50 --seed 1

Prints a line a round, and at last one line of JSON. Ends with 1 if a round failed. See docs/reliability.md.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.trainings import BATCH, INTERRUPTED, KINDS, SAVE_STEPS, STEPS, Failed, Training

SIDE_BY_SIDE = 2
DRAWS = 3  # of a round, as long as its fault strikes nothing


class StruckNothing(Failed):
    """There was nothing left to strike."""


@dataclass
class Round:
    """What became of a round; `problem`: what went wrong. `lost` and `repeated` count samples."""

    fault: str
    problem: str = ""
    lost: int = 0
    repeated: int = 0


def run_rounds(folder: Path, seed: int, rounds: int) -> list[Round]:
    """All rounds of a seed, some side by side; their files are in `folder`."""
    kinds = []
    for number, make in enumerate(KINDS[:rounds]):
        (data := folder / f"data-{number}").mkdir()
        kinds.append(make(data))

    def run_undisturbed(number: int) -> Training:
        with Training(kinds[number], folder / f"undisturbed-{number}") as one:
            one.start()
            code = one.wait()
            if code or sorted(one.lives()[0].steps) != list(range(1, STEPS + 1)):
                raise RuntimeError(f"an undisturbed run ended with {code}: see {one.folder}")
            return one

    def run_round(number: int) -> Round:
        for attempt in range(1, DRAWS + 1):
            draw = random.Random(f"{seed}/{number}/{attempt}")
            found, end, began = Round(draw.choice(list(FAULTS))), "identical", time.monotonic()
            again = False
            with Training(kinds[number % len(kinds)], folder / f"round-{number + 1}-{attempt}") as one:
                try:
                    strike(one, found.fault, draw)
                    compare(undisturbed[number % len(kinds)], one, found)
                except Failed as failed:
                    found.problem = str(failed)
                    again = isinstance(failed, StruckNothing) and attempt < DRAWS
                    end = f"{'drawn again' if again else 'FAILED'}: {failed} ({one.folder})"
            if not found.problem:
                shutil.rmtree(one.folder)
            print(
                f"round {number + 1}, seed {seed} | {one.kind.name} | {found.fault} at step {one.struck_at} "
                f"| {end} | {time.monotonic() - began:.0f} s", flush=True,
            )  # fmt: skip
            if not again:
                break
        return found

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            undisturbed = list(pool.map(run_undisturbed, range(len(kinds))))
            return list(pool.map(run_round, range(rounds)))
        except BaseException:
            INTERRUPTED.set()  # the threads end their trainings
            raise


def strike(one: Training, name: str, draw: random.Random) -> None:
    """Start a training, strike it, and give the command again until the training has ended.

    Raises:
        Failed: the fault struck nothing, or the training did not go on as it has to.
    """
    fault, moment = FAULTS[name], draw.randrange(STEPS - 4)
    one.start()
    one.until(lambda: one.last_step() >= moment and len(one.checkpoints()) >= fault.checkpoints)
    time.sleep(draw.uniform(0, 0.1 if moment else 3))
    one.struck_at = one.last_step()
    struck = one.process.poll() is None and fault.strike(one, draw)
    code, last, newest = one.wait(), one.last_step(), max(one.checkpoints(), default=0)
    if not struck or (fault.code is not None and code == 0 and last == STEPS):
        raise StruckNothing("the fault struck nothing")
    if fault.code is not None:
        # Before the first step it need not catch signals yet, and launchers have codes of their own.
        if one.struck_at and one.kind.processes == 1 and code != fault.code:
            raise Failed(f"it ended with {code} instead of {fault.code}")
        one.start()
        code, went_on = one.wait(), one.lives()[-1].went_on
        if went_on != newest:
            raise Failed(f"the newest checkpoint was of step {newest}, it went on from step {went_on}")
        if last - went_on > SAVE_STEPS * (2 if one.damaged else 1):
            raise Failed(
                f"steps {went_on + 1} to {last} were done twice: a checkpoint is due every {SAVE_STEPS}"
            )
    if code:
        raise Failed(f"its last start ended with {code}")


def compare(undisturbed: Training, one: Training, found: Round) -> None:
    """Steps, losses and all that a training leaves, with those of an undisturbed one.

    Raises:
        Failed: they differ.
    """
    expected, lives = undisturbed.lives()[0].steps, one.lives()
    # The steps that count: of each start those up to where the next one goes on.
    ends = [life.went_on for life in lives[1:]] + [STEPS]
    counted = Counter(step for life, end in zip(lives, ends) for step in life.steps if step <= end)
    found.lost = BATCH * len(expected.keys() - counted.keys())
    found.repeated = BATCH * (counted.total() - len(counted))
    if found.lost or found.repeated:
        raise Failed(f"{found.lost} samples lost, {found.repeated} repeated")
    for life in lives:
        for step, text in life.steps.items():
            if text != expected[step]:
                raise Failed(f"step {step} was '{text}' instead of '{expected[step]}'")
    ours, theirs = undisturbed.outcome(), one.outcome()
    if different := [
        name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)
    ]:
        raise Failed(f"other contents: {', '.join(different)}")
    if left := [path.name for path in one.output.rglob(".*") if path.name != ".lock"]:
        raise Failed(f"left behind: {', '.join(left)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=50, help="a fault each")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their moments")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder, began = Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    try:
        rounds = run_rounds(folder, args.seed, args.rounds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    bad = [one for one in rounds if one.problem]
    if not bad:
        shutil.rmtree(folder)
    print(json.dumps({
        "rounds": len(rounds), "faults": dict(sorted(Counter(one.fault for one in rounds).items())),
        "lost": sum(one.lost for one in rounds), "repeated": sum(one.repeated for one in rounds),
        "identical": len(rounds) - len(bad), "seconds": round(time.monotonic() - began),
    }), flush=True)  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
