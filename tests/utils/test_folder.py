"""What a folder is taken to hold."""

import os

from ernie_m.utils.files import Folder


def test_what_is_no_file_is_not_there(tmp_path):
    """A link that leads nowhere, or to itself, must not hide the others."""
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_text("{}")
    for name, target in (("to a", "a"), ("loop", "loop"), ("nowhere", "b"), ("to below", "below")):
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    assert Folder(tmp_path).names == {"a", "to a"}
    assert (Folder(tmp_path / "b").names, Folder(tmp_path / "a").named) == (set(), "a")
