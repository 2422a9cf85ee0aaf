"""A run small enough for tests: a corpus of three made-up languages, a model of two layers."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import run_pretrain
from pretrain.config import PretrainConfig
from tests.helpers.small_corpus import build, sentences, train_pieces, write_lines
from tests.launching import as_flags, call_main
from utils.command_line import load_config

LANGUAGES = ("de", "en", "fr")
STEPS = 12


def make_corpus(folder: Path, mono_languages: tuple[str, ...] = LANGUAGES, **options) -> Path:
    """Build a corpus in `folder/corpus`: text of three languages, pairs of en-de and en-fr.

    Args:
        mono_languages: those with monolingual text.
        options: of `BuildOptions`.

    Returns:
        The folder of the corpus.
    """
    pieces = train_pieces(folder / "piece.model")
    lines = {language: sentences(150, seed) for seed, language in enumerate(LANGUAGES)}
    mono = {name: write_lines(folder / f"{name}.txt", lines[name]) for name in mono_languages}
    parallel = {}
    for language, count in (("de", 120), ("fr", 80)):
        rows = [f"{a}\t{b}" for a, b in zip(lines["en"][:count], lines[language])]
        parallel[f"en-{language}"] = write_lines(folder / f"en-{language}.tsv", rows)
    build(folder / "corpus", pieces, mono=mono, parallel=parallel, **({"held_out": 8} | options))
    return folder / "corpus"


def flags(corpus: Path, output: Path, **changes) -> list[str]:
    """A command line for run_pretrain.py: `section__key=value` changes a value, `config` is a YAML file."""
    config_flag = ["--config", changes.pop("config")] if "config" in changes else []
    values = {
        "model.hidden_size": 16,
        "model.num_hidden_layers": 2,
        "model.num_attention_heads": 2,
        "data.corpus": str(corpus),
        "data.max_seq_len": 32,
        "data.pack_lines": False,
        "optimizer.steps": STEPS,
        "optimizer.batch_size": 12,
        "optimizer.learning_rate": 1e-2,
        "optimizer.warmup_steps": 3,
        "run.output": str(output),
        "run.micro_batch_tokens": 64,
        "run.log_steps": 3,
        "run.save_steps": 4,
        "run.eval_sequences": 6,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    if "optimizer.tokens" in values:  # a run has one of the two
        values.pop("optimizer.steps")
    words = {}
    for name, value in values.items():
        words[name] = value if isinstance(value, str) else json.dumps(value)
    return config_flag + as_flags(words)


def config(corpus: Path, output: Path = Path("unused"), **changes) -> PretrainConfig:
    """The configuration that `flags` gives."""
    return load_config(PretrainConfig, flags(corpus, output, **changes))


def pretrain(corpus: Path, output: Path, **changes) -> Path:
    """run_pretrain.py with these flags in this process; returns `output`."""
    call_main(run_pretrain, flags(corpus, output, **changes))
    return output


def records(output: Path) -> list[dict]:
    """The lines of metrics.jsonl, of training and of evaluations, without what a clock decides."""
    logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    for record in logged:
        record.pop("tokens_per_second", None)
    return logged


def losses(output: Path) -> list[float]:
    """The loss of every record of training."""
    return [record["loss"] for record in records(output) if "loss" in record]


def checkpoint(output: Path, step: int) -> dict[str, np.ndarray]:
    """Weights and optimizer state of a checkpoint."""
    folder = output / "checkpoints" / f"step_{step}"
    state = load_file(folder / "training_state" / "arrays.safetensors")
    return load_file(folder / "model.safetensors") | {f"state/{name}": value for name, value in state.items()}


def assert_equal_runs(straight: Path, resumed: Path, step: int = STEPS) -> None:
    """Weights, optimizer state, positions, losses and exported models of two runs are the same bits."""
    arrays = checkpoint(resumed, step)
    expected = checkpoint(straight, step)
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    state_path = f"checkpoints/step_{step}/training_state/state.json"
    state = json.loads((resumed / state_path).read_text())["trainer"]
    assert state == json.loads((straight / state_path).read_text())["trainer"]
    assert records(resumed) == records(straight)
    for export in ("full", "encoder"):
        weights = f"{export}/model.safetensors"
        assert (resumed / weights).read_bytes() == (straight / weights).read_bytes()
