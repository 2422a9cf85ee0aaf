"""manifest.json: size and SHA-256 of files that were written together, compared before they are used.

A model's manifest covers its weights, config and vocabulary, but not its card, which people edit. The
manifest of a training state covers its arrays and the manifest of the model beside it.
"""

import json
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import as_json, sha256_of

MANIFEST = "manifest.json"
VERSION = 1


def write_manifest(path: Path, files: Iterable[str], **facts: Any) -> None:
    """Write a manifest of existing files.

    Args:
        path: of the manifest.
        files: names relative to its folder; "../x" is a file of the folder above.
        facts: more keys of the manifest.
    """
    entries = {}
    for name in files:
        file = path.parent / name
        entries[name] = {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
    path.write_text(as_json({"version": VERSION, **facts, "files": entries}), encoding="utf-8")


def check_manifest(path: Path, unused: Container[str] = ()) -> dict[str, Any]:
    """Compare every file that a manifest names, byte by byte, and return the manifest.

    Args:
        unused: the names of files that are not compared, because nobody is going to read them.

    Raises:
        UserError: the manifest is missing or damaged, or a file is missing or differs from what was written.
            The message names the file.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["version"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged") from error
    if version != VERSION:
        raise UserError(f"{path}: version {version} of the format, {VERSION} is the one known here")
    for name, (size, checksum) in expected.items():
        # A training state names the model's manifest in the folder above; nothing names files further up.
        if os.path.isabs(name) or os.path.normpath(name).startswith("../.."):
            raise UserError(f"{path}: damaged, it names files of other folders")
        if name in unused:
            continue
        _check_file(Path(os.path.normpath(path.parent / name)), size, checksum)
    return manifest


def _check_file(file: Path, size: int, checksum: str) -> None:
    """Compare a file with the size in bytes and the SHA-256 that it should have.

    Raises:
        UserError: it is missing or differs.
    """
    if not os.path.isfile(file):  # also False for a name that no file can have
        raise UserError(f"{file}: missing")
    actual_size = file.stat().st_size
    if actual_size != size:
        raise UserError(f"{file}: damaged, {actual_size} bytes instead of {size}")
    if sha256_of(file) != checksum:
        raise UserError(f"{file}: damaged, its checksum differs from the one written with it")


def check_model(folder: Path, unused: Container[str] = ()) -> None:
    """Compare a model's files with its manifest, if it has one.

    Args:
        unused: the names of files that are not compared, because nobody is going to read them.

    Raises:
        UserError: a file differs from what was written.
    """
    path = folder / MANIFEST
    if not path.is_file() or not _is_of_a_model(path.read_bytes()):
        return
    try:
        check_manifest(path, unused)
    except UserError as error:
        raise UserError(
            f"{error}; put back a good copy, or, if the change is yours, delete {path}"
        ) from error


def _is_of_a_model(content: bytes) -> bool:
    """Whether a file of this name, damaged or not, is a model's.

    Other programs write files of this name without checksums. That of a corpus has "pieces", the counts of
    its sentence pieces.
    """
    return b'"sha256"' in content and b'"pieces"' not in content
