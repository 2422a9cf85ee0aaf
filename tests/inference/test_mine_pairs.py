"""ernie-m mine_pairs: hidden pairs are found, interrupted work goes on, thresholds, centring, bad input."""

import json
import pickle
import random
import shutil
import sys
from typing import NamedTuple

import numpy as np
import pytest

from ernie_m.commands import mine_pairs
from ernie_m.inference import mine_pairs as mining
from ernie_m.model.checkpoint.files import LANGUAGE_MEANS
from ernie_m.model.checkpoint.formats import safetensors
from ernie_m.pretrain.build_corpus.workers import LocalWorkers
from ernie_m.reader.corpus import Corpus
from ernie_m.utils.checksums import MANIFEST, check_manifest
from ernie_m.vectors.mine_by_margin import MinedPairs, Neighbours, margins, mine
from ernie_m.vectors.nearest import NEIGHBOURS, nearest
from ernie_m.vectors.pooling import unit
from tests import toys
from tests.helpers.checkpoints import changed_copy
from tests.helpers.files import flip_middle_bit
from tests.launching import as_flags, call_main, error_of
from tests.toys import make_corpus, sentences, write_lines

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
    then a blank one, two that are equal to earlier ones, and one with a tab; en.txt has a blank line, and 120
    others.
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
    (folder / "en.txt").write_text("\n".join(["", *target]) + "\n", encoding="utf-8")
    (folder / "gold.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    return folder


@pytest.fixture
def run_mining(texts, models, tmp_path, monkeypatch):
    """run_mining(output="mined", **flags) mines; returns its `MinedRow`s, and mining.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mining, "PART_LINES", 32)
    mining.encoder_of.cache_clear()

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


def assert_equal_pairs(rows, expected):
    """The same pairs, in the same order. Vectors that are made again may differ in the last bit of a float32:
    some CPUs' matrix products depend on where the tensors lie in memory."""
    assert [row._replace(score=0) for row in rows] == [row._replace(score=0) for row in expected]
    scores = [row.score for row in rows]
    np.testing.assert_allclose(scores, [row.score for row in expected], rtol=0, atol=2e-6)


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
    return mine(forward, backward, margins(forward, backward))


def test_the_pairs_are_those_of_the_vectors(run_mining, texts, tmp_path):
    rows, facts = run_mining()
    work = tmp_path / "mined"
    assert check_manifest(work / MANIFEST)["files"].keys() == {"pairs.tsv", "scores.tsv", "mining.json"}
    expected = mined_from(vectors_of(work, "source"), vectors_of(work, "target"))
    # Of the 104 lines of de.txt, from 0, line 100 is blank, and 101 and 102 are equal to earlier ones. They
    # have no vectors. Of the 121 lines of en.txt, line 0 is blank.
    distinct = [number for number in range(104) if number not in (100, 101, 102)]
    assert [row.source_line - 1 for row in rows] == [distinct[number] for number in expected.sources]
    assert [row.target_line - 2 for row in rows] == expected.targets.tolist()
    np.testing.assert_allclose([row.score for row in rows], expected.scores, atol=1e-6)
    source_lines = lines_of(texts / "de.txt")
    target_lines = lines_of(texts / "en.txt")
    for row in rows:
        assert row.source == source_lines[row.source_line - 1].replace("\t", " ")
        assert row.translation == target_lines[row.target_line - 1]
    # path -> all lines, and distinct ones
    assert facts["lines"] == {str(texts / "de.txt"): [104, 101], str(texts / "en.txt"): [121, 120]}
    assert facts["pairs"] == facts["candidates"] == len(rows) > PAIRS and not facts["centred"]
    assert facts["margin"] == "ratio"


def test_parts_of_other_work_are_not_taken(run_mining, tmp_path):
    """Copied from the folder of another layer, they are made again."""
    rows, _ = run_mining()
    run_mining(output="other", layer=0)
    for folder in (tmp_path / "other/.work").iterdir():
        if folder.is_dir():
            shutil.rmtree(tmp_path / "mined/.work" / folder.name, ignore_errors=True)
            shutil.copytree(folder, tmp_path / "mined/.work" / folder.name)
    assert_equal_pairs(run_mining()[0], rows)


def test_the_threshold_is_chosen_on_gold_pairs(run_mining, texts, tmp_path):
    every_row, _ = run_mining()
    rows, facts = run_mining(gold=texts / "gold.tsv")
    gold = {tuple(line.split("\t")) for line in lines_of(texts / "gold.tsv")}
    correct = sum((row.source, row.translation) in gold for row in rows)
    assert correct > PAIRS / 2 and 0 < len(rows) < len(every_row)
    assert rows == every_row[: len(rows)]
    assert facts["precision"] == pytest.approx(100 * correct / len(rows))
    assert facts["recall"] == pytest.approx(100 * correct / PAIRS)
    numbered = [f"{number}\t{line}" for number, line in enumerate(lines_of(texts / "gold.tsv"))]
    named = write_lines(tmp_path / "named.tsv", ["id\tsource\ttarget", *numbered])
    again, facts_again = run_mining(gold=named, threshold=facts["threshold"])
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
    assert {row.source_line for row in results["forward"]} == {*range(1, 101), 104}
    assert len(results["backward"]) == 120


def test_ratios_that_say_nothing_are_distances(run_mining, texts, capsys):
    """If all lines are neighbours and vectors are centred, the mean cosines are about 0."""
    centred = {"neighbours": 200, "centre_on": f"de<={texts}/de.txt,en<={texts}/en.txt"}
    expected, facts = run_mining(margin="distance", **centred)
    assert facts["margin"] == "distance" and "--margin" not in capsys.readouterr().out
    rows, facts = run_mining(**centred)
    assert (rows, facts["margin"]) == (expected, "distance")
    assert "--margin distance" in capsys.readouterr().out
    assert error_of(run_mining, threshold=1.05, **centred).startswith("--threshold 1.05: ")
    run_mining(threshold=0.1, margin="distance", **centred)


def test_pairs_of_the_same_text_are_counted(run_mining, texts, tmp_path, capsys):
    """White space at the ends of a line is no difference."""
    copied = [f" {line}" for line in lines_of(texts / "de.txt")[:7]]
    rows, _ = run_mining(target=write_lines(tmp_path / "en.txt", lines_of(texts / "en.txt") + copied))
    same = sum(row.source == row.translation for row in rows)
    assert same >= 5
    assert f" pairs, {same} with the same text on both sides" in capsys.readouterr().out


def test_more_neighbours_than_lines(run_mining, tmp_path):
    lines = sentences(500, seed=8)[:3]
    (tmp_path / "few.txt").write_text("\n".join(lines), encoding="utf-8")
    rows, _ = run_mining(target=tmp_path / "few.txt", neighbours=4, retrieval="forward")
    source = vectors_of(tmp_path / "mined", "source")
    target = vectors_of(tmp_path / "mined", "target")
    cosines = unit(source) @ unit(target).T  # [101, 3]
    # All three targets are neighbours of a source; a target has the four nearest sources.
    around = (cosines.mean(axis=1)[:, None] + np.sort(cosines, axis=0)[-4:].mean(axis=0)) / 2
    expected = np.sort((cosines / around).max(axis=1))[::-1]
    np.testing.assert_allclose([row.score for row in rows], expected, atol=1e-5)


def test_an_interrupted_run_goes_on(run_mining, tmp_path, monkeypatch):
    """Parts that are there are neither encoded nor searched again."""
    expected, _ = run_mining("whole")
    encoded = []  # the paths of the parts
    encode_part = mining.encode_part

    def encode_three_parts(options, texts, path, facts):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(path)
        return encode_part(options, texts, path, facts)

    monkeypatch.setattr(mining, "encode_part", encode_three_parts)
    with pytest.raises(KeyboardInterrupt):
        run_mining()
    monkeypatch.setattr(mining, "encode_part", encode_part)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "mined/.work/source").glob("*.npy")}
    assert len(written) == 3
    assert_equal_pairs(run_mining()[0], expected)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # Now one part of the search is missing: only that one is made again, and nothing is encoded.
    monkeypatch.setattr(mining, "load", lambda *_: pytest.fail("nothing is left to encode"))
    searched = sorted((tmp_path / "mined").glob(".work/forward-*/*.npz"))
    assert len(searched) == 4  # parts of at most 32 of 101 lines
    before = [path.stat().st_mtime_ns for path in searched]
    searched[2].unlink()
    mining.encoder_of.cache_clear()
    assert_equal_pairs(run_mining()[0], expected)
    after = [path.stat().st_mtime_ns for path in searched]
    is_unchanged = [a == b for a, b in zip(after, before)]
    assert is_unchanged == [True, True, False, True]


def test_damaged_parts_are_made_again(run_mining, tmp_path, monkeypatch):
    """A bit is flipped, or a file is cut or has another shape. Undamaged parts stay."""
    expected, _ = run_mining()
    work = tmp_path / "mined/.work"
    vectors = sorted(work.glob("*/*.npy"))
    searched = sorted(work.glob("*/*.npz"))
    written = {path: path.stat().st_mtime_ns for path in vectors + searched}
    flip_middle_bit(vectors[0])
    vectors[2].write_bytes(vectors[2].read_bytes()[:-8])
    np.save(vectors[4], np.zeros((3, 5), np.float32))
    flip_middle_bit(searched[1])
    searched[3].write_bytes(b"")
    with open(searched[5], "wb") as file:
        np.savez(file, cosines=np.zeros((1, 2)), numbers=np.zeros((1, 2), np.int64))
    mining.encoder_of.cache_clear()
    assert_equal_pairs(run_mining()[0], expected)
    made_again = [path for path in written if path.stat().st_mtime_ns != written[path]]
    assert made_again == [*vectors[0:5:2], *searched[1:6:2]]
    # A program that divides the texts otherwise cannot use these parts.
    monkeypatch.setattr(mining, "PART_LINES", 31)
    assert_equal_pairs(run_mining()[0], expected)


def test_settings_that_are_no_settings(run_mining, tmp_path):
    run_mining()
    (tmp_path / "mined/.work/settings.json").write_text("[1]")
    assert ".work/settings.json: " in error_of(run_mining)


def test_when_vectors_are_centred(run_mining, models, texts, tmp_path, capsys):
    """Texts in the wrong language are named: those whose vectors are nearer to the mean of the other one."""
    weights = changed_copy(models / "encode", tmp_path / "weights")

    def is_centred(output, model=weights, **flags) -> bool:
        _, facts = run_mining(output, model=model, **flags)
        return facts["centred"]

    assert not is_centred("without", model=models / "encode")
    source = vectors_of(tmp_path / "without", "source").mean(axis=0)
    target = vectors_of(tmp_path / "without", "target").mean(axis=0)
    layers = toys.LAYERS + 1
    means = {"de": np.tile(source, (layers, 1)), "en": np.tile(target, (layers, 1))}
    safetensors.write(weights / LANGUAGE_MEANS, means)
    assert not is_centred("with", source=texts / "de.txt", target=texts / "en.txt")  # of no language
    assert not is_centred("specials", pooling="specials")
    assert not is_centred("with", source=f"fr<={texts / 'de.txt'}")
    assert is_centred("with")
    assert "nearer" not in capsys.readouterr().out
    swapped = {"source": f"en<={texts / 'de.txt'}", "target": f"de<={texts / 'en.txt'}"}
    assert is_centred("with", **swapped)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "nearer" in line]
    assert [str(texts / name) in line for name, line in zip(("de.txt", "en.txt"), warnings)] == [True, True]


def test_mining_centred_on_the_means_beside_the_weights_or_on_files(run_mining, models, texts, tmp_path):
    plain, _ = run_mining()
    weights = changed_copy(models / "encode", tmp_path / "weights")
    rng = np.random.default_rng(0)
    shape = (toys.LAYERS + 1, toys.HIDDEN_SIZE)
    means = {language: rng.normal(size=shape).astype(np.float32) for language in ("de", "en")}
    safetensors.write(weights / LANGUAGE_MEANS, means)
    rows, facts = run_mining("beside", model=weights)
    source = vectors_of(tmp_path / "beside", "source")
    target = vectors_of(tmp_path / "beside", "target")
    # Vectors are kept as they are; only the search takes the means from them.
    np.testing.assert_allclose(vectors_of(tmp_path / "mined", "source"), source, atol=1e-6)
    top = toys.LAYERS
    expected = mined_from(source - means["de"][top], target - means["en"][top])
    assert facts["centred"] and rows != plain
    np.testing.assert_allclose([row.score for row in rows], expected.scores, atol=1e-6)

    for file in ("de.txt", "en.txt"):
        shutil.copy(texts / file, tmp_path)
    rows, facts = run_mining("files", centre_on="de<=de.txt,en<=en.txt")
    assert facts["centred"] and rows != plain
    assert run_mining("beside", model=weights, centre_on="de<=de.txt,en<=en.txt")[0] == rows  # searched again
    # So is the other order of the languages, which is what a warning advises whose means are swapped.
    swapped = {"source": f"en<={texts / 'de.txt'}", "target": f"de<={texts / 'en.txt'}"}
    rows, _ = run_mining("swapped", model=weights, **swapped)
    assert run_mining("beside", model=weights, **swapped)[0] == rows
    # Without the languages of the texts the means are not used.
    unnamed, facts = run_mining("plain", model=weights, source=texts / "de.txt", target=texts / "en.txt")
    assert unnamed == plain and not facts["centred"]


def test_a_corpus_can_be_built_of_the_pairs(run_mining, models, tmp_path):
    rows, _ = run_mining()
    parallel = {"de-en": str(tmp_path / "mined/pairs.tsv")}
    make_corpus(tmp_path / "corpus", models / "encode/piece.model", parallel=parallel)
    (pairs,) = Corpus(tmp_path / "corpus").parallel.values()
    assert len(pairs) == len(rows)


def test_a_cluster_gives_the_same_pairs(run_mining, monkeypatch):
    """Its workers have nothing but what is pickled. tests/pretrain/test_corpus_ray.py starts Ray itself."""
    expected, _ = run_mining()
    asked = []

    class Pickled(LocalWorkers):
        def __init__(self, number, address):
            super().__init__(1)
            asked.append((number, address))

        def submit(self, function, *task):
            mining.encoder_of.cache_clear()
            return super().submit(*pickle.loads(pickle.dumps((function, *task))))

    monkeypatch.setattr(mining, "RayWorkers", Pickled)
    rows, _ = run_mining(output="of_a_cluster", ray="local")
    assert_equal_pairs(rows, expected)
    assert asked == [(0, "local")]  # as many as the cluster has cores


def test_another_text_is_other_work(run_mining, texts):
    run_mining()
    assert "mined/.work was made with other settings (target: " in error_of(
        run_mining, target=texts / "de.txt"
    )
    assert "mined/.work was made with other settings (layer: " in error_of(run_mining, layer=1)


def test_another_model_is_other_work(run_mining, models, tmp_path):
    """A copy of config.json in a sub-folder must not hide that config.json itself has changed."""
    weights = changed_copy(models / "encode", tmp_path / "weights")
    config = weights / "config.json"
    (weights / "notes").mkdir()
    shutil.copy(config, weights / "notes")
    run_mining(model=weights)
    config.write_text(config.read_text() + "\n")
    assert "was made with other settings (model.config.json: " in error_of(run_mining, model=weights)


def test_a_model_by_its_name_on_a_hub(run_mining, models, monkeypatch):
    expected, _ = run_mining()
    monkeypatch.setattr(mining, "local_folder", {"somebody/encoder": models / "encode"}.get)
    rows, _ = run_mining(output="again", model="somebody/encoder")
    assert_equal_pairs(rows, expected)


def test_without_faiss(run_mining, monkeypatch, tmp_path):
    """It is missed before the texts are encoded."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install faiss-cpu" in error_of(run_mining)
    assert not (tmp_path / "mined").exists()


def test_a_layer_that_is_not_there_claims_no_folder(run_mining, texts, capsys):
    assert "layer 3: " in error_of(run_mining, layer=3)
    run_mining(layer=1, max_seq_len=8)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "are cut at 8 tokens" in line]
    assert line.startswith(f"{texts / 'de.txt'}, {texts / 'en.txt'}: ") and " lines looked at " in line


def test_the_output_may_be_in_the_folder_of_the_model(run_mining, models, tmp_path):
    weights = changed_copy(models / "encode", tmp_path / "weights")
    for _ in range(2):
        run_mining(model=weights, output="weights/mined")


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"a\n", {"source": "absent"}, "absent: "),
        (b"a\n", {"model": "absent"}, "--model absent: "),
        (b"", {"source": "in.txt"}, "in.txt: "),
        (b"\n \n", {"source": "in.txt"}, "in.txt: "),
        (b"a\n", {"source": "de<=a.txt,en<=in.txt"}, "de<=a.txt,en<=in.txt: "),
        (b"a\n\xff\n", {"source": "in.txt"}, "in.txt, line 2: not UTF-8"),
        (b"a\n", {"gold": "in.txt"}, "in.txt, line 1: "),
        (b"a\tb\tc\n", {"gold": "in.txt"}, "in.txt, line 1: "),
        (b"absent\tabsent\n", {"gold": "in.txt"}, "in.txt, line 1: 'absent'"),
        (b"a\n", {"margin": "cosine"}, "--margin cosine: "),
        (b"a\n", {"neighbours": 0}, "--neighbours 0: "),
        (b"a\n", {"centre_on": "in.txt"}, "--centre_on in.txt: "),
        (b"a\n", {"centre_on": "de<=in.txt,de<=in.txt"}, "--centre_on de<=in.txt,de<=in.txt: "),
        (b"a\n", {"centre_on": "de<=in.txt"}, "--centre_on has no en"),
        (
            b"a\n",
            {"centre_on": "de<=in.txt", "source": "in.txt"},
            "--centre_on ",
        ),
        (b"a\n", {"layer": 3}, "layer 3: "),
        (b"a\n", {"source": None}, "--source "),
    ],
)
def test_bad_input(run_mining, tmp_path, content, flags, message):
    (tmp_path / "in.txt").write_bytes(content)
    assert message in error_of(run_mining, **flags)
    assert not (tmp_path / "mined/pairs.tsv").exists()
