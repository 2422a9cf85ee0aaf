"""Many small folders are written here. That they are synced to the disk is tested elsewhere, and slow."""

import pytest

from utils import files


@pytest.fixture(autouse=True)
def no_syncing(monkeypatch):
    monkeypatch.setattr(files, "sync_file", lambda path: None)
