"""The training state of a step folder as revision 95dfa70d wrote it."""

import json
import shutil
from pathlib import Path

from ernie_m.model.checkpoint import safetensors
from ernie_m.training.checkpoint import read_state
from ernie_m.utils.checksums import MANIFEST, write_manifest


def as_95dfa70d_wrote_it(step: Path) -> None:
    """Give the training state of a step folder the form of that revision.

    Arrays were named by their place in a nested state, which had references to them.
    """
    arrays, values = read_state(step)
    names = {key: f"engine/optimizer/{key.replace('/', '~1')}" for key in arrays}
    optimizer = {key: {"__array__": name} for key, name in names.items()}
    state = {
        "engine": {**values["engine"], "optimizer": optimizer},
        "run": values["identity"],
        "seed": values["seed"],
        "state": values["trainer"],
    }
    folder = step / "training_state"
    shutil.rmtree(folder)
    folder.mkdir()
    safetensors.write(folder / "arrays.safetensors", {names[key]: array for key, array in arrays.items()})
    (folder / "state.json").write_text(json.dumps(state))
    write_manifest(folder / MANIFEST, ["arrays.safetensors", "state.json", f"../{MANIFEST}"])
