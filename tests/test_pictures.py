"""The pictures of docs/ are what scripts/pictures.py draws, and show the masks of training."""

import sys
import xml.etree.ElementTree as ElementTree

import pytest

from scripts import pictures
from tests.launching import ROOT

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["masks", "btmlm", "performance"])
def test_the_committed_pictures_are_up_to_date(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path)])
    pictures.main()
    drawn = (tmp_path / f"{name}.svg").read_bytes()
    assert (ROOT / "docs" / "images" / f"{name}.svg").read_bytes() == drawn


def test_a_cell_has_the_colour_of_the_token_that_is_seen():
    (camlm,) = [matrix for matrix in pictures.matrices() if matrix.title == "CAMLM"]
    root = ElementTree.fromstring(
        f"<svg xmlns='{SVG[1:-1]}'>{''.join(pictures.draw_matrix(camlm, 0, 0))}</svg>"
    )
    colours = [cell.get("fill") for cell in root.iter(f"{SVG}rect")]
    assert len(colours) == 49
    counts = {kind: colours.count(colour) for kind, colour in pictures.COLOURS.items()}
    # x1, x3, M5 and M6 see x1 and x3; y4, y7 and M2 see y4 and y7; three masks see themselves.
    assert counts == {"source": 8, "target": 6, "masked": 3, "pseudo": 0, "hidden": 32}
