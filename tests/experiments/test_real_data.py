"""The real data of a study: copies in lower case, and the files that a corpus configuration names."""

import gzip

import pytest

from experiments.real_data import NAMED_FILE, lower_case
from tests.helpers.small_corpus import ROOT
from utils.errors import UserError


def test_lower_case_copies(tmp_path):
    (tmp_path / "de.txt.gz").write_bytes(gzip.compress("Ein HAUS\nÄpfel\n".encode()))
    (tmp_path / "x.en").write_text("One Two\n")
    for name in ("de.txt.gz", "x.en"):
        lower_case(tmp_path / name, tmp_path / "lower" / name)
    assert gzip.decompress((tmp_path / "lower" / "de.txt.gz").read_bytes()).decode() == "ein haus\näpfel\n"
    assert (tmp_path / "lower" / "x.en").read_text() == "one two\n"
    with pytest.raises(UserError, match="y.en: no such file; DATA names the folder"):
        lower_case(tmp_path / "y.en", tmp_path / "lower" / "y.en")


@pytest.mark.parametrize(("name", "languages"), [("en-de-fr-tr", 4), ("xnli-15", 15)])
def test_every_file_of_the_real_corpora_is_named(name, languages):
    files = set(NAMED_FILE.findall((ROOT / f"configs/corpus/{name}.yaml").read_text()))
    monolingual = languages
    parallel_with_english = languages - 1
    multi_way = languages
    assert len(files) == monolingual + parallel_with_english + multi_way
