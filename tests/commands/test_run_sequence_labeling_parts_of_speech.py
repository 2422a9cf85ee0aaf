"""run_sequence_labeling.py --chunk_scheme NONE: tags without B- and I-."""

import json
import re

import numpy as np
import pytest

from ernie_m.commands import predict, run_sequence_labeling
from ernie_m.finetune.metrics import count_entity_matches
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.reader.tokenization import Tokenizer
from tests import command_lines, toys
from tests.helpers.conll import read_conll
from tests.launching import as_flags, call_main, give_input

# The toy's tags -> parts of speech.
PARTS_OF_SPEECH = {"B-PER": "PROPN", "I-PER": "SYM", "B-LOC": "NOUN", "I-LOC": "X", "O": "SCONJ"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy's files, with parts of speech instead of its tags."""
    folder = toys.make_tagging(tmp_path_factory.mktemp("toy"))
    for path in [*folder.glob("*.tsv"), folder / "label_map.json"]:
        text = path.read_text(encoding="utf-8")
        for tag, part_of_speech in PARTS_OF_SPEECH.items():
            # A tag stands between two of these characters: tab, U+0002, line end, quotation mark.
            text = re.sub(rf'(?<=[\t\x02"]){tag}(?=[\n\x02"])', part_of_speech, text)
        path.write_text(text, encoding="utf-8")
    return folder


def test_train_score_and_predict(folder, tmp_path, monkeypatch, capsys):
    """XTREME's F1 and accuracy of the report are those of the predictions, which have no entities."""
    shared = {
        "chunk_scheme": "NONE",
        "do_test": "true",
        "test_set": f"{folder}/dev.%s.tsv",
        "test_save": f"{tmp_path}/%s",
    }
    call_main(run_sequence_labeling, command_lines.tagging(folder, tmp_path / "out", max_steps=12, **shared))
    report = json.loads((tmp_path / "out/results.json").read_text())
    scores = {table["title"].split(",")[0]: table["seeds"]["1"] for table in report["tables"]}
    assert (report["metric"], [*scores]) == ("f1", ["f1", "acc"])
    for language in toys.LANGUAGES[:2]:
        (path,) = tmp_path.glob(f"{language}.*")  # <language>.<epoch>.<step>
        sentences = read_conll(path)
        gold = [sentence.gold for sentence in sentences]
        predicted = [sentence.predicted for sentence in sentences]
        is_correct = np.concatenate(gold) == np.concatenate(predicted)
        f1 = count_entity_matches(gold, predicted).f1
        expected = {"f1": f1, "acc": pytest.approx(100 * is_correct.mean())}
        assert {name: of_languages[language] for name, of_languages in scores.items()} == expected

    give_input(monkeypatch, b'{"text": "anna walks now"}')
    call_main(predict, as_flags({"task": "token-classification", "model": tmp_path / "out/best"}))
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer["tags"]) <= set(PARTS_OF_SPEECH.values()) and answer["entities"] == []


@pytest.mark.parametrize(
    ("settings", "tags", "inside_label", "label_pieces"),
    [
        ({"chunk_scheme": "NONE", "label_pieces": "all"}, ["N-SG", "I-SG"], [0, 1], "all"),
        ({"official_compat": True}, ["B-A", "I-A", "O"], [1, 1, 2], "leading"),
    ],
)
def test_tags_are_predicted_as_a_model_was_trained(tmp_path, settings, tags, inside_label, label_pieces):
    """Parts of speech have no inside label. The official code has the tag of a word at its first subword."""
    tokenizer = Tokenizer(None, toys.train_piece_model(tmp_path / "p.model"))
    task = Tagging.from_pipeline_config(PipelineConfig(**settings), tokenizer, tags, 9)
    assert (task.inside_label, task.encode.label_pieces) == (inside_label, label_pieces)
