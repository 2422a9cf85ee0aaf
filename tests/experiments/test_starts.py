"""The trainings that began from a model, and the JSON that gets their figures."""

import numpy as np
import pytest

from experiments import starts
from finetune.tagging import TaggedSentence, write_conll
from tests.inference import toy_models
from tests.launching import as_flags, error_of
from utils.files import read_json


def test_the_figures_of_three_trainings(tmp_path, monkeypatch):
    """A measure that is added again is replaced, others stay; English has a measure of its own."""
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setattr(starts, "found_by_margin", lambda src, tgt: np.full(len(src), 7))
    for number, name in enumerate(("retrieval/tatoeba-style-dev/de-en", "pretrain/parallel-multiway/ntrex")):
        for language in ("de", "en"):
            file = tmp_path / "data" / f"{name}.{language}"
            file.parent.mkdir(parents=True, exist_ok=True)
            texts = {"de": "bac", "en": "abc"}[language]
            file.write_text("".join(f"{text}\n" for text in texts[number:]))
    search = tmp_path / "search"
    search.mkdir()
    (toy_models.make(tmp_path) / "encode").rename(search / "best")
    (search / "retrieval.json").write_text('{"tables": [{"mean": {"de": 1.0, "avg": 1.0}}]}')
    for language, tags in {"en": ["B-PER"], "de": ["O"]}.items():
        (tmp_path / "tags/predictions").mkdir(parents=True, exist_ok=True)
        file = tmp_path / f"tags/predictions/test.{language}.tsv.1.2"
        write_conll(file, [TaggedSentence(["Anna"], ["B-PER"], tags)])
    (tmp_path / "xnli/dev").mkdir(parents=True)
    (tmp_path / "xnli/label_map.json").write_text('{"no": 0, "yes": 1}')
    (tmp_path / "xnli/dev/dev.de.tsv").write_text("text_a\tlabel\na\tno\nb\tyes\n")
    (tmp_path / "nli/predictions").mkdir(parents=True)
    (tmp_path / "nli/predictions/test.de.tsv.3.120").write_text("0\t0.9\t0.1\n0\t0.8\t0.2\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 5, "held_out": {"mmlm": {}}}\n')
    output = tmp_path / "model-1.json"
    output.write_text('{"ner": 1, "kinds 16": 2}')
    folders = {"few": search, "held_out": "run", "ner": "tags", "xnli after pairs": "nli"}
    after = [f"{name}<={tmp_path / folder}" for name, folder in folders.items()]
    starts.main(as_flags({"output": output, "layout": tmp_path, "after": f"[{', '.join(after)}]"}))
    figures = read_json(output)
    # The first two of b, a, c and a, b, c are crossed. NTREX lacks the first pair here: a, c and b, c.
    assert figures.pop("tatoeba few") == {"de": [[0, 0, 2], [2, 2, 2]]}
    assert figures.pop("tatoeba margin few") == {"de": [[7, 7, 7], [2, 2, 2]]}
    assert figures.pop("ntrex few") == {"de": [[2, 2], [2, 2]]}
    assert figures.pop("ntrex margin few") == {"de": [[7, 7], [2, 2]]}
    assert figures == {
        "kinds 16": 2,
        "held_out": [{"step": 5, "mmlm": {}}],
        "ner": {"de": [[0], [1]]},
        "ner en": {"en": [[2], [2]]},
        "xnli after pairs": {"de": [[1, 0], [1, 1]]},
    }


def test_a_language_that_is_not_there_keeps_its_figures(tmp_path):
    """Kinds of texts may be measured in English alone."""
    path = tmp_path / "a.json"
    starts.add_figures(path, {"kinds 16": {"en": [[1], [3]], "fr": [[2], [3]]}})
    starts.add_figures(path, {"kinds 16": {"en": [[3], [3]]}})
    assert read_json(path) == {"kinds 16 en": {"en": [[3], [3]]}, "kinds 16": {"fr": [[2], [3]]}}


@pytest.mark.parametrize("item", ["output/pairs", "few<=", "<=output"])
def test_a_training_without_a_name(tmp_path, monkeypatch, item):
    monkeypatch.setenv("DATA", str(tmp_path))
    line = error_of(starts.main, as_flags({"output": tmp_path / "a", "after": f"['{item}']"}))
    assert line.startswith(f"--after '{item}': ")
