"""run_sequence_labeling.py from start to end on the toy task, and its bad input."""

import json
import re
from contextlib import chdir
from dataclasses import replace

import pytest

from ernie_m.commands import run_sequence_labeling
from ernie_m.finetune.metrics import count_entity_matches
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.pipeline_config import PipelineConfig
from tests import command_lines, toys
from tests.helpers.checkpoints import changed_copy, stored
from tests.helpers.conll import read_conll
from tests.helpers.files import write_files
from tests.launching import call_main, read_log

LEARNS = {"epoch": 8, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toys.make_tagging(tmp_path_factory.mktemp("tagging"))


@pytest.fixture
def tag(runner, folder):
    return runner(run_sequence_labeling, command_lines.tagging, folder)


@pytest.fixture(scope="module")
def trained(folder, module_folder):
    """A folder with `best/` of a model that knows the task, made once."""
    line = command_lines.tagging(
        folder,
        module_folder,
        do_test="true",
        test_set=f"{folder}/test.%s.tsv",
        test_save=f"{module_folder}/test.%s.tsv",
        max_seq_len=24,
        validation_steps=64,  # in the middle and at the end
        **LEARNS,
    )
    with chdir(module_folder):
        call_main(run_sequence_labeling, line)
    return module_folder


def test_it_learns_the_toy_task(trained):
    results = json.loads((trained / "results.json").read_text())
    means = {table["title"].split(",")[0]: table["mean"] for table in results["tables"]}
    perfect = {"en": 100.0, "de": 100.0, "avg": 100.0, "gap": 0.0}
    assert means == dict.fromkeys(("f1", "precision", "recall"), perfect)
    assert open_checkpoint(trained / "best").labels == toys.TAGS


@pytest.mark.parametrize(("number", "language"), [*enumerate(toys.LANGUAGES[:2])])
def test_tag_each_word_in_long_sentences(trained, number, language):
    """Sentences of 40 words and more, in windows of 22 subwords."""
    (path,) = trained.glob(f"test.{language}.tsv.*")
    assert re.fullmatch(rf"test\.{language}\.tsv\.\d+\.\d+", path.name)
    sentences = read_conll(path)
    expected = toys.draw_test_words(number)
    assert [(list(sentence.words), list(sentence.gold)) for sentence in sentences] == expected
    assert max(len(sentence.words) for sentence in sentences) > 40
    gold = [sentence.gold for sentence in sentences]
    predicted = [sentence.predicted for sentence in sentences]
    assert count_entity_matches(gold, predicted).f1 >= 90  # the model was trained on short sentences only


def test_evaluate_and_predict_from_the_folder_alone(tag, trained, folder, tmp_path):
    """With its tags. The file to predict has no column of tags, so predictions have no gold tags."""
    # The rest is ERNIE-M's.
    assert open_checkpoint(trained / "best").pipeline_config.to_json() == {"max_seq_len": 24}
    rows = toys.tagged_words(9, seed=50)
    toys.write_tagged_words(tmp_path / "new.tsv", rows, label=False)
    (tmp_path / "one.json").write_text('{"en": 0}')
    results = tag(
        **command_lines.FOLDER_ALONE,
        do_test="true",
        init_checkpoint=trained / "best",
        dev_set=f"{folder}/dev.%s.tsv",
        test_set="new.tsv",
        test_save="new.txt",
        lang_map_config="one.json",
        label_map_config=None,
    )
    assert results["tables"][0]["mean"] == {"en": 100.0, "avg": 100.0}
    sentences = read_conll(tmp_path / "new.txt.0.0")
    assert [list(sentence.words) for sentence in sentences] == [row.words for row in rows]
    assert all(sentence.gold is None for sentence in sentences)
    gold = [row.tags for row in rows]
    assert count_entity_matches(gold, [sentence.predicted for sentence in sentences]).f1 >= 90


def test_evaluation_reads_texts_as_training_did(tag, trained, folder, tmp_path, capsys):
    """Without flags it takes --max_seq_len, --label_pieces and the procedure of the training.

    A flag that is given stays. The paper's figures do not stand beside scores of another procedure.
    """
    flags = {**command_lines.FOLDER_ALONE, "dev_set": f"{folder}/dev.%s.tsv"}
    of_training = open_checkpoint(trained / "best").pipeline_config.to_json() | {"label_pieces": "all"}
    said = "options of"
    for official, metric in ((True, "f1 over subwords"), (False, "f1")):
        pipeline = stored(**of_training, official_compat=official)
        start = flags["init_checkpoint"] = changed_copy(
            trained / "best", tmp_path / str(official), pipeline=pipeline
        )
        results = tag(**flags, max_seq_len=None, official_compat=None, paper="conll_cross_lingual_transfer")
        log = capsys.readouterr().out
        assert results["metric"] == metric and f"official_compat {official}: " in log
        assert f"{said} {start}: --max_seq_len 24, --label_pieces all" in log
    assert not any("paper" in table for table in results["tables"])
    assert "--paper conll_cross_lingual_transfer ignored" in log
    tag(**flags, max_seq_len=32, label_pieces="first")
    assert said not in capsys.readouterr().out


def test_official_behavior_runs(tag, folder, tmp_path):
    """By default long text is truncated, and what was cut off is O in the predictions.

    The paper's results stand next to the score that the official code counts.
    """
    results = tag(
        official_compat=None,
        max_seq_len=16,
        paper="conll_cross_lingual_transfer",
        do_test="true",
        test_set=f"{folder}/test.%s.tsv",
        test_save="test.%s.tsv",
        max_steps=1,
    )
    assert results["metric"] == "f1 over subwords"
    titles = {table["title"].split(",")[0]: "paper" in table for table in results["tables"]}
    assert [title for title, has_paper in titles.items() if has_paper] == ["f1 over subwords"]
    assert "f1 over words" in titles
    assert f" {folder}/test.de.tsv: " in read_log(tmp_path)  # its words that are cut off
    (path,) = tmp_path.glob("test.en.tsv.*")
    longest = max(read_conll(path), key=lambda sentence: len(sentence.words))
    # 16 tokens are [CLS], [SEP] and at most 14 words.
    assert set(longest.predicted[14:]) == {"O"} and "B-PER" in longest.gold[14:]


def test_a_training_keeps_how_its_start_reads(tag, trained, tmp_path):
    """Its text rules and the tagged subword, which a flag can change; not how its embeddings were made."""
    of_start = replace(PipelineConfig.for_xlm_r(), pooling="cls", prompts={"query": "q: "}, max_seq_len=20)
    start = changed_copy(trained / "best", tmp_path / "initial", pipeline=stored(**of_start.to_json()))
    flags = {"init_pretraining_params": start, "ernie_config_path": None, "piece_model_path": None}
    for out, given in {"as the start": {}, "as asked": {"label_pieces": "all"}}.items():
        tag(out, **flags, **given, max_steps=1, max_seq_len=24)
        expected = replace(PipelineConfig.for_xlm_r(), max_seq_len=24, **given)
        assert open_checkpoint(tmp_path / out / "best").pipeline_config == expected


def test_dev_files_without_entities_have_no_score_and_select_no_checkpoint(
    tag, trained, folder, tmp_path, refusal
):
    """As in XTREME's test files, whose tags are all O. The other language keeps its score."""
    dev = {language: (folder / f"dev.{language}.tsv").read_text() for language in ("en", "de")}
    dev["de"] = re.sub(r"[BI]-\w+", "O", dev["de"])
    write_files(tmp_path, {f"dev.{language}.tsv": text for language, text in dev.items()})
    assert "dev.de.tsv: " in refusal(tag, out="refused", dev_set="dev.%s.tsv")
    assert not list(tmp_path.glob("refused/*.json"))
    of_folder = {**command_lines.FOLDER_ALONE, "init_checkpoint": trained / "best", "label_map_config": None}
    results = tag(**of_folder, dev_set="dev.%s.tsv")
    assert len(results["tables"]) == 3
    for table in results["tables"]:
        scores = table["seeds"]["1"]
        assert (
            scores["de"] is None and scores["avg"] == scores["en"] > 90 and "(no score: de)" in table["title"]
        )
    assert "dev.de.tsv has no entities" in read_log(tmp_path)
