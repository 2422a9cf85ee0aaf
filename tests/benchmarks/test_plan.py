"""The plan: formulae by hand and against the model, the table, a small step's memory within ten per cent."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import costs, plan
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel

ROOT = Path(__file__).resolve().parents[2]
BASE = costs.Size(768, 12, 12, 250002)
RUN = costs.Run(
    batch=2048, length=512, micro_batch=32, steps=150000, precision="O2", recompute=False, fused=True
)


@pytest.mark.parametrize(("hidden", "layers", "vocabulary"), [(8, 3, 50), (16, 1, 20)])
def test_parameters_are_those_of_the_model(hidden, layers, vocabulary):
    languages = ["en", "de", "zh"]
    model = PreTrainingModel(ErnieMConfig(vocabulary, hidden, layers, 2), languages)
    size = costs.Size(hidden, layers, 2, vocabulary, len(languages))
    count = sum(parameter.size for parameter in model.parameters())
    pooler = sum(parameter.size for parameter in model.ernie_m.pooler.parameters())
    assert (size.parameters, size.trained) == (count, count - pooler)
    matrices = [p.size for p in model.ernie_m.encoder.parameters() if p.ndim == 2]
    assert size.matrices == sum(matrices)
    assert size.table == model.ernie_m.embeddings.word_embeddings.weight.size


def test_a_layer_in_half_precision_is_that_of_the_paper():
    """Korthikanti et al. 2022: 34 s b h + 5 a s^2 b bytes."""
    half = costs.PRECISIONS["O2"]
    assert costs.gpu_layer(BASE, half, 512, fused=False) == 34 * 768 + 5 * 12 * 512
    assert costs.gpu_layer(BASE, half, 512, fused=True) == 34 * 768 + 4 * 12


def test_sharding_divides_what_it_divides():
    """The word table is one parameter, so no card goes below it."""
    of = {stage: costs.gpu_memory(BASE, RUN, stage, 64, 0.0) for stage in range(2)}
    assert of[0]["optimizer"] == (8 + 4) * BASE.trained and of[0]["gradients"] == 4 * BASE.trained
    assert of[1]["optimizer"] == 12 * BASE.table and of[1]["gradients"] == of[0]["gradients"]


def test_recompute_and_precision_move_activations():
    def activations(**changes) -> float:
        run = costs.Run(**{**vars(RUN), **changes})
        return costs.gpu_memory(BASE, run, 0, 8, 0.0)["activations"]

    tokens, layer = 32 * 512 * 1.15, 34 * 768 + 48
    masked = 32 * 512 * 0.15  # of these the last layer is whole; of the others it has 8 H of the 34
    last = tokens * (8 * 768 + 48) + masked * 26 * 768
    assert activations() == pytest.approx(11 * tokens * layer + last)
    assert activations(recompute=True) == pytest.approx(tokens * (12 * 2 * 768 + layer))
    norms = 2 * 2 * 768  # in float32
    assert activations(precision="O1") == pytest.approx(11 * tokens * (layer + norms) + last + masked * norms)


def test_operations_and_communication_by_hand():
    masked = 0.15 * 512
    sequence = 12 * (24 * 768**2 * 512 + 4 * 768 * 512**2) - 18 * 768**2 * (512 - masked)
    logits, head = 2 * masked * 768 * 250002, 2 * masked * 768 * (768 + 250002)
    step = 2048 * (3 * sequence * 4.15 / 4 + 3 * head + logits + (sequence + logits / 7) / 4)
    assert costs.operations(BASE, RUN) == pytest.approx(step)
    assert costs.communication(BASE, 8) == pytest.approx(7 / 8 * 8 * BASE.trained)


def table(capsys, *flags: str) -> tuple[list[str], list[dict]]:
    sys.argv = ["plan.py", *flags]
    plan.main()
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if line.startswith("| ")], json.loads(lines[-1])


def test_the_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    rows, found = table(capsys, "--cards", "8", "64", "--stages", "0", "1")
    assert len(rows) == 1 + 3 * 2 * 2 and len(found) == 12
    base = {(row["cards"], row["stage"]): row for row in found if row["run"] == "base"}
    for row in base.values():
        parts = [value for name, value in row["gb"].items() if name != "total"]
        assert row["gb"]["total"] == pytest.approx(sum(parts), abs=0.05)
        assert row["seconds"] == pytest.approx(
            row["compute_seconds"] + row["communication_seconds"], abs=2e-3
        )
        assert row["tokens_per_second"] == pytest.approx(2048 * 512 / row["seconds"], rel=2e-2)
    assert base[8, 1]["gb"]["total"] < base[8, 0]["gb"]["total"]
    assert base[64, 0]["compute_seconds"] == pytest.approx(base[8, 0]["compute_seconds"] / 8, abs=1e-3)
    _, plain = table(
        capsys, "--cards", "8", "--stages", "0", "--recompute", "false", "--precision", "float32"
    )
    of_base = next(row for row in plain if row["run"] == "base")
    assert of_base["gb"]["activations"] > base[8, 0]["gb"]["activations"]


def test_a_shape_that_is_none(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--measure", "--shapes", "12by16"])
    with pytest.raises(SystemExit) as ended:
        plan.main()
    assert ended.value.code == 2 and "'12by16' is not LAYERSxROWS" in capsys.readouterr().err


def test_memory_of_a_small_step():
    command = [
        sys.executable,
        str(ROOT / "benchmarks/plan.py"),
        "--measure",
        "--shapes",
        "2x16",
        "--vocab",
        "9000",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout.splitlines()[-1])["shapes"]
    assert found["predicted"] == pytest.approx(1e9 * sum(found["parts_gb"].values()), rel=0.01)
    assert math.isclose(found["predicted"], found["measured"], rel_tol=0.1)
    assert found["parts_gb"]["base"] < 0.5 * found["measured"] / 1e9  # it is the step that is predicted
