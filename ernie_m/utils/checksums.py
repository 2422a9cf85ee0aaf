"""Manifests and digests: size and SHA-256 of files, written with the files and verified before use.

    manifest.json    for files that are written together: a model, an export, a training state
    NAME.digest      for one file of resumable work; a corrupt file is recreated

The manifest of a training state covers its arrays and the manifest of its model. A corpus has the same
entries for its files in a manifest of its own format (`ernie_m.reader.corpus`).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import compute_sha256, read_json, read_object, reject_lfs_pointer, write_json

MANIFEST = "manifest.json"
VERSION = 2  # the format number of every manifest
CARD = "README.md"  # people edit it


class UnsupportedFormatError(UserError):
    """Error for a file in the unsupported format of another revision of this project."""


def check_format_version(
    file: Path | str, version: Any, supported_version: int, advice: str = "recreate it"
) -> None:
    """Check the format number of a stored file.

    Args:
        file: path of the file, or a key in it, for the message.
        version: format number in the file; None: missing.
        supported_version: the supported format number.
        advice: what the user can do, for the message.

    Raises:
        UnsupportedFormatError: the numbers differ.
    """
    if version != supported_version:
        raise UnsupportedFormatError(
            f"{file}: unsupported format {format_value(version)} (expected "
            f"{supported_version}) of another revision; {advice}"
        )


def make_manifest_entry(file: Path) -> dict[str, Any]:
    """Return the manifest entry of a file: {"bytes": size, "sha256": hexadecimal digest}."""
    return {"bytes": file.stat().st_size, "sha256": compute_sha256(file)}


def check_file(file: Path, entry: Mapping[str, Any], verify_checksum: bool = True) -> None:
    """Verify a file.

    Args:
        entry: manifest entry of the file, from `make_manifest_entry`.
        verify_checksum: whether to verify the checksum; otherwise only the size.

    Raises:
        UserError: the file is missing or corrupt.
    """
    if not os.path.isfile(file):  # also False for an invalid file name
        raise UserError(f"{file}: missing")
    size = file.stat().st_size
    if size != entry["bytes"]:
        reject_lfs_pointer(file)
        raise UserError(f"{file}: corrupt (expected {entry['bytes']} bytes, got {size})")
    if verify_checksum and compute_sha256(file) != entry["sha256"]:
        raise UserError(f"{file}: corrupt (its checksum does not match the manifest)")


def write_manifest(path: Path) -> None:
    """Write the manifest of a folder, at `path` in the folder, for all files except the model card."""
    files = sorted(file for file in path.parent.iterdir() if file.is_file() and file.name != CARD)
    write_json(path, {"version": VERSION, "files": {file.name: make_manifest_entry(file) for file in files}})


def check_manifest(path: Path) -> dict[str, Any]:
    """Verify all files of a manifest, and return the manifest.

    Raises:
        UserError: the manifest is missing, corrupt or of another format, or a file is missing or corrupt.
    """
    manifest = read_object(path)
    check_format_version(path, manifest.get("version"), VERSION)
    # A training state names the model's manifest in the folder above; nothing refers to files further up.
    for name, entry in get_manifest_entries(manifest, path, forbidden_prefix="../..").items():
        check_file(Path(os.path.normpath(path.parent / name)), entry)
    return manifest


def get_manifest_entries(
    manifest: Mapping[str, Any], path: Path, forbidden_prefix: str = ".."
) -> dict[str, dict[str, Any]]:
    """Return the file entries of a manifest: file name -> entry.

    Args:
        path: path of the manifest, for the message.
        forbidden_prefix: prefix that file names must not have.

    Raises:
        UserError: an entry has no size or checksum, or a file is outside of the allowed folder.
    """
    try:
        files = manifest["files"]
        is_corrupt = any(not {"bytes", "sha256"} <= entry.keys() for entry in files.values())
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: corrupt") from error
    if is_corrupt or any(
        os.path.isabs(name) or os.path.normpath(name).startswith(forbidden_prefix) for name in files
    ):
        raise UserError(f"{path}: corrupt")
    return files


def check_folder(folder: Path) -> None:
    """Verify the files of a model or an export by the manifest of its folder, if any.

    Raises:
        UserError: a file is missing or corrupt, or the manifest is corrupt or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    try:
        contents = read_json(path)  # rejects a corrupt file
        # Other programs write files of this name without checksums, and the manifest of a corpus, which has
        # "pieces", is verified when the corpus is opened. The keys may be corrupt, so search the bytes.
        content = path.read_bytes()
        if not contents or (b'"sha256"' in content and b'"pieces"' not in content):
            check_manifest(path)
    except UnsupportedFormatError:
        raise
    except UserError as error:
        raise UserError(
            f"{error}. Restore it from a backup, or, if you changed it on purpose, delete {path}"
        ) from error


def write_digest(file: Path) -> None:
    """Write the digest of a file next to the file, for `matches_digest`."""
    write_json(_get_digest_path(file), make_manifest_entry(file))


def matches_digest(file: Path) -> bool:
    """Return whether a file is unchanged since `write_digest`."""
    try:
        return read_json(_get_digest_path(file)) == make_manifest_entry(file)
    except (UserError, OSError):  # one of the two is missing, or the digest is corrupt
        return False


def _get_digest_path(file: Path) -> Path:
    """Return the path of the digest of a file."""
    return file.with_name(f"{file.name}.digest")
