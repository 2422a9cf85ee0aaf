"""Fine-tune pre-trained encoders, and their shape from random weights, on real data with equal flags.

    python -m experiments.finetune_real ner --runs output/real15/runs --data "$DATA" --output output/ner-runs

Each run is <output>/<start>-<seed>: trained on English, evaluated in every language. The tables of mean and
deviation are printed and written as results.md and results.json; the last line is JSON. Finished runs are not
run again. Further flags (`--epoch 1`) go to every run. experiments/starts.py says what a run starts from.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.lower_case import lower_case
from experiments.starts import SCRATCH, Comparison, Scores, comparison_parser
from scripts.data import prepare
from scripts.jobs import Job, as_line, carry_out
from utils.errors import UserError, run
from utils.files import atomic_file

PAIRS = "mlqa-dev/dev-context-%s-question-%s.json"
PAWSX_ROWS, PAWSX_TRAINED = 2000, 1500
# For encoders of 3 x 128 on one core. Dropout is that of the encoder's config: none.
SHARED = {
    "batch_size": 32, "learning_rate": 5e-4, "lr_schedule_style": "paddlenlp", "layerwise_lr_decay": 1.0,
    "weight_decay": 0.01, "warmup_proportion": 0.1, "predict_batch_size": 128, "skip_steps": 100,
    "validation_steps": 1_000_000, "save_steps": 1_000_000, "keep_checkpoints": 1,
    "do_train": "true", "do_val": "true", "do_test": "false",
}  # fmt: skip


@dataclass(frozen=True)
class RealTask:
    """A task on the folder of real data.

    Attributes:
        title: what is evaluated.
        program: its entry point.
        sources: patterns of its files below the folder of real data.
        prepare: makes the official layout from (folder of those files, folder to write, in lower case).
        train, dev: the files in that layout to train on and to evaluate.
        metrics: those that are shown.
        flags: its own flags, in addition to `SHARED`.
        lower_files: its files can be put in lower case as they are; otherwise `prepare` does it.
    """

    title: str
    program: str
    sources: tuple[str, ...]
    prepare: Callable[[Path, Path, bool], None]
    train: str
    dev: str
    metrics: tuple[str, ...]
    flags: dict[str, object]
    lower_files: bool = True

    def languages(self, layout: Path) -> list[str]:
        """The languages with a file to evaluate, English first."""
        head, tail = self.dev.split("%s")
        files = (path.name for path in layout.glob(f"{head}*{tail}"))
        found = [name.removeprefix(Path(head).name).removesuffix(tail) for name in files]
        return sorted(found, key=lambda language: (language != "en", language))


def prepare_nli(source: Path, output: Path, lower: bool) -> None:
    """English pairs to train on; XNLI's development sets to evaluate."""
    prepare.main(["xnli", str(source / "nli"), "--output", str(output)])


def prepare_ner(source: Path, output: Path, lower: bool) -> None:
    """PAN-X. The tags keep their capitals in lower-case text."""
    flags = ["--lower_case"] if lower else []
    prepare.main(["panx", str(source / "ner" / "panx"), "--output", str(output), *flags])


def prepare_qa(source: Path, output: Path, lower: bool) -> None:
    """TyDi QA GoldP to train on; XQuAD, and MLQA's dev files with all pairs of languages, to evaluate."""
    prepare.main(["mlqa", str(source / "qa"), "--output", str(output)])
    (output / "mlqa-dev").mkdir(parents=True, exist_ok=True)
    for path in (source / "qa" / "mlqa-dev").glob("*.json"):
        shutil.copyfile(path, output / "mlqa-dev" / path.name)


def prepare_paws(source: Path, output: Path, lower: bool) -> None:
    """Rows 1 to 1,500 of PAWS-X's English development file to train on; the other 500 of every language to
    test.

    The files are translations of each other, row by row, so no test row is a training row in any language.

    Raises:
        UserError: there is no English file, or a file does not have 2,000 good rows.
    """
    prepare.main(["pawsx", str(source / "pawsx"), "--output", str(output)])
    if not (output / "dev" / "dev.en.tsv").is_file():
        raise UserError(f"{source / 'pawsx'}: no dev-en.tsv there, the file to train on")
    for path in (output / "dev").iterdir():
        with open(path, encoding="utf-8", newline="\n") as file:
            header, *rows = file
        if len(rows) != PAWSX_ROWS:
            raise UserError(f"{source / 'pawsx'}: {len(rows)} good rows in {path.name}, not {PAWSX_ROWS}")
        if path.name == "dev.en.tsv":
            with atomic_file(output / "train" / "train.en.tsv", "w", newline="\n") as file:
                file.writelines([header, *rows[:PAWSX_TRAINED]])
        with atomic_file(output / "test" / path.name.replace("dev", "test"), "w", newline="\n") as file:
            file.writelines([header, *rows[PAWSX_TRAINED:]])
    shutil.rmtree(output / "dev")


TASKS = {
    "nli": RealTask(
        title="XNLI dev", program="run_classifier.py", sources=("nli/*.tsv",), prepare=prepare_nli,
        train="train/train.en.tsv", dev="dev/dev.%s.tsv", metrics=("acc",),
        flags={"num_labels": 3, "epoch": 2, "max_seq_len": 64, "select_on": "en"},
    ),
    "ner": RealTask(
        title="PAN-X dev", program="run_sequence_labeling.py", sources=("ner/panx/*.tsv",),
        prepare=prepare_ner, train="train/train.en.tsv", dev="dev/dev.%s.tsv", metrics=("f1",),
        flags={"num_labels": 7, "epoch": 3, "max_seq_len": 128, "select_on": "en"}, lower_files=False,
    ),
    "qa": RealTask(
        title="XQuAD", program="run_mrc.py", sources=("qa/*.json", "qa/mlqa-dev/*.json"), prepare=prepare_qa,
        train="train/train.en.json", dev="xquad/xquad.%s.json", metrics=("f1", "em"),
        flags={
            "epoch": 4, "batch_size": 16, "max_seq_len": 256, "doc_stride": 128, "max_query_length": 48,
            "max_answer_length": 40, "predict_batch_size": 64, "select_on": "last", "do_test": "true",
        },
    ),
    "pawsx": RealTask(
        title="PAWS-X rows 1,501 to 2,000", program="run_classifier.py", sources=("pawsx/*.tsv",),
        prepare=prepare_paws, train="train/train.en.tsv", dev="test/test.%s.tsv", metrics=("acc",),
        flags={"num_labels": 2, "epoch": 10, "max_seq_len": 128, "select_on": "last"},
    ),
}  # fmt: skip


def make_layout(task: RealTask, data: Path, output: Path, lower: bool, text: Path) -> None:
    """Write the official layout of the task to `output`, and lower-case copies of its sources to `text`."""
    files = [path for pattern in task.sources for path in sorted(data.glob(pattern))]
    if not files:
        raise UserError(f"{data}: no {' or '.join(task.sources)} there; --data names the folder of real data")
    if lower and task.lower_files:
        for path in files:
            lower_case(path, text / path.relative_to(data))
        data = text
    task.prepare(data, output, lower)


def training(task: RealTask, comparison: Comparison, start: str, seed: int, further: Sequence[str]) -> Job:
    """Fine-tuning and evaluation of one start and seed."""
    output = comparison.output
    layout, folder = output / "data", output / f"{start}-{seed}"
    model, label_map = comparison.encoder(start, seed), layout / "label_map.json"
    flags = SHARED | task.flags | {
        "ernie_config_path": model / "config.json", "vocab_path": model / "vocab.txt",
        "piece_model_path": model / "piece.model", "train_set": layout / task.train,
        "dev_set": layout / task.dev, "test_set": layout / task.dev,
        "test_save": folder / "predictions" / "test.%s.json",
        "label_map_config": label_map if label_map.is_file() else "",
        "lang_map_config": output / "lang_map.json", "checkpoints": folder, "random_seed": seed,
    }  # fmt: skip
    if start != SCRATCH:
        flags["init_pretraining_params"] = model
    line = [task.program, *as_line(flags), *further]
    return Job(folder.name, line, folder / "results.json", folder / "log")


def pairs_of_languages(task: RealTask, output: Path, trained: Job) -> Job:
    """Questions in one language on texts in another, with a trained model."""
    folder = trained.result.parent
    flags = {
        "do_train": "false", "init_checkpoint": folder / "best", "gxlt_set": output / "data" / PAIRS,
        "lang_map_config": output / "pairs_lang_map.json", "checkpoints": folder / "mlqa",
        **{name: task.flags[name] for name in task.flags if name.startswith(("max_", "doc_", "predict_"))},
    }  # fmt: skip
    result = folder / "mlqa" / "gxlt.json"
    return Job(f"{trained.name} mlqa", ["run_mrc.py", *as_line(flags)], result, folder / "mlqa" / "log")


def tables_of(
    task: RealTask, languages: Sequence[str], jobs: dict[tuple[str, int], Job]
) -> dict[str, Scores]:
    """Title -> start -> seed -> language -> per cent."""
    found: dict[str, dict] = {}

    def add(title: str, start: str, seed: int, row: dict[str, float]) -> None:
        found.setdefault(title, {}).setdefault(start, {})[seed] = row

    for (start, seed), job in jobs.items():
        for table in json.loads(job.result.read_text(encoding="utf-8"))["tables"]:
            metric = table["title"].split(",")[0]
            if metric in task.metrics:
                scores = table["seeds"][str(seed)]
                add(f"{task.title}, {metric}", start, seed, {name: scores[name] for name in languages})
        pairs = job.result.parent / "mlqa" / "gxlt.json"
        for table in json.loads(pairs.read_text(encoding="utf-8"))["tables"] if pairs.is_file() else ():
            add(f"MLQA dev, {table['metric']}", start, seed, table["xlt"])
            crossed = {
                f"{context}-{question}": value
                for context, row in table["scores"].items()
                for question, value in row.items()
                if context != question
            }
            if crossed:
                add(f"MLQA dev, text-question, {table['metric']}", start, seed, crossed)
    return found


def write_languages(path: Path, languages: Sequence[str]) -> None:
    with atomic_file(path, "w") as file:
        json.dump({language: number for number, language in enumerate(languages)}, file)


def main() -> None:
    parser = comparison_parser(__doc__)
    parser.add_argument("task", choices=TASKS)
    args, further = parser.parse_known_args()
    task, comparison = TASKS[args.task], Comparison.from_flags(args)
    output, layout = comparison.output, comparison.output / "data"
    make_layout(task, comparison.data, layout, comparison.lower, output / "text")
    languages = comparison.languages_of(task.languages(layout))
    write_languages(output / "lang_map.json", languages)

    runs = [(start, seed) for seed in comparison.seeds for start in comparison.starts]
    jobs = {(start, seed): training(task, comparison, start, seed, further) for start, seed in runs}
    carry_out(list(jobs.values()), comparison.at_once)
    if args.task == "qa":
        there = {path.name.split("-")[2] for path in (layout / "mlqa-dev").glob("*.json")}
        known = comparison.trained_languages(sorted(there, key=lambda code: (code != "en", code)))
        write_languages(output / "pairs_lang_map.json", known)
        carry_out([pairs_of_languages(task, output, job) for job in jobs.values()], comparison.at_once)
    comparison.report(args.task, tables_of(task, languages, jobs))


if __name__ == "__main__":
    run(main)
