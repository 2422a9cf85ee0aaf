"""Named weights that stay on disk until one is accessed, and their translation by the tables of names."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from model.checkpoint.formats import tables
from model.checkpoint.formats.tables import LM_BIAS, OFFICIAL, POSITIONS, TOKEN_TYPES, WORDS, XLM_R, Row
from utils.errors import UserError


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array. Names and shapes are known; data is read at each access.

    A large model (2.2 GB) can thus be processed one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        shapes: name -> shape.
        metadata: what else the file says about itself, in formats that have a place for it.
        others: names in the file that are not tensors.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        others: Sequence[str] = (),
    ):
        self.source, self.metadata, self.others = source, dict(metadata or {}), list(others)
        self.shapes, self._fetch = dict(shapes), fetch

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """Wrap arrays in memory; a `Weights` is returned unchanged."""
        if isinstance(arrays, cls):
            return arrays
        shapes = {name: np.shape(array) for name, array in arrays.items()}
        return cls("the given weights", shapes, arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. KeyError: no such name."""
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
    """The array itself. UserError: it holds a NaN or an infinity, as after a run that diverged."""
    # min and max pass a NaN on, and make no copy.
    if array.size and array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise UserError(f"{source}: {name} holds values that are not finite (NaN or infinity); use others")
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert the uint16 bits of bfloat16 to float32, whose upper half they are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check_shape(shape: Iterable[int], dtype: np.dtype) -> None:
    """ValueError: numpy cannot hold an array of this shape, be it empty. Allocates nothing."""
    np.broadcast_to(np.zeros((), dtype), tuple(shape))


class Origin(NamedTuple):
    """The names in the source that a tensor comes from, and whether it is transposed."""

    names: tuple[str, ...]
    transposed: bool


def layout_of(found: Weights) -> str | None:
    """The format whose names the weights have, by the first layer; None: none of the known ones."""
    bare = {tables.PREFIX.sub("", name) for name in found}
    return next((layout for name, layout in tables.SIGNATURES.items() if name in bare), None)


def heads_of(layout: str, names: Iterable[str], class_name: str | None = None) -> list[str]:
    """The tasks that a model may be for, by the name of its class, or else by the names of its head."""
    names, fits = set(names), {}
    weight = "_w" if layout == OFFICIAL else ".weight"
    for head, model_class in tables.CLASSES[layout].items():
        wanted = {theirs + weight for ours, theirs in model_class.head if ours != "lm_head"}
        if model_class.head and wanted <= names:
            fits[head] = model_class.name
    return [head for head, name in fits.items() if name == class_name] or list(fits)


def from_theirs(
    layout: str, found: Weights, head: str | None
) -> tuple[Weights, dict[str, Origin], dict[str, str], list[str]]:
    """Weights under our names, each read when it is accessed.

    Returns:
        The weights, their origins, (their name -> why) of those that were dropped, and names that were not
        understood.

    Raises:
        UserError: a shape that cannot be split or added; when a tensor is read, that it does not hold
            floating point numbers.
    """
    full = {tables.PREFIX.sub("", name): name for name in found}  # without the prefix -> as in the file
    table = tables.reading_rows(layout, full, head)
    rows: dict[str, Row] = {}
    for row in table:
        if row.theirs in full:
            rows.setdefault(row.ours, row)
    dropped = {}
    if layout == XLM_R and LM_BIAS in rows:
        for name in [name for name in rows if name.startswith("pooler.")]:
            dropped[full[rows.pop(name).theirs]] = tables.UNTRAINED_POOLER
    types = full.get(TOKEN_TYPES) if layout == XLM_R else None

    shapes, origins = {}, {}
    for ours, row in rows.items():
        name, part = full[row.theirs], ""
        shape = found.shape(name)
        if row.third is not None:
            if not shape or shape[0] % 3:
                raise UserError(f"{found.source}: {name} has shape {list(shape)}, not q, k and v in one")
            shape, part = (shape[0] // 3, *shape[1:]), f" [{'qkv'[row.third]}]"
        if types and ours == POSITIONS and found.shape(types) != (1, *shape[1:]):
            raise UserError(
                f"{found.source}: {types} has shape {list(found.shape(types))}, which does not go with "
                f"{list(shape)} of the positions"
            )
        shapes[ours] = shape[::-1] if row.transposed else shape
        more = (types,) if types and ours == POSITIONS else ()
        origins[ours] = Origin((name + part, *more), row.transposed)

    def fetch(ours: str) -> np.ndarray:
        row = rows[ours]
        array = _floating(found, full[row.theirs])
        if row.third is not None:
            array = np.split(array, 3)[row.third]
        if types and ours == POSITIONS and (added := _floating(found, types)[0]).any():
            array = array + added  # only if it is not zero, so that -0.0 stays -0.0
        return np.ascontiguousarray(array.T if row.transposed else array)

    used = {row.theirs for row in rows.values()} | ({TOKEN_TYPES} if types else set())
    known = {row.theirs for row in table}
    unknown = list(found.others)
    for short, name in full.items():
        if short in used or name in dropped:
            continue
        why = next((why for start, why in tables.DROPPED.items() if short.startswith(start)), None)
        if why or short in known:
            dropped[name] = why or "a second name of a tensor that is taken"
        else:
            unknown.append(name)
    return Weights(found.source, shapes, fetch), origins, dropped, sorted(unknown)


def to_theirs(
    layout: str, weights: Weights, head: str | None
) -> tuple[Weights, dict[str, Origin], list[str], list[str]]:
    """Weights under their names, each read when it is accessed.

    Returns:
        The weights, their origins, our names that have no place there, and our names that the format wants
        and that are not in the weights.
    """
    prefix = tables.ENCODER_PREFIX.get(layout, "") if head is not None else ""
    rows = tables.rows_of(layout, tables.count_layers(weights), head, prefix)
    here = {row.theirs: row for row in rows if row.ours in weights}
    shapes, origins = {}, {}
    for theirs, row in here.items():
        shapes[theirs] = weights.shape(row.ours)[::-1] if row.transposed else weights.shape(row.ours)
        origins[theirs] = Origin((row.ours,), row.transposed)
    if layout == XLM_R:
        shapes[prefix + TOKEN_TYPES] = (1, weights.shape(WORDS)[1])
        origins[prefix + TOKEN_TYPES] = Origin(("zeros",), False)

    def fetch(theirs: str) -> np.ndarray:
        if theirs not in here:
            return np.zeros(shapes[theirs], np.float32)
        array = weights[here[theirs].ours]
        return np.ascontiguousarray(array.T) if here[theirs].transposed else array

    placed = {row.ours for row in rows}
    left_out = [name for name in weights if name not in placed]
    absent = [row.ours for row in rows if row.ours not in weights and not row.ours.startswith("lm_head.")]
    return Weights(weights.source, shapes, fetch), origins, left_out, absent


def _floating(found: Weights, name: str) -> np.ndarray:
    array = found[name]
    if array.dtype.kind != "f":
        raise UserError(f"{found.source}: {name} has dtype {array.dtype.name}; weights have float types")
    return array
