"""A model is found from any folder, by any notation of its path."""

import shutil

import pytest

import ernie_m
from tests.toys import sentences

TEXTS = ["“Bado” kani", "lera 10, mo", *sentences(10, seed=4)]
# The notations of the path of the folder "x", or of a link to it, seen from a folder next to it or above it.
FORMS = {
    "below": ("here", "./x"),
    "twice above, with a trailing slash": ("here/sub/deep", "../../sub/../x/"),
    "absolute": ("here/sub", "{here}/x"),
    "a link with a blank from elsewhere": ("here/sub", "../a name"),
}


@pytest.mark.parametrize(("folder", "path"), FORMS.values(), ids=FORMS)
def test_load_by_each_path_notation(models, tmp_path, monkeypatch, folder, path):
    (tmp_path / "here/sub/deep").mkdir(parents=True)
    shutil.copytree(models / "encode", tmp_path / "here/x")
    (tmp_path / "here/a name").symlink_to("x")
    monkeypatch.chdir(tmp_path / folder)
    model = ernie_m.load(path.format(here=tmp_path / "here"))
    assert model.encode(TEXTS).tobytes() == ernie_m.load(models / "encode").encode(TEXTS).tobytes()
