"""Strike small trainings with random faults, and compare their results with those of undisturbed trainings.

    sh scripts/chaos.sh --rounds 50 --seed 1

Prints one line for each round, and a JSON line at the end. The exit code is 1 if a round failed. See
docs/reliability.md.
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
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.trainings import BATCH, KINDS, SAVE_STEPS, STEPS, Failed, Training

DRAWS = 3  # how often a round is drawn if its fault comes too late


class CameTooLate(Failed):
    """The training ended before the fault."""


@dataclass
class Round:
    """The result of a round: its fault, what is wrong with the training, and counts of samples."""

    fault: str
    problem: str = ""
    lost: int = 0
    repeated: int = 0


def run_rounds(folder: Path, seed: int, rounds: int) -> list[Round]:
    """All rounds of a seed, with their files in `folder`."""
    undisturbed = []
    for number, make in enumerate(KINDS[:rounds]):
        (data := folder / f"data-{number}").mkdir()
        with Training(make(data), folder / f"undisturbed-{number}") as one:
            one.start()
            code = one.wait()
            if code or sorted(one.lives()[0].steps) != list(range(1, STEPS + 1)):
                raise RuntimeError(f"an undisturbed training ended with {code}: see {one.folder}")
        undisturbed.append(one)
    return [run_round(folder, seed, number, undisturbed[number % len(KINDS)]) for number in range(rounds)]


def run_round(folder: Path, seed: int, number: int, undisturbed: Training) -> Round:
    """One round. If its fault comes too late, it is drawn again."""
    for attempt in range(1, DRAWS + 1):
        draw = random.Random(f"{seed}/{number}/{attempt}")
        result, end, began = Round(draw.choice(list(FAULTS))), "identical", time.monotonic()
        again = False
        with Training(undisturbed.kind, folder / f"round-{number + 1}-{attempt}") as one:
            try:
                strike(one, result.fault, draw)
                compare(undisturbed, one, result)
            except Failed as failed:
                result.problem = str(failed)
                again = isinstance(failed, CameTooLate) and attempt < DRAWS
                end = f"{'drawn again' if again else 'FAILED'}: {failed} ({one.folder})"
        if not result.problem:
            shutil.rmtree(one.folder)
        print(
            f"round {number + 1}, seed {seed} | {one.kind.name} | {result.fault} at step {one.struck_at} "
            f"| {end} | {time.monotonic() - began:.0f} s", flush=True,
        )  # fmt: skip
        if not again:
            break
    return result


def strike(one: Training, name: str, draw: random.Random) -> None:
    """Start a training, strike it, and give the same command again if the fault has ended it.

    Raises:
        Failed: the fault came too late, or the training did not continue as it must.
    """
    fault, moment = FAULTS[name], draw.randrange(STEPS - 4)
    one.start()
    one.until(lambda: one.last_step() >= moment and len(one.checkpoints()) >= fault.checkpoints)
    time.sleep(draw.uniform(0, 0.1 if moment else 3))
    one.struck_at = one.last_step()
    struck = one.process.poll() is None and fault.strike(one, draw)
    code, last, newest = one.wait(), one.last_step(), max(one.checkpoints(), default=0)
    if not struck or (fault.code is not None and code == 0 and last == STEPS):
        raise CameTooLate("the fault came too late")
    if fault.code is not None:
        # Before its first step a training may not handle signals yet, and a launcher has its own exit codes.
        if one.struck_at and one.kind.processes == 1 and code != fault.code:
            raise Failed(f"it ended with {code} instead of {fault.code}")
        one.start()
        code, start = one.wait(), one.lives()[-1].start
        if start != newest:
            raise Failed(f"the newest checkpoint was of step {newest}, it went on from step {start}")
        if last - start > SAVE_STEPS * (2 if one.damaged else 1):
            raise Failed(f"steps {start + 1} to {last} were done twice, with a checkpoint every {SAVE_STEPS}")
    if code:
        raise Failed(f"the last start ended with {code}")


def compare(undisturbed: Training, one: Training, result: Round) -> None:
    """Compare steps, losses and files with those of an undisturbed training.

    Raises:
        Failed: they differ.
    """
    expected, lives = undisturbed.lives()[0].steps, one.lives()
    # The steps of each start count up to the step from which the next start continues.
    ends = [life.start for life in lives[1:]] + [STEPS]
    counted = Counter(step for life, end in zip(lives, ends) for step in life.steps if step <= end)
    result.lost = BATCH * len(expected.keys() - counted.keys())
    result.repeated = BATCH * (counted.total() - len(counted))
    if result.lost or result.repeated:
        raise Failed(f"{result.lost} samples lost, {result.repeated} repeated")
    for step, text in ((step, text) for life in lives for step, text in life.steps.items()):
        if text != expected[step]:
            raise Failed(f"step {step} was '{text}' instead of '{expected[step]}'")
    ours, theirs = undisturbed.outcome(), one.outcome()
    if different := [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]:
        raise Failed(f"other contents: {', '.join(different)}")
    if left := [path.name for path in one.output.rglob(".*") if path.name != ".lock"]:
        raise Failed(f"left behind: {', '.join(left)}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=50, help="number of rounds, with one fault each")
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
