"""What a whole run does when its files, its disk, its clock or its folder are not as they should be."""

import shutil

import pytest

from model.checkpoint.step_folders import step_folders
from pretrain.trainer import Trainer
from tests.helpers.full_disk import disk_full_after
from tests.pretrain.tiny_run import assert_equal_runs, pretrain, records
from training.guard import only_run_in
from utils.errors import run

USUAL = {"run__eval_steps": 5}


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory):
    """A run that nothing disturbed."""
    return pretrain(tiny_corpus, tmp_path_factory.mktemp("straight") / "out", **USUAL)


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "training_state/arrays.safetensors"])
def test_a_flipped_bit_in_the_newest_checkpoint(straight, tiny_corpus, tmp_path, file):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    flip(out / "checkpoints/step_12" / file)
    pretrain(tiny_corpus, out, **USUAL)
    assert_equal_runs(straight, out)
    log = (out / "log/job.log.0").read_text().splitlines()
    (told,) = (line for line in log if "is passed over" in line)
    assert f"step_12/{file}: damaged, its checksum differs" in told
    assert any(f"going on from {out}/checkpoints/step_8" in line for line in log)
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["step_12", "step_12.damaged", "step_8"]


def test_no_whole_checkpoint_is_no_reason_to_begin_anew(straight, tmp_path, refused):
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    for _, path in step_folders(out / "checkpoints"):
        flip(path / "model.safetensors")
    line = refused(**USUAL)
    assert f"{out}/checkpoints: none of its 2 checkpoints is whole (" in line
    assert "step_8/model.safetensors: damaged" in line and "put back a good copy" in line
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_12", "step_8"]
    assert records(out) == records(straight)


def test_an_edited_card_is_no_damage(straight, tiny_corpus, tmp_path):
    shutil.copytree(straight, tmp_path / "out")
    (tmp_path / "out/checkpoints/step_12/README.md").write_text("my words")
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert (
        "going on from" in (log := (tmp_path / "out/log/job.log.0").read_text()) and "passed over" not in log
    )


def test_a_flipped_bit_in_a_shard(straight, tiny_corpus, tmp_path, refused):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    pretrain(corpus, tmp_path / "out", **USUAL, run__stop_after_steps=5)
    for name in ("mono/en/train-00000.ids.npy", "parallel/de-en/train-00000.ids.npy"):
        flip(corpus / name)
        assert f"{name}: its SHA-256" in refused(corpus=corpus, data__verify=True, **USUAL)
        shutil.copyfile(tiny_corpus / name, corpus / name)
    pretrain(corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")


def test_a_second_run_in_the_folder(straight, tmp_path, refused):
    shutil.copytree(straight, tmp_path / "out")
    with only_run_in(tmp_path / "out"):
        line = refused(**USUAL)
    assert f"{tmp_path / 'out'}: another run is at work there (process " in line
    assert records(tmp_path / "out") == records(straight)


@pytest.mark.parametrize("limit", [0, 2500])
def test_a_full_disk_at_a_record(straight, tiny_corpus, tmp_path, monkeypatch, capsys, limit):
    """The disk fills at step 6: no file can grow any more; or some still can, and others not."""
    train, full = Trainer.step, disk_full_after(limit)

    def step(self, work, **options):
        if self.engine.steps == 5:
            full.__enter__()
        return train(self, work, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", step)
        try:
            with pytest.raises(SystemExit) as ended:
                run(lambda: pretrain(tiny_corpus, tmp_path / "out", **USUAL))
        finally:
            full.__exit__(None, None, None)
    assert ended.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert "no space left to write it" in errors[-1] and errors[-1].startswith("error: ")
    assert sum("lines of the log are missing" in line for line in errors) <= 1
    assert not any("Traceback" in line for line in errors)
    pretrain(tiny_corpus, tmp_path / "out", **USUAL)
    assert_equal_runs(straight, tmp_path / "out")
