"""A plugin of pytest, used by scripts/gpu_check.py: one line for each check, and a last one of all."""

from collections import Counter
from collections.abc import Generator

import pytest

from ernie_m.model.kernel_selection import is_on_gpu

COUNTS = pytest.StashKey[Counter]()  # of a session: result -> checks with it


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Replace pytest's own output."""
    config.pluginmanager.unregister(name="terminalreporter")
    config.stash[COUNTS] = Counter(ok=0, skipped=0, failed=0)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Say which file cannot be read. Without its checks none is run."""
    if report.failed:
        print(f"{report.nodeid}: failed: {report.longreprtext[-300:]}", flush=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the line of a check that ends."""
    report = yield
    if call.when == "call" or call.excinfo is not None:
        name = item.name.removeprefix("test_").replace("_", " ")
        result = "ok" if report.passed else report.outcome
        item.config.stash[COUNTS][result] += 1
        facts = [str(value) for key, value in item.user_properties if key == "figure"]
        if call.excinfo is not None and not (report.failed and facts):
            facts.append(f"{call.excinfo.value!s:.300}".strip() or repr(call.excinfo.value))
        where = "" if is_on_gpu() else " on the CPU"
        print(f"{name}: {'; '.join(facts)}: {result}{where} ({call.duration:.1f} s)", flush=True)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count the results, also of a command that Ctrl-C ends."""
    counts = session.config.stash[COUNTS].items()
    print(", ".join(f"{count} {result}" for result, count in counts))


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo) -> None:
    """Ctrl-C ends the command as it ends every other one."""
    raise excinfo.value
