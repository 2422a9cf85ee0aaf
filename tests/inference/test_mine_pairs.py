"""ernie-m mine_pairs: hidden pairs are found, thresholds, centering, bad input."""

import json
import random
import sys
from collections import namedtuple

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import mine_pairs
from ernie_m.inference import mine_pairs as mining
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS
from ernie_m.vectors.nearest import NEIGHBORS, Neighbors, compute_margins, find_neighbors, mine_greedily
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.helpers.files import write_files
from tests.launching import as_flags, call_main, error_of
from tests.toys import sentences, write_lines

PAIRS = 40


# A line of pairs.tsv, and the same line of scores.tsv. The lines of the texts are counted from 1.
MinedRow = namedtuple("MinedRow", "source translation score source_line target_line")


@pytest.fixture(scope="module")
def texts(module_folder):
    """A folder with de.txt and en.txt, in which 40 pairs are hidden.

    The sentences of a pair differ in one word, so that a random encoder finds them. de.txt has 100 lines and
    then a blank one, two that are equal to earlier ones, and one with a tab; en.txt has a blank line, and 120
    others.
    """
    lines = list(dict.fromkeys(sentences(400, seed=3)))  # each once
    source = [f"{line} the" for line in lines[:PAIRS]] + lines[PAIRS:100]
    target = [f"{line} a" for line in lines[:PAIRS]] + lines[100:180]
    shuffle = random.Random(1).shuffle
    shuffle(source)
    shuffle(target)
    source += ["", f"  {source[0]} ", source[1], "left\tright"]
    (module_folder / "de.txt").write_text("\n".join(source) + "\n", encoding="utf-8")
    (module_folder / "en.txt").write_text("\n".join(["", *target]) + "\n", encoding="utf-8")
    return module_folder


@pytest.fixture
def run_mining(texts, models, tmp_path, in_tmp_path, monkeypatch):
    """run_mining(output="mined", **flags) mines; returns its `MinedRow`s."""
    monkeypatch.setattr(mining, "PART_LINES", 32)

    def call(output="mined", **flags):
        flags = {
            "source": f"de<={texts / 'de.txt'}",
            "target": f"en<={texts / 'en.txt'}",
            "model": models / "encode",
            "output": tmp_path / output,
        } | flags
        call_main(mine_pairs, as_flags(flags))
        pairs, scores = (read_lines(tmp_path / output / f"{name}.tsv") for name in ("pairs", "scores"))
        return [
            MinedRow(*pair.split("\t"), *map(json.loads, cells.split("\t")))
            for pair, cells in zip(pairs, scores, strict=True)
        ]

    return call


@pytest.fixture
def vectors(texts, models, tmp_path):
    """The embeddings of the distinct lines of de.txt and of en.txt, [101, H] and [120, H].

    The folder of the run receives the lines in files of the same names.
    """
    encoder = ernie_m.load(models / "encode")
    sides = []
    for name in ("de.txt", "en.txt"):
        lines = dict.fromkeys(line.strip().replace("\t", " ") for line in read_lines(texts / name))
        distinct = [line for line in lines if line]
        write_lines(tmp_path / name, distinct)
        sides.append(encoder.encode(distinct, normalize=False))
    return sides


def read_lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def mined_from(source, target):
    """The pairs that `mine_greedily` makes of the embeddings of the two sides, [lines, H] each."""
    source = normalize_vectors(source)
    target = normalize_vectors(target)
    forward = Neighbors(*find_neighbors(source, target, NEIGHBORS))
    backward = Neighbors(*find_neighbors(target, source, NEIGHBORS))
    return mine_greedily(forward, backward, compute_margins(forward, backward))


def check_scores(rows, sides, means):
    """The scores of mined rows are those of embeddings of the two sides, each less its mean."""
    expected = mined_from(*(side - mean for side, mean in zip(sides, means)))
    np.testing.assert_allclose([row.score for row in rows], expected.scores, atol=1e-6)


def test_mined_pairs_equal_brute_force(run_mining, texts, vectors, tmp_path, capsys):
    rows = run_mining()
    expected = mined_from(*vectors)
    # Of the 104 lines of de.txt, from 0, line 100 is blank, and 101 and 102 are equal to earlier ones. They
    # have no vectors. Of the 121 lines of en.txt, line 0 is blank.
    distinct = np.delete(np.arange(104), (100, 101, 102))
    source_lines, target_lines = (read_lines(texts / name) for name in ("de.txt", "en.txt"))
    assert rows == [
        (
            source_lines[distinct[source]].replace("\t", " "),
            target_lines[1 + target],
            pytest.approx(score, abs=1e-6),
            1 + distinct[source],
            2 + target,
        )
        for source, target, score in zip(expected.sources, expected.targets, expected.scores, strict=True)
    ]
    hidden = sum(row.source.removesuffix("the") == row.translation.removesuffix("a") for row in rows)
    assert PAIRS / 2 < hidden < len(rows)
    above = [row for row in rows if row.score >= 1.05]
    assert run_mining(threshold=1.05) == above and 0 < len(above) < len(rows)
    said = [
        f"{texts}/de.txt: {source_lines[0]}",
        f"{texts}/de.txt: 104 lines, 101 distinct",
        f"{texts}/en.txt: {target_lines[1]}",
        f"{texts}/en.txt: 121 lines, 120 distinct",
        "centering: none (pooling: mean_without_special; languages with a mean: none; languages of the "
        "texts: de, en). To compute means, set --center_on",
        "nearest-neighbor search: 101 source and 120 target embeddings",
    ]
    lowest_first = f"{rows[-1].score:.3f} to {rows[0].score:.3f}"
    assert capsys.readouterr().out.splitlines() == [
        *said,
        f"{len(rows)} of {len(rows)} pairs, 0 of them with equal sides: {tmp_path}/mined; scores: "
        f"{lowest_first}. Low-scoring pairs are rarely translations; set --threshold",
        *said,
        f"{len(above)} of {len(rows)} pairs, 0 of them with equal sides: {tmp_path}/mined",
    ]
    for others in ({"num_neighbors": 1}, {"max_seq_len": 8}):
        assert run_mining(**others) != rows


def test_ratios_that_say_nothing_are_differences(run_mining, texts, capsys):
    """If all lines are neighbors and embeddings are centered, the mean cosines are about 0."""
    centered = {"num_neighbors": 200, "center_on": f"de<={texts}/de.txt,en<={texts}/en.txt"}
    rows = run_mining(**centered)
    assert "difference margins" in capsys.readouterr().out
    assert max(row.score for row in rows) < 1  # no cosine minus its mean is above it
    assert error_of(run_mining, threshold=0, **centered).startswith("--threshold 0.0: ")


def test_count_pairs_with_equal_texts(run_mining, texts, tmp_path, capsys):
    """White space at the ends of a line is not a difference."""
    copied = [f" {line}" for line in read_lines(texts / "de.txt")[:7]]
    rows = run_mining(target=write_lines(tmp_path / "en.txt", read_lines(texts / "en.txt") + copied))
    same = sum(row.source == row.translation for row in rows)
    assert same >= 5
    printed = capsys.readouterr().out
    assert f" pairs, {same} of them with equal sides" in printed and "lines are in both" not in printed
    run_mining(source=write_lines(tmp_path / "copied.txt", copied), target=tmp_path / "en.txt")
    assert "7 lines are in both" in capsys.readouterr().out  # most of the smaller text


def test_centered_embeddings(run_mining, models, texts, vectors, tmp_path, capsys):
    """By the means next to the weights if they are of the pooling and of both languages, or by files."""
    weights = changed_copy(models / "encode", tmp_path / "weights", pipeline=stored(normalize=True))
    own = [side.mean(axis=0) for side in vectors]
    layers = toys.LAYERS + 1
    rng = np.random.default_rng(0)
    means = [mean + rng.normal(scale=0.1, size=(layers, len(mean))).astype(np.float32) for mean in own]
    safetensors.write(weights / LANGUAGE_MEANS, dict(zip(("de", "en"), means)))
    plain = run_mining()
    for flags in (
        {"source": texts / "de.txt", "target": texts / "en.txt"},
        {"source": f"fr<={texts / 'de.txt'}"},
    ):
        assert run_mining(model=weights, **flags) == plain
    run_mining(model=weights, pooling="mean")
    assert capsys.readouterr().out.count("centering: none (") == 4
    of_layer = [mean[toys.LAYERS] for mean in means]
    check_scores(run_mining(model=weights), vectors, of_layer)
    assert "nearer" not in capsys.readouterr().out
    for model in (models / "encode", weights):
        check_scores(run_mining(model=model, center_on="de<=de.txt,en<=en.txt"), vectors, own)
    # Texts in the wrong language are named, and centered by the mean of the one that was given.
    capsys.readouterr()
    rows = run_mining(model=weights, source=f"en<={texts / 'de.txt'}", target=f"de<={texts / 'en.txt'}")
    check_scores(rows, vectors, of_layer[::-1])
    warnings = [line for line in capsys.readouterr().out.splitlines() if "nearer" in line]
    assert [str(texts / name) in line for name, line in zip(("de.txt", "en.txt"), warnings)] == [True, True]


def test_faiss_is_missed_before_the_model_is_loaded(run_mining, monkeypatch, tmp_path):
    """It is missed before the model is loaded."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install faiss-cpu" in error_of(run_mining, model="absent")
    assert not (tmp_path / "mined").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"a\n", {"source": "absent"}, "absent: "),
        (b"a\n", {"source": "de=in.txt"}, "'de=in.txt': "),
        (b"a\n", {"model": "absent"}, "absent: "),
        (b"", {"source": "in.txt"}, "in.txt: "),
        (b"\n \n", {"source": "in.txt"}, "in.txt: "),
        (b"a\n", {"source": "de<=a.txt,en<=in.txt"}, "de<=a.txt,en<=in.txt: "),
        (b"a\n\xff\n", {"source": "in.txt"}, "in.txt, line 2: not UTF-8"),
        (b"a\n", {"num_neighbors": 0}, "--num_neighbors 0: "),
        (b"a\n", {"center_on": "in.txt"}, "invalid --center_on in.txt "),
        (b"a\n", {"center_on": "de<=in.txt,de<=in.txt"}, "invalid --center_on de<=in.txt,de<=in.txt "),
        (b"a\n", {"center_on": "de<=in.txt"}, "--center_on: missing en"),
        (
            b"a\n",
            {"center_on": "de<=in.txt", "source": "in.txt"},
            "--center_on ",
        ),
        (b"a\n", {"layer": 3}, "layer 3 "),
        (b"a\n", {"source": None}, "--source "),
        (b"a\n", {"source": "pairs.txt", "output": "."}, "--output "),
        (b"a\n", {"source": "in.txt", "target": "scores.txt", "output": "."}, "--output "),
    ],
)
def test_reject_bad_input_and_write_no_pairs(run_mining, tmp_path, content, flags, message):
    write_files(tmp_path, dict.fromkeys(("in.txt", "pairs.tsv", "scores.tsv"), content))
    for name in ("pairs", "scores"):
        (tmp_path / f"{name}.txt").symlink_to(f"{name}.tsv")
    assert message in error_of(run_mining, **flags)
    assert not (tmp_path / "mined/pairs.tsv").exists()
