"""What a run leaves for the next one: its state, its journal, the record of a seed."""

import json
from pathlib import Path

import numpy as np

from model.checkpoint.training_state import load_training_state, save_training_state
from tests.fuzz.attempt import Target, each
from tests.fuzz.edits import json_edit, json_line_edit, safetensors_edit
from utils.files import sha256_of


def _state_seeds(file: str):
    def make(folder: Path) -> list[bytes]:
        state = {
            "step": 7,
            "loss": 1.5,
            "optimizer": {"moment": [np.ones([2, 3], "f4"), np.float32(2)]},
            "none": None,
        }
        (folder / "model.safetensors").write_bytes(b"weights")
        save_training_state(folder / "training_state", state, beside=("model.safetensors",))
        return [(folder / "training_state" / file).read_bytes()]

    return make


def _state(path: Path) -> None:
    """A state whose manifest has this very file."""
    manifest = path.with_name("manifest.json")
    if path != manifest:
        told = json.loads(manifest.read_text())
        told["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest.write_text(json.dumps(told))
    each(lambda: load_training_state(path.parent))


JOURNAL = "".join(json.dumps({"step": step, "loss": 2.5, "lr": 1e-4}) + "\n" for step in (1, 2, 3))
RECORD = {"step": 3, "epoch": 1, "selected_by": 0.5, "scores": {"dev": {"en": {"accuracy": 0.5}}}}


def _journal(path: Path) -> None:
    from pretrain.journal import cut_back

    cut_back(path, 2, -1)


def _record(path: Path) -> None:
    from finetune.runs import read_record

    read_record(path.parent)


TARGETS = {
    "state_index": Target("training_state/manifest.json", _state_seeds("manifest.json"), _state, json_edit),
    "state": Target("training_state/state.json", _state_seeds("state.json"), _state, json_edit),
    "state_arrays": Target(
        "training_state/arrays.safetensors", _state_seeds("arrays.safetensors"), _state, safetensors_edit
    ),
    "journal": Target("metrics.jsonl", lambda _: [JOURNAL.encode()], _journal, json_line_edit),
    "record": Target("selected.json", lambda _: [json.dumps(RECORD).encode()], _record, json_edit),
}
