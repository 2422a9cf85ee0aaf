"""Each column of the paper's Tables 12 to 14 is a script with its values; docs/reproducing.md agrees."""

import re

import pytest

from finetune.report import recipes
from finetune.retrieval.flags import RetrievalFlags
from tests.finetune.test_recipes import SIZES, arguments  # noqa: F401
from tests.launching import ROOT
from utils.args import parse_args
from utils.config import load_config

TRANSFER, ALL = "cross_lingual_transfer", "translate-train_all"
COLUMNS = (
    "batch",
    "learning_rate",
    "layerwise_lr_decay",
    "weight_decay",
    "epoch",
)  # warm-up: 10 % everywhere
TABLE_12 = {  # small and base
    f"xnli_{TRANSFER}": (32, 5e-5, 0.8, 0, 5),
    f"xnli_{ALL}": (128, 5e-5, 0.8, 0, 2),
    f"mlqa_{TRANSFER}": (32, 3e-4, 0.8, 0, 2),
    f"conll_{TRANSFER}": (8, 4e-4, 0.8, 0.01, 10),
    "conll_finetune_on_all_dataset": (8, 3e-4, 0.8, 0.01, 10),
}
TABLE_13 = {  # large
    f"xnli_{TRANSFER}": (32, 5e-5, 0.8, 0, 5),
    f"xnli_{ALL}": (128, 5e-5, 0.8, 0, 1),
    f"mlqa_{TRANSFER}": (32, 8e-5, 0.9, 0, 2),
    f"conll_{TRANSFER}": (8, 4e-4, 0.8, 0.01, 10),
    "conll_finetune_on_all_dataset_paper": (8, 3e-4, 0.8, 0.01, 10),
    f"pawsx_{TRANSFER}": (64, 5e-5, 0.9, 0.01, 10),
    f"pawsx_{ALL}": (64, 7e-5, 0.9, 0.01, 2),
}
TABLE_14 = {"max_steps": 200_000, "batch_size": 32, "learning_rate": 5e-5, "weight_decay": 0.0}  # large

SCRIPTS = {f"{size}/{name}": row for size in ("small", "base") for name, row in TABLE_12.items()}
SCRIPTS |= {f"large/{name}": row for name, row in TABLE_13.items()}
# The paper has no values for PAWS-X with base and small: theirs are those of large.
SCRIPTS |= {
    f"{size}/pawsx_{one}": TABLE_13[f"pawsx_{one}"] for size in ("small", "base") for one in (TRANSFER, ALL)
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_tables_12_and_13(arguments, script):  # noqa: F811
    line = arguments(f"{script}.sh")
    devices, args = int(line[1]), parse_args(line[3:])
    values = {name: getattr(args, name) for name in COLUMNS[1:]} | {"batch": devices * args.batch_size}
    assert tuple(values[name] for name in COLUMNS) == SCRIPTS[script]
    assert (args.warmup_proportion, args.lr_scheduler) == (0.1, "linear_warmup_decay")
    assert args.paper == script.split("/")[1].removesuffix("_paper")
    assert args.paper in recipes()


@pytest.mark.parametrize("size", SIZES)
def test_table_14(arguments, size):  # noqa: F811
    flags = load_config(RetrievalFlags, arguments(f"{size}/tatoeba_fine-tuning.sh")[1:])
    assert {name: getattr(flags, name) for name in TABLE_14} == TABLE_14
    assert (flags.warmup_proportion, flags.paper) == (0.1, "tatoeba_fine-tuning")


def test_the_official_values_of_conll_on_all_languages_differ(arguments):  # noqa: F811
    args = parse_args(arguments("large/conll_finetune_on_all_dataset.sh")[3:])
    assert (args.learning_rate, args.layerwise_lr_decay) == (2e-4, 0.9)


def rows_of_the_page() -> dict[str, list[str]]:
    """script -> cells of its row in docs/reproducing.md."""
    page = (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ") and ".sh`" in line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {script: row for row in rows for script in re.findall(r"`([\w/-]+)\.sh`", row[1])}


@pytest.mark.parametrize("script", [*SCRIPTS, *(f"{size}/tatoeba_fine-tuning" for size in SIZES)])
def test_the_page_says_the_same(script):
    table, _, flags, *_, score, _ = rows_of_the_page()[script]
    size, name = script.split("/")
    if name == "tatoeba_fine-tuning":
        expected = "200,000 steps of 32 pairs, 5e-5, weight decay 0"
    else:
        batch, rate, decay, weight_decay, epochs = SCRIPTS[script]
        shown = f"{rate:.0e}".replace("e-0", "e-")
        expected = (
            f"batch {batch}, {shown}, layer-wise decay {decay}, weight decay {weight_decay}, {epochs} epoch"
        )
    assert expected in flags
    found = recipes()[name.removesuffix("_paper")]
    for figures in found["figures"].values():
        row = figures.get(size)
        average = str(row["avg"]) if isinstance(row, dict) else row.split()[-1] if row else "no figure"
        assert average in score, (script, score)
        if row:
            assert (row["table"] if isinstance(row, dict) else found["table"]).split()[1] in table


def test_every_recipe_of_the_scripts_is_on_the_page():
    known = rows_of_the_page()
    names = {f"{size}/{path.stem}" for size in SIZES for path in (ROOT / "scripts" / size).glob("*.sh")}
    assert {name for name in names if "_real" not in name and "/pretrain" not in name} - set(known) == set()
