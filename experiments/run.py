"""Run a study of configs/experiments: train its models, fine-tune and measure them, and write its tables.

    DATA=/where/the/data/is python -m experiments.run table6 --dry    what it would do, and in how many hours
    DATA=/where/the/data/is python -m experiments.run table6
    DATA=/where/the/data/is python -m experiments.run table6 --models exp0 exp4 --seeds 1    # only these

Two runs at a time have a core each. A model is finished when docs/results/<study>/<model>-<seed>.json is
there; the same command continues a stopped study. Weights are kept in --output.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments import tables
from experiments.real_data import prepare_corpus, prepare_ner, prepare_xnli
from experiments.study import UNTRAINED, Study, TrainedModel
from pretrain.config import PretrainConfig
from pretrain.masking import Vocabulary
from pretrain.reader import TrainingText, open_corpus, total_steps
from pretrain.shares import examples_of_step, shares
from scripts.jobs import Job, as_line, carry_out_chains
from utils.command_line import load_config
from utils.errors import UserError, run

RESULTS, IMAGES = tables.RESULTS, tables.IMAGES
SHARED = {
    "batch_size": 32, "learning_rate": 5e-4, "lr_schedule_style": "paddlenlp", "layerwise_lr_decay": 1.0,
    "weight_decay": 0.01, "warmup_proportion": 0.1, "predict_batch_size": 128, "skip_steps": 100,
    "validation_steps": 1_000_000, "save_steps": 1_000_000, "keep_checkpoints": 1, "select_on": "en",
    "do_train": "true", "do_val": "true", "do_test": "true",
}  # fmt: skip
TASKS = {
    "xnli": ("run_classifier.py", {"num_labels": 3, "epoch": 2, "max_seq_len": 64}),
    "ner": ("run_sequence_labeling.py", {"num_labels": 7, "epoch": 3, "max_seq_len": 128}),
}
# Of one core of an AMD EPYC (Zen 4), for --dry.
MINUTES = {"million tokens": 2.2, "figures": 0.6, "xnli": 6.0, "ner": 3.5}
TOKENS_PER_SEQUENCE = 28  # roughly, with configs/pretrain/real4.yaml


class StudyRun:
    """The jobs of a study, in a folder of outputs.

    Args:
        output: has a folder for the corpus and one for each study.
        data: the folder of real data.
        seeds, models: only these; empty: all.
    """

    def __init__(
        self, study: Study, output: Path, data: Path, seeds: Sequence[int] = (), models: Sequence[str] = ()
    ):
        self.study = study
        self.output = output
        self.data = data
        self.seeds = seeds or study.seeds
        self.models = models or list(study.models)
        self.corpus = output / study.corpus / "corpus"
        self.layout = output / study.corpus / "data"

    def prepare(self) -> None:
        """Make the corpus, the files of the study's tasks and the folder of logs, where they are missing."""
        prepare_corpus(self.study.corpus, self.data, self.output / self.study.corpus)
        for task, make in (("xnli", prepare_xnli), ("ner", prepare_ner)):
            # label_map.json is written last.
            if task in self.study.measures and not (self.layout / task / "label_map.json").is_file():
                make(self.data, self.layout / task, self.corpus)
        (self.output / self.study.name / "logs").mkdir(parents=True, exist_ok=True)

    def chains(self) -> list[list[Job]]:
        """What is left to do: the jobs of each model and seed; a start comes before what needs it.

        Raises:
            UserError: a model starts from weights that are not there.
        """
        chains = []
        for model, seed in self.study.runs():
            if seed in self.seeds and model.name in self.models:
                jobs = self.jobs(model, seed)
                if not all(job.finished() for job in jobs):
                    self.check_weights(model, seed)
                    chains.append(jobs)
        return chains

    def jobs(self, model: TrainedModel, seed: int) -> list[Job]:
        """Training, fine-tuning and figures of a model, without what has been done."""
        result = self.result(model.name, seed)
        jobs = []
        if model.trained_in:
            jobs.append(self.figures_job(model, seed, result))
        else:
            dependent = [row.name for row in self.study.models.values() if row.start == model.name]
            results = [self.result(name, seed) for name in (model.name, *dependent) if name in self.models]
            if not all(path.is_file() for path in results):
                jobs.append(self.pretraining(model, seed))
            if not result.is_file():
                jobs += self.fine_tuning_and_figures(model, seed)
        if not model.start and "retrieval" in self.study.measures:
            jobs.append(self.figures_job(model, seed, self.result(UNTRAINED, seed), "--untrained", seed))
        return jobs

    def check_weights(self, model: TrainedModel, seed: int) -> None:
        """Raise a UserError if the model needs weights that neither exist nor are trained in this call."""
        needed = model.trained_in or model.start
        if not needed or needed in self.models:
            return
        weights = self.folder(needed, seed) / "full"
        if not weights.is_dir():
            study, _, name = needed.rpartition("/")
            raise UserError(
                f"{weights}: not there, but {model.name} needs it: first run python -m experiments.run "
                f"{study or self.study.name} --models '{name}' --seeds {seed}"
            )

    def result(self, name: str, seed: int) -> Path:
        """The file of figures, which is written last."""
        return RESULTS / self.study.name / f"{self.folder(name, seed).name}.json"

    def folder(self, name: str, seed: int) -> Path:
        """The output of a model's training. A model of another study is named <study>/<model>."""
        study, _, name = name.rpartition("/")
        return self.output / (study or self.study.name) / f"{name.replace(' ', '-')}-{seed}"

    def pretraining(self, model: TrainedModel, seed: int) -> Job:
        folder = self.folder(model.name, seed)
        flags: dict[str, object] = {"data.corpus": self.corpus, "run.output": folder, "run.seed": seed}
        after = None
        if model.start:
            start = self.folder(model.start, seed)
            after = start / "encoder" / "model.safetensors"
            # The start has seen the items that its own seed draws.
            flags |= {"init.encoder": start / "full", "init.lm_head": "encoder", "run.seed": 100 + seed}
        for key, value in model.flags.items():
            flags[key] = json.dumps(value) if isinstance(value, list | dict) else value
        if model.steps_as:
            flags |= {"optimizer.steps": self.steps(model.steps_as, seed), "optimizer.tokens": 0}
        command = ["run_pretrain.py", "--config", self.study.pretrain, *as_line(flags)]
        job = self.job(folder.name, command, folder / "encoder" / "model.safetensors")
        return replace(job, after=after)

    def steps(self, name: str, seed: int) -> int:
        """The number of optimizer steps of a model, as run_pretrain.py works it out.

        Raises:
            UserError: the corpus of the study has not been built.
        """
        config = config_of(self.pretraining(self.study.models[name], seed))
        corpus, tokenizer = open_corpus(config.data)
        return total_steps(config, TrainingText.of(corpus, Vocabulary.of(tokenizer), config))

    def fine_tuning_and_figures(self, model: TrainedModel, seed: int) -> list[Job]:
        """Fine-tuning for each task, and then the figures."""
        folder, jobs = self.folder(model.name, seed), []
        for task in [name for name in TASKS if name in self.study.measures]:
            program, own = TASKS[task]
            layout, encoder, output = self.layout / task, folder / "encoder", folder / task
            flags = SHARED | own | {
                "ernie_config_path": encoder / "config.json", "vocab_path": encoder / "vocab.txt",
                "piece_model_path": encoder / "piece.model", "init_pretraining_params": encoder,
                "train_set": layout / "train" / "train.en.tsv", "dev_set": layout / "dev" / "dev.%s.tsv",
                "test_set": layout / "dev" / "dev.%s.tsv",
                "test_save": output / "predictions" / "test.%s.tsv",
                "label_map_config": layout / "label_map.json", "lang_map_config": layout / "lang_map.json",
                "checkpoints": output, "random_seed": seed,
            }  # fmt: skip
            line = [program, *as_line(flags)]
            jobs.append(self.job(f"{folder.name} {task}", line, output / "results.json", output / "log"))
        return [*jobs, self.figures_job(model, seed, self.result(model.name, seed))]

    def figures_job(self, model: TrainedModel, seed: int, result: Path, *flags: object) -> Job:
        folder = self.folder(model.trained_in or model.name, seed)
        line = as_line(
            {
                "model": folder,
                "corpus": self.corpus,
                "data": self.data,
                "layout": self.layout,
                "output": result,
            }
        )
        command = ["-m", "experiments.measure", *line, "--measures", *self.study.measures, *flags]
        return self.job(f"{result.stem} figures", command, result)

    def job(self, name: str, command: list[object], result: Path, log: Path | None = None) -> Job:
        """A job whose complete output goes to a file."""
        logs = self.output / self.study.name / "logs"
        return Job(name, command, result, log, logs / f"{name.replace(' ', '-')}.log")


def config_of(pretraining: Job) -> PretrainConfig:
    """The configuration that a job of run_pretrain.py has."""
    return load_config(PretrainConfig, [str(word) for word in pretraining.command[1:]])


def minutes(job: Job) -> float:
    """Roughly how long a job takes on one core."""
    if job.command[0] != "run_pretrain.py":
        return MINUTES[job.name.split()[-1]]
    config = config_of(job)
    tokens = config.optimizer.tokens
    if not tokens:
        share = shares(config.objectives, 1, 1)
        examples = examples_of_step(config.objectives, share, config.optimizer.batch_size, 1)
        tokens = config.optimizer.steps * sum(examples.values()) * TOKENS_PER_SEQUENCE
    return tokens / 1e6 * MINUTES["million tokens"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("study", help="a file of configs/experiments, without .yaml")
    parser.add_argument("--dry", action="store_true", help="only say what would be done")
    parser.add_argument("--output", type=Path, default=Path("output/experiments"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="only these")
    parser.add_argument("--models", nargs="+", default=[], help="only these")
    parser.add_argument("--at_once", type=int, default=2, help="runs side by side, on a core each (2)")
    args = parser.parse_args(arguments)
    study = Study.read(args.study)
    if args.at_once < 1 or not {*args.seeds} <= {*study.seeds}:
        raise UserError(f"--at_once must be 1 or more, and --seeds among {study.seeds} ({study.name}.yaml)")
    for name in args.models:
        if name not in study.models:
            raise UserError(f"--models: {name} is not one of {', '.join(study.models)} ({study.name}.yaml)")
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    study_run = StudyRun(study, args.output, Path(os.environ["DATA"]), args.seeds, args.models)
    chains = study_run.chains()
    total = 0.0
    for chain in chains:
        unfinished = [job for job in chain if not job.finished()]
        of_chain = sum(map(minutes, unfinished))
        total += of_chain
        print(f"{of_chain:6.1f} minutes: {', '.join(job.name for job in unfinished)}")
    hours = total / 60 / args.at_once
    print(f"{len(chains)} runs, about {hours:.1f} hours with {args.at_once} at a time", flush=True)
    if args.dry:
        return
    study_run.prepare()
    carry_out_chains(chains, args.at_once)
    tables.write(study, RESULTS, IMAGES)


if __name__ == "__main__":
    run(main)
