"""What is to be done for a study: the jobs of each model and seed, each after what it needs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.study import UNTRAINED, Study, TrainedModel, folder_name
from pretrain.config import PretrainConfig
from pretrain.masking import Vocabulary
from pretrain.reader import TrainingText, open_corpus, total_steps
from pretrain.shares import examples_of_step, shares
from scripts.jobs import Job, as_line
from utils.command_line import load_config
from utils.errors import UserError

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
# Minutes on one core of an AMD EPYC (Zen 4): to pre-train on a million tokens, to measure, to fine-tune.
MINUTES = {"million tokens": 2.2, "figures": 0.6, "xnli": 6.0, "ner": 3.5}
TOKENS_PER_SEQUENCE = 28  # roughly, with configs/pretrain/real4.yaml


class StudyPlan:
    """The jobs of a study.

    Args:
        output: the folder of all studies; it has a folder for the corpus and one for each study.
        data: the folder of real data.
        results: the folder of figures; it has a folder for each study.
        seeds: these instead of the study's; empty: the study's.
        models: only these; empty: all.

    Attributes:
        corpus: the corpus of the study.
        layout: the files of its tasks, in the official layout.
        logs: the complete output of each job.
    """

    def __init__(
        self,
        study: Study,
        output: Path,
        data: Path,
        results: Path,
        seeds: Sequence[int] = (),
        models: Sequence[str] = (),
    ):
        self.study = study
        self.output = output
        self.data = data
        self.results = results
        self.seeds = seeds or study.seeds
        self.models = models or list(study.models)
        self.corpus = output / study.corpus / "corpus"
        self.layout = output / study.corpus / "data"
        self.logs = output / study.name / "logs"

    def chains(self) -> list[list[Job]]:
        """The jobs of each model and seed that has not finished, after those of the weights that it needs."""
        chains: dict[Path, list[Job]] = {}  # by the folder of the model
        for model in self.study.models.values():
            if model.name not in self.models:
                continue
            for seed in self.seeds:
                jobs = self.jobs(model, seed)
                if all(job.finished() for job in jobs):
                    continue
                for folder, training in self.missing_weights(model, seed).items():
                    chains.setdefault(folder, training)
                chains[self.folder(model.name, seed)] = jobs
        return list(chains.values())

    def jobs(self, model: TrainedModel, seed: int) -> list[Job]:
        """Training, fine-tuning and figures of a model; none if its figures are there."""
        result = self.result(model.name, seed)
        jobs = []
        if not result.is_file():
            jobs += [self.fine_tuning(task, model, seed) for task in TASKS if task in self.study.measures]
            jobs.append(self.measuring(model, seed, result))
        from_random_weights = not (model.start or model.trained_in)
        if from_random_weights and "retrieval" in self.study.measures:
            # Random weights in the shape of this model, for comparison. All models of a study have one shape,
            # so the first of these jobs writes the figures, and the others are finished then.
            untrained_result = self.result(UNTRAINED, seed)
            jobs.append(self.measuring(model, seed, untrained_result, "--untrained", seed))
        if model.trained_in or all(job.finished() for job in jobs):
            return jobs
        return [self.pretraining(model, seed), *jobs]

    def missing_weights(self, model: TrainedModel, seed: int) -> dict[Path, list[Job]]:
        """The trainings of other models that this one needs and that have not finished, a start first.

        Returns:
            folder of a model -> a chain with the one job that trains it.
        """
        reference = model.trained_in or model.start
        if not reference:
            return {}
        study, _, name = reference.rpartition("/")
        owner = StudyPlan(Study.read(study), self.output, self.data, self.results) if study else self
        needed = owner.study.models[name]
        job = owner.pretraining(needed, seed)
        if job.finished():
            return {}
        return owner.missing_weights(needed, seed) | {owner.folder(name, seed): [job]}

    def result(self, name: str, seed: int) -> Path:
        """The file of figures, which is written last."""
        return self.study.figures_file(self.results, name, seed)

    def folder(self, name: str, seed: int) -> Path:
        """The output of a model's training. A model of another study is named <study>/<model>."""
        study, _, model_name = name.rpartition("/")  # study: "" without a slash
        return self.output / (study or self.study.name) / folder_name(model_name, seed)

    def pretraining(self, model: TrainedModel, seed: int) -> Job:
        """The job that trains a model; it waits for the weights of its start."""
        folder = self.folder(model.name, seed)
        flags: dict[str, object] = {"data.corpus": self.corpus, "run.output": folder, "run.seed": seed}
        after = None
        if model.start:
            start = self.folder(model.start, seed)
            after = self.trained_file(start)
            # Not the seed of the start: with that the model would read the same text again.
            flags |= {"init.encoder": start / "full", "init.lm_head": "encoder", "run.seed": 100 + seed}
        for key, value in model.flags.items():
            # A command line gives lists and mappings as JSON.
            flags[key] = json.dumps(value) if isinstance(value, list | dict) else value
        if model.steps_as:
            flags["optimizer.steps"] = self.steps(model.steps_as, seed)
        command = ["run_pretrain.py", "--config", self.study.pretrain, *as_line(flags)]
        job = self.job(folder.name, command, self.trained_file(folder))
        return replace(job, after=after)

    @staticmethod
    def trained_file(folder: Path) -> Path:
        """The weights in the output of a training, which are there once it is finished."""
        return folder / "encoder" / "model.safetensors"

    def steps(self, name: str, seed: int) -> int:
        """The number of optimizer steps of the model `name`, as run_pretrain.py works it out.

        Raises:
            UserError: the corpus of the study has not been built.
        """
        if not self.corpus.is_dir():
            raise UserError(
                f"{self.corpus}: the corpus is not there yet, and some numbers of steps depend on it; "
                "a run without --dry builds it first"
            )
        config = config_of(self.pretraining(self.study.models[name], seed))
        corpus, tokenizer = open_corpus(config.data)
        return total_steps(config, TrainingText.of(corpus, Vocabulary.of(tokenizer), config))

    def fine_tuning(self, task: str, model: TrainedModel, seed: int) -> Job:
        """The job that trains a model on one of TASKS and predicts the development sets."""
        program, flags_of_task = TASKS[task]
        folder = self.folder(model.trained_in or model.name, seed)
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
        job = self.job(f"{folder.name} {task}", [program, *as_line(flags)], output / "results.json")
        return replace(job, log=output / "log", after=self.trained_file(folder))

    def measuring(self, model: TrainedModel, seed: int, result: Path, *flags: object) -> Job:
        """The job that writes the figures of a model to `result`. `flags` are more words of the command."""
        folder = self.folder(model.trained_in or model.name, seed)
        arguments = {
            "model": folder,
            "corpus": self.corpus,
            "data": self.data,
            "layout": self.layout,
            "output": result,
        }
        command = ["-m", "experiments.measure", *as_line(arguments), "--measures", *self.study.measures]
        job = self.job(f"{result.stem} figures", [*command, *flags], result)
        return replace(job, after=self.trained_file(folder))

    def job(self, name: str, command: list[object], result: Path) -> Job:
        """A job whose complete output goes to the folder of logs."""
        return Job(name, command, result, output=self.logs / f"{name.replace(' ', '-')}.log")


def config_of(pretraining: Job) -> PretrainConfig:
    """The configuration of a job of run_pretrain.py, from its command line."""
    return load_config(PretrainConfig, [str(word) for word in pretraining.command[1:]])


def minutes(job: Job) -> float:
    """Roughly how long a job takes on one core."""
    if job.command[0] != "run_pretrain.py":
        kind = job.name.split()[-1]  # "b-1 xnli", "b-1 ner" or "b-1 figures"
        return MINUTES[kind]
    config = config_of(job)
    tokens = config.optimizer.tokens
    if not tokens:
        steps = config.optimizer.steps
        last_shares = shares(config.objectives, steps - 1, steps)
        examples = examples_of_step(config.objectives, last_shares, config.optimizer.batch_size, steps - 1)
        tokens = steps * sum(examples.values()) * TOKENS_PER_SEQUENCE
    return tokens / 1e6 * MINUTES["million tokens"]
