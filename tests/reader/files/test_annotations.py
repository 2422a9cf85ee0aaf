"""Exports of doccano, Label Studio and Prodigy as tagged words and as labels of texts."""

import io
import json
from pathlib import Path

import pytest

from ernie_m.fit.labeled_rows import load_dataset
from ernie_m.inference.tasks.training_files import TaggedFile
from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.labeled_tables import is_tagged_file, read_labeled_table
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.files.table_options import LabelOptions, TableOptions
from tests.helpers.files import write_file
from tests.launching import error_of


def write_export(path: Path, documents: list[dict]) -> Path:
    """Write JSON lines, or a list to a .json file."""
    is_list = path.suffix == ".json"
    return write_file(path, json.dumps(documents) if is_list else "\n".join(map(json.dumps, documents)))


def label_studio(text: str, *results: list[dict], **others) -> dict:
    """A task with annotations of these values."""
    annotations = [{"result": [{"value": value} for value in values], **others} for values in results]
    return {"id": 1, "annotations": annotations, "data": {"text": text}, "predictions": []}


def span(start: int, end: int, label: str, **others) -> dict:
    return {"start": start, "end": end, "labels": [label], **others}


PECK = span(0, 10, "PER", text="Maria Peck")
PECK_READ = "Maria/B-PER Peck/I-PER lacht/O ./O"
# Name of a file -> its documents, the sentences that are read, and the numbers of the log.
SPANS = {
    "doccano.jsonl": (
        [
            {"id": 7, "text": "Maria Peck lacht.", "label": [[0, 10, "PER"]], "Comments": []},
            {"id": 8, "text": "Na, so was", "label": [], "Comments": []},
            {"id": 9, "text": "安娜住在罗马。", "label": [[0, 2, "PER"], [4, 6, "LOC"]]},
            {"id": 10, "text": "नई दिल्ली में", "label": [[0, 9, "LOC"]]},
            {"id": 11, "text": "preCOVID-19", "label": [[3, 11, "DIS"]]},
            {"id": 12, "text": "\U0001f600 Anna", "label": [[3, 7, "PER"]]},  # as JavaScript counts
            {"id": 13, "text": "\U0001f600 Anna", "label": [[2, 6, "PER"]]},
        ],
        [
            PECK_READ,
            "Na/O ,/O so/O was/O",
            "安/B-PER 娜/I-PER 住/O 在/O 罗/B-LOC 马/I-LOC 。/O",
            "नई/B-LOC दिल्ली/I-LOC में/O",
            "pre/O COVID-19/B-DIS",
            "\U0001f600/O Anna/B-PER",
            "\U0001f600/O Anna/B-PER",
        ],
        ["1 documents without", "1 words divided", "1 documents with offsets in UTF-16"],
    ),
    "doccano_relations.jsonl": (
        [
            {"text": text, "entities": [{"id": 1, "label": "PER", "start_offset": 0, "end_offset": end}]}
            for text, end in (("Maria Peck lacht.", 10), ("Bob", 3))
        ],
        [PECK_READ, "Bob/B-PER"],
        [],
    ),
    "label_studio.json": (
        [
            label_studio("Maria Peck lacht.", [PECK, {"choices": ["x"]}], [PECK, {"choices": ["x"]}]),
            label_studio("Maria Peck lacht.", [span(0, 2, "X")], was_cancelled=True),
            label_studio("Anna"),
            label_studio("Anna", []),
        ],
        [PECK_READ, "Anna/O"],
        ["1 documents skipped", "1 documents not annotated", "1 documents without"],
    ),
    "label_studio_min.json": (
        [
            {"id": 1, "text": "Maria Peck lacht.", "ner": [PECK], "annotator": 1, "lead_time": 1.5},
            {"id": 2, "text": "Anna", "annotator": 1},
        ],
        [PECK_READ],
        ["1 documents not annotated"],
    ),
    "prodigy.jsonl": (
        [
            {
                "text": "Maria Peck lacht.",
                "tokens": [{"text": "Maria", "start": 0, "end": 5, "id": 0}],
                "spans": [{"start": 0, "end": 10, "label": "PER", "token_start": 0}] * (answer != "ignore"),
                "_task_hash": 3,
                "answer": answer,
            }
            for answer in ("accept", "reject", "reject", "ignore")
        ],
        [PECK_READ],
        ["2 documents rejected", "1 documents ignored"],
    ),
}


@pytest.mark.parametrize("name", SPANS)
def test_spans_become_words_with_tags(tmp_path, caplog, name):
    documents, sentences, counts = SPANS[name]
    path = write_export(tmp_path / name, documents)
    assert is_tagged_file(path)
    read = read_tagged_words(path)
    assert [" ".join(map("/".join, zip(each.words, each.written))) for each in read] == sentences
    for message, expected in zip(sorted(caplog.messages), sorted(counts), strict=True):
        assert message.startswith(f"{path}: {expected}")


def test_predictions_of_documents_have_their_words(tmp_path):
    documents, _, _ = SPANS["prodigy.jsonl"]
    path = write_export(tmp_path / "a.jsonl", documents)
    file = TaggedFile(path, ["B-PER", "I-PER", "O"], {}, TableOptions())
    words = ["Maria", "Peck", "lacht", "."]
    assert [values["words"] for *_, values in file.iter_requests(None)] == [words]
    tags = ["B-PER", "I-PER", "O", "O"]
    file.write([(None, {"tags": tags})], output := io.StringIO())
    first, *others = map(json.loads, output.getvalue().splitlines())
    assert first == {**documents[0], "words": words, "predicted_tags": tags} and others == documents[1:]


FAULTS = [
    {"text": "Maria Peck lacht.", "label": [[0, 18, "PER"]]},
    {"text": "Maria Peck lacht.", "label": [[-1, 5, "PER"]]},
    {"text": "Maria Peck lacht.", "label": [[5, 5, "PER"]]},
    {"text": "Maria Peck lacht.", "label": [[5, 6, "PER"]]},
    {"text": "Maria Peck lacht.", "label": [[0, 10, "PER"], [6, 10, "X"]]},
    {"text": "Maria Peck lacht.", "label": [{"start": 0, "end": 5, "label": "PER", "text": "Peck"}]},
    {"text": "Maria Peck lacht.", "label": [[0, 5]]},
    {"text": "Maria Peck lacht.", "label": [[0, 5, 7]]},
    {"text": None, "label": [[0, 5, "X"]]},
]


def test_all_invalid_spans_of_a_file_are_reported(tmp_path):
    """Adjacent spans are valid."""
    valid = {"text": "a b", "label": [[2, 3, "PER"], [0, 2, "PER"]]}
    path = write_export(tmp_path / "a.jsonl", [valid, *FAULTS])
    message = error_of(read_tagged_words, path)
    assert [f"line {number}: " in message for number in range(1, 11)] == [False] + [True] * 9
    (sentence,) = read_tagged_words(path, options=TableOptions(on_error="skip"))
    assert sentence.written == ["B-PER", "B-PER"]


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (label_studio("Anna", [span(0, 4, "PER")], [span(0, 4, "X")]), "line 1: "),
        ({"data": {"text": "Anna"}, "annotations": [{"result": None}]}, "line 1: "),
        ({"text": "Anna", "ner": [span(0, 4, "PER")], "other": [span(0, 4, "PER")]}, "ner"),
    ],
)
def test_which_annotation_is_meant_is_asked(tmp_path, document, place):
    path = write_export(tmp_path / "a.jsonl", [document])
    assert place in error_of(read_tagged_words, path)


@pytest.mark.parametrize(
    ("documents", "left_out"),
    [
        ([label_studio("a", [{"choices": ["good"]}]), label_studio("b")], 1),
        (
            [
                {"text": "a", "accept": ["good"], "options": [{"id": "good"}], "answer": "accept"},
                {"text": "b", "accept": ["good"], "options": [{"id": "good"}], "answer": "ignore"},
                {"text": "c", "accept": [], "options": [{"id": "good"}], "answer": "reject"},
            ],
            2,
        ),
        (
            [
                {"text": "a", "label": "good", "_task_hash": 1, "answer": "accept"},
                {"text": "b", "label": "good", "_task_hash": 2, "answer": "reject"},
            ],
            1,
        ),
    ],
)
def test_accepted_labels_of_texts_are_read(tmp_path, caplog, documents, left_out):
    path = write_export(tmp_path / "a.json", documents)
    assert not is_tagged_file(path)
    (row,) = read_labeled_table(path, LabelOptions()).rows
    assert (row.texts, row.label) == (["a"], "good")
    assert sum("left out" in message for message in caplog.messages) == left_out


def test_several_labels_of_a_text_are_a_list(tmp_path):
    documents = [label_studio(text, [{"choices": labels}]) for text, labels in (("a", ["x", "y"]), ("b", []))]
    path = write_export(tmp_path / "a.json", documents)
    rows = load_dataset([NamedFile(path, "train", "all")], LabelOptions(), "multi-label")
    assert rows.names == ["x", "y"]


def test_data_of_llama_index_are_pairs(tmp_path):
    data = {"queries": {"q": "a b", "r": "c"}, "corpus": {"x": "c", "y": "d"}, "mode": "text"}
    path = write_file(
        tmp_path / "a.json", json.dumps(data | {"relevant_docs": {"q": ["x", "y"], "r": ["y"]}})
    )
    assert list(PairRows(path)) == [["a b", "c"], ["a b", "d"], ["c", "d"]]
    for docs in ({"q": ["x"]}, {"q": ["x"], "r": ["z"]}, None):
        write_file(path, json.dumps(data | ({"relevant_docs": docs} if docs else {})))
        assert str(path) in error_of(PairRows, path)
