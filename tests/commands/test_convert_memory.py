"""A conversion holds about one tensor at a time, whatever the formats."""

import os
import sys
from pathlib import Path

import pytest

from ernie_m.model.checkpoint.write_foreign import ENCODER_TARGETS
from tests.foreign import make_official, official_config
from tests.launching import check_success, run_script
from tests.toys import write_piece_model

SCRIPT = Path(__file__).with_name("memory_script.py")
# The embedding matrix's size in MiB. All 24 layers together have 72 MiB more.
LARGEST = 40_000 * 256 * 4 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is counted in KiB on Linux")
def test_the_largest_tensor_is_what_it_takes(tmp_path):
    """No conversion grows by more than one and a half of the largest tensor, and 10 MiB for all else."""
    config = official_config(vocab_size=40_000, hidden_size=256, num_hidden_layers=24, num_attention_heads=4)
    make_official(tmp_path / "initial", config, seed=0)
    write_piece_model(tmp_path / "initial", 40_000 - 5)  # five tokens are special
    source = tmp_path / "initial"
    growth = {}  # folder -> MiB
    # Each format is written from the one before, and read for the one after.
    for target in (*ENCODER_TARGETS, "ernie-m"):
        folder = tmp_path / f"{len(growth)}-{target}"
        command = [SCRIPT, source, folder, "--to", target]
        process = check_success(run_script(command, tmp_path, MALLOC_ARENA_MAX="1"))
        growth[folder.name] = float(process.stderr.split("grew by ")[1].split()[0])
        source = folder
    model_size = sum(os.path.getsize(path) for path in source.rglob("*")) / 2**20
    assert model_size > 2.5 * LARGEST  # or the bound below would say nothing
    assert max(growth.values()) < 1.5 * LARGEST + 10, growth
