"""The plan of a study: what is left after a stop, models of other studies, as many steps as another model."""

from dataclasses import replace

import pytest

from experiments.plan import StudyPlan, config_of
from experiments.study import Study, TrainedModel
from pretrain.shares import examples_of_step, shares
from tests.pretrain.tiny_run import make_corpus
from utils.errors import UserError


def test_a_stopped_study_goes_on(study, tmp_path):
    """A start is trained again only if a model that needs it is missing; finished figures are kept."""
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", [1])

    def left():
        return [[job.name for job in jobs] for jobs in planned.chains()]

    everything = [[f"{name}-1", f"{name}-1 xnli", f"{name}-1 figures"] for name in "abc"]
    assert left() == everything
    finish(planned, "a")
    assert left() == [["a-1"], *everything[1:]]
    finish(planned, "b")
    assert left() == [["a-1"], everything[2]]
    finish(planned, "c")
    assert left() == []


SEQUENCES = {  # of a step, in the last part of the run: MMLM and BTMLM in all, TLM, CAMLM
    "camlm": (19, 0, 45),
    "camlm and tlm": (20, 22, 22),
    "half the camlm pairs": (19, 0, 22),
    "camlm plus tlm": (19, 45, 45),
    "camlm and a little tlm": (20, 6, 38),
    "camlm and tlm on the same pairs": (19, 45, 45),
    "less camlm and more monolingual text": (42, 0, 22),
    "tlm then camlm": (19, 0, 45),
    "camlm then tlm": (19, 45, 0),
    "camlm plus tlm at equal tokens": (19, 45, 45),
}


def test_the_sequences_of_the_mixes(tmp_path, monkeypatch):
    monkeypatch.setattr(StudyPlan, "steps", lambda self, name, seed: 7000)
    study = Study.read("mix")
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results")
    assert [name for name, model in study.models.items() if not model.trained_in] == list(SEQUENCES)
    for name, sequences in SEQUENCES.items():
        config = config_of(planned.pretraining(study.models[name], 1))
        for step in range(6990, 7000):
            share = shares(config.objectives, step, 7000)
            counts = examples_of_step(config.objectives, share, config.optimizer.batch_size, step)
            monolingual = counts["mmlm"] + counts.get("btmlm", 0)
            assert (monolingual, counts.get("tlm", 0), counts.get("camlm", 0)) == sequences, name


def test_models_of_another_study(study, tmp_path):
    """One starts from weights of another study, and one was trained there and is only measured."""
    study.models["d"] = TrainedModel("d", start="other/e f")
    study.models["g"] = TrainedModel("g", trained_in="other/e f")
    study.measures[:] = ["retrieval"]
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", [1], ["d", "g"])
    weights = tmp_path / "other" / "e-f-1" / "full"
    with pytest.raises(
        UserError, match=f"{weights}: not there, but d needs it: first .* other --models 'e f'"
    ):
        planned.chains()
    weights.mkdir(parents=True)
    (trained, figures), (measured, untrained) = planned.chains()
    assert [job.name for job in (trained, figures, measured, untrained)] == [
        "d-1",
        "d-1 figures",
        "g-1 figures",
        "untrained-1 figures",
    ]
    assert trained.after == weights.parent / "encoder" / "model.safetensors"
    assert str(weights) in trained.command
    assert str(weights.parent) in measured.command and str(planned.result("g", 1)) in measured.command


def test_a_start_that_is_left_out_must_be_there(study, tmp_path):
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", [1], ["b"])
    with pytest.raises(UserError, match="a-1/full: not there, but b needs it: first run .* made-up --models"):
        planned.chains()
    assert len(StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", [1], ["a"]).chains()) == 1
    (tmp_path / "made-up" / "a-1" / "full").mkdir(parents=True)
    assert [jobs[0].name for jobs in planned.chains()] == ["b-1"]


def test_as_many_steps_as_another_model(study, tmp_path, monkeypatch):
    """`steps_as` gives the steps that run_pretrain.py would work out from the other model's tokens."""
    monkeypatch.setattr("pretrain.reader._PROBE_SEQUENCES", 400)
    flags = {"optimizer.tokens": 150_000, "optimizer.batch_size": 8}
    study.models["a"] = TrainedModel("a", flags)
    study.models["b"] = TrainedModel("b", {"optimizer.batch_size": 16}, steps_as="a")
    study = replace(study, pretrain="configs/pretrain/real4.yaml")
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results")
    planned.corpus = make_corpus(tmp_path)
    steps = planned.steps("a", 1)
    assert steps != planned.steps("a", 2)  # the seed draws the text
    command = planned.pretraining(study.models["b"], 1).command
    assert command[command.index("--optimizer.steps") + 1] == str(steps)
    assert config_of(planned.pretraining(study.models["b"], 1)).optimizer.tokens == 0
    with pytest.raises(UserError, match="no finished corpus there"):
        StudyPlan(study, tmp_path, tmp_path, tmp_path / "results").steps("a", 1)


def finish(planned, name):
    path = planned.result(name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
