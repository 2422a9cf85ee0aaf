"""The plan: its formulae by hand and against the model, and its table."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks.estimate import CARDS, ModelShape
from benchmarks.recipes import RECIPES
from model import masked_loss
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from utils.tables import in_markdown

ROOT = Path(__file__).resolve().parents[2]
BASE = ModelShape(768, 12, 12, 250002)
RUN = plan.PlannedRun(2048, 512, micro_batch=16384, steps=150000, precision="O2", recompute=False)


def test_parameters_are_those_of_the_model():
    model = PreTrainingModel(ErnieMConfig(50, 8, 3, 2), ["en", "de"])
    shape = ModelShape(8, 3, 2, 50, 2)
    untrained = sum(parameter.size for parameter in model.ernie_m.pooler.parameters())
    assert shape.trained == sum(parameter.size for parameter in model.parameters()) - untrained
    assert shape.matrices == sum(p.size for p in model.ernie_m.encoder.parameters() if p.ndim == 2)
    assert shape.table == model.ernie_m.embeddings.word_embeddings.weight.size


def test_a_layer_in_half_precision_is_that_of_the_paper():
    """Korthikanti et al. 2022: 34 s b h + 5 a s^2 b bytes."""
    half = plan.PRECISIONS["O2"]
    assert plan.layer_memory(BASE, half, 512, fused=False) == 34 * 768 + 5 * 12 * 512
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
    assert activations(precision="O1") == activations()  # norms in half precision, too
    norms = 2 * 4 * 768
    wide = 14 * 4 * 768 + norms + 2 * 768 + 48  # in float32
    last = tokens * (4 * 4 * 768 + 48) + masked * (10 * 4 * 768 + norms + 2 * 768)
    assert activations(precision="float32") == pytest.approx(11 * tokens * wide + last)


def test_logits_are_a_chunk_of_rows():
    """No more than `model.masked_loss` has at a time, and less for a small micro-batch."""
    assert plan.LOGITS_BYTES == masked_loss.LOGITS_BYTES
    assert plan.MANY_LOGITS_BYTES == masked_loss.MANY_LOGITS_BYTES
    assert 0.9 * (plan.MUCH_MEMORY << 30) < masked_loss.MUCH_MEMORY < plan.MUCH_MEMORY << 30
    tables = 12 * BASE.table
    few = RUN._replace(micro_batch=1000)
    assert plan.memory(BASE, RUN._replace(logits=1 << 29), 0, 8)["logits"] == (1 << 29) + tables
    assert plan.memory(BASE, few, 0, 8)["logits"] == pytest.approx(2 * 150 * 250002 + tables)


def test_cards_have_room_for_their_micro_batches():
    for name, tokens in plan.MICRO_BATCH_TOKENS.items():
        card = CARDS[name]
        logits = plan.MANY_LOGITS_BYTES if card.memory >= plan.MUCH_MEMORY else plan.LOGITS_BYTES
        run = RUN._replace(micro_batch=tokens, precision="O1", fused=card.fused, logits=logits)
        base = sum(plan.memory(plan.BASE, run, 0, 1).values()) + plan.RUNTIME
        large_run = run._replace(recompute=card.memory <= 32)
        large = sum(plan.memory(plan.LARGE, large_run, 0, 1).values()) + plan.RUNTIME
        assert max(base, large) < 5 / 6 * card.memory * plan.GB, name


def test_the_recipes_are_those_of_the_scripts():
    for recipe in RECIPES:
        for size, epochs in (("base", recipe.epochs), ("large", recipe.large_epochs)):
            script = (ROOT / "scripts" / size / f"{recipe.name}.sh").read_text()
            flags = dict(re.findall(r"--(\w+) (\d+)", script))
            assert int(flags["batch_size"]) == recipe.batch, script
            if recipe.name == "tatoeba_fine-tuning":
                assert int(flags["max_steps"]) * recipe.batch == recipe.examples
                continue
            assert int(re.search(rf"^\w+ {size} (\d+)", script, re.M)[1]) == recipe.devices, script
            assert int(flags["max_seq_len"]) == recipe.max_seq_len and int(flags["epoch"]) == epochs, script


def test_minutes_and_gigabytes_by_hand():
    heads, *rows = plan.recipe_table(CARDS["A100"])
    xnli = dict(zip(heads, rows[0]))
    # two micro-batches and an update, 20 microseconds a call: the host's time
    step = 20e-6 * (2 * (382 + 376) + 240)
    assert xnli["base, min"] == f"{5 * 392_702 / 32 * step / 60:.0f}"
    assert xnli["large, min"] == f"{5 * 392_702 / 32 * 2 * step / 60:.0f}"
    tokens = 16 * 256
    layer = 34 * 768 + 4 * 12
    gradients = 4 * (BASE.trained - BASE.table)  # a table that is only looked up has rows
    memory = 12 * BASE.trained + gradients + 2 * BASE.matrices + tokens * 12 * layer + plan.RUNTIME
    assert xnli["base, GB"] == f"{memory / 1e9:.0f}"


def test_the_page_has_the_tables(capsys, monkeypatch):
    """docs/scale.md prints what the program prints."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert in_markdown(plan.speed_table()) in page
    assert in_markdown(plan.recipe_table(CARDS["A100"])) in page
    options = ["--configs", "configs/pretrain/base.yaml", "configs/pretrain/large.yaml", "--cards", "8", "64"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["plan.py", *options])
    plan.main()
    table = capsys.readouterr().out.split("\n\n")[1]
    assert table in page


def test_options_of_a_run_change_the_plan():
    run = ["--run.amp", "fp16", "--run.micro_batch_tokens", "4096", "--run.recompute", "true"]
    shape, planned = plan.read_run(str(ROOT / "configs/pretrain/large.yaml"), 250_002, run, CARDS["V100"])
    assert shape == plan.LARGE
    assert planned == plan.PlannedRun(
        2048, 512, 4096, 200_000, "O1", recompute=True, fused=False, logits=1 << 29
    )


def test_the_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["plan.py", "--cards", "8", "64"])
    plan.main()
    table = capsys.readouterr().out.split("\n\n")[1]
    heads, *rows = (line for line in table.splitlines() if line.startswith("| "))
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
