"""A metric of a file of the user's: in the log, the report and the selection, and when a run resumes."""

import json
import shutil
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_m.finetune.checkpoint_selection import add_metric
from ernie_m.finetune.evaluate import LanguageFile
from ernie_m.model.tasks import QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.utils.files import compute_sha256

# The step with the fewest right labels is selected.
METRIC = """
def wrong(predictions, targets):
    assert {*predictions, *targets} <= {"animal", "drink", "tool"}
    wrong = sum(prediction != target for prediction, target in zip(predictions, targets, strict=True))
    # The last one stands in place of the task's own, of which it is the double.
    share = wrong / len(targets)
    return {"wrong": 100 * share, "rows": len(targets), "acc": 200 - 200 * share}
"""


def test_it_scores_selects_and_is_compared_when_a_run_resumes(classify, refused, tmp_path):
    (tmp_path / "my.py").write_text(METRIC)
    flags = {"metric": "my.py:wrong", "max_steps": 12, "validation_steps": 3, "save_steps": 6}
    results = classify(**flags)
    means = {table["title"].split(",")[0]: table["mean"]["avg"] for table in results["tables"]}
    wrong = means["wrong"]
    assert means == {"wrong": wrong, "rows": 31, "acc": pytest.approx(200 - 2 * wrong)}
    records = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    scores = [*chain.from_iterable(record["held_out"].values() for record in records if "held_out" in record)]
    shares = [np.mean([language["wrong"] for language in of_step.values()]) for of_step in scores]
    assert results["metric"] == "wrong" and min(shares) < max(shares)
    assert results["selected"]["1"]["selected_by"] == pytest.approx(max(shares))

    # The run resumes from step 6 with the same file elsewhere, and not with another one.
    for path in ("selected.json", "selected.json.digest"):
        (tmp_path / "out" / path).unlink()
    shutil.rmtree(tmp_path / "out" / "step_12")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "my.py").rename(tmp_path / "elsewhere" / "my.py")
    assert classify(**{**flags, "metric": f"{moved}:wrong"})["tables"] == results["tables"]
    moved.write_text(f"{METRIC}# changed\n")
    assert "metric.wrong: " in refused(**{**flags, "metric": f"{moved}:wrong"})


@pytest.mark.parametrize(
    ("task_name", "gold", "predictions"),
    [
        (TOKEN_CLASSIFICATION, [["B-A", "O"], ["O"]], [["B-A", "O"], ["O"]]),
        (QUESTION_ANSWERING, [("x", "z"), ("y",)], ["x", "y"]),  # of each question the first answer
    ],
)
def test_a_metric_is_tried_on_gold_values(tmp_path, task_name, gold, predictions):
    """Those of the first file, before the training."""
    tried = f"assert (predictions, targets) == ({predictions}, {gold})"
    (tmp_path / "my.py").write_text(
        f"def one(predictions, targets):\n    {tried}\n    return {{'one': 1.0}}\n"
    )
    task = SimpleNamespace(name=task_name, get_gold_values=lambda data: data)
    digest = compute_sha256(tmp_path / "my.py")
    add_metric(task, f"{tmp_path}/my.py:one", [LanguageFile("dev", "en", None, gold), None])
    assert (task.metric, task.metric_digest) == ("one", digest)
