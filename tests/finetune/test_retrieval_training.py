"""Fine-tuning for retrieval: what a step reads, that it learns, resume bit for bit, two processes as one."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import run_retrieval
from finetune.sentence_pairs import StepPairs
from reader.corpus import Corpus
from reader.tokenization import Tokenizer
from tests.launching import as_flags, call_main
from utils.errors import UserError

WORDS = "embeddings.word_embeddings.weight"


def line(corpus, output, **changes):
    values = {
        "do_train": "true",
        "train_set": corpus,
        "checkpoints": output,
        "use_cuda": "false",
        "ernie_config_path": corpus.parent / "config.json",
        "piece_model_path": corpus / "piece.model",
        "vocab_path": corpus / "vocab.txt",
        "max_seq_len": 32,
        "max_steps": 6,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "save_steps": 3,
        "validation_steps": 3,
        "keep_checkpoints": 9,
        "skip_steps": 2,
    } | changes
    return as_flags(values)


@pytest.fixture
def train(corpus, tmp_path, monkeypatch):
    """train(output, **flags) runs in `tmp_path`; returns the log of the run."""
    monkeypatch.chdir(tmp_path)

    def call(output, **changes):
        log = tmp_path / "log" / "job.log.0"
        log.unlink(missing_ok=True)
        call_main(run_retrieval, line(corpus, tmp_path / output, **changes))
        return log.read_text()

    return call


def arrays(step):
    """Weights and optimizer state of a checkpoint."""
    state = load_file(step / "training_state" / "arrays.safetensors")
    return load_file(step / "model.safetensors") | {f"state/{name}": value for name, value in state.items()}


def test_a_step_reads_its_pairs(corpus):
    tokenizer = Tokenizer.from_folder(corpus)
    single = StepPairs(tokenizer, str(corpus), 8, 32, 0.7, seed=1)
    parts = [StepPairs(tokenizer, str(corpus), 8, 32, 0.7, 1, rank, 3) for rank in range(3)]
    forward = set()  # the pairs of the corpus, in its order of the languages
    for pairs in Corpus(corpus).parallel.values():
        for i in range(len(pairs)):
            source, target = pairs[i]
            forward.add((tuple(source.tolist()), tuple(target.tolist())))
    backward = {(target, source) for source, target in forward}
    directions = set()
    for _, step, *shares in zip(range(4), single(), *(part() for part in parts)):
        sources, translations = step.sentences[:8], step.sentences[8:]
        for a, b in zip(sources, translations):
            assert (a[0], a[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
            pair = tuple(a[1:-1].tolist()), tuple(b[1:-1].tolist())
            assert pair in forward | backward
            directions.add("forward" if pair in forward else "backward")
        assert [len(share.sentences) for share in shares] == [4, 6, 6]
        for side in (0, 1):
            joined = [ids for share in shares for ids in np.split(np.array(share.sentences, object), 2)[side]]
            for ids, expected in zip(joined, step.sentences[8 * side :], strict=False):
                np.testing.assert_array_equal(ids, expected)
        assert all((share.negative == step.negative).all() for share in shares)
    assert directions == {"forward", "backward"}


def test_it_learns_and_keeps_the_best(train, corpus, tmp_path):
    flags = {
        "max_steps": 60,
        "batch_size": 24,
        "validation_steps": 20,
        "skip_steps": 20,
        "save_steps": 200,
        "validation_pairs": 8,
    }
    log = train("out", **flags)
    won = [float(share) for share in re.findall(r"beat their negatives: ([\d.]+) %", log)]
    losses = [float(loss) for loss in re.findall(r"ave loss: ([\d.]+)", log)]
    assert len(won) == 3 and won[-1] > 1.5 * won[0] and losses[-1] < 0.8 * losses[0]
    means = {int(s): float(m) for s, m in re.findall(r"found at step (\d+): mean ([\d.]+)", log)}
    assert list(means) == [0, 20, 40, 60]
    config = json.loads((tmp_path / "out" / "best" / "config.json").read_text())
    best = next(step for step, mean in means.items() if mean == max(means.values()))
    assert (config["step"], config["task"]) == (best, "retrieval")
    assert config["reading"] == {"layer": 1, "pooling": "mean"}
    first, last = (load_file(tmp_path / "out" / name / "model.safetensors") for name in ("best", "step_60"))
    untouched = [name for name in last if name.startswith(("encoder.layers.1.", "pooler."))]
    assert untouched and all((first[name] == last[name]).all() for name in untouched), "above layer 1"
    shutil.rmtree(tmp_path / "out" / "step_60")
    assert "ave loss" not in train("out", **flags)  # it is finished


def test_resume_bit_for_bit(train, tmp_path):
    train("one")
    log = train("two", init_checkpoint=tmp_path / "one" / "step_3")
    assert "going on from" in log and "step 3 of 6" in log
    straight, resumed = arrays(tmp_path / "one" / "step_6"), arrays(tmp_path / "two" / "step_6")
    assert straight.keys() == resumed.keys() and any(name.startswith("state/") for name in straight)
    for name, value in straight.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    paths = (tmp_path / run / "step_6" / "training_state" / "state.json" for run in ("one", "two"))
    states = [json.loads(path.read_text())["state"] for path in paths]
    assert states[0] == states[1] and states[0]["position"]["draws"] == 48
    train("three", random_seed=2, max_steps=3)
    assert (arrays(tmp_path / "three" / "step_3")[WORDS] != arrays(tmp_path / "one" / "step_3")[WORDS]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_set": ""}, "--train_set is needed with --do_train true"),
        ({"train_set": "absent"}, "absent: no finished corpus there"),
        ({"layer": 3}, "layer 3: no such layer"),
        ({"init_checkpoint": "absent"}, "absent: no such folder"),
        ({"scale": 0}, "--scale 0: it must be above 0"),
    ],
)
def test_bad_flags(train, changes, message):
    with pytest.raises(UserError, match=message):
        train("out", **changes)


def test_another_corpus_is_another_run(train, corpus, tmp_path):
    train("out", max_steps=3)
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + " ")
    with pytest.raises(UserError, match=r"out holds another run \(train_set: "):
        train("out", max_steps=3, train_set=copy)
    with pytest.raises(UserError, match="best: no training_state there"):
        train("out", init_checkpoint=tmp_path / "out" / "best")
