"""Strike small trainings with random faults, and compare their results with those of undisturbed trainings.

Prints one line for each round, and a JSON line at the end. The exit code is 1 if a round failed. See
docs/reliability.md.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ernie_m.utils.paddle_settings import prepare

prepare(quiet=True)  # before the toys of the trainings import Paddle

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.trainings import BATCH, KINDS, SAVE_STEPS, STEPS, Failed, Training

ATTEMPTS = 5  # to strike a training in time; each draws another moment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=50, help="number of rounds, with one fault each")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and their moments")
    args = parser.parse_args()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    counts = run_rounds(folder, args.seed, args.rounds)
    if not counts["FAILED"]:
        shutil.rmtree(folder)
    print(json.dumps({"rounds": args.rounds, **counts, "seconds": round(time.monotonic() - began)}))
    return int(counts["FAILED"] > 0)


def run_rounds(folder: Path, seed: int, rounds: int) -> Counter:
    """Run all rounds of a seed, with their files in `folder`.

    Returns:
        How often each fault and each result occurred.
    """
    undisturbed = run_undisturbed(folder, min(rounds, len(KINDS)))
    counts: Counter = Counter()
    for number, fault in enumerate(draw_faults(seed, rounds)):
        reference = undisturbed[number % len(undisturbed)]
        began = time.monotonic()
        training = Training(reference.kind, folder / f"round-{number + 1}")
        reason = ""
        try:
            strike_in_time(training, FAULTS[fault], f"{seed}/{number}")
            compare(reference, training)
            shutil.rmtree(training.folder)
            result = "identical"
        except Failed as failed:
            result = "FAILED"
            reason = f": {failed} ({training.folder})"  # the folder is kept
        seconds = time.monotonic() - began
        print(
            f"round {number + 1}, seed {seed} | {reference.kind.name} | {fault} at step {training.struck_at} "
            f"| {result}{reason} | {seconds:.0f} s",
            flush=True,
        )
        counts.update([fault, result])
    return counts


def run_undisturbed(folder: Path, kinds: int) -> list[Training]:
    """Run a training of each of the first kinds to its end."""
    trainings = []
    for number, make in enumerate(KINDS[:kinds]):
        data = folder / f"data-{number}"
        data.mkdir()
        with Training(make(data), folder / f"undisturbed-{number}") as training:
            training.start()
            code = training.wait()
        if code or sorted(training.starts()[0].steps) != list(range(1, STEPS + 1)):
            raise RuntimeError(f"an undisturbed training ended with {code}: see {training.folder}")
        trainings.append(training)
    return trainings


def draw_faults(seed: int, rounds: int) -> list[str]:
    """The name of the fault of each round. In as many rounds as there are faults, each comes once."""
    faults: list[str] = []
    while len(faults) < rounds:
        deck = list(FAULTS)
        random.Random(f"{seed}/{len(faults)}").shuffle(deck)
        faults += deck
    return faults[:rounds]


def strike_in_time(training: Training, fault: Fault, seed: str) -> None:
    """Strike a training that has a checkpoint and has not ended, and give the same command again.

    Raises:
        Failed: the training did not continue as it must.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            shutil.rmtree(training.folder)
            training.log_began.clear()
        with training:
            if strike(training, fault, random.Random(f"{seed}/{attempt}")):
                return
    raise Failed(f"it ended {ATTEMPTS} times before the fault")


def strike(training: Training, fault: Fault, draw: random.Random) -> bool:
    """Start a training, strike it once, and give the same command again.

    Returns:
        False if there is nothing to resume: the fault came too late.

    Raises:
        Failed: the training did not continue as it must.
    """
    first_step = draw.randrange(SAVE_STEPS, fault.before)  # it does not strike before this step
    training.start()
    training.until(
        lambda: training.last_step() >= first_step and len(training.checkpoints()) >= fault.checkpoints
    )
    time.sleep(draw.uniform(0, 0.1))
    training.struck_at = training.last_step()
    if training.process.poll() is not None or not fault.strike(training, draw):
        return False
    code = training.wait()
    if code == 0 and training.last_step() == STEPS:  # it came to its end before the fault could stop it
        return False
    # With several processes the exit code is that of the first one that ended, which may not be the one that
    # was struck.
    if training.kind.processes == 1 and code != fault.code:
        raise Failed(f"it ended with {code} instead of {fault.code}")
    go_on(training)
    return True


def go_on(training: Training) -> None:
    """Give the same command again, and check from which step it goes on.

    Raises:
        Failed: it ends with an error, or goes on from another step than that of the newest checkpoint.
    """
    last = training.last_step()
    newest = max(training.checkpoints())
    training.start()
    code = training.wait()
    resumed_at = training.starts()[-1].resumed_at
    if resumed_at != newest:
        raise Failed(f"the newest checkpoint was of step {newest}, it went on from step {resumed_at}")
    # At most the steps since the last checkpoint are done again, and if it was damaged, since the one before.
    intervals = 2 if training.damaged else 1
    if last - resumed_at > SAVE_STEPS * intervals:
        steps = f"steps {resumed_at + 1} to {last}"
        raise Failed(f"{steps} were done twice, with a checkpoint every {SAVE_STEPS}")
    if code:
        raise Failed(f"the last start ended with {code}")


def compare(undisturbed: Training, training: Training) -> None:
    """Compare steps, losses and files with those of an undisturbed training.

    Raises:
        Failed: they differ.
    """
    expected = undisturbed.starts()[0].steps
    starts = training.starts()
    # The steps of a start count up to the step from which the next start continues.
    ends = [start.resumed_at for start in starts[1:]] + [STEPS]
    counts: Counter[int] = Counter()  # step -> how often it was done
    for start, end in zip(starts, ends):
        counts.update(step for step in start.steps if step <= end)
    lost = len(expected.keys() - counts.keys())
    repeated = counts.total() - len(counts)
    if lost or repeated:
        raise Failed(f"{BATCH * lost} samples lost, {BATCH * repeated} repeated")
    for start in starts:
        for step, text in start.steps.items():
            if text != expected[step]:
                raise Failed(f"step {step} was '{text}' instead of '{expected[step]}'")
    expected_files = undisturbed.outcome()
    files = training.outcome()
    names = sorted(expected_files | files)
    different = [name for name in names if expected_files.get(name) != files.get(name)]
    if different:
        raise Failed(f"other contents: {', '.join(different)}")
    # Temporary files have hidden names.
    remains = [path.name for path in training.output.rglob(".*") if path.name != ".lock"]
    if remains:
        raise Failed(f"left behind: {', '.join(remains)}")


if __name__ == "__main__":
    sys.exit(main())
