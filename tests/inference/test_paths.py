"""A model of each format is found from any folder, by any form of its path."""

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import convert
from tests.helpers.checkpoints import change_config
from tests.toys import make_model, sentences, train_pieces

TEXTS = ["“Bado” kani", "lera 10, mo", *sentences(10, seed=4)]
FORMATS = {
    "ours": "ernie-m",
    "official": "fluid",
    "paddlenlp": "paddlenlp",
    "xlm-r": "xlm-roberta",
    "sentence-transformers": "xlm-roberta",
}
# The forms of the path of the folder "x", or of a link or a copy with a blank, seen from the folder beside or
# above it.
FORMS = {
    "below": ("here", "./x"),
    "above": ("here/sub", "../x"),
    "twice above": ("here/sub/deep", "../../sub/../x"),
    "absolute": ("here/sub", "{here}/x"),
    "a link": ("here", "link"),
    "a link from elsewhere": ("here/sub", "../link"),
    "a trailing slash": ("here/sub", "../x/"),
    "a blank": ("here/sub", "../a name"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """format -> the folder that has "here/x" and the others."""
    root = tmp_path_factory.mktemp("formats")
    pieces = train_pieces(root / "piece.model", TEXTS * 20, vocab_size=110)
    made = {}
    for rules in ("ernie-m", "none"):
        make_model(root / rules, "encode", pieces)
        (root / rules / "manifest.json").unlink()
    change_config(root / "none", reading={"text_rules": "none", "pooling": "cls", "normalize": True})
    for name, target in FORMATS.items():
        here = root / name / "here"
        (here / "sub/deep").mkdir(parents=True)
        source = root / ("none" if target == "xlm-roberta" else "ernie-m")
        convert.main([str(source), str(here / "x"), "--to", target])
        if target == "xlm-roberta":
            change_config(here / "x", reading=None)  # as the libraries' own folders are
        if name == "xlm-r":
            for file in ("modules.json", "sentence_bert_config.json"):
                (here / "x" / file).unlink()
        (here / "link").symlink_to("x")
        (here / "a name").symlink_to("x")
        made[name] = root / name
    return made


@pytest.mark.parametrize("name", FORMATS)
def test_every_form_of_a_path(folders, monkeypatch, name):
    vectors = []
    for folder, path in FORMS.values():
        monkeypatch.chdir(folders[name] / folder)
        path = path.format(here=folders[name] / "here")
        model = ernie_m.load(path)
        assert model.tokenizer.text_rules == ("none" if FORMATS[name] == "xlm-roberta" else "ernie-m")
        vectors.append(model.encode(TEXTS))
    for vectors_by_path in vectors[1:]:
        np.testing.assert_allclose(vectors_by_path, vectors[0], atol=1e-6)
