"""Named weights that stay on disk until one is accessed, and their translation by the tables of names."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from ernie_m.model.checkpoint import tensor_names
from ernie_m.model.checkpoint.tensor_names import BERT, LM_BIAS, POSITIONS, TOKEN_TYPES, XLM_R
from ernie_m.model.config import FIRST_POSITION
from ernie_m.utils.errors import UserError


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array. Names and shapes are known; data is read at each access.

    A large model (2.2 GB) can thus be processed one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        shapes: name -> shape.
        metadata: what else the file says about itself, in formats that have a place for it.
        other_names: names in the file that are not tensors.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        other_names: Sequence[str] = (),
    ):
        self.source = source
        self.shapes = dict(shapes)
        self.metadata = dict(metadata or {})
        self.other_names = list(other_names)
        self._fetch = fetch

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """Wrap arrays in memory; a `Weights` is returned unchanged."""
        if isinstance(arrays, cls):
            return arrays
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        return cls(source="the given weights", shapes=shapes, fetch=arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it.

        Raises:
            KeyError: there is no such name.
        """
        return self.shapes[name]

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


def finite(name: str, array: np.ndarray, source: str | os.PathLike) -> np.ndarray:
    """Return the array itself, after a check that all of its values are finite.

    Raises:
        UserError: it holds a NaN or an infinity, as after a run that diverged.
    """
    if array.size == 0 or array.dtype.kind != "f":
        return array
    # A NaN makes the minimum and the maximum NaN. Neither needs a copy, as `np.isfinite(array)` would.
    if not np.isfinite([array.min(), array.max()]).all():
        raise UserError(f"{source}: {name} holds values that are not finite (NaN or infinity); use others")
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert the uint16 bits of bfloat16 to float32, whose upper half they are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_data(file: IO[bytes], array: np.ndarray) -> None:
    """Write the bytes of a contiguous array, without a copy."""
    if array.size:  # a memoryview of nothing cannot be cast
        file.write(memoryview(array.reshape(-1)).cast("B"))


def check_shape(shape: Iterable[int], dtype: np.dtype) -> None:
    """Check that numpy can hold an array of this shape, without allocating it.

    Raises:
        ValueError: it cannot, even if the array has no elements.
    """
    np.broadcast_to(np.zeros((), dtype), tuple(shape))  # a view, which takes no memory


class Origin(NamedTuple):
    """Where a tensor comes from."""

    names: tuple[str, ...]  # the tensors in the source that it is made of; nearly always one
    transposed: bool  # whether its axes are reversed against the source


class CanonicalWeights(NamedTuple):
    """Weights under our names.

    Attributes:
        weights: each is read when it is accessed.
        origins: our name -> where the tensor comes from.
        dropped: name in the file -> why the tensor was not taken.
        unknown: names in the file that were not understood, sorted.
    """

    weights: Weights
    origins: dict[str, Origin]
    dropped: dict[str, str]
    unknown: list[str]


class _Recipe(NamedTuple):
    """How one of our tensors is made of tensors in a file: split, then added to, moved down, transposed.

    Attributes:
        name: in the file.
        transposed: whether [out, in] becomes [in, out].
        fused_part: if the tensor in the file is q, k and v in one, the index in `FUSED_PARTS` of the third
            that is taken; None: it is not.
        added_row: the name of a tensor [types, H] in the file whose row 0 is added to each row; or None.
        rows_before: the number of rows of zeros that are put before those of the file.
    """

    name: str
    transposed: bool
    fused_part: int | None
    added_row: str | None = None
    rows_before: int = 0

    def origin(self) -> Origin:
        """Where our tensor comes from."""
        name = self.name
        if self.fused_part is not None:
            name = f"{name} [{tensor_names.FUSED_PARTS[self.fused_part]}]"
        names = (name, self.added_row) if self.added_row else (name,)  # all tensors that ours is made of
        return Origin(names, self.transposed)

    def shape(self, file: Weights) -> tuple[int, ...]:
        """The shape of our tensor.

        Raises:
            UserError: the shape in the file cannot be split or added to.
        """
        shape = file.shape(self.name)
        if self.fused_part is not None:
            if not shape or shape[0] % len(tensor_names.FUSED_PARTS):
                raise UserError(f"{file.source}: {self.name} has shape {list(shape)}, not q, k and v in one")
            shape = (shape[0] // len(tensor_names.FUSED_PARTS), *shape[1:])
        if self.added_row:
            types = file.shape(self.added_row)
            if len(types) != 2 or types[0] < 1 or types[1:] != shape[1:]:
                raise UserError(
                    f"{file.source}: {self.added_row} has shape {list(types)}, which does not go with "
                    f"{list(shape)} of the positions"
                )
        if self.rows_before:
            shape = (self.rows_before + shape[0], *shape[1:])
        return shape[::-1] if self.transposed else shape

    def read(self, file: Weights) -> np.ndarray:
        """Our tensor.

        Raises:
            UserError: the tensors in the file are not floating point numbers.
        """
        array = _read_floats(file, self.name)
        if self.fused_part is not None:
            array = np.split(array, len(tensor_names.FUSED_PARTS))[self.fused_part]
        if self.added_row:
            row = _read_floats(file, self.added_row)[0]
            if row.any():  # adding zeros would make 0.0 of -0.0
                array = array + row
        if self.rows_before:
            zeros = np.zeros((self.rows_before, array.shape[1]), array.dtype)
            array = np.concatenate([zeros, array])
        return np.ascontiguousarray(array.T if self.transposed else array)


def _read_floats(file: Weights, name: str) -> np.ndarray:
    """A tensor of a file. uint16 is how Paddle stores bfloat16, which becomes float32.

    Raises:
        UserError: it does not hold floating point numbers.
    """
    array = file[name]
    if array.dtype == np.uint16:
        return widen_bfloat16(array)
    if array.dtype.kind != "f":
        raise UserError(f"{file.source}: {name} has dtype {array.dtype.name}; weights have float types")
    return array


def to_our_names(format_name: str, file: Weights, task: str | None) -> CanonicalWeights:
    """Translate the weights of a file to our names.

    Args:
        task: what the model is for, a key of `tensor_names.CLASSES[format_name]`. None: an encoder, or any
            model of ours.

    Raises:
        UserError: a shape that cannot be split or added; when a tensor is read, that it does not hold
            floating point numbers.
    """
    # A task model puts a prefix before the encoder's names; the tables have names without it.
    name_in_file = {tensor_names.bare(name): name for name in file}
    rows = tensor_names.readable_rows(format_name, tensor_names.count_layers(name_in_file), task)
    recipes: dict[str, _Recipe] = {}
    # XLM-R has one token type and BERT gives every token of a text the first one: it is added to every
    # position, so our position embeddings take it up.
    token_types = name_in_file.get(TOKEN_TYPES) if format_name in (XLM_R, BERT) else None
    for row in rows:
        # If a tensor is there under several names, the first name of the table counts.
        if row.in_format in name_in_file and row.canonical not in recipes:
            recipes[row.canonical] = _Recipe(name_in_file[row.in_format], row.transposed, row.fused_part)
    if POSITIONS in recipes:
        # BERT counts positions from 0, and we from 2, as XLM-R does.
        rows_before = FIRST_POSITION if format_name == BERT else 0
        recipe = recipes[POSITIONS]
        recipes[POSITIONS] = recipe._replace(added_row=token_types, rows_before=rows_before)
    dropped: dict[str, str] = {}
    if format_name == XLM_R and LM_BIAS in recipes:  # a masked-LM model, whose pooler was never trained
        for canonical in ("pooler.dense.weight", "pooler.dense.bias"):
            if canonical in recipes:
                untrained = recipes.pop(canonical)
                dropped[untrained.name] = tensor_names.UNTRAINED_POOLER

    shapes = {canonical: recipe.shape(file) for canonical, recipe in recipes.items()}
    weights = Weights(file.source, shapes, lambda canonical: recipes[canonical].read(file))
    origins = {canonical: recipe.origin() for canonical, recipe in recipes.items()}

    used = {recipe.name for recipe in recipes.values()} | dropped.keys() | {token_types}
    # Every other tensor of the file is dropped, if there is a known reason, or unknown.
    names_of_format = {row.in_format for row in rows}
    unknown = list(file.other_names)
    for name in file:
        if name not in used:
            reason = _reason_to_drop(tensor_names.bare(name), names_of_format)
            if reason:
                dropped[name] = reason
            else:
                unknown.append(name)
    return CanonicalWeights(weights, origins, dropped, sorted(unknown))


def _reason_to_drop(name: str, names_of_format: set[str]) -> str | None:
    """Why a tensor of a file that is not used is dropped; None: the name is not known.

    Args:
        name: without the prefix of a task model.
        names_of_format: the names that were looked for.
    """
    if name in names_of_format:
        return "a second name of a tensor that is taken"
    return tensor_names.reason_to_drop(name)
