"""The toy task, and run_classifier.py called as a function."""

import json
from functools import partial

import pytest

import run_classifier
from tests.finetune import toy
from tests.launching import call_main
from utils.errors import run


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def classify(toy_folder, tmp_path, monkeypatch):
    """classify(**flags) runs in `tmp_path` with checkpoints in `out`; returns results.json or None."""
    monkeypatch.chdir(tmp_path)

    def call(out: str = "out", **changes) -> dict | None:
        call_main(run_classifier, toy.flags(toy_folder, tmp_path / out, **changes))
        results = tmp_path / out / "results.json"
        return json.loads(results.read_text()) if results.exists() else None

    return call


@pytest.fixture
def refusal(capsys):
    """refusal(command, **flags) -> the one line on stderr of a command that ends with exit code 2."""

    def of(command, **flags) -> str:
        with pytest.raises(SystemExit) as ended:
            run(lambda: command(**flags))
        assert ended.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return of


@pytest.fixture
def refused(classify, refusal):
    """refused(**flags): the refusal of run_classifier.py."""
    return partial(refusal, classify)
