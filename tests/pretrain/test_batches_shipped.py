"""The batches of every shipped configuration stay the same, to the last bit.

A change of a digest means that a run of that configuration would train on something else than before.
"""

import hashlib
import json

import numpy as np
import pytest

from ernie_m.pretrain.config import PretrainConfig
from ernie_m.pretrain.corpus_selection import TrainingData
from ernie_m.pretrain.masking import Vocabulary
from ernie_m.pretrain.objective_mix import make_phases
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.pretrain.run_length import plan_run
from ernie_m.reader.corpus import FORMAT, Corpus, compute_checksum
from ernie_m.utils.args import parse_options
from ernie_m.utils.checksums import MANIFEST
from tests.launching import ROOT
from tests.pretrain.examples import target_objectives
from tests.pretrain.tiny_run import make_reader

LANGUAGES = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
VOCABULARY = Vocabulary(cls_id=0, pad_id=1, sep_id=2, unk_id=3, mask_id=99, size=100)
TOTAL_STEPS = 10
STEPS = 6  # the first ones, whose batches are compared; BTMLM begins among them, after 30 % of all
ARRAYS = ("input_ids", "position_ids", "language_ids", "lengths", "context_lengths")
OF_STAGE1 = ("placeholders", "slots", "slot_sentences", "slot_languages", "draws")


def write_stream(folder, name, line_lengths, lines_per_document):
    """Write one shard of made-up ids, and return its entry in the manifest.

    Args:
        name: "mono/en" or "parallel/de-en".
        line_lengths: tokens of each line; a pair is two lines.
        lines_per_document: 0 for pairs.
    """
    # 7919 is prime, so all ids from [UNK], 3, to 98 come in turn.
    ids = 3 + (np.arange(line_lengths.sum()) * 7919) % 96
    arrays = {"ids": ids.astype("<u2"), "lines": np.cumsum([0, *line_lengths]).astype("<u4")}
    if lines_per_document:
        documents = [*range(0, len(line_lengths), lines_per_document), len(line_lengths)]
        arrays["documents"] = np.array(documents, "<u4")
    (folder / name).mkdir(parents=True)
    for kind, array in arrays.items():
        np.save(folder / name / f"train-00000.{kind}.npy", array)
    shard = {"name": "train-00000", "tokens": len(ids), "lines": len(line_lengths), "index": "0" * 16}
    return {"train": {"shards": [shard]}, "held_out": {"shards": []}}


@pytest.fixture(scope="module")
def corpus(module_folder):
    """Fifteen languages, each paired with English. No two streams have the same size; nothing is random."""
    manifest = {
        "format": FORMAT,
        "vocabulary": {"digest": "0" * 16, "size": VOCABULARY.size},
        "files": {},
        "pieces": dict.fromkeys(LANGUAGES, "pieces.npy"),  # which nothing reads
        "mono": {},
        "parallel": {},
    }
    for number, language in enumerate(LANGUAGES):
        line_lengths = 1 + (np.arange(150 + 10 * number) * 37) % 61  # from 1 to 61 tokens
        lines_per_document = 1 + number % 7
        manifest["mono"][language] = write_stream(
            module_folder, f"mono/{language}", line_lengths, lines_per_document
        )
        if language != "en":
            pair = "-".join(sorted([language, "en"]))
            line_lengths = 1 + (np.arange(200 + 20 * number) * 11) % 40  # from 1 to 40
            manifest["parallel"][pair] = write_stream(module_folder, f"parallel/{pair}", line_lengths, 0)
    (module_folder / "pieces.npy").touch()
    paths = [path for path in module_folder.rglob("*") if path.is_file()]
    manifest["files"] = {
        str(path.relative_to(module_folder)): {"bytes": path.stat().st_size, "sha256": ""} for path in paths
    }
    (module_folder / MANIFEST).write_text(json.dumps(manifest | {"sha256": compute_checksum(manifest)}))
    return Corpus(module_folder)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch):
    """Measure the tokens of a step in 400 sequences instead of 8,192, to be quick."""
    monkeypatch.setattr("ernie_m.pretrain.run_length._PROBE_SEQUENCES", 400)


def digest_run(corpus, name, *flags):
    """A digest of the batches and positions of a run's first steps, and of its steps if they are computed."""
    path = ROOT / "configs" / "pretrain" / f"{name}.yaml"
    config = parse_options(PretrainConfig, ["--config", str(path), *flags])
    config.optimizer.batch_size = min(config.optimizer.batch_size, 96)
    text = TrainingData.from_corpus(corpus, VOCABULARY, config)
    reader = make_reader(config, text, make_phases(config.objectives, TOTAL_STEPS))
    digest = hashlib.sha256()
    for _ in range(STEPS):
        step = reader.make_step_batches()
        counts = [step.counts.get(name, 0) for name in OF_THE_PAPER]
        digest.update(json.dumps([step.share, counts, step.position]).encode())
        for batch in step.micro_batches:
            arrays = [getattr(batch.inputs, field) for field in ARRAYS]
            arrays += [batch.targets, batch.target_ids, target_objectives(batch)]
            if batch.stage1 is not None:
                arrays += [getattr(batch.stage1.inputs, field) for field in ARRAYS]
                arrays += [np.array(getattr(batch.stage1, field)) for field in OF_STAGE1]
            for array in arrays:
                digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    if config.optimizer.tokens:
        digest.update(str(plan_run(config, text).steps).encode())
    return digest.hexdigest()[:16]


# The other files of configs/pretrain have the same batches as one of these.
DIGESTS = {
    "exp1": "d23e675d7700f98b",
    "exp2": "60490262d9914883",
    "exp3": "ee5197c86d982916",
    "exp4": "571745b9cdcb6328",
    "exp5": "66f814d7585727e8",
    "continue": "ab615b31da4092bd",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_configuration_batches(corpus, name):
    assert digest_run(corpus, name) == DIGESTS[name]


def test_the_default_mixing_ratios(corpus):
    without_mixing_ratios = ["--objectives.mixing_ratios", "{}"]
    assert digest_run(corpus, "continue", *without_mixing_ratios) == "1135992f0781b8bc"
    assert digest_run(corpus, "exp1", "--data.pack_lines", "false") != DIGESTS["exp1"]
