"""What a conversion writes: weights and configs in the forms of other libraries, and in the official one."""

import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint import configs, fluid, tensor_names
from ernie_m.model.checkpoint.lazy_weights import Origin, Weights, write_data
from ernie_m.model.checkpoint.tensor_names import HUGGING_FACE, PADDLENLP, TOKEN_TYPES, WORDS, XLM_R
from ernie_m.model.config import ErnieMConfig
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, write_json

# The keys that we share with all libraries.
_SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
)
# The keys that only one library has.
_LIBRARY_KEYS = {
    PADDLENLP: {
        "type_vocab_size": 16,
        "dtype": "float32",
    },
    HUGGING_FACE: {
        "classifier_dropout": None,
        "act_dropout": 0.0,
        "torch_dtype": "float32",
    },
    XLM_R: {
        "type_vocab_size": 1,
        "position_embedding_type": "absolute",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "classifier_dropout": None,
        "torch_dtype": "float32",
        "use_cache": True,
    },
}
# The keys that the official code reads.
_OFFICIAL_KEYS = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)


class RenamedWeights(NamedTuple):
    """Weights under the names of another format.

    Attributes:
        weights: each is read when it is accessed.
        origins: name in the format -> where the tensor comes from.
        left_out: our names that have no place there.
        absent: our names that the format needs and that are not in the weights.
    """

    weights: Weights
    origins: dict[str, Origin]
    left_out: list[str]
    absent: list[str]


def to_names_of(format_name: str, weights: Weights, task: str | None) -> RenamedWeights:
    """Translate weights to the names of another format.

    Args:
        task: what the model is for, a key of `tensor_names.CLASSES[format_name]`. None: an encoder, or any
            model of ours.
    """
    prefix = "" if task is None else tensor_names.ENCODER_PREFIX.get(format_name, "")
    rows = tensor_names.rows_of(format_name, tensor_names.count_layers(weights), task, prefix)
    row_of = {row.in_format: row for row in rows if row.canonical in weights}
    shapes: dict[str, tuple[int, ...]] = {}
    origins: dict[str, Origin] = {}
    for name, row in row_of.items():
        shape = weights.shape(row.canonical)
        shapes[name] = shape[::-1] if row.transposed else shape
        origins[name] = Origin((row.canonical,), row.transposed)
    if format_name == XLM_R:  # XLM-R needs token types, and gets zeros
        shapes[prefix + TOKEN_TYPES] = (1, weights.shape(WORDS)[1])
        origins[prefix + TOKEN_TYPES] = Origin(("zeros",), transposed=False)

    def read(name: str) -> np.ndarray:
        if name not in row_of:  # the token types
            return np.zeros(shapes[name], np.float32)
        row = row_of[name]
        array = weights[row.canonical]
        return np.ascontiguousarray(array.T) if row.transposed else array

    has_place = {row.canonical for row in rows}
    left_out = [name for name in weights if name not in has_place]
    # A masked-LM head is never needed: the official format is complete without it, and so is XLM-R's encoder.
    needed_names = [row.canonical for row in rows if not row.canonical.startswith("lm_head.")]
    absent = [name for name in needed_names if name not in weights]
    return RenamedWeights(Weights(weights.source, shapes, read), origins, left_out, absent)


def for_library(
    format_name: str, config: ErnieMConfig, class_name: str, labels: list[str], num_labels: int | None
) -> dict[str, Any]:
    """config.json of PaddleNLP, or of ErnieM or XLM-R in transformers.

    Args:
        labels: the names of the labels. If their number is not `num_labels`, LABEL_0, ... are written.
        num_labels: the outputs of the classifier; None: the model has no classifier.

    Raises:
        UserError: a size that the library cannot have.
    """
    if format_name == PADDLENLP:
        check_fixed_sizes(config, "PaddleNLP")
    if format_name == XLM_R:
        configs.check_first_position(config)
    values = config.to_dict()
    written = {"architectures": [class_name], "model_type": configs.MODEL_TYPES[format_name]}
    written |= {key: values[key] for key in _SHARED_KEYS}
    written |= _LIBRARY_KEYS[format_name]
    if format_name != PADDLENLP:
        written["layer_norm_eps"] = config.layer_norm_eps
    if num_labels is not None:
        if len(labels) != num_labels:
            labels = configs.numbered(num_labels)
        written["id2label"] = {str(i): label for i, label in enumerate(labels)}
        written["label2id"] = {label: i for i, label in enumerate(labels)}
    return written


def check_fixed_sizes(config: ErnieMConfig, library: str) -> None:
    """Check the sizes for which a library has no key.

    Raises:
        UserError: one differs from the value that the library always has.
    """
    for key, value in {"intermediate_size": 4 * config.hidden_size, "layer_norm_eps": 1e-5}.items():
        if getattr(config, key) != value:
            raise UserError(f"{key} is {getattr(config, key)}; {library} always has {value}")


def write_official(folder: Path, weights: Weights, config: ErnieMConfig) -> None:
    """Write `folder/params/` (float32) and `folder/ernie_config.json`; replace older ones.

    Args:
        weights: under the official names, as from `to_names_of`.

    Raises:
        UserError: a size that the official code cannot express; a full disk.
    """
    check_fixed_sizes(config, "the official format")
    with atomic_dir(folder / "params") as params:
        for name in weights:
            fluid.write(params / name, np.asarray(weights[name], np.float32))
    write_config(folder / fluid.CONFIG, config.to_dict())


def write_config(path: str | os.PathLike, config: dict) -> None:
    """Write those keys of a config that the official code reads, as JSON."""
    write_json(path, {key: config[key] for key in _OFFICIAL_KEYS if key in config})


# The pickle is assembled by hand, because the pickle library would need every array in memory at once.
_BEGIN_PICKLE = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK
_END_PICKLE = pickle.SETITEMS + pickle.STOP  # the items are all since the mark
# numpy's _reconstruct(ndarray, (0,), b"b"); numpy 1 and 2 both know the name.
_RECONSTRUCT = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93"
_NEW_ARRAY = _RECONSTRUCT + b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
# dtype("f4", False, True), and its state (3, "<", None, None, None, -1, -1, 0).
_DTYPE_F4 = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R"
_LITTLE_ENDIAN = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def write_pdparams(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as float32, one at a time, so that paddle.load reads them. Not atomic."""
    with open(path, "wb") as file:
        file.write(_BEGIN_PICKLE)
        for name in weights:
            array = np.asarray(weights[name], dtype="<f4", order="C")
            encoded_name = name.encode("utf-8")
            file.write(pickle.BINUNICODE + struct.pack("<I", len(encoded_name)) + encoded_name)
            file.write(_NEW_ARRAY)
            # The array's state is the tuple (1, shape, dtype, False, data); False: it is in C order.
            file.write(pickle.MARK + pickle.BININT1 + b"\x01")
            shape = b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", size) for size in array.shape)
            file.write(pickle.MARK + shape + pickle.TUPLE)
            file.write(_DTYPE_F4 + _LITTLE_ENDIAN)
            file.write(pickle.NEWFALSE)
            file.write(pickle.BINBYTES8 + struct.pack("<Q", array.nbytes))
            write_data(file, array)
            file.write(pickle.TUPLE + pickle.BUILD)
        file.write(_END_PICKLE)
