"""A model, in a few files or in many, is found from any folder, by any notation of its path."""

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert
from tests.toys import make_model, sentences, train_piece_model

TEXTS = ["“Bado” kani", "lera 10, mo", *sentences(10, seed=4)]
FORMATS = ("ernie-m", "fluid")
# The notations of the path of the folder "x", or of a link to it, seen from a folder next to it or above it.
FORMS = {
    "below": ("here", "./x"),
    "twice above, with a trailing slash": ("here/sub/deep", "../../sub/../x/"),
    "absolute": ("here/sub", "{here}/x"),
    "a link with a blank from elsewhere": ("here/sub", "../a name"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """format -> the folder that has "here/x" and the others."""
    root = tmp_path_factory.mktemp("formats")
    make_model(root / "made", "encode", train_piece_model(root / "piece.model", TEXTS * 20, vocab_size=110))
    for target in FORMATS:
        here = root / target / "here"
        (here / "sub/deep").mkdir(parents=True)
        convert.main([str(root / "made"), str(here / "x"), "--to", target, "--allow_lossy"])
        (here / "a name").symlink_to("x")
    return root


@pytest.mark.parametrize("name", FORMATS)
def test_load_by_each_path_notation(folders, monkeypatch, name):
    embeddings = []
    for folder, path in FORMS.values():
        monkeypatch.chdir(folders / name / folder)
        embeddings.append(ernie_m.load(path.format(here=folders / name / "here")).encode(TEXTS))
    for vectors_by_path in embeddings[1:]:
        np.testing.assert_allclose(vectors_by_path, embeddings[0], atol=1e-6)
