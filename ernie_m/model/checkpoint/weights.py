"""Named weights that stay on disk until accessed, and the file names of a checkpoint."""

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
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    Folder,
    get_file_version,
    read_json,
    reject_changed,
    reject_pointer,
    translate_read_errors,
)


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array. Names and shapes are known; data is read at each access.

    So a large model (2.2 GB) is processed one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        shapes: name -> shape.
        metadata: other contents of the file, in formats that support it.
        other_names: names in the file that are not tensors.
        storages: name -> where the file stores its data, in formats in which two tensors may share theirs.
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
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """Wrap arrays in memory; a `Weights` is returned unchanged."""
        if isinstance(arrays, cls):
            return arrays
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        return cls(source="the given weights", shapes=shapes, fetch=arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, without reading it.

        Raises:
            KeyError: the name is unknown.
        """
        return self.shapes[name]

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors have the same values; shared data is not read."""
        if self.storages.get(name, name) == self.storages.get(other):
            return True
        return self.shapes[name] == self.shapes[other] and np.array_equal(self[name], self[other])

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
def raising_on_corruption(path: str | os.PathLike, file_format: str) -> Iterator[None]:
    """Turn the exceptions of a corrupt or unreadable file of weights into a `UserError`."""
    try:
        with translate_read_errors(path):
            yield
    except BROKEN as error:
        reject_pointer(path)
        raise UserError(
            f"{path}: corrupt, truncated or not {file_format} ({type(error).__name__}: {error}). Copy or "
            "download the file again"
        ) from error


class WeightsFile:
    """A file of weights, which is reopened for its tensors and must not change.

    Args:
        file_format: description of the expected file, for errors.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike, file_format: str):
        self.path = path
        self._file_format = file_format
        self._version = get_file_version(path)

    @contextmanager
    def open_binary(self) -> Iterator[IO[bytes]]:
        """Open it, for a `with` statement; see `raising_on_corruption` and `reject_changed`."""
        with raising_on_corruption(self.path, self._file_format), open(self.path, "rb") as file:
            reject_changed(self.path, get_file_version(file.fileno()), self._version)
            yield file
            reject_changed(self.path, get_file_version(file.fileno()), self._version)


def read_numbers(file: IO[bytes], dtype: np.dtype, count: int, offset: int) -> np.ndarray:
    """Read `count` numbers from a byte offset of a file; an EOFError if there are fewer."""
    file.seek(offset)
    numbers = np.fromfile(file, dtype, count)
    if numbers.size != count:
        raise EOFError("unexpected end of file")
    return numbers


def finite(name: str, array: np.ndarray, source: object, way: str = "Use other weights") -> np.ndarray:
    """Check that all values of an array are finite, and return it.

    Args:
        way: advice for the error.

    Raises:
        UserError: it contains NaN or infinity, as after a diverged run.
    """
    if array.size == 0 or array.dtype.kind != "f":
        return array
    # NaN makes minimum and maximum NaN. Neither needs a copy, unlike `np.isfinite(array)`.
    if not np.isfinite([array.min(), array.max()]).all():
        raise UserError(f"{source}: {name} contains NaN or infinity. {way}")
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert uint16 bits of bfloat16 to float32, whose upper half they are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_data(file: IO[bytes], array: np.ndarray) -> None:
    """Write the bytes of a contiguous array, without a copy."""
    if array.size:  # an empty memoryview cannot be cast
        file.write(array.reshape(-1).data.cast("B"))


def check_shape(shape: Iterable[int], dtype: np.dtype) -> None:
    """Check that NumPy supports an array of this shape, without allocating it.

    Raises:
        ValueError: it does not, even if the array has no elements.
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


def weights_name(folder: Folder) -> str | None:
    """Return the name of a folder's weight file, or None. Official directories do not count.

    For sharded weights with an index `X.index.json`, the result is `X`, which need not exist.
    """
    if folder.named:
        return folder.named
    others = sorted(name for name in folder.names if name.endswith(".pdparams"))  # ernie_m_base.pdparams
    names = (name for name in (*WEIGHTS_FILES, *others) if name in folder or name + _INDEX in folder)
    return next(names, None)


def open_weights(folder: Folder, readers: Mapping[str, Callable[[Path], Weights]]) -> Weights | None:
    """Return the weights of a folder under their names in the file; None: no supported weights.

    Args:
        readers: file extension -> reader.

    Raises:
        UserError: a file is corrupt.
    """
    name = weights_name(folder)
    if name is None:
        return None
    read = readers.get(Path(name).suffix)
    if read is None:
        return None
    if name in folder:
        return folder.read(name, lambda path: _unwrapped(read(path)))
    return folder.read(name + _INDEX, lambda index: _unwrapped(_read_parts(index, read)))


def _unwrapped(weights: Weights) -> Weights:
    """Remove the prefix of wrapper modules from all tensor names."""
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


def _read_parts(index: Path, read: Callable[[Path], Weights]) -> Weights:
    """Return the tensors of all files of an index.

    Args:
        read: reader of one of these files.

    Raises:
        UserError: the index is corrupt, or does not match the files next to it.
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
