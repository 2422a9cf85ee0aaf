"""A stop request in a run of several seeds: what is not complete is neither written nor reported."""

from contextlib import nullcontext
from types import SimpleNamespace

from ernie_m.finetune import evaluate, run_seeds
from ernie_m.finetune.evaluate import LanguageFile, evaluate_files, predict_test_files
from ernie_m.finetune.finetune_args import PredictionFlags


def test_a_stop_during_a_prediction_gives_no_scores_and_no_file(monkeypatch):
    monkeypatch.setattr(evaluate, "predict_files", lambda *given, **options: None)
    flags = PredictionFlags(batch_size=8, in_tokens=False, stall_ends_seconds=0)
    file = LanguageFile("test.%s", "en", None, [])
    # Without a task, whose `write` would be called.
    assert predict_test_files(None, None, {"test.en": file}, flags, 0, 2, None) is False
    assert evaluate_files(None, None, [file], flags, 0, None) is None


def test_a_stop_in_the_second_seed_ends_the_run_without_a_report(monkeypatch):
    ran = []
    folder = SimpleNamespace(make_seed_dir=lambda seed: folder, path="out")
    monkeypatch.setattr(run_seeds, "read_selected", lambda path: "its best step")
    monkeypatch.setattr(run_seeds, "open_output_dir", lambda *given: nullcontext(folder))
    monkeypatch.setattr(run_seeds, "run_seed", lambda run, seed, *given: ran.append(seed) or seed != 5)
    monkeypatch.setattr(run_seeds, "report_seeds", lambda run, evaluations: ran.append(evaluations))
    for seeds, expected in (((4, 6), [4, 6, {4: "its best step", 6: "its best step"}]), ((4, 5, 6), [4, 5])):
        flags = SimpleNamespace(seeds=seeds)
        ran.clear()
        run_seeds.train_seeds(SimpleNamespace(flags=flags, fingerprint=None, dev_files=[0]), {}, None)
        assert ran == expected
