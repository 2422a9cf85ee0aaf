"""What a step does, and what files a run writes."""

import gc
import re
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from ernie_m.model import kernel_selection
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.heads import SequenceClassifier
from ernie_m.pretrain import pretraining
from ernie_m.pretrain.batches import StepBatches
from ernie_m.pretrain.loss import list_sum_names
from ernie_m.pretrain.pretraining import Pretraining
from ernie_m.reader.corpus import Corpus
from ernie_m.training import device_summary, stop_requests
from ernie_m.training.engine import Engine
from ernie_m.training.prefetch import PrefetchIterator
from ernie_m.training.stop_requests import StallWatchdog
from tests.helpers.arrays import assert_equal_arrays
from tests.helpers.dtypes import default_dtype
from tests.helpers.files import read_files, write_file
from tests.pretrain.tiny_run import checkpoint, config, records


def select_encoder(weights: dict) -> dict:
    """The tensors of the encoder."""
    prefixes = ("embeddings.", "encoder.", "pooler.")
    return {name: value for name, value in weights.items() if name.startswith(prefixes)}


def test_a_fresh_head_is_trained_alone_first(pretrain):
    """For four steps: checkpoints after 2, 4 and 6 steps tell what has changed."""
    out = pretrain(
        init__lm_head_warmup_steps=4,
        init__lm_head_learning_rate=0.02,
        optimizer__steps=7,
        model__num_hidden_layers=1,
        run__micro_batch_tokens=512,
        run__save_steps=2,
        run__keep_checkpoints=9,
        run__log_steps=1,
        run__eval_sequences=0,
    )
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
    if find_spec("ernie_m.model.cpu"):
        onednn = import_module("ernie_m.model.cpu.onednn")
        monkeypatch.setattr(onednn, "_KEPT", 8)
        monkeypatch.setattr(onednn, "_thread", onednn._ThreadCaches())
    objects = {}  # after a step: how many there are
    step = Engine.step

    def counted_step(engine, *args, **options):
        result = step(engine, *args, **options)
        if engine.steps in (8, 24):
            gc.collect()
            objects[engine.steps] = len(gc.get_objects())
        return result

    monkeypatch.setattr(Engine, "step", counted_step)
    pretrain(
        model__num_hidden_layers=1,
        objectives__btmlm_start=0.1,
        optimizer__steps=24,
        run__micro_batch_tokens=512,
        run__save_steps=99,
        run__eval_sequences=0,
    )
    # What the batches that lie ready are made of varies by some objects.
    assert objects[24] - objects[8] < 100  # it would be 16 of each list that a step keeps


def test_warn_if_the_head_is_undertrained_after_warm_up(pretrain):
    """The step is evaluated, and the warning names the keys of the warm-up."""
    small = {"model__num_hidden_layers": 1, "data__languages": ["de", "en"]}
    out = pretrain(
        init__lm_head_warmup_steps=2,
        optimizer__steps=4,
        optimizer__warmup_steps=1,
        run__eval_steps=1,
        **small,
    )
    assert [record["step"] for record in records(out) if "held_out" in record] == [1, 2, 3, 4]
    log = (out / "log/job.log.0").read_text()
    assert "steps 1 to 2 train only the head" in log
    (warning,) = [
        line for line in log.splitlines() if "init.lm_head_learning_rate" in line and "WARN" in line
    ]
    assert "init.lm_head_warmup_steps" in warning
    # A run of one step only writes its initial weights.
    log = (pretrain("one", optimizer__steps=1, **small) / "log/job.log.0").read_text()
    assert "[held-out] mmlm" in log and "WARN" not in log


def test_plain_kernels_are_chosen_by_the_key(pretrain, monkeypatch):
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.FAST)
    pretrain(optimizer__steps=1, run__eval_sequences=0, run__kernels="plain")
    assert kernel_selection.has_plain_kernels()


def test_the_encoder_is_what_fine_tuning_takes(pretrained, tiny_corpus):
    encoder, full = (open_checkpoint(pretrained / name) for name in ("encoder", "full"))
    for path, name in ((encoder.vocab_path, "vocab.txt"), (encoder.piece_model_path, "piece.model")):
        assert path.read_bytes() == (tiny_corpus / name).read_bytes()
    # A classifier finds everything there but its own head.
    model = SequenceClassifier(encoder.config, 3)
    missing = ["classifier.weight", "classifier.bias"]
    assert load_weights(model, encoder, optional=("pooler.", "classifier.")) == missing
    words = full.tensors["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(model.ernie_m.embeddings.word_embeddings.weight.numpy(), words)
    # The other export, for more pre-training, has the language embeddings and says how inputs were made.
    assert set(full.tensors) - set(encoder.tensors) == {
        name for name in full.tensors if name.startswith(("lm_head.", "language_embeddings."))
    }
    settings = {"model_type": "ernie_m", "trained_max_seq_len": 32}
    assert (encoder.settings, encoder.pipeline_config.to_json()) == (
        {**settings, "architecture": "ErnieMModel"},
        {},
    )
    assert (full.settings, full.pipeline_config.to_json()) == (
        {
            **settings,
            "architecture": "PreTrainingModel",
            "languages": ["de", "en", "fr"],
            "drawn": {"corpus": Corpus(tiny_corpus).digest, "seed": 1},
        },
        {"language_embedding": "masks", "pseudo_proportion": 0.2, "pseudo_positions": "first"},
    )


# What a run of the configuration of `tiny_run` logs. # is a number of the clock, the machine or the weights.
EVALUATION = """\
INFO [held-out] mmlm: perplexity # (geometric mean; unigram baseline: #), accuracy # %
INFO [held-out] tlm: perplexity # (geometric mean), accuracy # %
INFO [held-out] camlm: perplexity # (geometric mean), accuracy # %
INFO [held-out] btmlm: perplexity # (geometric mean; without the pseudo-tokens: #), accuracy # %
INFO [held-out] retrieval accuracy@1 among 5 to 6 sentences (chance # %): layer 0 #, layer 1 #, layer 2 # %
"""
LOG = f"""\
INFO cpu: #
INFO steps 1 to 4: mmlm 50 %, tlm 25 %, camlm 25 %
INFO steps 5 to 12: mmlm 25 %, tlm 25 %, camlm 25 %, btmlm 25 %
INFO 60 of 171 pairs exceed data.max_seq_len 32; #% of all tokens are truncated, #% of de-en, #% of en-fr
INFO device: cpu; precision float32; attention {device_summary.name_attention(False)}; 1 process
INFO model: hidden_size 16, num_hidden_layers 2, num_attention_heads 2, max_position_embeddings 514
INFO data: corpus CORPUS, max_seq_len 32, pack_lines False
INFO objectives: the defaults
INFO init: the defaults
INFO optimizer: steps 24, batch_size 12, learning_rate #, warmup_steps 3
INFO run: output OUT, micro_batch_tokens 512, log_steps 3, save_steps 4, eval_steps 6, eval_sequences 6, \
compute_ratio #
INFO options: OUT/config.yaml
INFO step 3 of 12 | mmlm # (ppl #, acc #) | tlm # (ppl #, acc #) | camlm # (ppl #, acc #) | grad #, lr # | \
# tokens/s, # TFLOP/s, # + 2 evaluations left | # epochs
INFO saved OUT/checkpoints/step_4
INFO step 6 of 12 | mmlm # (ppl #, acc #) | tlm # (ppl #, acc #) | camlm # (ppl #, acc #) | \
btmlm # (ppl #, acc #) | grad #, lr # | # tokens/s, # TFLOP/s, # + 2 evaluations left | # epochs
{EVALUATION}\
INFO saved OUT/checkpoints/step_8
INFO step 9 of 12 | mmlm # (ppl #, acc #) | tlm # (ppl #, acc #) | camlm # (ppl #, acc #) | \
btmlm # (ppl #, acc #) | grad #, lr # | # tokens/s, # TFLOP/s, # left | # epochs
INFO step 12 of 12 | mmlm # (ppl #, acc #) | tlm # (ppl #, acc #) | camlm # (ppl #, acc #) | \
btmlm # (ppl #, acc #) | grad #, lr # | # tokens/s, # TFLOP/s, # left | # epochs
INFO saved OUT/checkpoints/step_12
{EVALUATION}\
INFO for fine-tuning: --init_pretraining_params OUT/encoder; to continue pre-training: \
--init.encoder OUT/full --init.lm_head same
INFO Next: ernie-m serve --model OUT/full
"""
MODEL_FILES = ("README.md", "config.json", "manifest.json", "model.safetensors", "piece.model", "vocab.txt")
STATE_FILES = ("arrays.safetensors", "manifest.json", "state.json")


def test_log_and_files_of_a_run(pretrained, tiny_corpus):
    log = (pretrained / "log/job.log.0").read_text()
    log = log.replace(str(pretrained), "OUT").replace(str(tiny_corpus), "CORPUS")
    log = re.sub(r"^\S+ \S+ ", "", log, flags=re.MULTILINE)  # date and time
    log = re.sub("^INFO cpu: .*", "INFO cpu: #", log)
    # The rest depends on the CPU, and on how much the model has learned.
    log = re.sub(
        "^(INFO bfloat16 available|WARNING mmlm has learned little) .*\n", "", log, flags=re.MULTILINE
    )
    assert re.sub(r"[\d.e-]+(?= TFLOP/s)|\d+\.\d+|[\d,]+(?= tokens/s)|\d+:\d+:\d+", "#", log) == LOG
    names = {"log/job.log.0", "metrics.jsonl", "config.yaml", ".lock"}
    for folder in ("full", "encoder"):
        names |= {f"{folder}/{name}" for name in (*MODEL_FILES, "language_means.safetensors")}
    for folder in ("checkpoints/step_8", "checkpoints/step_12"):
        names |= {f"{folder}/{name}" for name in MODEL_FILES}
        names |= {f"{folder}/training_state/{name}" for name in STATE_FILES}
    assert read_files(pretrained).keys() == names
    steps = [(record["step"], "held_out" in record) for record in records(pretrained)]
    assert steps == [(3, False), (6, False), (6, True), (9, False), (12, False), (12, True)]


def test_only_the_objectives_that_are_active(pretrain):
    two = {"data__languages": ["de", "en"], "run__eval_sequences": 2}
    out = pretrain(objectives__active=["mmlm"], optimizer__steps=3, **two)
    record = records(out)[0]
    assert "mmlm" in record and not {"tlm", "camlm", "btmlm"} & set(record)
    held_out = records(out)[-1]["held_out"]
    # What it was not trained on is evaluated all the same, so that runs can be compared.
    assert set(held_out) == {"mmlm", "tlm", "camlm", "retrieval", "candidates"}
    assert [*held_out["mmlm"]] == ["de", "en"] and held_out["candidates"] == {"de-en": 2}


def test_the_options_of_the_engine(tiny_corpus, monkeypatch):
    monkeypatch.setattr(pretraining, "Precision", lambda *options, **more: (options, more))
    monkeypatch.setattr(pretraining, "Engine", lambda model, adamw, **options: (model, options))
    settings = config(
        tiny_corpus,
        run__amp="bf16",
        run__amp_level="O2",
        run__dtype="float64",
        run__sharding_stage=1,
        run__max_bad_steps=3,
        run__recompute=True,
        optimizer__clip_norm=2.0,
    )
    with default_dtype("float32"):
        model, of_engine = Pretraining(settings)._make_engine(5, None)
    assert model.ernie_m.recompute and {str(weight.dtype) for weight in model.parameters()} == {
        "paddle.float64"
    }
    assert of_engine == {
        "seed": 5,
        "clip_norm": 2.0,
        "precision": (("bf16", "O2"), {"option": "--run.amp"}),
        "sharding_stage": 1,
        "max_bad_steps": 3,
        "sums": list_sum_names(),
    }


def test_a_step_whose_pairs_are_all_left_out(tiny_corpus):
    """Without micro-batches, it counts as a step of loss 0."""
    task = Pretraining(config(tiny_corpus))
    engine = task.begin(1, None)
    data = StepBatches(micro_batches=[], share={"camlm": 1.0}, counts={"camlm": 0}, position={"step": 1})
    step = engine.step(task.copy_to_device(engine.model, data), task.loss)
    assert (step.loss, step.skipped, engine.steps) == (0.0, False, 1)


def test_the_last_step_is_logged(pretrain):
    """It does not end an interval of three steps."""
    out = pretrain(optimizer__steps=4, run__eval_sequences=0, run__stop_after_steps=9)
    assert [record["step"] for record in records(out)] == [3, 4]


def test_limits_each_wait_of_a_run(pretrain, monkeypatch):
    """Each wait has a limit. A request to stop leaves none of a task whose steps are not divisible."""
    events = []  # waits, and how a wait for a batch and a step may be stopped
    for owner, name, describe in (
        (StallWatchdog, "watch", lambda watchdog, name: (watchdog.seconds, name)),
        (PrefetchIterator, "next_unless_stopped", lambda batches, stop: stop),
        (Engine, "step", lambda *_, divisible, **options: divisible),
    ):
        original = getattr(owner, name)

        def call(*args, original=original, describe=describe, **options):
            events.append(describe(*args, **options))
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)
    monkeypatch.setattr(stop_requests, "world_size", lambda: 2)
    monkeypatch.setattr(Pretraining, "divisible", False)
    pretrain(optimizer__steps=1, run__eval_sequences=1, run__stall_ends_seconds=600)
    assert events == [
        (600, "reading for step 1"),
        None,
        (600, "step 1"),
        False,
        (600, "the checkpoint of step 1"),
        (600, "the evaluation after step 1"),
        (600, "the last step"),
        (600, "the checkpoint of step 1"),
        (600, "the export of the finished model"),
    ]


def test_a_config_that_the_user_has_put_there_stays(pretrain, tmp_path):
    write_file(tmp_path / "out/config.yaml", "# mine\noptimizer: {steps: 1}\n")
    for overwrite in (False, True):
        out = pretrain(optimizer__steps=1, run__eval_sequences=0, run__overwrite=overwrite)
    assert (out / "config.yaml").read_text() == "# mine\noptimizer: {steps: 1}\n"
