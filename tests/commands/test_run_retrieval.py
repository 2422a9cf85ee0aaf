"""run_retrieval.py as a search: layouts, tables, predictions in XTREME's format, layers, bad input."""

import json
import re
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import paddle
import pytest

from ernie_m.commands import run_retrieval
from ernie_m.finetune.retrieval import bitext_evaluation, run, search_bitexts
from ernie_m.finetune.score_tables import get_paper_rows
from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.weights import LANGUAGE_MEANS
from ernie_m.model.ernie import ErnieMConfig, ErnieMModel
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.utils.errors import UserError
from ernie_m.vectors.encode import PaddleEncoder
from ernie_m.vectors.pooling import normalize_vectors
from ernie_m.vectors.retrieval_accuracy import (
    count_hits_by_margin,
    search_both_directions,
    select_layer_on_half,
)
from tests import toys
from tests.helpers.checkpoints import changed_copy, save_model, stored
from tests.launching import as_flags, call_main, check_error, error_of
from tests.toys import line_keys, write_lines

LAYERS = 2  # of the model of `random_encoder`
HIDDEN = 16
MIDDLE = 1  # the layer of the paper's recipe in this model
CHOSEN = "chosen, odd pairs"


@pytest.fixture(scope="module")
def folder(random_encoder, module_folder):
    """A folder of "weights", random ones with a tokenizer, and "pairs".

    They are the bitexts of two languages with English, whose translations are near copies. The paper has
    results for one of these languages, de.
    """
    (module_folder / "weights").symlink_to(random_encoder)
    for language, seed in (("de", 1), ("xx", 2)):
        english = list(dict.fromkeys(row.text_a for row in toys.labeled_texts(40, seed)))  # each once
        translations = [line.replace("the", "a").replace("old", "new") for line in english]
        write_lines(module_folder / "pairs" / f"{language}-en.en", english)
        write_lines(module_folder / "pairs" / f"{language}-en.{language}", translations)
    return module_folder


@pytest.fixture
def retrieve(folder, tmp_path, in_tmp_path):
    """retrieve(**flags) searches in `folder/pairs`; returns retrieval.json, or sweep.json.

    It runs in `tmp_path`. None leaves a flag out.
    """

    def call(**changes):
        flags = {
            "init_pretraining_params": folder / "weights",
            "pairs": folder / "pairs",
            "checkpoints": tmp_path / "out",
            "max_seq_len": 64,
            "use_cuda": "false",
        }
        call_main(run_retrieval, as_flags(flags | changes))
        name = "sweep" if changes.get("layer") == "sweep" else "retrieval"
        return json.loads((tmp_path / "out" / f"{name}.json").read_text())

    return call


def by_direction(report):
    """direction -> language -> per cent of seed 1, from the tables of the two directions."""
    return {table["direction"]: table["seeds"]["1"] for table in report["tables"][:2]}


def all_layers(folder, language):
    """Embeddings of the English sentences of a bitext, and of the foreign ones, [L + 1, N, H] each."""
    model = ErnieMModel(ErnieMConfig.from_json(folder / "weights" / "config.json"))
    load_weights(model, open_checkpoint(folder / "weights"))
    tokenizer = Tokenizer.from_folder(folder / "weights")
    sides = [(folder / f"pairs/{language}-en.{side}").read_text() for side in ("en", language)]
    return [
        PaddleEncoder(model).encode([tokenizer.build_inputs(line) for line in text.splitlines()])
        for text in sides
    ]


def sort_english(folder, language):
    """The line numbers of a bitext's English sentences, from 0, in the order that sorts their texts."""
    lines = (folder / "pairs" / f"{language}-en.en").read_text().splitlines()
    return sorted(range(len(lines)), key=lambda number: lines[number])


def nearest(queries, targets):
    """For each of `queries` [N, H] the number of the nearest target by cosine, in float64: [N]."""
    return (
        normalize_vectors(queries).astype(np.float64) @ normalize_vectors(targets).T.astype(np.float64)
    ).argmax(axis=1)


def percent_found(queries, targets):
    """Per cent of `queries` [N, H] whose nearest target is the one in the same row."""
    return 100 * (nearest(queries, targets) == np.arange(len(queries))).mean()


def test_the_default_is_the_papers_recipe(retrieve, folder, tmp_path, monkeypatch):
    counted = []  # the pairs of all bitexts, by which the paper's results are comparable
    monkeypatch.setattr(
        bitext_evaluation,
        "get_paper_rows",
        lambda *values: counted.append(values[2]) or get_paper_rows(*values),
    )
    report = retrieve(paper="tatoeba_cross_lingual_transfer", languages="de,xx")
    sides = [path.read_text().splitlines() for path in (folder / "pairs").glob("*.en")]
    assert {*counted} == {sum(map(len, sides))}
    # The layers are by seed.
    facts = (report["layers"], report["pooling"], report["score"])
    assert facts == ({"1": MIDDLE}, "mean_without_special", "cosine")
    directions = [table["direction"] for table in report["tables"]]
    assert directions == ["en -> xx", "xx -> en", "mean of both directions", "mean of both directions"]
    accuracies = by_direction(report)["en -> xx"]
    for language in ("de", "xx"):
        english, foreign = (side[MIDDLE] for side in all_layers(folder, language))  # [N, H] each
        found = percent_found(english, foreign), percent_found(foreign, english)
        assert [table["seeds"]["1"][language] for table in report["tables"][:2]] == pytest.approx(found)
        # XTREME's own scoring sorts the English sentences by text.
        path = tmp_path / "out" / "predictions" / "tatoeba" / f"test-{language}.tsv"
        predictions = nearest(english, foreign)[sort_english(folder, language)]
        assert path.read_text().splitlines() == predictions.astype(str).tolist()
    assert accuracies["avg"] == pytest.approx((accuracies["de"] + accuracies["xx"]) / 2)
    name = "paper, large (Tables 5 and 16; avg of 1; other model or data)"
    assert report["tables"][0]["paper"] == {name: {"de": 98.8, "avg": 98.8}}  # xx is not in the paper
    assert "paper" not in report["tables"][1]


def test_a_gpu_that_is_not_there_is_missed(retrieve, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "init", lambda use_gpu: "cpu")
    missing = "--use_cuda true: Paddle finds no GPU"
    retrieve(use_cuda="true")
    assert missing in capsys.readouterr().out
    retrieve(use_cuda="false", amp="fp16")
    printed = capsys.readouterr().out
    assert missing not in printed and "--amp fp16 has no effect" in printed


def test_vectors_made_in_bfloat16(retrieve, monkeypatch, cpu_with_bf16):
    """Those of the English sentences differ a little from those of float32."""
    searched = []
    monkeypatch.setattr(
        search_bitexts,
        "search_both_directions",
        lambda *given: searched.append(given[0]) or search_both_directions(*given),
    )
    for amp in ("none", "bf16"):
        retrieve(amp=amp, languages="de", untrained="false")
    exact, rounded = searched[:: len(searched) // 2]
    difference = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < difference < 0.02  # bfloat16 has 8 significant bits, and 2^-8 is 0.004


def test_each_seed_has_its_model_and_predictions(retrieve, folder, tmp_path):
    """%d stands for the seed, and each seed has predictions of its own."""
    for seed in (1, 2):
        paddle.seed(10 + seed)
        config = ErnieMConfig.from_json(folder / "weights" / "config.json")
        path = tmp_path / f"seed_{seed}" / "best"
        save_model(path, ErnieMModel(config), config, piece_model_path=folder / "weights" / "piece.model")
    report = retrieve(init_pretraining_params=f"{tmp_path}/seed_%d/best", random_seed="1,2")
    for seed in ("1", "2"):
        alone = retrieve(init_pretraining_params=tmp_path / f"seed_{seed}/best")  # with the default seed, 1
        expected = [(table["title"], table["seeds"]["1"]) for table in alone["tables"]]
        assert [(table["title"], table["seeds"][seed]) for table in report["tables"]] == expected
    assert by_direction(report) != by_direction(alone)
    assert (tmp_path / "out" / "seed_2" / "predictions" / "tatoeba" / "test-de.tsv").is_file()
    short = replace(config, max_position_embeddings=34)  # which is too short for --max_seq_len 64
    shutil.rmtree(path)
    save_model(path, ErnieMModel(short), short, piece_model_path=folder / "weights" / "piece.model")
    assert f"{path} is 32 tokens" in error_of(
        retrieve, init_pretraining_params=f"{tmp_path}/seed_%d/best", random_seed="1,2"
    )


def test_the_same_text_at_another_line_is_found(retrieve, folder, tmp_path, capsys):
    """20 of 40 English sentences stand twice, in other bytes. What XTREME counts is given as well."""
    english, german = ((folder / f"pairs/de-en.{side}").read_text().splitlines() for side in ("en", "de"))
    (tmp_path / "weights").symlink_to(folder / "weights")
    english += [line.replace(" ", "\u00a0", 1) for line in english[:20]]
    write_lines(tmp_path / "pairs/de-en.en", english)
    write_lines(tmp_path / "pairs/de-en.de", german + [f"{line} now" for line in german[:20]])
    table, *_ = retrieve(pairs=tmp_path / "pairs")["tables"]
    assert "de-en: of 60 pairs, 4" in capsys.readouterr().out
    found = nearest(*(side[MIDDLE] for side in all_layers(tmp_path, "de")))
    lines = np.arange(60)
    by_text, by_line = 100 * (found % 40 == lines % 40).mean(), 100 * (found == lines).mean()
    assert by_text > by_line
    assert [table["seeds"]["1"]["de"], table["same line"]["de"]] == pytest.approx([by_text, by_line])
    assert "same line" not in retrieve()["tables"][0]


def test_the_sweep_and_the_untrained_model(retrieve, folder, capsys):
    """A search with random weights alone has no "untrained" beside it."""
    random_weights = {
        "init_pretraining_params": "",
        "ernie_config_path": folder / "weights/config.json",
        "piece_model_path": folder / "weights/piece.model",
    }
    sweep = retrieve(layer="sweep", languages="xx,de")
    assert len(re.findall(r"^ +xx +de( +avg)?$", capsys.readouterr().out, re.MULTILINE)) == 2  # its tables
    swept = sweep["rows"]
    swept_random = retrieve(layer="sweep", languages="xx,de", **random_weights)["rows"]
    names = [*(f"layer {layer}" for layer in range(LAYERS + 1)), CHOSEN]
    assert [*swept] == [*swept_random, f"untrained, {CHOSEN}"] == [*names, f"untrained, {CHOSEN}"]
    for language in ("de", "xx"):
        sides = all_layers(folder, language)
        for layer in range(LAYERS + 1):
            english, foreign = (side[layer] for side in sides)
            accuracies = [percent_found(english, foreign), percent_found(foreign, english)]
            assert swept[f"layer {layer}"][language] == pytest.approx(np.mean(accuracies))
        layer, found = select_layer_on_half(*sides, line_keys(sides[0].shape[1]))  # no texts are equal
        facts = (sweep["layers"][CHOSEN][language], swept[CHOSEN][language])
        assert facts == (layer, pytest.approx(100 * found))
    assert swept[f"untrained, {CHOSEN}"] == swept_random[CHOSEN]
    for table, random_table in zip(retrieve()["tables"], retrieve(**random_weights)["tables"], strict=True):
        accuracies = random_table["seeds"]["1"]
        assert table["untrained"] == {language: accuracies[language] for language in ("de", "xx")}
        assert "untrained" not in random_table
    assert all("untrained" not in table for table in retrieve(untrained="false")["tables"])


@pytest.mark.parametrize(
    ("flags", "layer"),
    [
        ({"pooling": "pooler"}, LAYERS),  # the pooled [CLS] is of the last layer, whatever --layer says
        ({"pooling": "mean"}, MIDDLE),
        ({"score": "margin"}, MIDDLE),
    ],
)
def test_other_embeddings_and_scores_give_other_results(retrieve, flags, layer):
    report = retrieve(**flags)
    expected = {"pooling": "mean_without_special", "score": "cosine", **flags, "layers": {"1": layer}}
    assert {key: report[key] for key in expected} == expected
    assert by_direction(report) != by_direction(retrieve())


@pytest.mark.parametrize(("given", "flags"), [({}, {"layer": "last"}), ({"layer": "middle"}, {})])
def test_a_fine_tuned_model_is_searched_as_it_was_trained(retrieve, folder, tmp_path, given, flags):
    """The layer and the pooling are those of its training, unless a flag names another."""
    pipeline_config = stored(layer=LAYERS, pooling="mean")
    weights = changed_copy(folder / "weights", tmp_path / "weights", pipeline=pipeline_config)
    as_trained = retrieve(init_pretraining_params=weights, **given)
    with_flags = retrieve(pooling="mean", **flags)
    assert as_trained["pooling"] == "mean" and as_trained["layers"] == with_flags["layers"]
    assert by_direction(as_trained) == by_direction(with_flags)


@pytest.mark.parametrize(
    ("task", "fact"),
    [(None, "were not fine-tuned"), ("token-classification", "were fine-tuned for token-classification")],
)
def test_reject_weights_for_another_task(retrieve, folder, tmp_path, task, fact):
    weights = changed_copy(folder / "weights", tmp_path / "weights", task=task)
    check_error(
        error_of(retrieve, init_pretraining_params=weights, init_task="classification"),
        fact,
        "--init_task",
        start=f"{weights}: ",
    )
    if task:
        retrieve(init_pretraining_params=weights, init_task=task)
    retrieve(init_pretraining_params=weights, init_task="")


def by_measure(report):
    """measure (such as "margin") -> language -> per cent, the mean of both directions."""
    return {
        table["measure"]: table["seeds"]["1"]
        for table in report["tables"]
        if table["direction"] == "mean of both directions"
    }


def centered_by_hand(folder, language, english_mean, foreign_mean, score="cosine"):
    """Per cent found, the mean of both directions, by embeddings of the middle layer less these means [H]."""
    english, foreign = (side[MIDDLE] for side in all_layers(folder, language))
    matches = search_both_directions(english - english_mean, foreign - foreign_mean, score)
    return sum(matches.compute_accuracies(line_keys(len(english)))) / 2


def test_predictions_follow_the_score(retrieve, folder, tmp_path):
    """They are in the alphabetical order of the English sentences."""
    english, foreign = (side[MIDDLE] for side in all_layers(folder, "de"))
    order = sort_english(folder, "de")
    retrieve(score="margin")
    rows = (tmp_path / "out/predictions/tatoeba/test-de.tsv").read_text().splitlines()
    expected = search_both_directions(english, foreign, "margin").forward[order].tolist()
    assert [int(row) for row in rows] == expected != nearest(english, foreign)[order].tolist()


def test_embeddings_centered_on_files(retrieve, folder):
    files = ",".join(f"{language}<={folder}/pairs/de-en.{language}" for language in ("en", "de"))
    report = by_measure(retrieve(center_on=files, languages="de"))
    assert list(report) == ["cosine", "margin", "centered", "centered margin"]
    english, german = (side[MIDDLE] for side in all_layers(folder, "de"))
    for measure, score in (("centered", "cosine"), ("centered margin", "margin")):
        expected = centered_by_hand(folder, "de", english.mean(axis=0), german.mean(axis=0), score)
        assert report[measure]["de"] == pytest.approx(expected)
    assert report["centered"] != report["cosine"]
    assert "--center_on: missing xx" in error_of(retrieve, center_on=files)


def test_embeddings_centered_on_stored_means(retrieve, folder, tmp_path, capsys):
    """They are those of the layer that is searched; without one of the languages there are no such rows."""
    weights = changed_copy(folder / "weights", tmp_path / "weights")
    drawn = np.random.default_rng(0).normal(size=(3, LAYERS + 1, HIDDEN)).astype(np.float32)
    means = dict(zip(("de", "en", "xx"), drawn))
    safetensors.write(weights / LANGUAGE_MEANS, means)
    report = by_measure(retrieve(init_pretraining_params=weights))
    for language in ("de", "xx"):
        expected = centered_by_hand(folder, language, means["en"][MIDDLE], means[language][MIDDLE])
        assert report["centered"][language] == pytest.approx(expected)
    swept = retrieve(init_pretraining_params=weights, layer="sweep", languages="de")["rows"]
    english, german = all_layers(folder, "de")
    # The embeddings are [L + 1, N, H], and the means [L + 1, H].
    centered = english - means["en"][:, None], german - means["de"][:, None]
    for measure, *count_hits in (("centered",), ("centered margin", count_hits_by_margin)):
        expected = select_layer_on_half(*centered, line_keys(english.shape[1]), *count_hits)[1]
        assert swept[f"{measure}, {CHOSEN}"]["de"] == pytest.approx(100 * expected)
    assert "centered" not in by_measure(retrieve(init_pretraining_params=weights, pooling="mean"))
    means.pop("xx")
    safetensors.write(weights / LANGUAGE_MEANS, means)
    assert "centered" not in by_measure(retrieve(init_pretraining_params=weights))
    assert f"{weights / LANGUAGE_MEANS}: no language means for xx" in capsys.readouterr().out
    assert "centered" in by_measure(retrieve(init_pretraining_params=weights, languages="de"))
    # Without the top layer.
    safetensors.write(weights / LANGUAGE_MEANS, {code: mean[:LAYERS] for code, mean in means.items()})
    assert f"{LANGUAGE_MEANS}: " in error_of(retrieve, init_pretraining_params=weights, languages="de")


@pytest.mark.parametrize("seeds", ["1,2", "2,1"])
def test_only_one_seed_has_language_means(retrieve, folder, tmp_path, capsys, seeds):
    """There is no table of centered embeddings then, whichever seed it is, and a line says why."""
    for seed in (1, 2):
        changed_copy(folder / "weights", tmp_path / f"weights_{seed}")
    means = dict.fromkeys(("de", "en"), np.zeros((LAYERS + 1, HIDDEN), np.float32))
    safetensors.write(tmp_path / "weights_2" / LANGUAGE_MEANS, means)
    report = retrieve(init_pretraining_params=tmp_path / "weights_%d", random_seed=seeds, languages="de")
    assert list(by_measure(report)) == ["cosine", "margin"]
    assert "centered margin: no language means for seed 1" in capsys.readouterr().out


@pytest.mark.parametrize(("processes", "location"), [(9, "--batch_size 8 "), (8, "no faiss")])
def test_each_process_needs_a_pair_per_step(retrieve, monkeypatch, processes, location):
    """The look for faiss comes next."""
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    monkeypatch.setattr(run, "set_up_command", lambda flags: None)
    monkeypatch.setattr(run, "load_faiss", Mock(side_effect=UserError("no faiss")))
    assert location in error_of(retrieve, do_train="true", train_set="corpus", batch_size=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, "layer 3 "),
        ({"pairs": None}, "--pairs"),
        ({"pairs": "absent"}, "absent: no files <language>-en.<language>"),
        ({"layer": "sweep", "random_seed": "1,2"}, "--layer sweep "),
        ({"layer": "sweep", "score": "margin"}, "--layer sweep "),
        ({"layer": "sweep", "pooling": "pooler"}, "--layer sweep "),
        ({"layer": "sweep", "do_train": "true", "train_set": "x"}, "--layer sweep "),
        ({"layer": "sweep", "pairs": "short"}, "--layer sweep: yy: "),
        ({"languages": "sw"}, "pairs: missing languages sw"),
        ({"center_on": "de.txt"}, "--center_on de.txt "),
        ({"center_on": "de<=pairs/de-en.de"}, "pairs/de-en.de: "),
        ({"paper": "tatoeba"}, "--paper tatoeba: "),
        ({"init_checkpoint": "x"}, "--init_checkpoint resumes training"),
    ],
)
def test_reject_bad_flags(retrieve, tmp_path, changes, message):
    """The folder "short" has two pairs of xx, and one of yy."""
    for name, count in (("xx-en.xx", 2), ("xx-en.en", 2), ("yy-en.yy", 1), ("yy-en.en", 1)):
        write_lines(tmp_path / "short" / name, ["the cat", "a dog"][:count])
    assert message in error_of(retrieve, **changes)


def test_the_length_of_the_flag_precedes_that_of_the_model(retrieve, folder, tmp_path):
    stored_length = changed_copy(folder / "weights", tmp_path / "copy", pipeline=stored(max_seq_len=64))
    short, long = (retrieve(max_seq_len=length) for length in (8, 64))
    assert by_direction(short) != by_direction(long)
    of_copy = retrieve(init_pretraining_params=stored_length, max_seq_len=8)
    assert by_direction(of_copy) == by_direction(short)
