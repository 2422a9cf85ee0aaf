"""The output directory of resumable work: one command at a time, one fingerprint, atomic writes."""

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ernie_m.utils.errors import UserError
from ernie_m.utils.files import lock, read_object, write_json

LOCK = ".lock"
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # SHA-256 in 64 digits; the group has the first 12
_MOST_DIFFERENCES = 5  # maximum number in a message


def lock_output(folder: str | os.PathLike) -> AbstractContextManager[None]:
    """Hold the lock of an output directory, its file `.lock`. Only for the main process.

    Raises:
        UserError: see `ernie_m.utils.files.lock`.
    """
    return lock(Path(folder, LOCK), Path(folder))


def write_fingerprint(file: Path, fingerprint: Mapping[str, Any], ways_out: str) -> None:
    """Write the fingerprint of some work to its directory, or compare it with the stored one.

    Call it with the lock of the directory held.

    Args:
        file: the JSON file of the fingerprint.
        fingerprint: all values that affect the result, as JSON values.
        ways_out: the end of an error: advice to the user.

    Raises:
        UserError: the directory contains other work, or the file is corrupt or cannot be written.
    """
    if file.is_file():
        check_fingerprint(file.parent, read_object(file, ways_out), fingerprint, ways_out)
    else:
        write_json(file, fingerprint)


def check_fingerprint(
    folder: Path, stored: Mapping[str, Any], fingerprint: Mapping[str, Any], ways_out: str
) -> None:
    """Compare the fingerprint stored in a directory with that of this command.

    Raises:
        UserError: they differ. The message lists the first keys, such as "seed: 1 -> 2", with short digests.
    """
    changed = differences(stored, fingerprint)
    if changed:
        listed = "; ".join(_DIGEST.sub(r"\1", line) for line in changed[:_MOST_DIFFERENCES])
        raise UserError(f"{folder}: made with other settings ({listed}); {ways_out}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys in which two nested mappings differ, as "a.b: old -> new"."""
    before, now = flat(old), flat(new)
    pairs = {key: (before.get(key, "(absent)"), now.get(key, "(absent)")) for key in before | now}
    return [f"{key}: {earlier} -> {later}" for key, (earlier, later) in pairs.items() if earlier != later]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings, by keys such as "a.b". Tuples become lists, as in JSON."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:  # an empty dict has no keys, so it is a value
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return values
