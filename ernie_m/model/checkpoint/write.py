"""Writes the native checkpoint folder from a model.

    config.json             the model's config, with architecture, task and labels
    model.safetensors       weights in float32 or float64, named as in key_mapping.py
    vocab.txt, piece.model  the tokenizer's files, if known
    language_means.safetensors  the mean embedding of each language at each layer, if known
    README.md               the model card
    manifest.json           sizes and checksums of the files above, except the card
    training_state/         in checkpoints: the state to resume from (`ernie_m.training.checkpoint`)

open.py opens this and all other formats; load.py loads weights into a model.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.model_card import model_card
from ernie_m.model.checkpoint.weights import (
    CONFIG,
    LANGUAGE_MEANS,
    PIECES,
    TOKENIZER_JSON,
    VOCAB,
    WEIGHTS,
)
from ernie_m.model.config import ErnieMConfig
from ernie_m.reader.vocabulary import DICT
from ernie_m.utils.checksums import CARD, MANIFEST, write_manifest
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import as_json

if TYPE_CHECKING:
    import paddle

# Paddle is imported within functions with a Paddle model.


@dataclass(frozen=True)
class ModelFiles:
    """The contents of a model's checkpoint folder, ready to be written.

    Attributes:
        weights: native name -> array; on a CPU the parameters' memory.
        config_json: contents of config.json.
        card: contents of README.md.
        copies: file name -> file to copy.
        language_means: language -> mean embedding at each layer, [L + 1, H]; may be empty.
    """

    weights: Mapping[str, np.ndarray]
    config_json: Mapping[str, Any]
    card: str
    copies: Mapping[str, Path]
    language_means: Mapping[str, np.ndarray] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the checkpoint and its manifest to an existing directory. Not atomic.

        Raises:
            UserError: a tokenizer file is missing.
        """
        safetensors.write(folder / WEIGHTS, self.weights)
        (folder / CONFIG).write_text(as_json(self.config_json), encoding="utf-8")
        for name, source in self.copies.items():
            if not source.is_file():
                raise UserError(f"{source}: no such file to copy into the checkpoint")
            shutil.copyfile(source, folder / name)
        if self.language_means:
            safetensors.write(folder / LANGUAGE_MEANS, self.language_means)
        write_manifest(folder / MANIFEST)
        (folder / CARD).write_text(self.card, encoding="utf-8")


def model_files(
    model: "paddle.nn.Layer",
    config: ErnieMConfig,
    *,
    vocab_path: str | os.PathLike | None = None,
    piece_model_path: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    masters: Mapping[str, "paddle.Tensor"] | None = None,
    language_means: Mapping[str, np.ndarray] | None = None,
) -> ModelFiles:
    """Return the contents of a model's checkpoint folder.

    Args:
        model: an encoder, or a model with one as `.ernie_m`.
        config: the config of the model.
        vocab_path, piece_model_path: copied as vocab.txt or dict.txt, and as piece.model or tokenizer.json;
            None: unknown.
        settings: keys of config.json besides the model's shape: "task", "labels", "languages".
        facts: for `ernie_m.model.checkpoint.model_card.model_card`; sizes and config are added.
        leave_out: prefixes of native names that are not written ("lm_head.", "language_embeddings.").
        masters: float32 tensors that replace the parameters with these `parameter.name`s.
        language_means: language -> mean embedding at each layer, [L + 1, H].
    """
    weights = model_weights(model, masters or {})
    weights = {name: array for name, array in weights.items() if not name.startswith(leave_out)}
    files = files_of(weights, config, type(model).__name__, settings or {}, facts or {})
    copies: dict[str, Path] = {}
    if vocab_path is not None:
        copies[DICT if Path(vocab_path).name == DICT else VOCAB] = Path(vocab_path)
    if piece_model_path is not None:
        is_json = Path(piece_model_path).suffix == ".json"
        copies[TOKENIZER_JSON if is_json else PIECES] = Path(piece_model_path)
    return replace(files, copies=copies, language_means=language_means or {})


def files_of(
    weights: Mapping[str, np.ndarray],
    config: ErnieMConfig,
    architecture: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> ModelFiles:
    """Return the contents of a checkpoint folder from weights, without the tokenizer.

    Args:
        weights: native name -> array.
        architecture: name of the model's class.
        settings, facts: as in `model_files`.
    """
    config_json = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture, **settings}
    parameters = sum(array.size for array in weights.values())
    card = model_card(facts, config_json, parameters)
    return ModelFiles(weights, config_json, card, {})


def model_weights(
    model: "paddle.nn.Layer", masters: Mapping[str, "paddle.Tensor"] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Return a model's parameters as arrays with native names: float64 stays, other dtypes become float32.

    On a CPU the arrays share the parameters' memory: use them before the next training step.

    Args:
        masters: `parameter.name` -> float32 tensor that replaces that parameter.
    """
    from ernie_m.model.checkpoint.load import STORED_DTYPES, get_parameters

    weights = {}
    for name, parameter in get_parameters(model).items():
        tensor = masters.get(parameter.name, parameter)
        if tensor.dtype not in STORED_DTYPES:
            tensor = tensor.detach().astype("float32")
        weights[name] = as_numpy(tensor)
    return weights


def as_numpy(value: Any) -> np.ndarray:
    """Return a tensor or array as an array, which shares a CPU tensor's memory if possible.

    A bfloat16 tensor becomes its bits, uint16, as in `Tensor.numpy` and `set_value`.
    """
    import paddle

    if not isinstance(value, paddle.Tensor):
        return np.asarray(value)
    value = value.detach()
    if value.place.is_cpu_place() and value.dtype != paddle.bfloat16:
        return np.from_dlpack(value)
    return value.numpy()  # a copy on the host
