"""The table that a user sees, against one written by hand."""

import json

from finetune.report import Table, draw_bars, to_json, to_markdown, to_text

TWO_SEEDS = Table("acc, dev.%s.tsv", {1: {"en": 80.0, "de": 70.0}, 2: {"en": 84.0, "de": 76.0}})
ONE_SEED = Table("acc, test.%s.tsv", {7: {"de": 61.234, "fr": 60.0}})


def test_text():
    assert to_text([TWO_SEEDS]) == (
        "acc, dev.%s.tsv\n"
        "               en      de     avg     gap\n"
        "   seed 1   80.00   70.00   75.00   10.00\n"
        "   seed 2   84.00   76.00   80.00    8.00\n"
        "     mean   82.00   73.00   77.50    9.00\n"
        "deviation  ± 2.83  ± 4.24  ± 3.54  ± 1.41"
    )


def test_one_seed_has_no_deviation_and_without_english_there_is_no_gap():
    assert to_markdown([ONE_SEED]).splitlines() == [
        "**acc, test.%s.tsv**",
        "",
        "|  | de | fr | avg |",
        "|---|---:|---:|---:|",
        "| seed 7 | 61.23 | 60.00 | 60.62 |",
    ]


def test_json_holds_full_precision():
    first, second = json.loads(json.dumps(to_json([TWO_SEEDS, ONE_SEED])))
    assert first["seeds"]["2"] == {"en": 84.0, "de": 76.0, "avg": 80.0, "gap": 8.0}
    assert first["mean"]["gap"] == 9.0
    assert abs(first["deviation"]["en"] - 8**0.5) < 1e-12
    assert second["mean"]["de"] == 61.234 and second["deviation"]["de"] == 0.0


def test_bars_are_a_picture(tmp_path):
    draw_bars([TWO_SEEDS, ONE_SEED], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
