"""Tagging and question answering for `ernie-m fit`, trained as by run_sequence_labeling.py and run_mrc.py."""

import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ernie_m.finetune.finetune_args import LAST, FinetuneFlags
from ernie_m.finetune.mrc import QuestionAnswering
from ernie_m.finetune.run_seeds import run_finetuning
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.model.tasks import QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from ernie_m.reader.files.conll import read_tagged_words
from ernie_m.reader.files.find_files import NamedFile
from ernie_m.reader.files.table_options import LabelOptions
from ernie_m.reader.labels import write_indices
from ernie_m.reader.tag_schemes import JOINT, OUTSIDE, make_tag_names, to_iob2
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import atomic_dir, atomic_file, remove


def fit_tags_or_answers(
    kind: str,
    training: NamedFile,
    tests: Sequence[NamedFile],
    options: LabelOptions,
    output: Path,
    **finetune_flags: Any,
) -> bool:
    """Train a tagging or question answering model, and save it to `output`.

    After an interruption, the same call resumes from `<output>.training`.

    Args:
        kind: the task.
        training: the training file.
        tests: the test files, which are evaluated but do not select a checkpoint.
        options: the options for reading tables.
        finetune_flags: other fields of `FinetuneFlags`: the initial checkpoint, and the precision.

    Returns:
        Whether training finished; False after a stop request (SIGTERM).

    Raises:
        UserError: a file cannot be read; see also `run_finetuning`.
    """
    folder = output.with_name(f"{output.name}.training")
    paths = [str(file.path) for file in (training, *tests)]
    finetune_flags["max_seq_len"] = 384  # or the model's maximum length
    if kind != QUESTION_ANSWERING:
        are_entities = kind == TOKEN_CLASSIFICATION
        paths, of_tags = write_official_tags([training, *tests], options, folder, are_entities)
        finetune_flags |= of_tags
    else:
        options.reject_unused(training.path, "questions in SQuAD format")
    flags = FinetuneFlags(
        train_set=paths[0],
        dev_set=",".join(paths[1:]) or None,
        do_val=bool(tests),
        do_test=False,
        checkpoints=str(folder),
        official_compat=False,
        auto_hyperparameters=True,
        select_on=LAST,
        save_steps=200,
        keep_checkpoints=1,
        **finetune_flags,
    )
    with ShutdownHandler() as stop:
        run_finetuning(QuestionAnswering if kind == QUESTION_ANSWERING else Tagging, flags, stop)
    if stop:
        return False
    (model,) = [folder / "best"] if tests else folder.glob("step_*")
    with atomic_dir(output) as new:
        shutil.copytree(model, new, ignore=shutil.ignore_patterns("training_state"), dirs_exist_ok=True)
    remove(folder)
    return True


def write_official_tags(
    files: Sequence[NamedFile], options: LabelOptions, folder: Path, are_entities: bool
) -> tuple[list[str], dict[str, Any]]:
    """Convert files of tagged words to the official format, with the label map of the first file.

    Args:
        folder: the output directory.
        are_entities: whether the tags mark entities, unless the column name indicates other tags.

    Returns:
        The paths of the converted files, and the flags of run_sequence_labeling.py to read them.

    Raises:
        UserError: a file cannot be read, or has a tag that the first file does not have.
    """
    first, *others = (file.path for file in files)
    sentences_of = [read_tagged_words(first, () if are_entities else None, options=options)]
    tags = {*chain.from_iterable(sentence.tags for sentence in sentences_of[0])}
    mark_entities = bool(sentences_of[0][0].written)
    labels = tags if mark_entities else None  # they also determine the scheme of the others
    sentences_of += [read_tagged_words(path, labels, options=options) for path in others]
    names = make_tag_names({tag[2:] for tag in tags - {OUTSIDE}}) if mark_entities else sorted(tags)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (file, sentences) in enumerate(zip(files, sentences_of)):
        paths.append(str(folder / f"data_{number}.{file.path.name}.tsv"))
        with atomic_file(paths[-1], "w") as new:
            new.write("text_a\tlabel\n")
            for sentence in sentences:
                written = to_iob2(sentence.tags) if mark_entities else sentence.tags
                if unknown := sorted({*written} - {*names}):
                    location = f"{file.path}, line {sentence.lines[0]}"
                    raise UserError(
                        f"{location}: unknown tags {join_items(unknown)} (trained on: {join_items(names)})"
                    )
                new.write(f"{JOINT.join(sentence.words)}\t{JOINT.join(written)}\n")
    label_map = str(folder / "label_map.json")
    write_indices(label_map, names)
    options = {"label_map_config": label_map, "num_labels": len(names), "max_seq_len": 256}
    return paths, {**options, "chunk_scheme": "IOB" if mark_entities else "NONE"}
