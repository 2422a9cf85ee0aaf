"""Mistakes of a user of run_classifier.py end with one line of error and exit code 2."""

import json
import shutil

import pytest

from ernie_m.commands import run_classifier, run_mrc, run_sequence_labeling
from tests import toys
from tests.foreign import make_official, official_config
from tests.helpers.files import disk_full_after, write_files
from tests.launching import as_flags, call_main, error_of

HERE, ABSENT, _ = toys.LANGUAGES


def config(**changes) -> dict[str, str]:
    """The file config.json, the toy's with changes."""
    return {"config.json": json.dumps({**toys.TASK_CONFIG, **changes})}


REGRESSION = {"is_regression": "true", "label_map_config": None, "num_labels": None}
# Files in the current folder, flags, and what the line must name.
MISTAKES = [
    ({}, {"train_set": None}, "--train_set "),
    ({}, {"train_set": "absent.tsv"}, "absent.tsv"),
    ({}, {"train_set": "own/xnli/train.tsv"}, "own/xnli/train.tsv: "),
    ({}, {"train_set": "data/xnli/train/train.en.tsv"}, "data/xnli/train/train.en.tsv: "),
    ({}, {"train_set": "data/conll/train.tsv"}, "data/conll/train.tsv: "),
    ({}, {"dev_set": None}, "--dev_set "),
    ({}, {"dev_set": "dev.en.tsv"}, "--dev_set dev.en.tsv: "),
    ({}, {"dev_set": "dev.%s.tsv"}, f"dev.{HERE}.tsv, "),
    (
        {f"dev.{HERE}.tsv": "text_a\ttext_b\tlabel\nred\tblue\ttool\n"},
        {"dev_set": "dev.%s.tsv"},
        f"dev.{ABSENT}.tsv, ",
    ),
    (
        {f"dev.{code}.tsv": "text_a\ttext_b\tlabel\nred\tblue\ttool\n" for code in toys.LANGUAGES},
        {"dev_set": "dev.%s.tsv,test.%s.tsv"},
        f"test.{HERE}.tsv, ",
    ),
    ({"one.tsv": "text_a\tlabel\nred\ttool\n"}, {"dev_set": "one.tsv", "lang_map_config": None}, "one.tsv: "),
    ({}, {"lang_map_config": None}, "--lang_map_config"),
    ({"my.py": "x = 1\n"}, {"metric": "my.py:share"}, "--metric my.py:share: "),
    ({"my.py": "share = 1\n"}, {"metric": "my.py:share"}, "--metric my.py:share: "),
    ({"my.py": "x = 1\ny = z\n"}, {"metric": "my.py:share"}, "my.py, line 2: "),
    ({"my.py": "x = 1\ndef share(a, b):\n    return .5\n"}, {"metric": "my.py:share"}, "my.py, line 2: "),
    (
        {"my.py": "def share(a, b):\n    return {'share': len}\n"},
        {"metric": "my.py:share"},
        "my.py, line 1: ",
    ),
    ({"my.py": "def share(a, b):\n    return a.x\n"}, {"metric": "my.py:share"}, "my.py, line 2: "),
    (
        {"my.py": "def share(a, b):\n    return {'share': float('nan')}\n"},
        {"metric": "my.py:share"},
        "my.py, line 1: ",
    ),
    ({"my.py": "def share(a, b):\n    return {'b': 1.0}\n"}, {"metric": "my.py:share"}, "my.py, line 1: "),
    ({}, {"metric": "my.py"}, "my.py: "),
    ({}, {"num_labels": 2}, "label_map.json"),
    (
        {"labels.json": '{"tool": 0}'},
        {"label_map_config": "labels.json", "num_labels": 1},
        "labels.json: ",
    ),
    ({}, {"label_map_config": None, "num_labels": 1}, "--num_labels 1: "),
    ({}, {"do_test": "true"}, "--test_set "),
    ({}, {"do_test": "true", "test_set": "a.%s,b.%s", "test_save": "c.%s"}, "--test_set and --test_save "),
    ({}, {"do_test": "true", "test_set": "a.%s", "test_save": "b.%s,c.%s"}, "--test_set and --test_save "),
    ({}, {"do_train": "false"}, "--init_checkpoint "),
    ({}, {"do_train": "false", "init_pretraining_params": "absent"}, "--init_checkpoint "),
    ({}, {"do_train": "false", "do_val": "false"}, "nothing to do"),
    ({}, {"piece_model_path": None}, "--piece_model_path"),
    ({}, {"ernie_config_path": None}, "--ernie_config_path"),
    ({}, {"ernie_config_path": "absent.json"}, "absent.json"),
    (config(vocab_size=20), {"ernie_config_path": "config.json"}, "vocab_size 20"),
    (config(hidden_size=15), {"ernie_config_path": "config.json"}, "hidden_size 15"),
    (
        config(max_position_embeddings=34),
        {"ernie_config_path": "config.json"},
        "is 32 tokens. Set --max_seq_len 32 or less",
    ),
    (config(pad_token_id=0), {"ernie_config_path": "config.json"}, "pad_token_id 0"),
    ({}, {"init_pretraining_params": "absent"}, "absent: "),
    ({"vocab.txt": "[CLS]\n"}, {"vocab_path": "vocab.txt"}, "vocab.txt: missing [PAD]"),
    ({}, {"select_on": "sw"}, "--select_on sw"),
    ({}, {"select_on": "en", "do_val": "false"}, "--select_on en"),
    ({}, {"in_tokens": "true", "batch_size": 8}, "--batch_size 8"),
    ({}, {"incr_ratio": 1}, "--incr_ratio 1: "),
    ({}, {**REGRESSION, "label_map_config": "labels.json"}, "--label_map_config "),
    *(
        (
            {"a.tsv": f"text_a\tlabel\na\t1.5\nb\t{label}\n"},
            {**REGRESSION, "train_set": "a.tsv"},
            "a.tsv, line 3: ",
        )
        for label in ("tall", "", "nan", "inf")
    ),
]


@pytest.mark.parametrize(("files", "flags", "location"), MISTAKES)
def test_a_mistake_is_named(classify, refusal, tmp_path, files, flags, location):
    write_files(tmp_path, files)
    assert location in refusal(classify, **flags)


def test_all_missing_flags_are_named_at_once(classify, refusal):
    missing = ("train_set", "dev_set", "piece_model_path", "ernie_config_path")
    line = refusal(classify, **dict.fromkeys(missing))
    assert [name for name in missing if f"missing --{name}" in line] == list(missing)


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        (run_classifier, ["label_map.json", "lang_map.json", "train, dev.de, dev.en, line 1"]),
        (
            run_sequence_labeling,
            ["label_map.json", "lang_map.json", "train, dev.de, dev.en, line 1"],
        ),
        (run_mrc, ["lang_map.json"]),
    ],
)
def test_all_bad_files_are_named_before_the_weights_are_read(tmp_path, in_tmp_path, command, faults):
    """A layout without headers and maps, next to weights that are not there. JSON has no headers.

    The files of any language are found without the map; of the files with equal errors each is named.
    """
    files = dict.fromkeys(("train", "dev.en", "dev.de"), "red\tblue\n")
    write_files(tmp_path, files | {"dev.sw": "label\ttext_a\n", "fr.test": "text_a\n"})
    flags = {"train_set": "./train", "dev_set": "dev.%s", "test_set": "%s.test", "metric": "m.py:f"}
    flags |= {"label_map_config": "label_map.json", "lang_map_config": "lang_map.json", "test_save": "%s"}
    flags |= {"init_pretraining_params": "absent"}
    *lines, advice = error_of(call_main, command, as_flags(flags)).split("\n  ")
    assert [line.split(": ")[0] for line in lines] == [*faults, "m.py"]
    assert "ernie-m prepare " in advice


def test_rejects_invalid_official_parameters(classify, refusal, tmp_path):
    """Pre-trained weights that are named as fine-tuned ones, and weights of which a file is missing."""
    config = official_config(vocab_size=60)
    params = make_official(tmp_path, config, seed=1)
    (tmp_path / "ernie_config.json").write_text(json.dumps(config))
    options = {"ernie_config_path": tmp_path / "ernie_config.json", "init_pretraining_params": params}
    assert "not fine-tuned (it has no classifier)" in refusal(
        classify, **(options | {"init_pretraining_params": None, "init_checkpoint": params})
    )
    (params / "encoder_layer_1_ffn_fc_0.b_0").unlink()
    assert "1 tensor missing: encoder.layers.1.linear1.bias" in refusal(classify, **options)


def test_a_full_disk_leaves_the_previous_checkpoint(classify, refusal, tmp_path):
    """The run has 12 steps, of 8 of the 96 rows. The disk is full within the weights of the last one."""
    classify(epoch=1, save_steps=6, do_val="false")
    shutil.rmtree(tmp_path / "out" / "step_12")
    before = (tmp_path / "out" / "step_6" / "model.safetensors").read_bytes()
    with disk_full_after(len(before) // 2):  # bytes
        assert "step_12: " in refusal(classify, epoch=1, do_val="false")
    left = {path.name: (path / "model.safetensors").read_bytes() for path in tmp_path.glob("out/*step_*")}
    assert left == {"step_6": before}


def test_rejects_checkpoints_of_other_settings(classify, refusal, tmp_path):
    """A checkpoint of other settings, of another seed, command or model size, and a corrupt one."""
    classify(epoch=1, save_steps=6)
    step = tmp_path / "out" / "step_6"
    line = refusal(classify, out="new", epoch=1, init_checkpoint=step, learning_rate=1e-3, batch_size=4)
    said = ("learning_rate: 0.005 -> 0.001", "global_batch: 8 -> 4", f"--init_pretraining_params {step}")
    assert [words for words in said if words not in line] == []
    assert f"{step} " in refusal(classify, epoch=1, init_checkpoint=step, random_seed="1,2")
    (tmp_path / "config.json").write_text(json.dumps({**toys.TASK_CONFIG, "hidden_size": 32}))
    line = refusal(
        classify, out="new", ernie_config_path=tmp_path / "config.json", init_pretraining_params=step
    )
    assert "step_6: the model size (hidden_size 16) does not match --ernie_config_path " in line
    assert "config.json (hidden_size 32)" in line
    weights = step / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refusal(classify, epoch=1, init_checkpoint=step)
