"""The kill rounds pass a sound training, and find one that forgets its place. More: sh scripts/chaos.sh."""

import json
import subprocess
import sys

import pytest

from tests.launching import ROOT, clean_environment


@pytest.mark.slow
@pytest.mark.parametrize("plant", [[], ["--plant"]])
def test_a_round_finds_what_forgets(plant):
    """The one that forgets begins from scratch after the kill: in the end its weights are right."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--rounds", "1", *plant],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == len(plant), run.stderr
    line, last_line = run.stdout.splitlines()
    assert ("FAILED" in line and "it went on from None" in line) is bool(plant)
    assert json.loads(last_line)["FAILED" if plant else "identical"] == 1
