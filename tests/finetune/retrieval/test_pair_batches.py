"""run_retrieval.py with a file of pairs: what a step reads, learning, resume, two processes, bad input."""

import re
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from ernie_m.finetune.retrieval.pair_batches import CorpusPairBatches, PairFileBatches
from ernie_m.finetune.retrieval.split_pairs import DedupedPairs, hold_out_rows, select_training_rows
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.pipeline_config import PipelineConfig, TextKind
from ernie_m.reader.equal_texts import hash_texts
from ernie_m.reader.files.pairs import PairRows
from tests import command_lines
from tests.finetune.processes import assert_close, in_order, losses, start
from tests.helpers.checkpoints import change_config, changed_copy, stored
from tests.launching import error_of
from tests.toys import sentences, write_lines

ROWS = 60
BATCH = 8
HEADER = ["query", "positive", "negative", "negative"]
MAX_SEQ_LEN = 32


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of 60 rows: query and positive differ in a word; 0, 1 or 2 negatives.

    LabeledDataset 0, 20 and 40 have the same query.
    """
    lines = list(dict.fromkeys(sentences(200, seed=4)))  # each once
    unused = iter(lines[ROWS:])
    rows = [[f"{lines[n]} bado", f"{lines[n]} kani", *islice(unused, n % 3)] for n in range(ROWS)]
    for number in (20, 40):
        rows[number][0] = rows[0][0]
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.tsv", rows)


def write_pairs(path, rows):
    """Write rows below a header; negatives at the end of a row may be missing."""
    return Path(write_lines(path, map("\t".join, [HEADER, *rows])))


@pytest.fixture
def flags(corpus, pairs):
    """Flags of a training on the file, without dropout."""
    return {
        "train_set": pairs,
        "ernie_config_path": corpus.parent / "without_dropout.json",
        "loss": "in_batch_softmax",
    }


@pytest.fixture
def train(train_on_pairs, flags):
    """train(out, **flags) runs in `tmp_path`; returns the log of the run."""
    return lambda out, **changes: train_on_pairs(out, **(flags | changes))


def make_steps(tokenizer, pairs, first_row=0, held_out=()):
    """The steps of the rows from `first_row` on.

    What is returned is a function without arguments; it returns an endless iterator.
    """
    keys_of = partial(hash_texts, tokenizer=tokenizer, max_length=MAX_SEQ_LEN - 2)
    rows = DedupedPairs.from_rows(PairRows(pairs), keys_of)
    return PairFileBatches(
        tokenizer=tokenizer,
        rows=rows,
        numbers=np.arange(first_row, len(rows.keys)),
        held_out=frozenset(keys_of(held_out).tolist()),
        batch_size=BATCH,
        max_seq_len=MAX_SEQ_LEN,
        seed=1,
    )


def divided(pairs, validation_pairs, seed):
    rows = DedupedPairs.from_rows(PairRows(pairs), hash_texts)
    held_out = hold_out_rows(rows, validation_pairs, seed)
    keys, (trained,) = select_training_rows([rows], [held_out])
    return held_out, keys, trained


def rows_as_ids(tokenizer, pairs):
    """For each row of the file the ids of its texts as tuples: query, positive, negatives."""
    texts = [tokenizer.encode_batch(line.split("\t")) for line in pairs.read_text().splitlines()[1:]]
    return [as_tuples(tokenizer.build_sentence_inputs(ids, MAX_SEQ_LEN)) for ids in texts]


def as_tuples(sentences_of_step):
    """Arrays of ids as tuples, which can be compared and be keys."""
    return [tuple(ids.tolist()) for ids in sentences_of_step]


def test_a_step_has_no_text_twice_and_all_negatives(tokenizer, pairs):
    rows = rows_as_ids(tokenizer, pairs)
    number_of_pair = {(query, positive): number for number, (query, positive, *_) in enumerate(rows)}
    numbers_read = set()
    for step in islice(make_steps(tokenizer, pairs, first_row=20)(), 20):  # those before are held out
        inputs = as_tuples(step.sentences)  # 8 queries, 8 positives, then the negatives of all 8 rows
        assert len(set(inputs)) == len(inputs)
        negatives = []
        for query, positive in zip(inputs[:BATCH], inputs[BATCH : 2 * BATCH]):
            number = number_of_pair[query, positive]
            negatives += rows[number][2:]
            numbers_read.add(number)
        assert inputs[2 * BATCH :] == negatives
        # All candidates but its positive are negatives of a query.
        np.testing.assert_array_equal(step.negative, ~np.eye(BATCH, BATCH + len(negatives), dtype=bool))
    assert numbers_read == set(range(20, ROWS))


def test_a_step_has_no_negative_that_is_a_text_in_it(tokenizer, tmp_path):
    """Each row has the positive of the next row as its negative, so neighbors are never in one step."""
    texts = list(dict.fromkeys(sentences(60, seed=4)))[:40]
    rows = [[texts[i], texts[20 + i], texts[20 + (i + 1) % 20]] for i in range(20)]
    steps = make_steps(tokenizer, write_pairs(tmp_path / "pairs.tsv", rows))
    for step in islice(steps(), 20):
        assert len(step.sentences) == len(set(as_tuples(step.sentences))) == 3 * BATCH


def test_processes_share_a_step(corpus, tokenizer, pairs):
    """Of 8 rows or pairs of a corpus the three processes encode 2, 3 and 3: queries, positives, negatives."""
    of_rows = make_steps(tokenizer, pairs)
    shared = {"tokenizer": tokenizer, "batch_size": BATCH, "max_seq_len": MAX_SEQ_LEN, "seed": 1}
    for steps in (of_rows, CorpusPairBatches(path=str(corpus), alpha=0.7, **shared)):
        steps_of_processes = [replace(steps, rank=rank, world_size=3)() for rank in range(3)]
        for step, *fractions in zip(islice(steps(), 4), *steps_of_processes):
            assert [share.pair_count for share in fractions] == [2, 3, 3]
            for share in fractions:
                np.testing.assert_array_equal(share.negative, step.negative)
                assert share.position == step.position
            assert as_tuples(in_order(fractions)) == as_tuples(step.sentences)


def test_held_out_rows_have_no_text_that_is_trained_on(pairs):
    """The seed decides which rows are held out, and none more often than others."""
    rows = PairRows(pairs)
    counts = np.zeros(ROWS, int)
    for seed in range(100):
        held_out, keys, trained = divided(pairs, 500, seed)
        assert len(set(held_out)) == 6  # at most a tenth, however many are asked for
        counts[held_out] += 1
        texts = {text for number in held_out for text in rows[number][:2]}
        assert keys == {*hash_texts(texts).tolist()}
        assert trained.tolist() == [number for number in range(ROWS) if texts.isdisjoint(rows[number][:2])]
    assert counts.min() > 0 and counts.max() < 25  # 10 on average
    assert divided(pairs, 500, seed=99)[0] == held_out
    assert divided(pairs, 0, seed=1)[2].tolist() == [*range(ROWS)]


def test_too_few_pairs_for_a_selection(train, pairs, tmp_path):
    """Of 9 pairs none is held out: the log says so, unless no selection was asked for."""
    few = write_pairs(tmp_path / "few.tsv", [[f"{letter} bado", f"{letter} kani"] for letter in "abcdefghi"])
    changes = {"train_set": few, "max_steps": 1, "batch_size": 2}
    said = [line for line in train("selected", **changes).splitlines() if "too few" in line]
    assert len(said) == 1 and str(few) in said[0] and "--validation_pairs 0" in said[0]
    assert "too few" not in train("last", validation_pairs=0, **changes)


def test_rows_with_a_held_out_positive_are_not_trained_on(tmp_path):
    """The next rows have the positive of the held-out row, as a positive and as the query.

    The one after these has it as a negative: it is trained on, without this negative.
    """
    rows = [[f"{letter} bado", f"{letter} kani"] for letter in "abcdefghij"]
    path = write_pairs(tmp_path / "pairs.tsv", rows)
    (number,) = divided(path, 1, seed=1)[0]
    neighbors = [(number + distance) % 10 for distance in range(1, 4)]
    rows[neighbors[0]][1] = rows[number][1]
    rows[neighbors[1]][0] = rows[number][1]
    rows[neighbors[2]].append(rows[number][1])
    write_pairs(path, rows)
    held_out, keys, trained = divided(path, 1, seed=1)
    assert held_out == [number] and keys == {*hash_texts(rows[number]).tolist()}
    assert set(range(10)) - set(trained.tolist()) == {number, *neighbors[:2]}


def test_texts_that_differ_in_bytes_alone(tokenizer, tmp_path):
    """Each positive stands twice, in other bytes: its rows are never in two parts, nor in one step."""
    texts = list(dict.fromkeys(sentences(120, seed=4)))[:90]
    positives = [text.replace(" ", "\u00a0 ").replace("a", "ａ") for text in texts[:30]]
    path = write_pairs(tmp_path / "pairs.tsv", zip(texts[30:], texts[:30] + positives))
    held_out, _, trained = divided(path, 6, seed=1)
    assert len(held_out) == 6 and not {number % 30 for number in held_out} & set(trained % 30)
    for step in islice(make_steps(tokenizer, path)(), 20):
        assert len(set(as_tuples(step.sentences))) == 2 * BATCH


# Rows of query, positive and negative, in which b is a right answer of q; and of these negatives that are.
KNOWN_ANSWERS = {
    "own negative": (["q a b", "q b n"], 1),
    "equal to its query or positive": (["q a q", "q b b"], 2),
    "negative of another row": (["q a n", "q b m", "p c b"], 0),
    "answer of another row": (["q a n", "q b m", "p b o"], 0),
}


@pytest.mark.parametrize(("forms", "left_out"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_known_answers_are_not_negatives(tokenizer, tmp_path, forms, left_out):
    """Among 9 texts of each letter; a negative is written with another space."""
    texts = iter(dict.fromkeys(sentences(300, seed=4)))
    lines = ["query\tpositive\tnegative"]
    for _ in range(9):
        text_of = {letter: f"bado {next(texts)}" for letter in "qpabcnmo"}
        for query, positive, negative in map(str.split, forms):
            other_bytes = text_of[negative].replace(" ", "\u00a0", 1)
            lines.append(f"{text_of[query]}\t{text_of[positive]}\t{other_bytes}")
    path = Path(write_lines(tmp_path / "pairs.tsv", lines))
    right = {}  # the ids of a query -> those of its positives
    for query, positive, _ in rows_as_ids(tokenizer, path):
        right.setdefault(query, {query}).add(positive)
    steps = make_steps(tokenizer, path)
    assert steps.rows.false_negatives == 9 * left_out
    masked = 0
    for step in islice(steps(), 20):
        inputs = as_tuples(step.sentences)
        queries, candidates = inputs[:BATCH], inputs[BATCH:]
        expected = [[candidate not in right[query] for candidate in candidates] for query in queries]
        np.testing.assert_array_equal(step.negative, expected)
        masked += step.negative.size - step.negative.sum() - BATCH
    assert (masked > 0) == (not left_out)


def test_a_held_out_text_is_no_negative(tokenizer, pairs):
    """Row 1 has one negative and row 2 has two, of which the first is held out."""
    (_, _, left_out), (_, _, removed, _) = [row.split("\t") for row in pairs.read_text().splitlines()[2:4]]
    ids = rows_as_ids(tokenizer, pairs)
    steps = islice(make_steps(tokenizer, pairs, held_out=[left_out, removed])(), 20)
    read = {text for step in steps for text in as_tuples(step.sentences)}
    assert {text for row in ids for text in row} - read == {ids[1][2], ids[2][2]}


@pytest.mark.parametrize("side", [0, 1])
def test_held_out_pairs_with_the_same_positive(train, tmp_path, side):
    """Each of them is right, in both directions; so it is with the same query. A line warns of this."""
    texts = list(dict.fromkeys(sentences(400, seed=4)))[:160]
    rows = [[texts[2 * number], texts[2 * number + 1]] for number in range(80)]
    for number in divided(write_pairs(tmp_path / "in.tsv", rows), 8, seed=1)[0]:
        rows[number][side] = texts[side]
    write_pairs(tmp_path / "in.tsv", rows)
    log = train("out", train_set="in.tsv", max_steps=1)
    # Row 0 or 1, whose text they have, is not trained on, unless it is one of them.
    counts = re.search(r"in.tsv: (\d+) training rows, 8 validation rows; dropped (\d) rows that", log)
    assert counts.groups() in (("72", "0"), ("71", "1"))
    assert "accuracy@1: 100.00 (step 0)\n" in log and "in.tsv: of 8 pairs, 8 have equal sides" in log


def test_two_aligned_files_decide_a_run(train, tmp_path):
    """With other lines in the second one it is another run. A warning names the bitext with some of them."""
    lines = list(dict.fromkeys(sentences(60, seed=4)))[:20]
    flags = {"train_set": "en.txt,de.txt", "max_steps": 1, "batch_size": 2, "pairs": tmp_path}
    write_lines(tmp_path / "de-en.tsv", ["mo mo\tlo lo", "lo mo\tmo lo"])
    write_lines(tmp_path / "fr-en.tsv", [f"{lines[0]}\tmo lo mo", f"lo lo mo\t{lines[10]}"])
    write_lines(tmp_path / "en.txt", lines[:10])
    write_lines(tmp_path / "de.txt", lines[10:])
    log = train("out", **flags)
    assert re.findall(r"(\S+): (\d+ of \d+) sentences have a text of the tr", log) == [("fr-en", "2 of 4")]
    write_lines(tmp_path / "de.txt", lines[:9:-1])
    assert "train_set: " in error_of(train, "out", **flags)


def test_texts_that_teach_nothing(train, tmp_path):
    """Unknown words alone are refused."""
    signs = [f"{chr(0x16A0 + n)}{chr(0x16A0 + m)}" for n in range(5) for m in range(4)]
    write_pairs(tmp_path / "unknown.tsv", [[sign, sign + sign] for sign in signs])
    changes = {"max_steps": 1, "batch_size": 2}
    assert error_of(train, "unknown", train_set="unknown.tsv", **changes).startswith("unknown.tsv: ")


@pytest.mark.slow
def test_two_processes_are_one(corpus, flags, tmp_path):
    """The same losses and weights."""
    # The batch is that of all processes: of 9 rows two processes encode 4 and 5.
    exact = {"dtype": "float64", "batch_size": 9, "max_steps": 3, "learning_rate": 1e-3, "symmetric": "true"}
    line = command_lines.retrieval(corpus, "out", **(flags | exact))
    single, double = folders = [tmp_path / "1", tmp_path / "2"]
    for processes, directory in enumerate(folders, 1):
        directory.mkdir()
        start(tmp_path, [("run_retrieval", directory, line)], processes)
    assert_close(single / "out/step_3/model.safetensors", double / "out/step_3/model.safetensors")
    assert len(losses(double)) == 3 and losses(double) == pytest.approx(losses(single), abs=1e-9)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", {}, "in.tsv: "),
        ("a\tb\nalone\n", {}, "in.tsv, line 1: "),
        ("query\tpositive\na\tb\nalone\n", {}, "in.tsv, line 3: "),
        ("query\tpositive\tnegative\na\tb\t\n", {}, "in.tsv: "),  # one row, without a negative
        ("query\tpositive\na\tb\nc\t \n", {}, "in.tsv, line 3: "),
        ("query\tpositive\na\tb\n\td\n", {}, "in.tsv, line 3: "),
        ("query\tpositive\tnegative\na\tb\tc\nd\t\te\n", {}, "in.tsv, line 3: "),
        (
            "query\tpositive\na\tb\na\tc\n",
            {},
            "in.tsv: too few rows without a common text for --batch_size 8 ('a'",
        ),
        ("a\tb\n", {"train_set": "absent.tsv"}, "absent.tsv: "),
        (
            "a\tb\n",
            {"loss": "hardest_negative_bce", "symmetric": "true"},
            "--symmetric true requires --loss in_batch",
        ),
        ("a\tb\n", {"loss": "mse"}, "--loss mse: "),
    ],
)
def test_reject_bad_input_and_name_its_place(train, tmp_path, content, flags, message):
    (tmp_path / "in.tsv").write_text(content)
    assert message in error_of(train, "out", **{"train_set": "in.tsv"} | flags)


def test_training_keeps_the_pooling_of_its_initial_checkpoint(train, corpus, pairs, tmp_path):
    """Pooling, layer and length 1, and the prompts that stood before its texts."""
    train("first", max_steps=1)
    prompts = {"query": "kani bado ", "passage": "kofo "}
    pipeline_config = PipelineConfig(
        text_rules="none", pooling="cls", layer=2, normalize=True, prompts=prompts, default_prompt="query"
    )
    start = changed_copy(
        tmp_path / "first/best", tmp_path / "initial", pipeline=stored(**pipeline_config.to_json())
    )
    flags = {"init_pretraining_params": start, "ernie_config_path": None, "piece_model_path": None}
    rows = [line.split("\t") for line in pairs.read_text().splitlines()[1:]]
    prompted = [[query, f"kofo {positive}"] for query, positive, *_ in rows]
    log = train("second", **flags, max_steps=1, train_set=write_pairs(tmp_path / "prompted.tsv", prompted))
    assert "prompted.tsv: most texts already begin with the prompt 'kofo '" in log
    assert open_checkpoint(tmp_path / "second/best").pipeline_config == pipeline_config
    change_config(start, pipeline=stored(**replace(pipeline_config, prompts={"query": "kani "}).to_json()))
    assert "prompts: " in error_of(train, "second", **flags, max_steps=1, train_set="prompted.tsv")
    change_config(start, pipeline=stored(**pipeline_config.to_json()))
    train("third", **flags, max_steps=1, pooling="mean", layer="1")
    assert open_checkpoint(tmp_path / "third/best").pipeline_config == replace(
        pipeline_config, pooling="mean", layer=1
    )
    # Translations are neither queries nor documents. A search afterwards puts what stood before them.
    (tmp_path / "en-de.tsv").write_bytes(pairs.read_bytes())
    train("fourth", **flags, max_steps=1, train_set="en-de.tsv")
    recorded = open_checkpoint(tmp_path / "fourth/best").pipeline_config
    assert [recorded.get_prompt(kind) for kind in get_args(TextKind)] == ["kani bado "] * 3
    # A corpus has ids of texts, without prompts; it was cut by the rules of ERNIE-M.
    pipeline_config = replace(pipeline_config, text_rules="ernie-m")
    flags["init_pretraining_params"] = changed_copy(
        start, tmp_path / "other", pipeline=stored(**pipeline_config.to_json())
    )
    train("fifth", **flags, max_steps=1, train_set=corpus)
    assert open_checkpoint(tmp_path / "fifth/best").pipeline_config == replace(
        pipeline_config, prompts={}, default_prompt=None
    )


def test_the_prompts_stand_before_every_text(tokenizer, pairs):
    """One before a query, another before positives and negatives."""
    steps = make_steps(tokenizer, pairs)
    plain = next(steps())
    prompted = replace(steps, prompts=("kani bado ", "kofo "))
    beginnings = [tokenizer.build_inputs(prompt)[:-1] for prompt in ("kani bado", "kofo")]
    for number, (ids, without) in enumerate(zip(next(prompted()).sentences, plain.sentences, strict=True)):
        beginning = beginnings[number >= BATCH]
        assert ids.tolist()[: len(beginning)] == beginning
        rest = ids.tolist()[len(beginning) : -1]
        assert rest == without.tolist()[1 : 1 + len(rest)]
