"""ernie-m train: from files of pairs to a model with scores; its commands given alone; interruptions."""

import importlib
import json
import os
import re
import shlex
import signal
from functools import partial
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from ernie_m.__main__ import ALL_COMMANDS
from ernie_m.commands import train
from ernie_m.data import prepare_pairs, train_vocab
from ernie_m.finetune.retrieval import bitext_evaluation, training_plan
from ernie_m.finetune.retrieval.contrastive_training import RetrievalTraining
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.utils.errors import get_command_name
from tests import toys
from tests.helpers.checkpoints import assert_same_weights
from tests.launching import as_flags, call_main, error_of, one_error
from tests.toys import sentences, write_lines

LINES = list(dict.fromkeys(row.text_a for row in toys.labeled_texts(400, seed=3)))


@pytest.fixture
def folder(tmp_path, in_tmp_path, monkeypatch):
    """A folder with pairs of two languages with English: en-de.tsv, and two aligned files."""
    for name, flags in SHORTER.items():
        monkeypatch.setitem(train._COMMANDS, name, partial(shortened, train._COMMANDS[name], as_flags(flags)))
    write_lines(Path("my/en-de.tsv"), [f"{line}\t{line.replace('the', 'a')}" for line in LINES])
    write_lines(Path("my/news.en"), LINES)
    write_lines(Path("my/news.tr"), [line.replace("old", "new") for line in LINES])
    return tmp_path / "my"


def shortened(main, more_words, words):
    main(words + more_words)


MEASURES = ("cosine", "margin")
# Flags that make each command short.
SHORTER = {
    "train_vocab": {"threads": 1, "vocab_size": 200},
    "run_retrieval": {"max_steps": 10, "validation_steps": 4, "learning_rate": 1e-2},
}


def run_train(output, start=None):
    call_main(train, ["my", *as_flags({"output": output, "model": start})])


def read_commands(output):
    """The commands of the steps."""
    return [shlex.split(line)[1:] for line in Path(output, "log/commands.sh").read_text().splitlines()]


def read_scores(output, part=""):
    tables = json.loads(Path(output, part, "retrieval.json").read_text())["tables"]
    return [table["seeds"] for table in tables]


def texts_below_the_header(path):
    return {text for line in path.read_text("utf-8").splitlines()[1:] for text in line.split("\t")}


TRAINS = "--do_train true --train_set output/pairs/train.tsv --loss in_batch_softmax --symmetric true"
# The commands of a run from START, and what it prints of them.
COMMANDS = f"""\
prepare pairs my --output output/pairs --skip_text_checks=False --model START
train_vocab --output output/table/vocab --vocab_size 8000 --hard_vocab_limit false \
--parallel 'de-en<=output/pairs/train/de-en.tsv' --parallel 'tr-en<=output/pairs/train/tr-en.tsv'
run_retrieval --pairs output/pairs/held-out --untrained false --checkpoints output/table {TRAINS} \
--batch_size 66 --learning_rate 0.01 --max_steps 161 --validation_steps 80 --save_steps 80 \
--keep_checkpoints 1 --ernie_config_path configs/table/ernie_config.json \
--piece_model_path output/table/vocab/piece.model --scale 4.4
run_retrieval --pairs output/pairs/held-out --untrained false --checkpoints output/before \
--init_pretraining_params START
run_retrieval --pairs output/pairs/held-out --untrained false --checkpoints output {TRAINS} \
--batch_size 64 --learning_rate 0.001 --max_steps 134 --validation_steps 26 --save_steps 26 \
--keep_checkpoints 1 --init_pretraining_params START
"""
PLAN = """\
pairs  rows  trained  held out  shares a text with these
de-en   399      332        39                        28           my/en-de.tsv
tr-en   399      332        39                        28  my/news.en,my/news.tr

1/4, about 1 min: vocabulary
2/4, about 1 min: static baseline: mean of subword embeddings, trained on 664 pairs
3/4, about 1 min: base model: START on 78 held-out pairs
4/4, about 1 min: fine-tuning: 134 steps of 64 pairs, learning rate 0.001
commands: output/log/commands.sh

[1/4] vocabulary
"""


def test_a_start_is_trained_and_compared_with_a_static_model(folder, random_encoder, capsys):
    """The scores next to a static model, on pairs that are not trained on."""
    run_train("output", random_encoder)
    text = re.sub(" +$", "", capsys.readouterr().out, flags=re.MULTILINE)
    commands = read_commands("output")
    sources = ["my/en-de.tsv", "my/news.en", "my/news.tr"]  # whole paths: two folders may have equal names
    assert list(json.loads(Path("output/train.json").read_text())["files"]) == sources
    name = shlex.quote(get_command_name())
    written = Path("output/log/commands.sh").read_text().replace(str(random_encoder), "START")
    assert re.sub(f"^{re.escape(name)} ", "", written, flags=re.MULTILINE) == COMMANDS
    assert PLAN in text.replace(str(random_encoder), "START")
    assert text.splitlines()[-2:] == [
        "Saved output/best.",
        f"Next: {name} serve --model output/best --corpus FILE",
    ]
    header, *lines = text.partition("accuracy@1 on ")[2].splitlines()[1:5]
    assert header.split() == [
        word for measure in MEASURES for key in ("de", "tr", "avg") for word in (key, measure)
    ]
    parts = {"static baseline": "table", "base model": "before", "fine-tuned": ""}
    for line, (name, part) in zip(lines, parts.items(), strict=True):
        cells = chain.from_iterable(
            next(iter(seeds.values())).values() for seeds in read_scores("output", part)[2:]
        )
        assert line.split() == [*name.split(), *(f"{value:.1f}" for value in cells)]
    trained = texts_below_the_header(Path("output/pairs/train.tsv"))
    for words in commands[2:]:
        searched = list(Path(words[words.index("--pairs") + 1]).iterdir())
        assert len(searched) == 2 and not any(trained & texts_below_the_header(path) for path in searched)
    assert read_scores("output") != read_scores("output", "before")


def ctrl_c_at(step, loss):
    """`Retrieval.loss` that sends Ctrl-C to this process in its `step`-th call."""
    calls = count(1)

    def counted(self, model, batch):
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, model, batch)

    return counted


def interrupt_at_five_moments(monkeypatch):
    """Stop a run five times: before, in and after the training."""

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    moments = [
        (prepare_pairs, "write_json", interrupt),
        (train_vocab, "sample_lines", interrupt),
        *((RetrievalTraining, "loss", ctrl_c_at(step, RetrievalTraining.loss)) for step in (3, 7)),
    ]
    for moment in (*moments, (bitext_evaluation, "write_matches", interrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(*moment)
            with pytest.raises(SystemExit, match="130"):
                run_train("model")


def test_ctrl_c_at_the_end_of_a_step(tmp_path, monkeypatch):
    """No other step begins, although this one is complete."""
    monkeypatch.setitem(train._COMMANDS, "prepare", mock.Mock(side_effect=KeyboardInterrupt))
    step = mock.Mock(words=["prepare"], **{"result.exists.side_effect": [False, True]})
    with pytest.raises(SystemExit, match="130"):
        train.run_step(step)


def test_a_killed_static_training_ends_with_the_same_bits(folder, monkeypatch, capsys):
    """A static model, killed at five moments; the printed commands, given alone, make the same bits."""
    Path("whole").mkdir()
    run_train("whole")
    interrupt_at_five_moments(monkeypatch)
    run_train("model")
    assert capsys.readouterr().err.count("run the same command") == 5
    assert open_checkpoint("model/best").config.is_static
    assert_same_weights(Path("model/best"), Path("whole/best"))
    for words in read_commands("model"):
        program, *flags = [re.sub("(^|<=)model(?=/|$)", r"\1alone", word) for word in words]
        command = importlib.import_module(f"ernie_m.{ALL_COMMANDS[program][0]}")
        call_main(command, [*flags, *as_flags(SHORTER.get(program, {}))])
    assert_same_weights(Path("alone/best"), Path("model/best"))
    assert read_scores("alone") == read_scores("model") == read_scores("whole")
    # It is finished: only the scores are printed again.
    run_train("model")
    assert capsys.readouterr().out.count(": done\n") == 2
    assert error_of(run_train, "further", "model/best").startswith("--model model/best: ")


def command_flags(command):
    """The flags of a command as text."""
    words = [*map(str, command.words[1:])]
    return dict(zip(words[::2], words[1::2]))


def planned(monkeypatch, width, trained, tokens=50):
    """The flags of the training of a base model of a width, on pairs of so many tokens."""
    config = ErnieMConfig(9, width, 12, num_attention_heads=1)
    monkeypatch.setattr(training_plan, "open_checkpoint", lambda _: SimpleNamespace(config=config))
    facts = {"pairs": {"x": {"trained": trained, "held_out": 9}}, "tokens_of_a_pair": tokens}
    return command_flags(training_plan.plan_finetuning(Path("pairs"), Path("out"), "initial", facts)[1])


@pytest.mark.parametrize(("width", "nearest"), [(200, 128), (256, 384), (500, 384), (600, 768)])
def test_plan_learning_rate_for_the_nearest_width(monkeypatch, width, nearest):
    assert planned(monkeypatch, width, 10**6) == planned(monkeypatch, nearest, 10**6)


@pytest.mark.parametrize(
    ("trained", "tokens", "batch_size", "steps"),
    [(10**6, 50, 64, 9000), (10**6, 1024, 8, 9000), (100, 50, 10, 130), (30, 9000, 2, 195), (3, 50, 2, 20)],
)
def test_plan_steps(monkeypatch, trained, tokens, batch_size, steps):
    """At most 64 pairs and 8,192 tokens, and a tenth of the pairs; 20 steps to 13 epochs."""
    flags = planned(monkeypatch, 128, trained, tokens)
    assert (flags["--batch_size"], flags["--max_steps"]) == (str(batch_size), str(steps))
    assert flags["--validation_steps"] == flags["--save_steps"] == str(steps // 5)


@pytest.mark.parametrize(
    ("trained", "batch_size", "steps", "scale"),
    [
        (9, 2, 72, 3.0),
        (100, 10, 160, 3.0),
        (4000, 400, 160, 7.1),
        (16_000, 512, 250, 9.2),
        (10**6, 512, 5860, 15.5),
    ],
)
def test_plan_steps_for_a_static_model(trained, batch_size, steps, scale):
    """16 epochs of up to 4,000 pairs, and down to 3 of more."""
    counts = {"x": {"files": "x.tsv", "trained": trained, "held_out": 9}}
    flags = command_flags(training_plan.plan_static_model(Path("pairs"), Path("out"), counts)[1])
    assert [flags[f"--{name}"] for name in ("batch_size", "max_steps", "scale")] == [
        str(value) for value in (batch_size, steps, scale)
    ]


def test_a_file_without_training_or_held_out_pairs(tmp_path):
    counts = {
        "x": {"files": "en-de<=x.tsv", "trained": 9, "held_out": 0},
        "y": {"files": "en-fr<=y.tsv", "trained": 0, "held_out": 8},
    }
    vocabulary, _ = training_plan.plan_static_model(Path("pairs"), Path("out"), counts)
    assert [word for word in vocabulary.words if "<=" in str(word)] == ["x<=pairs/train/x.tsv"]
    seeds = {"1": {"y": 75.0, "avg": 75.0}}
    table = {"title": "a, b", "direction": "mean of both directions", "measure": "cosine", "seeds": seeds}
    (tmp_path / "retrieval.json").write_text(json.dumps({"tables": [table]}))
    scores = training_plan.format_scores({"static": tmp_path, "a": tmp_path}, counts)
    title, header, first, row = scores.splitlines()
    assert "one pair of x" not in title and "; one pair of y is 12.5" in title
    assert [line.split() for line in (header, first, row)] == [
        ["y", "cosine"],
        ["static", "75.0"],
        ["a", "75.0"],
    ]


def test_train_on_pairs_in_unknown_languages(folder, capsys):
    """They need no name of languages; of such files a table is trained. No side is called English."""
    path = folder / "question-answer.tsv"
    write_lines(path, ["query\tpositive", *(f"{line}?\t{line} is the answer" for line in LINES)])
    call_main(train, [str(path), *as_flags({"output": "answers"})])
    assert open_checkpoint("answers/best").config.is_static
    text = "".join(capsys.readouterr())
    tables = json.loads(Path("answers/retrieval.json").read_text())["tables"]
    directions = [table["direction"] for table in tables[:2]]
    assert directions == ["second side -> first side", "first side -> second side"]
    assert not re.search(r"-en\b|\ben:|\bxx\b", text)
    held_out = len(Path("answers/pairs/held-out/question_answer.tsv").read_text("utf-8").splitlines()) - 1
    assert f"; one pair of question_answer is {100 / held_out:.1f}\n" in text


def refusal(capsys, *arguments, **flags):
    error = one_error(lambda: call_main(train, [*map(str, arguments), *as_flags(flags)]), capsys)
    return error.removeprefix("error: ")


def test_reject_bad_files_and_used_outputs(folder, random_encoder, tmp_path, capsys):
    start = random_encoder
    (tmp_path / "empty").mkdir()
    assert refusal(capsys, "empty", output="new", model=start).startswith("empty: ")
    rows = [f"{a}\t{b}" for a, b in zip(LINES, sentences(len(LINES)))]
    write_lines(tmp_path / "pairs.tsv", ["query\tpositive", *rows])
    write_lines(tmp_path / "one.tsv", ["query\tpositive", "a dog\tein Hund"])
    assert refusal(capsys, "one.tsv", output="new").startswith("one.tsv: ")
    # A language that the start does not have: its letters are not in the vocabulary.
    foreign = [line.translate({ord("a") + n: 0x10D0 + n for n in range(26)}) for line in LINES]
    write_lines(tmp_path / "my.en-ka.tsv", [f"{a}\t{b}" for a, b in zip(LINES, foreign)])
    assert refusal(capsys, "my.en-ka.tsv", output="new", model=start).startswith("my.en-ka.tsv: ")
    # Nothing was begun, so the same output can be taken; one of another program, of other files, or of other
    # options cannot.
    run_train("new", start)
    capsys.readouterr()
    flags = {"output": "new", "model": start}
    for source, options in (("pairs.tsv", {}), ("my", {"encoding": "utf-8"})):
        error = error_of(call_main, train, [source, *as_flags({**flags, **options})])
        assert error.startswith("new: ") and not capsys.readouterr().out
    write_lines(folder / "news.tr", LINES)  # the second of two aligned files
    assert refusal(capsys, "my", **flags).startswith("new: ")
    for output in (start, "my", "pairs.tsv"):
        assert refusal(capsys, "my", output=output, model=start).startswith(f"--output {output} ")
