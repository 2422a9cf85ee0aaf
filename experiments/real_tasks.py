"""The fine-tuning tasks on the folder of real data: its files in the official layout, and the flags."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments import pawsx_split
from experiments.lower_case import lower_case
from scripts.data import prepare_conll, prepare_mlqa, prepare_xnli

# For encoders of 3 x 128 on one core. Dropout is that of the encoder's config: none.
SHARED = {
    "batch_size": 32, "learning_rate": 5e-4, "lr_schedule_style": "paddlenlp", "layerwise_lr_decay": 1.0,
    "weight_decay": 0.01, "warmup_proportion": 0.1, "predict_batch_size": 128, "skip_steps": 100,
    "validation_steps": 1_000_000, "save_steps": 1_000_000, "keep_checkpoints": 1,
    "do_train": "true", "do_val": "true", "do_test": "false",
}  # fmt: skip


@dataclass(frozen=True)
class RealTask:
    """One task.

    Args:
        title: what is evaluated.
        program: its entry point.
        sources: pattern of its files below the folder of real data.
        prepare: (folder of those files, folder to write, in lower case) makes the official layout.
        train: the training file in that layout.
        dev: the pattern of what is evaluated; its files say which languages there are.
        metrics: those that are shown.
        flags: its own, over `SHARED`.
        lower_files: its files can be put in lower case as they are; else `prepare` does it with the words.
    """

    title: str
    program: str
    sources: tuple[str, ...]
    prepare: Callable[..., None]
    train: str
    dev: str
    metrics: tuple[str, ...]
    flags: dict[str, object]
    lower_files: bool = True

    def languages(self, layout: Path) -> list[str]:
        """Those with a file to evaluate on, English first."""
        head, _, tail = self.dev.partition("%s")
        found = [path.name.removeprefix(Path(head).name).removesuffix(tail)
                 for path in layout.glob(f"{head}*{tail}")]  # fmt: skip
        return sorted(found, key=lambda language: (language != "en", language))


def nli(source: Path, output: Path, lower: bool) -> None:
    """English pairs to train on, XNLI's development sets."""
    prepare_xnli.main([str(source / "nli"), "--output", str(output)])


def ner(source: Path, output: Path, lower: bool) -> None:
    """PAN-X; tags stay as they are in lower-case text."""
    prepare_conll.main(
        [str(source / "ner" / "panx"), "--output", str(output), *(["--lower_case"] if lower else [])]
    )


def qa(source: Path, output: Path, lower: bool) -> None:
    """TyDi QA GoldP to train on, XQuAD, and MLQA's dev files with all their pairs of languages."""
    prepare_mlqa.main([str(source / "qa"), "--output", str(output)])
    (output / "mlqa-dev").mkdir(parents=True, exist_ok=True)
    for path in (source / "qa" / "mlqa-dev").glob("*.json"):
        shutil.copyfile(path, output / "mlqa-dev" / path.name)


def pawsx(source: Path, output: Path, lower: bool) -> None:
    """Rows 1 to 1,500 against rows 1,501 to 2,000 of the development files."""
    pawsx_split.main(["--source", str(source / "pawsx"), "--output", str(output)])


TASKS = {
    "nli": RealTask(
        title="XNLI dev", program="run_classifier.py", sources=("nli/*.tsv",), prepare=nli,
        train="train/train.en.tsv", dev="dev/dev.%s.tsv", metrics=("acc",),
        flags={"num_labels": 3, "epoch": 2, "max_seq_len": 64, "select_on": "en"},
    ),
    "ner": RealTask(
        title="PAN-X dev", program="run_sequence_labeling.py", sources=("ner/panx/*.tsv",), prepare=ner,
        train="train/train.en.tsv", dev="dev/dev.%s.tsv", metrics=("f1",), lower_files=False,
        flags={"num_labels": 7, "epoch": 3, "max_seq_len": 128, "select_on": "en"},
    ),
    "qa": RealTask(
        title="XQuAD", program="run_mrc.py", sources=("qa/*.json", "qa/mlqa-dev/*.json"), prepare=qa,
        train="train/train.en.json", dev="xquad/xquad.%s.json", metrics=("f1", "em"),
        flags={
            "epoch": 4, "batch_size": 16, "max_seq_len": 256, "doc_stride": 128, "max_query_length": 48,
            "max_answer_length": 40, "predict_batch_size": 64, "select_on": "last", "do_test": "true",
        },
    ),
    "pawsx": RealTask(
        title="PAWS-X rows 1,501 to 2,000", program="run_classifier.py", sources=("pawsx/*.tsv",),
        prepare=pawsx, train="train/train.en.tsv", dev="test/test.%s.tsv", metrics=("acc",),
        flags={"num_labels": 2, "epoch": 10, "max_seq_len": 128, "select_on": "last"},
    ),
}  # fmt: skip


def make_layout(task: RealTask, data: Path, output: Path, lower: bool, text: Path) -> None:
    """The task's files in the official layout below `output`.

    Args:
        lower: in lower case; copies of the files go to `text`.
    """
    source = data
    if lower and task.lower_files:
        for pattern in task.sources:
            for path in sorted(data.glob(pattern)):
                lower_case(path, text / path.relative_to(data))
        source = text
    task.prepare(source, output, lower)


def label_map(layout: Path) -> Path | None:
    """label_map.json, where the task has labels."""
    path = layout / "label_map.json"
    return path if path.is_file() else None


def answers_in_context(layout: Path, predictions: Path) -> dict[str, int]:
    """How many of a run's answers there are, and how many are a part of the text that was asked about."""
    answers = inside = 0
    for path in sorted(predictions.glob("test.*.json.*")):
        language = path.name.split(".")[1]
        found = json.loads(path.read_text(encoding="utf-8"))
        file = json.loads((layout / "xquad" / f"xquad.{language}.json").read_text(encoding="utf-8"))
        for article in file["data"]:
            for paragraph in article["paragraphs"]:
                texts = [found[str(question["id"])] for question in paragraph["qas"]]
                answers += len(texts)
                inside += sum(text in paragraph["context"] for text in texts)
    return {"answers": answers, "in_context": inside}
