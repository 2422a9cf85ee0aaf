"""Make XLM-R in the format of Hugging Face and files of torch, with random weights and without torch."""

import base64
import io
import json
import pickle
import struct
import sys
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from safetensors.numpy import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}

# The type of an array -> torch's name for a storage of it.
STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage"}


def config(**changes) -> dict:
    """The content of config.json, with `changes`."""
    return {
        "model_type": "xlm-roberta",
        **SHAPE,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "type_vocab_size": 1,
        **changes,
    }


def weights(settings: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict with matrices [out, in], as in torch."""
    rng = np.random.default_rng(seed)
    h = settings["hidden_size"]
    inner = settings["intermediate_size"]
    vocab_size = settings["vocab_size"]
    shapes = {
        "roberta.embeddings.word_embeddings.weight": (vocab_size, h),
        "roberta.embeddings.position_embeddings.weight": (settings["max_position_embeddings"], h),
        "roberta.embeddings.token_type_embeddings.weight": (1, h),
        **_affine("roberta.embeddings.LayerNorm", h),
        **_affine("lm_head.dense", h, h),
        **_affine("lm_head.layer_norm", h),
        "lm_head.bias": (vocab_size,),
    }
    for i in range(settings["num_hidden_layers"]):
        layer = f"roberta.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _affine(f"{layer}.attention.{name}", h, h)
        shapes |= _affine(f"{layer}.attention.output.LayerNorm", h) | _affine(f"{layer}.output.LayerNorm", h)
        shapes |= _affine(f"{layer}.intermediate.dense", inner, h)
        shapes |= _affine(f"{layer}.output.dense", h, inner)
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def _affine(name: str, size: int, *inputs: int) -> dict[str, tuple[int, ...]]:
    """The shapes of weight and bias: of a linear layer with `inputs` inputs, or of a norm without."""
    return {f"{name}.weight": (size, *inputs), f"{name}.bias": (size,)}


def make_xlm_r(folder: Path, **changes) -> dict[str, np.ndarray]:
    """Write config.json and model.safetensors, and return the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(**changes)
    (folder / "config.json").write_text(json.dumps(settings))
    arrays = weights(settings)
    save_file(arrays, folder / "model.safetensors")
    return arrays


def tokenizer_json(pieces: Path) -> dict:
    """The tokenizer.json that transformers 5 writes for XLM-R with a piece model."""
    model = ModelProto.FromString(pieces.read_bytes())
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [[name, 0.0] for name in specials]
    vocab += [[piece.piece, piece.score] for piece in model.pieces[3:]]
    vocab.append(["<mask>", 0.0])
    added = [*enumerate(specials), (len(vocab) - 1, "<mask>")]
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": id_, "content": name, "special": True} for id_, name in added],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


@dataclass
class _Tensor:
    """Is pickled as torch pickles a tensor; `key` is the name of its storage."""

    array: np.ndarray
    key: str

    def __reduce__(self):
        utils = sys.modules["torch._utils"]
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        offset = 0
        requires_grad = False
        hooks: dict = {}
        arguments = (_Storage(self), offset, self.array.shape, strides, requires_grad, hooks)
        return utils._rebuild_tensor_v2, arguments


@dataclass
class _Storage:
    """Is pickled as the name of a tensor's storage, whose bytes are elsewhere in the file."""

    tensor: _Tensor


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        """What the pickle has in the place of a storage; None: the value itself."""
        if isinstance(value, _Storage):
            array = value.tensor.array
            kind = getattr(sys.modules["torch"], STORAGES[array.dtype.name])
            return ("storage", kind, value.tensor.key, "cpu", array.size)
        return None


def write_torch_file(path: Path, arrays: dict[str, np.ndarray], wrap=None, legacy=False, **more) -> None:
    """Write a state dict as torch.save does.

    Args:
        wrap: makes the object to save from the state dict.
        legacy: the layout before torch 1.6 instead of the zip archive.
        more: further entries of the state dict, which need not be tensors.
    """
    # A pickle has only the names of classes and functions. It looks them up in their modules, so there must
    # be something with these names in modules with these names.
    torch = types.ModuleType("torch")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils = types.ModuleType("torch._utils")

    def rebuild() -> None:
        """Is named in the pickle, and never called."""

    rebuild.__module__ = "torch._utils"
    rebuild.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    pickled = io.BytesIO()
    state = {name: _Tensor(array, str(i)) for i, (name, array) in enumerate(arrays.items())} | more
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        _Pickler(pickled, 2).dump(wrap(state) if wrap else state)
    storages = {str(i): array for i, array in enumerate(arrays.values())}
    to_bytes = legacy_bytes if legacy else zip_bytes
    path.write_bytes(to_bytes(pickled.getvalue(), storages))


def zip_bytes(pickled: bytes, storages: dict[str, np.ndarray] | None = None) -> bytes:
    """A zip archive of torch with a pickle and its storages, key -> array."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return stream.getvalue()


def legacy_bytes(pickled: bytes, storages: dict[str, np.ndarray] | None = None) -> bytes:
    """A file in the layout before torch 1.6 with a pickle and its storages, key -> array."""
    storages = storages or {}
    stream = io.BytesIO()
    magic_number = 0x1950A86A20F9469CFC6C
    protocol_version = 1001
    for value in (magic_number, protocol_version, {"little_endian": True}):
        stream.write(pickle.dumps(value, 2))
    stream.write(pickled)
    stream.write(pickle.dumps(list(storages), 2))
    for array in storages.values():
        stream.write(struct.pack("<q", array.size))
        stream.write(array.tobytes())
    return stream.getvalue()
