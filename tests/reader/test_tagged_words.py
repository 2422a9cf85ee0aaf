"""Tagged words as data sets and annotation tools publish them: words and tags, or a question."""

import gzip
import json
from pathlib import Path

import pytest

from ernie_m.model.entity_tags import PLACES
from ernie_m.reader.files.own_files import holds_tags
from ernie_m.reader.files.rows import TableOptions
from ernie_m.reader.files.table.tagged_words import lines_of, read_words
from tests.launching import error_of

# Three sentences, word/tag.
SENTENCES = [
    "Maria/B-PER Peck/I-PER fuhr/O nach/O Bonn/B-LOC ./O",
    "Es/O regnete/O in/O New/B-LOC York/I-LOC !/O",
    "Alle/O sahen/O den/O Rhein/B-LOC ./O",
]
ROWS = [[tuple(word.rsplit("/", 1)) for word in sentence.split()] for sentence in SENTENCES]
TEXTS = [" ".join(word for word, _ in row) for row in ROWS]


def blocks(line_of, before=lambda sentence: "") -> str:
    """A block of lines for each sentence: line_of(number of the sentence, of the word from 1, word, tag)."""
    return "".join(
        before(number) + "".join(line_of(number, i, *pair) + "\n" for i, pair in enumerate(row, 1)) + "\n"
        for number, row in enumerate(ROWS)
    )


def spans(number: int) -> list[tuple[int, int, str]]:
    """The entities of a sentence: where each begins and ends in the text, and its type."""
    found, start = [], 0
    for word, tag in ROWS[number]:
        if tag[0] == "I":
            found[-1] = (found[-1][0], start + len(word), tag[2:])
        elif tag[0] == "B":
            found.append((start, start + len(word), tag[2:]))
        start += len(word) + 1
    return found


def objects(object_of) -> str:
    return "".join(json.dumps(object_of(n), ensure_ascii=False) + "\n" for n in range(len(ROWS)))


def label_studio(number: int) -> dict:
    results = [
        {
            "value": {"start": start, "end": end, "text": TEXTS[number][start:end], "labels": [label]},
            "from_name": "ner",
            "to_name": "text",
            "type": "labels",
        }
        for start, end, label in spans(number)
    ]
    annotation = {"id": 7, "was_cancelled": False, "result": results}
    return {"id": number, "data": {"text": TEXTS[number]}, "annotations": [annotation]}


def prodigy(number: int) -> dict:
    tokens, start = [], 0
    for i, (word, _) in enumerate(ROWS[number]):
        tokens.append({"text": word, "start": start, "end": start + len(word), "id": i, "ws": True})
        start += len(word) + 1
    marked = [{"start": start, "end": end, "label": label} for start, end, label in spans(number)]
    return {"text": TEXTS[number], "_input_hash": 3, "tokens": tokens, "spans": marked, "answer": "accept"}


COMMENTS = "# sent_id = {0}\n# text = {1}\n"
# What is not tried elsewhere: name of the file -> content
FORMS = {
    "conll.txt": blocks(lambda n, i, word, tag: f"{word} X Y {tag}"),
    "uner.iob2": blocks(
        lambda n, i, word, tag: f"{i}\t{word}\t{tag}\t-\tannotator",
        lambda n: "# newdoc id = a\n# newpar\n" * (n == 0) + COMMENTS.format(n, TEXTS[n]),
    ),
    "named.conllup": "# global.columns = ID FORM UNER:TAG\n"
    + blocks(lambda n, i, word, tag: f"{i}\t{word}\t{tag}", lambda n: COMMENTS.format(n, TEXTS[n])),
    "words_last.conllup": "# global.columns = NER:TAG FORM\n"
    + blocks(lambda n, i, word, tag: f"{tag}\t{word}"),
    "germeval.tsv": blocks(
        lambda n, i, word, tag: f"{i}\t{word}\t{tag}\tO",
        lambda n: "#\thttp://de.wikipedia.org/wiki/Bonn [2009-10-17]\n",
    ),
    "tokens.jsonl": objects(
        lambda n: {"tokens": [word for word, _ in ROWS[n]], "ner_tags": [tag for _, tag in ROWS[n]]}
    ),
    "label_studio.json": json.dumps([label_studio(n) for n in range(len(ROWS))], indent=1),
    "label_studio_min.json": json.dumps(
        [
            {
                "text": TEXTS[n],
                "label": [
                    {"start": start, "end": end, "text": TEXTS[n][start:end], "labels": [label]}
                    for start, end, label in spans(n)
                ],
                "annotation_id": n,
            }
            for n in range(len(ROWS))
        ]
    ),
    "doccano.jsonl": objects(lambda n: {"id": n, "text": TEXTS[n], "label": spans(n)}),
    "doccano_entities.jsonl": objects(
        lambda n: {
            "id": n,
            "text": TEXTS[n],
            "entities": [
                {"id": i, "label": label, "start_offset": start, "end_offset": end}
                for i, (start, end, label) in enumerate(spans(n))
            ],
            "relations": [],
        }
    ),
    "prodigy.jsonl": objects(prodigy),
}


def read(path: Path, **options) -> list[list[tuple[str, str]]]:
    sentences = read_words(path, PLACES, options=TableOptions(**options))
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMS)
def test_words_and_tags(tmp_path, name):
    """`fit` knows such a file, also packed."""
    path = write(tmp_path / name, FORMS[name])
    assert holds_tags(path, spans=True)
    assert read(path) == ROWS
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(FORMS[name].encode()))
    assert holds_tags(packed, spans=True) and read(packed) == ROWS


@pytest.mark.parametrize("labels", [None, 3, "X", {"a": 1}, [], ["X"], ["PER", "X"]])
def test_labels_beside_the_label_of_a_span(tmp_path, labels):
    """Another tool's key: the label is the label."""
    span = {"start_offset": 0, "end_offset": 4, "label": "PER", "labels": labels}
    path = write(tmp_path / "spans.jsonl", objects(lambda n: {"text": "Anna sings", "entities": [span]}))
    assert read(path)[0] == [("Anna", "B-PER"), ("sings", "O")]


def test_parts_of_speech_of_conll_u(tmp_path):
    """By the names of its ten columns. Of words in one, and unwritten ones, those of the tree are read."""
    lines = [
        "# text = Im Haus",
        "1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tIn\tin\tADP\tAPPR\t_\t3\tcase\t_\t_",
        "2\tdem\tder\tDET\tART\t_\t3\tdet\t_\t_",
        "3\tHaus\tHaus\tNOUN\tNN\t_\t0\troot\t_\t_",
        "3.1\tist\tsein\tAUX\t_\t_\t_\t_\t_\t_",
        "",
    ]
    path = write(tmp_path / "dev.conllu", "\n".join(lines * 3))
    assert read(path) == [[("In", "ADP"), ("dem", "DET"), ("Haus", "NOUN")]] * 3
    other = read(path, word_column="LEMMA,XPOS")
    assert other == [[("in", "APPR"), ("der", "ART"), ("Haus", "NN")]] * 3
    assert "dev.conllu, line 2: --word_column WORD" in error_of(read, path, word_column="WORD")


def test_rows_that_are_numbered_are_no_sentences(tmp_path):
    """CoNLL-U is known by blocks that begin at 1, or by one with a comment or a blank line behind it."""

    def is_conll_u(*blocks: range, before: str = "", behind: str = "\n") -> bool:
        lines = ["".join(f"{i}\tWort" + "\t_" * 8 + "\n" for i in block) for block in blocks]
        content = before + "\n".join(lines) + behind
        answers = {
            holds_tags(write(tmp_path / "a", text)) for text in (content, content.replace("\n", "\r\n"))
        }
        assert len(answers) == 1
        return answers.pop()

    words = range(1, 9)
    assert is_conll_u(words, words, words)
    assert is_conll_u(words)
    assert is_conll_u(words, before="# text = Wort\n", behind="")
    assert is_conll_u(*[words] * 900, before="# newdoc\n")  # more than the part that is looked at
    assert not is_conll_u(words, behind="")
    assert not is_conll_u(words, range(9, 20))
    assert not is_conll_u(range(700, 720))
    assert not is_conll_u(words, before="#" + "\tname" * 9 + "\n", behind="")


def test_spans_that_cut_words(tmp_path):
    """Their edges are those of words, so that an entity is whole words. Blanks at an edge are none of it."""
    text = "Südtirol-Fans, in Bonn ."
    marked = [[0, 8, "LOC"], [17, 23, "LOC"]]
    path = write(tmp_path / "a.jsonl", json.dumps({"text": text, "label": marked}))
    (row,) = read(path)
    assert row == [
        ("Südtirol", "B-LOC"),
        ("-Fans", "O"),
        (",", "O"),
        ("in", "O"),
        ("Bonn", "B-LOC"),
        (".", "O"),
    ]


@pytest.mark.parametrize(
    ("spans", "named"),
    [
        ([[0, 1, "X"], [1, 2, "LOC"]], "span 1 to 2 (LOC)"),
        ([[0, 3, "PER"], [0, 1, "LOC"]], "span 0 to 3 (PER) and the span 0 to 1 (LOC)"),
        ([[2, 4, "LOC"], [0, 1, "X"]], "span 2 to 4 (LOC)"),
        ([[-1, 1, "LOC"]], "span -1 to 1 (LOC)"),
        ([[0, 1, 3]], "span 0 to 1 (3)"),
        ([["0", "1", "LOC"]], "span 0 to 1 (LOC)"),
        ([{"start": "/p[1]", "end": 1, "label": "LOC"}], "span /p[1] to 1 (LOC)"),
        ([[0, 1]], ""),
        ("a", ""),
        ([{"start": [0], "end": 1, "text": "a"}], ""),
    ],
)
def test_spans_that_mark_no_words_of_their_own(tmp_path, spans, named):
    """A blank, a part of another span, what is outside the text; and what is no place or no label."""
    rows = [{"text": "a b", "label": []}, {"text": "a b", "spans": spans}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    message = error_of(read, path)
    assert f"{path}, line 2: " in message and named in message


def marked_at(places: list[tuple[int, int, str]], text: str) -> dict:
    """A task of Label Studio: where spans begin and end, and the text that the file has for each."""
    results = [
        {"type": "labels", "value": {"start": start, "end": end, "text": marked, "labels": ["LOC"]}}
        for start, end, marked in places
    ]
    return {"data": {"text": text}, "annotations": [{"result": results}]}


def test_offsets_behind_an_emoji_are_those_that_give_the_texts_of_the_spans(tmp_path):
    """Label Studio counts units of UTF-16, and scripts that write its files mostly count characters."""
    text = "😀 Bonn\n 𝒳 Köln"
    words = [("😀", "O"), ("Bonn", "B-LOC"), ("𝒳", "O"), ("Köln", "B-LOC")]
    in_units = [(3, 7, "Bonn"), (12, 16, "Köln")]
    in_characters = [(2, 7, "Bonn"), (10, 14, "Köln")]  # with the line end, which the text has not
    tasks = [marked_at(places, text) for places in (in_units, in_characters)]
    path = write(tmp_path / "a.json", json.dumps(tasks))
    assert read(path) == [words] * 2


@pytest.mark.parametrize("places", [[(3, 7, "Bonn"), (10, 14, "Köln")], [(4, 8, "Bonn")], [(1, 2, "Bonn")]])
def test_offsets_that_do_not_give_the_texts_of_the_spans_are_refused(tmp_path, places):
    """Some in characters and some in units; shifted; within an emoji."""
    tasks = [marked_at([], "Wer?"), marked_at(places, "😀 Bonn\n 𝒳 Köln")]
    path = write(tmp_path / "a.json", json.dumps(tasks, indent=1))
    line = path.read_text(encoding="utf-8").splitlines().index(" },") + 2
    message = error_of(read, path)
    assert f"{path}, line {line}: " in message and "'Bonn'" in message


@pytest.mark.parametrize("marked", ["Bad\nEms", "Bad\\nEms", "BadEms", "ad"])
def test_the_text_of_a_span_is_as_label_studio_writes_it(tmp_path, marked):
    """With a line end, with the two letters \\n for it, without; what was marked before it grew to words."""
    path = write(tmp_path / "a.json", json.dumps([marked_at([(0, 7, marked)], "Bad\nEms ist da")]))
    assert [tag for _, tag in read(path)[0]] == ["B-LOC", "I-LOC", "O", "O"]


def test_a_large_file_on_one_line_is_known(tmp_path):
    tasks = [marked_at([(0, 4, "Bonn")], "Bonn " + "und noch ein Wort " * 30)] * 7_000
    path = write(tmp_path / "a.json", json.dumps(tasks))
    assert path.stat().st_size > 4 << 20 and holds_tags(path, spans=True)


def test_two_annotators_of_prodigy_are_counted(tmp_path, caplog):
    tasks = [
        {"text": "Bonn liegt", "_task_hash": number, "spans": [{"start": 0, "end": 4, "label": label}]}
        for number, label in ((1, "LOC"), (2, "LOC"), (1, "LOC"), (2, "ORG"))
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, tasks)))
    assert [sentence[0][1] for sentence in read(path)] == ["B-LOC", "B-LOC"]
    assert [line for line in caplog.messages if " 1 tasks differ" in line and "line 4" in line]


def test_annotators_who_differ_are_counted(tmp_path, caplog):
    """The first answer that was not cancelled is taken. Those who agree say the same in any order."""
    text = "Bonn und Köln"
    (bonn,), (both,) = (
        marked_at(places, text)["annotations"]
        for places in ([(0, 4, "Bonn")], [(0, 4, "Bonn"), (9, 13, "Köln")])
    )
    turned = {"result": [*both["result"][::-1], {"type": "textarea", "value": {"text": ["hm"]}}]}
    rows = [
        ([both, turned], "B-LOC"),
        ([{**bonn, "was_cancelled": True}, both], "B-LOC"),
        ([bonn, both], "O"),
        ([both, {"result": []}], "B-LOC"),
    ]
    tasks = [{"id": f"t{n}", "data": {"text": text}, "annotations": row} for n, (row, _) in enumerate(rows)]
    path = write(tmp_path / "a.json", ",\n".join(map(json.dumps, tasks)).join("[]"))
    assert [sentence[2][1] for sentence in read(path)] == [tag for _, tag in rows]
    (said,) = [message for message in caplog.messages if "annotators" in message]
    assert said.startswith(f"{path}: ") and " 2 tasks" in said and "line 3, id t2" in said


@pytest.mark.parametrize(
    "task",
    [
        *(
            {"data": {"text": "Bonn"}, "annotations": [{"result": result}]}
            for result in (None, [3], [{"type": "labels", "value": None}], [{"type": [], "value": {}}])
        ),
        {"text": "Bonn", "spans": [], "answer": "rejected"},  # Prodigy says reject
    ],
)
def test_annotations_that_are_none(tmp_path, task):
    tasks = [label_studio(0), task]
    path = write(tmp_path / "a.json", ",\n".join(map(json.dumps, tasks)).join("[]"))
    assert error_of(read, path).startswith(f"{path}, line 2: ")


@pytest.mark.parametrize(
    ("text", "place", "cut"),
    [
        ("Anna singt in Köln.", (1, 5), "A|nna"),
        ("Anna singt in Köln.", (13, 17), "Köl|n."),
        ("Мария поёт", (1, 6), "М|ария"),
        ("Anna singt in Köln-Deutz.", (14, 18), ""),
        ("Anna 5km", (5, 6), ""),
        ("北京是首都", (0, 2), ""),
        ("서울에서 온 사람", (0, 2), ""),
        ("กรุงเทพเป็นเมือง", (0, 7), ""),
    ],
)
def test_spans_that_cut_words_are_asked_about(tmp_path, caplog, text, place, cut):
    """Where nothing else tells whether the offsets are right, and where words have capitals."""
    good = [{"text": "Anna singt", "label": [[0, 4, "PER"]]}] * 40
    path = tmp_path / "a.jsonl"
    for count in (0, 4):
        write(
            path,
            "".join(
                f"{json.dumps(row)}\n" for row in good + count * [{"text": text, "label": [[*place, "X"]]}]
            ),
        )
        caplog.clear()
        read(path)
        said = [message for message in caplog.messages if "spans" in message]
        assert len(said) == (count > 0 and cut != "")
        assert all("4 of 44" in message and f"line 41: {cut};" in message for message in said)


# Name -> content, and the line that is named.
ASKED = {
    "an index": (blocks(lambda n, i, word, tag: f"{100 * n + i}\t{word}\t{tag}"), 1),
    "ids of sentences": (blocks(lambda n, i, word, tag: f"doc-{n}\t{word}\t{tag}"), 1),
    "numbers of sentences": (blocks(lambda n, i, word, tag: f"{n}\t{word}\t{tag}"), 1),
    "two tags": (blocks(lambda n, i, word, tag: f"{i}\t{word}\t{tag}\t{'B-X' if n else 'O'}"), 1),
}


@pytest.mark.parametrize("name", ASKED)
def test_which_column_has_the_words_is_asked(tmp_path, name):
    content, line = ASKED[name]
    path = write(tmp_path / "a.tsv", content)
    message = error_of(read, path)
    assert message.startswith(f"{path}, line {line}: ") and "--word_column 2" in message
    assert read(path, word_column="2,3") == ROWS


def test_the_column_of_the_words_is_among_those_that_are_named(tmp_path):
    path = write(tmp_path / "a.tsv", blocks(lambda n, i, word, tag: f"doc-{n}\t{i}\t{word}\t{tag}"))
    named = error_of(read, path).partition("--word_column ")[2].split(" or ")
    assert ROWS in [read(path, word_column=column) for column in named] and "4" not in named


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (blocks(lambda n, i, word, tag: f"{word[0] if word.isalpha() else 'x'} {tag}"), "are one letter"),
        ("".join(f"这家餐厅的菜很好吃{n} O\n\n" for n in range(6)) + "北京 B-LOC\n", "are one word"),
        ("Das O\nWort O\n" * 300 + "\nBonn B-LOC\n", "line 1: 600 words, and no blank line"),
    ],
)
def test_words_and_sentences_that_may_be_none_are_said(tmp_path, caplog, content, what):
    path = write(tmp_path / "a.txt", content)
    read(path)
    (said,) = [line for line in caplog.messages if str(path) in line]
    assert what in said


def test_a_file_without_ends_of_sentences(tmp_path):
    path = write(tmp_path / "a.txt", "Wort O\n" * 600 + "Bonn B-LOC\n")
    assert error_of(read, path).startswith(f"{path}, line 1: 601 words")


def test_that_a_file_is_not_in_utf_8_is_said_once(tmp_path, caplog):
    """With its first such words; `label` reads the lines once more. Another encoding can be given."""
    path = tmp_path / "a.conll"
    path.write_bytes("In O\n\nİzmir\tB-LOC\nkışın\tO\n\n".encode("cp1254"))
    assert read(path)[1][0] == ("Ýzmir", "B-LOC")
    assert lines_of(path, TableOptions())[2] == "Ýzmir\tB-LOC"
    (said,) = caplog.messages
    assert said.startswith(f"{path}, line 3: ") and "Ýzmir, kýþýn;" in said and "--encoding" in said
    caplog.clear()
    assert read(path, encoding="cp1254")[1] == [("İzmir", "B-LOC"), ("kışın", "O")]
    assert not caplog.messages


def test_all_faults_at_once(tmp_path):
    """Lines of another width; objects whose tags do not fit. --on_error skip leaves out their sentences."""
    good = FORMS["conll.txt"]
    path = write(tmp_path / "a.txt", f"a O\n\n{good.replace(' X Y ', ' ')}b\nc O\n\nd X O\n")
    message = error_of(read, path)
    bad = good.count("\n") + 3
    assert f"{path}, line {bad}: " in message and f"line {bad + 3}: " in message
    assert read(path, on_error="skip") == [[("a", "O")], *ROWS]
    overlapping = {"text": TEXTS[0], "label": [[0, 10, "PER"], [6, 10, "PER"]]}
    outside = {"text": TEXTS[0], "label": [[0, 1000, "PER"]]}
    lines = [json.dumps(value) for value in (overlapping, outside, {"tokens": ["a"], "tags": ["O", "O"]})]
    path = write(tmp_path / "a.jsonl", "\n".join([*lines, FORMS["doccano.jsonl"]]))
    message = error_of(read, path)
    assert all(f"line {line}: " in message for line in (1, 2, 3)) and "line 4: " not in message
    assert read(path, on_error="skip") == ROWS


@pytest.mark.parametrize(
    ("words", "tags", "what"),
    [
        (["a", "b"], ["O"], "2 words, but 1 tags"),
        (["a", ""], ["O", "O"], "word 2 of 2"),
        (["a", "b"], ["O", ""], "word 2 of 2"),
        (["a", "b"], [0, 3], "the tag 0 is no text"),  # as Hugging Face's data sets have them
    ],
)
def test_words_and_tags_that_do_not_fit(tmp_path, words, tags, what):
    """In JSON lines and, but for numbers, in the official form, where a blank line counts as one."""
    good = {"tokens": ["Bonn", "\xa0"], "ner_tags": ["B-LOC", "O"]}
    lines = [json.dumps(good), json.dumps({"tokens": words, "ner_tags": tags})]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert f"{path}, line 2: {what}" in error_of(read, path)
    assert read(path, on_error="skip") == [[("Bonn", "B-LOC"), ("\xa0", "O")]]
    rows = [
        ["text_a", "label"],
        ["in\x02Bonn", "O\x02B-LOC"],
        [],
        ["\x02".join(words), "\x02".join(map(str, tags))],
    ]
    path = write(tmp_path / "a.tsv", "\n".join(map("\t".join, rows)))
    if isinstance(tags[0], str):
        assert f"{path}, line 4: {what}" in error_of(read, path)
        assert read(path, on_error="skip") == [[("in", "O"), ("Bonn", "B-LOC")]]


def test_the_official_form_without_tags(tmp_path):
    path = write(tmp_path / "a.tsv", "text_a\nin\x02Bonn\n")
    assert f"{path}, line 1: no column 'label'" in error_of(read, path)


def test_lists_are_no_sentences(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('["Maria", "B-PER"]\n["fuhr", "O"]\n', encoding="utf-8")
    assert f"{path}, line 1: " in error_of(read_words, path, PLACES)
