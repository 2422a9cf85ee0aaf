"""Everything a user can get wrong on the command line is one line and exit code 2."""

import json

import pytest

from tests.finetune import toy
from tests.launching import ROOT, run_script


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rte": 1}, "unknown flag --learning_rte; did you mean --learning_rate?"),
        ({"max_seq_len": 600}, "--max_seq_len 600"),
        ({"train_set": None}, "--train_set is needed with --do_train true"),
        ({"train_set": "absent.tsv"}, "absent.tsv"),
        ({"dev_set": None}, "--dev_set is needed with --do_val true"),
        ({"dev_set": "absent.%s.tsv"}, "absent.en.tsv"),
        ({"dev_set": "dev.en.tsv"}, "no %s in it"),
        ({"lang_map_config": None}, "--lang_map_config"),
        ({"lang_map_config": "absent.json"}, "absent.json"),
        ({"label_map_config": "absent.json"}, "absent.json"),
        ({"num_labels": 2}, "label_map.json"),
        ({"do_test": "true"}, "--test_set is needed with --do_test true"),
        ({"do_test": "true", "test_set": "a.%s,b.%s", "test_save": "c.%s"}, "the same number"),
        ({"do_train": "false"}, "--init_checkpoint is needed with --do_train false"),
        ({"do_train": "false", "do_val": "false"}, "nothing to do"),
        ({"piece_model_path": None}, "--piece_model_path is needed"),
        ({"piece_model_path": "absent.model"}, "absent.model"),
        ({"vocab_path": "absent.txt"}, "absent.txt"),
        ({"ernie_config_path": None}, "--ernie_config_path is needed"),
        ({"ernie_config_path": "absent.json"}, "absent.json"),
        ({"init_pretraining_params": "absent"}, "absent: no such folder"),
        ({"init_checkpoint": "absent"}, "absent: no such folder"),
        ({"select_on": "sw"}, "--select_on sw"),
        ({"in_tokens": "true", "batch_size": 8}, "--batch_size 8"),
        ({"amp": "int8"}, "--amp"),
    ],
)
def test_flags(refused, changes, expected):
    assert expected in refused(**changes)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "train.tsv: the file is empty"),
        ("the old cat\there\tanimal\n", "line 1: no header"),
        ("text_a\ttext_b\nthe cat\there\n", "no column label"),
        ("text_a\ttext_b\tlabel\nthe cat\tanimal\n", "line 2: 2 columns"),
        ("text_a\ttext_b\tlabel\nthe cat\there\tplant\n", "line 2: unknown label 'plant'"),
        (b"text_a\ttext_b\tlabel\nthe \xff\there\tanimal\n", "line 2: not UTF-8"),
    ],
)
def test_training_files(refused, tmp_path, content, expected):
    (tmp_path / "train.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in refused(train_set=tmp_path / "train.tsv")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"vocab_size": 20}, "vocab_size is 20"),
        ({"hidden_size": 15}, "hidden_size 15"),
        ({"max_position_embeddings": 34}, "room for 32 tokens"),
        ({"pad_token_id": 0}, "pad_token_id is 0"),
    ],
)
def test_configs(refused, tmp_path, change, expected):
    (tmp_path / "config.json").write_text(json.dumps({**toy.CONFIG, **change}))
    assert expected in refused(ernie_config_path=tmp_path / "config.json")


def test_checkpoints(classify, refused, tmp_path):
    classify(epoch=1, save_steps=6)
    step = tmp_path / "out" / "step_6"
    line = refused(epoch=1, save_steps=6, init_checkpoint=step, learning_rate=1e-3, batch_size=4)
    assert "learning_rate: 0.005 -> 0.001" in line and "global_batch: 8 -> 4" in line
    assert "--random_seed 1, which is not among" in refused(epoch=1, init_checkpoint=step, random_seed="2,3")
    assert "seed_2/selected.json" in refused(epoch=1, init_checkpoint=step, random_seed="2,1", save_steps=6)
    (tmp_path / "config.json").write_text(json.dumps({**toy.CONFIG, "hidden_size": 32}))
    line = refused(ernie_config_path=tmp_path / "config.json", init_pretraining_params=step)
    assert "hidden_size is 32 in the config and 16 in the weights" in line
    weights = step / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(epoch=1, init_checkpoint=step)


def test_a_real_process_ends_with_2_and_no_traceback(toy_folder, tmp_path):
    done = run_script(
        [ROOT / "run_classifier.py", *toy.flags(toy_folder, tmp_path, max_seq_len=513)], tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --max_seq_len 513: the position table has room for 8 to 512 tokens"
    assert done.stdout == ""
