"""ernie-m mine_hard_negatives: equal to a brute-force search, its rows train, bad input."""

import hashlib
import sys

import numpy as np
import pytest

from ernie_m.commands import mine_hard_negatives
from ernie_m.finetune.retrieval import mine_hard_negatives as mining
from ernie_m.finetune.retrieval.encoder import make_encoder
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import normalize_vectors
from tests import toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.launching import as_flags, call_main, error_of
from tests.toys import write_lines

ROWS = 40
LINES = 100  # distinct lines of the corpus next to the texts of the rows


@pytest.fixture
def rows():
    """40 rows: rows 7 and 30 have the query of row 0; every third row has a negative."""
    rng = np.random.default_rng(2)
    drawn = dict.fromkeys(toys.text_with(rng, str(rng.choice(["cat", "tea", "saw"]))) for _ in range(400))
    texts = list(drawn)[: 3 * ROWS]
    rows = [texts[3 * n : 3 * n + (3 if n % 3 == 0 else 2)] for n in range(ROWS)]
    for number in (7, 30):
        rows[number][0] = rows[0][0]
    return rows


@pytest.fixture
def lines(rows):
    """The corpus: other texts, the query that rows 0, 7 and 30 share and their positives, all negatives."""
    rng = np.random.default_rng(3)
    drawn = dict.fromkeys(toys.text_with(rng, str(rng.choice(["dog", "milk", "axe"]))) for _ in range(400))
    given_negatives = [negative for row in rows for negative in row[2:]]
    return list(drawn)[:LINES] + rows[0][:2] + [rows[7][1], rows[30][1], *given_negatives]


@pytest.fixture
def mine_rows(rows, lines, random_encoder, tmp_path, in_tmp_path, monkeypatch):
    """mine_rows(**flags) runs ernie-m mine_hard_negatives in `tmp_path` and returns its rows.

    The corpus has blank lines, lines that are equal to earlier ones, and a tab in its third line.
    """
    monkeypatch.setattr(mining, "PART_LINES", 32)
    monkeypatch.setattr(mining, "PART_ROWS", 16)
    write_lines(tmp_path / "pairs.tsv", ["query\tpositive\tnegative", *map("\t".join, rows)])
    third = lines[2].replace(" ", "\t")
    write_lines(tmp_path / "corpus.txt", ["", *lines[:2], third, " ", f" {lines[0]} ", *lines[3:], lines[5]])

    def call(**changes):
        flags = {
            "train_set": "pairs.tsv",
            "corpus": "corpus.txt",
            "model": random_encoder,
            "output": "out",
            "max_seq_len": 32,
        } | changes
        call_main(mine_hard_negatives, as_flags(flags))
        text = (tmp_path / flags["output"] / "negatives.tsv").read_text(encoding="utf-8")
        header, *rows = [line.split("\t") for line in text.splitlines()]
        assert header[0] in ("query", "source") and set(header[2:]) <= {"negative"}
        return rows

    return call


@pytest.fixture
def encoded(monkeypatch):
    """Replaces the encoder by a random embedding for each text, and collects the texts that are encoded."""
    texts_encoded = []

    def encode(texts, kind):
        texts_encoded.extend(texts)
        return embed(texts)

    monkeypatch.setattr(mining, "make_encode_function", lambda *arguments: encode)
    return texts_encoded


def embed(texts):
    """A random embedding of each text, float32 [N, 6]; its length is not 1."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
    return np.array([np.random.default_rng(seed).normal(size=6) for seed in seeds], np.float32)


def by_brute_force(
    rows, lines, num_negatives=3, range_min=0, range_max=100, relative_margin=0.05, embed=embed
):
    """The rows with their negatives, by the rule of the manual, from all cosines in float64."""
    line_vectors = normalize_vectors(embed(lines)).astype(np.float64)
    positives_of = {query: [row[1] for row in rows if row[0] == query] for query, *_ in rows}
    most = max(map(len, positives_of.values()))
    written = []
    for row in rows:
        query, *positives = normalize_vectors(embed([row[0], *positives_of[row[0]]])).astype(np.float64)
        lowest = min(query @ positive for positive in positives)
        cosines = line_vectors @ query
        is_far = cosines <= lowest - relative_margin * abs(lowest)
        nearest = [lines[line] for line in np.argsort(-cosines)[: range_max + most] if is_far[line]]
        candidates = [line for line in nearest if line not in {*row, *positives_of[row[0]]}]
        written.append(row + candidates[range_min:][:num_negatives])
    return written


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"relative_margin": 0.5, "num_negatives": 5, "range_max": 30},
        {"relative_margin": 0, "range_max": 1000, "num_negatives": 1000},  # all lines below the limit
        {"range_min": 4, "range_max": 60, "num_negatives": 1},
        {"range_min": 57, "range_max": 60, "relative_margin": 0},  # the smallest range for three negatives
    ],
)
def test_mined_negatives_equal_brute_force(mine_rows, encoded, rows, lines, capsys, flags):
    """The log says how many rows have how many, and warns if most have none."""
    expected = by_brute_force(rows, lines, **flags)
    counts = [len(with_negatives) - len(row) for with_negatives, row in zip(expected, rows)]
    assert len({*counts}) > 1  # the rows differ in what they find
    assert mine_rows(**flags) == expected
    count = sum(map(bool, counts))
    _, _, report = capsys.readouterr().out.partition("wrote negatives: ")
    assert report.startswith(f"{sum(counts):,} for {count} of {ROWS} rows, to out/negatives.tsv. ")
    assert ("fewer than half of the rows" in report) == (count < ROWS / 2)


def test_rows_with_ids_and_names(mine_rows, rows, lines, tmp_path):
    """Ids are not texts, and the file with the negatives names its columns like the one it was made of."""
    pairs = [row[:2] for row in rows]
    write_lines(tmp_path / "pairs.tsv", [f"{n}\t{a}\t{b}" for n, (a, b) in enumerate(pairs)])
    without_given = mine_rows(columns="2,3")
    assert [row[:2] for row in without_given] == pairs
    write_lines(tmp_path / "pairs.tsv", ["answer\tquestion", *(f"{b}\t{a}" for a, b in pairs)])
    assert mine_rows(columns="question,answer") == without_given
    assert PairRows("out/negatives.tsv").with_negatives == sum(len(row) > 2 for row in without_given)


def test_the_vectors_are_those_of_the_layer_and_the_pooling(mine_rows, rows, lines, random_encoder, tmp_path):
    """They are given, or those with which the model was trained."""
    written = mine_rows(layer=2, pooling="mean", num_negatives=1, relative_margin=0)
    tokenizer = Tokenizer.from_folder(random_encoder)
    checkpoint = open_checkpoint(random_encoder)
    encoder = PaddleEncoder(make_encoder(checkpoint.config, checkpoint), "mean", layer=2)

    def embed(texts):
        return encoder.encode(tokenizer.build_sentence_inputs(tokenizer.encode_batch(texts), 32))

    flags = {"num_negatives": 1, "relative_margin": 0}
    assert written == by_brute_force(rows, lines, **flags, embed=embed)
    trained = changed_copy(
        random_encoder, tmp_path / "trained", task="retrieval", pipeline=stored(layer=2, pooling="mean")
    )
    again = {"model": trained, "output": "again"}
    assert mine_rows(**again, **flags) == written != mine_rows(layer=1, **again, **flags)


@pytest.mark.parametrize(
    ("files", "flags", "message"),
    [
        ({"corpus.txt": ""}, {}, "corpus.txt: "),
        ({"corpus.txt": "\n \n"}, {}, "corpus.txt: "),
        ({"corpus.txt": b"a\n\xff\n"}, {}, "corpus.txt, line 2: not UTF-8"),
        ({"pairs.tsv": "query\tpos\na\tb\nalone\n"}, {}, "pairs.tsv, line 3: "),
        ({}, {"corpus": "absent.txt"}, "absent.txt: "),
        ({}, {"train_set": None}, "--train_set "),
        ({}, {"train_set": "."}, ".: "),
        (
            {"negatives.tsv": "query\tpositive\na\tb\n"},
            {"train_set": "negatives.tsv", "output": "."},
            "--output .: ",
        ),
        ({}, {"range_min": 98}, "--range_min 98 and --range_max 100: "),
        ({}, {"range_min": -1}, "--range_min -1: "),
        ({}, {"num_negatives": 0}, "--num_negatives 0: "),
        ({}, {"relative_margin": 1.5}, "--relative_margin 1.5: "),
        ({}, {"relative_margin": -0.1}, "--relative_margin -0.1: "),
        ({}, {"layer": "sweep"}, "layer sweep "),
    ],
)
def test_reject_bad_input_and_write_nothing(mine_rows, tmp_path, files, flags, message):
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    assert message in error_of(mine_rows, **flags)
    assert not (tmp_path / "out/negatives.tsv").exists()


def test_faiss_is_missed_before_the_texts_are_encoded(mine_rows, encoded, monkeypatch):
    """It is missed before the texts are encoded."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install faiss-cpu" in error_of(mine_rows)
    assert not encoded
