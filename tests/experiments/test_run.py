"""The jobs of a study: which remain after a stop, models of other studies, equal numbers of steps."""

import importlib
from dataclasses import replace

import pytest

from experiments import tables
from experiments.run import StudyRuns
from experiments.study import Study, TrainedModel
from pretrain.shares import allocate, shares
from tests.experiments.conftest import config_of
from tests.launching import ROOT
from tests.pretrain.tiny_run import make_corpus
from utils.errors import UserError


def test_a_stopped_study_goes_on(study, tmp_path):
    """Models b and c start from a, so a is trained again as long as the figures of b or c are missing.

    A training that comes twice is finished when it comes again.
    """
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")

    def remaining():
        return names_of(runs.chains(list(study.models.values()), [1]))

    all_of_a = ["a-1", "a-1 xnli", "a-1 figures"]
    all_of_b = ["b-1", "b-1 xnli", "b-1 figures"]
    all_of_c = ["c-1", "c-1 xnli", "c-1 figures"]
    assert remaining() == [[*all_of_a, "a-1", *all_of_b, "a-1", *all_of_c]]
    finish(runs, "a")
    assert remaining() == [["a-1", *all_of_b, "a-1", *all_of_c]]
    finish(runs, "b")
    assert remaining() == [["a-1", *all_of_c]]
    finish(runs, "c")
    assert remaining() == [[]]
    runs.study.measures.append("retrieval")
    assert remaining() == [["a-1", "untrained-1 figures"]]


# Model of the study "mix" -> its sequences in a late step: MMLM and BTMLM together, TLM, CAMLM.
SEQUENCES = {
    "camlm": (19, 0, 45),
    "camlm and tlm": (20, 22, 22),
    "half the camlm pairs": (19, 0, 22),
    "camlm plus tlm": (19, 45, 45),
    "camlm and a little tlm": (20, 6, 38),
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
    monkeypatch.setattr(StudyRuns, "steps", lambda self, name, seed: 7000)
    study = Study.read("mix")
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    trained_here = [model for model in study.models.values() if not model.trained_in and not model.revision]
    assert [model.name for model in trained_here] == list(SEQUENCES)
    for name, sequences in SEQUENCES.items():
        config = config_of(runs.pretraining(study.models[name], 1))
        for step in range(6990, 7000):
            share = shares(config.objectives, step, 7000)
            counts = allocate(share, config.optimizer.batch_size, step)
            monolingual = counts["mmlm"] + counts.get("btmlm", 0)
            assert (monolingual, counts.get("tlm", 0), counts.get("camlm", 0)) == sequences, name


def test_models_of_another_study(study, tmp_path, monkeypatch):
    """Model d starts from weights of another study; g shows the figures of a model that was trained there."""
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
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    models = [study.models["d"], study.models["g"]]
    with pytest.raises(UserError, match="g, seed 4: only the study of other/e f can train it"):
        runs.chains(models, [4])
    figures_of_other = tmp_path / "results" / "other" / "e-f-4.json"
    figures_of_other.parent.mkdir(parents=True)
    figures_of_other.write_text("{}")
    chains = runs.chains(models, [4])
    assert names_of(chains) == [["first-4", "e-f-4", "d-4", "d-4 xnli", "d-4 figures"]]
    _, _, training_d, *_ = chains[0]
    assert str(tmp_path / "other" / "e-f-4" / "full") in training_d.command
    assert tables.read_figures(replace(study, seeds=[4]), tmp_path / "results") == {"g": {4: {}}}


def test_a_start_that_is_left_out_is_trained(study, tmp_path):
    """Only b is asked for. It starts from a, so a is trained, but it is not measured."""
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    chains = runs.chains([study.models["b"]], [1, 2])
    assert names_of(chains) == [
        [f"a-{seed}", f"b-{seed}", f"b-{seed} xnli", f"b-{seed} figures"] for seed in (1, 2)
    ]


def test_a_model_of_another_revision_is_shown_and_never_trained(study, tmp_path):
    study.models["d"] = TrainedModel("d", {"objectives.gone": True}, revision="abc1234")
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    with pytest.raises(UserError, match="d, seed 1: .* abc1234"):
        runs.chains([study.models["d"]], [1])
    finish(runs, "d")
    assert runs.chains([study.models["d"]], [1]) == [[]]


def test_as_many_steps_as_another_model(study, tmp_path, monkeypatch):
    """`steps_as` gives the steps that run_pretrain.py would work out from the other model's tokens."""
    monkeypatch.setattr("pretrain.reader._PROBE_SEQUENCES", 400)  # a small sample for the tokens of a step
    flags = {"optimizer.tokens": 150_000, "optimizer.batch_size": 8}
    study.models["a"] = TrainedModel("a", flags)
    study.models["b"] = TrainedModel("b", {"optimizer.batch_size": 16}, steps_as="a")
    study = replace(study, pretrain="configs/pretrain/real4.yaml")
    runs = StudyRuns(study, tmp_path, tmp_path, tmp_path / "results")
    runs.corpus = make_corpus(tmp_path)
    monkeypatch.setattr("utils.manifest.sha256_of", None)  # the training compares the checksums
    steps = runs.steps("a", 1)
    assert steps != runs.steps("a", 2)  # the seed draws the text
    training_b = runs.pretraining(study.models["b"], 1)
    assert training_b.command[training_b.command.index("--optimizer.steps") + 1] == str(steps)
    assert config_of(training_b).optimizer.tokens == 0


def names_of(chains):
    """The names of the jobs of each chain."""
    return [[job.name for job in jobs] for jobs in chains]


def finish(runs, name):
    """Write the figures of a model with seed 1, as if it had been trained and measured."""
    path = runs.study.figures_file(runs.results, name, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")


PROGRAMS = [path.stem for path in ROOT.glob("experiments/*.py") if "load_config(" in path.read_text()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_help_of_a_program(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):  # the exit code
        importlib.import_module(f"experiments.{name}").main()
    assert capsys.readouterr().out.startswith(f"usage: {name}.py ")
