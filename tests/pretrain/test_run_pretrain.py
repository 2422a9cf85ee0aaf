"""The entry point: short enough to read, and a user's mistakes are one line."""

import subprocess
import sys

import pytest

from tests.helpers.small_corpus import ROOT
from tests.launching import clean_environment
from tests.pretrain.tiny_run import make_corpus

SCRIPT = ROOT / "run_pretrain.py"


def test_help_explains_the_keys():
    command = [sys.executable, SCRIPT, "--help"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    for key in ("--objectives.active", "--optimizer.learning_rate", "--init.lm_head_warmup_steps"):
        assert key in done.stdout
    assert "linear rise; 0: the rate is constant" in done.stdout  # what a key means, not only its name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__corpus": "nowhere"}, "nowhere: no finished corpus there (no manifest.json); build it with"),
        ({"data__languages": ["en", "tlh"]}, "data.languages: tlh not in "),
        ({"run__nonsense": 1}, "unknown key 'run.nonsense'"),
        ({"run__log_steps": "often"}, "run.log_steps"),
        ({"init__encoder": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_a_users_mistake_is_one_line(refused, changes, message):
    assert message in refused(**changes)


def test_a_corpus_without_a_held_out_part(tmp_path, pretrain, refused):
    corpus = make_corpus(tmp_path, held_out=0)
    out = pretrain(corpus=corpus)
    assert (out / "full").is_dir()
    assert "has no held-out part; build it with one" in refused(corpus=corpus, run__eval_steps=2)
