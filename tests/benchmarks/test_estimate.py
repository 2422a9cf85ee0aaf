"""The estimate is compared with numbers worked out by hand, with the model, the scripts and docs/scale.md."""

import re
import sys
from pathlib import Path

import pytest

from benchmarks import counts, estimate
from benchmarks.counts import BASE, CARDS, LARGE, ModelShape, PlannedRun, Work
from model import half_weights, masked_loss
from model.ernie_m import ErnieMConfig
from model.heads import PreTrainingModel
from tests.helpers.kernel_calls import xnli_calls

ROOT = Path(__file__).resolve().parents[2]
RUN = PlannedRun(batch=2048, length=512, micro_batch=16384, steps=150000, half_weights=True, recompute=False)
# Seconds of the host, by hand. It starts 255 kernels in a forward pass, 251 in a backward pass and 142 in an
# update, in 20 microseconds each, and needs 0.7 ms more to cast the weights together.
PASSES = 20e-6 * (255 + 251) + 0.7e-3  # of one micro-batch
UPDATE = 20e-6 * 142


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


# Memory


def test_a_layer_in_half_precision_is_that_of_the_paper():
    """Korthikanti et al. 2022: 34 s b h + 5 a s^2 b bytes.

    FlashMask has a float32 number for each head instead.
    """
    assert counts.layer_memory(BASE, 512, fused=False) == 34 * 768 + 5 * 12 * 512
    assert counts.layer_memory(BASE, 512, fused=True) == 34 * 768 + 4 * 12


def test_sharding_divides_all_but_the_word_table():
    """In stage 1, on 64 cards, the fullest card has the optimizer's state of the word table and no other."""
    bytes_of_a_weight = 8 + 4  # two moments and the master weight
    undivided = counts.memory(BASE, RUN, stage=0, cards=64)
    divided = counts.memory(BASE, RUN, stage=1, cards=64)
    assert undivided["optimizer"] == bytes_of_a_weight * BASE.trained
    assert divided["optimizer"] == bytes_of_a_weight * BASE.table
    assert undivided["gradients"] == divided["gradients"] == 4 * BASE.trained


def test_recompute_changes_activations():
    """The 34 H bytes of a token in a layer are 8 H before and in attention, and 26 H after it.

    Each of 8 cards has micro-batches of 16384 tokens.
    """

    def activations(**changes) -> float:
        return counts.memory(BASE, RUN._replace(**changes), stage=0, cards=8)["activations"]

    tokens = 16384
    masked = 0.15 * tokens  # the last layer does the part after attention for these alone
    of_attention = 4 * 12  # a float32 number for each head
    layer = 34 * 768 + of_attention
    last_layer = tokens * (8 * 768 + of_attention) + masked * 26 * 768
    assert activations() == pytest.approx(11 * tokens * layer + last_layer)
    inputs = 12 * 2 * 768  # of 12 layers, in half precision; one layer at a time is computed again
    assert activations(recompute=True) == pytest.approx(tokens * (inputs + layer))
    assert activations(half_weights=False) == activations()


def test_logits_are_a_chunk_of_rows():
    """No more than `model.masked_loss` has at a time, and less for a small micro-batch."""
    assert counts.LOGITS_BYTES == masked_loss.LOGITS_BYTES
    assert counts.MANY_LOGITS_BYTES == masked_loss.MANY_LOGITS_BYTES
    # A card "of 40 GB" reports a little less than 40 GiB.
    assert 0.9 * (counts.MUCH_MEMORY << 30) < masked_loss.MUCH_MEMORY < counts.MUCH_MEMORY << 30

    def logits(**changes) -> float:
        return counts.memory(BASE, RUN._replace(**changes), stage=0, cards=8)["logits"]

    gradients_of_table = 3 * 4 * BASE.table  # by the loss, by the look-up, and their sum
    assert logits(logits=1 << 29) == (1 << 29) + gradients_of_table
    masked = 150  # of the 1000 tokens of a micro-batch, in half precision
    assert logits(micro_batch=1000) == pytest.approx(2 * masked * 250002 + gradients_of_table)


def test_cards_have_room_for_their_micro_batches():
    """Five sixths of the memory are enough; for large on cards of 32 GB or less with recompute."""
    for name, card in CARDS.items():
        options = ["--run.micro_batch_tokens", str(card.micro_batch)]
        for size in ("base", "large"):
            shape, run = estimate.read_run(f"{ROOT}/configs/pretrain/{size}.yaml", options, card)
            run = run._replace(recompute=size == "large" and card.memory <= 32)
            used = sum(counts.memory(shape, run, stage=0, cards=1).values()) + counts.RUNTIME
            assert used < 5 / 6 * card.memory * counts.GB, name


# Time


def test_a_part_takes_its_operations_its_bytes_and_its_cycles():
    card = CARDS["A100"]._replace(
        tflops=100, bandwidth=1000, product_share=0.5, attention_share=0.25, multiprocessors=100, clock=2.0
    )
    assert Work(products=50e12).seconds(card) == pytest.approx(1.0)  # 50 of half of 100 TFLOP/s
    assert Work(attention=50e12).seconds(card) == pytest.approx(2.0)  # 50 of a quarter
    assert Work(moved=400e9).seconds(card) == pytest.approx(0.5)  # 400 of 80 % of 1000 GB/s
    assert Work(cycles=50e9).seconds(card) == pytest.approx(0.25)  # 50 of 100 multiprocessors x 2 GHz
    everything = Work(products=50e12, attention=50e12, moved=400e9, cycles=50e9)
    assert everything.seconds(card) == pytest.approx(1.0 + 2.0 + 0.5 + 0.25)


def test_a_step_by_hand():
    """Base in sequences of 512 tokens, on 8 cards with 8 micro-batches each.

    A layer has 24 H^2 operations for a token, of which the last layer does 18 H^2 for the masked tokens
    alone. The head has 2 H (H + V) for each of these. BTMLM's first stage runs for a quarter of the
    sequences, with a seventh of all words.
    """
    tokens = 2048 * 512 / 8
    parts = counts.pretraining_parts(BASE, RUN, cards=8)
    masked = 0.15
    products = 12 * 24 * 768**2 - 18 * 768**2 * (1 - masked)
    assert parts["products"] == Work(products=pytest.approx(3.25 * products * tokens))
    # The backward pass of attention has five products where the forward pass has two.
    assert parts["attention"] == Work(attention=pytest.approx((1.25 + 2.5) * 12 * 4 * 768 * 512 * tokens))
    # 128 x 128 blocks of keys and rows, in 8 micro-batches, 12 layers of 12 heads, forward and backward.
    blocks = 8 * 128 * 128 * 12 * 12 * (1.25 + 1)
    assert parts["skipped blocks"] == Work(cycles=pytest.approx(80 * blocks))
    assert parts["between products"] == Work(moved=pytest.approx(2 * 89 * 12 * 768 * tokens * 3.25 / 3))
    head = masked * 2 * 768 * (768 + 250_002)
    assert parts["loss"] == Work(
        products=pytest.approx((3 + 0.25 / 7) * head * tokens),
        moved=pytest.approx(14 * masked * 250_002 * tokens),  # bytes for each logit
    )
    assert parts["word table"] == Work(moved=pytest.approx(8 * 62 * BASE.table))
    # In micro-batches twice as large 4,915 rows of logits are two chunks, with 26 bytes more for each weight.
    larger = counts.pretraining_parts(BASE, RUN._replace(micro_batch=32768), cards=8)
    assert larger["word table"] == Work(moved=pytest.approx(4 * (62 + 26) * BASE.table))
    again = counts.pretraining_parts(BASE, RUN._replace(recompute=True), cards=8)
    assert again["products"].products == pytest.approx(4.25 * products * tokens)


def test_without_flash_mask_scores_are_moved():
    plain = counts.pretraining_parts(BASE, RUN._replace(fused=False), cards=8)
    scores = 2048 * 512 / 8 * BASE.layers * BASE.heads * 512
    assert plain["attention"].moved == pytest.approx(36 * scores)  # 36 bytes for each
    assert plain["skipped blocks"] == Work()


def test_another_calculation_agrees():
    """A micro-batch of 32,768 tokens on an A100, worked out from the sources of its kernels: 216 ms.

    That is with a loss that moves 26 bytes a logit. An XNLI step there takes the card 8.3 ms.
    """
    run = RUN._replace(batch=64, micro_batch=32768, half_weights=False)
    parts = counts.pretraining_parts(BASE, run, cards=1)
    parts["further bytes of the loss"] = Work(moved=(26 - 14) * 0.15 * 32768 * BASE.vocabulary)
    milliseconds = {name: 1e3 * value for name, value in counts.seconds_of(parts, CARDS["A100"]).items()}
    assert sum(milliseconds.values()) == pytest.approx(216, rel=0.125)
    assert milliseconds["skipped blocks"] == pytest.approx(11, rel=0.25)
    _, xnli = counts.fine_tuning_step(BASE, 32 * 37, 37, CARDS["A100"])
    assert 1e3 * sum(xnli.values()) == pytest.approx(8.3, rel=0.125)


@pytest.mark.parametrize("name", ["A100", "H100", "H200"])
def test_wrong_assumptions_are_within_the_trust(name):
    """Each share of a card's peak is a fifth lower, and skipped blocks take half as long again."""
    card = CARDS[name]
    parts = counts.pretraining_parts(BASE, RUN._replace(micro_batch=card.micro_batch), cards=8)
    seconds = sum(counts.seconds_of(parts, card).values())
    slower = card._replace(tflops=0.8 * card.tflops, bandwidth=0.8 * card.bandwidth, clock=card.clock / 1.5)
    assert sum(counts.seconds_of(parts, slower).values()) < (1 + estimate.TRUST) * seconds


def test_the_micro_batch_that_is_advised_is_the_fastest():
    """Small ones pay for the word table more often, large ones for blocks that FlashMask skips."""
    for name in ("A100", "H100", "H200"):
        card = CARDS[name]
        seconds = {}
        for tokens in (8192, 16384, 32768, 65536):
            parts = counts.pretraining_parts(BASE, RUN._replace(micro_batch=tokens), cards=8)
            seconds[tokens] = sum(counts.seconds_of(parts, card).values())
        assert min(seconds, key=seconds.get) == card.micro_batch


def test_a_step_of_xnli():
    """The card would be faster than the host."""
    length = estimate.XNLI_LENGTH
    tokens = estimate.XNLI_ROWS * length
    card = CARDS["A100"]
    host, parts = counts.fine_tuning_step(BASE, tokens, length, card)
    assert sum(parts.values()) < host == pytest.approx(PASSES + UPDATE)
    host_of_two, _ = counts.fine_tuning_step(BASE, tokens, length, card, 2)
    assert host_of_two == pytest.approx(2 * PASSES + UPDATE)
    # In a larger micro-batch autocast casts each weight by itself, with 258 calls more.
    host_of_larger, _ = counts.fine_tuning_step(BASE, 2048, length, card)
    assert host_of_larger == pytest.approx(20e-6 * (255 + 251 + 258) + UPDATE)
    # A large batch keeps the card busy for longer than the host.
    _, parts = counts.fine_tuning_step(BASE, 20 * tokens, length, card)
    assert sum(parts.values()) > 2 * host


@pytest.mark.parametrize("together", [True, False])
def test_the_calls_are_those_of_the_model(monkeypatch, together):
    """With the weights cast together, and by autocast alone."""
    assert counts.SMALL_BATCH == half_weights.SMALL_BATCH
    further_calls = 0
    if not together:
        monkeypatch.setattr(half_weights, "SMALL_BATCH", 0)
        further_calls = counts.FURTHER_CALLS // 2  # one half forward, the other half backward
    calls = {phase: sum(of_phase.values()) for phase, of_phase in xnli_calls(monkeypatch).items()}
    assert calls["forward"] == counts.CALLS["forward"] + further_calls
    assert calls["backward"] == counts.CALLS["backward"] + further_calls
    assert calls["update"] == counts.CALLS["update"]


# The program


def test_the_recipes_are_those_of_the_scripts():
    for name, examples, _, devices, batch, max_seq_len, *epochs_of_sizes in estimate.RECIPES:
        for size, epochs in zip(("base", "large"), epochs_of_sizes):
            script = (ROOT / "scripts" / size / f"{name}.sh").read_text()
            flags = dict(re.findall(r"--(\w+) (\d+)", script))
            assert int(flags["batch_size"]) == batch, script
            if name == "tatoeba_fine-tuning":  # its script has steps, and no epochs or devices
                assert int(flags["max_steps"]) * batch == examples
                continue
            # Such as "xnli base 2": a function of the script, the size, and the devices.
            assert int(re.search(rf"^\w+ {size} (\d+)", script, re.M)[1]) == devices, script
            assert int(flags["max_seq_len"]) == max_seq_len and int(flags["epoch"]) == epochs, script


def test_minutes_and_gigabytes_by_hand():
    """XNLI: five epochs of 392,702 pairs in batches of 32. The host takes longer than an A100."""
    heads, *rows = estimate.recipe_table(CARDS["A100"])
    xnli = dict(zip(heads, rows[0]))
    minutes = 5 * 392_702 / 32 * (2 * PASSES + UPDATE) / 60  # two micro-batches in a step
    assert xnli["base, min"] == f"{minutes:.0f}"
    assert xnli["large, min"] == f"{2 * minutes:.0f}"  # twice as many layers
    weights_and_moments = (4 + 8) * BASE.trained
    casts = 2 * BASE.matrices
    gradients = 4 * (BASE.trained - BASE.table)  # of the word table, only the rows of the step's words
    activations = 16 * 256 * 12 * (34 * 768 + 4 * 12)
    used = weights_and_moments + casts + gradients + activations + counts.RUNTIME
    assert xnli["base, GB"] == f"{used / 1e9:.0f}"


@pytest.fixture
def tables(capsys, monkeypatch):
    """tables(*options): the program's output, its parts as they are separated by empty lines."""

    def run(*options: str) -> list[str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["estimate.py", *options])
        estimate.main()
        return capsys.readouterr().out.split("\n\n")

    return run


def test_the_page_has_the_tables(tables):
    """docs/scale.md prints what the program prints, and how far to trust it."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    configs = ["configs/pretrain/base.yaml", "configs/pretrain/large.yaml"]
    output = tables("--configs", *configs, "--cards", "8", "64")
    printed_tables = [part for part in output if part.startswith("|")]
    assert len(printed_tables) == 4
    for text in (output[0], *printed_tables):
        assert " ".join(text.split()) in " ".join(page.split())
    # docs/gpu.md has those of an A100: base on eight of them, and XNLI.
    page = " ".join((ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").split())
    runs, cards, xnli, _ = printed_tables
    hours = cells_of(runs.splitlines()[2])[-2]  # after the heads and the line "|---|"
    a100 = next(cells_of(line) for line in cards.splitlines() if line.startswith("| A100"))
    assert f"pre-trains {a100[3]} tokens a second in micro-batches of {a100[2]}" in page
    assert f"eight of them take {hours} hours" in page
    a100 = next(cells_of(line) for line in xnli.splitlines() if line.startswith("| A100"))
    assert f"XNLI takes {float(a100[2]):.0f} ms, in which the card works for {float(a100[4]):.0f}" in page


def test_options_of_a_run_change_the_estimate():
    options = ["--run.amp", "fp16", "--run.micro_batch_tokens", "4096", "--run.recompute", "true"]
    large = str(ROOT / "configs/pretrain/large.yaml")
    shape, planned = estimate.read_run(large, options, CARDS["V100"])
    assert shape == LARGE
    assert planned == PlannedRun(
        batch=2048,
        length=512,
        micro_batch=4096,
        steps=200_000,
        half_weights=False,
        recompute=True,
        fused=False,  # a V100 has no FlashMask
        logits=1 << 29,
    )


def test_the_table_of_runs(tables):
    """It has a row for each of three runs, two numbers of cards, two stages. In base's, the parts add up."""
    table = next(part for part in tables("--cards", "8", "64") if part.startswith("| run"))
    heads, *rows = (line for line in table.splitlines() if line.startswith("| "))  # not the line "|---|"
    assert len(rows) == 3 * 2 * 2
    names = cells_of(heads)
    base = [dict(zip(names, cells_of(row))) for row in rows if "| base |" in row]
    # In a ring of 8 cards each sends seven eighths of the gradients twice, 4 bytes each. The table rounds to
    # 0.1 GB.
    sent = 2 * 7 / 8 * 4 * BASE.trained
    assert float(base[0]["sent a step"]) == pytest.approx(sent / counts.GB, abs=0.05)
    for row in base:
        parts = sum(float(row[name]) for name in estimate.MEMORY_PARTS) + counts.RUNTIME / counts.GB
        assert float(row["in all"]) == pytest.approx(parts, abs=0.3)  # each part is rounded to 0.1 GB
        tokens_per_second = float(row["tokens/s"].replace(",", ""))
        assert tokens_per_second == pytest.approx(2048 * 512 / float(row["step, s"]), rel=0.03)
        hours = 150_000 * 2048 * 512 / tokens_per_second / 3600
        assert float(row["hours"]) == pytest.approx(hours, abs=1)
    stage_0, stage_1 = base[:2]  # on 8 cards
    assert float(stage_1["in all"]) < float(stage_0["in all"])


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.split("|")]
