"""Learning curves: the published page, and the figures of a run."""

import json

import pytest

from experiments import curves
from tests.launching import error_of
from utils.files import read_json


def test_the_published_page_is_that_of_the_figures():
    page = curves.FIGURES.with_suffix(".md").read_text(encoding="utf-8")
    assert page == curves.page(read_json(curves.FIGURES))


def test_the_figures_of_a_run(tmp_path, monkeypatch):
    """Losses are averaged over a quarter of a million tokens; a run of the same name and seed is replaced."""
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(curves, "CHART", tmp_path / "chart.png")
    evaluation = {"mmlm": {"de": {"perplexity": 2.0}, "en": {"perplexity": 8.0}}}
    records = [
        {"step": 1, "tokens": 100_000, "mmlm": {"loss": 7.0}},
        {"step": 2, "tokens": 250_000, "mmlm": {"loss": 6.0}},
        {"step": 3, "tokens": 300_000, "mmlm": {"loss": 5.0}, "camlm": {"loss": 4.0}},
        {"step": 3, "held_out": evaluation | {"camlm": {"de-en": {"perplexity": 3.0}}}},
    ]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = [
        {"title": "en -> xx, cosine, specials, layer 2", "mean": {"avg": 1.0}},
        {"title": "mean of both directions, cosine, specials, layer 2", "mean": {"avg": 70.25}},
        {"title": "mean of both directions, margin, specials, layer 2", "mean": {"avg": 72.5}},
    ]
    (folder / "retrieval.json").write_text(json.dumps({"tables": found}))
    flags = ["--add", str(folder), "--name", "a", "--tokens", "5000000"]
    curves.main([*flags, "--changed", "nothing", "--then", f"[few<={folder}]"])
    curves.main([*flags, "--changed", "all", "--then", f"[many<={folder}]"])
    (of_run,) = read_json(curves.FIGURES)
    assert of_run["training"] == {"mmlm": [[250_000, 6.5], [500_000, 5.0]], "camlm": [[500_000, 4.0]]}
    assert of_run["held_out"] == [
        {"tokens": 300_000, "mmlm": pytest.approx(4.0), "camlm": pytest.approx(3.0)}
    ]
    assert of_run["after"] == {about: {"cosine": 70.25, "margin": 72.5} for about in ("few", "many")}
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    tables = [{"mean": {"en": 60.0, "de": 20.0, "avg": 40.0, "gap": 40.0}}, {"mean": {"en": 1.0}}]
    (tuned / "results.json").write_text(json.dumps({"tables": tables}))
    curves.main([*flags, "--seed", "2", "--then", f"[many<={folder}, PAN-X<={tuned}]"])
    rows = (tmp_path / "figures.md").read_text().splitlines()
    assert "| en, de, tr | a | all | 1 | 5 | 5.000 |  |  |  |  | 4 | 3 |" in rows
    assert rows[-3:] == [
        "| en, de, tr | PAN-X | a | en 60.0; de 20.0 |",
        "| en, de, tr | few | a | cosine 70.2; margin 72.5 |",
        "| en, de, tr | many | a | cosine 70.2 (70.2, 70.2); margin 72.5 (72.5, 72.5) |",
    ]
    assert curves.CHART.stat().st_size > 0


def test_a_run_of_other_languages_is_another_run(tmp_path, monkeypatch):
    """It is in the tables, but not in the chart. Of a training that is added again, the last scores count."""
    monkeypatch.setattr(curves, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(curves, "CHART", tmp_path / "chart.png")
    record = {"step": 1, "tokens": 250_000, "mmlm": {"loss": 6.0}, "camlm": {"loss": 5.0}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    flags = ["--add", str(tmp_path), "--name", "a", "--tokens", "5000000", "--then", f"[XNLI<={tmp_path}]"]
    for score in (60.0, 70.0):
        tables = [{"mean": {"en": score, "avg": score, "gap": 0.0}}]
        (tmp_path / "results.json").write_text(json.dumps({"tables": tables}))
        curves.main(flags)
    chart = curves.CHART.read_bytes()
    curves.main([*flags, "--languages", "en, fr"])
    assert curves.CHART.read_bytes() == chart
    runs = read_json(curves.FIGURES)
    assert [(of_run["languages"], of_run["after"]) for of_run in runs] == [
        ("en, de, tr", {"XNLI": {"en": 70.0}}),
        ("en, fr", {"XNLI": {"en": 70.0}}),
    ]


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--then", "[pairs<=a]"], "--add needs --name, the name of the run"),
        (["--name", "a", "--then", "[all pairs, 3e-3<=a]"], "--then 'all pairs': give about<=folder, in "),
    ],
)
def test_mistakes(tmp_path, flags, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tokens": 250000}\n')
    assert error_of(curves.main, ["--add", str(tmp_path), *flags]).startswith(line)
