"""run_mrc.py from start to end: a toy is learned, answers are characters of the text, pairs of languages."""

import json
import sys

import numpy as np
import paddle
import pytest

import run_mrc
from finetune import supervised
from finetune.flags import FinetuneFlags
from finetune.question_answering import OfficialAnswering, QuestionAnswering, language_of_contexts
from model.ernie_m import ErnieMConfig
from reader.batching import Batches
from reader.batching import stream_all as stream
from reader.question_answering import NO_ANSWER
from reader.tokenization import Tokenizer
from tests.finetune import answering_toy as toy
from tests.helpers.batches import padded_batch
from tests.launching import ROOT, run_script
from utils.command_line import parse_args


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A folder with `out/best` of a model that has the English questions by heart, made once."""
    place = tmp_path_factory.mktemp("trained")
    line = toy.flags(folder, place / "out", select_on="en")
    completed = run_script([ROOT / "run_mrc.py", *line], place)
    assert completed.returncode == 0, completed.stderr
    return place


@pytest.fixture
def answer(runner, folder):
    return runner(run_mrc, toy.flags, folder)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_few_questions_are_learned(trained):
    """F1 and exact match 100 on the training questions, and f1 is what selects."""
    results = read_json(trained / "out" / "results.json")
    assert results["metric"] == "f1"
    assert [table["title"].split(",")[0] for table in results["tables"]] == ["f1", "em"]
    assert [table["mean"]["en"] for table in results["tables"]] == [100.0, 100.0]
    assert results["selected"]["1"]["selected_by"] == 100.0


def test_predictions(answer, trained, folder, tmp_path):
    """Every answer and every candidate is found in its text, letter for letter; the best is the gold one."""
    evaluation = {"do_train": "false", "do_val": "false", "init_checkpoint": trained / "out" / "best"}
    answer(**evaluation, do_test="true", test_set=f"{folder}/dev.%s.json", test_save="predicted/%s.json")
    for language in toy.LANGUAGES:
        questions = toy.questions(read_json(folder / f"dev.{language}.json"))
        texts = read_json(tmp_path / "predicted" / f"{language}.json.0.0")
        candidates = read_json(tmp_path / "predicted" / f"nbest_{language}.json.0.0")
        assert list(texts) == list(candidates) == [qa["id"] for _, qa in questions]
        for context, qa in questions:
            answers = candidates[qa["id"]]
            assert 1 < len(answers) <= 20 and answers[0]["text"] == texts[qa["id"]]
            for candidate in answers:
                start = candidate["answer_start"]
                assert (
                    candidate["text"] and context[start : start + len(candidate["text"])] == candidate["text"]
                )
            sums = [candidate["start_logit"] + candidate["end_logit"] for candidate in answers]
            assert sums == sorted(sums, reverse=True)
            assert sum(candidate["probability"] for candidate in answers) == pytest.approx(1, abs=1e-4)
            if language == "en":
                assert texts[qa["id"]] == qa["answers"][0]["text"]


def make_task(folder, kind=QuestionAnswering, **changes) -> QuestionAnswering:
    args = parse_args(FinetuneFlags, toy.flags(folder, folder, **changes))
    return kind.from_flags(args, Tokenizer(None, folder / "piece.model"))


def batches(task, path, purpose, size=100):
    (parts,) = [Batches(task.read(path, purpose), task.encode, size, shuffle=False)]
    return [batch for _, step in stream([parts]) for batch in step.micro_batches]


@pytest.fixture
def model(folder):
    paddle.seed(3)
    return make_task(folder).make_model(ErnieMConfig.from_dict(toy.CONFIG))


def test_the_loss_by_hand(folder, model):
    """Mean of start and end over windows; no padding in it; a window without the answer adds nothing."""
    task = make_task(folder, max_seq_len=40, max_query_length=8, doc_stride=12)
    model.eval()
    (batch,) = batches(task, folder / "dev.de.json", "dev")
    assert 0 < (batch.answers[:, 0] == NO_ANSWER).sum() < len(batch.answers)
    lengths = batch.ends + 1
    assert lengths.min() < lengths.max()
    with paddle.no_grad():
        logits = [x.numpy().astype(np.float64) for x in model(padded_batch(batch.input_ids))]
        loss, sums = task.loss(model, *task.send_batches(model, [batch]))
        _, evaluated = task.predict(model, batch, labelled=True)
    expected, right = 0.0, 0
    for row, length in enumerate(lengths):
        if batch.answers[row, 0] != NO_ANSWER:
            for which, place in zip(logits, batch.answers[row]):
                expected += (np.log(np.exp(which[row, :length]).sum()) - which[row, place]) / 2
            best = [which[row, :length].argmax() for which in logits]
            right += best == batch.answers[row].tolist()
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(expected / batch.count, rel=1e-5)
    assert (int(sums["correct"]), sums["count"]) == (right, len(lengths))


def test_what_official_compat_trains(folder, model):
    """Windows without the answer are trained to (0, 0), in the order of the file."""
    flags = {"max_seq_len": 40, "max_query_length": 8, "doc_stride": 12}
    task, official = make_task(folder, **flags), make_task(folder, OfficialAnswering, **flags)
    path = folder / "dev.de.json"
    (batch,) = batches(official, path, "train")
    assert len(task.read(path, "train")) == (batch.answers[:, 0] > 0).sum()
    zeros = (batch.answers == 0).all(1)
    assert zeros.sum() > 0 and batch.indices.tolist() == list(range(len(zeros)))
    with paddle.no_grad():
        _, loss = official.predict(model, batch, labelled=True)
        _, less = task.predict(model, batches(task, path, "train")[0], labelled=True)
    assert loss > less


def test_official_compat_does_not_shuffle(monkeypatch, folder):
    calls = []
    monkeypatch.setattr(
        supervised, "fine_tune", lambda task, flags, stop: calls.append((flags.shuffle, task))
    )
    for value in ("true", "false"):
        monkeypatch.setattr(sys, "argv", ["run_mrc.py", *toy.flags(folder, folder, official_compat=value)])
        run_mrc.main()
    assert calls == [(False, OfficialAnswering), (True, QuestionAnswering)]


def test_pairs_of_languages(answer, trained, folder, tmp_path):
    """G-XLT: the languages of contexts and questions are one key. Two of the files are known by heart."""
    (tmp_path / "pairs.json").write_text('{"en-en": 0, "en-de": 1, "de-de": 2}')
    results = answer(
        do_train="false",
        init_checkpoint=trained / "out" / "best",
        dev_set=f"{folder}/pair-%s.json",
        lang_map_config="pairs.json",
    )
    for table in results["tables"]:
        assert (table["mean"]["en-en"], table["mean"]["de-de"]) == (100.0, 100.0)
        assert table["mean"]["en-de"] < 50


def test_bad_flags(answer, refusal):
    assert "64 leaves no room for a context" in refusal(answer, max_seq_len=64, max_query_length=64)
    assert "absent.json: cannot be read" in refusal(answer, train_set="absent.json")
    assert "--doc_stride 0: it must be at least 1" in refusal(answer, doc_stride=0)


def test_the_language_is_that_of_the_contexts():
    languages = [language_of_contexts(language) for language in ("zh", "zh-de", "en-zh", "all")]
    assert languages == ["zh", "zh", "en", "en"]
