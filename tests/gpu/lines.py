"""A plugin of pytest, used by scripts/gpu_check.py: one line for each test of a device, and then the JSON."""

import json
from collections.abc import Generator
from typing import Any

import paddle
import pytest

from model.device import on_gpu
from tests.gpu.bounds import REPORT, Failed

NEEDED = ("device",)  # if one of these fails, no other check is run
RESULTS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny shapes")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take the place of pytest's own output."""
    config.pluginmanager.unregister(name="terminalreporter")
    config.stash[RESULTS] = []


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Say which file cannot be read. Without its checks none is run."""
    if report.failed:
        print(f"{report.nodeid}: failed: {report.longreprtext[-300:]}; {REPORT}", flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the line of a check that ends."""
    report = yield
    if call.when == "call" or call.excinfo is not None:
        results = item.config.stash[RESULTS]
        name = item.name.removeprefix("test_").replace("_", " ")
        result = "ok" if report.passed else report.outcome
        message = _message(item, call)
        seconds = round(call.duration, 1)
        results.append({"check": name, "result": result, "message": message, "seconds": seconds})
        where = "" if on_gpu() or not report.passed else " on the CPU"
        count = len(item.session.items)
        print(f"{len(results)} of {count} {name}: {result}{where}: {message} ({seconds} s)", flush=True)
        if report.failed and name in NEEDED:
            item.session.shouldfail = f"{name} failed"
    return report


def _message(item: pytest.Item, call: pytest.CallInfo) -> str:
    """The facts of a test that passed; otherwise why it was skipped, or what is wrong and what to do."""
    if call.excinfo is None:
        return "; ".join(str(value) for name, value in item.user_properties if name == "fact")
    error = call.excinfo.value
    if isinstance(error, Failed | pytest.skip.Exception):
        return str(error)
    return f"{error!r:.300}; {REPORT}"  # whatever a driver or Paddle raises: at most 300 characters of it


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo) -> None:
    """Ctrl-C ends the command as it ends every other one."""
    raise excinfo.value


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Print the JSON. The exit code is 1 if a check failed or could not be run, and otherwise 0."""
    results = session.config.stash[RESULTS]
    is_complete = len(results) >= len(session.items)  # not after Ctrl-C
    ok = exitstatus == pytest.ExitCode.OK and is_complete
    print(json.dumps({"ok": ok, "device": paddle.device.get_device(), "checks": results}), flush=True)
    session.exitstatus = int(not ok)
