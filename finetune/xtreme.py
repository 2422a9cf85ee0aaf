"""Put the predictions of finished runs into XTREME's table, and write them as a submission.

    python -m finetune.xtreme xnli=output/xnli/test udpos=output/udpos/test tatoeba=output/tatoeba ...

Each task has the folder that its run wrote (docs/xtreme.md). Scores are those of XTREME's evaluate.py (Hu et
al., 2020), against the files that prepare.py wrote.
"""

from utils.environment import run

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from finetune.metrics import MatchCounts, accuracy, answer_scores, seqeval_scores
from finetune.report import average
from finetune.tagging import read_conll
from reader.bitext import TATOEBA, Sentences, read_bitexts
from reader.classification import read_classification
from reader.question_answering import read_squad
from reader.tagging import read_tagged
from reader.task_files import read_label_map
from utils.command_line import load_config
from utils.errors import UserError
from utils.files import as_json, atomic_file, read_json, read_object, write_json
from utils.manifest import check_folder
from utils.options import option
from utils.tables import in_columns


class ScoredFile(NamedTuple):
    """The predictions of one language.

    Attributes:
        content: of the submission's file.
        scores: metric -> per cent.
    """

    content: str
    scores: dict[str, float]


class XtremeTask(NamedTuple):
    """A column of XTREME's table.

    Attributes:
        title: of the column.
        group: the kind of the task. The mean of each group is shown, too.
        languages: of the test set, separated by spaces.
        gold: the gold file of a language below --data, with %s for the language.
        read: (predictions, gold file, language) -> `ScoredFile`. All such functions take the language, though
            only some need it.
        ending: of the submission's files.
        predictions: the predictions of a language in the folder of a run, with %s for the language; "": they
            are named as --test_save says.
    """

    title: str
    group: str
    languages: str
    gold: str
    read: Callable[[Path, Path, str], ScoredFile]
    ending: str = "tsv"
    predictions: str = ""


class TaskScore(NamedTuple):
    """The score of a task.

    Attributes:
        by_language: metric -> language -> per cent.
        score: the mean over the languages; of question answering the mean of F1 and exact match.
        missing: the languages of XTREME without predictions.
    """

    by_language: dict[str, dict[str, float]]
    score: float
    missing: list[str]


@dataclass
class XtremeFlags:
    """The runs to score."""

    runs: list[str] = option(positional=True)
    """task=folder for each task: xnli, pawsx, udpos, panx, xquad, mlqa, tydiqa, bucc2018, tatoeba."""

    data: str = "data"
    """The prepared data."""

    output: str = "xtreme"
    """The folder to write."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect the runs of the command line.

    Raises:
        UserError: a task is unknown, or a file is missing, damaged, or not of the gold file.
    """
    flags = load_config(XtremeFlags, arguments, __doc__)
    output = Path(flags.output)
    scores = {}
    for task, folder in folders_of(flags.runs).items():
        scores[task] = collect(task, folder, Path(flags.data), output / "predictions" / task)
    # A task without all of its languages does not count in a mean.
    complete = {task: score.score for task, score in scores.items() if not score.missing}
    means = group_means(complete)
    values = {"tasks": {task: score._asdict() for task, score in scores.items()}, "means": means}
    write_json(output / "scores.json", values)
    print(table(scores, means), "", f"written to {output}", sep="\n")


def folders_of(runs: Sequence[str]) -> dict[str, Path]:
    """task -> folder, in the order of XTREME's table.

    Raises:
        UserError: a run is not `task=folder`, a task is unknown or named twice, or a folder is not there.
    """
    folders: dict[str, Path] = {}
    for text in runs:
        task, equals, folder = text.partition("=")
        if not equals or task not in TASKS:
            raise UserError(f"{text}: give task=folder, with one of the tasks {', '.join(TASKS)}")
        if task in folders:
            raise UserError(f"{task} is named twice")
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; name the one that holds the predictions of {task}")
        folders[task] = Path(folder)
    return {task: folders[task] for task in TASKS if task in folders}


def collect(name: str, folder: Path, data: Path, output: Path) -> TaskScore:
    """Score the predictions of a task, and write its part of the submission.

    Raises:
        UserError: there are no predictions, or a file is missing, damaged, or not of the gold file.
    """
    task = TASKS[name]
    by_language: dict[str, dict[str, float]] = {}
    missing = []
    for language in task.languages.split():
        path = find_prediction(name, folder, language)
        if path is None:
            missing.append(language)
            continue
        scored = task.read(path, data / task.gold.replace("%s", language), language)
        with atomic_file(output / f"test-{language}.{task.ending}", "w", newline="\n") as file:
            file.write(scored.content)
        for metric, value in scored.scores.items():
            by_language.setdefault(metric, {})[language] = value
    if not by_language:
        raise UserError(f"{folder}: no predictions of {name} there; run with --do_test true (docs/xtreme.md)")
    means = {metric: average(values) for metric, values in by_language.items()}  # one metric, or F1 and em
    return TaskScore(by_language, average(means), missing)


def find_prediction(name: str, folder: Path, language: str) -> Path | None:
    """The predictions of a language in the folder of a run; None if there are none.

    Raises:
        UserError: there are several, such as those of two seeds.
    """
    pattern = TASKS[name].predictions
    if pattern:
        path = folder / pattern.replace("%s", language)
        return path if path.exists() else None
    # With --test_save test.%s.tsv: test.de.tsv.4.12270 (epoch 4, step 12270), or test.de.tsv.seed_2.4.12270.
    # A file nbest_* is no submission: it has all candidates for each question.
    form = re.compile(rf"(?!nbest_).*\b{language}\.(tsv|json)(\.seed_\d+)?\.\d+\.\d+")
    paths = [path for path in sorted(folder.iterdir()) if form.fullmatch(path.name)]
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{folder}: {names} are all predictions of {name} in {language}; keep one of them")
    return paths[0] if paths else None


def read_classes(path: Path, gold: Path, language: str) -> ScoredFile:
    """Classification: the submission has a label per line, and the score is accuracy."""
    predicted, labels = predicted_classes(path, gold)
    return ScoredFile("".join(f"{name}\n" for name in predicted), {"acc": accuracy(predicted, labels)})


def predicted_classes(path: Path, gold: Path) -> tuple[list[str], list[str]]:
    """The predicted labels of a file that run_classifier.py wrote, and those of its gold file.

    Raises:
        UserError: a file cannot be read, or the predictions are not of the rows of the gold file.
    """
    label_map = _label_map_of(gold)
    names = list(label_map)
    labels = [names[example.label] for example in read_classification(gold, label_map)]
    predicted = []
    for cells in _rows(path):
        # A row has a qid (not in every file), the id of the label, and a probability for each label.
        before_probabilities = cells[: -len(names)]
        id_ = before_probabilities[-1] if before_probabilities else ""
        if id_ not in map(str, range(len(names))):
            raise UserError(f"{path}: not the predictions of a model with {len(names)} labels")
        predicted.append(names[int(id_)])
    if len(predicted) != len(labels):
        raise _misfit(path, gold, predicted, labels)
    return predicted, labels


def read_tags(path: Path, gold: Path, language: str, scheme: str) -> ScoredFile:
    """Tagging: the submission has a tag per line and a blank line behind each sentence.

    The score is seqeval's F1.

    Args:
        scheme: of the gold file's tags; see `reader.tagging.SCHEMES`.
    """
    label_map = _label_map_of(gold)
    names = list(label_map)
    gold_tags = []
    for sentence in read_tagged(gold, label_map, scheme):
        gold_tags.append([names[label] for label in sentence.labels])
    predicted = [list(sentence.predicted) for sentence in read_conll(path)]
    if [len(tags) for tags in predicted] != [len(tags) for tags in gold_tags]:
        raise _misfit(path, gold, predicted, gold_tags)
    content = ""
    for tags in predicted:
        content += "".join(f"{tag}\n" for tag in tags) + "\n"
    return ScoredFile(content, {"f1": seqeval_scores(gold_tags, predicted).f1})


def read_answers(path: Path, gold: Path, language: str, rules: str) -> ScoredFile:
    """Question answering: the submission is {id: answer}, and the scores are F1 and exact match.

    Args:
        rules: "squad" or "mlqa"; see `finetune.metrics`.
    """
    answers = read_json(path)
    questions = read_squad(gold, "dev").questions
    if not isinstance(answers, dict):
        raise UserError(f"{path}: not a JSON object with an answer for each question id")
    absent = [question.id for question in questions if not isinstance(answers.get(question.id), str)]
    if absent:
        raise UserError(f"{path}: no answer to the question {absent[0]} of {gold}")
    rows = [(answers[question.id], question.answers) for question in questions]
    return ScoredFile(as_json(answers), answer_scores(rows, language, rules))


def read_matches(path: Path, gold: Path, language: str) -> ScoredFile:
    """Tatoeba: each line of the submission says which line translates an English sentence.

    It is the number of that line, from 0. The English sentences are in alphabetical order. The score is
    accuracy.
    """
    (bitext,) = read_bitexts(gold, [language])
    # Line n of one side translates line n of the other, so the answer to English sentence n should be n.
    labels = [str(number) for number in bitext.alphabetical_order()]
    predicted = [cells[0] for cells in _rows(path)]
    if len(predicted) != len(labels):
        raise _misfit(path, gold, predicted, labels)
    score = accuracy(predicted, labels)
    return ScoredFile("".join(f"{number}\n" for number in predicted), {"acc": score})


def read_mined(path: Path, gold: Path, language: str) -> ScoredFile:
    """BUCC: the submission has the pairs of ids that were mined above the threshold of dev; the score is F1.

    Args:
        path: <folder>/<language>/test/scores.tsv; <folder>/<language>/dev/mining.json has the threshold.
        gold: the beginning of the names of the files that prepare.py wrote, data/bucc/test/de-en.
    """
    dev = path.parents[1] / "dev" / "mining.json"
    check_folder(dev.parent)
    check_folder(path.parent)
    threshold = read_object(dev).get("threshold")
    if not isinstance(threshold, int | float):
        raise UserError(f"{dev}: no threshold in it; mine dev with --gold {gold.name}.gold.tsv")
    source_ids = Sentences(f"{gold}.{language}.ids").texts()
    translation_ids = Sentences(f"{gold}.en.ids").texts()
    pairs = set()
    try:
        for score, source_line, translation_line in _rows(path):  # lines are counted from 1
            if float(score) >= threshold:
                pairs.add((source_ids[int(source_line) - 1], translation_ids[int(translation_line) - 1]))
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: not of mine_pairs.py with {gold}.{language} and .en; mine again") from error
    gold_pairs = {tuple(cells) for cells in _rows(Path(f"{gold}.gold.ids.tsv"))}
    content = "".join(f"{source}\t{translation}\n" for source, translation in sorted(pairs))
    counts = MatchCounts(len(gold_pairs), len(pairs), correct=len(pairs & gold_pairs))
    return ScoredFile(content, {"f1": counts.f1})


def _label_map_of(gold: Path) -> dict[str, int]:
    """Label -> id of a gold file such as data/xnli/test/test.de.tsv, in the order of the ids."""
    label_map = read_label_map(gold.parents[1] / "label_map.json")
    return {label: label_map[label] for label in sorted(label_map, key=label_map.get)}


def _rows(path: Path) -> list[list[str]]:
    """The cells of each line."""
    return [line.split("\t") for line in Sentences(path).texts()]


def _misfit(path: Path, gold: Path, predicted: Sequence, labels: Sequence) -> UserError:
    """The error for predictions that are not of the rows of the gold file."""
    return UserError(
        f"{path}: {len(predicted):,} predictions that do not belong to the {len(labels):,} rows of {gold}"
    )


def group_means(scores: Mapping[str, float]) -> dict[str, float]:
    """The mean of each group whose tasks are all there, and "all" if all tasks are.

    Args:
        scores: task -> per cent, of the tasks with all languages.
    """
    means = {}
    for group in dict.fromkeys(task.group for task in TASKS.values()):
        names = [name for name, task in TASKS.items() if task.group == group]
        if scores.keys() >= set(names):
            means[group] = average({name: scores[name] for name in names})
    if scores.keys() == TASKS.keys():
        means["all"] = average(scores)
    return means


def table(scores: Mapping[str, TaskScore], means: Mapping[str, float]) -> str:
    """The columns of all tasks: score and languages; below them the means that are there."""
    titles = ["task"]
    score_cells = ["score"]
    language_cells = ["languages"]
    for name, task in TASKS.items():
        titles.append(task.title)
        if name in scores:
            count = len(task.languages.split())
            score_cells.append(f"{scores[name].score:.1f}")
            language_cells.append(f"{count - len(scores[name].missing)}/{count}")
        else:
            score_cells.append("-")
            language_cells.append("-")
    text = in_columns([titles, score_cells, language_cells])
    for group, mean in means.items():
        text += f"\nmean of {group}: {mean:.1f}"
    if "all" not in means:
        text += "\na mean needs all of its tasks in all languages"
    return text


_CLASSES = "classification"
_TAGS = "tagging"
_ANSWERS = "question answering"
_SENTENCES = "retrieval"
_XNLI = "ar bg de el en es fr hi ru sw th tr ur vi zh"
_UDPOS = "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
_PANX = (
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my "
    "zh kk tr et fi hu"
)
TASKS = {
    "xnli": XtremeTask("XNLI", _CLASSES, _XNLI, "xnli/test/test.%s.tsv", read_classes),
    "pawsx": XtremeTask("PAWS-X", _CLASSES, "de en es fr ja ko zh", "pawsx/test/test.%s.tsv", read_classes),
    "udpos": XtremeTask("POS", _TAGS, _UDPOS, "udpos/test/test.%s.tsv", partial(read_tags, scheme="NONE")),
    "panx": XtremeTask("NER", _TAGS, _PANX, "panx/test/test.%s.tsv", partial(read_tags, scheme="IOB")),
    "xquad": XtremeTask(
        "XQuAD",
        _ANSWERS,
        "en es de el ru tr ar vi th zh hi",
        "mlqa/xquad/xquad.%s.json",
        partial(read_answers, rules="squad"),
        ending="json",
    ),
    "mlqa": XtremeTask(
        "MLQA",
        _ANSWERS,
        "en es de ar hi vi zh",
        "mlqa/test/test.%s.json",
        partial(read_answers, rules="mlqa"),
        ending="json",
    ),
    "tydiqa": XtremeTask(
        "TyDi QA",
        _ANSWERS,
        "en ar bn fi id ko ru sw te",
        "tydiqa/dev/dev.%s.json",
        partial(read_answers, rules="squad"),
        ending="json",
    ),
    "bucc2018": XtremeTask(
        "BUCC",
        _SENTENCES,
        "de fr ru zh",
        "bucc/test/%s-en",  # the beginning of the names of several files
        read_mined,
        predictions="%s/test/scores.tsv",
    ),
    "tatoeba": XtremeTask(
        "Tatoeba",
        _SENTENCES,
        " ".join(TATOEBA),
        "tatoeba",  # the folder of all languages
        read_matches,
        predictions="predictions/tatoeba/test-%s.tsv",
    ),
}


if __name__ == "__main__":
    run(main)
