"""run_mrc.py from start to end: it learns a toy, its answers are parts of the text, pairs of languages."""

import json
import shutil
from contextlib import chdir
from dataclasses import replace

import numpy as np
import paddle
import pytest

from ernie_m.commands import run_mrc
from ernie_m.finetune.eval_mlqa import resolve_rules_language
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.mrc import QuestionAnswering
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.ernie import ErnieMConfig
from ernie_m.model.heads import SpanClassifier
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.reader.batching import Batches
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.args import parse_options
from tests import command_lines, toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.helpers.files import write_files
from tests.launching import call_main, read_log


@pytest.fixture(scope="module")
def folder(answering_folder):
    return answering_folder


@pytest.fixture(scope="module")
def trained(folder, module_folder):
    """A folder with `out/best` of a model that has the English questions by heart, made once."""
    with chdir(module_folder):
        call_main(
            run_mrc, command_lines.answering(folder, module_folder / "out", select_on="en", max_steps=150)
        )
    return module_folder


@pytest.fixture
def answer(runner, folder):
    """answer(**flags): run run_mrc.py on the toy's files; returns results.json."""
    return runner(run_mrc, command_lines.answering, folder)


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_answers_and_candidates_stand_in_the_text(answer, trained, folder, tmp_path):
    """They are there letter for letter. To a question that the model knows the best one is the gold one.

    So F1 and exact match, of which F1 selects the best step, are 100 on the training questions.
    """
    results = read_json(trained / "out" / "results.json")
    scores = {table["title"].split(",")[0]: table["mean"]["en"] for table in results["tables"]}
    assert (scores, results["selected"]["1"]["selected_by"]) == ({"f1": 100, "em": 100}, 100)
    answer(
        do_train="false",
        do_val="false",
        init_checkpoint=trained / "out" / "best",
        do_test="true",
        test_set=f"{folder}/dev.%s.json",
        test_save="predicted/%s.json",
    )
    for language in toys.LANGUAGES[:2]:
        questions = toys.questions(read_json(folder / f"dev.{language}.json"))
        # The names end with epoch 0 and step 0, because nothing was trained.
        texts = read_json(tmp_path / "predicted" / f"{language}.json.0.0")
        candidates = read_json(tmp_path / "predicted" / f"nbest_{language}.json.0.0")
        assert list(texts) == list(candidates) == [qa["id"] for _, qa in questions]
        for context, qa in questions:
            answers = candidates[qa["id"]]
            assert 1 < len(answers) <= FinetuneFlags().n_best_size
            assert answers[0]["text"] == texts[qa["id"]]
            for candidate in answers:
                assert candidate["text"]
                assert context[candidate["answer_start"] :].startswith(candidate["text"])
                assert candidate["probability"] == round(candidate["probability"], 6)
            sums = [candidate["start_logit"] + candidate["end_logit"] for candidate in answers]
            assert sums == sorted(sums, reverse=True)
            assert sum(candidate["probability"] for candidate in answers) == pytest.approx(1, abs=1e-4)
            if language == "en":  # the model knows these questions
                assert texts[qa["id"]] == qa["answers"][0]["text"]


def test_squads_rules_decide_the_scores(answer, trained, folder, tmp_path):
    """In German, SQuAD's rules leave out an English article of an answer, and MLQA's rules keep it."""
    training = read_json(folder / "dev.en.json")
    answers = [qa["answers"][0] for _, qa in toys.questions(training)]
    (with_article,) = (gold for gold in answers if gold["text"].startswith("the "))
    with_article |= {"text": "port", "answer_start": with_article["answer_start"] + len("the  ")}
    names = [f"dev.{language}.json" for language in toys.LANGUAGES[:2]]
    write_files(tmp_path, dict.fromkeys(names, json.dumps(training)))
    flags = {
        "do_train": "false",
        "init_checkpoint": trained / "out/best",
        "dev_set": tmp_path / "dev.%s.json",
    }
    for rules, score in (("mlqa", 100 * (1 - 1 / len(answers))), ("squad", 100.0)):
        for official in ("false", "true"):
            *_, exact = answer(out=rules, answer_rules=rules, **flags, official_compat=official)["tables"]
            assert exact["mean"]["de"] == pytest.approx(score, abs=0.01)


def make_task(folder, **changes) -> QuestionAnswering:
    flags = parse_options(FinetuneFlags, command_lines.answering(folder, folder, **changes))
    return QuestionAnswering.from_flags(flags, Tokenizer(None, folder / "piece.model"))


def test_answer_is_correct_if_start_and_end_are(folder):
    """Of three windows the first one has its start right, the second one its end, and the third one both."""
    task = make_task(folder)
    questions = task.read(folder / "dev.en.json", "train")
    (global_batch,) = Batches(questions, task.encode, 100, shuffle=False).stream()  # all windows
    (batch,) = global_batch.micro_batches
    model = SpanClassifier(ErnieMConfig.from_dict(toys.ANSWERING_CONFIG))
    ((_, sent),) = task.send_batches(model, [batch])
    locations = batch.answers.copy()  # [B, 2], where the largest logits are
    locations[:, 0] += np.arange(len(locations)) % 3 == 1
    locations[:, 1] += np.arange(len(locations)) % 3 == 0
    one_hot = np.eye(batch.input_ids.shape[1], dtype=np.float32)[locations]  # [B, 2, T]
    outputs = {"start_logits": paddle.to_tensor(one_hot[:, 0]), "end_logits": paddle.to_tensor(one_hot[:, 1])}
    _, correct, count = task.compute_loss_and_counts(sent, outputs)
    assert (int(correct), count) == (len(locations) // 3, len(locations))


def test_context_and_question_in_two_languages(answer, trained, folder, tmp_path):
    """Contexts and questions in two languages (G-XLT): lang_map.json has both as one key, "en-de".

    The model knows the questions of en-en and de-de, and not those of en-de.
    """
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


def test_infer_language_from_file_name(answer, folder, tmp_path):
    resolve_rules_language.cache_clear()
    shutil.copy(folder / "dev.en.json", tmp_path / "dev.json")
    for path in (folder / "dev.en.json", tmp_path / "dev.json"):
        answer(path.stem, max_steps=1, lang_map_config="", dev_set=path)
    (line,) = [line for line in read_log(tmp_path).splitlines() if "--answer_rules mlqa supports" in line]
    assert " dev.json: " in line


def test_cut_questions_are_counted(folder, tmp_path, caplog):
    file = read_json(folder / "dev.de.json")
    for paragraph in file["data"][0]["paragraphs"][:2]:
        paragraph["qas"][0]["question"] = "a"
    (tmp_path / "dev.json").write_text(json.dumps(file), encoding="utf-8")
    task = make_task(folder, max_seq_len=40, max_query_length=3, doc_stride=12)
    data = task.read(tmp_path / "dev.json", "dev")
    task.warn_if_truncated("dev.json", data)
    assert "dev.json: 4 of 6 questions are truncated to 3 tokens (max_query_length)" in caplog.messages
    assert len(np.unique(task.hash_inputs(data))) == 6  # the same question about two contexts is two inputs


@pytest.mark.parametrize(("separators", "length", "expected"), [(1, 21, 9), (2, 21, 8), (1, 512, 64)])
def test_prediction_windows_default_to_the_recipe(folder, separators, length, expected):
    """A question has at most half of the tokens of a window that are not special."""
    tokenizer = Tokenizer(None, folder / "piece.model")
    pipeline_config = PipelineConfig(separators=separators)
    task = QuestionAnswering.from_pipeline_config(pipeline_config, tokenizer, length, 3)
    flags = FinetuneFlags()
    found = (task.window_config.max_query_length, task.window_config.doc_stride, task.max_answer_length)
    assert found == (expected, flags.doc_stride, flags.max_answer_length)


def test_a_training_keeps_how_its_start_reads(answer, trained, tmp_path):
    """Its text rules, its separators, and whether Han characters are tokens, which a flag can change."""
    pipeline_config = stored(**PipelineConfig.for_xlm_r().to_json())
    start = changed_copy(trained / "out" / "best", tmp_path / "initial", pipeline=pipeline_config)
    flags = {"init_pretraining_params": start, "ernie_config_path": None, "piece_model_path": None}
    for out, given in {"as the start": {}, "as asked": {"split_han": "true"}}.items():
        answer(out, **flags, **given, max_steps=1)
        assert "Epochs:" not in (tmp_path / out / "best/README.md").read_text()  # --max_steps decided
        assert open_checkpoint(tmp_path / out / "best").pipeline_config == replace(
            PipelineConfig.for_xlm_r(),
            split_han="split_han" in given,
            max_seq_len=80,
            max_query_length=16,
            doc_stride=20,
            max_answer_length=FinetuneFlags().max_answer_length,
        )
