"""There and back: every pair of output formats keeps every bit of what both have a place for."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import convert
from model.checkpoint.convert import TARGETS
from model.checkpoint.formats import safetensors as safe
from model.checkpoint.read import open_checkpoint
from tests.helpers.toy_models import make_ours

KINDS = {
    "encoder": {},
    "encoder without pooler": {"pooler": False},
    "pre-training": {"lm_head": True, "languages": 3},
    "classification": {"head": "classification", "labels": ["no", "maybe", "yes"]},
    "tagging": {"head": "tagging"},
    "question_answering": {"head": "question_answering"},
    "choice": {"head": "choice"},
    "uie": {"head": "uie"},
}


def kept(target: str, kind: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that a format has a place for."""
    lost = ()
    if target != "ernie-m":
        lost += ("language_embeddings.",)
    if target in ("paddlenlp", "huggingface"):
        lost += ("lm_head.",)
    if target == "xlm-roberta" and "lm_head.bias" in weights:
        lost += ("pooler.",)
    if target in ("huggingface", "xlm-roberta") and kind in ("tagging", "question_answering"):
        lost += ("pooler.",)
    if target in ("fluid", "xlm-roberta"):
        lost += ("linear_",)
    return {name: array for name, array in weights.items() if not name.startswith(lost)}


def to(target: str, source, folder, *more: str):
    convert.main([str(source), str(folder), "--to", target, *more])
    return open_checkpoint(folder)


def assert_bits(found, expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        read = found[name]
        assert read.dtype == np.float32 and read.shape == array.shape == found.shape(name)
        assert read.tobytes() == array.tobytes(), name


def head_flag(source: str, kind: str) -> tuple[str, ...]:
    """The official names say cls of a choice as well; the next conversion has to be told."""
    return ("--head", "choice") if source == "fluid" and kind == "choice" else ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", TARGETS)
def test_there_and_back(tmp_path, kind, one, capsys):
    made = make_ours(tmp_path / "made", **KINDS[kind])
    first, here = to(one, tmp_path / "made", tmp_path / "one"), kept(one, kind, made)
    assert_bits(first.tensors, here)
    for other in TARGETS:
        capsys.readouterr()
        to(other, tmp_path / "one", tmp_path / other, *head_flag(one, kind))
        shown, there = capsys.readouterr().out, kept(other, kind, here)
        for name in here.keys() - there.keys():
            assert f"no place for it in {other}: {name}\n" in shown
        back = to(one, tmp_path / other, tmp_path / f"{other}-back", *head_flag(other, kind))
        assert_bits(back.tensors, there)
        assert back.config == first.config


@pytest.mark.parametrize("target", ["paddlenlp", "huggingface", "xlm-roberta"])
def test_labels_and_task_go_along(tmp_path, target):
    make_ours(tmp_path / "made", head="classification", labels=["no", "maybe", "yes"])
    config = json.loads((tmp_path / "made/config.json").read_text())
    config["reading"] = {"label_pieces": "all"}
    (tmp_path / "made/config.json").write_text(json.dumps(config))
    to(target, tmp_path / "made", tmp_path / "there")
    back = to("ernie-m", tmp_path / "there", tmp_path / "back")
    assert back.settings["reading"] == {"label_pieces": "all"}
    assert back.task == "classification" and back.settings["labels"] == ["no", "maybe", "yes"]
    assert back.settings["architecture"] == "SequenceClassifier"


def test_a_pdparams_is_what_paddle_loads(tmp_path):
    import paddle

    made = make_ours(tmp_path / "made", head="classification")
    to("paddlenlp", tmp_path / "made", tmp_path / "there")
    found = paddle.load(str(tmp_path / "there/model_state.pdparams"))
    assert {name.removeprefix("ernie_m.") for name in found} == set(made)
    for name, tensor in found.items():
        assert np.asarray(tensor).tobytes() == made[name.removeprefix("ernie_m.")].tobytes()


def test_a_safetensors_is_what_the_library_writes(tmp_path):
    arrays = {"b": np.ones((3, 4), np.float32), "a": np.arange(3, dtype=np.int64),
              "é": np.zeros((), np.float16), "none": np.zeros((0, 2), np.float32)}  # fmt: skip
    safe.write(tmp_path / "ours", arrays, metadata={"format": "pt"})
    save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    for name, array in load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(safe.read(tmp_path / "theirs")[name], array)
