"""Writes a native checkpoint folder from a model in training.

    config.json             the model's config, with architecture, task and labels
    model.safetensors       weights in float32 or float64, named as in native_names.py
    vocab.txt, piece.model  the tokenizer's files, if known
    language_means.safetensors  the mean embedding of each language at each layer, if known
    README.md               the model card
    manifest.json           sizes and checksums of the files above, except the card
    training_state/         in checkpoints: the state to resume from (`ernie_m.training.checkpoint`)

open.py opens this and all other formats; load.py loads weights into a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.model_card import format_model_card
from ernie_m.model.checkpoint.weights import (
    CONFIG,
    LANGUAGE_MEANS,
    WEIGHTS,
)
from ernie_m.model.config import ErnieMConfig
from ernie_m.utils.checksums import CARD, MANIFEST, write_manifest
from ernie_m.utils.files import format_json

if TYPE_CHECKING:
    import paddle

# Paddle is imported within functions with a Paddle model.


@dataclass(frozen=True)
class ModelFiles:
    """The contents of a checkpoint folder, to be written.

    Attributes:
        weights: native name -> array, which on a CPU shares the memory of the parameter.
        config_json: contents of config.json.
        card: contents of README.md.
        tokenizer: file name -> content of the tokenizer's files; may be empty.
        language_means: language -> mean embedding at each layer, [L + 1, H]; may be empty.
    """

    weights: Mapping[str, np.ndarray]
    config_json: Mapping[str, Any]
    card: str
    tokenizer: Mapping[str, bytes]
    language_means: Mapping[str, np.ndarray] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the checkpoint and its manifest to an existing folder. Not atomic."""
        safetensors.write(folder / WEIGHTS, self.weights)
        (folder / CONFIG).write_text(format_json(self.config_json), encoding="utf-8")
        for name, content in self.tokenizer.items():
            (folder / name).write_bytes(content)
        if self.language_means:
            safetensors.write(folder / LANGUAGE_MEANS, self.language_means)
        write_manifest(folder / MANIFEST)
        (folder / CARD).write_text(self.card, encoding="utf-8")


def collect_model_files(
    model: "paddle.nn.Layer",
    config: ErnieMConfig,
    *,
    tokenizer: Mapping[str, bytes] = MappingProxyType({}),
    settings: Mapping[str, Any] | None = None,
    card_facts: Mapping[str, Any] | None = None,
    omitted_prefixes: tuple[str, ...] = (),
    master_weights: Mapping[str, "paddle.Tensor"] | None = None,
    language_means: Mapping[str, np.ndarray] | None = None,
) -> ModelFiles:
    """Collect the contents of a checkpoint folder from a model.

    Args:
        model: an encoder, or a model with an encoder as `model.ernie_m`.
        config: the encoder's config.
        tokenizer: `Tokenizer.files`.
        settings: keys of config.json besides the model config: "task", "labels", "languages".
        card_facts: facts for the model card.
        omitted_prefixes: name prefixes of weights to omit, such as "lm_head." and "language_embeddings.".
        master_weights: `parameter.name` -> float32 master weight to write instead of that parameter.
        language_means: language -> mean embedding at each layer, [L + 1, H].
    """
    weights = get_weight_arrays(model, master_weights or {})
    weights = {name: array for name, array in weights.items() if not name.startswith(omitted_prefixes)}
    files = make_model_files(weights, config, type(model).__name__, settings or {}, card_facts or {})
    return replace(files, tokenizer=tokenizer, language_means=language_means or {})


def make_model_files(
    weights: Mapping[str, np.ndarray],
    config: ErnieMConfig,
    architecture: str,
    settings: Mapping[str, Any],
    card_facts: Mapping[str, Any],
) -> ModelFiles:
    """Collect the contents of a checkpoint folder from weights, without a tokenizer.

    Args:
        weights: native name -> array.
        config: the encoder's config.
        architecture: name of the model class.
        settings, card_facts: as in `collect_model_files`.
    """
    config_json = {**config.to_dict(), "model_type": "ernie_m", "architecture": architecture, **settings}
    parameters = sum(array.size for array in weights.values())
    card = format_model_card(card_facts, config_json, parameters)
    return ModelFiles(weights, config_json, card, {})


def get_weight_arrays(
    model: "paddle.nn.Layer", master_weights: Mapping[str, "paddle.Tensor"] = MappingProxyType({})
) -> dict[str, np.ndarray]:
    """Return a model's parameters by native name as arrays, float64 or float32.

    On a CPU the arrays share the parameters' memory: write them to disk before the next training step.

    Args:
        master_weights: `parameter.name` -> float32 master weight to return instead of that parameter.
    """
    from ernie_m.model.checkpoint.load import STORED_DTYPES, get_parameters

    weights = {}
    for name, parameter in get_parameters(model).items():
        tensor = master_weights.get(parameter.name, parameter)
        if tensor.dtype not in STORED_DTYPES:
            tensor = tensor.detach().astype("float32")
        weights[name] = as_numpy(tensor)
    return weights


def as_numpy(value: Any) -> np.ndarray:
    """Convert a tensor to a NumPy array, without a copy for a tensor on a CPU. Arrays stay unchanged.

    A bfloat16 tensor becomes its bits in uint16, as with `Tensor.numpy`.
    """
    import paddle

    if not isinstance(value, paddle.Tensor):
        return np.asarray(value)
    value = value.detach()
    if value.place.is_cpu_place() and value.dtype != paddle.bfloat16:
        return np.from_dlpack(value)
    return value.numpy()  # a copy on the host
