"""Values that no run can have are refused by name; files in configs/pretrain are runs; the command."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from operator import attrgetter, eq
from pathlib import Path

import paddle
import pytest
import yaml

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.pretrain.build_corpus.build_args import BuildOptions
from ernie_m.pretrain.config import DataConfig, PretrainConfig
from ernie_m.pretrain.pretraining import Pretraining, make_learning_rate_schedule
from ernie_m.pretrain.run_length import RunPlan
from ernie_m.utils.args import get_result_options, parse_options
from tests.helpers.files import write_file
from tests.launching import ROOT, error_of
from tests.pretrain.tiny_run import config
from tests.toys import make_small_corpus

FILES = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__corpus": ""}, "--data.corpus "),
        ({"data__language_alpha": 1000}, "language_alpha 1000: "),
        ({"data__pair_alpha": -1}, "data.pair_alpha -1: "),
        ({"run__seed": 1 << 64}, "run.seed 18446744073709551616: "),
        ({"data__max_seq_len": 600}, "invalid data.max_seq_len 600"),
        ({"data__max_seq_len": 7}, "invalid data.max_seq_len 7"),
        ({"model__max_position_embeddings": 33}, "invalid data.max_seq_len 32"),
        ({"model__num_hidden_layers": 0}, "model.num_hidden_layers 0: "),
        ({"model__hidden_dropout_prob": 1}, "hidden_dropout_prob 1: "),
        ({"objectives__active": []}, "invalid objectives.active []"),
        ({"objectives__active": ["mmlm", "nsp"]}, "invalid objectives.active "),
        ({"objectives__active": ["btmlm", "tlm"]}, "objectives.active has btmlm without mmlm"),
        (
            {"objectives__mixing_ratios": {"mmlm": 1, "nsp": 1}},
            "objectives.mixing_ratios: unknown objectives nsp",
        ),
        ({"objectives__mixing_ratios": {"mmlm": -1}}, "mixing_ratios: invalid {'mmlm': -1.0}"),
        ({"objectives__mixing_ratios": {"mmlm": 0}}, "mixing_ratios: invalid {'mmlm': 0.0}"),
        ({"objectives__mixing_ratios": {"mmlm": 1e308, "camlm": 1e308}}, "mixing_ratios: invalid "),
        ({"objectives__mixing_ratios": {"btmlm": 1}}, "objectives.mixing_ratios has btmlm without mmlm"),
        ({"objectives__later_mixing_ratios": {"mmlm": 1}}, "later_mixing_ratios "),
        (
            {"objectives__mixing_ratios": {"mmlm": 1}, "objectives__later_mixing_ratios": {"nsp": 1}},
            "objectives.later_mixing_ratios: unknown objectives nsp",
        ),
        (
            {"objectives__mixing_ratios": {"mmlm": 1}, "objectives__later_mixing_ratios": {"mmlm": -1}},
            "objectives.later_mixing_ratios: invalid {'mmlm': -1.0}",
        ),
        (
            {"objectives__mixing_ratios": {"mmlm": 1}, "objectives__later_mixing_ratios": {"mmlm": 0}},
            "objectives.later_mixing_ratios: invalid {'mmlm': 0.0}",
        ),
        (
            {"objectives__mixing_ratios": {"mmlm": 1, "tlm": 1}, "objectives__active": ["mmlm", "camlm"]},
            "objectives.active has mmlm, camlm, but objectives.mixing_ratios has mmlm, tlm",
        ),
        (
            {"objectives__mixing_ratios": {"mmlm": 1, "tlm": 0}, "objectives__active": ["mmlm", "tlm"]},
            "objectives.active has mmlm, tlm, but objectives.mixing_ratios has mmlm",
        ),
        (
            {"objectives__mixing_ratios": {"mmlm": 1, "tlm": 1}, "objectives__active": ["mmlm"]},
            "objectives.active has mmlm, but objectives.mixing_ratios has mmlm, tlm",
        ),
        (
            {"objectives__same_pairs": True},
            "objectives.same_pairs",
        ),
        ({"objectives__mask_rate": 0.0}, "objectives.mask_rate 0.0: "),
        ({"init__lm_head": "same"}, "init.lm_head 'same' requires a checkpoint in init.encoder"),
        ({"init__word_embeddings": "table", "init__encoder": "encoder"}, "init.word_embeddings"),
        (
            {"optimizer__embedding_lr_ratio": 1.5},
            "optimizer.embedding_lr_ratio 1.5: ",
        ),
        ({"optimizer__batch_size": 0}, "optimizer.batch_size 0: "),
        ({"optimizer__batch_size": 10**9}, "optimizer.batch_size 1000000000: "),
        ({"run__micro_batch_tokens": 31}, "run.micro_batch_tokens 31: below the longest example, 32"),
        (
            {"run__micro_batch_tokens": 32, "objectives__camlm_context": "with_masks"},
            "run.micro_batch_tokens 32: below the longest example, 38",
        ),
        ({"objectives__camlm_context": "masked"}, "objectives.camlm_context"),
        (
            {"run__micro_batch_size": 8},
            "--run.micro_batch_size: unknown option; did you mean --run.micro_batch_tokens",
        ),
        ({"run__amp": "int8"}, "run.amp"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate"),
        # The option stands in a section.
        ({"max_seq_len": 3}, "--max_seq_len: unknown option; did you mean --data.max_seq_len?"),
        ({"max_steps": 3}, "--max_steps: unknown option; did you mean --optimizer.steps?"),
        ({"optimizer__lr": 1}, "--optimizer.lr: unknown option; did you mean --optimizer.learning_rate?"),
        ({"optimizer__rate": 1}, "--optimizer.rate: unknown option; did you mean --optimizer.learning_rate?"),
        ({"optimizer__stepz": 3}, "--optimizer.stepz: unknown option; did you mean --optimizer.steps?"),
    ],
)
def test_a_value_that_no_run_can_have(changes, message):
    assert message in error_of(config, Path("corpus"), **changes)


def load(path: Path) -> PretrainConfig:
    """The configuration in a file, with a corpus from the command line."""
    return parse_options(PretrainConfig, ["--config", str(path), "--data.corpus", "corpus"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_configurations_load(path):
    """Each value of the file is that of the configuration."""
    loaded = load(path)
    for section, values in yaml.safe_load(path.read_text()).items():
        for key, value in values.items():
            if key != "corpus":  # the command line names another one
                assert getattr(getattr(loaded, section), key) == value, f"{section}.{key}"


OWN = ROOT / "configs/pretrain/own.yaml"  # has mixing ratios and later mixing ratios, and tokens


@pytest.mark.parametrize(
    "flags, at_fault",
    [
        ("--objectives.mixing_ratios '{mmlm: 1, tlm: 1}'", "objectives.mixing_ratios"),
        ("--objectives.mixing_ratios '{mmlm: 1, tlm: 1}' --objectives.later_mixing_ratios {}", ""),
        ("--objectives.later_mixing_ratios '{mmlm: 1, tlm: 1}'", ""),
        ("--config SAVED --objectives.mixing_ratios '{mmlm: 1, tlm: 1}'", ""),
        ("--optimizer.steps 60", "optimizer.steps"),
        ("--optimizer.steps 150000", "optimizer.steps"),  # given, although it is the default
        ("--optimizer.steps 60 --optimizer.tokens 9", "optimizer.steps"),
        ("--optimizer.steps 60 --optimizer.tokens 0", ""),
        ("--optimizer.tokens 9", ""),
        ("--config SAVED --optimizer.tokens 9", ""),
    ],
)
def test_reject_conflicting_keys(tmp_path, flags, at_fault):
    """The later mixing ratios would end others, and tokens the run, before the value that is given counts."""
    saved = write_file(
        tmp_path / "config.yaml",
        "optimizer: {steps: 150000, tokens: 8}\nobjectives: {later_mixing_ratios: {}}\n",
    )
    words = [
        "--config",
        str(OWN),
        *shlex.split(flags.replace("SAVED", str(saved))),
        "--data.corpus",
        "corpus",
    ]
    if at_fault:
        assert error_of(parse_options, PretrainConfig, words).startswith(f"--{at_fault} ")
    else:
        parse_options(PretrainConfig, words)


# What a run and a build take if only their input and output are given.
DEFAULTS = """
model:
  hidden_size: 768
  num_hidden_layers: 12
  num_attention_heads: 12
  hidden_dropout_prob: 0.1
  attention_probs_dropout_prob: 0.1
  initializer_range: 0.02
  max_position_embeddings: 514
  language_embedding: masks
data:
  corpus: corpus
  languages: []
  max_seq_len: 512
  pack_lines: true
  language_alpha: 0.3
  pair_alpha: 0.7
  text_rules: auto
  verify: true
objectives:
  path: []
  active: null
  skip_unsupported: false
  mixing_ratios: {}
  later_mixing_ratios: {}
  later_start: 0.5
  mask_rate: 0.15
  camlm_context: unmasked
  btmlm_start: 0.3
  pseudo_proportion: 0.2
  pseudo_positions: first
  min_piece_count: 5
  pseudo_temperature: 0.0
  second_language: parallel
init:
  encoder: random
  word_embeddings: ''
  lm_head: random
  checkpoint: ""
  lm_head_warmup_steps: 0
  lm_head_learning_rate: 0.001
optimizer:
  steps: 150000
  tokens: 0
  batch_size: 2048
  learning_rate: 0.0002
  embedding_lr_ratio: 1.0
  warmup_steps: 10000
  schedule: paddlenlp
  beta1: 0.98
  beta2: 0.999
  epsilon: 1.0e-06
  weight_decay: 0.01
  clip_norm: 1.0
run:
  amp: none
  kernels: fast
  dtype: float32
  tensorboard: false
  recompute: false
  stall_ends_seconds: 3600.0
  output: output/pretrain
  overwrite: false
  seed: 1
  micro_batch_tokens: 8192
  amp_level: O1
  sharding_stage: 0
  log_steps: 50
  save_steps: 1000
  keep_checkpoints: 2
  eval_steps: 0
  eval_sequences: 512
  max_bad_steps: 10
  stop_after_steps: 0
  compute_ratio: 1.0
"""
OF_A_BUILD = """
columns: null
delimiter: null
quoting: null
encoding: null
filter: null
skip_text_checks: false
on_error: stop
documents: line
mono: {en: text}
parallel: {}
output: corpus
piece_model_path: piece.model
vocab_path: null
text_rules: ernie-m
deduplicate: false
max_ratio: 0.0
held_out: 1000
chunk_mib: 4.0
shard_mib: 256.0
engine: local
ray_address: null
workers: 0
overwrite: false
"""


@pytest.mark.parametrize(
    ("options", "defaults"),
    [
        (PretrainConfig(data=DataConfig(corpus="corpus")), DEFAULTS),
        (BuildOptions(output="corpus", piece_model_path="piece.model", mono={"en": "text"}), OF_A_BUILD),
    ],
)
def test_defaults_are_those_of_the_manual(options, defaults):
    assert asdict(options) == yaml.safe_load(defaults)


# Of the paper's Table 11: the keys of values, those of each size, and those of all.
TABLE = [
    "model.num_hidden_layers model.hidden_size model.num_attention_heads",
    "optimizer.steps optimizer.batch_size optimizer.learning_rate",
    "optimizer.warmup_steps optimizer.weight_decay optimizer.clip_norm",
    "optimizer.beta1 optimizer.beta2 optimizer.epsilon",
    "model.hidden_dropout_prob model.attention_probs_dropout_prob data.max_seq_len",
]
OF_ALL_SIZES = (10_000, 0.01, 1.0, 0.98, 0.999, 1e-6, 0.1, 0.1, 512)


@pytest.mark.parametrize(
    ("size", "values"),
    [
        ("small", (6, 768, 12, 240_000, 1024, 3e-4)),
        ("base", (12, 768, 12, 150_000, 2048, 2e-4)),
        ("large", (24, 1024, 16, 200_000, 2048, 1e-4)),
    ],
)
def test_the_papers_table_11(size, values):
    loaded = load(ROOT / "configs" / "pretrain" / f"{size}.yaml")
    assert attrgetter(*" ".join(TABLE).split())(loaded) == (*values, *OF_ALL_SIZES)
    optimizer = loaded.optimizer
    plan = RunPlan(optimizer.steps, 0, optimizer.warmup_steps, phases=(), tokens_per_epoch=0)
    lr = make_learning_rate_schedule(plan, loaded.init.lm_head_learning_rate, optimizer)
    half_way = (10_000 + optimizer.steps) // 2  # of the fall, which is linear from the peak to 0
    assert (lr(10_000), lr(half_way)) == (1.0, 0.5)
    without_warmup = RunPlan(10, head_steps=4, warmup_steps=0, phases=(), tokens_per_epoch=0)
    lr = make_learning_rate_schedule(without_warmup, 2 * optimizer.learning_rate, optimizer)
    assert [lr(step) for step in (0, 3, 4)] == [2.0, 2.0, 1.0]


def test_a_corpus_without_a_held_out_part(tmp_path, pretrain, refused):
    corpus = make_small_corpus(tmp_path, held_out=0)
    out = pretrain(corpus=corpus, optimizer__steps=1)
    assert open_checkpoint(out / "full").language_means_path is None
    pretrain("without", corpus=corpus, run__eval_steps=2, run__eval_sequences=0, optimizer__steps=1)
    assert "no held-out text" in refused(corpus=corpus, run__eval_steps=2)


# Another value of each option that decides a run; None: it changes no number of the run below.
ANOTHER = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 4,
    "model.hidden_dropout_prob": 0.3,
    "model.attention_probs_dropout_prob": 0.3,
    "model.initializer_range": 0.1,
    "model.max_position_embeddings": 99,
    "model.language_embedding": "all",
    "data.languages": ["de", "en"],
    "data.max_seq_len": 16,
    "data.pack_lines": None,  # the documents of the corpus are lines
    "data.language_alpha": None,  # its languages have equally much text
    "data.pair_alpha": 0.0,
    "objectives.active": None,
    "objectives.skip_unsupported": None,
    "objectives.mixing_ratios": {"mmlm": 1, "tlm": 1, "btmlm": 2, "camlm": 1},
    "objectives.later_mixing_ratios": {"mmlm": 1, "btmlm": 1, "tlm": 2},
    "objectives.later_start": 0.9,
    "objectives.mask_rate": 0.3,
    "objectives.camlm_context": "with_masks",
    "objectives.btmlm_start": 0.5,
    "objectives.pseudo_proportion": 0.5,
    "objectives.pseudo_positions": "spread",
    "objectives.min_piece_count": 200,
    "objectives.pseudo_temperature": 1.0,
    "objectives.second_language": "uniform",
    "init.lm_head_warmup_steps": 2,
    "init.lm_head_learning_rate": 0.1,
    "optimizer.steps": 9,
    "optimizer.tokens": 4000,
    "optimizer.batch_size": 16,
    "optimizer.learning_rate": 0.1,
    "optimizer.embedding_lr_ratio": 0.5,
    "optimizer.warmup_steps": 2,
    "optimizer.schedule": "official",
    "optimizer.beta1": 0.5,
    "optimizer.beta2": 0.5,
    "optimizer.epsilon": 0.1,
    "optimizer.weight_decay": 0.5,
    "optimizer.clip_norm": 0.01,
    "run.seed": 2,
    "run.amp": None,
    "run.amp_level": None,
    "run.dtype": "float64",
    "run.compute_ratio": 2.0,
}
USUAL = {
    "model.num_hidden_layers": 1,
    "objectives.mixing_ratios": {"mmlm": 1, "tlm": 1, "btmlm": 1, "camlm": 1},
    "objectives.later_mixing_ratios": {"mmlm": 1, "btmlm": 1, "tlm": 1},
    "objectives.later_start": 0.6,
    "objectives.btmlm_start": 0.0,
    "init.lm_head_warmup_steps": 1,
    "optimizer.steps": 4,
    "optimizer.warmup_steps": 1,
    "run.micro_batch_tokens": 4096,
    "data.verify": False,
}


def results(corpus: Path, changes: dict) -> Iterator[float]:
    """Yield the losses of the first steps of a run, and the sums of its weights."""
    settings = config(corpus, **{key.replace(".", "__"): value for key, value in (USUAL | changes).items()})
    try:
        task = Pretraining(settings)
        engine = task.begin(settings.run.seed, None)
        for data in itertools.islice(task.make_batch_iterator(None)(), 4):
            yield engine.step(task.copy_to_device(engine.model, data), task.loss).loss
        yield from (weight.abs().sum().item() for weight in engine.model.parameters())
    finally:
        paddle.set_default_dtype("float32")


def test_every_option_that_decides_a_run_does(tiny_corpus, monkeypatch):
    monkeypatch.setattr("ernie_m.pretrain.run_length._PROBE_SEQUENCES", 400)  # instead of 8192, to be quick
    assert ANOTHER.keys() == get_result_options(config(tiny_corpus)).keys()
    usual = [*results(tiny_corpus, {})]
    assert [*results(tiny_corpus, {})] == usual
    changes = {key: value for key, value in ANOTHER.items() if value is not None}
    # Most end with their first loss.
    assert [key for key in changes if all(map(eq, results(tiny_corpus, {key: changes[key]}), usual))] == []
