"""The experiment on real text, end to end on made-up text: lower case, runs side by side, retrieval."""

import gzip
import json
import sys

import pytest
import yaml

from experiments import lower_case, pretrain_real, retrieval_real
from tests.helpers.small_corpus import ROOT, sentences
from tests.pretrain.tiny_run import flags, make_corpus
from utils.errors import UserError


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_lower_case_copies(tmp_path, monkeypatch):
    source, output = tmp_path / "data", tmp_path / "lower"
    (source / "mono").mkdir(parents=True)
    (source / "mono" / "de.txt.gz").write_bytes(gzip.compress("Ein HAUS\nÄpfel\n".encode()))
    (source / "x.en").write_text("One Two\n")
    config = tmp_path / "corpus.yaml"
    config.write_text("mono: {de: $DATA/mono/de.txt.gz}\nparallel: {a-b: [[$DATA/x.en, $DATA/x.en], y.tsv]}")
    monkeypatch.setenv("DATA", str(source))
    call(monkeypatch, lower_case, "--config", config, "--output", output)
    assert gzip.decompress((output / "mono" / "de.txt.gz").read_bytes()).decode() == "ein haus\näpfel\n"
    assert (output / "x.en").read_text() == "one two\n"
    (source / "x.en").unlink()
    with pytest.raises(UserError, match="x.en: no such file; DATA names the folder"):
        call(monkeypatch, lower_case, "--config", config, "--output", tmp_path / "again")


def test_lower_case_answers_stay_at_their_offsets(tmp_path):
    context = "DER \u0130stanbul-Turm STEHT \u00dcBER allem \u2126"
    answer = {"text": "STEHT \u00dcBER", "answer_start": context.index("STEHT")}
    question = {"id": "AbC", "question": "WO?", "answers": [answer]}
    value = {"data": [{"title": "X", "paragraphs": [{"context": context, "qas": [question]}]}]}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    lower_case.lower_case(tmp_path / "a.json", tmp_path / "b.json")
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["data"][0]
    text, asked = found["paragraphs"][0]["context"], found["paragraphs"][0]["qas"][0]
    assert text == "der \u0130stanbul-turm steht \u00fcber allem \u03c9" and found["title"] == "X"
    assert (asked["id"], asked["question"], asked["answers"][0]["text"]) == ("AbC", "wo?", "steht \u00fcber")
    start = asked["answers"][0]["answer_start"]
    assert text[start:].startswith("steht \u00fcber")


@pytest.mark.parametrize("name", ["en-de-fr-tr", "xnli-15"])
def test_every_file_of_the_real_corpora_is_named(name):
    files = lower_case.named_files(yaml.safe_load((ROOT / f"configs/corpus/{name}.yaml").read_text()))
    languages = 4 if name == "en-de-fr-tr" else 15
    assert len(files) == languages + (languages - 1) + languages  # alone, pairs, multi-way


@pytest.mark.slow
def test_runs_and_their_retrieval(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    corpus, runs = make_corpus(tmp_path), tmp_path / "runs"
    config = tmp_path / "run.yaml"
    config.write_text("model: {num_hidden_layers: 2}\n")
    settings = flags(corpus, runs, optimizer__steps=4, run__eval_steps=2)
    keep = [i for i in range(0, len(settings), 2) if settings[i] not in ("--data.corpus", "--run.output")]
    command = ["--config", config, "--corpus", corpus, "--output", runs, "--strategies", "mmlm", "full",
               "--seeds", "3", *(part for i in keep for part in settings[i : i + 2])]  # fmt: skip
    call(monkeypatch, pretrain_real, *command)
    printed = capfd.readouterr().out
    assert "full-3: step 3 of 4" in printed and "mmlm-3: step 3 of 4" in printed
    call(monkeypatch, pretrain_real, *command)
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == ["full-3: finished before", "mmlm-3: finished before"]

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for language in ("de", "fr"):
        for side, seed in ((language, 41), ("en", 42)):
            (pairs / f"{language}-en.{side}").write_text("\n".join(sentences(20, seed)) + "\n")
    call(monkeypatch, retrieval_real, "--runs", runs, "--pairs", pairs, "--length", 30,
         "--counts", 10, 0)  # fmt: skip
    found = json.loads((runs / "retrieval.json").read_text())
    assert list(found["pairs"]) == ["10", "all"]
    assert all(list(results) == ["untrained", "mmlm-3", "full-3"] for results in found["pairs"].values())
    for result in found["pairs"]["all"].values():
        assert set(result["languages"]) == {"de", "fr"}
        assert result["mean"] == pytest.approx(sum(one["mean"] for one in result["languages"].values()) / 2)
    printed = capfd.readouterr().out
    assert "| run | de | fr | mean |" in printed and "| camlm | de-en | en-fr |" in printed
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")
    steps = [record["step"] for record in found["held_out"]["full-3"]]
    assert steps == [2, 4] and all(record["tokens"] > 0 for record in found["held_out"]["full-3"])


def test_the_table_is_in_per_cent():
    one = {"layer": 2, "forward": 0.2, "backward": 0.4, "mean": 0.3, "standard_error": 0.03}
    other = one | {"mean": 0.5, "standard_error": 0.04, "layer": 1}
    result = retrieval_real.summarised({"de": one, "fr": other})
    assert result["standard_error"] == pytest.approx(0.025)
    lines = retrieval_real.table({"full-1": result}).splitlines()
    assert lines[2] == "| full-1 (layer 2/1) | 30.0 ± 3.0 | 50.0 ± 4.0 | 40.0 ± 2.5 |"
