"""run_retrieval.py as a search: layouts, tables, predictions in XTREME's form, layers, bad input."""

import json
import shutil
import sys

import numpy as np
import paddle
import pytest

import run_retrieval
from evaluation.encode import encode, layer_number
from evaluation.retrieval import choose_on_half
from finetune.retrieval.paper import PAPER
from model.checkpoint import load_from, save_model
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.sentences import read_bitext
from reader.tokenization import Tokenizer
from tests.finetune import toy
from tests.launching import ROOT, launch
from utils import logging as run_log
from utils.errors import UserError, run


@pytest.fixture(scope="module")
def folder(toy_folder, tmp_path_factory):
    """weights: random ones with a tokenizer; pairs: two languages whose translations are near copies."""
    folder = tmp_path_factory.mktemp("search")
    paddle.seed(5)
    config = ErnieMConfig.from_json(toy_folder / "ernie_config.json")
    save_model(folder / "weights", ErnieMModel(config), config, piece_model_path=toy_folder / "piece.model")
    (folder / "pairs").mkdir()
    for language, seed in (("de", 1), ("xx", 2)):
        english = list(dict.fromkeys(row[1] for row in toy.rows(40, seed)))
        other = [line.replace("the", "a").replace("old", "new") for line in english]
        for side, lines in ((language, other), ("en", english)):
            (folder / "pairs" / f"{language}-en.{side}").write_text("".join(f"{x}\n" for x in lines))
    return folder


@pytest.fixture
def retrieve(folder, tmp_path, monkeypatch):
    """retrieve(**flags) runs in `tmp_path`; returns retrieval.json."""
    monkeypatch.chdir(tmp_path)

    def call(**changes):
        monkeypatch.setattr(sys, "argv", ["run_retrieval.py", *line(folder, tmp_path / "out", **changes)])
        try:
            run_retrieval.main()
        finally:
            run_log._attach([])
        return json.loads((tmp_path / "out" / "retrieval.json").read_text())

    return call


def line(folder, output, **changes):
    values = {"init_pretraining_params": folder / "weights", "pairs": folder / "pairs", "checkpoints": output,
              "max_seq_len": 64, "use_cuda": "false"} | changes  # fmt: skip
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]


def all_layers(folder, language):
    """Vectors of the English sentences and of the others, [L + 1, N, H]."""
    model = ErnieMModel(ErnieMConfig.from_json(folder / "weights" / "config.json"))
    load_from(model, folder / "weights")
    tokenizer = Tokenizer.from_folder(folder / "weights")
    _, other, english = read_bitext(
        language, *(folder / "pairs" / f"{language}-en.{side}" for side in (language, "en"))
    )
    return [encode(model, [np.array(tokenizer.build(text)) for text in side]) for side in (english, other)]


def exact(queries, targets):
    """The nearest by cosine, in float64."""
    queries, targets = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, targets))
    return (queries.astype(np.float64) @ targets.T.astype(np.float64)).argmax(axis=1)


def test_the_default_is_the_papers_recipe(retrieve, folder, tmp_path, capsys):
    found = retrieve()
    assert (found["layer"], found["pooling"], found["score"]) == (1, "mean", "cosine")
    assert list(found["rows"]) == ["en -> xx", "xx -> en", *PAPER]
    for language in ("de", "xx"):
        english, other = (side[1] for side in all_layers(folder, language))
        rows = np.arange(len(english))
        forward = exact(english, other)
        accuracy = 100 * (forward == rows).mean()
        assert 0 < accuracy < 100
        assert found["rows"]["en -> xx"][language] == pytest.approx(accuracy)
        expected = 100 * (exact(other, english) == rows).mean()
        assert found["rows"]["xx -> en"][language] == pytest.approx(expected)
        # XTREME's own scoring: English sorted by text, the label of each the line that it came from.
        lines = (folder / "pairs" / f"{language}-en.en").read_text().splitlines()
        labels = [row for _, row in sorted(zip(lines, rows.tolist()), key=lambda pair: pair[0])]
        path = tmp_path / "out" / "predictions" / "tatoeba" / f"test-{language}.tsv"
        predictions = [int(row) for row in path.read_text().splitlines()]
        assert 100 * np.mean([a == b for a, b in zip(predictions, labels)]) == pytest.approx(accuracy)
        assert predictions == [forward[label] for label in labels]
    assert found["averages"]["en -> xx"] == pytest.approx(sum(found["rows"]["en -> xx"].values()) / 2)
    assert found["rows"]["paper, large"] == {"de": 98.8}  # xx is not in the paper
    markdown = (tmp_path / "out" / "retrieval.md").read_text()
    assert "|  | de | xx | avg |" in markdown and "| paper, large | 98.80 |  | 98.80 |" in markdown
    assert (tmp_path / "out" / "retrieval.txt").read_text().strip() in capsys.readouterr().out
    assert (tmp_path / "out" / "retrieval.png").read_bytes().startswith(b"\x89PNG")


def test_the_paper_s_averages_are_those_it_prints():
    means = {name: sum(row.values()) / len(row) for name, row in PAPER.items()}
    assert {name: round(mean, 1) for name, mean in means.items()} == {
        "paper, large": 87.9, "paper, large, fine-tuned": 93.3,
    }  # fmt: skip
    assert all(len(row) == 36 for row in PAPER.values())


def test_the_sweep_and_the_layer_of_the_dev_pairs(retrieve, folder):
    swept = retrieve(layer="sweep")["rows"]
    assert list(swept) == ["layer 0", "layer 1", "layer 2", "those on the odd pairs"]
    means = []
    for layer in range(3):
        for language in ("de", "xx"):
            english, other = (side[layer] for side in all_layers(folder, language))
            rows = np.arange(len(english))
            both = [(exact(english, other) == rows).mean(), (exact(other, english) == rows).mean()]
            assert swept[f"layer {layer}"][language] == pytest.approx(100 * np.mean(both))
        means.append(np.mean(list(swept[f"layer {layer}"].values())))
    split = choose_on_half(*all_layers(folder, "de"))
    assert swept["those on the odd pairs"]["de"] == pytest.approx(100 * split.mean)
    found = retrieve(layer="dev", dev_pairs=folder / "pairs", languages="xx")
    assert found["layer"] == int(np.argmax(means))
    assert list(found["rows"]["en -> xx"]) == ["xx"]


@pytest.mark.parametrize("flags", [{"pooling": "pooled"}, {"pooling": "specials"}, {"score": "margin"}])
def test_other_vectors_and_scores_give_other_results(retrieve, flags):
    default, other = retrieve(), retrieve(**flags)
    assert (other["pooling"], other["score"]) == (flags.get("pooling", "mean"), flags.get("score", "cosine"))
    assert other["rows"] != default["rows"]


def test_one_bitext_and_two_processes(folder, tmp_path):
    sides = {"src_file": folder / "pairs" / "de-en.de", "tgt_file": folder / "pairs" / "de-en.en"}
    for name, changes in (("one", {"pairs": None, **sides}), ("all", {})):
        command = [ROOT / "run_retrieval.py", *line(folder, tmp_path / name, **changes)]
        done = launch(command, tmp_path, processes=2)
        assert done.returncode == 0, done.stderr
    one, both = (json.loads((tmp_path / name / "retrieval.json").read_text()) for name in ("one", "all"))
    for direction in ("en -> xx", "xx -> en"):
        assert one["rows"][direction]["bitext"] == both["rows"][direction]["de"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, "--layer 3: no such layer; this model has 0 .the embeddings. to 2"),
        ({"layer": "dev"}, "--dev_pairs is needed with --layer dev"),
        ({"layer": "sweep", "pooling": "pooled"}, "--pooling pooled is that of the top layer alone"),
        ({"pairs": None}, "nothing to do: give --pairs or --src_file"),
        ({"pairs": "absent"}, "absent: no files <language>-en.<language>"),
        ({"languages": "sw"}, "no sw there; it has de, xx"),
        ({"src_file": "a"}, "--pairs and --src_file are both given"),
        ({"pairs": None, "src_file": "a"}, "--src_file and --tgt_file go together"),
        ({"neighbours": 0}, "--neighbours 0: between 1 and"),
        ({"init_checkpoint": "x"}, "--init_checkpoint resumes --do_train true"),
        ({"init_pretraining_params": "absent"}, "absent: no such folder"),
        ({"scor": "margin"}, "did you mean 'score'"),
    ],
)
def test_bad_flags(retrieve, changes, message):
    with pytest.raises(UserError, match=message):
        retrieve(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "de-en.de: the file is empty"),
        (b"one line\n", "de-en.de has 1 lines and .*de-en.en "),
        (b"\xff\n", "not UTF-8|has 1 lines"),
    ],
)
def test_bad_bitexts(retrieve, folder, tmp_path, content, message):
    shutil.copytree(folder / "pairs", tmp_path / "pairs")
    (tmp_path / "pairs" / "de-en.de").write_bytes(content)
    with pytest.raises(UserError, match=message):
        retrieve(pairs=tmp_path / "pairs")
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_line(retrieve, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: retrieve(layer="upper"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --layer upper: no such layer")


def test_names_of_layers():
    assert [layer_number(name, 24) for name in ("middle", "top", "0", 24, "13")] == [12, 24, 0, 24, 13]
    assert layer_number("middle", 12) == 6
