"""What a corpus manifest must hold for a reader of the corpus; everything else in it is for people."""

from typing import Any

SPLITS = ("train", "held_out")
_MOST = 1 << 48  # tokens, lines, bytes
_LONGEST_NAME = 60  # characters, of a stream or a shard: file systems take 255 bytes


def fault_of(manifest: dict) -> str | None:
    """What is wrong with a manifest, beginning with the key; None: nothing."""
    try:
        vocabulary = _get(manifest, "vocabulary", dict)
        _get(vocabulary, "digest", str, "vocabulary")
        _get(vocabulary, "size", int, "vocabulary")
        files = _get(manifest, "files", dict)
        for name in files:
            entry = _get(files, name, dict, "files")
            _get(entry, "bytes", int, f"files.{name}")
            _get(entry, "sha256", str, f"files.{name}")
            if not _is_within(name):
                raise ValueError(f"files.{name}: no file of the corpus")
        for kind in ("mono", "parallel"):
            streams = _get(manifest, kind, dict)
            for name in streams:
                _check_stream(_get(streams, name, dict, kind), f"{kind}.{name}", paired=kind == "parallel")
                languages = len(name.split("-"))
                fits = _is_within(name) and "/" not in name and len(name) <= _LONGEST_NAME
                if languages != (2 if kind == "parallel" else 1) or not fits:
                    raise ValueError(f"{kind}.{name}: the name of no language or pair")
        pieces = _get(manifest, "pieces", dict)
        for language in pieces:
            if _get(pieces, language, str, "pieces") not in files:
                raise ValueError(f"pieces.{language}: a file that is not among the files")
    except ValueError as error:
        return str(error)
    return None


def _is_within(name: str) -> bool:
    """Whether it may be a file's name below a folder; half a character has no form in bytes."""
    half = any("\ud800" <= character <= "\udfff" for character in name)
    return not (half or "\0" in name or ".." in name.split("/") or name.startswith("/"))


def _check_stream(stream: dict, place: str, paired: bool) -> None:
    for split in SPLITS:
        shards = _get(_get(stream, split, dict, place), "shards", list, f"{place}.{split}")
        for number, shard in enumerate(shards):
            where = f"{place}.{split}.shards[{number}]"
            if not isinstance(shard, dict):
                raise ValueError(f"{where}: no object")
            name = _get(shard, "name", str, where)
            if not name.replace("_", "").replace("-", "").isalnum() or len(name) > _LONGEST_NAME:
                raise ValueError(f"{where}.name: the name of no shard")
            for count in ("tokens", "lines", *([] if paired else ["documents"])):
                _get(shard, count, int, where)
            if paired and shard["lines"] % 2:
                raise ValueError(f"{where}.lines: {shard['lines']}, an odd number of lines in pairs")


def _get(holder: dict, key: str, kind: type, place: str = "") -> Any:
    """ValueError: no such key, or its value is of another type, or a number below 0 or beyond all bounds."""
    where = f"{place}.{key}" if place else key
    if key not in holder:
        raise ValueError(f"{where}: missing")
    value = holder[key]
    if type(value) is not kind or (kind is int and not 0 <= value < _MOST):
        raise ValueError(f"{where}: not {'a size' if kind is int else f'of type {kind.__name__}'}")
    return value
