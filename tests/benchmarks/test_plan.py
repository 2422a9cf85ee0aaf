"""The plan is compared with numbers worked out by hand, with the model, the scripts and docs/scale.md."""

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
BASE = ModelShape(hidden=768, layers=12, heads=12, vocabulary=250_002)
RUN = plan.PlannedRun(
    batch=2048, length=512, micro_batch=16384, steps=150000, precision="O2", recompute=False
)


def test_parameters_are_those_of_the_model():
    shape = ModelShape(hidden=8, layers=3, heads=2, vocabulary=50, languages=2)
    config = ErnieMConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
    )
    model = PreTrainingModel(config, ["en", "de"])
    untrained = sum(parameter.size for parameter in model.ernie_m.pooler.parameters())
    assert shape.trained == sum(parameter.size for parameter in model.parameters()) - untrained
    assert shape.matrices == sum(p.size for p in model.ernie_m.encoder.parameters() if p.ndim == 2)
    assert shape.table == model.ernie_m.embeddings.word_embeddings.weight.size


def test_a_layer_in_half_precision_is_that_of_the_paper():
    """Korthikanti et al. 2022: 34 s b h + 5 a s^2 b bytes.

    FlashMask has a float32 number for each head instead.
    """
    half = plan.PRECISIONS["O2"]
    assert plan.layer_memory(BASE, half, 512, fused=False) == 34 * 768 + 5 * 12 * 512
    assert plan.layer_memory(BASE, half, 512, fused=True) == 34 * 768 + 4 * 12


def test_sharding_divides_all_but_the_word_table():
    """In stage 1, on 64 cards, the fullest card has the optimizer's state of the word table and no other."""
    bytes_of_a_weight = 8 + 4  # two moments and the master weight
    whole = plan.memory(BASE, RUN, stage=0, cards=64)
    divided = plan.memory(BASE, RUN, stage=1, cards=64)
    assert whole["optimizer"] == bytes_of_a_weight * BASE.trained
    assert divided["optimizer"] == bytes_of_a_weight * BASE.table
    assert whole["gradients"] == divided["gradients"] == 4 * BASE.trained


def test_recompute_and_precision_change_activations():
    """The 34 H bytes of a token in a layer are 8 H before and in attention, and 26 H after it.

    Each of 8 cards has micro-batches of 16384 tokens.
    """

    def activations(**changes) -> float:
        return plan.memory(BASE, RUN._replace(**changes), stage=0, cards=8)["activations"]

    tokens = 16384
    masked = 0.15 * tokens  # the last layer does the part after attention for these alone
    of_attention = 4 * 12  # a float32 number for each head
    layer = 34 * 768 + of_attention
    last_layer = tokens * (8 * 768 + of_attention) + masked * 26 * 768
    assert activations() == pytest.approx(11 * tokens * layer + last_layer)
    inputs = 12 * 2 * 768  # of 12 layers, in half precision; one layer at a time is computed again
    assert activations(recompute=True) == pytest.approx(tokens * (inputs + layer))
    assert activations(precision="O1") == activations()  # norms in half precision, too

    # In float32 a layer keeps for a token 4 H numbers before and in attention and 10 H after it for its
    # products, 2 H for its norms, and two dropout masks of H bytes.
    norms = 2 * 4 * 768
    dropout_masks = 2 * 768
    layer = (4 + 10) * 4 * 768 + norms + dropout_masks + of_attention
    last_layer = tokens * (4 * 4 * 768 + of_attention) + masked * (10 * 4 * 768 + norms + dropout_masks)
    assert activations(precision="float32") == pytest.approx(11 * tokens * layer + last_layer)


def test_logits_are_a_chunk_of_rows():
    """No more than `model.masked_loss` has at a time, and less for a small micro-batch."""
    assert plan.LOGITS_BYTES == masked_loss.LOGITS_BYTES
    assert plan.MANY_LOGITS_BYTES == masked_loss.MANY_LOGITS_BYTES
    # A card "of 40 GB" reports a little less than 40 GiB.
    assert 0.9 * (plan.MUCH_MEMORY << 30) < masked_loss.MUCH_MEMORY < plan.MUCH_MEMORY << 30

    def logits(**changes) -> float:
        return plan.memory(BASE, RUN._replace(**changes), stage=0, cards=8)["logits"]

    gradients_of_table = 3 * 4 * BASE.table  # by the loss, by the look-up, and their sum
    assert logits(logits=1 << 29) == (1 << 29) + gradients_of_table
    masked = 150  # of the 1000 tokens of a micro-batch, in half precision
    assert logits(micro_batch=1000) == pytest.approx(2 * masked * 250002 + gradients_of_table)


def test_cards_have_room_for_their_micro_batches():
    """Five sixths of the memory are enough; for large on cards of 32 GB or less with recompute."""
    for name, tokens in plan.MICRO_BATCH_TOKENS.items():
        card = CARDS[name]
        logits = plan.MANY_LOGITS_BYTES if card.memory >= plan.MUCH_MEMORY else plan.LOGITS_BYTES
        run = RUN._replace(micro_batch=tokens, precision="O1", fused=card.fused, logits=logits)
        base = sum(plan.memory(plan.BASE, run, stage=0, cards=1).values()) + plan.RUNTIME
        large_run = run._replace(recompute=card.memory <= 32)
        large = sum(plan.memory(plan.LARGE, large_run, stage=0, cards=1).values()) + plan.RUNTIME
        assert max(base, large) < 5 / 6 * card.memory * plan.GB, name


def test_the_recipes_are_those_of_the_scripts():
    for recipe in RECIPES:
        for size, epochs in (("base", recipe.epochs), ("large", recipe.large_epochs)):
            script = (ROOT / "scripts" / size / f"{recipe.name}.sh").read_text()
            flags = dict(re.findall(r"--(\w+) (\d+)", script))
            assert int(flags["batch_size"]) == recipe.batch, script
            if recipe.name == "tatoeba_fine-tuning":  # its script has steps, and no epochs or devices
                assert int(flags["max_steps"]) * recipe.batch == recipe.examples
                continue
            # Such as "xnli base 2": a function of the script, the size, and the devices.
            assert int(re.search(rf"^\w+ {size} (\d+)", script, re.M)[1]) == recipe.devices, script
            assert int(flags["max_seq_len"]) == recipe.max_seq_len and int(flags["epoch"]) == epochs, script


def test_minutes_and_gigabytes_by_hand():
    """XNLI: five epochs of 392,702 pairs in batches of 32. The host takes longer than an A100."""
    heads, *rows = plan.recipe_table(CARDS["A100"])
    xnli = dict(zip(heads, rows[0]))
    # Two micro-batches and an update, with 20 microseconds for each kernel call.
    seconds_of_micro_batch = 20e-6 * (255 + 249) + 0.7e-3
    seconds_of_step = 2 * seconds_of_micro_batch + 20e-6 * 163
    minutes = 5 * 392_702 / 32 * seconds_of_step / 60
    assert xnli["base, min"] == f"{minutes:.0f}"
    assert xnli["large, min"] == f"{2 * minutes:.0f}"  # twice as many layers
    weights_and_moments = (4 + 8) * BASE.trained
    casts = 2 * BASE.matrices
    gradients = 4 * (BASE.trained - BASE.table)  # of the word table, only the rows of the step's words
    activations = 16 * 256 * 12 * (34 * 768 + 4 * 12)
    memory = weights_and_moments + casts + gradients + activations + plan.RUNTIME
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
        batch=2048,
        length=512,
        micro_batch=4096,
        steps=200_000,
        precision="O1",
        recompute=True,
        fused=False,  # a V100 has no FlashMask
        logits=1 << 29,
    )


def test_the_table(capsys, monkeypatch):
    """It has a row for each of three runs, two numbers of cards, two stages. In base's, the parts add up."""
    monkeypatch.setattr(sys, "argv", ["plan.py", "--cards", "8", "64"])
    plan.main()
    table = capsys.readouterr().out.split("\n\n")[1]
    heads, *rows = (line for line in table.splitlines() if line.startswith("| "))  # not the line "|---|"
    assert len(rows) == 3 * 2 * 2
    names = cells_of(heads)
    base = [dict(zip(names, cells_of(row))) for row in rows if "| base |" in row]
    # In a ring of 8 cards each sends seven eighths of the gradients twice, 4 bytes each. The table rounds to
    # 0.1 GB.
    sent = 2 * 7 / 8 * 4 * BASE.trained
    assert float(base[0]["sent a step"]) == pytest.approx(sent / plan.GB, abs=0.05)
    for row in base:
        parts = sum(float(row[name]) for name in plan.PARTS) + plan.RUNTIME / plan.GB
        assert float(row["in all"]) == pytest.approx(parts, abs=0.3)  # each part is rounded to 0.1 GB
        tokens_per_second = float(row["tokens/s"].replace(",", ""))
        assert tokens_per_second == pytest.approx(2048 * 512 / float(row["step, s"]), rel=0.03)
    stage_0, stage_1 = base[:2]  # on 8 cards
    assert float(stage_1["in all"]) < float(stage_0["in all"])


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.split("|")]
