"""Run a study of configs/experiments: train its models, fine-tune and measure them, and write its tables.

    DATA=/where/the/data/is python -m experiments.run table6 --dry    what it would do, and in how many hours
    DATA=/where/the/data/is python -m experiments.run table6

Two runs at a time have a core each. A model is finished when docs/results/<study>/<model>-<seed>.json is
there; the same command continues a stopped study. Weights are kept in --output.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from experiments import tables
from experiments.real_data import prepare_corpus, prepare_ner, prepare_xnli
from experiments.study import UNTRAINED, Study, TrainedModel
from scripts.jobs import Job, as_line, carry_out_chains
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
MINUTES = {"million tokens": 2.2, "retrieval": 0.3, "xnli": 6.0, "ner": 3.5}


class StudyRun:
    """The jobs of a study, in a folder of outputs."""

    def __init__(self, study: Study, output: Path, data: Path, seeds: list[int]):
        self.study, self.output, self.data = study, output, data
        self.seeds = seeds or study.seeds
        self.corpus, self.layout = output / study.corpus / "corpus", output / study.corpus / "data"

    def prepare(self) -> None:
        """Make the corpus, the files of the study's tasks and the folder of logs, where they are missing."""
        prepare_corpus(self.study.corpus, self.data, self.output / self.study.corpus)
        for task, make in (("xnli", prepare_xnli), ("ner", prepare_ner)):
            # label_map.json is written last.
            if task in self.study.measures and not (self.layout / task / "label_map.json").is_file():
                make(self.data, self.layout / task, self.corpus)
        (self.output / self.study.name / "logs").mkdir(parents=True, exist_ok=True)

    def chains(self) -> list[list[Job]]:
        """What is left to do: the jobs of each model and seed; a start comes before what needs it."""
        chains = []
        for model, seed in self.study.runs():
            if seed not in self.seeds:
                continue
            later = [other.name for other in self.study.models.values() if other.start == model.name]
            wanted = not all(self.result(name, seed).is_file() for name in (model.name, *later))
            jobs = [self.pretraining(model, seed)] if wanted else []
            if not self.result(model.name, seed).is_file():
                jobs += self.fine_tuning_and_figures(model, seed)
            if not model.start and "retrieval" in self.study.measures:
                jobs.append(self.figures_job(model, seed, self.result(UNTRAINED, seed), "--untrained", seed))
            if not all(job.finished() for job in jobs):
                chains.append(jobs)
        return chains

    def result(self, name: str, seed: int) -> Path:
        return RESULTS / self.study.name / f"{self.folder(name, seed).name}.json"

    def folder(self, name: str, seed: int) -> Path:
        return self.output / self.study.name / f"{name.replace(' ', '-')}-{seed}"

    def pretraining(self, model: TrainedModel, seed: int) -> Job:
        folder = self.folder(model.name, seed)
        flags: dict[str, object] = {"data.corpus": self.corpus, "run.output": folder, "run.seed": seed}
        start = self.folder(model.start, seed) if model.start else None
        if start:
            # The start has seen the items that its own seed draws.
            flags |= {"init.encoder": start / "full", "init.lm_head": "encoder", "run.seed": 100 + seed}
        flags |= {k: json.dumps(v) if isinstance(v, list) else v for k, v in model.flags.items()}
        line = ["run_pretrain.py", "--config", self.study.pretrain, *as_line(flags)]
        after = start and start / "encoder" / "model.safetensors"
        return replace(self.job(folder.name, line, folder / "encoder" / "model.safetensors"), after=after)

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
        line = as_line(
            {"model": self.folder(model.name, seed), "corpus": self.corpus, "data": self.data,
             "layout": self.layout, "output": result}
        )  # fmt: skip
        command = ["-m", "experiments.measure", *line, "--measures", *self.study.measures, *flags]
        return self.job(f"{result.stem} figures", command, result)

    def job(self, name: str, command: list[object], result: Path, log: Path | None = None) -> Job:
        """A job whose complete output goes to a file."""
        logs = self.output / self.study.name / "logs"
        return Job(name, command, result, log, logs / f"{name.replace(' ', '-')}.log")


def minutes(job: Job) -> float:
    """Roughly how long a job takes on one core."""
    if "--optimizer.tokens" in job.command:
        tokens = job.command[job.command.index("--optimizer.tokens") + 1]
        return float(tokens) / 1e6 * MINUTES["million tokens"]
    return MINUTES.get(job.name.split()[-1], MINUTES["retrieval"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("study", help="a file of configs/experiments, without .yaml")
    parser.add_argument("--dry", action="store_true", help="only say what would be done")
    parser.add_argument("--output", type=Path, default=Path("output/experiments"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="only these")
    parser.add_argument("--at_once", type=int, default=2, help="runs side by side, on a core each (2)")
    args = parser.parse_args(arguments)
    study = Study.read(args.study)
    if args.at_once < 1 or not {*args.seeds} <= {*study.seeds}:
        raise UserError(f"--at_once must be 1 or more, and --seeds among {study.seeds} ({study.name}.yaml)")
    if not os.environ.get("DATA"):
        raise UserError("DATA is not set; set it to the folder of real data")
    studied = StudyRun(study, args.output, Path(os.environ["DATA"]), args.seeds)
    chains = studied.chains()
    left = [[job for job in chain if not job.finished()] for chain in chains]
    for chain in left:
        print(f"{sum(map(minutes, chain)):6.1f} minutes: {', '.join(job.name for job in chain)}")
    hours = sum(minutes(job) for chain in left for job in chain) / 60 / args.at_once
    print(f"{len(chains)} runs, about {hours:.1f} hours with {args.at_once} at a time", flush=True)
    if args.dry:
        return
    studied.prepare()
    carry_out_chains(chains, args.at_once)
    tables.write(study, RESULTS, IMAGES)


if __name__ == "__main__":
    run(main)
