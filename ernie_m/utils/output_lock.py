"""Lock and fingerprint of the output directory of resumable work."""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import hold_lock, read_object, write_json

LOCK = ".lock"
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # SHA-256 in 64 digits; the group has the first 12
_MOST_DIFFERENCES = 5  # maximum number in a message


def lock_output(folder: str | os.PathLike) -> AbstractContextManager[None]:
    """Lock an output directory, with its file `.lock`, within a `with` block. Only for the main process.

    Raises:
        UserError: another process holds the lock, or the directory cannot be written.
    """
    return hold_lock(Path(folder, LOCK), Path(folder))


def write_fingerprint(file: Path, fingerprint: Mapping[str, Any], advice: str) -> None:
    """Write the fingerprint of resumable work, or compare it with an existing one.

    Call this with the lock of the directory held.

    Args:
        file: JSON file of the fingerprint.
        fingerprint: all values that determine the result, as JSON values.
        advice: end of the message: what the user can do.

    Raises:
        UserError: the fingerprints differ, or the file is corrupt or cannot be written.
    """
    if file.is_file():
        check_fingerprint(file.parent, read_object(file, advice), fingerprint, advice)
    else:
        write_json(file, fingerprint)


def check_fingerprint(
    folder: Path, stored: Mapping[str, Any], fingerprint: Mapping[str, Any], advice: str
) -> None:
    """Compare a stored fingerprint with that of this command.

    Args:
        folder: the directory of the work, for the message.
        advice: end of the message: what the user can do.

    Raises:
        UserError: the fingerprints differ. The message lists the first differences, such as "seed: 1 -> 2".
    """
    changed = list_differences(stored, fingerprint)
    if changed:
        listed = "; ".join(_DIGEST.sub(r"\1", line) for line in changed[:_MOST_DIFFERENCES])
        raise UserError(f"{folder}: made with other settings ({listed}); {advice}")


def list_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the differences between two nested mappings, as "a.b: old -> new"."""
    before, now = flatten(old), flatten(new)
    pairs = {key: (before.get(key, "(absent)"), now.get(key, "(absent)")) for key in before | now}
    return [f"{key}: {earlier} -> {later}" for key, (earlier, later) in pairs.items() if earlier != later]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to keys such as "a.b"; tuples become lists, as in JSON."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:  # an empty dict has no keys, so it is a value
            values |= flatten(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return values
