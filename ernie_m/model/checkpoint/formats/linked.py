"""A head whose encoder lies elsewhere: its folder has the head's weights, and says where the encoder is.

    "linked_encoder": {"path": "../../configs/e5-small", "sha256": "..."}     in config.json

The path is relative to the folder of the head, or the name of a model on Hugging Face's hub.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_m.model.checkpoint.files import LINK, Source
from ernie_m.model.checkpoint.formats.lazy_weights import Weights
from ernie_m.model.checkpoint.formats.tensor_names import OURS
from ernie_m.utils.errors import UserError

if TYPE_CHECKING:
    from ernie_m.model.checkpoint.open import Checkpoint

PARTS_OF_ENCODER = ("embeddings.", "encoder.", "pooler.")  # begin the names of its tensors


def link_to(encoder: "Checkpoint", start: Path, folder: Path, layers: int) -> dict[str, Any]:
    """What config.json says of an encoder.

    Args:
        start: where the encoder was opened: a path, or the name of a model on the hub.
        folder: that of the head.
        layers: how many of its layers the model has.
    """
    if start.exists():
        path = os.path.relpath(os.path.abspath(start), os.path.realpath(folder))
    else:
        path = str(start)
    return {LINK: {"path": path, "sha256": _checksum(encoder.tensors, _names(encoder.tensors, layers))}}


def with_encoder(source: Source) -> Source:
    """A head together with the encoder that its config names.

    Raises:
        UserError: there is no such encoder, or it has other weights than the one that the head was fitted to.
    """
    from ernie_m.model.checkpoint.open import open_checkpoint  # here, because it imports this file

    place = f"{source.config_path}: {LINK}"
    try:
        path = source.raw_config[LINK]["path"]
        checksum = source.raw_config[LINK]["sha256"]
        layers = int(source.raw_config["num_hidden_layers"])
        beside = source.folder / path
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{place}: it must have path and sha256; fit the head again") from error
    try:
        encoder = open_checkpoint(beside if beside.exists() else Path(path))
    except UserError as error:
        raise UserError(f"{place}: {error}; put it back there, or change the path") from error
    names = _names(encoder.tensors, layers)
    if _checksum(encoder.tensors, names) != checksum:
        raise UserError(
            f"{place}: {encoder.path} has other weights than the encoder that the head was fitted to; put "
            "that one back, or fit the head again"
        )
    head = source.tensors
    shapes = {name: encoder.tensors.shape(name) for name in names} | head.shapes

    def fetch(name: str) -> np.ndarray:
        return head[name] if name in head else encoder.tensors[name]

    return replace(source, tensors=Weights(source.path, shapes, fetch), format=OURS)


def _names(tensors: Weights, layers: int) -> list[str]:
    """The names of an encoder's tensors up to a layer."""
    names = []
    for name in sorted(tensors):
        is_above = name.startswith("encoder.layers.") and int(name.split(".")[2]) >= layers
        if name.startswith(PARTS_OF_ENCODER) and not is_above:
            names.append(name)
    return names


def _checksum(tensors: Weights, names: list[str]) -> str:
    """SHA-256 of tensors under our names, whatever files they are in."""
    digest = hashlib.sha256()
    for name in names:
        array = tensors[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(memoryview(array.ravel()).cast("B"))
    return digest.hexdigest()
