"""Run a study of configs/experiments: train its models, fine-tune and measure them, and write its tables.

    DATA=/where/the/data/is python -m experiments.run table6
    DATA=/where/the/data/is python -m experiments.run table6 --models "[exp0, exp4]" --seeds "[1]"

Two seeds at a time have a core each. A model is finished when docs/results/<study>/<model>-<seed>.json is
there; the same command continues a stopped study. Weights are kept in --output.
"""

from utils.environment import run

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments import tables
from experiments.real_data import data_folder, prepare_corpus, prepare_ner, prepare_xnli
from experiments.study import UNTRAINED, Study, TrainedModel, folder_name
from pretrain.config import PretrainConfig
from pretrain.masking import Vocabulary
from pretrain.reader import TrainingText, open_corpus, total_steps
from scripts.jobs import Job, as_line, carry_out_chains
from utils.command_line import load_config
from utils.errors import UserError
from utils.options import PositiveInt, option

# The flags of all fine-tuning. One evaluation at the end of each epoch is enough.
FINE_TUNING = {
    "batch_size": 32,
    "learning_rate": 5e-4,
    "lr_schedule_style": "paddlenlp",
    "layerwise_lr_decay": 1.0,
    "weight_decay": 0.01,
    "warmup_proportion": 0.1,
    "predict_batch_size": 128,
    "skip_steps": 100,
    "validation_steps": 1_000_000,
    "save_steps": 1_000_000,
    "keep_checkpoints": 1,
    "select_on": "en",
    "do_train": "true",
    "do_val": "true",
    "do_test": "true",
}
# Task -> its program, and the flags that only this task has.
TASKS = {
    "xnli": ("run_classifier.py", {"num_labels": 3, "epoch": 2, "max_seq_len": 64}),
    "ner": ("run_sequence_labeling.py", {"num_labels": 7, "epoch": 3, "max_seq_len": 128}),
}


@dataclass
class StudyFlags:
    """What of which study is run."""

    study: str = option(positional=True)
    """A file of configs/experiments, without .yaml."""

    output: str = "output/experiments"
    seeds: list[int] = field(default_factory=list)
    """Only these."""

    models: list[str] = field(default_factory=list)
    """Only these."""

    at_once: PositiveInt = 2
    """The seeds side by side, on a core each."""


def main(arguments: Sequence[str] | None = None) -> None:
    flags = load_config(StudyFlags, arguments, __doc__)
    study = Study.read(flags.study)
    for name in flags.models:
        if name not in study.models:
            raise UserError(f"--models: {name} is not one of {', '.join(study.models)} ({study.name}.yaml)")
    for seed in flags.seeds:
        if seed not in study.seeds:
            raise UserError(f"--seeds: {seed} is not one of {study.seeds} ({study.name}.yaml)")
    if not study.corpus:
        raise UserError(f"{study.name}.yaml: it has no corpus; train its models by the commands of the docs")
    runs = StudyRuns(study, Path(flags.output), data_folder(), tables.RESULTS)
    runs.prepare_data()
    models = [study.models[name] for name in flags.models or study.models]
    carry_out_chains(runs.chains(models, flags.seeds or study.seeds), flags.at_once)
    tables.write(study, tables.RESULTS)


class StudyRuns:
    """The jobs of a study.

    Args:
        output: the folder of all studies; it has a folder for the corpus and one for each study.
        data: the folder of real data.
        results: the folder of figures; it has a folder for each study.

    Attributes:
        corpus: the corpus of the study.
        layout: the files of its tasks, in the official layout.
    """

    def __init__(self, study: Study, output: Path, data: Path, results: Path):
        self.study = study
        self.output = output
        self.data = data
        self.results = results
        self.corpus = output / study.corpus / "corpus"
        self.layout = output / study.corpus / "data"

    def prepare_data(self) -> None:
        """Make the corpus and the files of the study's tasks, where they are missing."""
        prepare_corpus(self.study.corpus, self.data, self.output / self.study.corpus)
        for task, prepare in (("xnli", prepare_xnli), ("ner", prepare_ner)):
            # label_map.json is written last.
            finished = (self.layout / task / "label_map.json").is_file()
            if task in self.study.measures and not finished:
                prepare(self.data, self.layout / task, self.corpus)

    def chains(self, models: list[TrainedModel], seeds: list[int]) -> list[list[Job]]:
        """A chain of jobs for each seed, one after the other: a model comes after its start.

        Chains may run side by side. A model whose figures are there has no jobs.
        """
        return [[job for model in models for job in self.jobs(model, seed)] for seed in seeds]

    def jobs(self, model: TrainedModel, seed: int) -> list[Job]:
        """Trainings, fine-tuning and figures of a model; none if its figures are there."""
        result = self.study.figures_file(self.results, model.name, seed)
        jobs = []
        if not result.is_file():
            if model.revision or model.trained_in:
                place = f"commit {model.revision}" if model.revision else f"the study of {model.trained_in}"
                raise UserError(f"{model.name}, seed {seed}: only {place} can train it")
            jobs += [self.fine_tuning(task, model, seed) for task in TASKS if task in self.study.measures]
            jobs.append(self.measuring(model, seed, result))
        from_random_weights = not (model.start or model.trained_in)
        if from_random_weights and "retrieval" in self.study.measures:
            # Random weights in the shape of this model, for comparison. All models of a study have one shape,
            # so the first of these jobs writes the figures, and the others are finished then.
            untrained_result = self.study.figures_file(self.results, UNTRAINED, seed)
            jobs.append(self.measuring(model, seed, untrained_result, "--untrained", seed))
        if all(job.finished() for job in jobs):
            return []
        return [*self.trainings(model, seed), *jobs]

    def trainings(self, model: TrainedModel, seed: int) -> list[Job]:
        """The jobs that train a model, after those that train its start, which is not measured here."""
        jobs = []
        if model.start:
            study, _, name = model.start.rpartition("/")
            runs = StudyRuns(Study.read(study), self.output, self.data, self.results) if study else self
            jobs = runs.trainings(runs.study.models[name], seed)
        return [*jobs, self.pretraining(model, seed)]

    def folder(self, name: str, seed: int) -> Path:
        """The output of a model's training. A model of another study is named <study>/<model>."""
        study, _, model_name = name.rpartition("/")
        return self.output / (study or self.study.name) / folder_name(model_name, seed)

    def pretraining(self, model: TrainedModel, seed: int) -> Job:
        """The job that trains a model."""
        folder = self.folder(model.name, seed)
        flags: dict[str, object] = {"data.corpus": self.corpus, "run.output": folder, "run.seed": seed}
        if model.start:
            start = self.folder(model.start, seed)
            # Not the seed of the start: with that the model would read the same text again.
            flags |= {"init.encoder": start / "full", "init.lm_head": "encoder", "run.seed": 100 + seed}
        for key, value in model.flags.items():
            # A command line gives lists and mappings as JSON.
            flags[key] = json.dumps(value) if isinstance(value, list | dict) else value
        if model.steps_as:
            flags["optimizer.steps"] = self.steps(model.steps_as, seed)
        command = ["run_pretrain.py", "--config", self.study.pretrain, *as_line(flags)]
        return self.job(folder.name, command, folder / "encoder" / "model.safetensors")  # its last file

    def steps(self, name: str, seed: int) -> int:
        """The number of optimizer steps of the model `name`, as run_pretrain.py works it out."""
        _program, *line = self.pretraining(self.study.models[name], seed).command
        config = load_config(PretrainConfig, list(map(str, line)))
        corpus, tokenizer = open_corpus(config.data)
        return total_steps(config, TrainingText.of(corpus, Vocabulary.of(tokenizer), config))

    def fine_tuning(self, task: str, model: TrainedModel, seed: int) -> Job:
        """The job that trains a model on one of TASKS and predicts the development sets."""
        program, flags_of_task = TASKS[task]
        folder = self.folder(model.name, seed)
        encoder = folder / "encoder"
        output = folder / task
        layout = self.layout / task
        flags = FINE_TUNING | flags_of_task
        flags |= {
            "ernie_config_path": encoder / "config.json",
            "vocab_path": encoder / "vocab.txt",
            "piece_model_path": encoder / "piece.model",
            "init_pretraining_params": encoder,
            "train_set": layout / "train" / "train.en.tsv",
            "dev_set": layout / "dev" / "dev.%s.tsv",
            "test_set": layout / "dev" / "dev.%s.tsv",
            "test_save": output / "predictions" / "test.%s.tsv",
            "label_map_config": layout / "label_map.json",
            "lang_map_config": layout / "lang_map.json",
            "checkpoints": output,
            "random_seed": seed,
        }
        command = [program, *as_line(flags)]
        return self.job(f"{folder.name} {task}", command, output / "results.json", log=output / "log")

    def measuring(self, model: TrainedModel, seed: int, result: Path, *flags: object) -> Job:
        """The job that writes the figures of a model to `result`. `flags` are more words of the command."""
        arguments = {
            "model": self.folder(model.name, seed),
            "corpus": self.corpus,
            "data": self.data,
            "layout": self.layout,
            "output": result,
            "measures": f"[{', '.join(self.study.measures)}]",
        }
        command = ["-m", "experiments.measure", *as_line(arguments)]
        return self.job(f"{result.stem} figures", [*command, *flags], result)

    def job(self, name: str, command: list[object], result: Path, log: Path | None = None) -> Job:
        """A job whose complete output goes to the folder of logs."""
        logs = self.output / self.study.name / "logs"
        return Job(name, command, result, log, output=logs / f"{name.replace(' ', '-')}.log")


if __name__ == "__main__":
    run(main)
