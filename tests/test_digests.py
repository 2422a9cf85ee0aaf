"""The digests of a revision are equal to themselves, and a difference in one of them is named."""

import json
import subprocess
import sys
from pathlib import Path

from tests.launching import ROOT


def digests(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tests/digests.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_difference_is_named(tmp_path: Path):
    run = digests("--only", "^vocabulary$")
    assert run.returncode == 0, run.stderr
    (item,) = map(json.loads, run.stdout.splitlines())
    assert list(item["parts"]) == ["out/piece.model", "out/vocab.txt"]
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    before.write_text(run.stdout)
    assert digests("--compare", str(before), str(before)).returncode == 0
    item["parts"]["out/vocab.txt"] = ""
    after.write_text(json.dumps(item))
    compared = digests("--compare", str(before), str(after))
    assert compared.returncode == 1
    assert compared.stdout.startswith("vocabulary: out/vocab.txt")
