"""SQuAD v1.1 JSON, windows on contexts, exact character spans, and the inputs made of them."""

import json
import pickle
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from ernie_m.reader.batching import Batches
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.mrc_reader import (
    NO_ANSWER,
    OfficialWindowFeaturizer,
    WindowConfig,
    WindowFeaturizer,
    _split_han_subword,
    encode_for_answers,
    find_span_tokens,
    make_official_windows,
    make_windows,
    read_windows,
    split_into_official_windows,
    split_into_windows,
)
from tests.helpers.files import write_file
from tests.launching import check_error, error_of
from tests.reader.conftest import SENTENCES

WHOLE = WindowConfig(max_seq_len=512, max_query_length=64, doc_stride=128)  # no context is truncated
SMALL = WindowConfig(max_seq_len=30, max_query_length=8, doc_stride=7)

TEXT = "Anna lives in Rome. Bela, who knows her, lives in Oslo."


def answer(text: str = "Rome", start: int = 14) -> dict:
    """An answer in SQuAD format, by default the right one to `qa`'s question."""
    return {"text": text, "answer_start": start}


def qa(id_: str = "1", answers: list | None = None, question: str = "Where does Anna live?") -> dict:
    """A question in SQuAD format."""
    return {"id": id_, "question": question, "answers": [answer()] if answers is None else answers}


def article(*qas: dict, context: str = TEXT) -> dict:
    """An article in SQuAD format, with one paragraph."""
    return {"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}


@pytest.fixture
def write(tmp_path):
    """write(content) -> the path of a SQuAD file.

    The content is {context: [(id, question, answer)]}, a list of articles, or the text of the whole file. An
    answer that the context does not have is put at -1.
    """

    def write(content):
        if isinstance(content, dict):
            content = [
                article(
                    *(qa(id_, [answer(text, context.find(text))], question) for id_, question, text in asked),
                    context=context,
                )
                for context, asked in content.items()
            ]
        path = tmp_path / "questions.json"
        text_of_file = content if isinstance(content, str) else json.dumps({"data": content})
        return write_file(path, text_of_file)

    return write


def test_read_contexts_and_questions(write, caplog):
    """The first of question 2's answers is not at its offset; question 4 has only a blank answer."""
    articles = [
        article(qa("1"), qa("2", [answer("Oslo", 49), answer("Oslo", 50), answer("Oslo.", 50)])),
        article(qa(3, [answer("Ｒome", 3)]), qa("4", [answer(" ", 2)]), context="In Ｒome."),
    ]
    file = read_squad(write(articles), "dev")
    # (id, question, number of the context, answers, characters of the first answer)
    questions = [
        ("1", "Where does Anna live?", 0, ("Rome",), (14, 18)),
        ("2", "Where does Anna live?", 0, ("Oslo", "Oslo", "Oslo."), (50, 54)),
        ("3", "Where does Anna live?", 1, ("Ｒome",), (3, 7)),
        ("4", "Where does Anna live?", 1, (" ",), None),
    ]
    assert (file.contexts, file.questions) == ([TEXT, "In Ｒome."], questions)
    blank, message = caplog.messages
    assert " 1 of the answers " in blank  # which says nothing of offsets
    first = "data[0].paragraphs[0].qas[1].answers[0]: 'Oslo' at 49, where the context has ' Osl'"
    assert f"of 1 answers that do not match the context at answer_start; the first: {first}" in message


def test_files_to_predict_and_to_train_on_may_be_less_strict(write):
    """A file to be predicted has no answers; a training file may repeat ids."""
    (question,) = read_squad(write([article({"id": 7, "question": "Who?"})]), "test").questions
    assert (question.id, question.answers, question.span) == ("7", (), None)
    assert len(read_squad(write([article(qa("1"), qa("1"))]), "train").questions) == 2


@pytest.mark.parametrize("purpose", ["train", "dev"])
def test_an_answer_without_an_offset_is_looked_for(write, caplog, info_log, purpose):
    """It is found if it is there once. "Lima" and " " are not, and "lives" and "in" are there twice."""
    answers = [
        [{"text": "Rome"}, {"text": "Oslo"}],
        [answer("Oslo", -1)],
        {"text": ["Bela", "Lima"]},
        [{"text": "Lima", "answer_start": None}, answer(" ", -1)],
    ]
    path = write([article(*(qa(str(number), answers_of_id) for number, answers_of_id in enumerate(answers)))])
    spans = [question.span for question in read_squad(path, purpose).questions]
    assert spans == [(14, 18), (50, 54), (20, 24), None]
    found, _, misplaced = caplog.messages
    assert found == f"{path}: located 4 answers without answer_start by their text"
    assert misplaced.startswith(f"{path}: ignored the spans of ") and " 2 answers " in misplaced
    unclear = [qa("5", [{"text": "lives"}]), qa("6", [answer("in", -1), {"text": "in"}])]
    twice = [article(*unclear, qa("7")), article(qa("8", [{"text": "ana"}]), context="A banana.")]
    assert "5, 6, 8. Add answer_start" in error_of(read_squad, write(twice), purpose)


@pytest.mark.parametrize("purpose", ["train", "dev"])
def test_questions_without_an_answer_are_left_out(write, caplog, purpose):
    """As SQuAD v2 says it; and an empty list alone, as what is made of it often has."""
    impossible = {**qa("2", []), "is_impossible": True, "plausible_answers": [answer()]}
    path = write([article({**qa("1"), "is_impossible": False}, impossible, qa("3", []))])
    (question,) = read_squad(path, purpose).questions
    assert question.id == "1"
    assert f"{path}: skipped 2 of 3 questions" in caplog.text
    assert len(read_squad(path, "test").questions) == 3


def test_read_hugging_face_answers(write):
    """An object of lists for each question; rows in "data"; and a row on each line, of which one has none."""
    answers = {"text": ["Rome", "Rome."], "answer_start": [14, 14]}
    row = {"id": "7", "context": TEXT, "question": "Where?", "answers": answers}
    none = {**row, "id": "8", "answers": {"text": [], "answer_start": []}}
    for content in (
        [article(qa() | {"answers": answers}) | {"context": "x"}],
        [row],
        "\n".join(map(json.dumps, (row, none))),
        [row | {"answers": {"text": ["Rome"], "answer_start": None}}],
    ):
        file = read_squad(write(content), "dev")
        (question,) = file.questions
        assert (file.contexts[question.context], question.span) == (TEXT, (14, 18))
        assert question.answers in (("Rome", "Rome."), ("Rome",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ": empty file"),
        ('{"data":\n [}', "line 2, column 3: not JSON"),
        ('["data"]', "data: "),
        ([], "no questions"),
        (["x"], "data[0].paragraphs: "),
        ([article(), {"paragraphs": [{"qas": []}]}], "data[1].paragraphs[0].context: "),
        ([article({"question": "x", "answers": [answer()]})], "data[0].paragraphs[0].qas[0].id: "),
        ([article(qa(True))], "qas[0].id: "),
        ([article(5)], "data[0].paragraphs[0].qas[0].id: "),
        ([article(qa(), context="half \ud83d")], "data[0].paragraphs[0].context: "),
        ([article(qa(answers=[]))], "no questions with an answer"),
        ([article(qa() | {"answers": None})], "qas[0].answers: "),
        ([article(qa(answers=[answer(start="14")]))], "[0].answer_start: "),
        ([article(qa() | {"answers": {"answer_start": [14]}})], "qas[0].answers.text: "),
        (
            [article(qa() | {"answers": {"text": ["Rome"], "answer_start": []}})],
            "data[0].paragraphs[0].qas[0].answers: ",
        ),
        ('{"id": "7", "question": "x"}\n{', ", line 2: "),
        ([article(qa("1")), article(qa("1"))], "data[1].paragraphs[0].qas[0].id: duplicate id '1'"),
    ],
)
def test_errors_are_one_line_with_their_location(write, tmp_path, content, expected):
    check_error(error_of(read_squad, write(content), "dev"), expected, start=f"{tmp_path / 'questions.json'}")
    if "id" in expected:  # files to predict have ids
        assert expected in error_of(read_squad, tmp_path / "questions.json", "test")


@pytest.mark.parametrize(
    ("count", "budget", "stride", "windows"),
    [
        (0, 10, 4, []),
        (10, 10, 4, [(0, 10, 0, 10)]),
        # The overlap, tokens 4 to 9, is divided in its middle, 7.
        (12, 10, 4, [(0, 10, 0, 7), (4, 12, 7, 12)]),
        # The token in the middle of an overlap, 6, has as much text on both sides in the second window.
        (12, 9, 4, [(0, 9, 0, 6), (4, 12, 6, 12)]),
        # The overlaps, tokens 4 to 9 and 8 to 13, are divided at 7 and 11.
        (15, 10, 4, [(0, 10, 0, 7), (4, 14, 7, 11), (8, 15, 11, 15)]),
        # A stride that is longer than a window loses no token.
        (20, 8, 128, [(0, 8, 0, 8), (8, 16, 8, 16), (16, 20, 16, 20)]),
    ],
)
def test_windows_by_hand(count, budget, stride, windows):
    """A window is (start, end, answers_from, answers_to), in tokens.

    It has the tokens from start to end - 1, and its answers begin at the tokens from answers_from to
    answers_to - 1.
    """
    assert split_into_windows(count, budget, stride) == windows


@pytest.mark.parametrize("split_han", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        *SENTENCES,
        "“他说”，２０２５年\u200b\ufeff的 ½ 书　ｏｋ\ufeff \n㍿　　end \u200b",
        "x妈妈",
        "  我妈",
        "",
        " \u200b ",
    ],
)
def test_spans_cover_the_source(tokenizer, text, split_han):
    """Starts and ends ascend, and the spans cover all that is visible. A Han character begins a token."""
    ids, spans = encode_for_answers(tokenizer, text, split_han)
    assert len(ids) == len(spans) and (split_han or ids == tokenizer.encode(text))
    for positions in zip(*spans):
        assert list(positions) == sorted(positions)
    covered = {position for start, end in spans for position in range(start, end)}
    token_starts = {start for start, end in spans if start < end}
    for position, character in enumerate(text):
        # What is dropped belongs to the token before it.
        assert position in covered or character.isspace() or position - 1 not in covered
        assert position in token_starts or not (split_han and "\u4e00" <= character <= "\u9fff")


def test_only_whole_subwords_are_split(tokenizer):
    """Not one with a character that normalization drops. What is not in the vocabulary becomes characters."""
    ids, spans = encode_for_answers(tokenizer, "妈\u200b妈", split_han=True)
    assert (tokenizer.convert_ids_to_tokens(ids)[-1], spans[-1]) == ("妈妈", (0, 3))
    assert _split_han_subword(tokenizer, "妈zq", after_space=False) == [("妈", 1), ("z", 1), ("q", 1)]


@pytest.mark.parametrize(
    ("text", "characters", "tokens"),
    [
        ("abc defgh ij", (0, 3), (0, 0)),
        ("abc defgh ij", (3, 6), (2, 2)),  # white space at its ends is no part of an answer
        ("abc defgh ij", (5, 7), (2, 4)),  # inside of tokens: all of them
        ("abc defgh ij", (10, 12), (5, 5)),
        ("abc defgh ij", (3, 4), None),
        ("abc  ", (0, 5), (0, 0)),  # nor is a token of it
    ],
)
def test_find_tokens(text, characters, tokens):
    """First and last token of characters. Token 1 is a space alone; 3 and 4 have the same characters."""
    spans = [(0, 3), (4, 4), (4, 6), (6, 9), (6, 9), (10, 12)]
    of_text = np.asarray([(start, end) for start, end in spans if end <= len(text)], np.int32)
    assert find_span_tokens(of_text, text, characters) == tokens


def test_each_window_with_the_whole_answer_has_its_tokens(write, tokenizer):
    """Each window with the whole answer has it; the tokens there are those of the text of the answer."""
    context = " ".join(SENTENCES[:3])
    answers = ["brown fox", "1,000 people", "été", "über den", "Fuchs springt über den faulen Hund"]
    questions = [(str(number), "Who? " * 20, text) for number, text in enumerate(answers)]
    data = read_windows(write({context: questions}), "dev", tokenizer, SMALL)
    windows_of_one = len(data.get_question_windows(0))
    assert windows_of_one > 5 and len(data) == len(questions) * windows_of_one
    spans = data.spans[0]  # of the only context
    for number, text in enumerate(answers):
        start = context.index(text)
        first, last = find_span_tokens(spans, context, (start, start + len(text)))
        covered = context[spans[first, 0] : spans[last, 1]]
        assert text in covered and len(covered.split()) == len(text.split())  # no word more
        for window in map(data.__getitem__, data.get_question_windows(number)):
            assert len(window.question_ids) == SMALL.max_query_length
            assert len(window.question_ids) + len(window.context_ids) + 3 <= SMALL.max_seq_len
            has_answer = window.start <= first and last < window.start + len(window.context_ids)
            assert window.answer == ((first, last) if has_answer else (NO_ANSWER, NO_ANSWER))


def test_training_windows_without_the_answer_are_left_out(write, tokenizer, caplog, info_log):
    context = " ".join(SENTENCES[:3])
    questions = [("1", "Who?", "quick brown fox"), ("2", "Who?", "absent")]
    path = write({context: questions, " ": [("3", "Who?", "x")]})
    data = read_windows(path, "train", tokenizer, SMALL)
    assert len(data) >= 1 and all(window.answer[0] != NO_ANSWER for window in data)
    everything = make_windows(read_squad(path, "train"), tokenizer, SMALL)
    assert len(everything) == len(read_windows(path, "dev", tokenizer, SMALL)) > 10
    assert len(read_windows(path, "test", tokenizer, SMALL)) == len(everything)
    found = f" windows ({len(data)} with the answer)"
    counts = (f"{len(data)}{found}", f"{len(everything)}{found}", f"{len(everything)} windows")
    assert [line for line in caplog.messages if " windows" in line] == [
        f"{path}: 3 questions, 2 contexts, {count}" for count in counts
    ]
    assert len(everything.get_question_windows(2)) == 0  # an empty context
    path = write({context: [("1", "Who?", "absent")]})
    assert error_of(read_windows, path, "train", tokenizer, SMALL).startswith(f"{path}: ")
    path = write({"": [("1", "Who?", "")]})
    assert f"{path}: " in error_of(read_windows, path, "test", tokenizer, SMALL)


def test_a_question_leaves_room_for_the_context(write, tokenizer):
    """Of 67 tokens a question of 64 and 3 special tokens leave none for a context, and of 68 one."""
    assert "--max_query_length 64" in error_of(
        WindowConfig, max_seq_len=67, max_query_length=64, doc_stride=128
    )
    path = write({"quick fox": [("1", "Who? " * 99, "fox")]})
    cut = WindowConfig(max_seq_len=68, max_query_length=64, doc_stride=128)
    data = read_windows(path, "dev", tokenizer, cut)
    assert [len(window.context_ids) for window in data] == [1] * len(tokenizer.encode("quick fox"))


@pytest.mark.parametrize(("fewer", "is_cut"), [(0, False), (1, True)])
def test_a_question_that_just_fits_is_not_cut(write, tokenizer, fewer, is_cut):
    """It is if --max_query_length is one token less."""
    path = write({"quick fox": [("1", "quick fox", "fox")]})
    size = len(tokenizer.encode("quick fox"))
    cut = WindowConfig(30, size - fewer, doc_stride=7)
    assert read_windows(path, "dev", tokenizer, cut).cut == [is_cut]


@pytest.mark.parametrize(("separators", "pad_id"), [(1, 1), (2, 0)])
def test_window_batch_rows(write, tokenizer, separators, pad_id):
    """A batch of all windows in reverse order: each row has its own ids and positions."""
    context = SENTENCES[0]
    cut = replace(SMALL, separators=separators)
    path = write({context: [("1", "Who jumps?", "brown fox"), ("2", "How many?", "1,000 people")]})
    data = read_windows(path, "dev", tokenizer, cut)
    special = SimpleNamespace(cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id, pad_id=pad_id)
    encode = WindowFeaturizer(special, cut)
    features = encode(list(data))
    reverse = np.arange(len(data))[::-1]
    batch = encode.collate([features[number] for number in reverse], reverse, count=77)
    assert batch.count == 77 and batch.indices.tolist() == reverse.tolist()
    assert encode.count_targets(features) == len(data)
    for row, number in enumerate(reverse):
        window = data[number]
        ids = batch.input_ids[row].tolist()
        expected = [
            tokenizer.cls_id,
            *window.question_ids.tolist(),
            *[tokenizer.sep_id] * separators,
            *window.context_ids.tolist(),
            tokenizer.sep_id,
        ]
        assert ids == expected + [pad_id] * (batch.input_ids.shape[1] - len(expected))
        assert batch.ends[row] == len(expected) - 1 < cut.max_seq_len  # the last [SEP]
        assert tuple(batch.start_ranges[row] + batch.shift[row]) == window.start_range
        shift = 0 if window.answer[0] == NO_ANSWER else batch.shift[row]
        assert tuple(batch.answers[row] + shift) == window.answer
    # Some windows do not have the answer, and some do.
    assert {NO_ANSWER} < set(batch.answers[:, 0].tolist())


def test_the_official_order_and_targets(write, tokenizer):
    """The inputs of `WindowFeaturizer`, but in the order of the file, and with (0, 0) where no answer is."""
    cut = replace(SMALL, doc_stride=8)  # where the two ways of making windows differ
    texts = [text for text in SENTENCES if len(text.split()) > 2]
    questions = {text: [(str(number), "Who?", text.split()[1])] for number, text in enumerate(texts)}
    data = read_windows(write(questions), "train", tokenizer, cut, make_official_windows)
    batches = Batches(data, OfficialWindowFeaturizer(tokenizer, cut), 4, shuffle=False)
    plain = WindowFeaturizer(tokenizer, cut)
    found = [batch for step in batches.stream() for batch in step.micro_batches]
    assert [number for batch in found for number in batch.indices] == list(range(len(data)))
    for batch in found:
        features = plain([data[number] for number in batch.indices])
        expected = plain.collate(features, batch.indices, batch.count)
        assert np.array_equal(batch.input_ids, expected.input_ids)
        assert np.array_equal(batch.ends, expected.ends)
        assert np.array_equal(batch.answers, np.where(expected.answers == NO_ANSWER, 0, expected.answers))
    assert any(0 in batch.answers for batch in found)
    # The ranges of answer starts are those of the official windows.
    for number in range(len(texts)):
        of_question = [data[row] for row in data.get_question_windows(number)]
        length = of_question[-1].start + len(of_question[-1].context_ids)
        parts = split_into_official_windows(length, len(of_question[0].context_ids), cut.doc_stride)
        ranges = [(part.answers_from, part.answers_to) for part in parts]
        assert [window.start_range for window in of_question] == ranges
    # One token of each input is unused.
    assert max(len(question) + len(context) + 3 for question, context, *_ in data) == cut.max_seq_len - 1


def test_official_context_tokens(write, tokenizer):
    """Those of its words, in which Han characters are not split."""
    path = write({text: [(str(n), "Who?", text.split()[0])] for n, text in enumerate(SENTENCES)})
    windows = make_official_windows(read_squad(path, "dev"), tokenizer, WHOLE)
    for window, text in zip(windows, SENTENCES, strict=True):
        assert window.context_ids.tolist() == [*chain.from_iterable(map(tokenizer.encode, text.split()))]


def test_a_worker_gets_ids_alone(write, tokenizer):
    """The reader process needs neither the texts nor the tokenizer."""
    questions = {text: [(str(n), "Who?", text.split()[0])] for n, text in enumerate(SENTENCES)}
    data = read_windows(write(questions), "dev", tokenizer, WHOLE)
    in_worker = pickle.loads(pickle.dumps(data))
    assert in_worker.file is None and in_worker.spans is None
    for window, sent in zip(data, in_worker, strict=True):
        assert all(map(np.array_equal, window, sent))
    assert len(pickle.dumps(WindowFeaturizer(tokenizer, SMALL))) < 1000  # three ids, not the vocabulary
