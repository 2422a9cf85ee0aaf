"""Tagged words as data sets publish them: words and tags, or a question."""

import gzip
import io
import json
import re
from itertools import zip_longest
from pathlib import Path

import pytest

from ernie_m.inference.tasks.training_files import TaggedFile
from ernie_m.reader.files.conll import read_lines, read_tagged_words
from ernie_m.reader.files.labeled_tables import is_tagged_file
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.table_options import TableOptions
from tests.helpers.files import write_file
from tests.launching import error_of

# Three sentences, word/tag.
SENTENCES = [
    "Maria/B-PER Peck/I-PER fuhr/O nach/O Bonn/B-LOC ./O",
    "Es/O regnete/O in/O New/B-LOC York/I-LOC !/O",
    "Alle/O sahen/O den/O Rhein/B-LOC ./O",
]
ROWS = [[tuple(word.rsplit("/", 1)) for word in sentence.split()] for sentence in SENTENCES]
WORDS = [[word for word, _ in row] for row in ROWS]
TAGS = [[tag for _, tag in row] for row in ROWS]
NUMBERS = range(len(ROWS))


def blocks(line_of, before=lambda sentence: "") -> str:
    """A block of lines for each sentence: line_of(number of the sentence, of the word from 1, word, tag)."""
    return "".join(
        before(number) + "".join(line_of(number, i, *pair) + "\n" for i, pair in enumerate(row, 1)) + "\n"
        for number, row in enumerate(ROWS)
    )


def objects(object_of) -> str:
    return "".join(json.dumps(object_of(n), ensure_ascii=False) + "\n" for n in NUMBERS)


def conll_2003(number: int) -> dict:
    others = dict.fromkeys(("pos_tags", "chunk_tags"), [7] * len(WORDS[number]))
    return {"id": str(number), "tokens": WORDS[number], **others, "ner_tags": TAGS[number]}


OFFICIAL = "".join(f"{chr(2).join(words)}\t{chr(2).join(tags)}\n" for words, tags in zip(WORDS, TAGS))
IOB2 = {tag: tag for tag in ["B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "O"]}
COMMENTS = "# sent_id = {0}\n# text = a text\n"
# What is not tried elsewhere: name of the file -> content, and --columns where the file does not say them.
FORMS = {
    "conll.conll": (blocks(lambda n, i, word, tag: f"{word} X Y {tag}"), None),
    "numbered.iob2": (
        blocks(
            lambda n, i, word, tag: f"{i}\t{word}\t{tag}\t-\tannotator",
            lambda n: "# newdoc id = a\n# newpar\n" * (n == 0) + COMMENTS.format(n),
        ),
        "2,3",
    ),
    "named.conllup": (
        "# global.columns = ID FORM UNER:TAG\n"
        + blocks(lambda n, i, word, tag: f"{i}\t{word}\t{tag}", lambda n: COMMENTS.format(n)),
        "FORM,UNER:TAG",
    ),
    "words_last.conllup": (
        "# newdoc\n# global.columns = NER:TAG FORM\n" + blocks(lambda n, i, word, tag: f"{tag}\t{word}"),
        "FORM,NER:TAG",
    ),
    "no_ending": (blocks(lambda n, i, word, tag: f"{word} {tag}"), None),
    "first_line.conll": ("Token\tNER\n" + blocks(lambda n, i, word, tag: f"{word}\t{tag}"), None),
    "empty_column.conll": (blocks(lambda n, i, word, tag: f"{word}\t{tag}\t"), None),
    "conll_2012.conll": (
        f"#begin document (a); part 000\n{blocks(lambda n, i, word, tag: f'{word} {tag}')}#end document\n",
        None,
    ),
    "conll_2003.conll": (blocks(lambda n, i, word, tag: f"{word} NN {'BI'[i > 1]}-NP {tag}"), None),
    "germeval.tsv": (
        blocks(
            lambda n, i, word, tag: f"{i}\t{word}\t{tag}\tO",
            lambda n: "#\thttp://de.wikipedia.org/wiki/Bonn [2009-10-17]\n",
        ),
        "2,3",
    ),
    "tokens.jsonl": (objects(lambda n: {"tokens": WORDS[n], "ner_tags": TAGS[n]}), None),
    "words.json": (objects(lambda n: {"words": WORDS[n], "ner": TAGS[n]}), None),
    "list.json": (" " + json.dumps([{"tags": TAGS[n], "tokens": WORDS[n]} for n in NUMBERS], indent=1), None),
    "conll2003.jsonl": (objects(conll_2003), None),
    "own.jsonl": (objects(lambda n: {"mots": WORDS[n], "tags": TAGS[n], "types": TAGS[n]}), "mots,types"),
    "official.tsv": ("text_a\tlabel\n" + OFFICIAL, None),
    "msra.tsv": (OFFICIAL, None),
}


def read(path: Path, **options) -> list[list[tuple[str, str]]]:
    sentences = read_tagged_words(path, options=TableOptions(**options))
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]


@pytest.mark.parametrize("name", FORMS)
def test_words_and_tags(tmp_path, name):
    """Also of a packed file, and `fit` knows it; where its columns have to be named, that is asked."""
    content, columns = FORMS[name]
    path = write_file(tmp_path / name, content)
    assert read(path, columns=columns) == ROWS
    packed = write_file(tmp_path / f"{name}.gz", gzip.compress(content.encode()))
    assert read(packed, columns=columns) == ROWS
    if columns is None:
        assert is_tagged_file(path) and is_tagged_file(packed)
        assert not is_tagged_file(
            write_file(tmp_path / "words.jsonl", '{"tokens": ["a", "b"], "label": "x"}\n')
        )
    else:
        assert error_of(read, path).startswith(f"{path}, line ")


def test_conll_u_columns_are_found_by_their_names(tmp_path):
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
    path = write_file(tmp_path / "dev.conllu", "\n".join(lines * 3))
    assert read(path) == [[("In", "ADP"), ("dem", "DET"), ("Haus", "NOUN")]] * 3
    other = read(path, columns="LEMMA,XPOS")
    assert other == [[("in", "APPR"), ("der", "ART"), ("Haus", "NN")]] * 3
    assert "dev.conllu, line 2: " in error_of(read, path, columns="WORD,XPOS")
    for cell, tag in (("name=B-LOC", "B-LOC"), ("SpaceAfter=No|NER=O", "O"), ("name=I-LOC|Gloss=x", "I-LOC")):
        other = write_file(tmp_path / "misc.conllu", lines[2].removesuffix("_") + cell)
        assert read(other, columns="FORM,MISC") == [[("In", tag)]]
    assert "'ADP'" in error_of(read_tagged_words, path, {"O", "B-PER"})  # those of a model
    # Of a model whose tags mark no entities, O is a tag as the others are.
    path = write_file(tmp_path / "dev.conllu", "\n".join(lines).replace("DET", "O"))
    assert [sentence.tags for sentence in read_tagged_words(path, None)] == [["ADP", "O", "NOUN"]]


NNP = "Anna\tNNP\nlives\tVBZ\n"


def test_detect_part_of_speech_tags(tmp_path, caplog):
    """By the name of their column, or by the caller; otherwise tags mark entities.

    The language before most words, as in WikiANN, is none of them.
    """
    in_json = '{"words": ["Anna", "lives"], "upos": ["NNP", "VBZ"]}'
    for name, content, labels, columns, first in (
        ("a.conll", NNP, None, None, "Anna"),
        ("a.conll", f"Token\tPOS\n{NNP}", (), None, "Anna"),
        ("a.jsonl", in_json, (), "words,upos", "Anna"),
        ("a.conll", f"de:{NNP}", None, None, "Anna"),
        ("a.conll", f"de:{NNP}\nin\tIN\n", None, None, "de:Anna"),
    ):
        sentence, *_ = read_tagged_words(
            write_file(tmp_path / name, content), labels, TableOptions(columns=columns)
        )
        assert sentence == ([first, "lives"], ["NNP", "VBZ"], sentence.lines, ())
    assert caplog.messages == [f"{tmp_path}/a.conll: 1 of 2 words lack the language prefix de:"]


@pytest.mark.parametrize(
    ("content", "columns", "line"),
    [
        (NNP, None, 1),
        (f"Token\tPOS\n{NNP}", "1,2", 2),
        ("Anna X B-PER", "1,2,3", 1),
        ("Anna X B-PER", "1", 1),
        (f"Wort\tArt\n{NNP}", "Wort,Art", 2),
        *(
            (content, None, 1)
            for content in (
                "B-PER\t0\t4\tAnna\nO\t5\t9\tlives",  # brat's anntoconll
                "T1\tPER 0 4\tAnna",
                "#FORMAT=WebAnno TSV 3.3",
                "Anna B-PER 0.98",
                "Anna PER 0.98\nb O O",
                "Anna B-PER B-AUTHOR",
                "O\nO",
                "Anna B-PER;B-AUTHOR\nb O",
                "Anna B-PER/B-AUTHOR\nb O",
                "Anna B\u2013PER\nb O",
                "Anna PER[1]\nb O",
                "Anna ['B-PER']\nb O",
                "Anna 4\nb O",
                "Anna NNP",
            )
        ),
    ],
)
def test_cells_that_are_no_tags(tmp_path, content, columns, line):
    path = write_file(tmp_path / "a.conll", content)
    message = error_of(read, path, columns=columns)
    assert message.startswith(f"{path}, line {line}: ")
    assert "NNP" not in content or "--task parts-of-speech" in message


# Name -> content.
ASKED = {
    "an index": blocks(lambda n, i, word, tag: f"{100 * n + i}\t{word}\t{tag}"),
    "an index with a range": blocks(
        lambda n, i, word, tag: f"{'1-2' if n == i == 1 else 100 * n + i}\t{word}\t{tag}"
    ),
    "ids of sentences": blocks(lambda n, i, word, tag: f"doc-{n}\t{word}\t{tag}"),
    "numbers of sentences": blocks(lambda n, i, word, tag: f"{n}\t{word}\t{tag}"),
    "two tags with _": blocks(
        lambda n, i, word, tag: f"{word}\t{word}\t{tag}\t{tag.replace('-', '_').replace('LOC', 'CLS')}"
    ),
    "two tags, one of them none": blocks(lambda n, i, word, tag: f"{word}\t{word}\t{tag}\tO"),
    "two tags": blocks(lambda n, i, word, tag: f"{word}\t{word}\t{tag}\t{'B-X' if n else 'O'}"),
}


@pytest.mark.parametrize("name", ASKED)
def test_which_column_has_the_words_is_asked(tmp_path, name):
    path = write_file(tmp_path / "a.tsv", ASKED[name])
    assert error_of(read, path).startswith(f"{path}, line 1: ")
    assert read(path, columns="2,3") == ROWS


@pytest.mark.parametrize("indent", [None, 1])
def test_tags_of_a_json_list_are_written_as_lines(tmp_path, indent):
    """One line may have several of its objects."""
    path = write_file(tmp_path / "list.json", json.dumps(json.loads(FORMS["list.json"][0]), indent=indent))
    file = TaggedFile(path, [], {}, TableOptions())
    requests = [values for *_, values in file.iter_requests(RowErrors(path))]
    tags = [["O"] * len(values["words"]) for values in requests]
    file.write([(None, {"tags": of_one}) for of_one in tags], output := io.StringIO())
    expected = [values | {"predicted_tags": of_one} for values, of_one in zip(requests, tags)]
    assert [*map(json.loads, output.getvalue().splitlines())] == expected


@pytest.mark.parametrize(
    "gold",
    [
        "PER PER O LOC O LOC",
        "I-PER I-PER O I-LOC O I-LOC",
        "B-PER L-PER O U-LOC O U-LOC",
        "PER-B PER-I o LOC-B o LOC-B",
        "b-per i-per o b-loc o b-loc",
        "I-Per I-Per I-O I-Loc I-O I-Loc",
    ],
)
def test_write_predictions_in_the_input_scheme(tmp_path, gold):
    """And in its case, with a score of 80 %. A type that the file does not have stays as the model has it."""
    rows = [f"w {tag}" for tag in gold.split()]
    predicted = TaggedFile(write_file(tmp_path / "a.conll", "\n".join(rows)), [*IOB2], IOB2, TableOptions())
    file = io.StringIO()
    predicted.write([(None, {"tags": ["B-PER", "I-PER", "O", "B-LOC", "B-ORG", "I-LOC"]})], file)
    tags = [*gold.split()[:4], "B-ORG", gold.split()[5]]
    assert file.getvalue().splitlines() == [f"{row} {tag}" for row, tag in zip(rows, tags)]
    assert predicted.format_summary() == [
        "1 sentences: F1 85.7 % (3 entities), precision 75.0 %, recall 100.0 %"
    ]


@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"list.json"}))
def test_write_predictions_to_each_format(tmp_path, name):
    """The second sentence has no prediction: its lines stay. So does all else that is in the others."""
    content, columns = FORMS[name]
    path = write_file(tmp_path / name, content)
    predicted = TaggedFile(path, [*IOB2], IOB2, TableOptions(columns=columns))
    assert [values["words"] for *_, values in predicted.iter_requests(RowErrors(path))] == WORDS
    tags = [[*TAGS[0][:4], "O", "B-LOC"], [], TAGS[2]]
    file = io.StringIO()
    predicted.write([(None, {"tags": of_one} if of_one else {}) for of_one in tags], file)
    lines = content.splitlines()
    if content.startswith("{"):
        expected = [json.loads(line) for line in lines]
        for values, of_one in zip(expected, tags):
            values |= {"predicted_tags": of_one} if of_one else {}
        assert [json.loads(line) for line in file.getvalue().splitlines()] == expected
        return
    added = [(chr(2).join(words), chr(2).join(of_one)) for words, of_one in zip(WORDS, tags)]
    if "\2" not in content:
        added = [pair for words, of_one in zip(WORDS, tags) for pair in zip_longest(words, of_one)]
    added = [("text_a", "predicted_tags")] * content.startswith("text_a") + added
    for number, line in enumerate(lines):
        if added and added[0][0] in re.split("[ \t]", line):
            _, tag = added.pop(0)
            lines[number] += ("\t" if "\t" in line else " ") + tag if tag else ""
    assert (file.getvalue().splitlines(), added) == (lines, [])


@pytest.mark.parametrize(
    ("labels", "rows", "said"),
    [
        # A model without names of its labels.
        (["0", "1"], "a B-PER\nb O", ": no score; unknown: B-PER, O (trained on: 0, 1)"),
        ([*IOB2], "a B-PERSON\nb O", ": no score; unknown: PERSON (trained on: LOC, ORG, PER)"),
        (
            [*IOB2],
            "a B-per\nb B-LOCderiv",
            ": F1 0.0 % (2 entities), precision 0.0 %, recall 0.0 %; unknown: LOCderiv "
            "(trained on: LOC, ORG, PER)",
        ),
        (
            ["NOUN", "VERB"],
            "a NOUN\nb VVFIN",
            ": accuracy 50.0 % of the words; unknown: VVFIN (trained on: NOUN, VERB)",
        ),
        (["NOUN", "VERB"], "a NOUN\nb VERB", ": accuracy 100.0 % of the words"),
        ([*IOB2], "a O\nb O", ", 1 entities"),
    ],
)
def test_tags_that_a_model_does_not_know_are_named(tmp_path, labels, rows, said):
    """Without a score, if it knows none."""
    iobes = IOB2 if "O" in labels else {}
    predicted = TaggedFile(write_file(tmp_path / "a.conll", rows), labels, iobes, TableOptions())
    predicted.write([(None, {"tags": [*labels[:2]]})], io.StringIO())
    assert predicted.format_summary() == [f"1 sentences{said}"]


@pytest.mark.parametrize(("labels", "said"), [([*IOB2], ", 1 entities"), (["NOUN", "VERB"], "")])
def test_words_without_tags_are_predicted_without_a_score(tmp_path, labels, said):
    """Training rejects them, as it does a sentence whose words have tags among others."""
    path = write_file(tmp_path / "a.conll", "北\n京\n\nde:Rom\n")
    iobes = IOB2 if "O" in labels else {}
    predicted = TaggedFile(path, labels, iobes, TableOptions())
    requests = [values["words"] for *_, values in predicted.iter_requests(RowErrors(path))]
    assert requests == [["北", "京"], ["de:Rom"]]
    predicted.write([(None, {"tags": labels[:2]}), (None, {})], file := io.StringIO())
    assert file.getvalue() == f"北 {labels[0]}\n京 {labels[1]}\n\nde:Rom\n"
    assert predicted.format_summary() == [f"1 sentences{said}"]
    assert "line 1" in error_of(read_tagged_words, path)
    write_file(path, "北\n京\n\nRom LOC\n")
    assert "line 4" in error_of(TaggedFile, path, labels, iobes, TableOptions())


def test_predictions_keep_the_encoding_and_the_mark_of_the_file(tmp_path):
    path = write_file(tmp_path / "a.conll", "\u015eile B-LOC\n".encode("cp1254"))
    predicted = TaggedFile(path, [*IOB2], IOB2, TableOptions(encoding="cp1254"))
    predicted.write([(None, {"tags": ["B-LOC"]})], file := io.StringIO())
    assert file.getvalue() == "\u015eile B-LOC B-LOC\n"


def test_types_that_differ_in_case_alone_are_two(tmp_path):
    path = write_file(tmp_path / "a.conll", "a B-PER\nb B-Per\nc B-cafe\u0301\n")
    (sentence,) = read_tagged_words(path, ["O", "B-PER", "B-Per"])
    assert sentence[1:] == (sentence.written, [1, 2, 3], ["B-PER", "B-Per", "B-caf\u00e9"])


def test_a_comment_stands_before_a_sentence(tmp_path):
    path = write_file(tmp_path / "a.conll", "# text = a\na\u2028b\x0c NOUN\n#id Cafe\u0301\n#a=b NOUN\n")
    (sentence,) = read_tagged_words(path, None)
    assert sentence.words == ["a\u2028b\x0c", "#id", "#a=b"]
    assert sentence.tags == ["NOUN", "Caf\u00e9", "NOUN"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("#id O\nAnna B-PER\n", ["#id O", "Anna B-PER"]),  # a tag is at the end of no comment
        ("Anna\tB-PER\n\t\nBonn\tB-LOC\n", ["Anna B-PER", "", "Bonn B-LOC"]),
        ("a O\nb O\nAn\x02na B-PER\n", ["a O", "b O", "Anna B-PER"]),
        ("map-bms:Anna\tB-PER\nmap-bms:in\tO\n", ["Anna B-PER", "in O"]),  # an unknown language
    ],
)
def test_odd_lines_of_columns(tmp_path, content, rows):
    sentences = [block.split("\n") for block in "\n".join(rows).split("\n\n")]
    assert read(write_file(tmp_path / "a.conll", content)) == [
        [tuple(row.split()) for row in sentence] for sentence in sentences
    ]


def test_warn_about_missing_sentence_ends(tmp_path, caplog):
    path = write_file(tmp_path / "a.txt", "Bonn B-LOC\n\n" + "Das O\nWort O\n" * 250)
    read(path)
    assert not caplog.messages
    read(write_file(path, path.read_text() + "Wort O\n"))
    assert f"{path}, line 3: sentence of 501 words" in caplog.text


def test_warn_once_about_a_file_not_in_utf_8(tmp_path, caplog):
    """With its first such words; `label` reads the lines once more. Another encoding can be given."""
    path = write_file(tmp_path / "a.conll", "In O\n\nİzmir\tB-LOC\nkışın\tO\n\n".encode("cp1254"))
    assert read(path)[1][0] == ("Ýzmir", "B-LOC")
    assert read_lines(path, TableOptions())[2] == "Ýzmir\tB-LOC"
    assert read_lines(path, TableOptions(encoding="cp1254"))[2] == "İzmir\tB-LOC"
    (said,) = caplog.messages
    assert said.startswith(f"{path}, line 3: ") and "Ýzmir, kýþýn." in said and "--encoding" in said
    caplog.clear()
    assert read(path, encoding="cp1254")[1] == [("İzmir", "B-LOC"), ("kışın", "O")]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("rows", "lines", "kept"),
    [("a O\n\nb\nc O\n\nd X O", ["3", "6"], [[("a", "O")]]), ("b X\n\nc Y", ["1", "3"], [])],
)
def test_all_errors_at_once(tmp_path, caplog, rows, lines, kept):
    """Lines of another width, or tags of none. --on_error skip leaves out their sentences."""
    path = write_file(tmp_path / "a.txt", f"{rows}\n\n{FORMS['conll.conll'][0].replace(' X Y ', ' ')}")
    assert re.findall(r"line (\d+): ", error_of(read, path)) == lines
    assert read(path, on_error="skip") == [*kept, *ROWS]
    assert len(caplog.messages) == len({*caplog.messages}) == 2  # each is said once
    write_file(path, "a O X\nb\n")
    assert error_of(read, path, on_error="skip").startswith(f"{path}: no rows left")


@pytest.mark.parametrize(
    ("words", "tags", "what"),
    [
        (["a", "b"], ["O"], "2 words, but 1 tags"),
        (["a", ""], ["O", "O"], "empty word or tag at position 2 of 2"),
        (["a", "b"], ["O", ""], "empty word or tag at position 2 of 2"),
        (["a", "b"], [0, 3], "invalid tag 0"),  # as Hugging Face's data sets have them
        (["a", 3], ["O", "O"], ""),
        (["a", "b"], ["O", " "], ""),
        ("a b", ["O", "O"], ""),
        (["a", "b"], {"a": "O"}, ""),
    ],
)
def test_words_and_tags_that_do_not_fit(tmp_path, words, tags, what):
    """In JSON lines and, except invalid text, in the official format, where a blank line counts as one."""
    good = {"tokens": ["Bonn", "\xa0"], "ner_tags": ["B-LOC", "O"]}
    objects = [good, {"tokens": [], "ner_tags": []}, {"tokens": words, "ner_tags": tags}]
    path = write_file(tmp_path / "a.jsonl", "\n".join(map(json.dumps, objects)))
    assert f"{path}, line 3: {what}" in error_of(read, path)
    assert read(path, on_error="skip") == [[("Bonn", "B-LOC"), ("\xa0", "O")]]
    if all(isinstance(text, str) for text in (*words, *tags)) and isinstance(words, list):
        rows = [
            ["text_a", "label"],
            ["in\x02Bonn", "O\x02B-LOC"],
            [],
            ["\x02".join(words), "\x02".join(tags)],
        ]
        path = write_file(tmp_path / "a.tsv", "\n".join(map("\t".join, rows)))
        assert f"{path}, line 4: {what}" in error_of(read, path)
        assert read(path, on_error="skip") == [[("in", "O"), ("Bonn", "B-LOC")]]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.tsv", "text_a\nin\x02Bonn\n", 1),
        ("a.tsv", "in\tO\nin\x02Bonn\tO\x02B-LOC\n", 1),
        ("a.jsonl", '["Maria", "B-PER"]\n["fuhr", "O"]\n', 1),
        ("a.jsonl", '{"tokens": ["a"], "words": ["a"], "tags": ["O"]}\n', 1),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"], "ner": ["O"]}\n', 1),
        ("a.jsonl", '{"tokens": ["a"], "pos_tags": ["X"]}\n', 1),
    ],
)
def test_reject_files_without_tagged_words(tmp_path, name, content, line):
    """No tags; a first line that may be a header; lists; two columns, or none, for one part."""
    path = write_file(tmp_path / name, content)
    assert error_of(read, path).startswith(f"{path}, line {line}: ")
