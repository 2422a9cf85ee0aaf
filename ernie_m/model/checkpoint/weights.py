"""Lazily loaded weights, readers of weight files, and the file names of a checkpoint."""

import fnmatch
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from google.protobuf.message import DecodeError
from safetensors import SafetensorError

from ernie_m.reader.tokenizer_json import TOKENIZER_JSON
from ernie_m.reader.vocabulary import DICT, VOCAB
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import (
    Folder,
    get_file_version,
    read_json,
    reject_changed_file,
    reject_lfs_pointer,
    translate_read_errors,
)


class Weights(Mapping[str, np.ndarray]):
    """A lazily loaded, read-only mapping from tensor name to array. Data is read at each access.

    A large model (2.2 GB) can thus be processed one tensor at a time. `dict(weights)` reads all tensors.

    Attributes:
        source: the file or folder, for messages.
        shapes: tensor name -> shape.
        metadata: other contents of the file, in formats that have some.
        other_names: names of objects in the file that are not tensors.
        storages: tensor name -> identifier of its storage, in formats where tensors may share a storage.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        other_names: Sequence[str] = (),
        storages: Mapping[str, Hashable] | None = None,
    ):
        self.source = source
        self.shapes = dict(shapes)
        self.metadata = dict(metadata or {})
        self.other_names = list(other_names)
        self.storages = dict(storages or {})
        self._fetch = fetch

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """Make `Weights` from arrays in memory; a `Weights` is returned unchanged."""
        if isinstance(arrays, cls):
            return arrays
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        return cls(source="the given weights", shapes=shapes, fetch=arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading its data.

        Raises:
            KeyError: there is no tensor of this name.
        """
        return self.shapes[name]

    def are_equal(self, name: str, other_name: str) -> bool:
        """Return whether two tensors have equal values. Tensors that share a storage are not read."""
        if self.storages.get(name, name) == self.storages.get(other_name):
            return True
        return self.shapes[name] == self.shapes[other_name] and np.array_equal(self[name], self[other_name])

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        return self._fetch(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


# Exceptions for a corrupt or hostile file of weights.
BROKEN = (
    SafetensorError,
    DecodeError,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
)


@contextmanager
def translate_corruption_errors(path: str | os.PathLike, file_format: str) -> Iterator[None]:
    """Translate exceptions about a corrupt or unreadable weight file within a `with` block to `UserError`.

    Args:
        file_format: description of the expected format, for the message.
    """
    try:
        with translate_read_errors(path):
            yield
    except BROKEN as error:
        reject_lfs_pointer(path)
        raise UserError(
            f"{path}: corrupt, truncated or not {file_format} ({type(error).__name__}: {error}). Copy or "
            "download the file again"
        ) from error


class WeightsFile:
    """A weight file, which is reopened whenever a tensor is read, and must not change in between.

    Args:
        file_format: description of the expected format, for messages.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike, file_format: str):
        self.path = path
        self._file_format = file_format
        self._version = get_file_version(path)

    @contextmanager
    def open_binary(self) -> Iterator[IO[bytes]]:
        """Open the file for reading within a `with` block.

        Raises:
            UserError: the file is corrupt or unreadable, or has changed since this object was made.
        """
        with translate_corruption_errors(self.path, self._file_format), open(self.path, "rb") as file:
            reject_changed_file(self.path, get_file_version(file.fileno()), self._version)
            yield file
            reject_changed_file(self.path, get_file_version(file.fileno()), self._version)


def read_numbers(file: IO[bytes], dtype: np.dtype, count: int, offset: int) -> np.ndarray:
    """Read `count` numbers of a dtype from a byte offset of a file.

    Raises:
        EOFError: the file has fewer numbers.
    """
    file.seek(offset)
    numbers = np.fromfile(file, dtype, count)
    if numbers.size != count:
        raise EOFError("unexpected end of file")
    return numbers


def check_finite(
    name: str, array: np.ndarray, source: object, advice: str = "Use other weights"
) -> np.ndarray:
    """Return the array of a tensor unchanged if all values are finite.

    Args:
        name: name of the tensor, for the message.
        source: file or folder of the tensor, for the message.
        advice: what the user can do, for the message.

    Raises:
        UserError: the array contains NaN or infinity, as after training that diverged.
    """
    if array.size == 0 or array.dtype.kind != "f":
        return array
    # NaN makes minimum and maximum NaN. Neither needs a copy, unlike `np.isfinite(array)`.
    if not np.isfinite([array.min(), array.max()]).all():
        raise UserError(f"{source}: {name} contains NaN or infinity. {advice}")
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16, given as bits in uint16, to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_data(file: IO[bytes], array: np.ndarray) -> None:
    """Write the bytes of a contiguous array to a file, without a copy in memory."""
    if array.size:  # an empty memoryview cannot be cast
        file.write(array.reshape(-1).data.cast("B"))


def check_shape(shape: Iterable[int], dtype: np.dtype) -> None:
    """Check that NumPy supports arrays of a shape and dtype, without allocating one.

    Raises:
        ValueError: the shape is negative, too large or has too many axes.
    """
    np.broadcast_to(np.zeros((), dtype), tuple(shape))  # a view without memory


ADAPTER = "adapter_config.json"  # PEFT; libraries add its weights to those next to it
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PIECES = "piece.model"
LANGUAGE_MEANS = "language_means.safetensors"  # language -> its mean embedding by layer, [L + 1, H]
VOCABS = (VOCAB, "ernie_m.vocab.txt", DICT)
PIECE_MODELS = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model", TOKENIZER_JSON)
# A folder's first file of these is read. `X.index.json` maps names to the files of sharded weights.
WEIGHTS_FILES = (WEIGHTS, "pytorch_model.bin", "model_state.pdparams", "model.pt")
_INDEX = ".index.json"
# Prefixes of DistributedDataParallel, torch.compile, and training code that keeps the model as an attribute.
_WRAPPERS = r"((module|_orig_mod|model)\.)*"
# Advice about unknown parts; the end of a message.
WITHOUT_UNKNOWN = "ernie-m convert FOLDER NEW --drop_unknown writes the model without it"


def find_weights_name(folder: Folder) -> str | None:
    """Return the name of the weight file in a folder, or None. Official parameter directories do not count.

    For shards with an index `X.index.json`, the result is `X`, which need not exist.

    Raises:
        UserError: several files have names of their own.
    """
    if folder.named:
        return folder.named
    # ernie_m_base.pdparams, and not scheduler.pdparams
    others = sorted(set(fnmatch.filter(folder.names, "*.pdparams")) - {*WEIGHTS_FILES, "scheduler.pdparams"})
    names = [name for name in (*WEIGHTS_FILES, *others) if name in folder or name + _INDEX in folder]
    if names == others and len(others) > 1:
        raise UserError(
            f"{folder.path}: several files of weights: {join_items(others, 5)}. Rename the one to read to "
            "model_state.pdparams"
        )
    return next(iter(names), None)


def open_weights(folder: Folder, readers: Mapping[str, Callable[[Path], Weights]]) -> Weights | None:
    """Open the weight file or the shards of a folder, under the names in the file; None: no supported file.

    Args:
        readers: file extension -> function that opens a file.

    Raises:
        UserError: a file is corrupt.
    """
    name = find_weights_name(folder)
    if name is None:
        return None
    read = readers.get(Path(name).suffix)
    if read is None:
        return None
    if name in folder:
        return folder.read(name, lambda path: _strip_wrapper_prefix(read(path)))
    return folder.read(name + _INDEX, lambda index: _strip_wrapper_prefix(_read_shards(index, read)))


def _strip_wrapper_prefix(weights: Weights) -> Weights:
    """Remove the prefix of wrapper modules, such as "module.", from the tensor names, if all have it."""
    prefix = re.match(_WRAPPERS, next(iter(weights), ""))[0]  # type: ignore[index]  # it matches any name
    if not prefix or not all(name.startswith(prefix) for name in weights):
        return weights
    return Weights(
        weights.source,
        {name.removeprefix(prefix): shape for name, shape in weights.shapes.items()},
        lambda name: weights[prefix + name],
        weights.metadata,
        weights.other_names,
        {name.removeprefix(prefix): location for name, location in weights.storages.items()},
    )


def _read_shards(index: Path, read: Callable[[Path], Weights]) -> Weights:
    """Open the shards of an index as one mapping.

    Args:
        index: path of the index, a JSON file with "weight_map".
        read: function that opens a shard.

    Raises:
        UserError: the index is corrupt, or does not match the shards next to it.
    """
    try:
        file_of = read_json(index)["weight_map"]  # tensor name -> file name
        files = sorted(set(file_of.values()))
        absent = set(files) - Folder(index.parent).names  # missing, in another folder, or a pipe
        if absent:
            raise ValueError(f"no file {min(absent)}")
        parts = {file: read(index.parent / file) for file in files}
        shapes = {name: parts[file].shape(name) for name, file in file_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: corrupt, or does not match the files next to it ({error!r})") from error
    return Weights(index, shapes, lambda name: parts[file_of[name]][name])
