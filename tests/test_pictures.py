"""The pictures of docs/ are what scripts/pictures.py draws, and show the masks of training."""

import itertools
import sys

import pytest

from scripts import pictures
from tests.launching import ROOT


@pytest.mark.parametrize("name", ["masks", "btmlm", "performance"])
def test_the_committed_pictures_are_up_to_date(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path)])
    pictures.main()
    drawn = (tmp_path / f"{name}.svg").read_bytes()
    assert (ROOT / "docs" / "images" / f"{name}.svg").read_bytes() == drawn


def test_a_cell_has_the_colour_of_the_token_that_is_seen():
    """The mask of the paper's example of CAMLM: seven tokens x1, x3, y4, y7, M2, M5 and M6."""
    (camlm,) = [matrix for matrix in pictures.matrices() if matrix.title == "CAMLM"]
    kinds = list(itertools.chain.from_iterable(camlm.cells()))
    assert len(kinds) == 7 * 7
    counts = {kind: kinds.count(kind) for kind in pictures.COLOURS}
    # x1, x3, M5 and M6 see x1 and x3, which is 4 x 2 cells; y4, y7 and M2 see y4 and y7, 3 x 2; the three
    # masks see themselves. The others of the 49 cells are hidden.
    assert counts == {"source": 8, "target": 6, "masked": 3, "pseudo": 0, "hidden": 32}
