"""Command lines that train on the toys. None as a value leaves a flag out."""

import json
from pathlib import Path

from tests.launching import as_flags
from tests.toys import TAGS

# Flags with which classification is learned from most seeds; at a higher learning rate, from fewer.
LEARNS = {"epoch": 10, "learning_rate": 5e-3}
# Flags for a command without training. Everything else is in the folder that --init_checkpoint names.
FOLDER_ALONE = {
    "do_train": "false",
    "train_set": None,
    "ernie_config_path": None,
    "piece_model_path": None,
}
# Of a run of run_pretrain.py.
STEPS = 12


def classification(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_classifier.py."""
    values = {
        "ernie_config_path": folder / "ernie_config.json",
        "piece_model_path": folder / "piece.model",
        "train_set": folder / "train.tsv",
        "dev_set": f"{folder}/dev.%s.tsv",
        "do_test": "false",
        "label_map_config": folder / "label_map.json",
        "lang_map_config": folder / "lang_map.json",
        "num_labels": 3,
        "checkpoints": out,
        "batch_size": 8,
        "epoch": 2,
        "learning_rate": 5e-3,
        "weight_decay": 0,
        "layerwise_lr_decay": 1.0,
        "max_seq_len": 64,
        "random_seed": 1,
        "skip_steps": 4,
        "use_cuda": "false",
    }
    return as_flags(values | changes)


def tagging(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_sequence_labeling.py."""
    values = {"num_labels": len(TAGS), "batch_size": 8, "official_compat": "false"}
    return classification(folder, out, **values | changes)


def answering(folder: Path, out: Path, **changes) -> list[str]:
    """A command line for run_mrc.py."""
    values = {
        "train_set": folder / "train.json",
        "dev_set": f"{folder}/dev.%s.json",
        "label_map_config": None,
        "num_labels": None,
        "batch_size": 6,
        "epoch": 1,
        "learning_rate": 3e-3,
        "max_seq_len": 80,
        "max_query_length": 16,
        "doc_stride": 20,
        "skip_steps": 20,
        "official_compat": "false",
    }
    return classification(folder, out, **values | changes)


def retrieval(corpus: Path, out: Path, **changes) -> list[str]:
    """A command line for run_retrieval.py: a few steps on the fixture `corpus`."""
    values = {
        "do_train": "true",
        "train_set": corpus,
        "checkpoints": out,
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
    }
    return as_flags(values | changes)


def pretraining(corpus: Path, output: Path, **changes) -> list[str]:
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
        "run.micro_batch_tokens": 128,
        "run.log_steps": 3,
        "run.save_steps": 4,
        "run.eval_sequences": 6,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    if "optimizer.tokens" in values:  # a run has one of the two
        values.pop("optimizer.steps")
    elif config_flag:
        values["optimizer.tokens"] = 0  # instead of those of the file
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return config_flag + as_flags(words)
