"""XLM-R as Hugging Face saves it: safetensors or pytorch_model.bin, in one file or in several with an index.

Paper, appendix A.2: base and large start from XLM-R. Its ids and positions are ERNIE-M's own (`<s>` is [CLS],
`</s>` is [SEP]), so rows are copied as they stand.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.formats import safe, torch_file
from model.formats.weights import Weights
from utils.errors import UserError

CONFIG, PIECES = "config.json", "sentencepiece.bpe.model"
MODEL_TYPE = "xlm-roberta"
# In the order in which they are looked for; `X.index.json` says which of several files holds which name.
FILES = {"model.safetensors": safe.read, "pytorch_model.bin": torch_file.read}
_PREFIX = "roberta."  # of the encoder within a model with a head
_POSITIONS, _TOKEN_TYPES = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"


class _Row(NamedTuple):
    """Our name, theirs, and whether torch's [out, in] is to be turned into [in, out]."""

    canonical: str
    theirs: str
    transposed: bool


def _pair(canonical: str, theirs: str, transposed: bool = False) -> tuple[_Row, _Row]:
    return (
        _Row(f"{canonical}.weight", f"{theirs}.weight", transposed),
        _Row(f"{canonical}.bias", f"{theirs}.bias", False),
    )


_OUTSIDE_LAYERS = (
    _Row("embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight", False),
    _Row(_POSITIONS, _POSITIONS, False),
    *_pair("embeddings.layer_norm", "embeddings.LayerNorm"),
    *_pair("lm_head.dense", "lm_head.dense", True),
    *_pair("lm_head.layer_norm", "lm_head.layer_norm"),
    _Row("lm_head.bias", "lm_head.decoder.bias", False),
    _Row("lm_head.bias", "lm_head.bias", False),  # the same tensor: the files hold one name or both
)
_LAYER = (
    *_pair("self_attn.q_proj", "attention.self.query", True),
    *_pair("self_attn.k_proj", "attention.self.key", True),
    *_pair("self_attn.v_proj", "attention.self.value", True),
    *_pair("self_attn.out_proj", "attention.output.dense", True),
    *_pair("norm1", "attention.output.LayerNorm"),
    *_pair("linear1", "intermediate.dense", True),
    *_pair("linear2", "output.dense", True),
    *_pair("norm2", "output.LayerNorm"),
)
# Held but not taken: the pooler was never trained, the output layer is the word table.
_DROPPED = ("pooler.", "embeddings.position_ids", "lm_head.decoder.weight", _TOKEN_TYPES)


def is_here(folder: Path) -> bool:
    """Whether a folder's config.json is that of an XLM-R."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_directory(folder: Path) -> tuple[Weights, list[str]]:
    """The weights under our names, each read when asked for, and the names that were not understood.

    The one row of token-type embeddings is added to every position.

    Raises:
        UserError: no weights there, a damaged file, or a variant that is not ERNIE-M's architecture.
    """
    _check_variant(folder / CONFIG)
    found = _open(folder)
    theirs = {name.removeprefix(_PREFIX): name for name in found}
    table = {row.canonical: row for row in _table(theirs) if row.theirs in theirs}
    shapes = {}
    for canonical, row in table.items():
        shape = found.shape(theirs[row.theirs])
        shapes[canonical] = shape[::-1] if row.transposed else shape

    def fetch(canonical: str) -> np.ndarray:
        row = table[canonical]
        array = found[theirs[row.theirs]]
        if canonical == _POSITIONS and _TOKEN_TYPES in theirs:
            array = array + found[theirs[_TOKEN_TYPES]][0]
        return np.ascontiguousarray(array.T) if row.transposed else array

    used = {row.theirs for row in _table(theirs)}
    unknown = [full for name, full in theirs.items() if name not in used and not name.startswith(_DROPPED)]
    return Weights(folder, shapes, fetch), sorted(unknown)


def _table(theirs: dict[str, str]) -> list[_Row]:
    heads = [name for name in theirs if name.startswith("encoder.layer.")]
    layers = 1 + max((int(name.split(".")[2]) for name in heads), default=-1)
    return [
        *_OUTSIDE_LAYERS,
        *(
            _Row(f"encoder.layers.{i}.{row.canonical}", f"encoder.layer.{i}.{row.theirs}", row.transposed)
            for i in range(layers)
            for row in _LAYER
        ),
    ]


def _open(folder: Path) -> Weights:
    for name, read in FILES.items():
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_parts(index, read)
    raise UserError(f"{folder}: an XLM-R without weights: no {' or '.join(FILES)}")


def _open_parts(index: Path, read) -> Weights:
    try:
        place = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {name: read(index.parent / name) for name in sorted(set(place.values()))}
        shapes = {name: files[file].shape(name) for name, file in place.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: damaged, or not of the files beside it ({error!r})") from error
    return Weights(index, shapes, lambda name: files[place[name]][name])


def _check_variant(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, needed in (("tie_word_embeddings", True), ("position_embedding_type", "absolute")):
        if config.get(key, needed) != needed:
            raise UserError(f"{path}: {key} is {config[key]}, only {needed} fits ERNIE-M's architecture")
