"""Weights under another format's names and orientation, translated to ours and back by the tables."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from model.checkpoint.formats import tables
from model.checkpoint.formats.tables import FAIRSEQ, LM_BIAS, OFFICIAL, XLM_R, Row
from model.checkpoint.formats.weights import Weights
from utils.errors import UserError


class Origin(NamedTuple):
    """The names in the source that a tensor comes from, and whether it is transposed."""

    names: tuple[str, ...]
    transposed: bool


class Translated(NamedTuple):
    """weights, origins: under our names. dropped: their name -> why. unknown: their names."""

    weights: Weights
    origins: dict[str, Origin]
    dropped: dict[str, str]
    unknown: list[str]


class Renamed(NamedTuple):
    """weights, origins: under their names. left_out: our names that have no place there. absent: our names
    that the format wants and that are not in the weights."""

    weights: Weights
    origins: dict[str, Origin]
    left_out: list[str]
    absent: list[str]


def layout_of(found: Weights) -> str | None:
    """The format whose names the weights have, by the first layer; None: none. UserError: more than one."""
    bare = {re.sub(r"^(roberta|ernie_m)\.|^.*?(?=sentence_encoder\.)", "", name) for name in found}
    layouts = [layout for layout, names in tables.SIGNATURES.items() if bare.intersection(names)]
    if len(layouts) > 1:
        raise UserError(
            f"{found.source}: names of {' and of '.join(layouts)} are mixed in it; give the file as its "
            "library saved it"
        )
    return layouts[0] if layouts else None


def heads_of(layout: str, names: Iterable[str], class_name: str | None = None) -> list[str]:
    """The tasks that a model may be for, by the name of its class, or else by the names of its head.

    Several tasks may have the same names.
    """
    names = set(names)
    weight = tables.OFFICIAL_SUFFIXES[tables.HEAD][0] if layout == OFFICIAL else ".weight"
    fits = {}
    for head, model_class in tables.CLASSES[layout].items():
        wanted = {theirs + weight for ours, theirs in model_class.head if ours != "lm_head"}
        if model_class.head and wanted <= names:
            fits[head] = model_class.name
    return [head for head, name in fits.items() if name == class_name] or list(fits)


def from_theirs(layout: str, found: Weights, head: str | None) -> Translated:
    """Weights under our names, each read when it is accessed.

    Raises:
        UserError: two names of one tensor; a shape that cannot be split or added; when a tensor is read,
            that it does not hold floating point numbers.
    """
    short: dict[str, str] = {}  # their name without its prefix -> as it is in the file
    for name in found:
        if (other := short.setdefault(_strip(name, tables.PREFIXES.get(layout, ())), name)) != name:
            raise UserError(f"{found.source}: {other} and {name} name one tensor; save one of them")
    table = _reading_rows(layout, short, head)
    rows: dict[str, Row] = {}
    for row in table:
        if row.theirs in short:
            rows.setdefault(row.ours, row)
    dropped = {}
    if layout == XLM_R and LM_BIAS in rows:
        for name in [name for name in rows if name.startswith("pooler.")]:
            dropped[short[rows.pop(name).theirs]] = tables.UNTRAINED_POOLER
    types = short.get(tables.TOKEN_TYPES) if layout == XLM_R else None
    if types:
        shape, positions = found.shape(types), short.get(tables.POSITIONS)
        other = found.shape(positions) if positions else ()
        if len(shape) != 2 or not shape[0] or shape[1:] != other[1:]:
            raise UserError(
                f"{found.source}: {types} has shape {list(shape)}, which does not go with {list(other)} of "
                "the positions"
            )

    shapes, origins = {}, {}
    for ours, row in rows.items():
        name, part = short[row.theirs], ""
        shape = found.shape(name)
        if row.third is not None:
            if not shape or shape[0] % 3:
                raise UserError(f"{found.source}: {name} has shape {list(shape)}, not q, k and v in one")
            shape, part = (shape[0] // 3, *shape[1:]), f" [{'qkv'[row.third]}]"
        shapes[ours] = shape[::-1] if row.transposed else shape
        more = (types,) if types and ours == tables.POSITIONS else ()
        origins[ours] = Origin((name + part, *more), row.transposed)

    def fetch(ours: str) -> np.ndarray:
        row = rows[ours]
        array = _floating(found, short[row.theirs])
        if row.third is not None:
            array = np.split(array, 3)[row.third]
        if ours == tables.POSITIONS and types and (added := _floating(found, types)[0]).any():
            array = array + added  # only if it is not zero, so that -0.0 stays -0.0
        return np.ascontiguousarray(array.T if row.transposed else array)

    used = {row.theirs for row in rows.values()} | ({tables.TOKEN_TYPES} if types else set())
    known = {row.theirs for row in table}
    reasons = tables.DROPPED.get(layout, {}).items()
    unknown = list(found.others)
    for name, full in short.items():
        if name in used or full in dropped:
            continue
        why = next((why for start, why in reasons if name.startswith(start)), None)
        if why or name in known:
            dropped[full] = why or "a second name of a tensor that is taken"
        else:
            unknown.append(full)
    return Translated(Weights(found.source, shapes, fetch, found.metadata), origins, dropped, sorted(unknown))


def to_theirs(layout: str, weights: Weights, head: str | None) -> Renamed:
    """Weights under their names, each read when it is accessed."""
    prefix = tables.ENCODER_PREFIX.get(layout, "") if head is not None else ""
    rows = tables.rows_of(layout, tables.count_layers(weights), head, prefix)
    absent = [row.ours for row in rows if row.ours not in weights]
    rows += tables.further_rows(layout)
    here = {row.theirs: row for row in rows if row.ours in weights}
    shapes = {
        theirs: weights.shape(row.ours)[::-1] if row.transposed else weights.shape(row.ours)
        for theirs, row in here.items()
    }
    origins = {theirs: Origin((row.ours,), row.transposed) for theirs, row in here.items()}
    types = prefix + tables.TOKEN_TYPES if layout == XLM_R else None
    if types:
        shapes[types] = (1, weights.shape(tables.WORDS)[1])
        origins[types] = Origin(("zeros",), False)

    def fetch(theirs: str) -> np.ndarray:
        if theirs == types:
            return np.zeros(shapes[types], np.float32)
        row = here[theirs]
        return np.ascontiguousarray(weights[row.ours].T) if row.transposed else weights[row.ours]

    placed = {row.ours for row in rows}
    left_out = [name for name in weights if name not in placed]
    return Renamed(Weights(weights.source, shapes, fetch), origins, left_out, absent)


def _reading_rows(layout: str, names: Iterable[str], head: str | None) -> list[Row]:
    """The rows of a format, and the other names that its files may have."""
    num_layers = tables.count_layers(names)
    rows = tables.rows_of(layout, num_layers, head) + tables.further_rows(layout)
    if layout != OFFICIAL and not any(row.ours == "pooler.dense.weight" for row in rows):
        # taken even if the class has none
        rows += tables.head_rows(layout, [("pooler.dense", "pooler.dense")])
    if layout == FAIRSEQ:
        by_theirs = {row.theirs: row for row in rows}
        rows += [by_theirs[name]._replace(theirs=alias) for alias, name in tables.ALIASES.items()]
        for i in range(num_layers):
            for theirs, part in tables.FUSED.items():
                for third, letter in enumerate("qkv"):
                    ours = f"encoder.layers.{i}.self_attn.{letter}_proj.{part}"
                    rows.append(Row(ours, f"layers.{i}{theirs}", (), part == "weight", third))
    return rows


def _floating(found: Weights, name: str) -> np.ndarray:
    array = found[name]
    if array.dtype.kind != "f":
        raise UserError(
            f"{found.source}: {name} has dtype {array.dtype.name}; weights are floating point numbers"
        )
    return array


def _strip(name: str, prefixes: tuple[str, ...]) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
