"""The files that the sources on the command line of prepare.py hold."""

from pathlib import Path

from utils.errors import UserError


def files_in(source: Path, output: Path) -> list[Path]:
    """The files in a folder and its sub-folders, in alphabetical order; or the one file that is the source.

    Args:
        output: a folder whose files are left out: an earlier call wrote them.

    Raises:
        UserError: there is no such source.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    paths = [source]
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in paths if output.resolve() not in path.resolve().parents]
