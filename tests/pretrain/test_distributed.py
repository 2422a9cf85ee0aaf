"""More processes, or more micro-batches, are the same run; one number of processes goes on from another's."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.small_corpus import ROOT
from tests.launching import clean_environment, launch
from tests.pretrain.tiny_run import checkpoint, flags, losses, pretrain, records

# Every step's loss is recorded; without dropout, and in float64, only the order of additions differs.
EXACT = {
    "optimizer__steps": 40, "run__dtype": "float64", "run__log_steps": 1, "run__save_steps": 100,
    "run__micro_batch_tokens": 4096, "run__eval_sequences": 4,
    "model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """One process, one batch per objective."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("whole") / "out", **EXACT)


def assert_same_run(ours, theirs, steps: int = 40, tolerance: float = 1e-9) -> None:
    assert len(losses(ours)) == len(losses(theirs)) == steps
    assert losses(ours) == pytest.approx(losses(theirs), abs=tolerance, rel=0)
    tokens = [[r["tokens"] for r in records(output) if "loss" in r] for output in (ours, theirs)]
    assert tokens[0] == tokens[1]  # no sample is lost or read twice


def assert_same_state(ours, theirs, step: int = 40, tolerance: float = 1e-7) -> None:
    one, other = checkpoint(ours, step), checkpoint(theirs, step)
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=0, atol=tolerance, err_msg=name)
    # fleet's stage 1 makes moments for the pooler, too, which no objective uses
    more = one.keys() - other.keys()
    assert all(name.startswith("state/engine/optimizer/ernie_m.pooler.") for name in more)


def processes(corpus, output, **changes) -> subprocess.CompletedProcess:
    done = launch([ROOT / "run_pretrain.py", *flags(corpus, output, **changes)], output.parent)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_two_processes_go_on_from_one(whole, tiny_corpus, tmp_path):
    out = pretrain(tiny_corpus, tmp_path / "out", **EXACT, run__stop_after_steps=10)
    processes(tiny_corpus, out, **EXACT)
    assert_same_run(out, whole)
    assert_same_state(out, whole)
    # the evaluation at the end is shared by the processes
    ours, theirs = (records(output)[-1]["held_out"] for output in (out, whole))
    assert ours.keys() == theirs.keys() == {"mmlm", "tlm", "camlm", "btmlm", "retrieval"}
    for language, found in theirs["mmlm"].items():
        assert ours["mmlm"][language] == pytest.approx(found, abs=1e-6)
    for pair, found in theirs["btmlm"].items():
        # The losses of two processes are added, which may round differently.
        near = {key: pytest.approx(value, rel=1e-14) for key, value in found.items() if "perplexity" in key}
        assert ours["btmlm"][pair] == found | near


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding_stage", "number", "code"), [(1, signal.SIGTERM, 0), (0, signal.SIGINT, 130)]
)
def test_one_process_goes_on_from_two_that_were_asked_to_stop(
    whole, tiny_corpus, tmp_path, sharding_stage, number, code
):
    """With stage 1 each has its part of Adam's state. Ctrl-C reaches all of launch.py's group."""
    out = tmp_path / "out"
    changes = EXACT | {"run__sharding_stage": sharding_stage}
    script = [ROOT / "run_pretrain.py", *flags(tiny_corpus, out, **changes)]
    with subprocess.Popen(
        [sys.executable, ROOT / "launch.py", "--nproc_per_node", "2", *script], start_new_session=True,
        cwd=tmp_path, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        end = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or len(losses_so_far(out)) < 20:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        os.killpg(process.pid, number)
        assert process.wait(30) == code
    for rank in range(2):
        assert "; the same command goes on from there" in (tmp_path / f"log/job.log.{rank}").read_text()
    (saved,) = (int(path.name.removeprefix("step_")) for path in (out / "checkpoints").iterdir())
    assert 20 <= saved < 40, "the run was over before the signal"
    pretrain(tiny_corpus, out, **EXACT)
    assert_same_run(out, whole)
    assert_same_state(out, whole)


def losses_so_far(output) -> list[str]:
    return re.findall(r'"loss": \S+, "grad_norm"', (output / "metrics.jsonl").read_text())
