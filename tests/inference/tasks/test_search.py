"""Search indices: saved, read, and refused with another model, layer or corpus."""

import io
import json
import shutil
import sys
import tracemalloc

import numpy as np
import pytest

import ernie_m
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.server.app import make_predictors
from ernie_m.inference.tasks.encode import EmbeddingPredictor
from ernie_m.inference.tasks.search import _is_prose, read_corpus
from ernie_m.utils.checksums import MANIFEST, VERSION, write_manifest
from tests import toys
from tests.inference.conftest import write_means
from tests.launching import another_process_writes, error_of
from tests.toys import sentences, write_languages, write_lines

TEXTS = sentences(30, seed=6)


@pytest.fixture
def folder(tmp_path):
    """The folder of an index."""
    return tmp_path / "index"


@pytest.fixture
def encoded(monkeypatch):
    """The number of texts of each call that encodes some."""
    counts = []
    encode_features = EmbeddingPredictor.encode_features

    def counting(self, features, *args, **options):
        counts.append(len(features))
        return encode_features(self, features, *args, **options)

    monkeypatch.setattr(EmbeddingPredictor, "encode_features", counting)
    return counts


@pytest.mark.parametrize("center_by_language", ["true", "false"])
def test_the_command_finds_the_same_and_encodes_the_corpus_once(
    models, ask, tmp_path, encoded, center_by_language
):
    model = shutil.copytree(models / "encode", tmp_path / "model")
    write_means(model, ["de", "fr"])
    flags = {
        "task": "search",
        "model": model,
        "index": tmp_path / "index",
        "center_by_language": center_by_language,
    }
    corpus = write_languages(tmp_path, de=TEXTS[:10], fr=TEXTS[10:])
    requests = [{"text": TEXTS[3]}, {"text": TEXTS[12], "each": True}]
    without_index = ask(
        requests, task="search", model=model, corpus=corpus, center_by_language=center_by_language
    )
    assert ask(requests, corpus=corpus, **flags) == without_index
    for options in ({"corpus": corpus}, {}):
        encoded.clear()
        assert ask(requests, **options, **flags) == without_index
        assert sum(encoded) == 3  # one is the corpus' first sentence


def test_faiss_is_missed_before_the_corpus_is_encoded(models, ask, monkeypatch, tmp_path, encoded):
    """It is missed before the corpus is encoded."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    flags = {"task": "search", "model": models / "encode", "corpus": write_lines(tmp_path / "a.txt", TEXTS)}
    assert "pip install faiss-cpu" in error_of(ask, [{"text": "a"}], **flags)
    assert "pip install faiss-cpu" in error_of(ernie_m.load(models / "encode").index, TEXTS)
    assert not encoded


def test_a_second_command_is_refused(models, ask, tmp_path, encoded):
    """It ends before the corpus is encoded; a search without an index works."""
    flags = {"task": "search", "model": models / "encode", "corpus": write_lines(tmp_path / "a.txt", TEXTS)}
    with another_process_writes(f"writer:{tmp_path / 'index'}"):
        assert error_of(ask, [{"text": TEXTS[3]}], index=tmp_path / "index", **flags).startswith(
            f"{tmp_path / 'index'}: "
        )
        assert encoded == [] and not (tmp_path / "index").exists()
        assert ask([{"text": TEXTS[3]}], **flags)


def test_an_index_from_python_finds_the_same(models, encoder, folder, encoded):
    expected = [
        hit | {"score": pytest.approx(hit["score"], abs=1e-5)} for hit in encoder.search(TEXTS[4], TEXTS)
    ]
    for index in (
        encoder.index(TEXTS),
        encoder.index(iter(TEXTS), folder),
        encoder.index(TEXTS, folder),
        ernie_m.load(models / "encode").index(folder=folder),
    ):
        encoded.clear()
        hits = index.search(TEXTS[4])
        assert hits == expected and (hits[0]["line"], hits[0]["index"]) == (5, 4)
        assert index.search(TEXTS[4], top_k=2) == hits[:2] and len(index.search("mo", top_k=99)) == 30
        assert encoded == [1, 1, 1]
        assert index.search(TEXTS[4], min_score=hits[1]["score"]) == hits[:2]
        assert index.search([TEXTS[4], "mo"]) == [hits, index.search("mo")] and index.search([]) == []
        assert error_of(index.search, ["mo", ""]).startswith("text 2 of 2 (index 1): ")


def test_serve_an_index(encoder, tmp_path):
    hits = encoder.index(TEXTS, tmp_path / "index").search(TEXTS[4])
    assert "search" not in make_predictors([encoder.loaded], PredictionOptions())
    search = make_predictors([encoder.loaded], PredictionOptions(index=str(tmp_path / "index")))["search"]
    assert search.predict([search.parse({"text": TEXTS[4]})]) == [{"hits": hits}]
    assert encoder.search(TEXTS[4], TEXTS[:4], min_score=1.0) == []
    assert search.choose_examples() == [min(TEXTS, key=len)]
    fitting = search.encode.max_seq_len - 2  # words of one token
    search.check_length(search.parse({"text": "da " * fitting}))
    assert str(fitting) in error_of(search.check_length, search.parse({"text": "da " * (fitting + 1)}))


def test_languages_of_a_corpus_and_of_prose():
    """A language has one name. Marks of Devanagari belong to its letters."""
    assert "de and deu" in error_of(read_corpus, "de<=a.txt,deu<=b.txt")
    assert _is_prose("हिन्दी में") and not _is_prose("12 + 30 = x")


def test_reject_an_index_of_another_model_corpus_or_option(models, encoder, ask, refused, tmp_path, folder):
    encoder.index(TEXTS, folder)
    corpus = write_lines(tmp_path / "corpus.txt", [*TEXTS, "one more"])
    for changes, location in (
        ({"model": models / "full"}, f"{folder}: the index"),
        (
            {"layer": 0},
            f"{folder}: the options of the index (layer 2, pooling mean_without_special, max_seq_len 62) "
            "differ from this search (layer 0",
        ),
        ({"pooling": "mean"}, f"{folder}: "),
        ({"max_seq_len": 20}, f"{folder}: "),
        ({"corpus": corpus}, f"{folder}: the index"),
        (
            {"corpus": write_lines(tmp_path / "as_many.txt", [*TEXTS[:-1], "another"])},
            f"{folder}: the index",
        ),
        ({"index": tmp_path / "nowhere"}, f"{tmp_path / 'nowhere'}: "),
        ({"index": corpus}, f"{corpus}: "),
        ({"index": models / "encode"}, f"{models / 'encode'}: "),
    ):
        flags = {"task": "search", "model": models / "encode", "index": folder} | changes
        assert location in refused(lambda flags=flags: ask([{"text": "mo"}], **flags))
    for options, location in (
        ({"folder": folder, "layer": 1}, f"{folder}: "),
        ({"corpus": TEXTS[:3], "folder": folder}, f"{folder}: "),
        ({"corpus": []}, "the corpus is empty"),
        ({"corpus": ["mo", ""]}, "text 2 of 2 (index 1): "),
        ({}, "index: missing corpus"),
        ({"corpus": TEXTS, "center_by_language": "de"}, "invalid center_by_language 'de' "),
    ):
        assert location in error_of(encoder.index, **options)
    assert "top_k 0 " in error_of(encoder.index(TEXTS).search, "mo", top_k=0)


def change_array(change):
    def changed(content):
        file = io.BytesIO()
        np.save(file, change(np.load(io.BytesIO(content))))
        return file.getvalue()

    return changed


def as_archive(content):
    """An .npz file instead of an .npy file."""
    file = io.BytesIO()
    np.savez(file, vectors=np.load(io.BytesIO(content)))
    return file.getvalue()


def change_facts(change):
    """A change of index.json; `change` returns the facts instead of the right ones."""
    return lambda content: json.dumps(change(json.loads(content))).encode()


def without(key):
    return change_facts(lambda facts: {name: value for name, value in facts.items() if name != key})


def move_first_vector(share):
    """Move the embedding by which an index knows its model aside, by a share of its length."""

    def change(facts):
        embedding = np.array(facts["first_vector"])
        assert embedding.shape == (toys.HIDDEN_SIZE,)
        embedding[0] += share * np.linalg.norm(embedding)
        return facts | {"first_vector": embedding.tolist()}

    return change_facts(change)


def second_line(line):
    """A second line of sentences.jsonl; the first one is right, by which the model is known again."""
    return lambda content: content.split(b"\n")[0] + b"\n" + line.encode()


STRANGE_LINES = (
    *map(json.dumps, ([1, 1, ""], ["a", "1", ""], ["a", 1, None], [" ", 1, ""], ["\ud800", 1, ""])),
    '"abc"',
    "[" * 100_000,
)
# A file of an index, and what stands there instead; its checksum is right.
CHANGES = [
    *(("sentences.jsonl", second_line(line)) for line in STRANGE_LINES),
    ("sentences.jsonl", lambda content: b""),
    ("vectors.npy", change_array(lambda vectors: vectors * np.array([[1], [np.nan]], np.float32))),
    ("vectors.npy", as_archive),
    ("vectors.npy", change_array(lambda vectors: vectors[1:])),
    ("vectors.npy", change_array(lambda vectors: vectors[0])),
    ("vectors.npy", change_array(lambda vectors: vectors.astype(np.float64))),
    ("vectors.npy", change_array(lambda vectors: vectors[:, None])),
    ("index.json", without("options")),
    ("index.json", without("first_vector")),
    # Of a model that was trained further, whose embeddings are near, and of a model of another width.
    ("index.json", move_first_vector(0.05)),
    ("index.json", change_facts(lambda facts: facts | {"first_vector": facts["first_vector"][:-1]})),
]


def change_index(folder, name, change):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    (folder / MANIFEST).unlink()
    write_manifest(folder / MANIFEST)


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_reject_tampered_index(encoder, folder, name, change):
    """Its checksums fit."""
    encoder.index(TEXTS[:2], folder)
    change_index(folder, "index.json", move_first_vector(1e-4))  # as far as that of another machine
    assert encoder.index(folder=folder).search(TEXTS[0])
    change_index(folder, name, change)
    assert error_of(encoder.index, folder=folder).startswith(f"{folder}: ")


@pytest.mark.parametrize("name", ["vectors.npy", "sentences.jsonl", "index.json", "manifest.json"])
def test_corrupt_or_missing_file(encoder, folder, name):
    """Or of another revision."""
    encoder.index(TEXTS, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7] + b"#" + content[-6:])
    assert error_of(encoder.index, folder=folder).startswith(f"{folder}: ")
    (folder / name).unlink()
    assert error_of(encoder.index, folder=folder).startswith(f"{folder}: ")
    (folder / MANIFEST).write_text(json.dumps({"version": VERSION - 1, "files": {}}))
    assert error_of(encoder.index, folder=folder).startswith(f"{folder / MANIFEST}: ")


@pytest.mark.parametrize("indexed", [False, True])
def test_corpus_embeddings_are_in_memory_once(encoder, tmp_path, monkeypatch, indexed):
    texts = [str(number) for number in range(600)]
    monkeypatch.setattr(
        EmbeddingPredictor, "encode_texts", lambda self, part: np.ones((len(part), 8192), np.float32)
    )
    folder = tmp_path / "index" if indexed else None
    encoder.index(texts, folder=folder)  # what is loaded once
    tracemalloc.start()
    _ = encoder.index(None if indexed else texts, folder=folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.9 * 600 * 8192 * 4  # a part of 256 next to the whole
