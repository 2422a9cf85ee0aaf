"""More processes, or more micro-batches, are the same run; one number of processes resumes from another's."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ernie_m.model.kernel_selection import get_services
from tests.command_lines import pretraining
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.files import write_file
from tests.launching import ROOT, check_success, clean_environment, launch
from tests.pretrain.tiny_run import checkpoint, losses, pretrain, records

NO_DROPOUT = {"model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0}
# Every step's loss is recorded; without dropout, and in float64, only the order of additions differs.
EXACT = {
    "model__num_hidden_layers": 1,
    "optimizer__steps": 16,
    "run__dtype": "float64",
    "run__log_steps": 1,
    "run__save_steps": 100,
    "run__micro_batch_tokens": 4096,
    "run__eval_sequences": 4,
    **NO_DROPOUT,
}
BFLOAT16 = {
    "run__amp": "bf16",
    "run__log_steps": 1,
    "run__eval_sequences": 0,
    "optimizer__steps": 6,
    **NO_DROPOUT,
}
# An objective of a file outside of the package, whose loss compares the pairs of a group.
CONTRASTIVE = str(ROOT / "tests" / "pretrain" / "contrastive.py")
OWN = EXACT | {
    "objectives__path": [CONTRASTIVE],
    "objectives__mixing_ratios": {"mmlm": 1, "contrastive": 2},
    "optimizer__steps": 6,
}
# Runs several trainings, one after the other, in each of the processes that it is started in.
SCRIPT = """
import json, sys
from ernie_m.utils.paddle_settings import prepare
prepare()
from ernie_m.commands import run_pretrain
from tests.launching import call_main
for line in json.loads(sys.argv[1]):
    call_main(run_pretrain, line)
"""


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory):
    """One process, one batch per objective."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("whole") / "out", **EXACT)


def assert_same_run(output, expected_output) -> None:
    """The runs have the same losses, but for rounding, at every step, and have read the same tokens."""
    assert len(losses(output)) == len(losses(expected_output)) == EXACT["optimizer__steps"]
    assert losses(output) == pytest.approx(losses(expected_output), abs=1e-9, rel=0)
    assert tokens(output) == tokens(expected_output)  # no sample is lost or read twice


def tokens(output) -> list[float]:
    """The number of tokens trained since the first step, after every step."""
    return [record["tokens"] for record in records(output) if "loss" in record]


def assert_same_state(output, expected_output) -> None:
    """The runs end with the same weights and optimizer state, but for rounding."""
    last_step = EXACT["optimizer__steps"]
    assert_equal_arrays(checkpoint(output, last_step), checkpoint(expected_output, last_step), 1e-7)


@pytest.fixture(scope="module")
def two_process_runs(tiny_corpus, module_folder):
    """A folder of runs of two processes: "exact" and "own", which one began; "bfloat16" where it can be."""
    pretrain(tiny_corpus, module_folder / "exact", **EXACT, run__stop_after_steps=6)
    pretrain(tiny_corpus, module_folder / "own", **OWN, run__stop_after_steps=2)
    lines = [
        pretraining(tiny_corpus, module_folder / "exact", **EXACT),
        pretraining(tiny_corpus, module_folder / "own", **OWN),
    ]
    if get_services().find_missing_bf16_requirement() is None:
        lines.append(pretraining(tiny_corpus, module_folder / "bfloat16", **BFLOAT16))
    check_success(launch(["-c", SCRIPT, json.dumps(lines)], module_folder))
    return module_folder


def test_two_processes_train_a_custom_objective(tiny_corpus, tmp_path, two_process_runs):
    expected = losses(pretrain(tiny_corpus, tmp_path / "out", **OWN))
    assert losses(two_process_runs / "own") == pytest.approx(expected, abs=1e-9, rel=0)


def test_two_processes_resume_from_one(straight, two_process_runs):
    """They resume after 6 of 16 steps, and end with the run of one process, and with its scores."""
    out = two_process_runs / "exact"
    assert_same_run(out, straight)
    assert_same_state(out, straight)
    # The processes share the work of the evaluation at the end.
    scores = records(out)[-1]["held_out"]
    expected = records(straight)[-1]["held_out"]
    assert scores.keys() == expected.keys() == {"mmlm", "tlm", "camlm", "btmlm", "retrieval", "candidates"}
    for language, values in expected["mmlm"].items():
        assert scores["mmlm"][language] == pytest.approx(values, abs=1e-6)
    for pair, values in expected["btmlm"].items():
        # The losses of two processes are added, which may round differently.
        near = {key: pytest.approx(value, rel=1e-14) for key, value in values.items() if "perplexity" in key}
        assert scores["btmlm"][pair] == values | near


@pytest.mark.skipif(
    get_services().find_missing_bf16_requirement() is not None,
    reason=f"needs {get_services().find_missing_bf16_requirement()}",
)
def test_two_processes_in_bfloat16_compute_what_one_computes(two_process_runs, tiny_corpus, tmp_path):
    single = pretrain(tiny_corpus, tmp_path / "one", **BFLOAT16)
    assert losses(two_process_runs / "bfloat16") == pytest.approx(losses(single), rel=1e-3)


# Like run_pretrain.py; but process 0 does not begin step 11 before it is asked to stop.
HELD = """
from ernie_m.utils.first_import import run
import time
from ernie_m.commands import run_pretrain
from ernie_m.utils.paddle_settings import prepare

def main():
    prepare()
    from ernie_m.training import distributed
    from ernie_m.training.trainer import Trainer
    do_step = Trainer._step
    def held(trainer, data, stop):
        while distributed.is_main() and trainer.engine.steps == 10 and not stop:
            time.sleep(0.01)
        return do_step(trainer, data, stop)
    Trainer._step = held
    run_pretrain.main()

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.slow
def test_one_process_resumes_from_two_that_were_stopped(straight, tiny_corpus, tmp_path):
    """With stage 1 each process has its part of Adam's state. The signal reaches all of launch.py's group."""
    out = tmp_path / "out"
    script = write_file(tmp_path / "held.py", HELD)
    command = [sys.executable, ROOT / "launch.py", "--nproc_per_node", "2", script]
    with subprocess.Popen(
        [*command, *pretraining(tiny_corpus, out, **EXACT, run__sharding_stage=1)],
        start_new_session=True,
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists() or len(losses_so_far(out)) < 8:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(120) == 0
    for rank in range(2):
        assert "; run the same command to resume" in (tmp_path / f"log/job.log.{rank}").read_text()
    (saved_step,) = (int(path.name.removeprefix("step_")) for path in (out / "checkpoints").iterdir())
    assert 8 <= saved_step <= 11
    pretrain(tiny_corpus, out, **EXACT)
    assert_same_run(out, straight)
    assert_same_state(out, straight)


def losses_so_far(output) -> list[str]:
    """The losses in a metrics.jsonl whose last line may still be incomplete."""
    return re.findall(r'"loss": \S+, "grad_norm"', (output / "metrics.jsonl").read_text())
