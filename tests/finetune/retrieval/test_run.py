"""run_retrieval.py with a corpus: what a step reads, learning, bad flags."""

import json
import re
import shutil
from itertools import islice
from types import SimpleNamespace
from typing import get_args

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from ernie_m.finetune.retrieval import contrastive_training
from ernie_m.finetune.retrieval.contrastive_training import RetrievalTraining
from ernie_m.finetune.retrieval.pair_batches import CorpusPairBatches
from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.finetune.run_setup import make_fingerprint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.ernie import ErnieMModel
from ernie_m.model.pipeline_config import Pooling
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.vectors.encode import PaddleEncoder, compute_sentence_embeddings
from tests.helpers.checkpoints import assert_same_weights, stored
from tests.helpers.files import flip_last_bit
from tests.launching import error_of, read_masked_log
from tests.toys import make_corpus, sentences, write_lines

TEXTS = sentences(6, seed=4)


def make_steps(corpus, alpha=0.7, max_seq_len=64):
    """The steps of 8 pairs: a function that returns an iterator."""
    return CorpusPairBatches(
        tokenizer=Tokenizer.from_folder(corpus),
        path=str(corpus),
        batch_size=8,
        max_seq_len=max_seq_len,
        alpha=alpha,
        seed=1,
    )


def without_special(ids):
    """A sentence that can be an element of a set: its ids between [CLS] and [SEP]."""
    return tuple(ids[1:-1].tolist())


def test_a_step_draws_corpus_pairs_in_both_directions(corpus, tokenizer):
    # The pairs of the corpus, in its order of the languages.
    forward = {
        tuple(tuple(side.tolist()) for side in pairs[i])
        for pairs in Corpus(corpus).parallel.values()
        for i in range(len(pairs))
    }
    backward = {(target, source) for source, target in forward}
    directions = set()
    for step in islice(make_steps(corpus)(), 4):
        for source, translation in zip(step.sentences[:8], step.sentences[8:], strict=True):
            assert (source[0], source[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
            pair = (without_special(source), without_special(translation))
            assert pair in forward | backward
            directions.add("forward" if pair in forward else "backward")
    assert directions == {"forward", "backward"}
    assert max(map(len, next(make_steps(corpus, max_seq_len=5)()).sentences)) == 5


@pytest.mark.parametrize(("alpha", "only"), [(40.0, "most"), (-40.0, "fewest")])
def test_draw_language_pairs_by_exponent(corpus, alpha, only):
    """To a great power the largest alone is drawn, to a negative one the smallest."""
    counts = {"-".join(languages): len(pairs) for languages, pairs in Corpus(corpus).parallel.items()}
    assert len(set(counts.values())) == len(counts) > 1
    name = (max if only == "most" else min)(counts, key=counts.get)
    positions = next(make_steps(corpus, alpha=alpha)()).position["positions"]
    assert positions == {**dict.fromkeys(counts, 0), name: 8}


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_training_embeddings_equal_evaluation_embeddings(corpus, monkeypatch, pooling):
    """In the order of its sentences, though it groups them by length."""
    monkeypatch.setattr(contrastive_training, "GROUP_TOKENS", 64)
    paddle.seed(3)
    model = ErnieMModel(ErnieMConfig.from_json(corpus.parent / "config.json"))
    model.eval()
    step = next(make_steps(corpus)())
    task = SimpleNamespace(flags=RetrievalFlags(pairs="pairs", pooling=pooling))
    (batch,) = RetrievalTraining.copy_to_device(task, model, step)
    assert len(batch.groups) > 1
    groups = [compute_sentence_embeddings(model, group, 2).numpy() for group in batch.groups]
    expected = PaddleEncoder(model, pooling, 2).encode(step.sentences)
    np.testing.assert_allclose(np.concatenate(groups)[batch.order.numpy()], expected, atol=1e-5)


# What a run with two seeds logs, as `read_masked_log` has it.
SEED = """\
WARNING no --init_pretraining_params: initializing all weights randomly
WARNING --warmup_proportion # of 4 steps rounds to 0: constant learning rate
INFO device: cpu; precision float32; attention unpadded; 1 process
INFO validation accuracy@1: # (step 0), de-en #, en-fr #
INFO step: 2/4, ave loss: #, in-batch accuracy: # %, lr: #, grad norm: #, speed: # steps/s, # left
INFO validation accuracy@1: # (step 2), de-en #, en-fr #, ave loss: #, # left
INFO saved RUN/out/seed_1/step_3
INFO step: 4/4, ave loss: #, in-batch accuracy: # %, lr: #, grad norm: #, speed: # steps/s, # left
INFO saved RUN/out/seed_1/step_4
INFO validation accuracy@1: # (step 4), de-en #, en-fr #, ave loss: #, # left
"""
SCORES = """\
 de avg
 seed 1 # #
 seed 2 # #
 mean # #
deviation ± # ± #
untrained # #
"""
LOG = f"""\
INFO RUN/de-en.tsv: de: {TEXTS[0]}
INFO RUN/de-en.tsv: en: {TEXTS[0]} kani
WARNING TOY/corpus: 1 of 342 sampled texts are truncated to 32 tokens (max_seq_len)
{SEED}{SEED.replace("seed_1", "seed_2")}\
INFO results
en -> xx, cosine, mean_without_special, layer 1
{SCORES}
xx -> en, cosine, mean_without_special, layer 1
{SCORES}
mean of both directions, cosine, mean_without_special, layer 1
{SCORES}
mean of both directions, margin, mean_without_special, layer 1
{SCORES}\
INFO wrote RUN/out/retrieval.{{txt,md,json}}
"""


def test_log_of_a_training(train_on_pairs, corpus, tmp_path, models_in_memory):
    """Of two seeds, which are searched as well. The second has the weights that it has alone."""
    write_lines(tmp_path / "de-en.tsv", [f"{text}\t{text} kani" for text in TEXTS])
    flags = {"max_steps": 4, "validation_steps": 2, "validation_pairs": 5, "pairs": tmp_path}
    train_on_pairs("out", random_seed="1,2", **flags)
    assert models_in_memory == [0, 0, 1, 0, 0]  # the third is the baseline of the first seed
    log = read_masked_log(tmp_path, TOY=corpus.parent)
    train_on_pairs("alone", random_seed=2, **flags)
    assert_same_weights(tmp_path / "out/seed_2/best", tmp_path / "alone/best")
    assert log == LOG


def test_it_learns_and_keeps_the_best(train_on_pairs, tmp_path):
    """By 5 of the 8 pairs that are held out of each language."""
    flags = {
        "max_steps": 60,
        "batch_size": 24,
        "validation_steps": 20,
        "skip_steps": 20,
        "save_steps": 200,
        "validation_pairs": 5,
    }
    log = train_on_pairs("out", **flags)
    evaluations = re.findall(r"validation accuracy@1: ([\d.]+) \(step (\d+)\)", log)
    means = {int(step): float(mean) for mean, step in evaluations}  # step -> per cent found
    of_languages = np.array(re.findall(r", (?:de-en|en-fr) ([\d.]+)", log), float).reshape(4, 2)
    assert not (of_languages % 10).any()
    assert [*means.values()] == of_languages.mean(axis=1).tolist()
    config = json.loads((tmp_path / "out" / "best" / "config.json").read_text())
    assert {key: config[key] for key in ("step", "task", "pipeline")} == {
        "step": max(means, key=means.get),  # the first of equal means
        "task": "retrieval",
        "pipeline": stored(layer=1, pooling="mean_without_special"),
    }
    best_weights = load_file(tmp_path / "out" / "best" / "model.safetensors")
    last_weights = load_file(tmp_path / "out" / "step_60" / "model.safetensors")
    # The vectors are those of layer 1, so what lies above it is not trained.
    trained = {name for name in last_weights if not np.array_equal(best_weights[name], last_weights[name])}
    assert trained and not [name for name in trained if name.startswith(("encoder.layers.1.", "pooler."))]


def test_each_seed_trains_from_its_checkpoint(train_on_pairs, tmp_path, models_in_memory):
    """At a rate of 0 it stays. Without validation pairs, the model of the last step is searched."""
    write_lines(tmp_path / "de-en.tsv", [f"{text}\t{text} kani" for text in TEXTS])
    for seed in (1, 2):
        train_on_pairs(f"start_{seed}", max_steps=1, random_seed=seed)
    flags = {"init_pretraining_params": f"{tmp_path}/start_%d/best", "random_seed": "1,2", "pairs": tmp_path}
    train_on_pairs("out", max_steps=1, learning_rate=0, validation_pairs=0, **flags)
    for seed in (1, 2):
        assert_same_weights(tmp_path / f"out/seed_{seed}/step_1", tmp_path / f"start_{seed}/best")
    assert (tmp_path / "out/retrieval.json").is_file()
    assert models_in_memory[-3:] == [0, 1, 0]  # of seed 1, its baseline, of seed 2


def test_run_fingerprint_covers_the_weights_for_each_seed(corpus, tokenizer):
    """Seed 2 starts from other weights: that is another run."""
    config = ErnieMConfig.from_json(corpus.parent / "config.json")

    def weights(*numbers: float, names: str = "xy") -> str:
        starts = [
            SimpleNamespace(path=seed, tensors={name: np.array([number]) for name in names})
            for seed, number in enumerate(numbers)
        ]
        flags = RetrievalFlags(pairs="pairs", random_seed=(1, 2))
        return make_fingerprint(flags, "retrieval", starts, config, tokenizer)["start"]

    assert weights(1.0, 2.0) == weights(1.0, 2.0) == weights(1.0, 2.0, names="yx")
    others = (weights(1.0, 3.0), weights(3.0, 2.0), weights(1.0, 2.0, names="xz"))
    assert weights(1.0, 2.0) not in others


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_set": ""}, "--train_set"),
        ({"train_set": "absent"}, "absent: "),
        ({"layer": 3}, "layer 3 "),
        ({"init_checkpoint": "absent"}, "absent: "),
        ({"scale": 0}, "--scale 0: "),
        ({"pair_alpha": 200}, "--pair_alpha 200"),
    ],
)
def test_reject_bad_flags(train_on_pairs, changes, message):
    assert message in error_of(train_on_pairs, "out", **changes)


def test_reject_corrupt_corpus(train_on_pairs, corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    corrupt = max(copy.glob("parallel/*/train-*.ids.npy"))
    flip_last_bit(corrupt)
    assert f"{corrupt}: corrupt" in error_of(train_on_pairs, "out", train_set=copy)
    mono = {"de": write_lines(tmp_path / "de", TEXTS)}
    make_corpus(tmp_path / "mono", corpus.parent / "piece.model", mono=mono)
    assert error_of(train_on_pairs, "out", train_set=tmp_path / "mono").startswith(f"{tmp_path}/mono: ")


def test_log_if_no_step_beats_the_initial_checkpoint(train_on_pairs, tmp_path):
    best = f"{tmp_path}/out/best"
    assert f"initial checkpoint; {best}" in train_on_pairs("out", max_steps=2, learning_rate=0)


def test_another_corpus_is_another_run(train_on_pairs, corpus, tmp_path):
    train_on_pairs("out", max_steps=3)
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text() + " ")
    assert "out: made with other settings (train_set: " in error_of(
        train_on_pairs, "out", max_steps=3, train_set=copy
    )
    best = tmp_path / "out" / "best"
    assert f"--init_pretraining_params {best}" in error_of(train_on_pairs, "out", max_steps=4)
    further = {"max_steps": 1, "pair_alpha": 0, "validation_pairs": 0, "init_pretraining_params": best}
    train_on_pairs("further", **further)
    state = json.loads((tmp_path / "further/step_1/training_state/state.json").read_text())["trainer"]
    drawn = [next(make_steps(corpus, alpha=alpha)()).position for alpha in (0.0, 0.7)]
    assert state["position"] == drawn[0] != drawn[1]
    assert "best: missing training_state" in error_of(train_on_pairs, "out", init_checkpoint=best)
