"""An objective needs one file, as docs/objectives.md and contrastive.py show."""

import hashlib
import json
import math
import pickle
import re

import pytest

from ernie_m.pretrain.objectives import register_files
from ernie_m.pretrain.pretraining import Pretraining
from tests.helpers.files import write_files
from tests.launching import ROOT, check_success, error_of, run_script
from tests.pretrain.tiny_run import config

KINDS = ("tlm", "camlm", "btmlm")
# An objective that is a kind of another one, with numbers of NumPy as scores.
KIND_OF = """
import numpy as np
from ernie_m.pretrain.objectives.{name} import {base}

class Own{base}({base}):
    def evaluate(self, examples, model, evaluator):
        scores = super().evaluate(examples, model, evaluator)
        return scores | {{"accuracy": np.float32(0.5)}}

    @classmethod
    def compute_metrics(cls, sums):
        return {{name: np.float64(value) for name, value in super().compute_metrics(sums).items()}}
"""


@pytest.fixture(scope="module")
def results(tiny_corpus, module_folder):
    """What new_objective_script.py wrote in a folder with the files."""
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    (whole_words,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    contrastive = (ROOT / "tests" / "pretrain" / "contrastive.py").read_text(encoding="utf-8")
    files = {
        "whole_words": whole_words,
        "contrastive": contrastive,
        **{f"own_{name}": KIND_OF.format(name=name, base=name.capitalize()) for name in KINDS},
    }
    write_files(module_folder, {f"{name}.py": code for name, code in files.items()})
    script = ROOT / "tests" / "pretrain" / "new_objective_script.py"
    process = check_success(run_script([script, tiny_corpus, module_folder / "out"], module_folder))
    return json.loads((module_folder / "out" / "results.json").read_text()), process.stdout + process.stderr


def test_custom_objective_is_equal_in_any_world_size(results):
    """40 pairs of a step are groups of 16, 16 and 8, all in one micro-batch, or each in its own."""
    steps, _ = results
    expected = steps["steps"].pop("1 processes, 4096 tokens")
    # Random weights find no translation: mmlm has 1/3 of log 200, the groups 2/3 of log 16 and log 8.
    assert expected[0] == pytest.approx(
        math.log(200) / 3 + 2 / 3 * (0.8 * math.log(16) + 0.2 * math.log(8)), rel=0.2
    )
    assert len(steps["steps"]) == 3
    for step in steps["steps"].values():
        assert step == pytest.approx(expected, rel=1e-12)


def test_it_is_trained_logged_evaluated_and_drawn(results):
    values, log = results
    *training, last = values["records"]
    losses = [record["contrastive"]["loss"] for record in training]
    assert losses[-1] < losses[0]
    assert list(last["held_out"]["contrastive"]) == ["de-en", "en-fr"]
    # A sentence alone in its group would have a loss of 0.
    assert all(scores["loss"] > 0.01 for scores in last["held_out"]["contrastive"].values())
    # A loss that compares sentences is no log-likelihood of a token, so it has no perplexity.
    assert training[-1]["contrastive"].keys() == {"loss", "accuracy"}
    assert re.search(r"\| contrastive \d\.\d{4} \(acc [\d.]+\)", log)
    assert re.search(r"\[held-out\] contrastive: loss \d\.\d{4}, accuracy", log)
    assert values["changed"].count("digests.whole_words.py: ") == 1
    assert values["refused"].startswith("run.micro_batch_tokens 511: contrastive")
    # Two sequences, [CLS] a b c [SEP] and [CLS] d e [SEP].
    (mask,) = values["masks"]
    assert mask.count("1 1 1 1 1 | . . . . ") == 5 and mask.count(". . . . . | 1 1 1 1 ") == 4


def test_custom_objective_kinds_train_evaluate_and_resume(results):
    """The script has compared the run with one that was stopped in between."""
    values, log = results
    scores = values["of_kinds"][-1]["held_out"]
    assert {"frequency_perplexity", "perplexity"} < scores["whole_words"]["de"].keys()
    assert "perplexity_without" in scores["own_btmlm"]["de-en"] and "[held-out] own_btmlm: " in log
    for name in KINDS:
        assert scores[f"own_{name}"]["de-en"]["accuracy"] == 0.5
        assert all(
            record[f"own_{name}"]["perplexity"] > 1 for record in values["of_kinds"] if "loss" in record
        )


def test_whole_words_are_masked(results):
    """In each text as many subwords as in MMLM, of whole words but for the last one."""
    values, _ = results
    for words, count in values["words"]:
        cut = [word for word in words if any(word) and not all(word)]
        assert sum(map(sum, words)) == count and len(cut) <= 1
    assert any(len(word) > 1 and all(word) for words, _ in values["words"] for word in words)


def test_a_file_that_is_edited_while_a_run_starts(tiny_corpus, tmp_path):
    """Main process, reader process and fingerprint have the version that was read first."""
    path = tmp_path / "own.py"
    code = KIND_OF.format(name="mmlm", base="Mmlm")
    path.write_text(code)
    task = Pretraining(
        config(tiny_corpus, objectives__path=[str(path)], objectives__mixing_ratios={"own": 1.0})
    )
    path.write_text("raise SystemError")
    assert task.fingerprint["digests"]["own.py"] == hashlib.sha256(code.encode()).hexdigest()
    read_steps = pickle.loads(pickle.dumps(task.make_batch_iterator(None)))
    assert next(read_steps()).counts["own"] > 0


@pytest.mark.parametrize("path", ["mmlm.py", "my-own.py"])
def test_names_that_no_file_can_have(tmp_path, in_tmp_path, path):
    (tmp_path / path).write_text(KIND_OF.format(name="mmlm", base="Mmlm"))
    assert error_of(register_files, [path]).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "code, location",
    [
        ("from ernie_m.pretrain.objectives.mmlm import Mmlm\n", "own.py, line 1: "),  # no objective
        (f"{KIND_OF}\nclass Second(Own):\n    pass\n".replace("Own{base}", "Own"), "own.py, line 14: "),
        ("import numpy\n\nnumpy.absent\n", "own.py, line 3: AttributeError"),
        ("import numpy\n\nclass Own(:\n", "own.py, line 3: SyntaxError"),
        (
            f"{KIND_OF}\n    def mask(self, example, rng):\n        1 / 0\n",
            "own.py, line 15: ZeroDivisionError",
        ),
        (f"{KIND_OF}\n    loss = lambda *_: 1 / 0\n", "own.py, line 14: ZeroDivisionError"),
        (None, "own.py: "),  # no file
    ],
)
def test_objective_file_errors_come_before_training(refused, tmp_path, in_tmp_path, code, location):
    if code is not None:
        (tmp_path / "own.py").write_text(code.format(name="mmlm", base="Mmlm"))
    assert refused(
        objectives__path=["own.py"], objectives__mixing_ratios={"own": 1}, run__eval_sequences=0
    ).startswith(f"error: {location}")
    assert not (tmp_path / "out" / "checkpoints").exists()
