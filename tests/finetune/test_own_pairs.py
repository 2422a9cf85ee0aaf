"""Sentence vectors from a file of pairs: steps, losses, held-out rows, resume, two processes, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import run_retrieval
from finetune.own_pairs import StepRows, divide
from reader.pairs import PairRows
from reader.tokenization import Tokenizer
from tests.helpers.small_corpus import sentences
from tests.launching import as_flags, call_main, launch, run_script
from utils.errors import UserError

SCRIPT = Path(__file__).with_name("processes_script.py")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """60 rows: query and positive differ in a word; 0, 1 or 2 negatives. Three rows have the same query."""
    lines = list(dict.fromkeys(sentences(200, seed=4)))
    rows = []
    for number in range(60):
        negatives = lines[60 + number : 60 + number + number % 3]
        rows.append([f"{lines[number]} bado", f"{lines[number]} kani", *negatives])
    for number in (20, 40):
        rows[number][0] = rows[0][0]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def flags_of(corpus, pairs, output, **changes):
    values = {
        "do_train": "true",
        "train_set": pairs,
        "checkpoints": output,
        "use_cuda": "false",
        "ernie_config_path": corpus.parent / "still.json",
        "piece_model_path": corpus / "piece.model",
        "vocab_path": corpus / "vocab.txt",
        "max_seq_len": 32,
        "max_steps": 6,
        "batch_size": 8,
        "learning_rate": 5e-3,
        "save_steps": 3,
        "validation_steps": 3,
        "keep_checkpoints": 9,
        "skip_steps": 2,
        "loss": "softmax",
    }
    return as_flags(values | changes)


@pytest.fixture
def train(corpus, pairs, tmp_path, monkeypatch):
    """train(output, **flags) runs in `tmp_path`; returns the log of the run."""
    monkeypatch.chdir(tmp_path)

    def call(output, **changes):
        log = tmp_path / "log" / "job.log.0"
        log.unlink(missing_ok=True)
        call_main(run_retrieval, flags_of(corpus, pairs, tmp_path / output, **changes))
        return log.read_text()

    return call


def steps_of(corpus, pairs, rank=0, world_size=1, teacher=None, batch_size=8, numbers=None):
    rows = PairRows(pairs)
    numbers = np.arange(len(rows)) if numbers is None else numbers
    tokenizer = Tokenizer.from_folder(corpus)
    return StepRows(tokenizer, rows, numbers, batch_size, 32, teacher, 1, rank, world_size)


def texts_of(tokenizer, sentences_of_step):
    return [tuple(ids.tolist()) for ids in sentences_of_step]


def test_a_step_has_no_text_twice_and_all_negatives(corpus, pairs):
    tokenizer = Tokenizer.from_folder(corpus)
    rows = [line.split("\t") for line in pairs.read_text().splitlines()]
    as_ids = [
        tuple(texts_of(tokenizer, tokenizer.sentences(tokenizer.encode_batch(row), 32))) for row in rows
    ]
    read = set()
    for _, step in zip(range(20), steps_of(corpus, pairs)()):
        sentences_of_step = texts_of(tokenizer, step.sentences)
        assert len(set(sentences_of_step)) == len(sentences_of_step)
        negatives = iter(sentences_of_step[16:])
        for source, positive in zip(sentences_of_step[:8], sentences_of_step[8:16]):
            (number,) = (n for n, row in enumerate(as_ids) if row[:2] == (source, positive))
            assert as_ids[number][2:] == tuple(next(negatives) for _ in as_ids[number][2:])
            read.add(number)
        assert next(negatives, None) is None
        assert step.negative.shape == (8, len(sentences_of_step) - 8)
        assert (~step.negative).sum() == 8 and not step.negative[range(8), range(8)].any()
    assert read == set(range(60))


def test_processes_share_a_step(corpus, pairs, tmp_path):
    np.save(tmp_path / "teacher.npy", np.random.default_rng(0).normal(size=(60, 16)))
    options = {"teacher": tmp_path / "teacher.npy"}
    whole = steps_of(corpus, pairs, **options)()
    shares = [steps_of(corpus, pairs, rank, 3, **options)() for rank in range(3)]
    for _, step, *parts in zip(range(3), whole, *shares):
        counts = [part.pair_count for part in parts]
        assert counts == [2, 3, 3]
        joined = []
        for side in (0, 1):
            for part, count in zip(parts, counts):
                joined += part.sentences[side * count : (side + 1) * count]
        for part, count in zip(parts, counts):
            joined += part.sentences[2 * count :]
        assert [ids.tolist() for ids in joined] == [ids.tolist() for ids in step.sentences]
        for part in parts:
            np.testing.assert_array_equal(part.negative, step.negative)
            np.testing.assert_array_equal(part.teacher, step.teacher)
            assert part.position == step.position


def test_the_teachers_rows_are_those_of_the_sources(corpus, pairs, tmp_path):
    tokenizer = Tokenizer.from_folder(corpus)
    vectors = np.random.default_rng(0).normal(size=(60, 16))
    np.save(tmp_path / "teacher.npy", vectors)
    step = next(steps_of(corpus, pairs, teacher=tmp_path / "teacher.npy")())
    rows = [line.split("\t") for line in pairs.read_text().splitlines()]
    for source, positive, vector in zip(step.sentences[:8], step.sentences[8:16], step.teacher):
        (number,) = np.flatnonzero((vectors == vector).all(axis=1))
        expected = tokenizer.sentences(tokenizer.encode_batch(rows[number][:2]), 32)
        assert [ids.tolist() for ids in (source, positive)] == [ids.tolist() for ids in expected]


def test_held_out_rows_have_no_text_that_is_trained_on(pairs):
    rows = PairRows(pairs)
    held_out, trained = divide(rows, 500)
    assert held_out.tolist() == [0, 10, 20, 30, 40, 50]  # a tenth
    texts = {text for number in held_out for text in rows[number][:2]}
    assert len(trained) == 54 and all(texts.isdisjoint(rows[number]) for number in trained.tolist())
    held_out, trained = divide(rows, 1)
    assert held_out.tolist() == [0]
    assert set(range(60)) - set(trained.tolist()) == {0, 20, 40}  # they have the query of row 0
    held_out, trained = divide(rows, 0)
    assert not len(held_out) and len(trained) == 60


@pytest.mark.parametrize(
    "loss", [{}, {"both_directions": "true"}, {"loss": "hardest"}, {"teacher": "teacher.npy"}]
)
def test_it_learns_and_keeps_the_best(train, tmp_path, loss):
    np.save(tmp_path / "teacher.npy", np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32))
    log = train("out", max_steps=40, validation_steps=20, skip_steps=10, **loss)
    losses = [float(loss) for loss in re.findall(r"ave loss: ([\d.]+)", log)]
    assert losses[-1] < 0.8 * losses[0]
    means = {int(s): float(m) for s, m in re.findall(r"found at step (\d+): mean ([\d.]+); pairs.tsv", log)}
    assert list(means) == [0, 20, 40]
    config = json.loads((tmp_path / "out/best/config.json").read_text())
    assert config["reading"] == {"layer": 1, "pooling": "mean"}
    assert "ave loss" not in train(
        "out", max_steps=40, validation_steps=20, skip_steps=10, **loss
    )  # finished


def test_resume_bit_for_bit(train, tmp_path):
    train("one")
    log = train("two", init_checkpoint=tmp_path / "one" / "step_3")
    assert "going on from" in log and "step 3 of 6" in log
    first = load_file(tmp_path / "one/step_6/model.safetensors")
    second = load_file(tmp_path / "two/step_6/model.safetensors")
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    with pytest.raises(UserError, match=r"one holds another run \(.*loss: softmax -> hardest"):
        train("one", loss="hardest")


def test_two_processes_are_one(corpus, pairs, tmp_path):
    np.save(tmp_path / "teacher.npy", np.random.default_rng(0).normal(size=(60, 16)))
    options = {"softmax": {"both_directions": "true"}, "teacher": {"teacher": tmp_path / "teacher.npy"}}
    for processes in (1, 2):
        commands = []
        for name, changes in options.items():
            place = tmp_path / str(processes) / name
            place.mkdir(parents=True)
            exact = {"dtype": "float64", "batch_size": 9, "max_steps": 3, "learning_rate": 1e-3}
            commands.append(["run_retrieval", str(place), flags_of(corpus, pairs, "out", **exact, **changes)])
        (tmp_path / "commands.json").write_text(json.dumps(commands))
        command = [SCRIPT, tmp_path / "commands.json"]
        process = run_script(command, tmp_path) if processes == 1 else launch(command, tmp_path)
        assert process.returncode == 0, process.stderr
    for name in options:
        single, double = (load_file(tmp_path / n / name / "out/step_3/model.safetensors") for n in ("1", "2"))
        for key, value in single.items():
            np.testing.assert_allclose(double[key], value, rtol=0, atol=1e-9, err_msg=key)
        steps = [json.loads((tmp_path / n / name / "steps.0.json").read_text()) for n in ("1", "2")]
        for step, runs in steps[0].items():
            assert steps[1][step][0][0] == pytest.approx(runs[0][0], abs=1e-9)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", {}, "in.tsv: the file is empty"),
        ("a\tb\nalone\n", {}, "in.tsv, line 2: give query, tab, positive, and perhaps further negatives"),
        ("a\tb\t\n", {}, "in.tsv, line 1: give query, tab, positive"),
        ("a\tb\na\tc\n", {}, "in.tsv: too few rows without a text in common for --batch_size 8; lower it"),
        ("a\tb\n", {"train_set": "absent.tsv"}, "absent.tsv: no finished corpus there"),
        ("a\tb\n", {"teacher": "absent.npy"}, "--teacher absent.npy: cannot be read as an .npy file"),
        ("a\tb\n", {"teacher": "in.tsv"}, "--teacher in.tsv: cannot be read as an .npy file"),
        (
            "a\tb\n",
            {"teacher": "x.npy"},
            r"--teacher x.npy: its shape is \[2, 16\]; the rows .* make \[1, 16\]",
        ),
        (
            "a\tb\n",
            {"loss": "hardest", "both_directions": "true"},
            "--both_directions true belongs to --loss soft",
        ),
        ("a\tb\n", {"loss": "mse"}, "--loss mse: it must be hardest or softmax"),
    ],
)
def test_bad_input(train, tmp_path, content, flags, message):
    (tmp_path / "in.tsv").write_text(content)
    np.save(tmp_path / "x.npy", np.zeros((2, 16)))
    with pytest.raises(UserError, match=message):
        train("out", **{"train_set": "in.tsv"} | flags)


def test_a_corpus_has_no_teacher(train, corpus, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 16)))
    with pytest.raises(
        UserError, match="--teacher has a vector for each row of a file: give a .tsv file as --tr"
    ):
        train("out", train_set=corpus, teacher="x.npy")
    assert "ave loss" in train("corpus", train_set=corpus, both_directions="true")
