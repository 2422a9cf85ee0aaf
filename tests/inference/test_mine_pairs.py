"""mine_pairs.py: hidden pairs are found, interrupted work goes on, thresholds, centring, bad input."""

import importlib.util
import json
import random
import shutil
from typing import NamedTuple

import numpy as np
import pytest

import mine_pairs
from evaluation.mining import MinedPairs, Neighbours, mine
from evaluation.search import NEIGHBOURS, nearest, unit
from inference import mining
from model.checkpoint.formats import safetensors
from model.checkpoint.read import LANGUAGE_MEANS
from reader.corpus import Corpus
from tests.helpers.small_corpus import build, sentences
from tests.inference import toy_models
from tests.launching import ROOT, as_flags, call_main, run_script
from utils.errors import UserError
from utils.manifest import MANIFEST

PAIRS = 40


class MinedRow(NamedTuple):
    """A line of pairs.tsv, and the same line of scores.tsv. The lines of the texts are counted from 1."""

    source: str
    translation: str
    score: float
    source_line: int
    target_line: int


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with de.txt, en.txt and the pairs that are hidden in them, gold.tsv.

    The sentences of a pair differ in one word, so that a random encoder finds them. de.txt has 100 lines and
    then a blank one, two that are equal to earlier ones, and one with a tab; en.txt has 120 lines.
    """
    folder = tmp_path_factory.mktemp("texts")
    lines = list(dict.fromkeys(sentences(400, seed=3)))  # each once
    pairs = [(f"{line} the", f"{line} a") for line in lines[:PAIRS]]
    source = [line for line, _ in pairs] + lines[PAIRS:100]
    target = [line for _, line in pairs] + lines[100:180]
    shuffle = random.Random(1).shuffle
    shuffle(source)
    shuffle(target)
    source += ["", f"  {source[0]} ", source[1], "left\tright"]
    (folder / "de.txt").write_text("\n".join(source) + "\n", encoding="utf-8")
    (folder / "en.txt").write_text("\n".join(target) + "\n", encoding="utf-8")
    (folder / "gold.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return folder


@pytest.fixture
def run_mining(texts, models, tmp_path, monkeypatch):
    """run_mining(output="mined", **flags) runs mine_pairs.py; returns its `MinedRow`s, and mining.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mining, "PART_LINES", 32)
    mining.open_encoder.cache_clear()

    def call(output="mined", **flags):
        flags = {
            "source": f"de<={texts / 'de.txt'}",
            "target": f"en<={texts / 'en.txt'}",
            "model": models / "encode",
            "output": tmp_path / output,
        } | flags
        call_main(mine_pairs, as_flags(flags))
        rows = []
        pairs = lines_of(tmp_path / output / "pairs.tsv")
        scores = lines_of(tmp_path / output / "scores.tsv")
        for pair, score_line in zip(pairs, scores, strict=True):
            source, translation = pair.split("\t")
            score, source_line, target_line = score_line.split("\t")
            rows.append(MinedRow(source, translation, float(score), int(source_line), int(target_line)))
        facts = json.loads((tmp_path / output / "mining.json").read_text())
        return rows, facts

    return call


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def vectors_of(folder, name):
    """The vectors of a side, "source" or "target", that the work in a folder has left, [lines, H]."""
    return np.concatenate([np.load(path) for path in sorted((folder / ".work" / name).glob("*.npy"))])


def mined_from(source, target):
    """The pairs that `mine` makes of the vectors of the two sides, [lines, H] each."""
    source = unit(source)
    target = unit(target)
    forward = Neighbours(*nearest(source, target, NEIGHBOURS))
    backward = Neighbours(*nearest(target, source, NEIGHBOURS))
    return mine(forward, backward)


def test_the_pairs_are_those_of_the_vectors(run_mining, texts, tmp_path):
    rows, facts = run_mining()
    work = tmp_path / "mined"
    expected = mined_from(vectors_of(work, "source"), vectors_of(work, "target"))
    # Of the 104 lines of de.txt, from 0, line 100 is blank, and 101 and 102 are equal to earlier ones. They
    # have no vectors.
    distinct = [number for number in range(104) if number not in (100, 101, 102)]
    assert [row.source_line - 1 for row in rows] == [distinct[number] for number in expected.sources]
    assert [row.target_line - 1 for row in rows] == expected.targets.tolist()
    np.testing.assert_allclose([row.score for row in rows], expected.scores, atol=1e-6)
    source_lines = lines_of(texts / "de.txt")
    target_lines = lines_of(texts / "en.txt")
    for row in rows:
        assert row.source == source_lines[row.source_line - 1].replace("\t", " ")
        assert row.translation == target_lines[row.target_line - 1]
    # path -> all lines, and distinct ones
    assert facts["lines"] == {str(texts / "de.txt"): [104, 101], str(texts / "en.txt"): [120, 120]}
    assert facts["pairs"] == facts["candidates"] == len(rows) > PAIRS and not facts["centred"]


def test_the_threshold_is_chosen_on_gold_pairs(run_mining, texts):
    every_row, _ = run_mining()
    rows, facts = run_mining(gold=texts / "gold.tsv")
    gold = {tuple(line.split("\t")) for line in lines_of(texts / "gold.tsv")}
    correct = sum((row.source, row.translation) in gold for row in rows)
    assert correct > PAIRS / 2 and 0 < len(rows) < len(every_row)
    assert rows == every_row[: len(rows)]
    assert facts["precision"] == pytest.approx(100 * correct / len(rows))
    assert facts["recall"] == pytest.approx(100 * correct / PAIRS)
    again, facts_again = run_mining(gold=texts / "gold.tsv", threshold=facts["threshold"])
    assert again == rows and facts_again == facts
    above = [row for row in every_row if row.score >= 1.05]
    assert run_mining(threshold=1.05)[0] == above and 0 < len(above) < len(rows)


def test_no_pairs_have_no_threshold():
    nothing = MinedPairs(*np.empty((3, 0)))
    for threshold in (None, 1.0):
        assert mining.above_threshold(nothing, threshold, {(0, 0)}) == (nothing, {})


def test_other_pairs_by_other_margins_and_directions(run_mining):
    cases = {
        "default": {},
        "distance": {"margin": "distance"},
        "absolute": {"margin": "absolute"},
        "intersect": {"retrieval": "intersect"},
        "forward": {"retrieval": "forward"},
        "backward": {"retrieval": "backward"},
        "one neighbour": {"neighbours": 1},
    }
    results = {}
    for name, flags in cases.items():
        results[name], _ = run_mining(**flags)
    different_results = {str(rows) for rows in results.values()}
    assert len(different_results) == len(results)
    # A pair for each distinct line of de.txt, and for each of en.txt.
    assert len(results["forward"]) == 101
    assert len(results["backward"]) == 120


def test_an_interrupted_run_goes_on(run_mining, tmp_path, monkeypatch):
    """Parts that are there are neither encoded nor searched again."""
    expected, _ = run_mining("whole")
    encoded = []  # the paths of the parts
    encode_part = mining.encode_part

    def encode_three_parts(options, texts, path):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(path)
        return encode_part(options, texts, path)

    monkeypatch.setattr(mining, "encode_part", encode_three_parts)
    with pytest.raises(KeyboardInterrupt):
        run_mining()
    monkeypatch.setattr(mining, "encode_part", encode_part)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "mined/.work/source").iterdir()}
    assert len(written) == 3
    rows, _ = run_mining()
    assert rows == expected
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # Now one part of the search is missing: only that one is made again, and nothing is encoded.
    monkeypatch.setattr(mining, "load", lambda *_: pytest.fail("nothing is left to encode"))
    searched = sorted((tmp_path / "mined").glob(".work/forward-*/*.npz"))
    assert len(searched) == 4  # parts of at most 32 of 101 lines
    before = [path.stat().st_mtime_ns for path in searched]
    searched[2].unlink()
    mining.open_encoder.cache_clear()
    assert run_mining()[0] == expected
    after = [path.stat().st_mtime_ns for path in searched]
    is_unchanged = [a == b for a, b in zip(after, before)]
    assert is_unchanged == [True, True, False, True]


def test_mining_centred_on_the_means_beside_the_weights_or_on_files(run_mining, models, texts, tmp_path):
    plain, _ = run_mining()
    weights = shutil.copytree(models / "encode", tmp_path / "weights")
    (weights / MANIFEST).unlink()
    rng = np.random.default_rng(0)
    shape = (toy_models.LAYERS + 1, toy_models.HIDDEN_SIZE)
    means = {language: rng.normal(size=shape).astype(np.float32) for language in ("de", "en")}
    safetensors.write(weights / LANGUAGE_MEANS, means)
    rows, facts = run_mining("beside", model=weights)
    source = vectors_of(tmp_path / "beside", "source")
    target = vectors_of(tmp_path / "beside", "target")
    # Vectors are kept as they are; only the search takes the means from them.
    np.testing.assert_allclose(vectors_of(tmp_path / "mined", "source"), source, atol=1e-6)
    top = toy_models.LAYERS
    expected = mined_from(source - means["de"][top], target - means["en"][top])
    assert facts["centred"] and rows != plain
    np.testing.assert_allclose([row.score for row in rows], expected.scores, atol=1e-6)

    for file in ("de.txt", "en.txt"):
        shutil.copy(texts / file, tmp_path)
    rows, facts = run_mining("files", centre_on="de<=de.txt,en<=en.txt")
    assert facts["centred"] and rows != plain
    assert run_mining("beside", model=weights, centre_on="de<=de.txt,en<=en.txt")[0] == rows  # searched again
    # Without the languages of the texts the means are not used.
    unnamed, facts = run_mining("plain", model=weights, source=texts / "de.txt", target=texts / "en.txt")
    assert unnamed == plain and not facts["centred"]


def test_a_corpus_can_be_built_of_the_pairs(run_mining, models, tmp_path):
    rows, _ = run_mining()
    parallel = {"de-en": str(tmp_path / "mined/pairs.tsv")}
    build(tmp_path / "corpus", models / "encode/piece.model", parallel=parallel)
    (pairs,) = Corpus(tmp_path / "corpus").parallel.values()
    assert len(pairs) == len(rows)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_pairs(run_mining, texts, models, tmp_path):
    rows, _ = run_mining()
    flags = {
        "source": texts / "de.txt",
        "target": texts / "en.txt",
        "model": models / "encode",
        "output": tmp_path / "ray",
        "ray": "local",
    }
    process = run_script([ROOT / "mine_pairs.py", *as_flags(flags)], tmp_path)
    assert process.returncode == 0, process.stderr
    assert lines_of(tmp_path / "ray/pairs.tsv") == [f"{row.source}\t{row.translation}" for row in rows]
    scores = [float(line.split("\t")[0]) for line in lines_of(tmp_path / "ray/scores.tsv")]
    np.testing.assert_allclose(scores, [row.score for row in rows], atol=5e-6)  # batches are of another size


def test_another_text_is_other_work(run_mining, texts):
    run_mining()
    with pytest.raises(
        UserError, match=r"mined: its vectors were made with another target; give another --out"
    ):
        run_mining(target=texts / "de.txt")
    with pytest.raises(UserError, match="its vectors were made with another layer; "):
        run_mining(layer=1)


def test_another_model_is_other_work(run_mining, models, tmp_path):
    """A copy of config.json in a sub-folder must not hide that config.json itself has changed."""
    weights = shutil.copytree(models / "encode", tmp_path / "weights")
    (weights / MANIFEST).unlink()
    config = weights / "config.json"
    (weights / "notes").mkdir()
    shutil.copy(config, weights / "notes")
    run_mining(model=weights)
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UserError, match=r"its vectors were made with another model; give"):
        run_mining(model=weights)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"a\n", {"source": "absent"}, r"absent: cannot be read \(No such file"),
        (b"a\n", {"model": "absent"}, "--model absent: no such folder"),
        (b"", {"source": "in.txt"}, "in.txt: the file is empty"),
        (b"\n \n", {"source": "in.txt"}, "in.txt: all lines are blank"),
        (b"a\n\xff\n", {"source": "in.txt"}, "in.txt, line 2: not UTF-8"),
        (b"a\n", {"gold": "in.txt"}, "in.txt, line 1: 1 cells, not 2; give source, tab, translation"),
        (b"none\tnone\n", {"gold": "in.txt"}, r"in.txt, line 1: 'none' is not in \S*de.txt"),
        (b"a\n", {"margin": "cosine"}, "--margin cosine: it must be ratio, distance or absolute"),
        (b"a\n", {"neighbours": 0}, "--neighbours 0: it must be at least 1"),
        (b"a\n", {"centre_on": "in.txt"}, "--centre_on in.txt: give language<=file,language<=file"),
        (b"a\n", {"centre_on": "de<=in.txt"}, "--centre_on has no en; give language<=file for every"),
        (
            b"a\n",
            {"centre_on": "de<=in.txt", "source": "in.txt"},
            "--centre_on needs the languages of the texts",
        ),
        (b"a\n", {"layer": 3}, "layer 3: no such layer"),
        (b"a\n", {"source": None}, "--source must be given"),
    ],
)
def test_bad_input(run_mining, tmp_path, content, flags, message):
    (tmp_path / "in.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        run_mining(**flags)
    assert not (tmp_path / "mined/pairs.tsv").exists()
