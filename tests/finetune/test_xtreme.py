"""python -m finetune.xtreme: its scores and means are those computed here from the submission; bad input."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from finetune import xtreme
from finetune.classification import Classification
from finetune.metrics import seqeval_chunks
from finetune.tagging import Tagging
from finetune.xtreme import TASKS
from reader.bitext import TATOEBA
from reader.classification import read_classification
from reader.tagging import JOINT, read_tagged, to_iob2
from scripts.data.treebank import PARTS_OF_SPEECH
from tests.helpers.letters import Letters
from tests.launching import error_of
from utils.manifest import MANIFEST, write_manifest

# task -> the number of its languages in XTREME
LANGUAGES = {
    "xnli": 15,
    "pawsx": 7,
    "udpos": 33,
    "panx": 40,
    "xquad": 11,
    "mlqa": 7,
    "tydiqa": 9,
    "bucc2018": 4,
    "tatoeba": 36,
}
LABELS = {
    "xnli": ["contradiction", "entailment", "neutral"],
    "pawsx": ["0", "1"],
    "udpos": list(PARTS_OF_SPEECH),
    "panx": ["B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "O"],
}
WORDS = ["red", "green", "blue", "north", "south", "old", "new", "big"]
THRESHOLD = 0.4  # the lowest score of a mined pair that is submitted


def write(path, text: str):
    """Write a file and the folders above it; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_label_map(data, name: str) -> dict[str, int]:
    label_map = {label: number for number, label in enumerate(LABELS[name])}
    write(data / name / "label_map.json", json.dumps(label_map))
    return label_map


# Each function writes the gold files of a task to `data`, as prepare.py does, and random predictions to
# `runs`/<task>, as the command of the task does. The names of predictions end with epoch 3 and step 120.


def make_classes(data, runs, name, draw) -> None:
    """9 rows for each language."""
    label_map = write_label_map(data, name)
    labels = LABELS[name]
    task = Classification(Letters(), labels, max_seq_len=16)
    for language in TASKS[name].languages.split():
        rows = "".join(f"a\tb\t{draw.choice(labels)}\n" for _ in range(9))
        gold = write(data / f"{name}/test/test.{language}.tsv", "text_a\ttext_b\tlabel\n" + rows)
        probabilities = [np.array([draw.random() for _ in labels]) for _ in range(9)]
        examples = read_classification(gold, label_map)
        task.write(runs / name / f"test.{language}.tsv.3.120", examples, probabilities)


def make_tags(data, runs, name, draw) -> None:
    """5 sentences for each language. A tag is the gold one with probability 0.6, else drawn from all."""
    label_map = write_label_map(data, name)
    labels = LABELS[name]
    scheme = "NONE" if name == "udpos" else "IOB"
    task = Tagging(Letters(), labels, max_seq_len=16, scheme=scheme)
    for language in TASKS[name].languages.split():
        lines = ["text_a\tlabel"]
        for _ in range(5):
            length = draw.randint(1, 7)
            tags = draw.choices(labels, k=length)
            lines.append(f"{JOINT.join(draw.choices(WORDS, k=length))}\t{JOINT.join(tags)}")
        gold = write(data / f"{name}/test/test.{language}.tsv", "\n".join(lines) + "\n")
        sentences = read_tagged(gold, label_map, scheme)
        predicted = []
        for sentence in sentences:
            ids = [id_ if draw.random() < 0.6 else draw.randrange(len(labels)) for id_ in sentence.labels]
            predicted.append(np.array(ids))
        task.write(runs / name / f"test.{language}.tsv.3.120", sentences, predicted)


def make_answers(data, runs, name, draw) -> None:
    """6 questions for each language. Their answers are plain words, which all rules leave as they are."""
    for language in TASKS[name].languages.split():
        questions = []
        answers = {}
        for number in range(6):
            context = " ".join(draw.sample(WORDS, 6))
            first = draw.randrange(4)
            answer = " ".join(context.split()[first : first + 2])
            gold = {"text": answer, "answer_start": context.index(answer)}
            qas = [{"id": f"q{number}", "question": "?", "answers": [gold]}]
            questions.append({"paragraphs": [{"context": context, "qas": qas}]})
            answers[f"q{number}"] = " ".join(draw.sample(context.split(), draw.randint(1, 3)))
        place, _ = DEFINITIONS[name]
        write(data / place.format(language), json.dumps({"data": questions}))
        write(runs / name / f"test.{language}.json.3.120", json.dumps(answers))
        write(runs / name / f"nbest_test.{language}.json.3.120", "{}")


def make_tatoeba(data, runs, draw) -> None:
    """Bitexts of 8 sentences, with random lines as predictions."""
    english = [f"{word} {number % 2}" for number, word in enumerate(WORDS)]
    draw.shuffle(english)
    for language, code in TATOEBA.items():
        for side in (code, "eng"):
            text = "".join(f"{line}\n" for line in english)
            write(data / f"tatoeba/tatoeba.{code}-eng.{side}", text)
        lines = "".join(f"{draw.randrange(len(WORDS))}\n" for _ in WORDS)
        write(runs / f"tatoeba/predictions/tatoeba/test-{language}.tsv", lines)


def make_bucc(data, runs, draw) -> None:
    """Texts of 9 sentences. Every other one has a translation: sentence n, from 0, is translated by 8 - n.

    A pair is mined for every sentence, with a random score, but that of sentence 0 is the threshold itself.
    """
    for language in TASKS["bucc2018"].languages.split():
        folder = data / "bucc/test"
        for side in (language, "en"):
            write(folder / f"{language}-en.{side}.ids", "".join(f"{side}-{n}\n" for n in range(9)))
        gold = "".join(f"{language}-{n}\ten-{8 - n}\n" for n in range(0, 9, 2))
        write(folder / f"{language}-en.gold.ids.tsv", gold)
        lines = []
        for n in range(9):
            score = draw.random() if n > 0 else THRESHOLD
            translation = 8 - n if draw.random() < 0.8 else 0
            lines.append(f"{score:.6f}\t{n + 1}\t{translation + 1}\n")  # lines are counted from 1
        write(runs / f"bucc/{language}/test/scores.tsv", "".join(lines))
        write(runs / f"bucc/{language}/dev/mining.json", json.dumps({"threshold": THRESHOLD}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Prepared data and the predictions of nine runs, as their commands write them."""
    folder = tmp_path_factory.mktemp("xtreme")
    data = folder / "data"
    runs = folder / "runs"
    draw = random.Random(7)
    for task in ("xnli", "pawsx"):
        make_classes(data, runs, task, draw)
    for task in ("udpos", "panx"):
        make_tags(data, runs, task, draw)
    for task in ("xquad", "mlqa", "tydiqa"):
        make_answers(data, runs, task, draw)
    make_tatoeba(data, runs, draw)
    make_bucc(data, runs, draw)
    return folder


def collect(finished, output, tasks=tuple(TASKS)) -> dict:
    """Call the command on runs of these tasks; return scores.json."""
    runs = [f"{task}={finished / 'runs' / task.removesuffix('2018')}" for task in tasks]
    xtreme.main([*runs, "--data", str(finished / "data"), "--output", str(output)])
    return json.loads((output / "scores.json").read_text())


# The definitions of XTREME's evaluate.py, on its submission files. `text` is that of a submission's file, and
# `gold` or `english` that of the gold file.


def f1_of(correct: int, predicted: int, gold: int) -> float:
    """F1 in per cent, from numbers of entities, words or pairs."""
    if not correct:
        return 0.0
    precision = correct / predicted
    recall = correct / gold
    return 100 * 2 * precision * recall / (precision + recall)


def accuracy_of_classes(text: str, gold: str) -> float:
    labels = [row.split("\t")[2] for row in gold.splitlines()[1:]]
    return 100 * np.mean([name == label for name, label in zip(text.split(), labels, strict=True)])


def f1_of_tags(text: str, gold: str) -> float:
    """`gold` has a sentence and its tags in a line, below a header; `text` a tag in a line."""
    gold_lines = gold.rstrip("\n").split("\n")[1:]
    gold_rows = [line.split("\t")[1].split(JOINT) for line in gold_lines]
    rows = [sentence.split("\n") for sentence in text.rstrip("\n").split("\n\n")]
    if "B-PER" in gold:  # PAN-X; parts of speech stay as they are
        gold_rows = [to_iob2(tags) for tags in gold_rows]
    # An O behind each sentence, so that no chunk goes on in the next one.
    gold_chunks = seqeval_chunks([tag for tags in gold_rows for tag in (*tags, "O")])
    predicted_chunks = seqeval_chunks([tag for tags in rows for tag in (*tags, "O")])
    return f1_of(len(gold_chunks & predicted_chunks), len(predicted_chunks), len(gold_chunks))


def mean_of_f1_and_matches(text: str, gold: str) -> float:
    answers = json.loads(text)
    f1 = []
    matches = []
    for article in json.loads(gold)["data"]:
        (question,) = article["paragraphs"][0]["qas"]
        words = answers[question["id"]].split()
        gold_words = question["answers"][0]["text"].split()
        shared = (Counter(words) & Counter(gold_words)).total()
        f1.append(f1_of(shared, len(words), len(gold_words)))
        matches.append(100.0 if words == gold_words else 0.0)
    return (np.mean(f1) + np.mean(matches)) / 2


def accuracy_of_matches(text: str, english: str) -> float:
    """The predictions are in the order that sorts the English sentences; the label of one is its line."""
    lines = english.splitlines()
    labels = sorted(range(len(lines)), key=lambda number: lines[number])
    return 100 * np.mean([int(cell) == label for cell, label in zip(text.split(), labels, strict=True)])


def f1_of_mined_pairs(text: str, gold: str) -> float:
    pairs = set(text.splitlines())
    gold_pairs = set(gold.splitlines())
    return f1_of(len(pairs & gold_pairs), len(pairs), len(gold_pairs))


# task -> the gold file of a language, and the score of a language.
DEFINITIONS = {
    "xnli": ("xnli/test/test.{}.tsv", accuracy_of_classes),
    "pawsx": ("pawsx/test/test.{}.tsv", accuracy_of_classes),
    "udpos": ("udpos/test/test.{}.tsv", f1_of_tags),
    "panx": ("panx/test/test.{}.tsv", f1_of_tags),
    "xquad": ("mlqa/xquad/xquad.{}.json", mean_of_f1_and_matches),
    "mlqa": ("mlqa/test/test.{}.json", mean_of_f1_and_matches),
    "tydiqa": ("tydiqa/dev/dev.{}.json", mean_of_f1_and_matches),
    "bucc2018": ("bucc/test/{}-en.gold.ids.tsv", f1_of_mined_pairs),
    "tatoeba": ("tatoeba/tatoeba.{}-eng.eng", accuracy_of_matches),
}


def expected_scores(data, submission) -> dict[str, float]:
    """task -> score, from the submission and the gold files."""
    scores = {}
    for task, (place, score_of) in DEFINITIONS.items():
        of_languages = []
        for path in sorted((submission / task).iterdir()):  # test-<language>.<ending>
            language = path.stem.removeprefix("test-")
            code = TATOEBA[language] if task == "tatoeba" else language
            gold = (data / place.format(code)).read_text(encoding="utf-8")
            of_languages.append(score_of(path.read_text(encoding="utf-8"), gold))
        assert len(of_languages) == LANGUAGES[task]
        scores[task] = float(np.mean(of_languages))
    return scores


def test_the_scores_are_those_of_the_definitions(finished, tmp_path, capsys):
    values = collect(finished, tmp_path)
    expected = expected_scores(finished / "data", tmp_path / "predictions")
    scores = {task: value["score"] for task, value in values["tasks"].items()}
    assert scores == pytest.approx(expected, abs=1e-9)
    assert all(0 < score < 100 for score in scores.values())
    groups = [("xnli", "pawsx"), ("udpos", "panx"), ("xquad", "mlqa", "tydiqa"), ("bucc2018", "tatoeba")]
    means = [np.mean([expected[task] for task in group]) for group in groups]
    assert list(values["means"].values()) == pytest.approx([*means, np.mean(list(expected.values()))])
    printed = capsys.readouterr().out
    titles = ["task", "XNLI", "PAWS-X", "POS", "NER", "XQuAD", "MLQA", "TyDi", "QA", "BUCC", "Tatoeba"]
    assert printed.split()[: len(titles)] == titles
    assert "15/15" in printed and f"mean of all: {values['means']['all']:.1f}" in printed


def test_only_pairs_from_the_threshold_of_dev_on_are_submitted(finished, tmp_path):
    collect(finished, tmp_path, ("bucc2018",))
    for language in ("de", "zh"):
        rows = (finished / f"runs/bucc/{language}/test/scores.tsv").read_text().splitlines()
        pairs = []
        for score, source, translation in (row.split("\t") for row in rows):
            if float(score) >= THRESHOLD:
                pairs.append(f"{language}-{int(source) - 1}\ten-{int(translation) - 1}")
        submission = (tmp_path / f"predictions/bucc2018/test-{language}.tsv").read_text().splitlines()
        assert submission == sorted(pairs)
        assert 0 < len(pairs) < len(rows)


def test_means_need_all_tasks_and_all_languages(finished, tmp_path, capsys):
    values = collect(finished, tmp_path / "some", ("tatoeba", "xnli", "bucc2018"))
    assert list(values["tasks"]) == ["xnli", "bucc2018", "tatoeba"]
    assert list(values["means"]) == ["retrieval"]
    assert "a mean needs all of its tasks in all languages" in capsys.readouterr().out
    scores_of_russian = finished / "runs/bucc/ru/test/scores.tsv"
    text = scores_of_russian.read_text()
    scores_of_russian.unlink()
    values = collect(finished, tmp_path / "fewer", ("tatoeba", "bucc2018"))
    scores_of_russian.write_text(text)  # for the other tests
    assert (values["tasks"]["bucc2018"]["missing"], values["means"]) == (["ru"], {})
    assert "3/4" in capsys.readouterr().out


XNLI = "runs/xnli/test.ar.tsv.3.120"
MLQA = "runs/mlqa/test.en.json.3.120"
# The argument of the command, the files that are changed and their new text, the message.
CASES = [
    ("xnli", {}, "xnli: give task=folder, with one of the tasks xnli, pawsx, udpos"),
    ("xlni=runs/xnli", {}, "xlni=runs/xnli: give task=folder"),
    ("xnli=runs/none", {}, "runs/none: no such folder; name the one that holds the predictions of xnli"),
    ("xnli=runs/tatoeba", {}, "runs/tatoeba: no predictions of xnli there; run with --do_test true"),
    ("xnli=runs/xnli", {"runs/xnli/test.ar.tsv.4.200": "0\n"}, "are all predictions of xnli in ar; keep"),
    ("xnli=runs/xnli", {XNLI: "7\t1\t0\t0\n"}, "not the predictions of a model with 3 labels"),
    ("xnli=runs/xnli", {XNLI: "9" * 5000 + "\t0\t0\t0\n"}, "not the predictions of a model with 3"),
    ("xnli=runs/xnli", {XNLI: "1\t0\t1\t0\n"}, "1 predictions that do not belong to the 9 rows of"),
    ("panx=runs/panx", {"runs/panx/test.ar.tsv.3.120": "a O\n\n"}, "that do not belong to the 5 rows of"),
    ("mlqa=runs/mlqa", {MLQA: "{}"}, "no answer to the question q0 of"),
    ("mlqa=runs/mlqa", {MLQA: "[]"}, "not a JSON object with an answer for each question id"),
    ("bucc2018=runs/bucc", {"runs/bucc/de/dev/mining.json": "{}"}, "no threshold in it; mine dev with"),
    ("bucc2018=runs/bucc", {"runs/bucc/de/dev/mining.json": "[]"}, "mining.json: not a JSON object"),
    (
        "bucc2018=runs/bucc",
        {"runs/bucc/de/dev/mining.json": '{"threshold": "1"}'},
        "json: no threshold in it",
    ),
    ("bucc2018=runs/bucc", {"runs/bucc/de/test/scores.tsv": "1\t1\t99\n"}, "not of mine_pairs.py with"),
]


@pytest.mark.parametrize("run, changes, message", CASES, ids=[case[2][:20] for case in CASES])
def test_bad_input(finished, tmp_path, monkeypatch, run, changes, message):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for name, text in changes.items():
        Path(name).write_text(text)
    assert message in error_of(xtreme.main, [run])


@pytest.mark.parametrize("name", ["dev/mining.json", "test/scores.tsv"])
def test_mined_pairs_that_were_altered(finished, tmp_path, monkeypatch, name):
    """mine_pairs.py writes a manifest beside them."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    path = Path("runs/bucc/de") / name
    write_manifest(path.parent / MANIFEST)
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert f"{path}: damaged" in error_of(xtreme.main, ["bucc2018=runs/bucc"])


def test_a_task_is_named_once(finished):
    run = f"xnli={finished / 'runs/xnli'}"
    assert "xnli is named twice" in error_of(xtreme.main, [run, run])
