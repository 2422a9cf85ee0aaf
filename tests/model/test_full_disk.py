"""A disk that fills while a checkpoint is written: one clear line, and the previous checkpoint stands."""

import numpy as np
import pytest

from model.checkpoint.folder import load_from, model_weights, save_model, write_fluid
from model.checkpoint.training_state import load_newest
from model.ernie_m import ErnieMConfig
from model.heads import SequenceClassifier
from tests.helpers.full_disk import disk_full_after
from tests.helpers.official_layout import official_config
from utils.errors import UserError

CONFIG = ErnieMConfig.from_dict(official_config("tiny"))


@pytest.mark.parametrize("step", ["step_1", "step_2"])
@pytest.mark.parametrize("size", [100, 4096, 20_000])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, step, size):
    model, newer = SequenceClassifier(CONFIG, 3), SequenceClassifier(CONFIG, 3)
    (tmp_path / "v").write_text("words" * 5000)
    save_model(tmp_path / "run/step_1", model, CONFIG, training_state={"step": 1})
    with disk_full_after(size), pytest.raises(UserError, match=f"{tmp_path / 'run' / step}: no space left"):
        save_model(
            tmp_path / "run" / step, newer, CONFIG, vocab_path=tmp_path / "v", training_state={"step": 2}
        )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step_1"]
    assert load_newest(tmp_path / "run") == (tmp_path / "run/step_1", {"step": 1}, [])
    load_from(newer, tmp_path / "run/step_1")
    before, after = model_weights(model), model_weights(newer)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_full_disk_leaves_the_previous_official_directory(tmp_path, limit):
    write_fluid(tmp_path, model_weights(SequenceClassifier(CONFIG, 3)), CONFIG.to_dict())
    before = {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()}
    with disk_full_after(limit), pytest.raises(UserError, match="params: no space left"):
        write_fluid(tmp_path, model_weights(SequenceClassifier(CONFIG, 3)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "params").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ernie_config.json", "params"]
