"""Size and SHA-256 of files, written with them and compared before they are used.

    manifest.json    of files that were written together: a model, an export, a training state
    NAME.digest      of one part of work that can be interrupted; a corrupt part is made again

The manifest of a training state covers its arrays and the manifest of the model next to it. A corpus has the
same entries for its files in a manifest of its own form (`ernie_m.reader.corpus`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.files import read_json, read_object, reject_pointer, sha256_of, write_json

MANIFEST = "manifest.json"
# The format of every manifest, and of "reading" in config.json (`ernie_m.model.preprocessing`).
VERSION = 2
_CARD = "README.md"  # people edit it


class AnotherRevision(UserError):
    """Another revision of this project wrote a file, in a form that this one does not read."""


def check_format(file: Path | str, number: Any, known: int, way_out: str = "make it again") -> None:
    """Compare the number that a stored file has of its format with the one that is read here.

    Args:
        file: the file, or a key in it.
        number: None: the file has none.

    Raises:
        AnotherRevision: they differ.
    """
    if number != known:
        raise AnotherRevision(
            f"{file}: format {shown(number)} instead of {known}: made by another revision; {way_out}"
        )


def describe(file: Path) -> dict[str, Any]:
    """Return the size of a file in bytes and its SHA-256."""
    return {"bytes": file.stat().st_size, "sha256": sha256_of(file)}


def check_file(file: Path, entry: Mapping[str, Any], checksum: bool = True) -> None:
    """Compare a file with what `describe` said of it; without `checksum` only the size.

    Raises:
        UserError: it is missing or differs.
    """
    if not os.path.isfile(file):  # also False for a name that no file can have
        raise UserError(f"{file}: missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
        reject_pointer(file)
        raise UserError(f"{file}: corrupt (expected {entry['bytes']} bytes, got {size})")
    if checksum and sha256_of(file) != entry["sha256"]:
        raise UserError(f"{file}: corrupt (its checksum does not match the manifest)")


def write_manifest(path: Path) -> None:
    """Write a manifest of all files of its folder except the model card."""
    files = sorted(file for file in path.parent.iterdir() if file.is_file() and file.name != _CARD)
    write_json(path, {"version": VERSION, "files": {file.name: describe(file) for file in files}})


def check_manifest(path: Path) -> dict[str, Any]:
    """Compare every file that a manifest names, byte by byte, and return the manifest.

    Raises:
        UserError: the manifest is missing, corrupt or of another format, or a file is missing or differs from
            what was written. The message names the file.
    """
    manifest = read_object(path)
    check_format(path, manifest.get("version"), VERSION)
    # A training state names the model's manifest in the folder above; nothing names files further up.
    for name, entry in entries_of(manifest, path, above="../..").items():
        check_file(Path(os.path.normpath(path.parent / name)), entry)
    return manifest


def entries_of(manifest: Mapping[str, Any], path: Path, above: str = "..") -> dict[str, dict[str, Any]]:
    """What a manifest says of its files.

    Args:
        path: of the manifest.
        above: how a name begins that it may not have.

    Raises:
        UserError: it does not say their sizes and checksums, or names a file elsewhere.
    """
    try:
        files = manifest["files"]
        is_damaged = any(not {"bytes", "sha256"} <= entry.keys() for entry in files.values())
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: corrupt") from error
    if is_damaged or any(os.path.isabs(name) or os.path.normpath(name).startswith(above) for name in files):
        raise UserError(f"{path}: corrupt")
    return files


def check_folder(folder: Path) -> None:
    """Compare the files of a model or an export with its manifest, if it has one.

    Raises:
        UserError: a file differs from what was written, or the manifest is corrupt or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        contents = read_json(path)  # refuses a corrupt file
        # Other programs write files of this name without checksums, and that of a corpus, which has
        # "subwords", is checked when the corpus is opened. The keys may be corrupt, so the bytes are
        # searched.
        content = path.read_bytes()
        if not contents or (b'"sha256"' in content and b'"pieces"' not in content):
            check_manifest(path)
    except AnotherRevision:
        raise
    except UserError as error:
        raise UserError(
            f"{error}. Restore it from a backup, or, if you changed it on purpose, delete {path}"
        ) from error


def write_digest(file: Path) -> None:
    """Write what `is_whole` compares, in a file next to this one."""
    write_json(_digest_file(file), describe(file))


def is_whole(file: Path) -> bool:
    """Return whether a file is there as `write_digest` saw it."""
    try:
        return read_json(_digest_file(file)) == describe(file)
    except (UserError, OSError):  # one of the two is missing, or the digest is corrupt
        return False


def _digest_file(file: Path) -> Path:
    """Return the file next to a file that holds what is known of it."""
    return file.with_name(f"{file.name}.digest")
