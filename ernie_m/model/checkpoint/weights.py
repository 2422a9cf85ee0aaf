"""Named weights that stay on disk until one is accessed, and the names of the files of a checkpoint."""

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

from ernie_m.reader.vocabulary import DICT
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import (
    Folder,
    read_json,
    refuse_changed,
    reject_pointer,
    translate_read_errors,
    version_of,
)


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array. Names and shapes are known; data is read at each access.

    A large model (2.2 GB) can thus be processed one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        shapes: name -> shape.
        metadata: what else the file says about itself, in formats that have a place for it.
        other_names: names in the file that are not tensors.
        places: name -> where in the file its data is, in formats in which two tensors may share theirs.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        other_names: Sequence[str] = (),
        places: Mapping[str, Hashable] | None = None,
    ):
        self.source = source
        self.shapes = dict(shapes)
        self.metadata = dict(metadata or {})
        self.other_names = list(other_names)
        self.places = dict(places or {})
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
            KeyError: there is no such name.
        """
        return self.shapes[name]

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors have the same values; if they share their data, it is not read."""
        if self.places.get(name, name) == self.places.get(other):
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


# The exceptions that a corrupt or hostile file of weights raises.
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
def raising_on_corruption(path: str | os.PathLike, form: str) -> Iterator[None]:
    """Turn what a corrupt or unreadable file of weights of this form raises into a `UserError`."""
    try:
        with translate_read_errors(path):
            yield
    except BROKEN as error:
        reject_pointer(path)
        raise UserError(
            f"{path}: corrupt, truncated or not {form} ({type(error).__name__}: {error}). Copy or download "
            "the file again"
        ) from error


class WeightsFile:
    """A file of weights, which is read again for its tensors and must be the one that was opened.

    Args:
        form: what it should be, for errors.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike, form: str):
        self.path = path
        self._form = form
        self._version = version_of(path)

    @contextmanager
    def open_binary(self) -> Iterator[IO[bytes]]:
        """Open it, for a `with` statement; see `raising_on_corruption` and `refuse_changed`."""
        with raising_on_corruption(self.path, self._form), open(self.path, "rb") as file:
            refuse_changed(self.path, version_of(file.fileno()), self._version)
            yield file
            refuse_changed(self.path, version_of(file.fileno()), self._version)


def read_numbers(file: IO[bytes], dtype: np.dtype, count: int, offset: int) -> np.ndarray:
    """Read `count` numbers from this byte of a file on; an EOFError if there are fewer."""
    file.seek(offset)
    numbers = np.fromfile(file, dtype, count)
    if numbers.size != count:
        raise EOFError("it ends too early")
    return numbers


def finite(name: str, array: np.ndarray, source: object, way: str = "Use other weights") -> np.ndarray:
    """Return the array itself, after a check that all of its values are finite.

    Args:
        way: what to do about others, for the error.

    Raises:
        UserError: it holds a NaN or an infinity, as after a run that diverged.
    """
    if array.size == 0 or array.dtype.kind != "f":
        return array
    # A NaN makes the minimum and the maximum NaN. Neither needs a copy, as `np.isfinite(array)` would.
    if not np.isfinite([array.min(), array.max()]).all():
        raise UserError(f"{source}: {name} contains NaN or infinity. {way}")
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert the uint16 bits of bfloat16 to float32, whose upper half they are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_data(file: IO[bytes], array: np.ndarray) -> None:
    """Write the bytes of a contiguous array, without a copy."""
    if array.size:  # a memoryview of nothing cannot be cast
        file.write(array.reshape(-1).data.cast("B"))


def check_shape(shape: Iterable[int], dtype: np.dtype) -> None:
    """Check that numpy can hold an array of this shape, without allocating it.

    Raises:
        ValueError: it cannot, even if the array has no elements.
    """
    np.broadcast_to(np.zeros((), dtype), tuple(shape))  # a view, which takes no memory


ADAPTER = "adapter_config.json"  # of PEFT; libraries add its weights to those next to it
CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCAB = "vocab.txt"
PIECES = "piece.model"
TOKENIZER_JSON = "tokenizer.json"  # of XLM-R; `ernie_m.reader.tokenization` converts it
LANGUAGE_MEANS = "language_means.safetensors"  # language -> its mean sentence vector by layer, [L + 1, H]
VOCABS = (VOCAB, "ernie_m.vocab.txt", DICT)
PIECE_MODELS = (PIECES, "sentencepiece.bpe.model", "ernie_m.sentencepiece.bpe.model", TOKENIZER_JSON)
# The first of these that a folder has is read. `X.index.json` says which of several files holds which name.
WEIGHTS_FILES = (WEIGHTS, "pytorch_model.bin", "model_state.pdparams", "model.pt")
_INDEX = ".index.json"
# What DistributedDataParallel, torch.compile, and trainings that hold a model as an attribute write.
_WRAPPERS = r"((module|_orig_mod|model)\.)*"
# What to do about a part that is not understood; the end of a message.
WITHOUT_UNKNOWN = "ernie-m convert FOLDER NEW --drop_unknown writes the model without it"


def weights_name(folder: Folder) -> str | None:
    """Return the name of a folder's weight file, or None. Official directories do not count.

    If the weights are in several files, which `X.index.json` names, the result is `X`, which need not exist.
    """
    if folder.named:
        return folder.named
    others = sorted(name for name in folder.names if name.endswith(".pdparams"))  # as ernie_m_base.pdparams
    names = (name for name in (*WEIGHTS_FILES, *others) if name in folder or name + _INDEX in folder)
    return next(names, None)


def open_weights(folder: Folder, readers: Mapping[str, Callable[[Path], Weights]]) -> Weights | None:
    """Return the weights of a folder under their names in the file; None: no supported weights.

    Args:
        readers: the ending of a file -> what reads it.

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
    """Weights without what modules around a model put before all names of its tensors."""
    prefix = re.match(_WRAPPERS, next(iter(weights), ""))[0]  # type: ignore[index]  # it fits any name
    if not prefix or not all(name.startswith(prefix) for name in weights):
        return weights
    return Weights(
        weights.source,
        {name.removeprefix(prefix): shape for name, shape in weights.shapes.items()},
        lambda name: weights[prefix + name],
        weights.metadata,
        weights.other_names,
        {name.removeprefix(prefix): location for name, location in weights.places.items()},
    )


def _read_parts(index: Path, read: Callable[[Path], Weights]) -> Weights:
    """Return the tensors of all files that an index names.

    Args:
        read: the reader of one of these files.

    Raises:
        UserError: the index is corrupt, or does not belong to the files next to it.
    """
    try:
        file_of = read_json(index)["weight_map"]  # name of a tensor -> name of its file
        files = sorted(set(file_of.values()))
        absent = set(files) - Folder(index.parent).names  # or in another folder, or a pipe
        if absent:
            raise ValueError(f"no file {min(absent)}")
        parts = {file: read(index.parent / file) for file in files}
        shapes = {name: parts[file].shape(name) for name, file in file_of.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: corrupt, or does not match the files next to it ({error!r})") from error
    return Weights(index, shapes, lambda name: parts[file_of[name]][name])
