"""run_retrieval.py as a search: layouts, tables, predictions in XTREME's form, layers, bad input."""

import json
import shutil

import numpy as np
import paddle
import pytest

import run_retrieval
from evaluation.encode import encode
from evaluation.retrieval import choose_on_half, found_by_margin
from evaluation.search import search_both
from model.checkpoint.folder import save_model
from model.checkpoint.formats import safetensors
from model.checkpoint.load import load_from
from model.checkpoint.manifest import MANIFEST
from model.checkpoint.read import LANGUAGE_MEANS, open_checkpoint
from model.ernie_m import ErnieMConfig, ErnieMModel
from reader.bitext import read_bitext
from reader.tokenization import Tokenizer
from tests.finetune import toy
from tests.launching import as_flags, call_main
from utils.errors import UserError


@pytest.fixture(scope="module")
def folder(random_encoder, tmp_path_factory):
    """weights: random ones with a tokenizer; pairs: two languages whose translations are near copies."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "weights").symlink_to(random_encoder)
    (folder / "pairs").mkdir()
    for language, seed in (("de", 1), ("xx", 2)):
        english = list(dict.fromkeys(row[1] for row in toy.rows(40, seed)))
        translations = [line.replace("the", "a").replace("old", "new") for line in english]
        for side, lines in ((language, translations), ("en", english)):
            (folder / "pairs" / f"{language}-en.{side}").write_text("".join(f"{x}\n" for x in lines))
    return folder


@pytest.fixture
def retrieve(folder, tmp_path, monkeypatch):
    """retrieve(**flags) runs in `tmp_path`; returns retrieval.json, or sweep.json."""
    monkeypatch.chdir(tmp_path)

    def call(**changes):
        call_main(run_retrieval, line(folder, tmp_path / "out", **changes))
        name = "sweep" if changes.get("layer") == "sweep" else "retrieval"
        return json.loads((tmp_path / "out" / f"{name}.json").read_text())

    return call


def rows(report, seed=1):
    """direction -> language -> per cent."""
    return {table["title"].split(",")[0]: table["seeds"][str(seed)] for table in report["tables"]}


def line(folder, output, **changes):
    values = {
        "init_pretraining_params": folder / "weights",
        "pairs": folder / "pairs",
        "checkpoints": output,
        "max_seq_len": 64,
        "use_cuda": "false",
    } | changes
    return as_flags(values)


def all_layers(folder, language):
    """Vectors of the English sentences and of the others, [L + 1, N, H]."""
    model = ErnieMModel(ErnieMConfig.from_json(folder / "weights" / "config.json"))
    load_from(model, open_checkpoint(folder / "weights"))
    tokenizer = Tokenizer.from_folder(folder / "weights")
    paths = [folder / "pairs" / f"{language}-en.{side}" for side in (language, "en")]
    _, foreign, english = read_bitext(language, *paths)
    return [encode(model, [np.array(tokenizer.build(text)) for text in side]) for side in (english, foreign)]


def exact(queries, targets):
    """The nearest by cosine, in float64."""
    queries, targets = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, targets))
    return (queries.astype(np.float64) @ targets.T.astype(np.float64)).argmax(axis=1)


def test_the_default_is_the_papers_recipe(retrieve, folder, tmp_path, capsys):
    report = retrieve(paper="tatoeba_cross_lingual_transfer")
    assert (report["layers"], report["pooling"], report["score"]) == ({"1": 1}, "mean", "cosine")
    assert list(rows(report)) == ["en -> xx", "xx -> en", "mean of both directions"]
    for language in ("de", "xx"):
        english, foreign = (side[1] for side in all_layers(folder, language))
        gold = np.arange(len(english))
        forward = exact(english, foreign)
        accuracy = 100 * (forward == gold).mean()
        assert 0 < accuracy < 100
        assert rows(report)["en -> xx"][language] == pytest.approx(accuracy)
        expected = 100 * (exact(foreign, english) == gold).mean()
        assert rows(report)["xx -> en"][language] == pytest.approx(expected)
        # XTREME's own scoring: English sorted by text, the label of each the line that it came from.
        lines = (folder / "pairs" / f"{language}-en.en").read_text().splitlines()
        labels = [row for _, row in sorted(zip(lines, gold.tolist()), key=lambda pair: pair[0])]
        path = tmp_path / "out" / "predictions" / "tatoeba" / f"test-{language}.tsv"
        predictions = [int(row) for row in path.read_text().splitlines()]
        assert 100 * np.mean([a == b for a, b in zip(predictions, labels)]) == pytest.approx(accuracy)
        assert predictions == [forward[label] for label in labels]
    accuracies = rows(report)["en -> xx"]
    assert accuracies["avg"] == pytest.approx((accuracies["de"] + accuracies["xx"]) / 2)
    name = "paper, large (Tables 5 and 16; avg of 1)"
    assert report["tables"][0]["paper"] == {name: {"de": 98.8, "avg": 98.8}}  # xx is not in the paper
    assert "paper" not in report["tables"][1]
    markdown = (tmp_path / "out" / "retrieval.md").read_text()
    assert "|  | de | xx | avg |" in markdown and f"| {name} | 98.80 |  | 98.80 |" in markdown
    assert (tmp_path / "out" / "retrieval.txt").read_text().strip() in capsys.readouterr().out


def test_several_seeds(retrieve, folder, tmp_path):
    """%d stands for the seed, each seed has predictions of its own, the table has mean and deviation."""
    for seed in (1, 2):
        paddle.seed(10 + seed)
        config = ErnieMConfig.from_json(folder / "weights" / "config.json")
        path = tmp_path / f"seed_{seed}" / "best"
        save_model(path, ErnieMModel(config), config, piece_model_path=folder / "weights" / "piece.model")
    several = retrieve(init_pretraining_params=f"{tmp_path}/seed_%d/best", random_seed="1,2")
    alone = {seed: retrieve(init_pretraining_params=tmp_path / f"seed_{seed}/best") for seed in (1, 2)}
    for number, table in enumerate(several["tables"]):
        for seed in (1, 2):
            assert table["seeds"][str(seed)] == alone[seed]["tables"][number]["seeds"]["1"]
        accuracies = [table["seeds"][str(seed)]["de"] for seed in (1, 2)]
        assert table["mean"]["de"] == pytest.approx(np.mean(accuracies))
        assert (
            table["deviation"]["de"] == pytest.approx(np.std(accuracies, ddof=1))
            and accuracies[0] != accuracies[1]
        )
    assert (tmp_path / "out" / "seed_2" / "predictions" / "tatoeba" / "test-de.tsv").is_file()


def test_the_sweep_and_the_untrained_model(retrieve, folder):
    """One that has random weights anyway has no row beside it."""
    shape = {"ernie_config_path": folder / "weights/config.json", "init_pretraining_params": ""}
    shape["piece_model_path"] = folder / "weights/piece.model"
    swept, random = retrieve(layer="sweep")["rows"], retrieve(layer="sweep", **shape)["rows"]
    names = [*(f"layer {layer}" for layer in range(3)), "chosen, odd pairs"]
    assert list(swept) == [*names, "untrained, chosen, odd pairs"] and list(random) == names
    for language in ("de", "xx"):
        sides = all_layers(folder, language)
        for layer in range(3):
            english, foreign = (side[layer] for side in sides)
            gold = np.arange(len(english))
            accuracies = [(exact(english, foreign) == gold).mean(), (exact(foreign, english) == gold).mean()]
            assert swept[f"layer {layer}"][language] == pytest.approx(100 * np.mean(accuracies))
        assert swept["chosen, odd pairs"][language] == pytest.approx(100 * choose_on_half(*sides).mean)
    assert swept["untrained, chosen, odd pairs"] == random["chosen, odd pairs"]
    for table, random_table in zip(retrieve()["tables"], retrieve(**shape)["tables"]):
        assert table["untrained"] == {name: random_table["seeds"]["1"][name] for name in ("de", "xx")}
        assert "untrained" not in random_table
    assert all("untrained" not in table for table in retrieve(untrained="false")["tables"])


@pytest.mark.parametrize("flags", [{"pooling": "pooled"}, {"pooling": "specials"}, {"score": "margin"}])
def test_other_vectors_and_scores_give_other_results(retrieve, flags):
    default, report = retrieve(), retrieve(**flags)
    assert report["pooling"] == flags.get("pooling", "mean")
    assert report["score"] == flags.get("score", "cosine")
    assert rows(report) != rows(default)
    # The pooled [CLS] is of the top layer, whatever --layer says.
    assert report["layers"] == {"1": 2 if report["pooling"] == "pooled" else 1}


def by_measure(report):
    """measure -> language -> per cent, the mean of both directions."""
    tables = {}
    for table in report["tables"]:
        direction, measure = table["title"].split(", ")[:2]
        if direction == "mean of both directions":
            tables[measure] = table["seeds"]["1"]
    return tables


def centred_by_hand(folder, language, english_mean, foreign_mean, score="cosine"):
    """Per cent found in both directions after these means are taken off, at layer 1."""
    english, foreign = (side[1] for side in all_layers(folder, language))
    matches = search_both(english - english_mean, foreign - foreign_mean, score)
    return sum(matches.accuracies()) / 2


def test_the_report_has_every_measure(retrieve, folder):
    cosine = retrieve()
    margin = retrieve(score="margin")
    assert list(by_measure(cosine)) == ["cosine", "margin"]
    assert by_measure(cosine) == by_measure(margin)
    for report, measure in ((cosine, "cosine"), (margin, "margin")):
        directions = [report["tables"][number]["seeds"]["1"]["de"] for number in (0, 1)]
        assert by_measure(report)[measure]["de"] == pytest.approx(np.mean(directions))


def test_vectors_centred_on_files(retrieve, folder):
    files = ",".join(f"{name}<={folder}/pairs/de-en.{side}" for name, side in (("en", "en"), ("de", "de")))
    report = by_measure(retrieve(centre_on=files, languages="de"))
    assert list(report) == ["cosine", "margin", "centred", "centred margin"]
    english, german = (side[1] for side in all_layers(folder, "de"))
    for measure, score in (("centred", "cosine"), ("centred margin", "margin")):
        expected = centred_by_hand(folder, "de", english.mean(axis=0), german.mean(axis=0), score)
        assert report[measure]["de"] == pytest.approx(expected)
    assert report["centred"] != report["cosine"]
    with pytest.raises(UserError, match="--centre_on has no xx; give language<=file for every language"):
        retrieve(centre_on=files)


def test_the_sweep_centres_every_layer(retrieve, folder):
    """The rows of centred vectors choose layers of their own: their means are those of every layer."""
    files = ",".join(f"{name}<={folder}/pairs/de-en.{side}" for name, side in (("en", "en"), ("de", "de")))
    rows = retrieve(layer="sweep", centre_on=files, languages="de", untrained="false")["rows"]
    assert list(rows)[-2:] == ["centred, chosen, odd pairs", "centred margin, chosen, odd pairs"]
    centred = [side - side.mean(axis=1, keepdims=True) for side in all_layers(folder, "de")]  # [L + 1, N, H]
    by_cosine = choose_on_half(*centred).mean
    by_margin = choose_on_half(*centred, found_by_margin).mean
    assert rows["centred, chosen, odd pairs"]["de"] == pytest.approx(100 * by_cosine)
    assert rows["centred margin, chosen, odd pairs"]["de"] == pytest.approx(100 * by_margin)
    assert rows["centred, chosen, odd pairs"] != rows["chosen, odd pairs"]


def test_vectors_centred_on_the_means_beside_the_weights(retrieve, folder, tmp_path, capsys):
    """They are those of the layer that is searched; without one of the languages there are no such rows."""
    weights = tmp_path / "weights"
    shutil.copytree(folder / "weights", weights)
    (weights / MANIFEST).unlink()
    rng = np.random.default_rng(0)
    means = {name: rng.normal(size=(3, 16)).astype(np.float32) for name in ("de", "en", "xx")}
    safetensors.write(weights / LANGUAGE_MEANS, means)
    report = by_measure(retrieve(init_pretraining_params=weights))
    for language in ("de", "xx"):
        expected = centred_by_hand(folder, language, means["en"][1], means[language][1])
        assert report["centred"][language] == pytest.approx(expected)
    swept = retrieve(init_pretraining_params=weights, layer="sweep", languages="de")["rows"]
    sides = zip(all_layers(folder, "de"), ("en", "de"))
    centred = [side - means[language][:, None] for side, language in sides]
    expected = 100 * choose_on_half(*centred).mean
    assert swept["centred, chosen, odd pairs"]["de"] == pytest.approx(expected)
    assert "centred" not in by_measure(retrieve(init_pretraining_params=weights, pooling="specials"))
    means.pop("xx")
    safetensors.write(weights / LANGUAGE_MEANS, means)
    assert "centred" not in by_measure(retrieve(init_pretraining_params=weights))
    assert f"{weights / LANGUAGE_MEANS} has no xx" in capsys.readouterr().out
    assert "centred" in by_measure(retrieve(init_pretraining_params=weights, languages="de"))
    of_two_layers = {name: mean[:2] for name, mean in means.items()}
    safetensors.write(weights / LANGUAGE_MEANS, of_two_layers)
    with pytest.raises(UserError, match=f"{LANGUAGE_MEANS}: it belongs to a model of another shape"):
        retrieve(init_pretraining_params=weights, languages="de")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, "layer 3: no such layer; this model has 0 .the embeddings. to 2"),
        ({"pairs": None}, "nothing to do: give --pairs, or --do_train true"),
        ({"pairs": "absent"}, "absent: no files <language>-en.<language>"),
        ({"layer": "sweep", "random_seed": "1,2"}, "--layer sweep searches with one seed"),
        ({"layer": "sweep", "score": "margin"}, "--layer sweep searches .* by cosine"),
        ({"languages": "sw"}, "no sw there; it has de, xx"),
        ({"centre_on": "de.txt"}, "--centre_on de.txt: give language<=file,language<=file"),
        ({"centre_on": "de<=pairs/de-en.de"}, "pairs/de-en.de: .*"),
        ({"paper": "tatoeba"}, "--paper tatoeba: the paper has no such recipe; it has xnli_cross"),
        ({"init_checkpoint": "x"}, "--init_checkpoint resumes --do_train true"),
    ],
)
def test_bad_flags(retrieve, changes, message):
    with pytest.raises(UserError, match=message):
        retrieve(**changes)
