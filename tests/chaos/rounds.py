"""Rounds of faults: each training is struck several times, and its end is that of one that nothing struck."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.chaos.faults import AT_ANY_TIME, BEFORE_THE_FIRST_STEP, CHANGE, KINDS, Struck, change_processes
from tests.chaos.training import ELASTIC, STEPS, Training, read_trace
from tests.pretrain.tiny_run import checkpoint, records

PER_TRAINING = 6
# How the trainings follow each other: processes, and whether their number changes on the way.
SHAPES = ((1, False), (2, False), (1, False), (1, True))
TOLERANCE = 1e-7  # of weights, in float64, where the number of processes changed
EARLIEST_CHECKPOINTS = 2  # before a fault: one is damaged, one is gone back to


@dataclass
class Round:
    """One fault."""

    kind: str
    moment: str
    struck: Struck


@dataclass
class End:
    """What a training came to, beside the one that nothing struck.

    Args:
        lost, repeated: samples that a step of the undisturbed run read and this one did not, and the reverse.
        difference: largest of any weight or moment; 0: the same bits.
        elastic: the number of processes changed.
        fault: what went wrong with the training itself, if anything.
    """

    rounds: list[Round] = field(default_factory=list)
    lost: int = 0
    repeated: int = 0
    difference: float = 0.0
    records_equal: bool = True
    elastic: bool = False
    fault: str = ""

    @property
    def good(self) -> bool:
        """Whether it ended as the undisturbed one did."""
        if self.fault or self.lost or self.repeated:
            return False
        return self.difference <= TOLERANCE if self.elastic else self.difference == 0 and self.records_equal


class Chaos:
    """Trainings under faults.

    Args:
        folder: for all of it.
        corpus: of all trainings.
        seed: of faults and moments.
        say: takes a line of the report.
    """

    def __init__(self, folder: Path, corpus: Path, seed: int, say: Callable[[str], None]):
        self.folder, self.corpus, self.seed, self.say = folder, corpus, seed, say
        self._straight: dict[tuple[int, bool], Path] = {}

    def straight(self, processes: int, elastic: bool) -> Path:
        """The output of a run that nothing struck."""
        shape = (1 if elastic else processes, elastic)
        if shape not in self._straight:
            name = f"undisturbed-{shape[0]}{'-float64' if elastic else ''}"
            with Training(self.folder / name, self.corpus, shape[0], ELASTIC if elastic else {}) as training:
                training.start()
                code = training.wait()
                if code or training.steps() != STEPS:
                    raise RuntimeError(f"the undisturbed run ended with {code}: {training.error()}")
            self._straight[shape] = training.output
        return self._straight[shape]

    def run(self, rounds: int) -> Iterator[End]:
        """So many faults, training after training."""
        draw = random.Random(self.seed)
        plan, done, number = _kinds(draw), 0, 0
        while done < rounds:
            processes, elastic = SHAPES[number % len(SHAPES)]
            kinds = [next(plan) for _ in range(min(PER_TRAINING, rounds - done))]
            if elastic:
                kinds[:: max(2, len(kinds) // 2)] = [CHANGE] * len(kinds[:: max(2, len(kinds) // 2)])
            end = self.train(number, processes, elastic, kinds, done, rounds)
            done, number = done + len(end.rounds), number + 1
            yield end
            if end.fault:
                return

    def train(
        self, number: int, processes: int, elastic: bool, kinds: list[str], done: int = 0, rounds: int = 0
    ) -> End:
        """One training under these faults, in this order; it may come to its end before all have struck."""
        draw = random.Random(f"{self.seed}/{number}")
        straight, end = self.straight(processes, elastic), End(elastic=elastic)
        folder, options = self.folder / f"training-{number}", dict(ELASTIC) if elastic else {}
        background = draw.random() < 0.5  # the form of its checkpoints
        options["run__async_checkpoint"] = background
        form = f"checkpoints {'in the background' if background else 'between steps'}"
        with Training(folder, self.corpus, processes, options) as training:
            training.start()
            try:
                for place, kind in enumerate(kinds):
                    moment = _wait_for_the_moment(training, kind, place, len(kinds), draw)
                    if not training.runs:
                        break
                    struck = (change_processes if kind == CHANGE else KINDS[kind])(training, draw)
                    end.rounds.append(Round(kind, moment, struck))
                    self.say(
                        f"{done + len(end.rounds)} of {rounds or len(kinds)} | training {number}, "
                        f"{processes} process{'es' if processes > 1 else ''}, {form} | {kind} | {moment} | "
                        f"{struck.noticed} | {struck.went_on}"
                    )
                    processes = training.processes
                if not end.rounds:
                    raise AssertionError("it came to its end before anything struck")
                code = training.wait()
                if code:
                    end.fault = f"ended with {code}: {training.error()}"
                else:
                    compare(straight, training.output, end)
            except Exception as error:  # AssertionError, Hang: the report says it, and the folder is kept
                kind = kinds[len(end.rounds)] if len(end.rounds) < len(kinds) else "the end"
                end.fault = f"{kind}: {type(error).__name__} {' '.join(str(error).split())}"
        verdict = "as the undisturbed run" if end.good else f"NOT as the undisturbed run {end.fault}"
        self.say(
            f"training {number} ended {verdict}: {end.lost} samples lost, {end.repeated} repeated, largest "
            f"difference {end.difference:g}"
        )
        return end


def compare(straight: Path, output: Path, end: End) -> None:
    """Samples step by step, then weights, Adam's moments and the records of the log; into `end`."""
    expected, found = read_trace(straight), read_trace(output)
    for step in expected.keys() | found.keys():
        ours, theirs = Counter(expected.get(step, ())), Counter(found.get(step, ()))
        end.lost += (ours - theirs).total()
        end.repeated += (theirs - ours).total()
    ours, theirs = checkpoint(straight, STEPS), checkpoint(output, STEPS)
    if ours.keys() != theirs.keys():
        raise AssertionError(f"other tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    for name, value in ours.items():
        if value.tobytes() != theirs[name].tobytes():
            difference = np.abs(value.astype(np.float64) - theirs[name]).max(initial=0)
            end.difference = max(end.difference, float(difference), np.finfo(np.float64).tiny)
    end.records_equal = records(straight) == records(output)


def _kinds(draw: random.Random) -> Iterator[str]:
    """All kinds in a new order, again and again."""
    while True:
        yield from draw.sample(list(KINDS), len(KINDS))


def _wait_for_the_moment(training: Training, kind: str, place: int, faults: int, draw: random.Random) -> str:
    """Until a random moment in this fault's part of the run; its name."""
    if kind in AT_ANY_TIME and draw.random() < BEFORE_THE_FIRST_STEP:
        wait = draw.uniform(0.0, 3.0)
        training.wait_for(lambda: False, seconds=wait)
        return f"{wait:.1f} s after a start"
    part = (STEPS - 24) / faults  # so that the last one strikes a run that has some steps to go
    step = max(1, round(draw.uniform(place * part, (place + 1) * part)))
    if "checkpoint" in kind:
        training.wait_for(lambda: len(training.checkpoints()) >= EARLIEST_CHECKPOINTS)
    training.wait_for(lambda: training.steps() >= step)
    time.sleep(draw.uniform(0.0, 0.1))
    return f"step {training.steps()}"


def table(ends: list[End]) -> list[str]:
    """The rounds by kind, in Markdown."""
    lines = [
        "| fault | times | noticed by | went on | as undisturbed |",
        "| --- | --- | --- | --- | --- |",
    ]
    by_kind: dict[str, list[tuple[Round, End]]] = {}
    for end in ends:
        for one in end.rounds:
            by_kind.setdefault(one.kind, []).append((one, end))
    for kind in [*KINDS, CHANGE]:
        rounds = by_kind.get(kind, [])
        if rounds:
            noticed = Counter(one.struck.noticed.split(":")[0].split(" of rank")[0] for one, _ in rounds)
            went_on = Counter(_in_general(one.struck.went_on) for one, _ in rounds)
            good = sum(end.good for _, end in rounds)
            lines.append(f"| {kind} | {len(rounds)} | {_counted(noticed)} | {_counted(went_on)} | {good} |")
    return lines


def summary(ends: list[End], seconds: float) -> str:
    """All of it as one line of JSON."""
    of_fixed = [len(end.rounds) for end in ends if end.good and not end.elastic]
    of_elastic = [len(end.rounds) for end in ends if end.good and end.elastic]
    return json.dumps({
        "rounds": sum(len(end.rounds) for end in ends),
        "trainings": len(ends),
        "steps": STEPS,
        "samples": STEPS * 12 * len(ends),
        "lost": sum(end.lost for end in ends),
        "repeated": sum(end.repeated for end in ends),
        "identical": sum(of_fixed),
        "within_tolerance": sum(of_elastic),
        "largest_difference": max((end.difference for end in ends if end.elastic), default=0.0),
        "different": sum(not end.good for end in ends),
        "seconds": round(seconds),
    })  # fmt: skip


def _in_general(went_on: str) -> str:
    if went_on.startswith("from step_"):
        return "from a checkpoint"
    return went_on


def _counted(values: Counter) -> str:
    return ", ".join(f"{value} ({count})" for value, count in values.most_common())
