"""The Ray engine: the same bytes as the local one, also when a worker dies; errors are one line."""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from ernie_m.pretrain.build_corpus import command
from ernie_m.pretrain.build_corpus import workers as workers_module
from ernie_m.pretrain.build_corpus.workers import RayWorkers
from ernie_m.utils.errors import UserError, get_install_command
from ernie_m.utils.files import get_file_version
from tests.helpers.files import read_files, write_file
from tests.launching import ROOT, error_of
from tests.pretrain.builds import OPTIONS
from tests.toys import make_corpus

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: sh scripts/setup.sh ray"
)


ATTEMPTS = 5  # to start Ray: a busy machine may need more than the 30 seconds for which it waits


@pytest.fixture(scope="module")
def workers():
    """Workers of a cluster on this machine."""
    workers = RayWorkers(0, "local")
    for _ in range(ATTEMPTS):
        try:
            workers.__enter__()
            break
        except UserError as error:
            reason = error
            workers.__exit__()
    else:
        raise reason
    yield workers
    workers.__exit__()


def test_a_new_cluster_has_the_cores_of_this_process(monkeypatch):
    """Not those of the machine, of which a container may have a part."""
    started = mock.Mock()
    ray = SimpleNamespace(
        init=started, cluster_resources=lambda: {"CPU": 3.0}, exceptions=SimpleNamespace(RayError=OSError)
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 5, 6})
    assert [RayWorkers(number, None).__enter__().num_workers for number in (0, 2)] == [3, 2]
    assert [call.kwargs["num_cpus"] for call in started.call_args_list] == [3, 2]


@needs_ray
@pytest.mark.slow
def test_ray_builds_the_same_bytes(workers, tmp_path, monkeypatch, piece_model, inputs, reference, capfd):
    """Of a build on the cluster that is there."""
    make_workers = mock.Mock(return_value=workers)
    monkeypatch.setattr(command, "RayWorkers", make_workers)
    monkeypatch.setattr(RayWorkers, "__enter__", lambda self: self)
    monkeypatch.setattr(RayWorkers, "__exit__", lambda *_: None)
    ray = {"engine": "ray", "ray_address": "auto", "workers": 2}
    make_corpus(tmp_path / "corpus", piece_model, **inputs, **OPTIONS, **ray)
    make_workers.assert_called_once_with(2, "auto")
    assert read_files(tmp_path / "corpus") == reference
    assert "ray" not in "".join(capfd.readouterr())  # it keeps quiet where all is well


@needs_ray
@pytest.mark.slow
def test_returns_results_and_errors_of_workers(workers, tmp_path, monkeypatch):
    """Results, a UserError, a result though the worker died once, and an error if it dies every time."""

    def die_once(marker: Path) -> str:
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return "done"

    assert workers.num_workers == len(os.sched_getaffinity(0))
    file = write_file(tmp_path / "text", "four")
    assert [size for size, _ in workers.run(get_file_version, [(str(file),)] * 3)] == [4, 4, 4]
    missing = workers.run(get_file_version, [(str(tmp_path / "nowhere"),)])
    assert error_of(list, missing).startswith(f"{tmp_path / 'nowhere'}: ")
    assert list(workers.run(die_once, [(tmp_path / "died",)])) == ["done"]
    monkeypatch.setattr(workers_module, "_RETRIES", 1)
    with pytest.raises(UserError, match="a worker process died .*the same command"):
        list(workers.run(lambda code: os._exit(code), [(1,)]))


@needs_ray
@pytest.mark.parametrize(
    ("number", "address", "cluster"),
    [(3, None, {"address": "local", "num_cpus": 3}), (1, "somewhere", {"address": "somewhere"})],
)
def test_a_cluster_that_does_not_start(monkeypatch, number, address, cluster):
    """On a busy machine, Ray's 30 seconds for it may pass; it raises an `Exception` then."""
    timed_out = mock.Mock(side_effect=Exception("The current node timed out during startup."))
    monkeypatch.setattr("ray.init", timed_out)
    assert f"no cluster at {cluster['address']}: The current node timed out" in error_of(
        RayWorkers(number, address).__enter__
    )
    timed_out.assert_called_once_with(
        **cluster,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"py_modules": [str(ROOT / "ernie_m")]},
    )


def test_a_missing_ray_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert get_install_command("ray") in error_of(RayWorkers(1, None).__enter__)
