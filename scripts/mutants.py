"""Plant small faults in the core, one at a time, and see whether a test fails on each.

A mutant is one statement of the core, drawn by the seed, in which an operator, a number, a condition or an
argument is changed. The first run makes a map, which test reaches which line (.mutants/map.json); it is made
anew when a file of the core or of the tests has changed. The tests that reach a mutant's lines run in a copy
of the checkout until one fails, the most specific first. Survivors are printed by line; tests/mutants.tsv
says why some are no faults that a test should see.
"""

from ernie_m.utils.first_import import run

import ast
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from ernie_m.utils.load_config import load_config
from ernie_m.utils.options import NonNegativeInt, PositiveInt
from ernie_m.utils.paddle_settings import prepare
from tests.test_border import CORE

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".mutants"
EXPLAINED = ROOT / "tests" / "mutants.tsv"  # file, line, change, why no test need see it
NOT_COPIED = (".git", ".venv*", ".mutants", ".*_cache", "e5-small")
LOG = ".mutant.log"  # what pytest printed, in a copy
FAILED = ".mutant.failed"  # the tests that failed
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub,
    ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NO_FAULT = (ast.Raise, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


@dataclass
class MutantFlags:
    mutants: PositiveInt = 300
    """The number of mutants."""

    seed: NonNegativeInt = 0
    """Draws them."""

    processes: PositiveInt = 2
    """How many mutants are tested at a time."""

    seconds: PositiveInt = 40
    """The tests of a mutant are chosen so that they take no longer without a fault."""


class Mutant(NamedTuple):
    """A file of the core, the lines of a statement, the change in it, and the file's text with the change."""

    path: str
    line: int
    last_line: int
    change: str
    source: str


class Reach(NamedTuple):
    """The map.

    Attributes:
        seconds: of each test that passes.
        lines: how many lines of the core each test reaches.
        tests_of: file -> line -> the tests that reach it.
    """

    seconds: dict[str, float]
    lines: dict[str, int]
    tests_of: dict[str, dict[str, list[str]]]


def main() -> None:
    flags = load_config(MutantFlags, None, __doc__)
    os.chdir(ROOT)
    core = [f"ernie_m/{name}.py" for name in CORE]
    WORK.mkdir(exist_ok=True)
    reach = reached_lines(core, flags.processes)
    statements = [mutants for path in core for mutants in mutants_of(path).values()]
    draw = random.Random(flags.seed)
    drawn = [draw.choice(mutants) for mutants in draw.sample(statements, min(flags.mutants, len(statements)))]
    began = time.monotonic()
    results = Counter()
    explained = {tuple(line.split("\t")[:3]) for line in EXPLAINED.read_text(encoding="utf-8").splitlines()}
    for mutant, result in results_of(drawn, reach, flags):
        text = Path(mutant.path).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
        if result in ("survived", "not reached") and (mutant.path, text, mutant.change) in explained:
            result = "explained"
        results[result] += 1
        if result not in ("killed", "timed out"):
            print(f"{result}: {mutant.path}:{mutant.line}: {mutant.change}", flush=True)
        if results.total() % 20 == 0:
            left = (time.monotonic() - began) / results.total() * (len(drawn) - results.total()) / 60
            print(f"{results.total()} of {len(drawn)} mutants, {left:.0f} minutes left", flush=True)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(json.dumps({"seed": flags.seed, "statements": len(statements), **results, "minutes": minutes}))
    sys.exit(int(results["survived"] + results["not reached"] > 0))


def mutants_of(path: str) -> dict[int, list[Mutant]]:
    """The mutants of a file: line of a statement in a function -> those of its own expressions."""
    raw = (ROOT / path).read_bytes()
    starts = [0]  # of each line, in bytes
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    functions = [node for node in ast.walk(ast.parse(raw)) if isinstance(node, ast.FunctionDef)]
    statements = {
        s.lineno: s for function in functions for s in ast.walk(function) if isinstance(s, ast.stmt)
    }
    found: dict[int, list[Mutant]] = {}
    for line, statement in sorted(statements.items()):
        parts = [] if isinstance(statement, NO_FAULT) else list(own_parts(statement))
        last_line = max([line, *(part.end_lineno for part in parts if isinstance(part, ast.expr))])
        for node in parts:
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            for changed in mutations(node, is_condition=node is getattr(statement, "test", None)):
                new = ast.unparse(changed)
                # The text of this node alone is replaced, so that the lines before it stay where they are.
                text = (
                    raw[:begin] + (new if isinstance(changed, ast.stmt) else f"({new})").encode() + raw[end:]
                )
                change = f"{' '.join(raw[begin:end].decode().split())} -> {' '.join(new.split())}"
                found.setdefault(line, []).append(Mutant(path, line, last_line, change, text.decode()))
    return found


def own_parts(statement: ast.stmt) -> Iterator[ast.stmt | ast.expr]:
    """A statement and its own expressions, without statements in it, types, and what is said to people."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop(0)
        call = node.value if isinstance(node, ast.Expr) else node
        is_said = isinstance(node, ast.JoinedStr) or (
            isinstance(call, ast.Call) and ast.unparse(call.func).startswith(("logger.", "print"))
        )
        if isinstance(node, ast.stmt | ast.expr) and not is_said:
            yield node
        if not is_said and not isinstance(node, ast.match_case):
            type_ = getattr(node, "annotation", None)
            children = [child for child in ast.iter_child_nodes(node) if child is not type_]
            waiting += [child for child in children if not isinstance(child, ast.stmt | ast.ExceptHandler)]


def mutations(node: ast.stmt | ast.expr, is_condition: bool) -> Iterator[ast.AST]:
    """What stands in the place of a statement or an expression, each with one fault."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        first, *others = node.ops
        yield ast.Compare(node.left, [SWAPS[type(first)](), *others], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(SWAPS[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif is_condition:
        yield ast.UnaryOp(ast.Not(), node)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg:  # the default stands in its place, if there is one
                yield ast.Call(
                    node.func, node.args, [other for other in node.keywords if other is not keyword]
                )


def reached_lines(core: list[str], processes: int) -> Reach:
    """The map; the whole suite runs once to make it."""
    digest = hashlib.sha256(os.environ.get("DATA", "").encode())
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / path for path in core)]):
        digest.update(path.read_bytes())
    kept = WORK / "map.json"
    if kept.exists():
        made_of, *parts = json.loads(kept.read_text(encoding="utf-8"))
        if made_of == digest.hexdigest():
            return Reach(*parts)
    print("mutants: the suite runs once, to see which test reaches which line", flush=True)
    os.environ["COVERAGE_FILE"] = str(WORK / "coverage")
    settings = WORK / "coveragerc"
    settings.write_text("\n    ".join(["[run]\ninclude =", *core]) + "\n", encoding="utf-8")
    words = f"-q -n {processes} --dist worksteal --cov --cov-context=test --cov-report=".split()
    words += [f"--cov-config={settings}", "-m", "not slow"]
    watch = Watch()
    pytest.main(words, plugins=[watch])
    from coverage import CoverageData

    data = CoverageData(str(WORK / "coverage"))
    data.read()
    passed = watch.seconds.keys() - {*watch.failed}
    reach = Reach({test: round(watch.seconds[test], 3) for test in passed}, Counter(), {})
    for path in core:
        reach.tests_of[path] = {}
        for line, contexts in data.contexts_by_lineno(str(ROOT / path)).items():
            # a test, and "|run"; "" is what imports reach
            tests = sorted(passed & {context.rpartition("|")[0] for context in contexts})
            reach.tests_of[path][str(line)] = tests
            reach.lines.update(tests)
    kept.write_text(json.dumps([digest.hexdigest(), *reach]), encoding="utf-8")
    # Begin anew, without what pytest and its processes have left in this one.
    os.execv(sys.executable, [sys.executable, "-m", "scripts.mutants", *sys.argv[1:]])


class Watch:
    """Notes the seconds of each test that passes, and which tests fail."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def results_of(drawn: list[Mutant], reach: Reach, flags: MutantFlags) -> Iterator[tuple[Mutant, str]]:
    """Each mutant with its result: killed, timed out, survived, not reached.

    A test that fails in a copy without a fault kills nothing: the mutant is tested again without it.
    """
    prepare(quiet=True)  # Paddle is imported once, for all processes that are forked
    free = []
    for number in range(flags.processes):
        folder = WORK / f"checkout-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
        # A mutant may have the size and the second of another: compiled files are told by what they are of.
        words = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "checked-hash", "ernie_m"]
        subprocess.run([sys.executable, *words], cwd=folder, check=True)
        free.append(folder)
    waiting = list(drawn)
    # process -> mutant, folder, the bytes of the file without the fault, when it has to end
    running: dict[int, tuple[Mutant, Path, bytes, float]] = {}
    verdicts: dict[str, bool] = {}  # test -> whether it passes without a fault
    while waiting or running:
        while waiting and free:
            mutant = waiting.pop(0)
            tests = chosen(mutant, reach, flags.seconds, verdicts)
            if tests:
                limit = 3 * sum(map(reach.seconds.__getitem__, tests)) + 60
                folder = free.pop()
                before = (folder / mutant.path).read_bytes()
                running[start(mutant, tests, folder)] = (mutant, folder, before, time.monotonic() + limit)
            else:
                yield mutant, "not reached"
        for process, (mutant, folder, before, end) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            is_late = time.monotonic() > end
            if not ended and not is_late:
                continue
            stop(process, wait=not ended)
            del running[process]
            free.append(folder)
            (folder / mutant.path).write_bytes(before)
            if ended and os.waitstatus_to_exitcode(status) == 0:
                yield mutant, "survived"
                continue
            failed = json.loads((folder / FAILED).read_text()) if ended and (folder / FAILED).exists() else []
            for test in failed:
                if test not in verdicts:
                    control = start(None, [test], folder)
                    _, status = os.waitpid(control, 0)
                    stop(control, wait=False)
                    verdicts[test] = os.waitstatus_to_exitcode(status) == 0
                    if not verdicts[test]:
                        print(f"mutants: without a fault, too, this test fails in a copy: {test}", flush=True)
            if failed and not any(verdicts[test] for test in failed):
                waiting.append(mutant)
            else:
                yield mutant, "timed out" if is_late and not ended else "killed"
        time.sleep(0.05)


def chosen(mutant: Mutant, reach: Reach, seconds: float, verdicts: dict[str, bool]) -> list[str]:
    """The tests of a mutant, without those that fail in any case, alone or with their file."""
    by_line = reach.tests_of[mutant.path]
    lines = range(mutant.line, mutant.last_line + 1)
    reaching = list(dict.fromkeys(test for line in lines for test in by_line.get(str(line), [])))
    tests = []
    for test in sorted(reaching, key=reach.lines.__getitem__):
        is_sound = verdicts.get(test, True) and verdicts.get(test.partition("::")[0], True)
        if is_sound and (reach.seconds[test] <= seconds or not tests):
            tests.append(test)
            seconds -= reach.seconds[test]
    return tests


def start(mutant: Mutant | None, tests: list[str], folder: Path) -> int:
    """Start tests in a copy, with a fault or without; the process, which leads a group of its own."""
    (folder / FAILED).unlink(missing_ok=True)
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        os.setsid()
        os.chdir(folder)
        if mutant:
            Path(mutant.path).write_text(mutant.source, encoding="utf-8")
        os.environ["PYTHONPATH"] = str(folder)  # of the commands that tests start
        sys.path[:] = [str(folder), *(part for part in sys.path if Path(part).resolve() != ROOT)]
        for name in [
            name for name in sys.modules if name.partition(".")[0] in ("ernie_m", "tests", "scripts")
        ]:
            del sys.modules[name]
        sys.modules["__main__"] = ModuleType(
            "__main__"
        )  # processes of multiprocessing would import this file
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        watch = Watch()
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:cov", *tests], plugins=[watch])
        (folder / FAILED).write_text(json.dumps(watch.failed))
    finally:
        os._exit(code)


def stop(process: int, wait: bool) -> None:
    """End what a process has left, and the process itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if wait:
        os.waitpid(process, 0)


if __name__ == "__main__":
    run(main)
