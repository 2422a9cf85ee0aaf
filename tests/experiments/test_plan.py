"""The plan of a study: which jobs remain after a stop, models of other studies, equal numbers of steps."""

from dataclasses import replace

import pytest

from experiments import tables
from experiments.plan import StudyPlan, config_of
from experiments.study import Study, TrainedModel
from pretrain.shares import examples_of_step, shares
from tests.pretrain.tiny_run import make_corpus
from utils.errors import UserError


def test_a_stopped_study_goes_on(study, tmp_path):
    """Models b and c start from a, so a is trained again as long as the figures of b or c are missing."""
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", seeds=[1])

    def remaining():
        """The names of the jobs of each chain."""
        return [names_of(jobs) for jobs in planned.chains()]

    all_of_a = ["a-1", "a-1 xnli", "a-1 figures"]
    all_of_b = ["b-1", "b-1 xnli", "b-1 figures"]
    all_of_c = ["c-1", "c-1 xnli", "c-1 figures"]
    assert remaining() == [all_of_a, all_of_b, all_of_c]
    finish(planned, "a")
    assert remaining() == [["a-1"], all_of_b, all_of_c]
    finish(planned, "b")
    assert remaining() == [["a-1"], all_of_c]
    finish(planned, "c")
    assert remaining() == []
    planned.study.measures.append("retrieval")
    assert remaining() == [["a-1", "untrained-1 figures"]]


# Model of the study "mix" -> its sequences in a late step: MMLM and BTMLM together, TLM, CAMLM.
SEQUENCES = {
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
    "camlm plus monolingual text": (64, 0, 45),
    "half of everything": (10, 0, 22),
}


def test_the_sequences_of_the_mixes(tmp_path, monkeypatch):
    """The last ten steps have these sequences. Earlier steps may have other shares of objectives."""
    # For `steps_as` it would read a corpus, which is not there.
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


def test_models_of_another_study(study, tmp_path, monkeypatch):
    """Model d starts from weights of another study; g was trained there and is only measured."""
    text = """
        title: Other
        corpus: none
        pretrain: none.yaml
        seeds: [1]
        models: {first: , e f: {start: first}}
        measures: [xnli]
        """
    (tmp_path / "other.yaml").write_text(text)
    monkeypatch.setattr("experiments.study.STUDIES", tmp_path)
    study.models["d"] = TrainedModel("d", start="other/e f")
    study.models["g"] = TrainedModel("g", trained_in="other/e f")
    study = replace(study, measures=["retrieval", "xnli"])
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", seeds=[4], models=["d", "g"])
    first, e_f, chain_of_d, chain_of_g = planned.chains()
    assert names_of(first) == ["first-4"]
    assert names_of(e_f) == ["e-f-4"]
    assert names_of(chain_of_d) == ["d-4", "d-4 xnli", "d-4 figures"]
    assert names_of(chain_of_g) == ["e-f-4 xnli", "g-4 figures"]
    folder = tmp_path / "other" / "e-f-4"
    weights = folder / "encoder" / "model.safetensors"
    training_d = chain_of_d[0]
    assert training_d.after == weights
    assert str(folder / "full") in training_d.command
    for job in chain_of_g:
        assert job.after == weights
    measuring_g = chain_of_g[-1]
    assert str(folder) in measuring_g.command
    assert str(planned.result("g", 4)) in measuring_g.command
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert planned.chains() == [chain_of_d, chain_of_g]
    figures_of_other = tmp_path / "results" / "other" / "e-f-4.json"
    figures_of_other.parent.mkdir(parents=True)
    figures_of_other.write_text("{}")
    assert planned.chains() == [chain_of_d]
    assert tables.read_figures(replace(study, seeds=[4]), tmp_path / "results") == {"g": {4: {}}}


def test_a_start_that_is_left_out_is_trained(study, tmp_path):
    """Only b is asked for. It starts from a, so a is trained, but it is not measured."""
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results", seeds=[1], models=["b"])
    assert [names_of(jobs) for jobs in planned.chains()] == [["a-1"], ["b-1", "b-1 xnli", "b-1 figures"]]


def test_as_many_steps_as_another_model(study, tmp_path, monkeypatch):
    """`steps_as` gives the steps that run_pretrain.py would work out from the other model's tokens."""
    monkeypatch.setattr("pretrain.reader._PROBE_SEQUENCES", 400)  # a small sample for the tokens of a step
    flags = {"optimizer.tokens": 150_000, "optimizer.batch_size": 8}
    study.models["a"] = TrainedModel("a", flags)
    study.models["b"] = TrainedModel("b", {"optimizer.batch_size": 16}, steps_as="a")
    study = replace(study, pretrain="configs/pretrain/real4.yaml")
    planned = StudyPlan(study, tmp_path, tmp_path, tmp_path / "results")
    planned.corpus = make_corpus(tmp_path)
    monkeypatch.setattr("utils.manifest.sha256_of", None)  # the run compares the checksums, not the plan
    steps = planned.steps("a", 1)
    assert steps != planned.steps("a", 2)  # the seed draws the text
    command = planned.pretraining(study.models["b"], 1).command
    assert command[command.index("--optimizer.steps") + 1] == str(steps)
    assert config_of(planned.pretraining(study.models["b"], 1)).optimizer.tokens == 0
    with pytest.raises(UserError, match="the corpus is not there yet, .* a run without --dry builds it"):
        StudyPlan(study, tmp_path, tmp_path, tmp_path / "results").steps("a", 1)


def names_of(jobs):
    return [job.name for job in jobs]


def finish(planned, name):
    """Write the figures of a model with seed 1, as if it had been trained and measured."""
    path = planned.result(name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
