"""What a step does, and what files a run writes."""

import gc

import numpy as np
import pytest

from ernie_m.model import kernel_selection
from ernie_m.model.checkpoint.load import load_from
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.cpu import onednn
from ernie_m.model.heads import SequenceClassifier
from ernie_m.pretrain.batches import StepBatches
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.training.engine import Engine
from tests.helpers.arrays import assert_equal_arrays
from tests.pretrain.tiny_run import checkpoint, config, losses, records


def select_encoder(weights: dict) -> dict:
    """The tensors of the encoder."""
    prefixes = ("embeddings.", "encoder.", "pooler.")
    return {name: value for name, value in weights.items() if name.startswith(prefixes)}


def test_a_fresh_head_is_trained_alone_first(pretrain):
    """For four steps: checkpoints after 2, 4 and 6 steps tell what has changed."""
    warm_up = {"init__lm_head_warmup_steps": 4, "init__lm_head_learning_rate": 0.02, "optimizer__steps": 7}
    out = pretrain(**warm_up, run__save_steps=2, run__keep_checkpoints=9, run__log_steps=1)
    after_2 = checkpoint(out, 2)
    after_4 = checkpoint(out, 4)
    after_6 = checkpoint(out, 6)

    # Until step 4 only the head and the language embeddings change, and Adam has no state of the encoder.
    assert_equal_arrays(select_encoder(after_2), select_encoder(after_4))
    for name in ("lm_head.dense.weight", "lm_head.bias", "language_embeddings.weight"):
        assert (after_2[name] != after_4[name]).any(), name
    assert not any(name.startswith("state/ernie_m") for name in after_4)

    # Then all of the encoder changes, but not the pooler's weight and bias: no objective uses them.
    changed = {name for name, value in select_encoder(after_6).items() if (value != after_4[name]).any()}
    assert len(changed) == len(select_encoder(after_4)) - 2
    # Steps 5 and 6 have updated the encoder. Before its first update, beta1_pow_acc is beta1, 0.98; each
    # update multiplies it with beta1.
    encoder_state = {name: value for name, value in after_6.items() if name.startswith("state/ernie_m.")}
    powers = [value for name, value in encoder_state.items() if name.endswith("beta1_pow_acc")]
    assert powers and np.concatenate(powers) == pytest.approx(0.98**3)  # after two updates

    # The rate of the head, and then the warm-up of three steps to 0.01.
    learning_rates = [record["lr"] for record in records(out) if "lr" in record]
    assert learning_rates == pytest.approx([0.02] * 4 + [0.0, 0.01 / 3, 0.02 / 3])


def test_a_step_keeps_nothing(pretrain, monkeypatch):
    """A run of a million steps needs no more memory than one of a thousand."""
    # What oneDNN's calls and code keep has a bound, which is reached before it is counted.
    monkeypatch.setattr(onednn, "_KEPT", 8)
    monkeypatch.setattr(onednn, "_thread", onednn._ThreadCaches())
    objects = []  # how many there are after each step
    step = Engine.step

    def counted_step(*args, **options):
        result = step(*args, **options)
        gc.collect()
        objects.append(len(gc.get_objects()))
        return result

    monkeypatch.setattr(Engine, "step", counted_step)
    pretrain(objectives__btmlm_start=0.1, run__save_steps=99, optimizer__steps=24)
    # What the batches that lie ready are made of varies by some objects.
    assert objects[23] - objects[7] < 100  # it would be 16 of each list that a step keeps


def test_warn_if_the_head_is_undertrained_after_warm_up(pretrain):
    """The step is evaluated, and the warning names the keys of the warm-up."""
    out = pretrain(init__lm_head_warmup_steps=2, optimizer__steps=4, optimizer__warmup_steps=1)
    assert [record["step"] for record in records(out) if "held_out" in record] == [2, 4]
    log = (out / "log/job.log.0").read_text()
    assert "steps 1 to 2 train only the head" in log
    (warning,) = [
        line for line in log.splitlines() if "init.lm_head_learning_rate" in line and "WARN" in line
    ]
    assert "init.lm_head_warmup_steps" in warning
    # A run of one step only writes its initial weights.
    log = (pretrain("one", optimizer__steps=1) / "log/job.log.0").read_text()
    assert "[held-out] mmlm" in log and "WARN" not in log


def test_plain_kernels_are_chosen_by_the_key(pretrain, monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.FAST)
    pretrain(optimizer__steps=1, run__kernels="plain")
    assert kernel_selection.has_plain_kernels()


def test_the_encoder_is_what_fine_tuning_takes(pretrained, tiny_corpus):
    encoder, full = (open_checkpoint(pretrained / name) for name in ("encoder", "full"))
    for path, name in ((encoder.vocab_path, "vocab.txt"), (encoder.piece_model_path, "piece.model")):
        assert path.read_bytes() == (tiny_corpus / name).read_bytes()
    # A classifier finds everything there but its own head.
    model = SequenceClassifier(encoder.config, 3)
    initialized = load_from(model, encoder, optional=("pooler.", "classifier."))
    assert initialized == ["classifier.weight", "classifier.bias"]
    words = full.tensors["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(model.ernie_m.embeddings.word_embeddings.weight.numpy(), words)
    # The other export, for more pre-training, has the language embeddings and says how inputs were made.
    more = {name for name in full.tensors if name.startswith(("lm_head.", "language_embeddings."))}
    assert set(full.tensors) - set(encoder.tensors) == more
    assert (encoder.settings.get("languages"), full.settings["languages"]) == (None, ["de", "en", "fr"])
    assert encoder.preprocessing.to_json() == {}
    assert full.preprocessing.to_json() == {
        "language_embedding": "masks",
        "pseudo_proportion": 0.2,
        "pseudo_positions": "first",
    }


def test_only_the_objectives_that_are_active(pretrain):
    two = {"data__languages": ["de", "en"], "run__eval_sequences": 2}
    out = pretrain(objectives__active=["mmlm"], run__log_steps=12, **two)
    record = records(out)[0]
    assert "mmlm" in record and not {"tlm", "camlm", "btmlm"} & set(record)
    held_out = records(out)[-1]["held_out"]
    # What it was not trained on is evaluated all the same, so that runs can be compared.
    assert set(held_out) == {"mmlm", "tlm", "camlm", "retrieval", "candidates"}
    assert [*held_out["mmlm"]] == ["de", "en"] and held_out["candidates"] == {"de-en": 2}


def test_a_step_whose_pairs_are_all_left_out(tiny_corpus):
    """Without micro-batches, it counts as a step of loss 0."""
    task = Pretraining(config(tiny_corpus))
    engine = task.begin(1, None)
    data = StepBatches(micro_batches=[], share={"camlm": 1.0}, counts={"camlm": 0}, position={"step": 1})
    step = engine.step(task.copy_to_device(engine.model, data), task.loss)
    assert (step.loss, step.skipped, engine.steps) == (0.0, False, 1)


def test_the_last_step_is_logged(pretrain):
    """It does not end an interval of three steps."""
    out = pretrain(optimizer__steps=4, run__eval_sequences=0)
    assert [record["step"] for record in records(out)] == [3, 4]


def test_a_config_that_the_user_has_put_there_stays(pretrain, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.yaml").write_text("# mine\noptimizer: {steps: 1}\n")
    for overwrite in (False, True):
        out = pretrain(optimizer__steps=1, run__eval_sequences=0, run__overwrite=overwrite)
    assert (out / "config.yaml").read_text() == "# mine\noptimizer: {steps: 1}\n"


def test_options_that_change_nothing_but_memory(pretrain):
    """Recomputing activations, and micro-batches of another size, in float64 without dropout."""
    options = {
        "model__hidden_dropout_prob": 0.0,
        "model__attention_probs_dropout_prob": 0.0,
        "run__dtype": "float64",
        "run__log_steps": 1,
        "optimizer__steps": 4,
    }
    usual = pretrain(**options)
    again = pretrain("again", **options, run__recompute=True, run__micro_batch_tokens=300)
    assert losses(again) == pytest.approx(losses(usual), abs=1e-9, rel=0)
