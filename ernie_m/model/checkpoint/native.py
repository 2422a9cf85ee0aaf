"""The native checkpoint format: model.safetensors with native names, and config.json.

Training writes checkpoints by `ernie_m.model.checkpoint.write`, conversion by this file.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.convert_names import CHOICE, TASKS, ModelClass
from ernie_m.model.checkpoint.format import Checkpoint, Format, Source
from ernie_m.model.checkpoint.native_names import HEADS, WORDS
from ernie_m.model.checkpoint.weights import CONFIG, WEIGHTS, Weights, open_weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import PIPELINE, get_stored_pipeline_config
from ernie_m.model.tasks import CLASSIFICATION, find_task, get_stored_name
from ernie_m.model.tasks import TASKS as DESCRIPTIONS
from ernie_m.utils.errors import format_value
from ernie_m.utils.files import Folder, format_json
from ernie_m.utils.logging import logger

MODEL_TYPE = "ernie_m"
# In the names of other libraries, some of which also have the native name of the embedding matrix.
_OF_OTHERS = re.compile(r"^ernie_m\.|^encoder\.layer\.|self_attn\.self_attn\.")


class NativeFormat(Format):
    """The native checkpoint format: a folder, or a file of weights in it."""

    name = "ernie-m"
    classes = {None: ModelClass(head=tuple((module, module) for module in HEADS))}
    has_tables = True
    optional = ""  # heads are optional
    library = "paddle"
    labels_key = "labels"
    keeps_added_tokens = True
    separators = None

    def find(self, folder: Folder) -> Source | None:
        """Return the files of a native checkpoint in a folder; None: no such checkpoint.

        An encoder of PaddleNLP has the same tensor names, but its config has the key "paddlenlp_version".
        """
        weights = open_weights(folder, {".safetensors": safetensors.read})
        if weights is None or WORDS not in weights or any(_OF_OTHERS.search(name) for name in weights):
            return None
        raw_config = folder.read_object(CONFIG)
        is_named = raw_config.get("model_type") in (MODEL_TYPE, "", None)
        if not is_named or "paddlenlp_version" in raw_config:
            return None
        config_path = folder.find_first([CONFIG])
        return Source(
            folder=folder,
            weights=weights,
            raw_config=raw_config,
            config_path=config_path,
            tokenizer_folders=(folder,),
            tasks=_read_tasks(raw_config, config_path),
            root=folder,
        )

    def read_settings(self, source: Source, config: ErnieMConfig | None) -> dict[str, Any]:
        """Return the keys of config.json that are neither in the model config nor pipeline settings."""
        others = {PIPELINE, *(config.to_dict() if config else ())}
        return {key: value for key, value in source.raw_config.items() if key not in others}

    def select_model_class(self, task: str | None, tensors: Iterable[str]) -> str | None:
        """Return the task unchanged, because tensor names are the same for all tasks."""
        return task

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write model.safetensors and config.json."""
        safetensors.write(folder / WEIGHTS, weights, dtype=np.float32)
        architecture: str | None
        if task is None:
            # A pre-training model is identified by its languages, which have embeddings.
            architecture = "PreTrainingModel" if checkpoint.settings.get("languages") else "ErnieMModel"
        else:  # CHOICE has the same layer as a classifier
            architecture = DESCRIPTIONS[CLASSIFICATION if task == CHOICE else task].model_class
        contents = {
            **checkpoint.required_config.to_dict(),
            "model_type": MODEL_TYPE,
            "architecture": architecture,
        }
        told = {
            "labels": checkpoint.labels or None,
            PIPELINE: get_stored_pipeline_config(checkpoint.pipeline_config),
        }
        contents |= {key: value for key, value in (checkpoint.settings | told).items() if value is not None}
        if task:
            contents["head"] = get_stored_name(task)
        (folder / CONFIG).write_text(format_json(contents), encoding="utf-8")
        return []


def _read_tasks(raw_config: dict[str, Any], config_path: Path | None) -> list[str]:
    """Read the task that the model was fine-tuned for from config.json: a list of one; [] if unknown."""
    # ernie-m convert writes "head", fine-tuning "task"; the name of a model class also identifies its task.
    for key in ("head", "task", "architecture"):
        task = find_task(str(raw_config.get(key)))
        if task in TASKS:
            return [task]
        if task == raw_config.get(key) != "ErnieMModel":
            logger.warning("%s: ignoring unknown %s %s", config_path, key, format_value(task))
    return []
