"""For all tests: Paddle's settings, the folder of real data, and skipped tests."""

import gc
import importlib.util
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_m.utils import logging as run_log
from ernie_m.utils.paddle_settings import prepare

gc.disable()  # until all is collected: nothing of it can be freed
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a download
# Before any test module imports Paddle. The process that distributes the tests among others (-n) does not.
if not re.search(r" -n ?[1-9a]", " ".join(sys.argv)):
    prepare()

# Tests against other libraries run in environments of their own. The folder of such tests, whose name is also
# their mark -> a package that the usual environment does not have, and theirs has.
PEERS = {"parity": "paddlenlp", "latest": "sentence_transformers", "clients": "litellm"}

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

collect_ignore = [folder for folder, package in PEERS.items() if not importlib.util.find_spec(package)]
if "REAL_MODEL" not in os.environ:  # `sh scripts/test.sh real` sets it
    collect_ignore.append("real")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data. Tests that use it have the mark `data`, and are skipped if DATA is not set."""
    return Path(os.environ["DATA"])


@pytest.fixture(autouse=True)
def nothing_logs_for_the_next_test() -> Iterator[None]:
    """The handlers that a command has added are removed, so that tests pass in any order."""
    yield
    run_log._replace_handlers([])


@pytest.fixture(scope="session", autouse=True)
def readers_start_fast() -> Iterator[None]:
    """In this process, reader processes are forked from a server that has imported what they need.

    Each of some 500 takes a fifth of a second less. tests/training/test_prefetch.py, and whatever starts a
    command in a process of its own, has those that users have.
    """
    objectives = [f"ernie_m.pretrain.objectives.{name}" for name in ("mmlm", "tlm", "camlm", "btmlm")]
    multiprocessing.set_forkserver_preload(
        ["ernie_m.reader.batching", "ernie_m.pretrain.batches", "ernie_m.training.prefetch", *objectives]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ernie_m.training.prefetch.START", "forkserver")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """In this process, a sync only checks that its file is open: no test ends the machine.

    Some ten thousand of them take milliseconds each. utils/test_files.py and training/test_checkpoint.py
    count them; whatever starts a command in a process of its own has those that users have.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory) -> Path:
    """A folder for what the tests of a file share."""
    return tmp_path_factory.mktemp("module")


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch) -> None:
    """The current folder is `tmp_path`."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def info_log(caplog) -> None:
    """`caplog` has the messages of the level INFO, too."""
    caplog.set_level("INFO", logger="ernie_m")


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Ctrl-C and SIGHUP have their usual effect, here and in new processes, also in a suite under nohup."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def cpu_with_bf16(monkeypatch) -> None:
    """Every CPU counts as one with bfloat16 instructions. Without them, oneDNN does the same more slowly.

    A test is skipped where oneDNN itself is missing.
    """
    from tests.helpers.bfloat16 import skip_module_without_onednn

    skip_module_without_onednn()
    monkeypatch.setattr("ernie_m.model.cpu.onednn_check.find_missing_requirement", lambda: None)


def pytest_configure() -> None:
    """Check the folder that DATA names, and make its path absolute."""
    if folder := os.environ.get("DATA"):
        if not Path(folder).is_dir():
            raise pytest.UsageError(
                f"DATA={folder}: there is no such folder; set DATA to the folder of real data, or unset it"
            )
        os.environ["DATA"] = str(Path(folder).resolve())  # tests change the current folder


# First, so that `-m data` and `-m "not parity"` use the marks added here.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need real data or other libraries; skip those whose data or browser is not there."""
    for item in items:
        if "data_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
        if item.path.parent.name in PEERS:
            item.add_marker(item.path.parent.name)
        if item.get_closest_marker("data") and not os.environ.get("DATA"):
            item.add_marker(pytest.mark.skip(reason="DATA is not set"))
        if item.get_closest_marker("browser") and not any(map(shutil.which, BROWSERS)):
            item.add_marker(pytest.mark.skip(reason="no Chromium (on Debian: apt install chromium)"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """With CI=true, fail instead of skipping the tests of real data.

    What is imported and collected stays to the end: Python need not look through it again for what is no
    longer used, which took an eighth of the time.
    """
    gc.freeze()
    gc.enable()
    in_ci = os.environ.get("CI", "").lower() in ("1", "true")
    needs_data = any(item.get_closest_marker("data") for item in session.items)
    if in_ci and needs_data and not os.environ.get("DATA"):
        raise pytest.UsageError("DATA is not set; with CI=true no test of real data may be skipped")
