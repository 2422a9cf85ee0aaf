"""Records: means over the right things, the same after a resume; metrics.jsonl cut back to a checkpoint."""

import json
import math
import re
from collections import defaultdict
from dataclasses import replace

import pytest

from ernie_m.pretrain.log_lines import format_evaluation, format_record, make_record
from ernie_m.pretrain.loss import list_sum_names
from ernie_m.pretrain.objectives import get_objective_class
from ernie_m.pretrain.objectives.mmlm import Mmlm
from ernie_m.pretrain.pretraining import format_plateau_advice
from ernie_m.training.engine import StepResult
from ernie_m.training.log import Meter, MetricsFile
from tests.helpers.files import write_file
from tests.pretrain.tiny_run import config


def step(loss: float = 1.0, skipped: bool = False, **sums) -> StepResult:
    """The result of a step. mmlm_loss=30 sets the sum "mmlm.loss"; sums that are not given are 0."""
    given_sums = {name.replace("_", "."): float(value) for name, value in sums.items()}
    all_sums = dict.fromkeys(list_sum_names(), 0.0) | given_sums
    return StepResult(loss, all_sums, grad_norm=2 * loss, lr=0.1, skipped=skipped)


# The second and the third are skipped, because their loss is not finite.
SKIPPED = step(math.nan, skipped=True, mmlm_loss=math.nan, mmlm_count=10, tokens=100)
STEPS = [
    step(2.0, mmlm_loss=30, mmlm_count=10, tokens=100, flops=24e12, tlm_loss=4, tlm_count=4),
    SKIPPED,
    SKIPPED,
    step(
        4.0,
        mmlm_loss=10,
        mmlm_count=30,
        mmlm_correct=8,
        tokens=60,
        flops=24e12,
        btmlm_loss=5000,
        btmlm_count=5,
        pseudo=8,
        copied=2,
        repeated=4,
    ),
]


def test_speed_counts_the_interval():
    """A run that resumes counts the tokens of the run before it, but not in its speed.

    It trains 100 tokens in 2 seconds, then 60 in 4.
    """
    meter = Meter(tokens=1000.0)
    speeds = []
    for tokens, seconds in ((100, 2.0), (60, 6.0)):
        meter.add(step(tokens=tokens))
        interval = meter.end_interval(
            steps=1, step=step(), data=None, seconds=seconds, steps_per_second=1.0, remaining=""
        )
        speeds.append(interval.tokens_per_second)
    assert speeds == [50.0, 15.0]
    assert meter.tokens == 1160.0


def test_records_by_hand_and_in_words(monkeypatch):
    """STEPS as a record and as a line of the log. After the first one the run resumes from a checkpoint."""
    monkeypatch.setattr("ernie_m.training.distributed.world_size", lambda: 2)
    first_meter = Meter()
    first_meter.add(STEPS[0])
    sums, tokens = json.loads(json.dumps([first_meter.sums, first_meter.tokens]))
    meter = Meter(sums, tokens)
    for further_step in STEPS[1:]:
        meter.add(further_step)
    of_interval = {
        "step": replace(STEPS[-1], lr=2e-4),
        "data": None,
        "seconds": 60.0,
        "steps_per_second": 1.0,
        "remaining": "1:02:03",
    }
    record = make_record(meter.end_interval(steps=1500, **of_interval))
    record_without_steps = make_record(meter.end_interval(steps=1501, **of_interval))
    line = format_record(record, total_steps=20_000, remaining="1:02:03", tokens_per_epoch=64)
    assert line == (
        "step 1,500 of 20,000 | mmlm 1.0000 (ppl 2.7, acc 20.0) | tlm 1.0000 (ppl 2.7, acc 0.0) | "
        "btmlm 1000.0000 (ppl 5184705528587072045056.0, acc 0.0) | grad 6.00, lr 0.0002 | "
        "1 tokens/s, 0.15 TFLOP/s, 1:02:03 left | 2.50 epochs | 2 steps skipped"
    )
    # Without the skipped steps: the means of the losses 2 and 4 and of the norms 4 and 8. The losses of an
    # objective are means over tokens, not over steps: of mmlm 40 for 40 tokens, of which 8 are correct.
    assert record == {
        "step": 1500,
        "lr": 2e-4,
        "loss": 3.0,
        "grad_norm": 6.0,
        "tokens": 160.0,
        "tokens_per_second": 1.0,  # of the resumed run, 60 tokens in 60 seconds
        "teraflops": 0.15,  # in each of two processes, 48e12 operations for 160 tokens
        "skipped": 2.0,
        "mmlm": {"loss": 1.0, "perplexity": math.e, "accuracy": 0.2},
        "tlm": {"loss": 1.0, "perplexity": math.e, "accuracy": 0.0},
        # The exponential of 1000 would overflow.
        "btmlm": {
            "loss": 1000.0,
            "perplexity": math.exp(50),
            "accuracy": 0.0,
            "copy_rate": 0.25,
            "repeat_rate": 0.5,
        },
    }
    # Pseudo-tokens of [UNK] alone.
    assert get_objective_class("btmlm").compute_metrics(defaultdict(float, pseudo=2.0)) == {}
    # The next interval begins with sums of 0.
    line = format_record(record_without_steps, total_steps=9, remaining="", tokens_per_epoch=1)
    assert line.startswith("step 1,501 of 9 | grad -, ")
    assert record_without_steps == {
        "step": 1501,
        "lr": 2e-4,
        "loss": None,
        "grad_norm": None,
        "tokens": 160.0,
        "skipped": 0.0,
        "tokens_per_second": 0.0,
        "teraflops": 0.0,
    }


@pytest.mark.parametrize(
    ("tail", "dropped"),
    [
        ("", 1),  # the record of step 6
        ('{"step": 9, "lo', 2),
        ('{"step": 9}', 2),
        ('{"step": "4"}', 2),
        ('{"loss": 0.1}', 2),
        ("[4]", 2),
        ("\n", 1),
    ],
)
def test_cut_back_to_a_checkpoint(tmp_path, tail, dropped):
    """Records after step 4 go, and an incomplete last line; the number of those that went is returned."""
    path = tmp_path / "metrics.jsonl"
    kinds = [(2, "loss"), (4, "loss"), (4, "held_out"), (6, "loss")]
    lines = [json.dumps({"step": number, kind: 0.1 * number}) + "\n" for number, kind in kinds]
    path.write_text("".join(lines) + tail)
    no_evaluation = -1
    assert MetricsFile(path).truncate_after(step=4, evaluated_step=4) == dropped
    assert path.read_text() == "".join(lines[:3])
    assert MetricsFile(path).truncate_after(step=4, evaluated_step=no_evaluation) == 1
    assert path.read_text() == "".join(lines[:2])
    assert MetricsFile(tmp_path / "none.jsonl").truncate_after(step=4, evaluated_step=no_evaluation) == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_name_corrupt_record(tmp_path, caplog):
    """A last line that a kill cut short is not."""
    path = write_file(tmp_path / "metrics.jsonl", '{"step": 2}\n{"step": \n{"st')
    assert MetricsFile(path).truncate_after(step=4, evaluated_step=-1) == 2
    (line,) = caplog.messages
    assert line.startswith(f"{path}, line 2: ")


def test_an_evaluation_is_summarized_by_its_means():
    """The means over languages and pairs; of retrieval those of each layer."""
    result = {
        "mmlm": {
            "de": {"perplexity": 2.0, "frequency_perplexity": 10.0, "accuracy": 0.5},
            "en": {"perplexity": 8.0, "frequency_perplexity": 40.0, "accuracy": 0.0},
        },
        "btmlm": {
            "de-en": {
                "perplexity": 4.0,
                "accuracy": 0.3,
                "perplexity_without": 5.0,
            }
        },
        "retrieval": {"de-en": [0.1, 0.3], "en-fr": [0.2, 0.5]},
        "candidates": {"de-en": 200, "en-fr": 45},
    }
    assert format_evaluation(result) == [
        "[held-out] mmlm: perplexity 4.00 (geometric mean; unigram baseline: 20.00), accuracy 25.00 %",
        "[held-out] btmlm: perplexity 4.00 (geometric mean; without the pseudo-tokens: 5.00), "
        "accuracy 30.00 %",
        "[held-out] retrieval accuracy@1 among 45 to 200 sentences (chance 1.4 %): "
        "layer 0 15.0, layer 1 40.0 %",
    ]
    one_pair = {"retrieval": {"de-en": [0.1, 0.3]}, "candidates": {"de-en": 200}}
    (line,) = format_evaluation(one_pair)
    assert "among 200 sentences" in line
    assert format_evaluation({}) == []


def test_a_run_on_the_plateau():
    """A perplexity above half of the unigram baseline, in the geometric mean."""
    german = {"perplexity": 100.0, "frequency_perplexity": 400.0, "accuracy": 0.25}
    english = {"perplexity": 300.0, "frequency_perplexity": 400.0, "accuracy": 0.25}
    assert Mmlm.find_plateau([german, german], "advice") is None
    assert Mmlm.find_plateau([german, english], "advice") is None  # 173 next to 400
    line = Mmlm.find_plateau([english, english], "advice")
    assert "300" in line and "400" in line and line.endswith("advice")
    assert Mmlm.find_plateau([], "advice") is None


def test_the_advice_is_not_what_the_run_does(tmp_path):
    """A static model only initializes a new encoder."""
    alone = {"objectives__mixing_ratios": {"mmlm": 1}}
    later = {**alone, "objectives__later_mixing_ratios": {"mmlm": 1, "tlm": 1}}
    for changes, named in (
        ({}, ["init.word_embeddings", "objectives.later_mixing_ratios"]),
        ({"init__word_embeddings": "table"}, ["objectives.later_mixing_ratios"]),
        ({"init__encoder": "model"}, ["objectives.later_mixing_ratios"]),
        (later, ["init.word_embeddings"]),
        (alone, ["init.word_embeddings"]),
    ):
        advice = format_plateau_advice(config(tmp_path, **changes))
        assert re.findall(r"init\.\w+|objectives\.\w+", advice) == named
