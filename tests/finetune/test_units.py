"""What `ernie-m fit` learns beside one label a text: several labels, numbers, tags, answers; its words."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ernie_m
from ernie_m.commands import predict, run_mrc
from ernie_m.finetune import rates
from ernie_m.finetune.fit import answers, tags, whole_model
from ernie_m.finetune.fit.read_units import read_units
from ernie_m.finetune.fit.scored import Scored
from ernie_m.finetune.fit.units import SCORE, Classes, SeveralLabels
from ernie_m.finetune.metrics import label_counts
from ernie_m.finetune.tasks.answer_scores import answer_scores
from ernie_m.finetune.tasks.entity_scores import entity_scores
from ernie_m.finetune.tasks.tagging import Tagging
from ernie_m.inference import fit
from ernie_m.inference.fit_head import logistic_regression, units_of
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.rows import LabelOptions
from ernie_m.reader.files.squad import Question, read_squad
from tests import toys
from tests.helpers.checkpoints import assert_same_weights
from tests.launching import as_flags, call_main, error_of, one_error

ROWS = toys.labelled_texts(30, seed=4)
TAGGED = [
    [(word, "B-THING" if word in toys.NOUNS[row.label] else "O") for word in row.text_a.split()]
    for row in ROWS
]


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch, tmp_path):
    monkeypatch.setattr(rates, "_AMOUNTS", toys.SHORT_AMOUNTS)
    monkeypatch.setattr(whole_model, "MANY_ROWS", 20)
    monkeypatch.chdir(tmp_path)


def made_by_fit(folder, write, start):
    """A model that `fit` makes of what `write` writes to a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "_AMOUNTS", toys.SHORT_AMOUNTS)
        patch.setattr(whole_model, "MANY_ROWS", 20)
        run_fit(write(str(folder / "train")), start, folder / "model", amp="none")
    return folder / "model"


@pytest.fixture(scope="module")
def tag_model(random_encoder, tmp_path_factory):
    return made_by_fit(
        tmp_path_factory.mktemp("tags"), lambda name: write_conll(name, TAGGED), random_encoder
    )


@pytest.fixture(scope="module")
def answer_model(random_encoder, tmp_path_factory):
    return made_by_fit(tmp_path_factory.mktemp("answers"), write_squad, random_encoder)


def write_table(name, *rows):
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return name


def write_conll(name, sentences, mark=" "):
    blocks = ["\n".join(mark.join(cells) for cells in sentence) for sentence in sentences]
    with open(name, "w", encoding="utf-8") as file:
        file.write("\n\n".join(blocks) + "\n")
    return name


def write_squad(name, count=24, misplaced=0):
    """Questions of which each has the context of another one, too."""
    paragraphs = []
    for number in range(count // 2):
        context = f"the {number} cat is here. the milk {number} is old"
        answers = [context[4:9], context[22:29]]
        qas = []
        for place, answer in enumerate(answers):
            start = context.index(answer) + (1 if 2 * number + place < misplaced else 0)
            answer_of = [{"text": answer, "answer_start": start}]
            qas.append({"id": f"{number}-{place}", "question": "what is old", "answers": answer_of})
        paragraphs.append({"context": context, "qas": qas})
    with open(name, "w", encoding="utf-8") as file:
        json.dump({"data": [{"paragraphs": paragraphs}]}, file)
    return name


def run_fit(table, model, output="out", *words, **flags):
    call_main(fit, [table, *words, *as_flags({"model": model, "output": output, **flags})])


def label(table, model="out", output="answers.csv", **flags):
    """`ernie-m label`: the rows that it writes."""
    call_main(predict, as_flags({"input": table, "model": model, "output": output, **flags}))
    with open(output, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tags(random_encoder, capsys, caplog):
    """The written model is scored on another file as it tags the words of that file.

    Two of its words have a tag that was not in the training: that is wrong, whatever is predicted.
    """
    write_conll("train.en.conll", TAGGED)
    in_test = [[*TAGGED[0][:-2], ("old", "B-NEW"), ("old", "I-NEW")], *TAGGED[1:]]
    other = write_conll("dev.de.conll", in_test, mark="\t")
    run_fit("train.en.conll", random_encoder, test=other)
    printed = capsys.readouterr().out
    held_out, of_test = re.findall(r"F1 ([\d.]+) %.*precision.*recall", printed)
    assert "one language, en" in printed and "6 sentences that a model of the others predicted" in printed
    model = ernie_m.load("out")
    tagged = model.tag([[word for word, _ in sentence] for sentence in in_test])
    gold = [[tag for _, tag in sentence] for sentence in in_test]
    predicted = [row["tags"] for row in tagged]
    assert float(of_test) == pytest.approx(entity_scores(gold, predicted).f1, abs=0.05)
    assert [line for line in caplog.messages if line.startswith("dev.de.conll: ") and "B-NEW, I-NEW" in line]
    assert 0 <= float(held_out) <= 100
    known = [["O" if tag.endswith("NEW") else tag for tag in row] for row in gold]
    counts = entity_scores(known, predicted)
    _, of_type = re.findall(r"\n *THING +(.*)\n", printed)
    shares = (counts.precision, counts.recall, counts.f1)
    assert of_type.split() == [f"{counts.gold}", *(f"{share:.1f}" for share in shares)]
    rows = label(write_table("texts.csv", ["text"], ["the cat is here"], ["old milk"]))
    assert len(rows[0]["predicted_tags"].split()) == 4 and rows[1]["predicted_words"] == "old milk"
    other = write_conll("pos.conll", [[("a", "O"), ("cat", "NOUN")]])
    line = one_error(lambda: run_fit("train.en.conll", random_encoder, "none", test=other), capsys)
    assert "pos.conll: " in line and "NOUN" in line


@pytest.mark.parametrize(
    ("gold", "predicted", "expected"),
    [
        # One that is found, one of another type, one that is cut short, one of none.
        (
            "B-PER I-PER O B-LOC B-ORG I-ORG O",
            "B-PER I-PER O B-ORG B-ORG O B-LOC",
            {"LOC": (1, 1, 0), "ORG": (1, 2, 0), "PER": (1, 1, 1)},
        ),
        ("NOUN NOUN X VERB", "NOUN VERB X X", {"NOUN": (2, 1, 1), "VERB": (1, 1, 0), "X": (1, 2, 1)}),
    ],
)
def test_entities_are_counted_by_type_and_parts_of_speech_by_word(gold, predicted, expected):
    """(gold, predicted, correct) of the second sentence; the first is not asked for."""
    sentences = [gold.split()[-1:], gold.split()]
    words = [["a"] * len(tags) for tags in sentences]
    units = tags.of(words, sentences, [])
    units.task = Tagging(SimpleNamespace(vocab={}), units.tags, 16, scheme=units.scheme)
    outcomes = [[units.tags.index(tag) for tag in predicted.split()]]
    assert label_counts(units.confusion([1], outcomes)) == expected


@pytest.mark.parametrize("form", ["conll", "jsonl", "tsv"])
def test_tagged_words_come_back_with_tags(tag_model, tmp_path, capsys, form):
    """A column or a key more; the F1 that is printed is that of these tags. Other lines stay as they are."""
    blocks = ["\n".join(f"{word} x {tag}" for word, tag in row) for row in TAGGED[:4]]
    as_objects = [{"tokens": [w for w, _ in row], "ner_tags": [t for _, t in row]} for row in TAGGED[:4]]
    as_rows = ["\t".join(toys.JOINT.join(cells) for cells in zip(*row)) for row in TAGGED[:4]]
    content = {
        "conll": "# id = 1\n" + "\n\n".join(blocks),
        "jsonl": "\n".join(map(json.dumps, as_objects)),
        "tsv": "\n".join(["text_a\tlabel", *as_rows]),
    }[form]
    Path(f"in.{form}").write_text(f"{content}\n")
    call_main(predict, as_flags({"input": f"in.{form}", "model": tag_model, "output": "out"}))
    tagged = ernie_m.load(tag_model).tag([[word for word, _ in row] for row in TAGGED[:4]])
    tags = [row["tags"] for row in tagged]
    lines = Path("out").read_text().splitlines()
    if form == "conll":
        flat = iter(tag for sentence in tags for tag in sentence)
        expected = [
            f"{line} {next(flat)}" if line.count(" ") == 2 and line[0] != "#" else line
            for line in content.splitlines()
        ]
    elif form == "jsonl":
        expected = [json.dumps({**row, "predicted_tags": tag}) for row, tag in zip(as_objects, tags)]
    else:
        expected = [f"{row}\t{toys.JOINT.join(tag)}" for row, tag in zip(as_rows, tags)]
        expected = ["text_a\tlabel\tpredicted_tags", *expected]
    assert lines == expected
    f1 = entity_scores([[tag for _, tag in row] for row in TAGGED[:4]], tags).f1
    assert f"F1 of 4 entities {f1:.1f} %" in capsys.readouterr().err


def test_json_of_words_that_is_no_training_file(tag_model, tmp_path, capsys):
    """Words without tags are requests, as from standard input; a list has no lines to add tags to."""
    words = [[word for word, _ in row] for row in TAGGED[:2]]
    Path("in.jsonl").write_text("".join(f"{json.dumps({'words': row})}\n" for row in words))
    call_main(predict, as_flags({"input": "in.jsonl", "model": tag_model, "output": "out"}))
    answers = [json.loads(line) for line in Path("out").read_text().splitlines()]
    assert [row["tags"] for row in answers] == [row["tags"] for row in ernie_m.load(tag_model).tag(words)]
    rows = [{"tokens": row, "tags": ["O"] * len(row)} for row in words]
    for name, content in (("line.json", json.dumps(rows)), ("lines.json", json.dumps(rows, indent=1))):
        Path(name).write_text(content)
        flags = as_flags({"input": name, "model": tag_model, "output": "new"})
        assert f"{name}, line 1: " in one_error(lambda flags=flags: call_main(predict, flags), capsys)
        assert not Path("new").exists()


def test_a_sentence_that_is_wrong_ends_the_answering(tag_model, tmp_path, capsys):
    write_conll("in.conll", [*TAGGED[:2], [("a", "B-THING"), ("b", "Z-")]])
    flags = {"input": "in.conll", "model": tag_model, "output": "out"}
    assert "in.conll, line " in one_error(lambda: call_main(predict, as_flags(flags)), capsys)
    assert not Path("out").exists()


def test_the_questions_of_a_file_are_answered(answer_model, capsys):
    """In the form of SQuAD; with the accepted answers, the scores by the rules for Chinese are printed."""
    write_squad("in.zh_CN.json", count=6)
    flags = {"input": "in.zh_CN.json", "model": answer_model}
    call_main(predict, as_flags({**flags, "output": "out"}))
    answers = [json.loads(line) for line in Path("out").read_text().splitlines()]
    read = read_squad("in.zh_CN.json")
    assert [row["id"] for row in answers] == [question.id for question in read.questions]
    model = ernie_m.load(answer_model)
    given = [model.answer(question.text, read.contexts[question.context]) for question in read.questions]
    assert [row["answer"] for row in answers] == [row["answer"] for row in given]
    rows = [(row["answer"], question.answers) for row, question in zip(answers, read.questions)]
    scores = answer_scores(rows, "zh")
    line = f"6 questions: F1 {scores['f1']:.1f} %, exact match {scores['em']:.1f} %"
    assert line in capsys.readouterr().err
    content = json.loads(Path("in.zh_CN.json").read_text())
    for paragraph in content["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"]
    Path("in.zh_CN.json").write_text(json.dumps(content))
    call_main(predict, as_flags({**flags, "output": "again"}))
    assert Path("again").read_text() == Path("out").read_text()


def test_json_lines_of_tokens_and_tags_are_the_same_sentences(random_encoder):
    conll = units_of(
        [[word for word, _ in row] for row in TAGGED], [[tag for _, tag in row] for row in TAGGED]
    )
    with open("tags.jsonl", "w", encoding="utf-8") as file:
        for row in TAGGED:
            file.write(json.dumps({"tokens": [w for w, _ in row], "ner_tags": [t for _, t in row]}) + "\n")
    read = read_units([LabelledFile(Path("tags.jsonl"), "train", "all")], LabelOptions())
    assert (read.items, read.tags, read.scheme) == (conll.items, ["B-THING", "I-THING", "O"], "IOB")


def test_a_table_with_splits_is_learned_from_and_scored_on():
    """Rows of no split are learned from; a model is scored on those that it has not learned from."""
    splits = ["train"] * 10 + [""] * 10 + ["test"] * 10
    rows = [[row.text_a, f"label {row.label}", split] for row, split in zip(ROWS, splits)]
    files = [LabelledFile(Path(write_table("rows.csv", ["text", "label", "split"], *rows)), "train", "all")]
    learned = read_units(files, LabelOptions())
    scored = read_units(files, LabelOptions(), like=learned)
    texts = [[item.text_a for item in units.items] for units in (learned, scored)]
    assert texts == [[row[0] for row in part] for part in (rows[:20], rows[20:])]


def test_answers_are_those_of_run_mrc(random_encoder, capsys):
    """With the rate, the decay and the epochs of this start, run_mrc.py trains the same weights."""
    table = write_squad("train.json")
    content = Path(table).read_text(encoding="utf-8")
    Path(table).write_text(content.replace("what is old", "what is old " * 40, 1), encoding="utf-8")
    run_fit(table, random_encoder, amp="none")
    printed = capsys.readouterr().out
    assert "train.json: 1 of 24 questions are cut at 64 tokens (max_query_length)\n" in printed
    assert "24 questions" in printed and "exact match" in printed
    of_fit = {"learning_rate": 5e-4, "layerwise_lr_decay": 1.0, "epoch": 2, "max_seq_len": 384, "amp": "none"}
    of_fit |= dict.fromkeys(("do_val", "do_test", "official_compat"), "false")
    files = {"train_set": table, "init_pretraining_params": random_encoder, "checkpoints": "by_hand"}
    call_main(run_mrc, as_flags(files | of_fit))
    (step,) = Path("by_hand").glob("step_*")
    assert_same_weights(Path("out"), step)
    rows = label(write_table("ask.csv", ["question", "context"], ["what is old", "the milk is old"]))
    assert rows[0]["predicted_answer"] in "the milk is old"


def test_a_file_on_one_context_is_scored():
    """It cannot be learned from, because no context could be held out; as a test it is as good as others."""
    files = [LabelledFile(Path(write_squad("one.json", count=2)), "train", "all")]
    learned = read_units([LabelledFile(Path(write_squad("train.json")), "train", "all")], LabelOptions())
    assert len(read_units(files, LabelOptions(), like=learned)) == 2
    conll = [LabelledFile(Path(write_conll("one.conll", TAGGED[:1])), "train", "all")]
    tagged = [LabelledFile(Path(write_conll("train.conll", TAGGED)), "train", "all")]
    assert len(read_units(conll, LabelOptions(), like=read_units(tagged, LabelOptions()))) == 1


def write_squad_with_absent(name, count, misplaced=0):
    """24 questions; of so many, from the last one on, the answer stands nowhere in the context."""
    content = json.loads(Path(write_squad(name, misplaced=misplaced)).read_text(encoding="utf-8"))
    questions = [question for paragraph in content["data"][0]["paragraphs"] for question in paragraph["qas"]]
    for question in questions[len(questions) - count :]:
        question["answers"][0]["text"] = "a dog"
    Path(name).write_text(json.dumps(content), encoding="utf-8")
    return name


@pytest.mark.parametrize("like", [False, True])
def test_a_question_whose_answer_stands_nowhere_in_its_context_is_not_scored(like, caplog):
    """One whose answer is only not at its place is scored: its text can be found."""
    learned = read_file(write_squad("good.json")) if like else None
    files = [LabelledFile(Path(write_squad_with_absent("few.json", 1, misplaced=1)), "train", "all")]
    units = read_units(files, LabelOptions(), like=learned)
    assert [question.id for question in units.items][::22] == ["0-0", "11-0"] and len(units) == 23
    assert [line for line in caplog.messages if line.startswith("few.json: 1 of 24 questions are left out")]
    perfect = [question.answers[0] for question in units.items]
    assert dict(units.measures(range(len(units)), perfect)) == {"f1": 100, "em": 100}


@pytest.mark.parametrize("name", ["dev-context-zh-question-de.json", "train.zh_CN.json", "zho.json"])
def test_the_name_of_a_file_of_questions_says_their_language(name):
    """The articles of English count in Chinese."""
    units = read_file(write_squad(name))
    assert set(units.languages) == {"zh"}
    assert units.measures([0], ["the 0 cat"])["em"] == 0


@pytest.mark.parametrize("answer", ["Animal", "the animal", "old,  animal"])
def test_an_answer_stands_in_a_context_as_the_scorers_compare_texts(answer):
    question = Question("1", "?", 0, (answer,), None)
    assert answers._stands_in(question, "here is an old animal", "en")
    assert not answers._stands_in(question, "here is a tool", "en")


def test_a_file_of_which_most_answers_stand_nowhere_is_refused():
    assert error_of(read_file, write_squad_with_absent("many.json", 9)).startswith("many.json: 9 of 24 ")
    test = [LabelledFile(Path(write_squad_with_absent("all.json", 24)), "test", "all")]
    learned = read_file(write_squad("good.json"))
    assert error_of(read_units, test, LabelOptions(), like=learned).startswith("all.json: ")


def test_questions_on_one_context_are_held_out_together(random_encoder, monkeypatch):
    seen = []
    monkeypatch.setattr(whole_model, "folds_of", lambda groups, labels: seen.append(groups) or groups % 5)
    run_fit(write_squad("train.json"), random_encoder, amp="none")
    assert seen[0].tolist() == [number // 2 for number in range(24)]


def test_scores_and_rank(random_encoder, capsys):
    texts = [row.text_a for row in ROWS]
    write_table(
        "pairs.csv", ["query", "passage", "score"], *([texts[i], texts[-i], i / 30] for i in range(30))
    )
    run_fit("pairs.csv", random_encoder)
    printed = capsys.readouterr().out
    assert "Spearman" in printed and "Pearson" in printed
    assert printed.splitlines()[1].endswith("numbers from 0 to 0.966667 (mean 0.483)")
    model = ernie_m.load("out")
    ranked = model.rank(texts[0], texts[:5])
    scores = {row["text"]: row["score"] for row in ranked}
    assert [row["score"] for row in ranked] == sorted(scores.values(), reverse=True)
    assert model.classify((texts[0], texts[3]))[0]["score"] == scores[texts[3]]
    assert all(texts[row["index"]] == row["text"] for row in ranked)
    assert [row.get("cut") for row in model.rank(texts[0], [texts[1] * 99])] == [True]
    assert "rank needs" in error_of(ernie_m.load(random_encoder).rank, "a", ["b"])


def test_scores_that_are_no_numbers():
    """They are named; --on_error skip leaves their rows out, also in a file that a model is scored on."""
    cells = [["a", "0,5", "1"][number % 3] if number < 6 else number / 9 for number in range(9)]
    rows = [[f"text {number}", "other", cell] for number, cell in enumerate(cells)]
    files = [LabelledFile(Path(write_table("s.csv", ["query", "passage", "score"], *rows)), "train", "all")]
    assert "s.csv, line 2: the label 'a'" in error_of(read_units, files, LabelOptions(), SCORE)
    learned = read_units(files, LabelOptions(on_error="skip"), SCORE)
    assert [item.label for item in learned.items] == [1, 1, 6 / 9, 7 / 9, 8 / 9]
    assert len(read_units(files, LabelOptions(on_error="skip"), like=learned)) == 5
    write_table("s.csv", ["query", "passage", "score"], *([*row[:2], "a"] for row in rows))
    assert "s.csv: no rows" in error_of(read_units, files, LabelOptions(on_error="skip"), SCORE)


@pytest.mark.parametrize("whole", [(), ("--finetune",)])
def test_several_labels(random_encoder, capsys, whole):
    labels = [f"{row.label},odd" if number % 2 else row.label for number, row in enumerate(ROWS)]
    labels[3] = ""  # a text may have none
    table = write_table("several.csv", ["text", "labels"], *zip([row.text_a for row in ROWS], labels))
    run_fit(table, random_encoder, "out", "--multi_label", *whole)
    assert "micro F1" in capsys.readouterr().out
    rows = label(table)
    answers = ernie_m.load("out").classify([row.text_a for row in ROWS])
    assert [row["predicted_labels"] for row in rows] == [", ".join(answer["labels"]) for answer in answers]
    assert set(answers[0]["probabilities"]) == {*toys.NOUNS, "odd"}


def test_the_weights_of_several_labels_are_at_the_minimum():
    """For each label by itself the gradient of the loss, by hand, is zero."""
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(40, 5))
    targets = (generator.random((40, 3)) < [0.5, 0.2, 0.7]).astype(float)
    weight, bias = logistic_regression(vectors, targets, several=True)
    errors = 1 / (1 + np.exp(-(vectors @ weight + bias))) - targets
    np.testing.assert_allclose(vectors.T @ errors + weight, 0, atol=1e-3)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-3)


def scored(probabilities, labels, kind=Classes):
    units = kind.of([[f"text {number}"] for number in range(len(labels))], labels, names=["a", "b"])
    units.make_task(tokenizer=None, max_seq_len=8)
    every = np.arange(len(labels))
    return Scored(units, every, np.array(probabilities), every, 5)


def test_the_probability_from_which_on_rows_are_right():
    """40 rows above .9, of which two are wrong; below, half are. Of equal probabilities all count."""
    sure = [[0.9 + number / 1000, 0.1 - number / 1000] for number in range(40)]
    unsure = [[0.7, 0.3]] * 40
    labels = ["b", *["a"] * 38, "b"] + ["a", "b"] * 20
    assert scored([*sure, *unsure], labels).sure_from() == 0.9
    assert scored([*sure, *unsure], ["a"] * 39 + ["b"] * 41).sure_from() == pytest.approx(0.9)
    assert scored([*sure, *unsure], ["a", "b"] * 40).sure_from() is None
    assert scored(sure[:19], ["a"] * 19).sure_from() is None  # too few to know
    several = scored([[0.9, 0.05]] * 30 + [[0.9, 0.4]] * 30, [["a"]] * 30 + [["b"]] * 30, SeveralLabels)
    assert several.sure_from() == pytest.approx(0.9)


def test_the_least_sure_rows_are_first(random_encoder):
    table = write_table("rows.csv", ["text", "label"], *((row.text_a, row.label) for row in ROWS))
    run_fit(table, random_encoder)
    plain = label(table, output="plain.csv")
    by_sureness = label(table, output="sorted.csv", sort="uncertain")
    probabilities = [float(row["predicted_probability"]) for row in by_sureness]
    assert probabilities == sorted(probabilities) and probabilities != [
        float(row["predicted_probability"]) for row in plain
    ]
    assert sorted(row["text"] for row in by_sureness) == sorted(row["text"] for row in plain)


def test_a_test_must_be_as_what_is_learned(random_encoder, capsys, caplog):
    """One with other texts, or labels, is refused; rows that are learned from, too, are counted."""
    rows = [[row.text_a, row.label] for row in ROWS]
    learned = write_table("rows.csv", ["text", "label"], *rows)
    pairs = write_table(
        "pairs.csv", ["premise", "hypothesis", "label"], *([text, text, n] for text, n in rows)
    )
    other = write_table("other.csv", ["text", "label"], *rows[:4], ["a text", "strange"])
    for test, place in ((pairs, "pairs.csv: "), (other, "other.csv, line 6: ")):
        assert place in one_error(lambda test=test: run_fit(learned, "nowhere", test=test), capsys)
    known = write_table("known.csv", ["text", "label"], *rows[:4], ["a text", rows[0][1]])
    run_fit(learned, random_encoder, test=known)
    assert [line for line in caplog.messages if line.startswith("known.csv: 4 of 5 rows have a text that is")]


def test_files_of_a_folder(random_encoder, tmp_path, capsys):
    """Training files are learned, dev and test files are scored, each in the language of its name."""
    rows = [[row.text_a, row.label] for row in ROWS]
    (tmp_path / "my").mkdir()
    for name, part in (("train.en", rows[:20]), ("train.de", rows[10:]), ("test.fr", rows)):
        write_table(f"my/{name}.csv", ["text", "label"], *part)
    run_fit("my", random_encoder)
    printed = capsys.readouterr().out
    assert "40 rows, 3 labels" in printed and "my/test.fr.csv: accuracy" in printed
    table = printed.partition("language ")[2]
    assert re.search(r"\bde +20 ", table) and re.search(r"\ben +20 ", table)


@pytest.mark.parametrize(("half", "chosen"), [(0.1, "bf16"), (0.19, "none")])
def test_the_faster_precision_is_taken_and_kept(random_encoder, monkeypatch, half, chosen):
    """If it is clearly faster. It is measured once: a training that goes on does not change its precision."""
    taken = []
    monkeypatch.setattr(whole_model, "is_bf16_on_cpu", lambda amp: True)
    speeds = iter([0.2, half])
    monkeypatch.setattr(
        whole_model._Work, "_seconds_of_a_step", lambda self, amp: taken.append(amp) or next(speeds)
    )
    monkeypatch.setattr(whole_model._Work, "trained", lambda self, *rest: taken.append(self.flags.amp))
    inputs, labels = [[row.text_a] for row in ROWS], [row.label for row in ROWS]
    for _ in range(2):
        assert whole_model.train_and_score(Classes.of(inputs, labels), random_encoder, "out") is None
    assert taken == ["none", "bf16", chosen, chosen]


@pytest.mark.parametrize(
    ("name", "write", "flags", "place"),
    [
        (
            "index.conll",
            lambda name: write_conll(
                name, [[(str(n), *pair) for n, pair in enumerate(row, 5)] for row in TAGGED]
            ),
            {},
            "index.conll, line 1: ",
        ),
        (
            "endless.conll",
            lambda name: write_conll(name, [[pair for row in TAGGED * 5 for pair in row]]),
            {},
            "endless.conll, line 1: ",
        ),
        (
            "bad.conll",
            lambda name: write_conll(name, [*TAGGED, [("a", "X-A"), ("b", "Z")]]),
            {},
            "bad.conll, line ",
        ),
        ("moved.json", lambda name: write_squad(name, misplaced=9), {}, "moved.json: 9 of 24 "),
        (
            "one.csv",
            lambda name: write_table(
                name, ["query", "passage", "score"], *([f"t {n}", "u", 0.5] for n in range(9))
            ),
            {"task": "regression"},
            "one.csv: every row",
        ),
        (
            "names.csv",
            lambda name: write_table(name, ["text", "label"], *([f"t {n}", "ab"[n % 2]] for n in range(9))),
            {"task": "regression"},
            "names.csv, line 2: ",
        ),
        (
            "copies.conll",
            lambda name: write_conll(name, TAGGED[:1] * 9),
            {},
            "copies.conll: all 9 sentences",
        ),
        ("chapter.json", lambda name: write_squad(name, count=2), {}, "chapter.json: all 2 questions"),
        (
            "same.csv",
            lambda name: write_table(name, ["query", "passage", "score"], *(["t", "u", n] for n in range(9))),
            {"task": "regression"},
            "same.csv: all 9 rows",
        ),
        (
            "several.csv",
            lambda name: write_table(name, ["text", "labels"], *(["t", "ab"[n % 2]] for n in range(9))),
            {"task": "multi-label"},
            "several.csv: all 9 rows",
        ),
        (
            "class.csv",
            lambda name: write_table(name, ["text", "label"], *([f"t {n}", "a"] for n in range(9))),
            {},
            "class.csv: all 9 rows",
        ),
        (
            "every.csv",
            lambda name: write_table(name, ["text", "labels"], *([f"t {n}", "a,b"] for n in range(9))),
            {"task": "multi-label"},
            "every.csv: every row",
        ),
        (
            "none.csv",
            lambda name: write_table(name, ["text", "label"], *([f"t {n}", "-"] for n in range(9))),
            {},
            "none.csv",
        ),
        (
            "words.csv",
            lambda name: write_table(
                name,
                ["Sentence #", "Word", "POS", "Tag"],
                ["Sentence: 1", "In", "IN", "O"],
                ["", "Rome", "N", "B-geo"],
            ),
            {},
            "words.csv, line 1: which column",
        ),
    ],
)
def test_what_cannot_be_learned(capsys, name, write, flags, place):
    """Before any model is looked for."""
    line = one_error(lambda: run_fit(write(name), "nowhere", **flags), capsys)
    assert place in line and "nowhere" not in line


@pytest.mark.parametrize(
    ("text", "label", "task"),
    [
        ("a", "b", "regression"),
        ("a", float("nan"), "regression"),
        ("a b", "O", "token-classification"),
        (["a", "b"], ["O"], "token-classification"),
        (["a", "b"], ["O", 3], "token-classification"),
        (["a", ""], ["O", "O"], "token-classification"),
        ([], [], "token-classification"),
        ("a", "b", "question-answering"),
        (("a", "b c"), None, "question-answering"),
        (("a", "b c"), "d", "question-answering"),
        ("a", "b", "multi-label"),
        (("a", "b", "c"), "d", None),
        (None, "d", "classification"),
    ],
)
def test_what_python_gives_must_be_of_the_task(text, label, task):
    """The first one that is not is named."""
    right = {
        "regression": ("a", 1),
        "token-classification": (["a"], ["O"]),
        "question-answering": (("a", "b"), "b"),
        "multi-label": ("a", ["b"]),
    }
    good_text, good_label = right.get(task, ("a", "b"))
    assert "index 1: " in error_of(units_of, [good_text, text], [good_label, label], (), task)
    assert "token-classification" in error_of(units_of, ["a"], ["b"], (), "tagging")


def read_file(name, task=None):
    return read_units([LabelledFile(Path(name), "train", "all")], LabelOptions(), task)


def test_conll_u_is_known_by_its_lines():
    """Its tags of parts of speech look like no others, and its comments like rows of a table."""
    rest = "\t_" * 6
    sentences = [
        f"# sent_id = {n}\n1-2\tIt ran{n}\t_\t_{rest}\n1\tIt\t_\tPRON{rest}\n2\tran{n}\t_\tVERB{rest}\n\n"
        for n in range(4)
    ]
    Path("words.conllu").write_text("".join(sentences))
    units = read_file("words.conllu")
    assert (units.kind, len(units)) == ("token-classification", 4)
    assert [len(set(sentence.labels)) for sentence in units.items] == [2] * 4


def write_labels(labels, count=20):
    """A table with these labels, one after the other, from line 2 on."""
    rows = ([f"a text {n}", labels[n % len(labels)]] for n in range(count))
    return write_table("rows.csv", ["text", "label"], *rows)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (["500", "1.000"], 3),
        (["2.500", "999", "0"], 2),
        (["0,5", "1,0"], 2),
        (["500", "1,000"], 3),
        (["5", "1,250"], 3),
        (["7", "1.5", "2.000,5"], 4),
        (["7", "1.5", "2,5"], 4),
        (["7", "85%"], 3),
        (["85,5 %", "7"], 2),
    ],
)
def test_a_number_that_can_be_read_in_two_ways_is_refused(labels, line):
    assert error_of(read_file, write_labels(labels), "regression").startswith(f"rows.csv, line {line}: ")


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (["billing", "service", "billing,service"], 4),
        (["billing", "service", "billing|service"], 4),
        (["billing", "billing; urgent"], 3),
        (["a, b", "b, c", "c, a"], 2),
        (["sport,sport##run", "sport,sport##ball", "snow"], 2),
        (["Bonn, Germany", "Berlin, Germany", "Rome, Italy"], 2),
    ],
)
def test_a_label_whose_parts_are_elsewhere_may_be_several(labels, line):
    table = write_labels(labels)
    assert error_of(read_file, table).startswith(f"rows.csv, line {line}: ")
    assert len(read_file(table, "classification").names) == len(labels)
    assert all("," not in name for name in read_file(table, "multi-label").names)


def test_labels_that_only_a_test_has_are_named_without_those_that_are_known():
    names = ["text", "billing", "service", "legal"]
    rows = [[f"a text {n}", n % 2, n % 3 % 2, n % 2] for n in range(20)]
    write_table("learned.csv", names[:-1], *(row[:-1] for row in rows))
    write_table("test.csv", names, *rows)
    names = LabelOptions(label="billing,service")
    learned = read_units([LabelledFile(Path("learned.csv"), "train", "all")], names, "multi-label")
    files = [LabelledFile(Path("test.csv"), "test", "all")]
    names = LabelOptions(label="billing,service,legal")
    first, *_ = error_of(read_units, files, names, like=learned).splitlines()
    assert first.startswith("test.csv, line 3: ") and "'legal'" in first and "billing" not in first
