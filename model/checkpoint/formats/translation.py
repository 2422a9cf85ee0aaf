"""From another library's names and orientation to ours and back: one function each way walks the tables."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from model.checkpoint.formats import tables as names
from model.checkpoint.formats import tables as peers
from model.checkpoint.formats.tables import FAIRSEQ, LINEAR, LM, LM_BIAS, TABLE, XLM_R
from model.checkpoint.formats.weights import Weights
from utils.errors import UserError

_LAYER = re.compile(r"(?:encoder\.)?layers?\.(\d{1,4})\.")


class Row(NamedTuple):
    """Our name, theirs, whether [out, in] and [in, out] are exchanged, and which third of theirs it is."""

    canonical: str
    theirs: str
    transposed: bool
    third: int | None = None


class Origin(NamedTuple):
    """Where a tensor comes from: the names in the file, and whether it is turned."""

    names: tuple[str, ...]
    transposed: bool


class Translated(NamedTuple):
    """weights and origins under our names; dropped: their name -> why; unknown: their names."""

    weights: Weights
    origins: dict[str, Origin]
    dropped: dict[str, str]
    unknown: list[str]


def rows_of(library: str, num_layers: int, head: str | None, prefix: str = "") -> list[Row]:
    """The table of one library for a model of so many layers with the head of a task.

    Args:
        library: a constant of `model.checkpoint.formats.tables`.
        num_layers: L.
        head: a key of `peers.CLASSES`.
        prefix: before their names of the encoder.
    """
    turned = library in peers.TORCH
    rows = []
    for module in peers.MODULES:
        theirs = module.named(library)
        for i in range(num_layers if "{i}" in module.ours else 1):
            if theirs is not None:
                rows += _of_module(module.ours.format(i=i), prefix + theirs.format(i=i), module.kind, turned)
    if library == FAIRSEQ:
        lm_head = {"lm_head.dense": "lm_head.dense", "lm_head.layer_norm": "lm_head.layer_norm"}
        return rows + _of_head(lm_head, library)
    model_class = peers.CLASSES[library][head]
    if not model_class.pooler:
        rows = [row for row in rows if not row.canonical.startswith("pooler.")]
    return rows + _of_head(model_class.head, library)


def _of_module(ours: str, theirs: str, kind: str, turned: bool) -> list[Row]:
    weight = Row(f"{ours}.weight", f"{theirs}.weight", turned and kind == LINEAR)
    return [weight] if kind == TABLE else [weight, Row(f"{ours}.bias", f"{theirs}.bias", False)]


def _of_head(head: Mapping[str, str], library: str) -> list[Row]:
    rows = []
    for ours, theirs in head.items():
        rows += _of_module(ours, theirs, peers.HEAD_KINDS[ours], library in peers.TORCH)
    if "lm_head.dense" in head:
        rows += [Row(LM_BIAS, theirs, False) for theirs in peers.LM_BIASES[library]]
    return rows


def library_of(found: Weights) -> str | None:
    """Whose names they are, by those of the first layer; None: nobody's. UserError: of several libraries."""
    bare = {_strip(name, "roberta.", "ernie_m.") for name in found}
    bare |= {name[name.index("sentence_encoder.") :] for name in found if "sentence_encoder." in name}
    libraries = [
        library
        for library, signatures in peers.SIGNATURES.items()
        if any(signature in bare for signature in signatures)
    ]
    if len(libraries) > 1:
        raise UserError(
            f"{found.source}: names of {' and of '.join(libraries)} are mixed in it; give the file as its "
            "library saved it"
        )
    return libraries[0] if libraries else None


def heads_of(library: str, found: Weights, class_name: str | None) -> list[str]:
    """The tasks that a model may be for, by its class, or else by the names of its head: several tasks have
    the same. `peers.CLASSES` holds both."""
    if library == FAIRSEQ:
        return [LM] if any("lm_head.dense" in name for name in found) else []
    fits = {
        head: model_class
        for head, model_class in peers.CLASSES[library].items()
        if model_class.head and all(f"{theirs}.weight" in found for theirs in model_class.head.values())
    }
    return [head for head, model_class in fits.items() if model_class.name == class_name] or list(fits)


def from_theirs(library: str, found: Weights, head: str | None) -> Translated:
    """Weights under our names, each read when asked for.

    Raises:
        UserError: two names of one tensor, a shape that cannot be taken apart or added; when a tensor is
            read, that it holds no floating point numbers.
    """
    short: dict[str, str] = {}
    for name in found:
        if (other := short.setdefault(_short(library, name), name)) != name:
            raise UserError(f"{found.source}: {other} and {name} name one tensor; save one of them")
    table = {row.theirs: row for row in _reading_rows(library, short, head)}
    rows: dict[str, Row] = {}
    for theirs, row in table.items():
        if theirs in short:
            rows.setdefault(row.canonical, row)
    for theirs, canonicals in _fused(library, short):
        for third, canonical in enumerate(canonicals):
            rows.setdefault(canonical, Row(canonical, theirs, theirs.endswith("weight"), third))
    dropped = {}
    if library == XLM_R and LM_BIAS in rows:
        for name in [name for name in rows if name.startswith("pooler.")]:
            dropped[short[rows.pop(name).theirs]] = peers.UNTRAINED_POOLER
    added = short.get(peers.TOKEN_TYPES) if library == XLM_R else None
    if added:
        _check_types(found, added, short.get(peers.POSITIONS))

    shapes, origins = {}, {}
    for canonical, row in rows.items():
        full = short[row.theirs]
        shape = found.shape(full)
        if row.third is not None:
            if not shape or shape[0] % 3:
                raise UserError(f"{found.source}: {full} has shape {list(shape)}, not q, k and v in one")
            shape = (shape[0] // 3, *shape[1:])
        shapes[canonical] = shape[::-1] if row.transposed else shape
        sources = (full, added) if canonical == peers.POSITIONS and added else (full,)
        part = "" if row.third is None else f" [{'qkv'[row.third]}]"
        origins[canonical] = Origin((sources[0] + part, *sources[1:]), row.transposed)

    def fetch(canonical: str) -> np.ndarray:
        row = rows[canonical]
        array = _floating(found, short[row.theirs])
        if row.third is not None:
            array = np.split(array, 3)[row.third]
        if canonical == peers.POSITIONS and added and (types := _floating(found, added)[0]).any():
            array = array + types  # only where it is not zero: -0.0 stays what it is
        return np.ascontiguousarray(array.T) if row.transposed else np.ascontiguousarray(array)

    used = {row.theirs for row in rows.values()} | ({peers.TOKEN_TYPES} if added else set())
    unknown = []
    for name, full in short.items():
        why = next((why for start, why in peers.DROPPED[library].items() if name.startswith(start)), None)
        if name not in used and full not in dropped:
            if why or name in table:
                dropped[full] = why or "a second name of a tensor that is taken"
            else:
                unknown.append(full)
    translated = Weights(found.source, shapes, fetch, found.metadata)
    return Translated(translated, origins, dropped, sorted([*unknown, *found.others]))


def to_theirs(
    library: str, weights: Weights, head: str | None
) -> tuple[Weights, dict[str, Origin], list[str], list[str]]:
    """Weights under their names, each read when asked for.

    Returns:
        The weights; their name -> our name and whether it is turned; our names that have no place there; our
        names that they want and that are absent.
    """
    prefix = peers.ENCODER_PREFIX[library] if head is not None else ""
    rows = rows_of(library, names.count_layers(weights), head, prefix)
    here = {row.theirs: row for row in rows if row.canonical in weights}
    shapes = {
        theirs: weights.shape(row.canonical)[::-1] if row.transposed else weights.shape(row.canonical)
        for theirs, row in here.items()
    }
    types = prefix + peers.TOKEN_TYPES if library == XLM_R else None
    if types:
        shapes[types] = (1, weights.shape("embeddings.word_embeddings.weight")[1])

    def fetch(theirs: str) -> np.ndarray:
        if theirs == types:
            return np.zeros(shapes[types], np.float32)
        row = here[theirs]
        return np.ascontiguousarray(weights[row.canonical].T) if row.transposed else weights[row.canonical]

    origins = {theirs: Origin((row.canonical,), row.transposed) for theirs, row in here.items()}
    if types:
        origins[types] = Origin(("zeros",), False)
    placed = {row.canonical for row in rows}
    left_out = [name for name in weights if name not in placed]
    absent = [row.canonical for row in rows if row.canonical not in weights]
    return Weights(weights.source, shapes, fetch), origins, left_out, absent


def _reading_rows(library: str, short: Mapping[str, str], head: str | None) -> list[Row]:
    layers = [int(found[1]) for name in short if (found := _LAYER.match(name))]
    num_layers = 1 + max(layers, default=-1)
    rows = rows_of(library, num_layers, head)
    known = {row.canonical for row in rows}
    # A pooler that the class has no use for is taken all the same.
    rows += [row for row in _of_module("pooler.dense", "pooler.dense", LINEAR, library in peers.TORCH)
             if row.canonical not in known]  # fmt: skip
    by_theirs = {row.theirs: row for row in rows}
    for theirs, name in peers.ALIASES.get(library, {}).items():
        if name in by_theirs:
            rows.append(by_theirs[name]._replace(theirs=theirs))
    return rows


def _fused(library: str, short: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    if library != FAIRSEQ:
        return []
    found = []
    for theirs in short:
        for pattern, canonicals in peers.FUSED.items():
            start, end = pattern.split("{i}")
            if theirs.startswith(start) and theirs.endswith(end):
                i = theirs[len(start) : -len(end)]
                found.append((theirs, tuple(name.format(i=i) for name in canonicals)))
    return found


def _check_types(found: Weights, types: str, positions: str | None) -> None:
    """UserError: the token types' first row cannot be added to every position."""
    shape, other = found.shape(types), found.shape(positions) if positions else ()
    if len(shape) != 2 or not shape[0] or shape[1:] != other[1:]:
        raise UserError(
            f"{found.source}: {types} has shape {list(shape)}, which does not go with {list(other)} of the "
            "positions"
        )


def _floating(found: Weights, name: str) -> np.ndarray:
    array = found[name]
    if array.dtype.kind != "f":
        raise UserError(
            f"{found.source}: {name} has dtype {array.dtype.name}; weights are floating point numbers"
        )
    return array


def _short(library: str, name: str) -> str:
    return _strip(name, *peers.PREFIXES[library])


def _strip(name: str, *prefixes: str) -> str:
    for prefix in prefixes:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
