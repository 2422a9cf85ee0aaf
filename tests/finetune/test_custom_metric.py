"""A metric of a file of the user's: in the log, the report and the selection, and when a run resumes."""

import json
import shutil

import pytest

from tests.launching import read_log

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
    wrong, rows, right = results["tables"]
    assert [table["title"].split(",")[0] for table in results["tables"]] == ["wrong", "rows", "acc"]
    assert {*rows["mean"].values()} >= {31.0}
    assert wrong["mean"]["avg"] + right["mean"]["avg"] / 2 == pytest.approx(100)
    records = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    evaluations = {record["step"]: record["held_out"] for record in records if "held_out" in record}
    means = {
        step: sum(language["wrong"] for language in scores.values()) / len(scores)
        for step, (scores,) in ((step, [*patterns.values()]) for step, patterns in evaluations.items())
    }
    assert len({*means.values()}) > 1
    selected = results["selected"]["1"]
    assert (results["metric"], selected["selected_by"]) == ("wrong", max(means.values()))
    assert "en wrong: " in read_log(tmp_path)

    # The run resumes from step 6 with the same file elsewhere, and not with another one.
    for path in ("selected.json", "selected.json.digest"):
        (tmp_path / "out" / path).unlink()
    shutil.rmtree(tmp_path / "out" / "step_12")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "my.py").rename(tmp_path / "elsewhere" / "my.py")
    assert classify(**{**flags, "metric": f"{moved}:wrong"})["tables"] == results["tables"]
    moved.write_text(f"{METRIC}# changed\n")
    assert "metric.wrong: " in refused(**{**flags, "metric": f"{moved}:wrong"})
