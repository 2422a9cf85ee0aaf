"""The tests here write many small folders. To sync these to the disk is slow, and tested elsewhere."""

import pytest

from utils import files


@pytest.fixture(autouse=True)
def no_syncing(monkeypatch):
    monkeypatch.setattr(files, "sync_file", lambda path: None)
