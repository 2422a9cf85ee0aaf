"""The plan: its formulae by hand and against the model, and its table."""

import sys

import pytest

from benchmarks import plan
from model import masked_loss
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel

BASE = plan.ModelShape(768, 12, 12, 250002)
RUN = plan.PlannedRun(2048, 512, micro_batch=16384, steps=150000, precision="O2", recompute=False)


def test_parameters_are_those_of_the_model():
    model = PreTrainingModel(ErnieMConfig(50, 8, 3, 2), ["en", "de"])
    shape = plan.ModelShape(8, 3, 2, 50, 2)
    untrained = sum(parameter.size for parameter in model.ernie_m.pooler.parameters())
    assert shape.trained == sum(parameter.size for parameter in model.parameters()) - untrained
    assert shape.matrices == sum(p.size for p in model.ernie_m.encoder.parameters() if p.ndim == 2)
    assert shape.table == model.ernie_m.embeddings.word_embeddings.weight.size


def test_a_layer_in_half_precision_is_that_of_the_paper():
    """Korthikanti et al. 2022: 34 s b h bytes, and here 7 a s^2 b for plain attention."""
    half = plan.PRECISIONS["O2"]
    assert plan.layer_memory(BASE, half, 512, fused=False) == 34 * 768 + 7 * 12 * 512
    assert plan.layer_memory(BASE, half, 512, fused=True) == 34 * 768 + 4 * 12


def test_sharding_divides_all_but_the_word_table():
    of = {stage: plan.memory(BASE, RUN, stage, 64) for stage in range(2)}
    assert of[0]["optimizer"] == (8 + 4) * BASE.trained and of[0]["gradients"] == 4 * BASE.trained
    assert of[1]["optimizer"] == 12 * BASE.table and of[1]["gradients"] == of[0]["gradients"]


def test_recompute_and_precision_move_activations():
    def activations(**changes) -> float:
        return plan.memory(BASE, RUN._replace(**changes), 0, 8)["activations"]

    tokens = 32 * 512
    layer = 34 * 768 + 48
    masked = 32 * 512 * 0.15  # the last layer is whole for these; the others have 8 H of the 34
    last = tokens * (8 * 768 + 48) + masked * 26 * 768
    assert activations() == pytest.approx(11 * tokens * layer + last)
    assert activations(recompute=True) == pytest.approx(tokens * (12 * 2 * 768 + layer))
    norms = 2 * 2 * 768  # in float32
    assert activations(precision="O1") == pytest.approx(11 * tokens * (layer + norms) + last + masked * norms)


def test_operations_by_hand():
    masked = 0.15 * 512
    sequence = 12 * (24 * 768**2 * 512 + 4 * 768 * 512**2) - 18 * 768**2 * (512 - masked)
    head = 2 * masked * 768 * (768 + 250002)
    step = 2048 * (3 * sequence + 3 * head + (sequence + head / 7) / 4)
    assert plan.operations(BASE, RUN) == pytest.approx(step)


def test_logits_are_a_chunk_of_rows():
    """No more than `model.masked_loss` has at a time, and less for a small micro-batch."""
    assert plan.LOGITS == masked_loss.LOGITS_BYTES
    tables = 18 * BASE.table
    few = RUN._replace(micro_batch=1000)
    assert plan.memory(BASE, RUN, 0, 8)["logits"] == 3 * (1 << 29) + tables
    assert plan.memory(BASE, few, 0, 8)["logits"] == pytest.approx(3 * 4 * 150 * 250002 + tables)


def test_the_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--cards", "8", "64"])
    plan.main()
    heads, *rows = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| "))
    assert len(rows) == 3 * 2 * 2
    names = [cell.strip() for cell in heads.split("|")]
    base = [dict(zip(names, (cell.strip() for cell in row.split("|")))) for row in rows if "| base |" in row]
    assert float(base[0]["sent a step"]) == pytest.approx(7 / 8 * 8 * BASE.trained / plan.GB, abs=0.05)
    for row in base:
        parts = sum(float(row[name]) for name in plan.PARTS) + plan.RUNTIME / plan.GB
        assert float(row["in all"]) == pytest.approx(parts, abs=0.3)
        assert float(row["tokens/s"].replace(",", "")) == pytest.approx(
            2048 * 512 / float(row["step, s"]), rel=0.03
        )
    assert float(base[1]["in all"]) < float(base[0]["in all"])  # stage 1 and stage 0
